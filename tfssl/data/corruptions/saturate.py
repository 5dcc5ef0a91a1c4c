"""Saturate: one of the four extra corruptions."""

from __future__ import annotations

import gin
import tensorflow as tf

from tfssl.data.corruptions.corruption import Corruption
from tfssl.data.corruptions.hsv import from_hsv, to_hsv


@gin.register(module="tfssl.data.corruptions")
class Saturate(Corruption):
    """Changes the saturation of HSV: less at severity 1 and 2, more at the others.

    The settings are what it is multiplied with, and what is added.
    """

    name = "saturate"
    cifar = ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2))
    imagenet = ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2))
    needs_color = True

    def _corrupt(
        self, levels: tf.Tensor, seed: tf.Tensor, setting: tuple[float, float]
    ) -> tf.Tensor:
        factor, more = setting
        hue, saturation, value = to_hsv(levels)
        saturation = tf.clip_by_value(saturation * factor + more, 0, 1)
        return from_hsv(hue, saturation, value)
