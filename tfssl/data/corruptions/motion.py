"""ImageMagick's MotionBlur, which the recipes call through Wand."""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf

from tfssl.data.corruptions.filters import correlate


def motion_blur(
    levels: tf.Tensor,
    radius: float,
    sigma: float,
    angle: tf.Tensor,
    low: float,
    high: float,
) -> tf.Tensor:
    """Draws pixels out along a line, to one side.

    A pixel becomes the mean of those i = 0 .. 2 * radius steps away at the angle,
    weighted by exp(-i^2 / (2 sigma^2)). Steps are rounded to whole pixels, and beyond
    the border is the pixel next to it. (MotionBlurImage of ImageMagick 6, with 16 bits;
    its 8 bits are these cut off.)

    Args:
      levels: [b, h, w, c], whole numbers from 0 to 255.
      radius, sigma: In pixels; the kernel is 2 * radius + 1 long.
      angle: [b], in degrees from the positive x axis to the positive y axis, downwards.
      low, high: Between which all angles are, less than half a turn apart.

    Returns:
      [b, h, w, c], whole numbers from 0 to 255.
    """
    steps = np.arange(2 * math.ceil(radius) + 1, dtype=np.float32)
    weights = np.exp(-((steps / sigma) ** 2) / 2)
    weights /= weights.sum()

    # The kernel is a rectangle that holds the lines at all angles.
    least, most = _reach(len(steps) - 1, low, high)
    height, width = most - least + 1
    dy, dx = _offsets(steps, angle[:, None])
    places = tf.one_hot(dy - least[0], height, axis=1) * weights
    kernel = tf.matmul(places, tf.one_hot(dx - least[1], width, axis=2))

    padded = levels
    for axis, n in enumerate(levels.shape[1:3]):
        seen = np.arange(least[axis], n + most[axis]).clip(0, n - 1)
        padded = tf.gather(padded, seen, axis=axis + 1)
    # To the nearest of 16 bits, and then down to 8.
    return tf.floor(correlate(padded, kernel) + 0.5 / 257)


def _offsets(steps: np.ndarray, angle: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Rows and columns to go, int32: the nearest, of two the smaller."""
    angle = angle * (math.pi / 180)
    return tuple(
        tf.cast(tf.math.ceil(steps * along - 0.5), tf.int32)
        for along in (tf.sin(angle), tf.cos(angle))
    )


def _reach(steps: int, low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
    """The least and the most that is gone, (rows, columns) each."""
    angles = np.deg2rad(np.linspace(low, high, 91))
    ends = steps * np.stack([np.sin(angles), np.cos(angles)])
    least, most = np.floor(ends.min(axis=1)), np.ceil(ends.max(axis=1))
    return np.minimum(least, 0).astype(int), np.maximum(most, 0).astype(int)
