"""Optimizers, with weight decay on kernels only (not on biases and BatchNorm)."""

from __future__ import annotations

from collections.abc import Sequence

import gin
import keras
import tensorflow as tf

from tfssl import distribute
from tfssl.types import UserError


class _SGD(keras.optimizers.SGD):
    """SGD with L2 regularisation, which momentum carries on like any gradient."""

    def __init__(self, l2: float, **kwargs):
        super().__init__(**kwargs)
        self.l2 = l2

    def apply(self, grads: Sequence[tf.Tensor], trainable_variables=None):
        variables = trainable_variables or self._trainable_variables
        # Gradients are about to be summed over replicas: each adds its share.
        share = self.l2 / distribute.replicas()
        grads = [
            gradient + share * tf.cast(tf.convert_to_tensor(variable), gradient.dtype)
            if _decays(variable)
            else gradient
            for gradient, variable in zip(grads, variables, strict=True)
        ]
        return super().apply(grads, trainable_variables)


def _check_decay(weight_decay: float) -> None:
    if not 0 <= weight_decay < float("inf"):
        raise UserError(f"weight_decay must be >= 0, not {weight_decay!r}")


def _decays(variable: keras.Variable) -> bool:
    return variable.name.endswith("kernel")


@gin.register(module="tfssl.training")
def sgd(
    learning_rate,
    weight_decay: float = 5e-4,
    momentum: float = 0.9,
    nesterov: bool = False,
) -> keras.optimizers.Optimizer:
    """SGD as the robustness literature uses it.

    Args:
      learning_rate: A number or schedule.
      weight_decay: Factor of the kernels that is added to their gradients, as
        torch.optim.SGD does. (The argument of that name in Keras is decoupled from
        momentum, and so about ten times weaker at momentum 0.9.)
      momentum: Momentum.
      nesterov: Nesterov's form.
    """
    _check_decay(weight_decay)
    return _SGD(
        name="sgd",
        l2=weight_decay,
        learning_rate=learning_rate,
        momentum=float(momentum),
        nesterov=nesterov,
    )


@gin.register(module="tfssl.training")
def adam(learning_rate) -> keras.optimizers.Optimizer:
    """Adam (Kingma & Ba 2015) with the usual constants."""
    return keras.optimizers.Adam(learning_rate)


class _AdamW(keras.optimizers.AdamW):
    def build(self, variables):
        if not self.built:
            self.exclude_from_weight_decay([v for v in variables if not _decays(v)])
        super().build(variables)


@gin.register(module="tfssl.training")
def adamw(learning_rate, weight_decay: float = 0.05) -> keras.optimizers.Optimizer:
    """AdamW (Loshchilov & Hutter 2019): decay decoupled from the gradient.

    Args:
      learning_rate: A number or schedule.
      weight_decay: kernel -= learning_rate * weight_decay * kernel in each step.
    """
    _check_decay(weight_decay)
    return _AdamW(learning_rate, weight_decay=weight_decay, name="adamw")
