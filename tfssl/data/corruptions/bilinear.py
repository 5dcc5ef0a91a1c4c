"""Images seen at places between pixels."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf


def bilinear(
    image: tf.Tensor,
    y: tf.Tensor,
    x: tf.Tensor,
    border: Callable[[tf.Tensor, int], tf.Tensor],
) -> tf.Tensor:
    """Interpolates between the four nearest pixels.

    Args:
      image: [b, h, w, c].
      y, x: [b, h', w'], in pixels from the centre of the first; may be out of range.
      border: Which pixel is seen for one out of range (`borders.py`).

    Returns:
      [b, h', w', c].
    """
    _, height, width, channels = image.shape
    pixels = tf.reshape(image, [-1, height * width, channels])
    top, left = tf.floor(y), tf.floor(x)
    down, right = (y - top)[..., None], (x - left)[..., None]
    top, left = tf.cast(top, tf.int32), tf.cast(left, tf.int32)
    rows = [border(top + i, height) * width for i in (0, 1)]
    columns = [border(left + i, width) for i in (0, 1)]

    def line(row):
        a, b = (tf.gather(pixels, row + column, batch_dims=1) for column in columns)
        return a + right * (b - a)

    upper, lower = line(rows[0]), line(rows[1])
    return upper + down * (lower - upper)
