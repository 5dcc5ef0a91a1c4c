"""A term: one addend of what a run minimises, and of what its attack maximises."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gin
import tensorflow as tf

from tfssl.types import UserError


@gin.register(module="tfssl.training")
class Term:
    """w * mean of an objective's loss, on clean input or on an adversarial example.

    Args:
      objective: An objective (`docs/design.md`, Contracts).
      weight: w, its weight in the update, or the pair of its values at the start and at
        the end of the run, between which it moves linearly. 0: in the attack only. An
        objective with a head of its own then trains that head alone, on features
        without gradient, since a head of random weights would have nothing to say to
        the attack.
      example: Name of the adversarial example it is computed on; None: the clean input.
        Terms that give one name share one example.
      attack_weight: a, its weight in the search for that example.
      perturb: What the attack changes: 'image', which every term of the example then
        looks at in its own way, or 'views', this term's own inputs (turned copies,
        crops), each with a ball of its own.

    Raises:
      UserError: A setting is out of range or contradicts another.
    """

    def __init__(
        self,
        objective: Any,
        weight: float | Sequence[float] = 1.0,
        example: str | None = None,
        attack_weight: float = 0.0,
        perturb: str = "image",
    ):
        name = objective.name
        weights = weight if isinstance(weight, (list, tuple)) else [weight, weight]
        if len(weights) != 2:
            raise UserError(f"term {name}: weight is a number or two, not {weight!r}")
        for what, value in (
            ("weight", weights[0]),
            ("weight", weights[1]),
            ("attack_weight", attack_weight),
        ):
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not number or not 0 <= value < float("inf"):
                raise UserError(f"term {name}: {what} must be >= 0, not {value!r}")
        if not any([*weights, attack_weight]):
            raise UserError(f"term {name} does nothing: both its weights are 0")
        if attack_weight and example is None:
            raise UserError(f"term {name} has an attack_weight but names no example")
        if perturb not in ("image", "views"):
            raise UserError(
                f"term {name}: perturb must be 'image' or 'views', not {perturb!r}"
            )
        if example and perturb == "image" and objective.pipeline_views:
            raise UserError(
                f"term {name} looks at views that the pipeline has made: an attack on"
                " the image would not reach them; set perturb='views'"
            )
        self.objective = objective
        self.weights = tuple(float(value) for value in weights)
        self.example = example
        self.attack_weight = float(attack_weight)
        self.perturb = perturb

    @property
    def weighs(self) -> bool:
        """Whether it has a weight in the update, at any time."""
        return any(self.weights)

    def weight(self, progress: tf.Tensor) -> tf.Tensor | float:
        """Its weight in the update, after this share of the run."""
        start, end = self.weights
        return start if start == end else start + (end - start) * progress
