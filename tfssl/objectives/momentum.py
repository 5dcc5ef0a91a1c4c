"""How fast a teacher follows, over the course of a run."""

from __future__ import annotations

import math

import tensorflow as tf


def cosine_momentum(base: float, final: float, progress: tf.Tensor) -> tf.Tensor:
    """final - (final - base) (cos(pi progress) + 1) / 2: from `base` to `final`.

    Grill et al. 2020 (BYOL, arXiv:2006.07733), section 3.3, where `final` is 1.

    Args:
      base: Momentum at the start of the run.
      final: Momentum at its end.
      progress: The share of the run that is done, in [0, 1], of any shape.

    Returns:
      Of the shape of `progress`.
    """
    return final - (final - base) * (tf.cos(math.pi * progress) + 1) / 2
