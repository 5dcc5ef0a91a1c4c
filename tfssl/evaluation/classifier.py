"""A Keras classifier, of whatever origin, as evaluators see it."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from tfssl import saved
from tfssl.folding import Folded
from tfssl.types import UserError


class Classifier:
    """Images [b, h, w, c] in [0, 1] to logits [b, k], in inference mode.

    It may be an encoder, without logits, as long as nobody asks for them.

    Args:
      model: A functional or sequential model with one input and one output.
      name: What error messages call it.
    """

    def __init__(self, model: keras.Model, name: str = "the model"):
        self.model = model
        self.name = name
        self._folded = _folded(model)
        # One bound method for good: cleverhans keeps a graph per callable.
        self._logits = self.logits

    @classmethod
    def load(cls, path: str | os.PathLike) -> Classifier:
        """Reads a `.keras` file.

        Raises:
          UserError: There is no such file, or Keras cannot read it.
        """
        return cls(saved.load(path), os.fspath(path))

    def logits(self, image: tf.Tensor) -> tf.Tensor:
        """[b, h, w, c] in [0, 1] to [b, k] float32."""
        return tf.cast(self.model(image, training=False), tf.float32)

    def search(self) -> Callable[[tf.Tensor], tf.Tensor]:
        """The same function, up to rounding, for attacks: it may be faster.

        Call it in the attack's own graph, once. What the attack finds is for `logits`
        to judge. Outside of graphs it is always the same callable.
        """
        if self._folded is None or tf.executing_eagerly():
            return self._logits
        network = self._folded.at_present()
        return lambda image: tf.cast(network(image), tf.float32)

    @functools.cached_property
    def encoder(self) -> keras.Model:
        """Images to features [b, d]; see `saved.features`.

        Raises:
          UserError: The model has no features.
        """
        return saved.features(self.model, self.name)

    def features(self, image: tf.Tensor) -> tf.Tensor:
        """[b, h, w, c] in [0, 1] to [b, d] float32."""
        return tf.cast(self.encoder(image, training=False), tf.float32)

    def check_fit(self, dataset: Any, logits: bool = True) -> None:
        """Compares shapes with a data set's.

        Args:
          dataset: A data set, see the design page.
          logits: Whether the outputs will be taken for logits; if not, the model may be
            an encoder.

        Raises:
          UserError: The model is not made for such images or so many classes.
        """
        saved.check_images(self.model, self.name, dataset.image_shape)
        if not logits:
            return
        if saved.is_encoder(self.model):
            raise UserError(
                f"{self.name} is an encoder, its outputs are features: fit a head first"
                " (protocols/slf.gin and others), or measure the features"
                " (evaluation/probes.gin)"
            )
        shape = tuple(self.model.outputs[0].shape[1:])
        if shape != (dataset.num_classes,):
            raise UserError(
                f"{self.name} has outputs of shape {shape}, but {dataset.name} has"
                f" {dataset.num_classes} classes"
            )


def _folded(model: keras.Model) -> Folded | None:
    if not getattr(model, "inputs", None):  # Neither functional nor built.
        return None
    if type(model) is keras.Sequential:
        model = keras.Model(model.inputs, model.outputs)
    try:
        return Folded(model) if Folded.fits(model) else None
    except Exception:  # A foreign model can fail in any way, and need not be folded.
        return None
