"""Pixelate: corruption 14 of 15."""

from __future__ import annotations

import functools

import gin
import numpy as np
import tensorflow as tf
from PIL import Image

from tfssl.data.corruptions.corruption import Corruption
from tfssl.data.corruptions.filters import along_last

# In levels: more than float32 is wrong by, and less than means of up to five pixels are
# from the half, at which Pillow rounds up.
_ROUNDING = 2.0**-10


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
        planes = tf.transpose(levels, [0, 3, 1, 2])
        for rows, columns in (small, (height, width)):
            planes = _resize_width(planes, columns)
            planes = tf.transpose(planes, [0, 1, 3, 2])
            planes = tf.transpose(_resize_width(planes, rows), [0, 1, 3, 2])
        return tf.transpose(planes, [0, 2, 3, 1])


def _resize_width(planes: tf.Tensor, width: int) -> tf.Tensor:
    """[b, c, h, w] to [b, c, h, width], both whole levels."""
    means = along_last(planes, _weights(planes.shape[-1], width))
    return tf.floor(means + 0.5 + _ROUNDING)


@functools.lru_cache(maxsize=64)
def _weights(old: int, new: int) -> np.ndarray:
    """[new, old]: what Pillow makes of unit vectors."""
    units = Image.fromarray(np.eye(old, dtype=np.float32))
    return np.asarray(units.resize((new, old), Image.Resampling.BOX)).T
