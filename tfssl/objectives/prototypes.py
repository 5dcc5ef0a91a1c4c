"""Prototypes: directions that embeddings are compared with."""

from __future__ import annotations

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable("tfssl")
class Prototypes(keras.layers.Layer):
    """Cosine similarities of embeddings [n, d] and prototypes, [n, k] in [-1, 1].

    The prototypes are the columns of a matrix [d, k].

    Args:
      count: k.
      weight_norm: Divide the columns by their lengths in each pass, as in DINO.
        Otherwise `normalize` is to be called after each update, as in SwAV.
    """

    def __init__(self, count: int, weight_norm: bool = False, **kwargs):
        super().__init__(dtype="float32", **kwargs)
        self.count = count
        self.weight_norm = weight_norm

    def build(self, input_shape) -> None:
        self.kernel = self.add_weight(
            shape=(input_shape[-1], self.count),
            initializer="random_normal",
            name="kernel",  # What optimizers decay, and LARS adapts to.
            # `normalize` assigns it on each replica.
            aggregation="only_first_replica",
        )
        self.kernel.assign(tf.math.l2_normalize(self.kernel.value, axis=0))

    def call(self, x: tf.Tensor, learns: tf.Tensor | bool = True) -> tf.Tensor:
        kernel = tf.convert_to_tensor(self.kernel)
        kernel = tf.where(learns, kernel, tf.stop_gradient(kernel))
        if self.weight_norm:
            kernel = tf.math.l2_normalize(kernel, axis=0)
        return tf.matmul(tf.math.l2_normalize(x, axis=-1), kernel)

    def normalize(self) -> None:
        """Puts the prototypes back on the unit sphere, after an update."""
        self.kernel.assign(tf.math.l2_normalize(self.kernel.value, axis=0))

    def get_config(self) -> dict:
        config = {"count": self.count, "weight_norm": self.weight_norm}
        return super().get_config() | config
