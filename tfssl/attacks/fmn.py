"""FMN, the fast minimum-norm attack (Pintor et al. 2021)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import gin
import tensorflow as tf

from tfssl.attacks import lanes
from tfssl.attacks.attack import Attack
from tfssl.attacks.balls import L2
from tfssl.attacks.goals import misclassified
from tfssl.losses import classification
from tfssl.types import UserError, fraction

# Where the schedules end, as in the authors' code.
_FINAL_STEP_SHARE = 0.01
_FINAL_GAMMA = 0.001


@gin.register(module="tfssl.attacks")
class FMN(Attack):
    """Looks for the nearest misclassified image, by a ball that grows and shrinks.

    Algorithm 1 of https://arxiv.org/abs/2102.12827, untargeted, started at the clean
    image. A step goes along the gradient of the margin, of l2 norm 1 in either ball,
    then into the ball of the current radius and into [0, 1]. The radius becomes

      min(radius * (1 - gamma), distance of the nearest found)  where delta has won,
      radius * (1 + gamma)                                      where it has not, and
      |delta| + |margin| / dual norm of the gradient            if that is more and
                                                                nothing has been found.

    Step size and gamma fall along half a cosine, to a hundredth of `step_size` and to
    0.001. The attack draws nothing at random.

    In the paper the radius is the last line alone until something has been found. Then
    delta can end just short of the boundary, or where [0, 1] cuts it off, at each step:
    of 194 digits, whose pixels are mostly 0 or 1, 177 were never broken in l2 by 100
    steps, and all are by this rule.

    `perturb` makes the search of `closest`, which ends with the first misclassified
    image found within epsilon; where there is none, it returns the clean image.

    Args:
      ball: A ball of `tfssl.attacks.balls`: the norm to be small.
      steps: K, the number of gradients, each with one forward pass.
      step_size: alpha_0, the l2 norm of the first step, in [0, 1] units.
      gamma: gamma_0 in (0, 1), by what share the radius changes at first.

    Raises:
      UserError: A setting is out of range.
    """

    # Of the class, for objects have it not among their settings: the caller gives it.
    epsilon = None

    def __init__(
        self,
        ball: Any,
        steps: int = 100,
        step_size: str | float = 1.0,
        gamma: float = 0.05,
    ):
        self.ball = ball
        self.steps = steps
        self.step_size = fraction(step_size)
        self.gamma = gamma
        self._check_counts("steps")
        if not self.step_size > 0:
            raise UserError("FMN.step_size must be positive, not 0")
        if not 0 < gamma < 1:
            raise UserError(f"FMN.gamma must lie between 0 and 1, not {gamma!r}")

    def closest(
        self, logits_fn: Callable, image: tf.Tensor, label: tf.Tensor, seed: tf.Tensor
    ) -> tf.Tensor:
        """The nearest misclassified images found.

        Arguments as of `perturb`; `seed` is not used. Returns [b, h, w, c] in [0, 1]:
        the clean image where none was found, or where it is misclassified itself.
        """
        del seed
        return self._search(logits_fn, image, label, 0.0)[0]

    def _perturb(self, logits_fn, image, label, seed, epsilon):
        del seed
        found, distance = self._search(logits_fn, image, label, epsilon)
        return tf.where(distance <= epsilon, found, image)

    def _search(self, logits_fn, image, label, enough):
        """Nearest images [b, h, w, c] and their distances [b, 1, 1, 1], or infinity.

        An example is done once it has a distance of at most `enough`.
        """
        nowhere = tf.fill([tf.shape(image)[0], 1, 1, 1], float("inf"))

        def step(state: lanes.State) -> lanes.State:
            image, x = state["image"], state["x"]
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(x)
                logits = logits_fn(x)
                margin = classification.margin(state["label"], logits)
            gradient = tape.gradient(
                margin, x, unconnected_gradients=tf.UnconnectedGradients.ZERO
            )
            gradient = tf.where(tf.math.is_finite(gradient), gradient, 0.0)
            won = _column(misclassified(state["label"], logits))

            delta = x - image
            norm = self.ball.norm(delta)
            nearer = won & (norm < state["distance"])
            distance = tf.where(nearer, norm, state["distance"])

            progress = _column(tf.cast(state["step"], tf.float32)) / self.steps
            cosine = (1 + tf.cos(math.pi * progress)) / 2
            share = _FINAL_STEP_SHARE + (1 - _FINAL_STEP_SHARE) * cosine
            gamma = _FINAL_GAMMA + (self.gamma - _FINAL_GAMMA) * cosine

            # The rise along the steepest direction of norm 1 is the dual norm.
            slope = tf.reduce_sum(
                gradient * self.ball.steepest(gradient), [1, 2, 3], keepdims=True
            )
            to_boundary = tf.math.divide_no_nan(tf.abs(_column(margin)), slope)
            found = tf.math.is_finite(distance)
            radius = tf.where(
                won,
                tf.minimum(state["radius"] * (1 - gamma), distance),
                tf.maximum(
                    state["radius"] * (1 + gamma),
                    tf.where(found, 0.0, norm + to_boundary),
                ),
            )
            delta += self.step_size * share * L2().steepest(gradient)
            delta = self.ball.project(delta, radius)

            taken = state["step"] + 1
            return {
                **state,
                "x": tf.clip_by_value(image + delta, 0.0, 1.0),
                "radius": radius,
                "nearest": tf.where(nearer, x, state["nearest"]),
                "distance": distance,
                "step": taken,
                "active": (taken < self.steps) & (distance[:, 0, 0, 0] > enough),
            }

        state = {
            "image": image,
            "label": label,
            "x": image,
            "radius": tf.zeros_like(nowhere),
            "nearest": image,
            "distance": nowhere,
            "step": tf.zeros_like(label),
            "active": tf.ones_like(label, tf.bool),
        }
        found = lanes.run(step, state, ["nearest", "distance"])
        return found["nearest"], found["distance"]


def _column(value: tf.Tensor) -> tf.Tensor:
    """[b] to [b, 1, 1, 1]."""
    return value[:, None, None, None]
