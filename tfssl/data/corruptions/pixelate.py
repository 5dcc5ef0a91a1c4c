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
        rows, columns = int(height * setting), int(width * setting)
        small = _shrink(tf.transpose(levels, [0, 3, 1, 2]), columns)
        small = _shrink(tf.transpose(small, [0, 3, 1, 2]), rows)
        small = tf.transpose(small, [0, 3, 1, 2])
        # Of what is made larger each pixel is one of the small image's.
        large = tf.gather(small, _weights(columns, width).argmax(1), axis=2)
        return tf.gather(large, _weights(rows, height).argmax(1), axis=1)


def _shrink(levels: tf.Tensor, n: int) -> tf.Tensor:
    """The last axis to length n, whole levels to whole levels."""
    means = along_last(levels, _weights(levels.shape[-1], n))
    return tf.floor(means + 0.5 + _ROUNDING)


@functools.lru_cache(maxsize=64)
def _weights(old: int, new: int) -> np.ndarray:
    """[new, old]: what Pillow makes of unit vectors."""
    units = Image.fromarray(np.eye(old, dtype=np.float32))
    return np.asarray(units.resize((new, old), Image.Resampling.BOX)).T
