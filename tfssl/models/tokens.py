"""From maps of patches to tokens and back: the layers of a ViT that Keras lacks."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable(package="tfssl")
class Tokens(keras.layers.Layer):
    """Patches [b, h, w, d] to tokens [b, 1 + h w, d]: a class token and positions.

    The position embedding is learned for one grid, and interpolated for patches on
    another by cubic convolution, edges repeated, with PyTorch's constant -0.75, as in
    DINO (arXiv:2104.14294). DINO's scale is (size + 0.1) / grid, this one size / grid,
    so that its own grid gets the embedding as it is.

    Args:
      grid: (h, w) of the position embedding.
    """

    def __init__(self, grid: Sequence[int], **kwargs):
        super().__init__(**kwargs)
        self.grid = tuple(grid)

    def build(self, patches_shape):
        width = patches_shape[-1]
        count = 1 + self.grid[0] * self.grid[1]
        # Of its own each: a shared initializer draws the same numbers again.
        self.class_token = self.add_weight(
            (1, 1, width),
            keras.initializers.TruncatedNormal(stddev=0.02),
            name="class_token",
        )
        self.position = self.add_weight(
            (1, count, width),
            keras.initializers.TruncatedNormal(stddev=0.02),
            name="position",
        )

    def call(self, patches):
        height, width = _sizes(patches)
        position = tf.convert_to_tensor(self.position)
        token = tf.convert_to_tensor(self.class_token) + position[:, :1]
        depth = position.shape[-1]
        position = tf.reshape(position[:, 1:], [1, *self.grid, depth])
        if tuple(patches.shape[1:3]) != self.grid:
            position = interpolate(position, height, width)
        patches = tf.reshape(patches + position, [-1, height * width, depth])
        token = tf.repeat(token, tf.shape(patches)[0], axis=0)
        return tf.concat([token, patches], axis=1)

    def get_config(self) -> dict:
        return {**super().get_config(), "grid": self.grid}


@keras.saving.register_keras_serializable(package="tfssl")
class ClassToken(keras.layers.Layer):
    """Tokens [b, 1 + n, d] to the first of them, [b, 1, d]."""

    def call(self, tokens):
        return tokens[:, :1]


@keras.saving.register_keras_serializable(package="tfssl")
class PatchMap(keras.layers.Layer):
    """Tokens [b, 1 + h w, d] without the first as a map [b, h, w, d].

    Called with a pair: the tokens, and patches [b, h, w, any] whose size the map has.
    """

    def call(self, tokens_and_patches):
        tokens, patches = tokens_and_patches
        return tf.reshape(tokens[:, 1:], [-1, *_sizes(patches), tokens.shape[-1]])


def interpolate(
    position: tf.Tensor,
    height: int | tf.Tensor,
    width: int | tf.Tensor,
    extra: float = 0.0,
) -> tf.Tensor:
    """Maps [b, h, w, d] to maps [b, height, width, d], as DINO does with positions.

    By cubic convolution, edges repeated, with PyTorch's constant -0.75
    (arXiv:2104.14294).

    Args:
      position: The maps, float.
      height, width: The new size.
      extra: Places lie as if the new size were larger by this. With 0 a map of the same
        size stays as it is; DINO has 0.1, against rounding in PyTorch.
    """
    # Not by tf.image, which has neither this constant nor a kernel for GPUs.
    rows = _cubic(position.shape[1], height, extra)
    columns = _cubic(position.shape[2], width, extra)
    return tf.einsum(
        "ih,jw,bhwd->bijd",
        tf.cast(rows, position.dtype),
        tf.cast(columns, position.dtype),
        position,
    )


def _sizes(patches: tf.Tensor) -> list[int | tf.Tensor]:
    """h and w of a map [b, h, w, any]: numbers where they are known."""
    return [n or tf.shape(patches)[i] for i, n in enumerate(patches.shape[1:3], 1)]


def _cubic(old: int, new: int | tf.Tensor, extra: float) -> tf.Tensor:
    """[new, old], the matrix that interpolates `old` numbers at `new` places.

    Cubic convolution (Keys 1981, doi:10.1109/TASSP.1981.1163711).
    """
    a = -0.75
    place = tf.range(tf.cast(new, tf.float32)) + 0.5
    place = (place * old / (tf.cast(new, tf.float32) + extra))[:, None] - 0.5
    neighbour = tf.floor(place) + [-1.0, 0.0, 1.0, 2.0]
    x = tf.abs(place - neighbour)
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * (x**3 - 5 * x**2 + 8 * x - 4)
    weight = tf.where(x <= 1, near, far)
    inside = tf.clip_by_value(tf.cast(neighbour, tf.int32), 0, old - 1)
    return tf.reduce_sum(weight[..., None] * tf.one_hot(inside, old), axis=1)
