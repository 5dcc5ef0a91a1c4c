"""Contrast: corruption 12 of 15."""

from __future__ import annotations

import gin
import tensorflow as tf

from tfssl.data.corruptions.corruption import Corruption


@gin.register(module="tfssl.data.corruptions")
class Contrast(Corruption):
    """Brings each value nearer to the image's mean of its channel.

    The settings are what is left of the distance.
    """

    name = "contrast"
    cifar = (0.75, 0.5, 0.4, 0.3, 0.15)
    imagenet = (0.4, 0.3, 0.2, 0.1, 0.05)
    fuses = True

    def _corrupt(self, levels: tf.Tensor, seed: tf.Tensor, setting: float) -> tf.Tensor:
        levels = tf.cast(levels, tf.float64)
        mean = tf.reduce_mean(levels, axis=[1, 2], keepdims=True)
        return (levels - mean) * setting + mean
