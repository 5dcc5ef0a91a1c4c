"""What the operations share that views of self-supervised methods are made with.

They work on whole batches, because most of the time of one small image would go into
starting TensorFlow's operations, and on planes [b, c, h, w], where colour channels can
be told apart without copying. What happens to an image depends on it, its seed and the
strength alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf

from tfssl import randomness
from tfssl.types import UserError


class ViewOp:
    """`op(image, seed) -> image`, and `op.planes` for what is already in planes.

    Images are [h, w, c] or [b, h, w, c] float32 in [0, 1], with known h, w and c, and
    seeds [2] or [b, 2] int32. Each kind of operation takes a stream of its own: the
    same operation twice in a recipe draws the same numbers twice.

    `strength` in [0, 1], one for all or [b], weakens an operation: at 1 it is as set,
    at 0 it leaves images as they are. It changes the settings, never the draws.
    Mirroring alone knows no strength.

    Attributes:
      any_size: Whether h and w need not be known before the batch is there.
    """

    any_size = False

    def __call__(
        self, image: tf.Tensor, seed: tf.Tensor, strength: tf.Tensor | float = 1.0
    ) -> tf.Tensor:
        if None in image.shape[-3:-1] and not self.any_size:
            raise UserError(
                "the pictures vary in size, and so would the views of this recipe:"
                " begin it with RandomResizedCrop and set RandomResizedCrop.size"
            )
        if len(image.shape) == 3:
            return self(image[None], seed[None], strength)[0]
        planes = self.planes(tf.transpose(image, [0, 3, 1, 2]), seed, strength)
        return tf.transpose(planes, [0, 2, 3, 1])

    def planes(
        self, image: tf.Tensor, seed: tf.Tensor, strength: tf.Tensor | float
    ) -> tf.Tensor:
        """[b, c, h, w] and [b, 2] to [b, c, h', w']."""
        raise NotImplementedError


def column(strength: tf.Tensor | float) -> tf.Tensor:
    """A strength for each image, [b, 1], or one for all, [1, 1].

    In float64, so that a setting times 1 is the same float32 as the setting.
    """
    return tf.reshape(tf.cast(strength, tf.float64), [-1, 1])


def coins(
    seed: tf.Tensor, tag: str, p: float, strength: tf.Tensor | float = 1.0
) -> tf.Tensor:
    """[b, 2] to [b] bool: true with probability p * strength, a stream for each tag."""
    draws = randomness.uniforms(randomness.fold(seed, tag), 0, 1)
    return (draws < tf.cast(p * column(strength), tf.float32))[:, 0]


def select(on: tf.Tensor, images: tf.Tensor, others: tf.Tensor) -> tf.Tensor:
    """Rows of `images` where `on` [b] is true, else rows of `others`."""
    # It copies row by row; tf.where would broadcast, which is many times slower.
    return tf.raw_ops.Select(condition=on, x=images, y=others)


def change(
    on: tf.Tensor, fn: Callable[..., tf.Tensor], images: tf.Tensor, *settings: tf.Tensor
) -> tf.Tensor:
    """`fn(images, *settings)` for the rows where `on` [b] is true, the others as is.

    For what costs more than copying.
    """
    rows = tf.where(on)
    changed = fn(*(tf.gather_nd(x, rows) for x in (images, *settings)))
    return tf.tensor_scatter_nd_update(images, rows, changed)


def separable(image: tf.Tensor, rows: tf.Tensor, columns: tf.Tensor) -> tf.Tensor:
    """A linear map of rows, then one of columns, another for each image.

    Args:
      image: [b, c, h, w].
      rows: [b, h', h].
      columns: [b, w', w].

    Returns:
      [b, c, h', w'].
    """
    image = tf.matmul(image, columns[:, None], transpose_b=True)
    return tf.matmul(rows[:, None], image)


def luma(channels: int) -> tuple[float, ...]:
    """Weights of grey: torchvision's of red, green and blue, or of grey itself.

    Raises:
      UserError: There are neither three channels nor one.
    """
    if channels not in (1, 3):
        raise UserError(f"Views need colour or grey images, not {channels} channels")
    return (0.2989, 0.587, 0.114) if channels == 3 else (1.0,)


def probability(name: str, p: float) -> float:
    """`p`, if it is one.

    Raises:
      UserError: It is not.
    """
    if not isinstance(p, (int, float)) or not 0 <= p <= 1:
        raise UserError(f"{name} = {p} is no probability")
    return p


def interval(name: str, bounds: Sequence[float]) -> tuple[float, float]:
    """`bounds`, if they are (low, high) with 0 < low <= high.

    Raises:
      UserError: They are not.
    """
    try:
        low, high = bounds
        fits = 0 < low <= high
    except (TypeError, ValueError):
        fits = False
    if not fits:
        raise UserError(f"{name} = {bounds} must be two numbers, 0 < low <= high")
    return low, high
