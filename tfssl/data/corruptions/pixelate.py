"""Pixelate: corruption 14 of 15."""

from __future__ import annotations

import functools

import gin
import numpy as np
import tensorflow as tf
from PIL import Image

from tfssl.data.corruptions.corruption import Corruption
from tfssl.data.corruptions.filters import along_last

_ONE = 2**22  # Pillow's weights of 8-bit images are whole multiples of 2^-22.


@gin.register(module="tfssl.data.corruptions")
class Pixelate(Corruption):
    """Makes the image smaller and large again, by Pillow's box filter.

    The settings are the sides of the small image over those of the image.
    """

    name = "pixelate"
    cifar = (0.95, 0.9, 0.85, 0.75, 0.65)
    imagenet = (0.6, 0.5, 0.4, 0.3, 0.25)

    def _corrupt(self, levels: tf.Tensor, seed: tf.Tensor, setting: float) -> tf.Tensor:
        _, height, width, _ = levels.shape
        small = int(height * setting), int(width * setting)
        planes = tf.transpose(tf.cast(levels, tf.float64), [0, 3, 1, 2])
        for rows, columns in (small, (height, width)):
            planes = _resize_width(planes, columns)
            planes = tf.transpose(planes, [0, 1, 3, 2])
            planes = tf.transpose(_resize_width(planes, rows), [0, 1, 3, 2])
        return tf.cast(tf.transpose(planes, [0, 2, 3, 1]), tf.float32)


def _resize_width(planes: tf.Tensor, width: int) -> tf.Tensor:
    """[b, c, h, w] to [b, c, h, width], both whole levels in float64."""
    weighted = along_last(planes, _weights(planes.shape[-1], width))
    return tf.floor((weighted + _ONE // 2) / _ONE)


@functools.lru_cache(maxsize=64)
def _weights(old: int, new: int) -> np.ndarray:
    """[new, old], whole multiples: what Pillow makes of unit vectors."""
    units = Image.fromarray(np.eye(old, dtype=np.float32))
    resized = np.asarray(units.resize((new, old), Image.Resampling.BOX))
    return np.round(_ONE * resized.astype(np.float64)).T
