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
      momentum: Momentum, v = momentum * v + learning_rate * g, as in Keras: steps
        remember the rates they were made at. (PyTorch's remember the gradients alone.
        The two differ where the rate changes within a few steps.)
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


class _LARS(keras.optimizers.SGD):
    """SGD with momentum, whose rate is each kernel's own."""

    def __init__(self, l2: float, trust: float, clip: bool, **kwargs):
        super().__init__(**kwargs)
        self.l2 = l2
        self.trust = trust
        self.clip = clip

    def build(self, variables):
        if not self.built:
            # In the update step, variables are TensorFlow's and have other names.
            self._adapts = [_decays(v) for v in variables]
        super().build(variables)

    def update_step(self, gradient, variable, learning_rate):
        # Here gradients are sums over replicas already, and no longer scaled.
        if self._adapts[self._get_variable_index(variable)]:
            gradient = tf.cast(gradient, variable.dtype)
            learning_rate = tf.cast(learning_rate, variable.dtype)
            norm = tf.norm(variable)
            apart = tf.norm(gradient) + self.l2 * norm
            gradient += self.l2 * tf.convert_to_tensor(variable)
            numerator = self.trust * norm
            denominator = apart if self.clip else tf.norm(gradient)
            local = tf.math.divide_no_nan(numerator, denominator)
            rate = learning_rate * local
            if self.clip:
                rate = tf.minimum(local, learning_rate)
            # Kernels of zeros could never leave them.
            learning_rate = tf.where(numerator * denominator > 0, rate, learning_rate)
        super().update_step(gradient, variable, learning_rate)


@gin.register(module="tfssl.training")
def lars(
    learning_rate,
    weight_decay: float = 1e-6,
    momentum: float = 0.9,
    trust: float = 0.001,
    clip: bool = False,
) -> keras.optimizers.Optimizer:
    """LARS (You et al. 2017, arXiv:1708.03888), as SimCLR and BYOL use it.

    For each kernel w with gradient g, and without Nesterov's form,

        u = g + weight_decay * w
        v = momentum * v + learning_rate * trust * ||w|| / ||u|| * u;  w = w - v

    In You et al., eq. 6, the denominator is ||g|| + weight_decay * ||w||, and so it is
    with `clip`. All that is no kernel is trained by plain SGD with momentum.

    Args:
      learning_rate: A number or schedule, in proportion to the batch: 0.3 per 256
        examples in SimCLR, 0.2 in BYOL.
      weight_decay: As above; 1e-6 in SimCLR, 1.5e-6 in BYOL.
      momentum: Momentum.
      trust: Positive; 0.001 in both papers.
      clip: The rate of a kernel is
        min(trust * ||w|| / (||g|| + weight_decay * ||w||), learning_rate) instead of
        the product, as in solo-learn (da Costa et al. 2022, JMLR 23(56)), with a trust
        of 0.02.
    """
    _check_decay(weight_decay)
    if not 0 < trust < float("inf"):
        raise UserError(f"trust must be positive, not {trust!r}")
    return _LARS(
        name="lars",
        l2=weight_decay,
        trust=trust,
        clip=clip,
        learning_rate=learning_rate,
        momentum=float(momentum),
    )
