"""Defocus blur: corruption 4 of 15."""

from __future__ import annotations

import cv2
import gin
import numpy as np
import tensorflow as tf

from tfssl.data.corruptions.corruption import Corruption
from tfssl.data.corruptions.filters import correlate

_ROUNDING = 2.0**-10  # In levels, of Fourier transforms in float32.


@gin.register(module="tfssl.data.corruptions")
class DefocusBlur(Corruption):
    """Spreads each pixel over a disk with a softened edge.

    The settings are the radius of the disk and the standard deviation of the Gaussian
    that softens it, in pixels.
    """

    name = "defocus_blur"
    cifar = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))
    imagenet = ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))

    def _corrupt(
        self, levels: tf.Tensor, seed: tf.Tensor, setting: tuple[float, float]
    ) -> tf.Tensor:
        kernel = disk(*setting)
        r = len(kernel) // 2
        padded = tf.pad(levels, [[0, 0], [r, r], [r, r], [0, 0]], "REFLECT")
        if r <= 4:
            # Few weights, and equal ones: their sums are often whole, and whether a
            # whole one is cut off is up to the last bits of the kernel.
            padded, kernel = tf.cast(padded, tf.float64), kernel.astype(np.float64)
        if r <= 2:  # Faster than by Fourier transform.
            kernels = np.tile(kernel[..., None, None], [1, 1, levels.shape[-1], 1])
            return tf.nn.depthwise_conv2d(padded, kernels, [1] * 4, "VALID")
        result = correlate(padded, kernel[None])
        if r > 4:
            # In float32, as float64 would take twice as long. Where the image has one
            # colour, all is up to whether the kernel adds up to 1 or to just below.
            lost = kernel.sum(dtype=np.float64) < 1
            result += -_ROUNDING if lost else _ROUNDING
        return result


def disk(radius: float, sigma: float) -> np.ndarray:
    """[k, k] float32, k odd: the kernel, which is symmetric."""
    reach = int(max(8, radius))
    x = np.arange(-reach, reach + 1)
    inside = x**2 + x[:, None] ** 2 <= radius**2
    kernel = inside.astype(np.float32) / np.float32(inside.sum())
    # Next to the edge of this square it is reflected there, as in the original.
    side = 3 if radius <= 8 else 5
    kernel = cv2.GaussianBlur(kernel, (side, side), sigmaX=sigma)
    empty = int(np.argmax(kernel.any(axis=0)))
    return kernel[empty : len(kernel) - empty, empty : len(kernel) - empty]
