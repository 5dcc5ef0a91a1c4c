"""Impulse noise: corruption 3 of 15."""

from __future__ import annotations

import gin
import tensorflow as tf

from tfssl.data.corruptions import draws
from tfssl.data.corruptions.corruption import Corruption


@gin.register(module="tfssl.data.corruptions")
class ImpulseNoise(Corruption):
    """Salt and pepper: sets some values, each channel by itself, to 0 or to 1.

    The settings are the share of values that are set, half of them to either.
    """

    name = "impulse_noise"
    cifar = (0.01, 0.02, 0.03, 0.05, 0.07)
    imagenet = (0.03, 0.06, 0.09, 0.17, 0.27)
    fuses = True

    def _corrupt(self, levels: tf.Tensor, seed: tf.Tensor, setting: float) -> tf.Tensor:
        u = draws.uniform(self._stream(seed, "noise"), levels.shape[1:])
        salted = tf.where(u < setting, 255.0, levels)
        return tf.where(u < setting / 2, 0.0, salted)
