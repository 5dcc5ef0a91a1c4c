"""The attacks of cleverhans 4, by name, for evaluation: a second opinion on ours.

They return the last iterate, not the best, and run eagerly with one epsilon for the
whole batch. cleverhans' own random start is not seeded per example, so none is used
here: their numbers repeat.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gin
import numpy as np
import tensorflow as tf
from cleverhans.tf2.attacks.fast_gradient_method import fast_gradient_method
from cleverhans.tf2.attacks.momentum_iterative_method import momentum_iterative_method
from cleverhans.tf2.attacks.projected_gradient_descent import (
    projected_gradient_descent,
)

from tfssl.types import fraction


class _CleverhansAttack:
    """Common part. `eager` tells evaluators to call outside of graphs."""

    eager = True

    def __init__(self, ball: Any):
        self.ball = ball

    @property
    def _norm(self) -> float:
        return {"linf": np.inf, "l2": 2.0}[self.ball.name]

    def perturb(
        self,
        logits_fn: Callable,
        image: tf.Tensor,
        label: tf.Tensor,
        seed: tf.Tensor,
        epsilon: float,
    ) -> tf.Tensor:
        """Images [b, h, w, c] in [0, 1] to attacked ones; `seed` is not used."""
        del seed
        if epsilon == 0:
            return image
        return self._attack(
            # A stable callable: cleverhans keys its graphs on it, and would trace
            # anew for every fresh lambda.
            model_fn=logits_fn,
            x=image,
            y=tf.cast(label, tf.int64),
            norm=self._norm,
            clip_min=0.0,
            clip_max=1.0,
            sanity_checks=False,
            **self._settings(float(epsilon)),
        )


@gin.register(module="tfssl.attacks")
class CleverhansFGM(_CleverhansAttack):
    """Fast gradient method (Goodfellow 2015) of cleverhans.

    Args:
      ball: `Linf` or `L2`.
    """

    def _attack(self, **kwargs):
        return fast_gradient_method(**kwargs)

    def _settings(self, epsilon: float) -> dict:
        return {"eps": epsilon}


class _Iterative(_CleverhansAttack):
    def __init__(
        self,
        ball: Any,
        steps: int = 20,
        step_size: str | float | None = None,
        relative_step_size: float = 0.1,
    ):
        super().__init__(ball)
        self.steps = steps
        self.step_size = None if step_size is None else fraction(step_size)
        self.relative_step_size = relative_step_size

    def _settings(self, epsilon: float) -> dict:
        step_size = self.step_size or self.relative_step_size * epsilon
        # cleverhans asserts that a step is no longer than epsilon.
        return {
            "eps": epsilon,
            "eps_iter": min(step_size, epsilon),
            "nb_iter": self.steps,
        }


@gin.register(module="tfssl.attacks")
class CleverhansPGD(_Iterative):
    """Projected gradient descent (Madry 2018) of cleverhans, started at the image.

    Args:
      ball: `Linf` or `L2`.
      steps: Number of gradients.
      step_size: Length of a step in [0, 1] units, cut at epsilon; or
      relative_step_size: the same as a multiple of epsilon.
    """

    def _attack(self, **kwargs):
        return projected_gradient_descent(**kwargs, rand_init=False)


@gin.register(module="tfssl.attacks")
class CleverhansMIM(_Iterative):
    """Momentum iterative method (Dong 2018) of cleverhans; decay factor 1.

    Args:
      ball: `Linf` or `L2`.
      steps: Number of gradients.
      step_size: Length of a step in [0, 1] units, cut at epsilon; or
      relative_step_size: the same as a multiple of epsilon.
    """

    def _attack(self, **kwargs):
        return momentum_iterative_method(**kwargs)
