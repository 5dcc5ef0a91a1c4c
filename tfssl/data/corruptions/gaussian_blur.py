"""Gaussian blur: one of the four extra corruptions."""

from __future__ import annotations

import gin
import tensorflow as tf

from tfssl.data.corruptions.corruption import Corruption
from tfssl.data.corruptions.filters import gaussian


# Not to be mistaken for the operation on views, tfssl.data.GaussianBlur.
@gin.register("GaussianBlurCorruption", module="tfssl.data.corruptions")
class GaussianBlur(Corruption):
    """Blurs with a Gaussian. The settings are its standard deviations in pixels."""

    name = "gaussian_blur"
    cifar = (0.4, 0.6, 0.7, 0.8, 1)
    imagenet = (1, 2, 3, 4, 6)

    def _corrupt(self, levels: tf.Tensor, seed: tf.Tensor, setting: float) -> tf.Tensor:
        return gaussian(levels, setting)
