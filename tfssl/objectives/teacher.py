"""A teacher: a copy of the network whose weights follow those of the student."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import tensorflow as tf

from tfssl import distribute


class Teacher:
    """The momentum encoder of MoCo, BYOL and DINO.

    The average is of all weights and of the moving statistics of BatchNorm; of what
    else there is, such as the seeds of dropout, it keeps the first value. In its
    passes BatchNorm normalises by the batch, as the student's does in training; what it
    would have added to the moving statistics is dropped.

    Attributes:
      variables: The averages, for checkpoints. Equal on all replicas.

    Args:
      student: Models that are called one after another; the teacher starts as their
        copy.
    """

    def __init__(self, *student: keras.Model):
        self._student = student
        self._parts = [
            (_copies(model.trainable_variables), _copies(model.non_trainable_variables))
            for model in student
        ]
        self.variables = [v for part in self._parts for group in part for v in group]

    def __call__(self, image: tf.Tensor) -> tf.Tensor | Sequence[tf.Tensor]:
        """What the last model makes of images [n, h, w, c], without gradient."""
        x = image
        for model, (trained, others) in zip(self._student, self._parts, strict=True):
            x, _ = model.stateless_call(
                [tf.convert_to_tensor(v) for v in trained],
                [tf.convert_to_tensor(v) for v in others],
                x,
                training=True,
            )
        return tf.nest.map_structure(tf.stop_gradient, x)

    def follow(self, momentum: tf.Tensor | float) -> None:
        """teacher = momentum * teacher + (1 - momentum) * student."""
        for model, (trained, others) in zip(self._student, self._parts, strict=True):
            for averages, values in (
                (trained, model.trainable_variables),
                (others, model.non_trainable_variables),
            ):
                for average, value in zip(averages, values, strict=True):
                    if not average.dtype.is_floating:
                        continue
                    change = tf.convert_to_tensor(value) - average
                    average.assign_add((1 - momentum) * change)


def _copies(variables: Sequence[keras.Variable]) -> list[tf.Variable]:
    return [distribute.state(v.value, f"teacher/{v.path}") for v in variables]
