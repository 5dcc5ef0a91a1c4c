"""Brightness: corruption 11 of 15."""

from __future__ import annotations

import gin
import tensorflow as tf

from tfssl.data.corruptions.corruption import Corruption
from tfssl.data.corruptions.hsv import from_hsv, to_hsv


@gin.register(module="tfssl.data.corruptions")
class Brightness(Corruption):
    """Raises the value of HSV. The settings are by how much, for white at 1."""

    name = "brightness"
    cifar = (0.05, 0.1, 0.15, 0.2, 0.3)
    imagenet = (0.1, 0.2, 0.3, 0.4, 0.5)
    needs_color = True

    def _corrupt(self, levels: tf.Tensor, seed: tf.Tensor, setting: float) -> tf.Tensor:
        hue, saturation, value = to_hsv(levels)
        return from_hsv(hue, saturation, tf.minimum(value + setting, 1))
