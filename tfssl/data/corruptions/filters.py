"""Weighted means of pixels: Gaussians, other linear maps of rows and columns, kernels.

Images are [b, h, w, c] float32.
"""

from __future__ import annotations

import functools

import numpy as np
import tensorflow as tf
from scipy import fft, ndimage


def gaussian(
    image: tf.Tensor, sigma: float, mode: str = "nearest", truncate: float = 4.0
) -> tf.Tensor:
    """scikit-image's `filters.gaussian`, with its defaults.

    Args:
      image: [b, h, w, c].
      sigma: Standard deviation in pixels; 0 leaves the image as it is.
      mode: What is beyond the border, as SciPy calls it.
      truncate: Where the kernel ends, in standard deviations.
    """
    rows, columns = (_gaussian(n, sigma, mode, truncate) for n in image.shape[1:3])
    return linear(image, rows, columns)


@functools.lru_cache(maxsize=64)
def _gaussian(n: int, sigma: float, mode: str, truncate: float) -> np.ndarray:
    """[n, n]: what becomes of unit vectors."""
    return ndimage.gaussian_filter1d(np.eye(n), sigma, 0, mode=mode, truncate=truncate)


def linear(image: tf.Tensor, rows: np.ndarray, columns: np.ndarray) -> tf.Tensor:
    """A linear map of the rows, [h', h], then one of the columns, [w', w]."""
    planes = along_last(tf.transpose(image, [0, 3, 2, 1]), rows)
    planes = along_last(tf.transpose(planes, [0, 1, 3, 2]), columns)
    return tf.transpose(planes, [0, 2, 3, 1])


def along_last(values: tf.Tensor, matrix: np.ndarray) -> tf.Tensor:
    """A linear map of the last axis: [..., n] and [m, n] to [..., m]."""
    # As one product of matrices: TensorFlow 2.21 writes out of bounds where it has to
    # broadcast a batch [1, 1] to [b, 1].
    shape = tf.shape(values)
    new, old = matrix.shape
    flat = tf.reshape(values, [-1, old])
    result = tf.matmul(flat, tf.constant(matrix, values.dtype), transpose_b=True)
    result = tf.reshape(result, tf.concat([shape[:-1], [new]], axis=0))
    return tf.ensure_shape(result, [*values.shape[:-1], new])


def correlate(padded: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """Sums of pixels times the kernels upon them, by Fourier transform.

    Which takes the same time for kernels of any size, and another for each image.

    Args:
      padded: [b, h + k - 1, w + l - 1, c], an image with the borders to be seen, in
        float32 or float64.
      kernel: [b, k, l], or [1, k, l] for all, of the same type.

    Returns:
      [b, h, w, c]: the pixel in the corner is that of a kernel in the corner.
    """
    sides = padded.shape[1:3]
    height, width = (n - k + 1 for n, k in zip(sides, kernel.shape[1:], strict=True))
    # Lengths of small factors are fast; what wraps around is not looked at.
    length = [fft.next_fast_len(n, real=True) for n in sides]
    image = tf.signal.rfft2d(tf.transpose(padded, [0, 3, 1, 2]), length)
    kernel = tf.signal.rfft2d(tf.convert_to_tensor(kernel), length)[:, None]
    result = tf.signal.irfft2d(image * tf.math.conj(kernel), length)
    return tf.transpose(result[:, :, :height, :width], [0, 2, 3, 1])
