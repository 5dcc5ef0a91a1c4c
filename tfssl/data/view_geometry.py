"""Crops, mirror images and blur for views: each pixel a weighted mean of others."""

from __future__ import annotations

import math

import gin
import numpy as np
import tensorflow as tf

from tfssl import randomness
from tfssl.data.view_op import (
    ViewOp,
    coins,
    column,
    interval,
    probability,
    select,
    separable,
)
from tfssl.types import UserError

_ATTEMPTS = 10


@gin.register(module="tfssl.data")
class RandomResizedCrop(ViewOp):
    """Resizes a random part of the image to a given size (Szegedy et al. 2015).

    https://arxiv.org/abs/1409.4842, section 6, as torchvision has it. The part's share
    of the area is uniform in `scale` and the logarithm of its width over its height
    uniform in that of `ratio`. Sides are rounded to pixels; the first of ten draws that
    fits into the image is taken, and its place is uniform. If none fits, it is the
    largest part in the centre whose shape is in `ratio`.

    Interpolation is Pillow's: the corners of pixels are aligned, nothing outside of the
    part is looked at, and where the part is larger than the result, the kernel grows
    with it (antialiasing).

    A share x of the area becomes 1 - strength * (1 - x), and the shape is drawn at any
    strength. At 0 nothing but the whole of a square image fits, and if `ratio` holds 1,
    nothing else is in the centre; other images may lose a pixel to rounding.

    Args:
      size: Height and width of the result; those of the image if not given.
      scale: Shares of the area, in (0, 1].
      ratio: Width over height.
      interpolation: 'bilinear', or 'bicubic' (a = -0.5).

    Raises:
      UserError: An argument is outside of its range.
    """

    def __init__(
        self,
        size: int | None = None,
        scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        interpolation: str = "bilinear",
    ):
        self.scale = interval("RandomResizedCrop.scale", scale)
        self.ratio = interval("RandomResizedCrop.ratio", ratio)
        if self.scale[1] > 1:
            raise UserError(f"RandomResizedCrop.scale = {scale} must not exceed 1")
        if size is not None and size < 1:
            raise UserError(f"RandomResizedCrop.size = {size} must be positive")
        if interpolation not in _KERNELS:
            raise UserError(
                f"RandomResizedCrop.interpolation = {interpolation!r} must be"
                " 'bilinear' or 'bicubic'"
            )
        self.size = size
        self.any_size = size is not None
        self.interpolation = interpolation

    def planes(
        self, image: tf.Tensor, seed: tf.Tensor, strength: tf.Tensor | float
    ) -> tf.Tensor:
        # Not known beforehand if the pictures vary in size.
        height, width = (
            tf.shape(image)[i] if n is None else n
            for i, n in enumerate(image.shape[2:], 2)
        )
        boxes = self.boxes(height, width, seed, strength)
        top, left, h, w = tf.unstack(boxes, axis=1)
        rows = self._weights(top, h, height, self.size or height)
        columns = self._weights(left, w, width, self.size or width)
        result = separable(image, rows, columns)
        # Rounding, and the bicubic kernel, which is negative in places.
        return tf.clip_by_value(result, 0, 1)

    def boxes(
        self,
        height: int | tf.Tensor,
        width: int | tf.Tensor,
        seed: tf.Tensor,
        strength: tf.Tensor | float = 1.0,
    ) -> tf.Tensor:
        """[b, 4] float32, whole numbers: top, left, height and width of the parts.

        Args:
          height, width: Of the images.
          seed: [b, 2] int32.
          strength: In [0, 1], one for all or [b].
        """
        draws = randomness.uniforms(
            randomness.fold(seed, "random_resized_crop"), 0, 2 * _ATTEMPTS + 2
        )
        # In float64, so that no last bit of a batch decides about a rounded side.
        draws = tf.cast(draws, tf.float64)
        strength = column(strength)
        height, width = tf.cast(height, tf.float64), tf.cast(width, tf.float64)
        # In this order, in which 1 changes no bit of a share.
        low, high = (1 - strength + strength * share for share in self.scale)
        area = (low + (high - low) * draws[:, :_ATTEMPTS]) * height * width
        low, high = (math.log(r) for r in self.ratio)
        ratio = tf.exp(low + (high - low) * draws[:, _ATTEMPTS : 2 * _ATTEMPTS])
        sides = tf.round(tf.sqrt(tf.stack([area / ratio, area * ratio], axis=-1)))
        fits = tf.reduce_all((sides >= 1) & (sides <= [height, width]), axis=-1)
        some = tf.reduce_any(fits, axis=-1)[:, None]
        sides = tf.gather(sides, tf.argmax(fits, axis=-1), batch_dims=1)

        low, high = self.ratio
        central = [
            tf.minimum(tf.round(width / low), height),
            tf.minimum(tf.round(height * high), width),
        ]
        sides = tf.where(some, sides, central)
        room = [height, width] - sides
        place = tf.where(
            some, tf.floor(draws[:, 2 * _ATTEMPTS :] * (room + 1)), room // 2
        )
        return tf.cast(tf.concat([place, sides], axis=-1), tf.float32)

    def _weights(
        self, start: tf.Tensor, length: tf.Tensor, old: int | tf.Tensor, new: int
    ) -> tf.Tensor:
        """[b, new, old]: how much of each old pixel is in a new one."""
        start, length = start[:, None], length[:, None]
        step = length / new
        centre = start + step * (np.arange(new, dtype=np.float32) + 0.5)
        pixel = tf.range(old, dtype=tf.float32) + 0.5
        distance = tf.abs(pixel - centre[..., None]) / tf.maximum(step, 1)[..., None]
        inside = (pixel > start) & (pixel < start + length)
        weights = _KERNELS[self.interpolation](distance)
        weights *= tf.cast(inside, tf.float32)[:, None]
        return weights / tf.reduce_sum(weights, axis=-1, keepdims=True)


