"""Glass blur: corruption 5 of 15."""

from __future__ import annotations

from typing import NamedTuple

import gin
import numpy as np
import tensorflow as tf

from tfssl.data.corruptions import draws
from tfssl.data.corruptions.corruption import Corruption, cut
from tfssl.data.corruptions.filters import gaussian

# Doublings of the way that a pixel has come: 64 moves. Of the moves at most 27/64 are
# to a pixel that has moved before: longer ways happen once in 10^19 images.
_DOUBLINGS = 6


class Setting(NamedTuple):
    """Of one severity."""

    sigma: float  # Of the Gaussians before and after, in pixels.
    distance: int  # How far a pixel is moved.
    rounds: int


@gin.register(module="tfssl.data.corruptions")
class GlassBlur(Corruption):
    """Blurs, moves pixels about, and blurs again.

    From the lower right to the upper left, each pixel becomes as one nearby is at that
    moment, -d to d - 1 rows and columns away, but for those at the border. The original
    means to swap the two; but as its numpy arrays are views of the image, it writes
    into the second what it has just written into the first: the second is unchanged.
    """

    name = "glass_blur"
    cifar = (
        Setting(0.05, 1, 1),
        Setting(0.25, 1, 1),
        Setting(0.4, 1, 1),
        Setting(0.25, 1, 2),
        Setting(0.4, 1, 2),
    )
    imagenet = (
        Setting(0.7, 1, 2),
        Setting(0.9, 2, 1),
        Setting(1, 2, 3),
        Setting(1.1, 3, 2),
        Setting(1.5, 4, 2),
    )

    def _corrupt(
        self, levels: tf.Tensor, seed: tf.Tensor, setting: Setting
    ) -> tf.Tensor:
        image = cut(gaussian(levels, setting.sigma))
        _, height, width, channels = image.shape
        u = draws.uniform(self._stream(seed, "moves"), [setting.rounds, height * width])
        pixels = tf.reshape(image, [-1, height * width, channels])
        for moves in tf.unstack(u, axis=1):
            source = _sources(moves, height, width, setting.distance)
            pixels = tf.gather(pixels, source, batch_dims=1)
        image = tf.reshape(pixels, [-1, height, width, channels])
        return gaussian(image, setting.sigma)


def _sources(u: tf.Tensor, height: int, width: int, distance: int) -> tf.Tensor:
    """Where each pixel comes from in a round.

    Args:
      u: [b, h * w], uniform in [0, 1).
      height, width: Of the image.
      distance: d.

    Returns:
      [b, h * w] int32, places in the image before the round.
    """
    side = 2 * distance
    move = tf.cast(u * side**2, tf.int32)
    dy, dx = move // side - distance, move % side - distance
    place = np.arange(height * width, dtype=np.int32)
    y, x = np.divmod(place, width)
    moves = (y > distance) & (y <= height - distance)
    moves &= (x > distance) & (x <= width - distance)
    source = tf.where(moves, place + dy * width + dx, place)
    if distance == 1:  # Up and to the left only, where none has moved before.
        return source
    # One further down has moved before and shows what it has got: its own source, or
    # that one's.
    way = tf.where(source > place, source, place)
    for _ in range(_DOUBLINGS):
        way = tf.gather(way, way, batch_dims=1)
    return tf.gather(source, way, batch_dims=1)
