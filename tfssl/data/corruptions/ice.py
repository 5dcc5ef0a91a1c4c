"""Procedural pictures of frost, for those who have not the benchmark's."""

from __future__ import annotations

import tensorflow as tf

from tfssl import randomness
from tfssl.data.corruptions import draws

# Colour (red, green, blue), contrast within a part of the picture and between parts
# (standard deviations), in levels: about those of the benchmark's five pictures.
_KINDS = (
    (78.0, 149.0, 166.0, 14.0, 10.0),
    (201.0, 205.0, 215.0, 18.0, 9.0),
    (201.0, 205.0, 215.0, 18.0, 9.0),
    (138.0, 153.0, 165.0, 26.0, 10.0),
    (112.0, 123.0, 135.0, 34.0, 16.0),
)
_DISTANCES = (16, 8, 4, 2, 1)  # Pixels between the points of each net.


def ice(seed: tf.Tensor, height: int, width: int) -> tf.Tensor:
    """Nets of bright lines, coarse and fine ones, in the colours of ice.

    The lines are where smooth noise crosses 0.

    Args:
      seed: [b, 2] int32.
      height, width: Of the pictures.

    Returns:
      [b, height, width, 3] float32, 0 to 255.
    """
    grids = [(-(-height // d) + 1, -(-width // d) + 1) for d in _DISTANCES]
    sizes = [rows * columns for rows, columns in grids]
    *nets, shade = tf.split(draws.normal(seed, [sum(sizes) + 1]), [*sizes, 1], axis=1)
    relief = 0.0
    for distance, (rows, columns), net in zip(_DISTANCES, grids, nets, strict=True):
        net = tf.reshape(net, [-1, rows, columns, 1])
        size = [rows * distance, columns * distance]
        net = tf.image.resize(net, size, "bicubic")[:, :height, :width]
        relief -= tf.abs(net)
    mean, variance = tf.nn.moments(relief, axes=[1, 2, 3], keepdims=True)
    relief = (relief - mean) * tf.math.rsqrt(variance)

    u = draws.uniform(randomness.fold(seed, "kind"), [])
    kind = tf.gather(_KINDS, tf.cast(u * len(_KINDS), tf.int32))[:, None, None]
    color, within, between = tf.split(kind, [3, 1, 1], axis=-1)
    shade = between * shade[:, None, None]
    return tf.clip_by_value(color + shade + within * relief, 0, 255)
