"""Speckle noise: one of the four extra corruptions."""

from __future__ import annotations

import gin
import tensorflow as tf

from tfssl.data.corruptions import draws
from tfssl.data.corruptions.corruption import Corruption


@gin.register(module="tfssl.data.corruptions")
class SpeckleNoise(Corruption):
    """Adds normal noise in proportion to the value of each channel of each pixel.

    The settings are its standard deviations for a value of 1.
    """

    name = "speckle_noise"
    cifar = (0.06, 0.1, 0.12, 0.16, 0.2)
    imagenet = (0.15, 0.2, 0.35, 0.45, 0.6)
    fuses = True

    def _corrupt(self, levels: tf.Tensor, seed: tf.Tensor, setting: float) -> tf.Tensor:
        noise = draws.normal(self._stream(seed, "noise"), levels.shape[1:])
        return levels + levels * setting * noise
