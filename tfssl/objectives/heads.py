"""Projection heads and predictors."""

from __future__ import annotations

from collections.abc import Sequence

import keras

from tfssl import distribute
from tfssl.types import UserError


def mlp(
    x: keras.KerasTensor,
    widths: Sequence[int],
    name: str,
    batch_norm: bool = True,
    last_batch_norm: bool = False,
    activation: str = "relu",
) -> keras.KerasTensor:
    """Dense layers [n, d] to [n, widths[-1]], with an activation between them.

    Args:
      x: Features.
      widths: Of the layers, the output's last.
      name: Prefix of the layers' names.
      batch_norm: BatchNorm before each activation.
      last_batch_norm: BatchNorm, without scale and centre, of the output.
      activation: 'relu' or 'gelu'.

    Raises:
      UserError: A width is no positive integer.
    """
    if not widths or any(not isinstance(w, int) or w < 1 for w in widths):
        raise UserError(f"widths of a head are positive integers, not {widths!r}")
    for i, width in enumerate(widths, 1):
        last = i == len(widths)
        norm = last_batch_norm if last else batch_norm
        x = keras.layers.Dense(
            width,
            # What BatchNorm subtracts need not be added.
            use_bias=not norm,
            kernel_initializer="he_uniform" if not last else "glorot_uniform",
            dtype="float32" if last else None,
            name=f"{name}_dense{i}",
        )(x)
        if norm:
            x = _normalised(x, f"{name}_bn{i}", affine=not last)
        if not last:
            x = keras.layers.Activation(activation, name=f"{name}_{activation}{i}")(x)
    return x


def _normalised(x: keras.KerasTensor, name: str, affine: bool) -> keras.KerasTensor:
    """BatchNorm over the global batch, as that of the backbones."""
    return keras.layers.BatchNormalization(
        momentum=0.9,
        epsilon=1e-5,
        center=affine,
        scale=affine,
        dtype=None if affine else "float32",
        synchronized=distribute.replicas() > 1,
        name=name,
    )(x)
