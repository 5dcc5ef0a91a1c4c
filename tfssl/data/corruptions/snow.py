"""Snow: corruption 8 of 15."""

from __future__ import annotations

from typing import NamedTuple

import gin
import tensorflow as tf

from tfssl.data.corruptions import draws
from tfssl.data.corruptions.corruption import Corruption, cut
from tfssl.data.corruptions.filters import linear
from tfssl.data.corruptions.motion import motion_blur
from tfssl.data.corruptions.zoom import zoom_matrix

_ANGLES = (-135, -45)
_LUMA = (0.299, 0.587, 0.114)


class Setting(NamedTuple):
    """Of one severity."""

    mean: float  # Of the normal noise that flakes are made of, for white at 1.
    deviation: float
    zoom: float  # How much the noise is enlarged.
    threshold: float  # Below which there is no flake.
    radius: float  # Of the motion blur, in pixels.
    sigma: float
    clear: float  # How much of the image is not whitened.


@gin.register(module="tfssl.data.corruptions")
class Snow(Corruption):
    """Whitens the image, and lets flakes fall on it, upright and upside down."""

    name = "snow"
    cifar = (
        Setting(0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        Setting(0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        Setting(0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        Setting(0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        Setting(0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    )
    imagenet = (
        Setting(0.1, 0.3, 3, 0.5, 10, 4, 0.8),
        Setting(0.2, 0.3, 2, 0.5, 12, 4, 0.7),
        Setting(0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        Setting(0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        Setting(0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    )

    def _corrupt(
        self, levels: tf.Tensor, seed: tf.Tensor, setting: Setting
    ) -> tf.Tensor:
        flakes = self._flakes(seed, levels.shape[1:3], setting)
        grey = levels
        if levels.shape[-1] == 3:
            grey = tf.reduce_sum(levels * _LUMA, axis=-1, keepdims=True)
        white = tf.maximum(levels, 1.5 * grey + 127.5)
        image = setting.clear * levels + (1 - setting.clear) * white
        return image + flakes + tf.reverse(flakes, [1, 2])

    def _flakes(
        self, seed: tf.Tensor, shape: tf.TensorShape, setting: Setting
    ) -> tf.Tensor:
        """[b, h, w, 1], whole levels."""
        noise = draws.normal(self._stream(seed, "flakes"), [*shape, 1])
        noise = setting.mean + setting.deviation * noise
        noise = linear(noise, *(zoom_matrix(n, setting.zoom) for n in shape))
        flakes = cut(255 * tf.where(noise < setting.threshold, 0.0, noise))
        low, high = _ANGLES
        angle = low + (high - low) * draws.uniform(self._stream(seed, "angle"), [])
        return motion_blur(flakes, setting.radius, setting.sigma, angle, low, high)
