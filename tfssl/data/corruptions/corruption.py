"""What the corruptions of Hendrycks & Dietterich 2019 share.

https://arxiv.org/abs/1903.12261; the recipes are those of the authors' scripts
make_cifar_c.py and make_imagenet_c.py (https://github.com/hendrycks/robustness).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tfssl import randomness
from tfssl.types import Batch, UserError

SEVERITIES = (1, 2, 3, 4, 5)
_SMALLEST = 32
# In levels: how exact the recipes are in float32. Where it is all the same to them, 200
# must stay 200 and not be cut off to 199.
_ROUNDING = 2.0**-12


class Corruption:
    """`corruption(image, seed, severity) -> image`, one of the 19 corruptions.

    Images are [b, h, w, c] float32 in [0, 1], multiples of 1/255, with known h and w of
    at least 32 and three channels, or one where a recipe makes sense without colours.
    Seeds are [b, 2] int32. The result is as the recipes leave it, in 8 bits, fractions
    cut off, again as multiples of 1/255. It depends on the image, its seed and the
    severity alone; severities share their draws.

    The recipes are told in `_corrupt`, in levels: 0 to 255.

    Args:
      constants: Whose settings: 'cifar' of CIFAR-10-C, for images of 32 x 32 pixels, or
        'imagenet' of ImageNet-C, for 224 x 224. Many are in pixels, so that those of
        one on images of the other do not make the same benchmark in another size.

    Attributes:
      name: As the benchmark's files are called.
      cifar, imagenet: The constants: of each of the five severities its setting.
      needs_color: Whether images of one channel are refused.
      fuses: Whether the recipe is compiled. For those that look at pixels one by one:
        one pass over memory rather than a dozen. It takes a moment for each new shape.

    Raises:
      UserError: The constants are not known; when called: the image or the severity is
        not as above.
    """

    name: str
    cifar: Sequence[Any]
    imagenet: Sequence[Any]
    needs_color = False
    fuses = False

    def __init__(self, constants: str):
        if constants not in ("cifar", "imagenet"):
            raise UserError(
                f"{type(self).__name__}.constants = {constants!r} must be 'cifar' or"
                " 'imagenet'"
            )
        self.constants = constants

    def __call__(self, image: tf.Tensor, seed: tf.Tensor, severity: int) -> tf.Tensor:
        if type(severity) is not int or severity not in SEVERITIES:
            raise UserError(f"the severity of {self.name} is {severity!r}, not 1 to 5")
        self.check_shape(image.shape)
        run = self._run_fused if self.fuses else self._run
        return run(tf.convert_to_tensor(image), seed, severity)

    def _run(self, image: tf.Tensor, seed: tf.Tensor, severity: int) -> tf.Tensor:
        setting = getattr(self, self.constants)[severity - 1]
        return cut(self._corrupt(tf.round(255 * image), seed, setting)) / 255

    _run_fused = tf.function(_run, autograph=False, jit_compile=True)

    def of(self, batch: Batch, severity: int) -> tf.Tensor:
        """The images of a batch, corrupted, as evaluators ask for them."""
        return self(batch["image"], batch["seed"], severity)

    def check_shape(self, shape: tf.TensorShape | tuple[int, ...]) -> None:
        """Raises UserError if images of a shape [b, h, w, c] cannot be corrupted."""
        if len(shape) != 4 or None in shape[1:3] or min(shape[1:3]) < _SMALLEST:
            raise UserError(
                f"{self.name} needs images [b, h, w, c] of one size, at least"
                f" {_SMALLEST} x {_SMALLEST} pixels, not {tuple(shape)}"
            )
        if shape[3] not in ((3,) if self.needs_color else (1, 3)):
            raise UserError(f"{self.name} needs three channels, not {shape[3]}")

    def _corrupt(self, levels: tf.Tensor, seed: tf.Tensor, setting: Any) -> tf.Tensor:
        """The recipe.

        Args:
          levels: [b, h, w, c] float32, whole numbers from 0 to 255.
          seed: [b, 2] int32.
          setting: Of the severity, from the table.

        Returns:
          [b, h, w, c]. Fractions will be cut off, and what is out of range: of float32
          up to rounding, of float64, in which the originals are, to the last bit.
        """
        raise NotImplementedError

    def _stream(self, seed: tf.Tensor, tag: str) -> tf.Tensor:
        """Seeds [b, 2] of this corruption's draws of one kind."""
        return randomness.fold(seed, f"{self.name}/{tag}")


def cut(levels: tf.Tensor) -> tf.Tensor:
    """To whole levels from 0 to 255, float32, as a cast to 8 bits does it."""
    if levels.dtype == tf.float32:
        levels += _ROUNDING
    return tf.cast(tf.floor(tf.clip_by_value(levels, 0, 255)), tf.float32)
