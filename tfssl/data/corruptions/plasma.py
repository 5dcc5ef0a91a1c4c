"""Clouds: random heights by the diamond-square algorithm, on a torus."""

from __future__ import annotations

import tensorflow as tf

from tfssl.data.corruptions import draws


def plasma(seed: tf.Tensor, size: int, decay: float) -> tf.Tensor:
    """Heights from 0 to 1, the ends among them.

    Each round halves the distance of the points that have a height: the middle of four
    gets their mean plus a draw from [-a, a], first in squares, then in diamonds. The
    amplitude a is divided by `decay` squared in each round, as in the benchmark.

    Args:
      seed: [b, 2] int32.
      size: Side of the map, a power of 2.
      decay: How much of the amplitude's root is lost in a round.

    Returns:
      [b, size, size] float32.
    """
    wibbles = 2 * draws.uniform(seed, [size * size]) - 1
    corners, amplitude, used = tf.zeros_like(wibbles[:, :1, None]), 1.0, 0
    while (n := corners.shape[1]) < size:
        wibble = amplitude * wibbles[:, used : used + 3 * n * n]
        in_squares, on_rows, on_columns = tf.unstack(
            tf.reshape(wibble, [-1, 3, n, n]), axis=1
        )
        rows = corners + tf.roll(corners, -1, 1)  # Of neighbours, one below the other.
        columns = corners + tf.roll(corners, -1, 2)
        middles = (rows + tf.roll(rows, -1, 2)) / 4 + in_squares
        on_rows += (columns + middles + tf.roll(middles, 1, 1)) / 4
        on_columns += (rows + middles + tf.roll(middles, 1, 2)) / 4
        upper = tf.stack([corners, on_rows], axis=3)
        lower = tf.stack([on_columns, middles], axis=3)
        corners = tf.reshape(tf.stack([upper, lower], axis=2), [-1, 2 * n, 2 * n])
        amplitude, used = amplitude / decay**2, used + 3 * n * n
    corners -= tf.reduce_min(corners, axis=[1, 2], keepdims=True)
    return corners / tf.reduce_max(corners, axis=[1, 2], keepdims=True)
