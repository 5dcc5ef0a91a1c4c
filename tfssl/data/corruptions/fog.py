"""Fog: corruption 10 of 15."""

from __future__ import annotations

import gin
import tensorflow as tf

from tfssl.data.corruptions.corruption import Corruption
from tfssl.data.corruptions.plasma import plasma


@gin.register(module="tfssl.data.corruptions")
class Fog(Corruption):
    """Adds clouds and darkens the image so that its brightest value stays the same.

    The settings are the height of the clouds, for white at 1, and the decay of their
    finer parts. Clouds are cut out of a map whose side is the next power of 2.
    """

    name = "fog"
    cifar = ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))
    imagenet = ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4))

    def _corrupt(
        self, levels: tf.Tensor, seed: tf.Tensor, setting: tuple[float, float]
    ) -> tf.Tensor:
        _, height, width, _ = levels.shape
        size = 2 ** (max(height, width) - 1).bit_length()
        most, decay = 255 * setting[0], setting[1]
        clouds = plasma(self._stream(seed, "clouds"), size, decay)
        foggy = levels + most * clouds[:, :height, :width, None]
        brightest = tf.reduce_max(levels, axis=[1, 2, 3], keepdims=True)
        return foggy * brightest / (brightest + most)
