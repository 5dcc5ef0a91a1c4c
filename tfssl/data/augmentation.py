"""Augmentations: one example at a time, drawn from the example's own seed.

Each is a callable `augment(image, seed) -> image` on an image [h, w, c] float32 in
[0, 1] and a seed [2] int32, of which it takes a stream of its own by a tag: the same
augmentation twice in a list draws the same numbers twice.
"""

from __future__ import annotations

import gin
import tensorflow as tf

from tfssl import randomness
from tfssl.types import UserError


@gin.register(module="tfssl.data")
class PadCrop:
    """Pads on all sides and crops the old size at a random place.

    The augmentation of CIFAR since Lee et al. 2015, "Deeply-Supervised Nets", with four
    pixels.

    Args:
      padding: Pixels on each side; the crop moves by at most as many.
      mode: 'constant' pads with zeros, 'reflect' with the mirrored image. Black borders
        tell where in the image a patch was, and so solve jigsaw puzzles.

    Raises:
      UserError: `padding` is negative, or there is no such mode.
    """

    def __init__(self, padding: int = 4, mode: str = "constant"):
        if padding < 0:
            raise UserError(f"PadCrop.padding = {padding} must not be negative")
        if mode not in ("constant", "reflect"):
            raise UserError(f"PadCrop.mode = {mode!r} is not 'constant' or 'reflect'")
        self.padding = padding
        self.mode = mode

    def __call__(self, image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        p = self.padding
        y, x = tf.unstack(
            tf.random.stateless_uniform(
                [2], randomness.fold(seed, "pad_crop"), 0, 2 * p + 1, tf.int32
            )
        )
        padded = tf.pad(image, [[p, p], [p, p], [0, 0]], self.mode)
        return tf.slice(padded, [y, x, 0], image.shape)


@gin.register(module="tfssl.data")
class Flip:
    """Mirrors left and right in half of the cases."""

    def __call__(self, image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        heads = tf.random.stateless_uniform([], randomness.fold(seed, "flip")) < 0.5
        return tf.where(heads, image[:, ::-1], image)
