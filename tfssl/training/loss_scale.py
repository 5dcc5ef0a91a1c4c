"""Losses that are scaled, so that gradients in float16 do not vanish."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import tensorflow as tf

from tfssl import distribute


def loss_scaled(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """The optimizer for float16: it scales losses, and leaves out steps whose gradients
    overflow. These do not count for schedules.
    """
    return keras.optimizers.LossScaleOptimizer(optimizer, name="loss_scale")


def agreed(gradients: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Gradients that are finite on all replicas, or NaN on all.

    `keras.optimizers.LossScaleOptimizer` looks at those of one replica before they are
    summed, as if they were the sum.
    """
    if distribute.replicas() == 1:
        return list(gradients)
    sums = tf.stack([tf.reduce_sum(0.0 * gradient) for gradient in gradients])
    either = tf.reduce_sum(distribute.gather(sums))
    return [gradient + either for gradient in gradients]
