"""Gaussian noise: corruption 1 of 15."""

from __future__ import annotations

import gin
import tensorflow as tf

from tfssl.data.corruptions import draws
from tfssl.data.corruptions.corruption import Corruption


@gin.register(module="tfssl.data.corruptions")
class GaussianNoise(Corruption):
    """Adds normal noise to each channel of each pixel.

    The settings are its standard deviations, of images in [0, 1].
    """

    name = "gaussian_noise"
    cifar = (0.04, 0.06, 0.08, 0.09, 0.10)
    imagenet = (0.08, 0.12, 0.18, 0.26, 0.38)
    fuses = True

    def _corrupt(self, levels: tf.Tensor, seed: tf.Tensor, setting: float) -> tf.Tensor:
        noise = draws.normal(self._stream(seed, "noise"), levels.shape[1:])
        return levels + 255 * setting * noise
