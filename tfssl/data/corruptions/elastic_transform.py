"""Elastic transform: corruption 13 of 15."""

from __future__ import annotations

from typing import NamedTuple

import gin
import numpy as np
import tensorflow as tf

from tfssl.data.corruptions import draws
from tfssl.data.corruptions.bilinear import bilinear
from tfssl.data.corruptions.borders import reflect, reflect_101
from tfssl.data.corruptions.corruption import Corruption
from tfssl.data.corruptions.filters import gaussian


class Setting(NamedTuple):
    """Of one severity, in sides of the image."""

    shift: float  # Of a pixel, at most, before the Gaussian.
    sigma: float  # Of the Gaussian that makes pixels nearby move alike.
    affine: float  # How far each corner of a triangle moves at most.


@gin.register(module="tfssl.data.corruptions")
class ElasticTransform(Corruption):
    """Skews the image, and then stretches and squeezes it from place to place.

    The settings are in sides of the image, 32 of 'cifar'. Those of 'imagenet' are told
    in 244 pixels of images of 224, a slip of the original that is kept. Of other images
    the side is the shorter one.
    """

    name = "elastic_transform"
    cifar = (
        Setting(0, 0, 0.08),
        Setting(0.05, 0.2, 0.07),
        Setting(0.08, 0.06, 0.06),
        Setting(0.1, 0.04, 0.05),
        Setting(0.1, 0.03, 0.03),
    )
    imagenet = (
        Setting(2, 0.7, 0.1),
        Setting(2, 0.08, 0.2),
        Setting(0.05, 0.01, 0.02),
        Setting(0.07, 0.01, 0.02),
        Setting(0.12, 0.01, 0.02),
    )

    def _corrupt(
        self, levels: tf.Tensor, seed: tf.Tensor, setting: Setting
    ) -> tf.Tensor:
        _, height, width, _ = levels.shape
        side = min(height, width) * (244 / 224 if self.constants == "imagenet" else 1)
        y = np.arange(height, dtype=np.float32)[:, None]
        x = np.arange(width, dtype=np.float32)

        u = 2 * draws.uniform(self._stream(seed, "affine"), [3, 2]) - 1
        matrix = _affine(setting.affine * side * u, height, width)[:, None, None]
        at_x = matrix[..., 0, 0] * x + matrix[..., 0, 1] * y + matrix[..., 0, 2]
        at_y = matrix[..., 1, 0] * x + matrix[..., 1, 1] * y + matrix[..., 1, 2]
        levels = bilinear(levels, at_y, at_x, reflect_101)
        if not setting.shift:
            return levels

        u = 2 * draws.uniform(self._stream(seed, "shift"), [height, width, 2]) - 1
        shift = gaussian(u, setting.sigma * side, "reflect", truncate=3)
        dx, dy = tf.unstack(setting.shift * side * shift, axis=-1)
        return bilinear(levels, y + dy, x + dx, reflect)


def _affine(shift: tf.Tensor, height: int, width: int) -> tf.Tensor:
    """Where pixels come from when three of them move.

    Args:
      shift: [b, 3, 2], how far in pixels, (x, y).
      height, width: Of the image.

    Returns:
      [b, 2, 3]: times (x, y, 1) of a pixel, the (x, y) where it was.
    """
    # As the original has them, which takes rows for columns: of images that are not
    # square the triangle is beside the middle.
    centre, size = np.array([height // 2, width // 2]), min(height, width) // 3
    before = centre + size * np.array([[1, 1], [1, -1], [-1, -1]])
    after = tf.cast(before + tf.cast(shift, tf.float64), tf.float64)
    sides = after[:, 1:] - after[:, :1]
    (a, b), (c, d) = (tf.unstack(x, axis=-1) for x in tf.unstack(sides, axis=1))
    inverse = tf.stack([tf.stack([d, -b], -1), tf.stack([-c, a], -1)], axis=1)
    inverse /= (a * d - b * c)[:, None, None]
    turn = tf.matmul(inverse, np.array(before[1:] - before[:1], np.float64)[None])
    turn = tf.transpose(turn, [0, 2, 1])
    rest = before[0] - tf.linalg.matvec(turn, after[:, 0])
    return tf.cast(tf.concat([turn, rest[..., None]], axis=-1), tf.float32)
