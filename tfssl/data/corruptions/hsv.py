"""Hue, saturation and value, as scikit-image has them.

In float64 and in its order of operations: a value plus 0.2 is a whole number of levels,
or just below one and cut off, as the last bits want it. Not to be compiled, which may
join a product and a sum and round once.
"""

from __future__ import annotations

import tensorflow as tf


def to_hsv(levels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """[b, h, w, 3], 0 to 255, to three [b, h, w] float64 in [0, 1]. Grey has hue 0."""
    red, green, blue = tf.unstack(tf.cast(levels, tf.float64) / 255, axis=-1)
    value = tf.maximum(red, tf.maximum(green, blue))
    chroma = value - tf.minimum(red, tf.minimum(green, blue))
    hue = tf.where(
        value == blue,
        4 + (red - green) / chroma,
        tf.where(value == green, 2 + (blue - red) / chroma, (green - blue) / chroma),
    )
    hue = tf.where(chroma == 0, tf.zeros_like(hue), tf.math.floormod(hue / 6, 1))
    return hue, tf.math.divide_no_nan(chroma, value), value


def from_hsv(hue: tf.Tensor, saturation: tf.Tensor, value: tf.Tensor) -> tf.Tensor:
    """Three [b, h, w] float64 in [0, 1] to [b, h, w, 3] float64, 0 to 255."""
    sector = tf.floor(6 * hue)
    rest = 6 * hue - sector
    low = value * (1 - saturation)
    falling = value * (1 - rest * saturation)
    rising = value * (1 - (1 - rest) * saturation)
    sector = tf.cast(sector, tf.int32) % 6

    def channel(*by_sector):
        result = by_sector[5]
        for number in range(5):
            result = tf.where(sector == number, by_sector[number], result)
        return 255 * result

    return tf.stack(
        [
            channel(value, falling, low, low, rising, value),
            channel(rising, value, value, falling, low, low),
            channel(low, low, rising, value, value, falling),
        ],
        axis=-1,
    )
