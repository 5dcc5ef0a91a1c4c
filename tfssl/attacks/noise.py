"""Random perturbations: the control that an attack has to beat."""

from __future__ import annotations

from typing import Any

import gin
import tensorflow as tf

from tfssl import randomness
from tfssl.attacks import lanes
from tfssl.attacks.attack import Attack
from tfssl.attacks.goals import misclassified
from tfssl.types import UserError


@gin.register(module="tfssl.attacks")
class Noise(Attack):
    """Noise of a given size, which knows nothing of the classifier.

    Returned is the first noisy image that is misclassified, or else the last; the clean
    image where that is misclassified already.

    Args:
      ball: A ball of `tfssl.attacks.balls`.
      epsilon: Its radius, '8/255' or a number in [0, 1] units; may be left out where
        the caller gives one.
      kind: 'uniform' in the ball, or 'gaussian': standard normal, scaled so that the
        ball's norm is epsilon. Both are then clipped to [0, 1].
      draws: Number of perturbations tried; the first that is misclassified counts.

    Raises:
      UserError: A setting is out of range.
    """

    gradient_free = True

    def __init__(
        self,
        ball: Any,
        epsilon: str | float | None = None,
        kind: str = "uniform",
        draws: int = 1,
    ):
        super().__init__(ball, epsilon)
        self.kind = kind
        self.draws = draws
        if kind not in ("uniform", "gaussian"):
            raise UserError(f"Noise.kind must be 'uniform' or 'gaussian', not {kind!r}")
        self._check_counts("draws")

    def _perturb(self, logits_fn, image, label, seed, epsilon):
        state = {
            "clean": image,
            "image": image,
            "label": label,
            "seed": randomness.fold(seed, "noise"),
            "drawn": tf.zeros_like(label),
            "active": ~misclassified(label, logits_fn(image)),
        }

        def step(state: lanes.State) -> lanes.State:
            drawn = state["drawn"]
            stream = state["seed"] + tf.stack([tf.zeros_like(drawn), drawn], 1)
            noise = self._noise(stream, image.shape[1:], epsilon)
            noisy = tf.clip_by_value(state["clean"] + noise, 0.0, 1.0)
            won = misclassified(state["label"], logits_fn(noisy))
            return {
                **state,
                "image": noisy,
                "drawn": drawn + 1,
                "active": ~won & (drawn + 1 < self.draws),
            }

        return lanes.run(step, state, ["image"])["image"]

    def _noise(self, seed: tf.Tensor, shape: tf.TensorShape, epsilon) -> tf.Tensor:
        if self.kind == "uniform":
            return self.ball.random(seed, shape, epsilon)
        normal = randomness.normal(seed, shape)
        return epsilon * normal / self.ball.norm(normal)
