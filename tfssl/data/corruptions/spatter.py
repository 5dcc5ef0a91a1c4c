"""Spatter: one of the four extra corruptions."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import gin
import numpy as np
import tensorflow as tf

from tfssl.data.corruptions import draws
from tfssl.data.corruptions.corruption import Corruption
from tfssl.data.corruptions.filters import gaussian

_WATER = (175.0, 238.0, 238.0)  # Pale turquoise.
_MUD = (63.0, 42.0, 20.0)
_EMBOSS = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])


class Setting(NamedTuple):
    """Of one severity."""

    mean: float  # Of the normal noise that drops are made of.
    deviation: float
    sigma: float  # Of the Gaussian that makes drops of noise, in pixels.
    threshold: float  # Below which there is no drop.
    strength: float  # Of water; of mud the sigma of another Gaussian.
    mud: bool


@gin.register(module="tfssl.data.corruptions")
class Spatter(Corruption):
    """Drops of water on the lens at severities 1 to 3, of mud at 4 and 5.

    Water shines: it is brightest in the drop of the image that is thickest where light
    falls on it. Images without any stay as they are (the original divides by 0).
    """

    name = "spatter"
    cifar = (
        Setting(0.62, 0.1, 0.7, 0.7, 0.5, False),
        Setting(0.65, 0.1, 0.8, 0.7, 0.5, False),
        Setting(0.65, 0.3, 1, 0.69, 0.5, False),
        Setting(0.65, 0.1, 0.7, 0.69, 0.6, True),
        Setting(0.65, 0.1, 0.5, 0.68, 0.6, True),
    )
    imagenet = (
        Setting(0.65, 0.3, 4, 0.69, 0.6, False),
        Setting(0.65, 0.3, 3, 0.68, 0.6, False),
        Setting(0.65, 0.3, 2, 0.68, 0.5, False),
        Setting(0.65, 0.3, 1, 0.65, 1.5, True),
        Setting(0.67, 0.4, 1, 0.65, 1.5, True),
    )
    needs_color = True

    def _corrupt(
        self, levels: tf.Tensor, seed: tf.Tensor, setting: Setting
    ) -> tf.Tensor:
        noise = draws.normal(self._stream(seed, "drops"), [*levels.shape[1:3], 1])
        noise = setting.mean + setting.deviation * noise
        liquid = gaussian(noise, setting.sigma)
        liquid = tf.where(liquid < setting.threshold, 0.0, liquid)
        if setting.mud:
            mud = tf.cast(liquid > setting.threshold, tf.float32)
            mud = gaussian(mud, setting.strength)
            mud = tf.where(mud < 0.8, 0.0, mud)
            return levels * (1 - mud) + mud * _MUD
        # In 8 bits, of which the original takes the last: 256 becomes 0.
        liquid = tf.cast(tf.math.floormod(tf.floor(255 * liquid), 256), tf.uint8)
        light = tf.numpy_function(_light, [liquid], tf.float32, stateful=False)
        light = tf.ensure_shape(light, liquid.shape)
        thickness = tf.cast(liquid, tf.float32) * light
        most = tf.reduce_max(thickness, axis=[1, 2, 3], keepdims=True)
        shine = setting.strength * tf.math.divide_no_nan(thickness, most)
        return levels + shine * _WATER


def _light(liquid: np.ndarray) -> np.ndarray:
    """How much light falls on each pixel: [b, h, w, 1] uint8 to float32, 0 to 255.

    A relief of the distances to the edges of drops, lit from one side, by OpenCV.
    """
    light = np.empty(liquid.shape, np.float32)
    for image, result in zip(liquid, light, strict=True):
        edges = cv2.Canny(image, 50, 150)
        distance = cv2.distanceTransform(255 - edges, cv2.DIST_L2, 5)
        distance = cv2.blur(np.minimum(distance, 20), (3, 3)).astype(np.uint8)
        relief = cv2.filter2D(cv2.equalizeHist(distance), cv2.CV_8U, _EMBOSS)
        result[..., 0] = cv2.blur(relief, (3, 3))
    return light