def _bilinear(distance: tf.Tensor) -> tf.Tensor:
    return tf.nn.relu(1 - distance)


def _bicubic(distance: tf.Tensor) -> tf.Tensor:
    """Keys 1981, equation 15."""
    near = (1.5 * distance - 2.5) * distance * distance + 1
    far = ((2.5 - 0.5 * distance) * distance - 4) * distance + 2
    return tf.where(distance < 1, near, tf.where(distance < 2, far, 0.0))


_KERNELS = {"bilinear": _bilinear, "bicubic": _bicubic}


@gin.register(module="tfssl.data")
class HorizontalFlip(ViewOp):
    """Mirrors left and right.

    Args:
      p: Share of the images that are mirrored, at any strength.

    Raises:
      UserError: `p` is no probability.
    """

    def __init__(self, p: float = 0.5):
        self.p = probability("HorizontalFlip.p", p)

    def planes(
        self, image: tf.Tensor, seed: tf.Tensor, strength: tf.Tensor | float
    ) -> tf.Tensor:
        on = coins(seed, "horizontal_flip", self.p)
        return select(on, tf.reverse(image, [3]), image)


@gin.register(module="tfssl.data")
class GaussianBlur(ViewOp):
    """Blurs with a Gaussian of random width (Chen et al. 2020, SimCLR, appendix A).

    https://arxiv.org/abs/2002.05709. The kernel is about a tenth of the image's shorter
    side wide, odd and at least 3 (3 of 32 pixels, 23 of 224), and the image is
    reflected at its borders, as in torchvision.

    Args:
      p: Share of the images that are blurred, times the strength.
      sigma: Range of the standard deviation in pixels, drawn uniformly.

    Raises:
      UserError: An argument is outside of its range.
    """

    def __init__(self, p: float = 0.5, sigma: tuple[float, float] = (0.1, 2.0)):
        self.p = probability("GaussianBlur.p", p)
        self.sigma = interval("GaussianBlur.sigma", sigma)

    def planes(
        self, image: tf.Tensor, seed: tf.Tensor, strength: tf.Tensor | float
    ) -> tf.Tensor:
        height, width = image.shape[2:]
        radius = max(1, min(height, width) // 20)
        draws = randomness.uniforms(randomness.fold(seed, "gaussian_blur"), 0, 2)
        low, high = self.sigma
        # In float64, so that no neighbour in the batch decides about a last bit.
        sigma = tf.cast(low + (high - low) * draws[:, 1:], tf.float64)
        offsets = np.arange(-radius, radius + 1, dtype=np.float64)
        kernel = tf.exp(-0.5 * (offsets / sigma) ** 2)
        # A kernel of one point leaves an image as it is, to the last bit.
        point = np.broadcast_to((offsets == 0).astype(np.float64), [1, len(offsets)])
        on = draws[:, :1] < tf.cast(self.p * column(strength), tf.float32)
        kernel = tf.where(on, kernel, point)
        kernel /= tf.reduce_sum(kernel, axis=-1, keepdims=True)
        kernel = tf.cast(kernel, tf.float32)
        rows, columns = (
            tf.reshape(kernel @ _shifts(radius, n), [-1, n, n]) for n in (height, width)
        )
        return tf.minimum(separable(image, rows, columns), 1)  # Rounding.


def _shifts(radius: int, n: int) -> np.ndarray:
    """[2 radius + 1, n * n]: a one where pixel i looks, for each offset, reflected."""
    i, offset = np.arange(n), np.arange(-radius, radius + 1)[:, None]
    seen = np.abs(i + offset)
    seen = np.minimum(seen, 2 * (n - 1) - seen)
    return np.eye(n, dtype=np.float32)[seen].reshape(len(offset), n * n)
