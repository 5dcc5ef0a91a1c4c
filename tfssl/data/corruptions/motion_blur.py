"""Motion blur: corruption 6 of 15."""

from __future__ import annotations

import gin
import tensorflow as tf

from tfssl.data.corruptions import draws
from tfssl.data.corruptions.corruption import Corruption
from tfssl.data.corruptions.motion import motion_blur

_ANGLES = (-45, 45)


@gin.register(module="tfssl.data.corruptions")
class MotionBlur(Corruption):
    """Draws pixels out along a line, at an angle of up to 45 degrees to the rows.

    The settings are radius and standard deviation of the kernel in pixels.
    """

    name = "motion_blur"
    cifar = ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))
    imagenet = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))

    def _corrupt(
        self, levels: tf.Tensor, seed: tf.Tensor, setting: tuple[float, float]
    ) -> tf.Tensor:
        low, high = _ANGLES
        u = draws.uniform(self._stream(seed, "angle"), [])
        return motion_blur(levels, *setting, low + (high - low) * u, low, high)
