"""A whole curve from one attack that looks for the smallest perturbation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gin
import numpy as np

from tfssl.evaluation.evaluators import Cell, Outcome, beyond, grid
from tfssl.evaluation.results import describe
from tfssl.evaluation.subject import Subject
from tfssl.evaluation.trial import Trial
from tfssl.types import UserError


@gin.register(module="tfssl.evaluation")
class MinimumNormCurve:
    """Accuracy over a grid of epsilons, by one minimum-norm attack on each example.

    An example is broken from the norm of the smallest perturbation found on. The cells
    hold it: "distance" [n] float32, inf where nothing was found.

    Args:
      attack: With a method `closest(logits_fn, image, label, seed) -> image'`, the
        nearest image that is misclassified, or the clean one.
      epsilons: Radii in [0, 1] units, ascending.
      name: Of the evaluator and its folder of results, for instance 'fmn_l2'.

    Raises:
      UserError: A setting is out of range.
    """

    def __init__(self, attack: Any, epsilons: Sequence[str | float], name: str):
        if not hasattr(attack, "closest"):
            raise UserError(f"{name}: {type(attack).__name__} minimises no norm")
        self.attack = attack
        self.epsilons = grid(epsilons, attack.ball.name, name)
        self.name = name
        self._trial = Trial(_Closest(attack), name)

    def cells(self) -> list[Cell]:
        settings = {"attack": describe(self.attack)}
        return [
            Cell(f"epsilon_{epsilon!r}", self.attack.ball.name, epsilon, settings)
            for epsilon in self.epsilons
        ]

    def measure(
        self, cell: Cell, subject: Subject, outcomes: Mapping[str, Outcome]
    ) -> Outcome:
        if outcomes:
            distance = next(iter(outcomes.values()))["distance"]
        else:
            everything = np.ones(len(subject.ids), bool)
            found = self._trial(subject, float("inf"), everything, self.name)
            distance = found["distance"]
        right = beyond(distance, cell.strength)
        return {"correct": right, "distance": distance}


class _Closest:
    """A minimum-norm attack as one in a ball without limits."""

    def __init__(self, attack: Any):
        self.ball = attack.ball
        self._attack = attack

    def perturb(self, logits_fn, image, label, seed, epsilon):
        del epsilon
        return self._attack.closest(logits_fn, image, label, seed)
