"""Images that a network was not trained on, in the shape of those that it was."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfssl import randomness
from tfssl.types import Batch, UserError


class OtherImages:
    """A data set for evaluation, with an image of another make for each example.

    Args:
      dataset: A data set, see the design page.
      image_shape: (h, w, c) of the images made.
      make: From a batch of `dataset` to these images [b, h, w, c] in [0, 1].
    """

    def __init__(
        self,
        dataset: Any,
        image_shape: Sequence[int],
        make: Callable[[Batch], tf.Tensor],
    ):
        self.name = dataset.name
        self.image_shape = tuple(image_shape)
        self._dataset = dataset
        self._make = make

    def ids(self, split: str) -> np.ndarray:
        return self._dataset.ids(split)

    def eval_batches(
        self, split: str, batch_size: int, seed: int, keep: np.ndarray | None = None
    ) -> tf.data.Dataset:
        batches = self._dataset.eval_batches(split, batch_size, seed, keep=keep)
        return batches.map(self._changed, num_parallel_calls=tf.data.AUTOTUNE)

    def _changed(self, batch: Batch) -> Batch:
        image = tf.ensure_shape(self._make(batch), [None, *self.image_shape])
        return {**batch, "image": image}


def fitted(dataset: Any, image_shape: Sequence[int]) -> OtherImages:
    """A data set whose images have the shape that a network takes.

    Bilinear, with antialiasing, whatever the proportions were. Grey images get three
    equal channels, coloured ones become grey, where need be.

    Raises:
      UserError: The numbers of channels differ, and are not 1 and 3.
    """
    height, width, channels = image_shape
    given = dataset.image_shape[2]
    if given != channels and {given, channels} != {1, 3}:
        raise UserError(
            f"the images of {dataset.name} have {given} channels, the network takes"
            f" {channels}"
        )

    def make(batch: Batch) -> tf.Tensor:
        image = batch["image"]
        if given < channels:
            image = tf.image.grayscale_to_rgb(image)
        elif given > channels:
            image = tf.image.rgb_to_grayscale(image)
        if tuple(dataset.image_shape[:2]) != (height, width):
            image = tf.image.resize(image, (height, width), "bilinear", antialias=True)
        return tf.clip_by_value(image, 0.0, 1.0)

    return OtherImages(dataset, image_shape, make)


def gaussian(batch: Batch) -> tf.Tensor:
    """Noise for each example: pixels of mean 0.5 and variance 1, clipped to [0, 1].

    One of the data sets of Liang et al. 2018 (arXiv:1706.02690).
    """
    shape = batch["image"].shape[1:]
    seed = randomness.fold(batch["seed"], "gaussian images")
    return tf.clip_by_value(0.5 + randomness.normal(seed, shape), 0.0, 1.0)


def uniform(batch: Batch) -> tf.Tensor:
    """Noise for each example: pixels uniform in [0, 1), of the same paper."""
    shape = batch["image"].shape[1:]
    return randomness.uniform(randomness.fold(batch["seed"], "uniform images"), shape)


NOISES = {"gaussian": gaussian, "uniform": uniform}
"""Each a function for `OtherImages`, made of the examples' seeds alone."""
