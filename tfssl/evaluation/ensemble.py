"""The worst of several attacks, example by example: AutoAttack, and curves of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gin
import numpy as np

from tfssl.evaluation.evaluators import (
    Cell,
    Outcome,
    beyond,
    check_name,
    clean,
    grid,
    scatter,
)
from tfssl.evaluation.results import describe, size
from tfssl.evaluation.subject import Subject
from tfssl.evaluation.trial import Trial
from tfssl.types import UserError

# Croce and Hein's own threshold for their warning (flags_doc.md of AutoAttack).
_GRADIENT_FREE_GAIN = 0.002


@gin.register(module="tfssl.evaluation")
class Ensemble:
    """Accuracy under the worst of several attacks, over a grid of epsilons.

    The attacks run in their order, each from the clean images, and only on those that
    all before it have left standing (Croce & Hein 2020, section 5: AutoAttack). One row
    for each says how much is left after it; the row of the last is the accuracy.

    A grid is measured from its largest epsilon downwards. What withstands an epsilon is
    taken to withstand smaller ones, and is not attacked again; what was broken by a
    perturbation of some norm stays broken down to that norm; so that each example meets
    a whole unsuccessful attack only once. (`AttackCurve` goes upwards and attacks all
    that stands at each epsilon: use it where a larger ball may mislead the attack.)

    Args:
      attacks: From a name to an attack of one and the same ball, in order. An attack
        with a true attribute `gradient_free` is expected to find nothing after others;
        if it does, the numbers are marked.
      epsilons: Radii in [0, 1] units, ascending: ['8/255'].
      name: Of the evaluator and its folder of results, for instance 'autoattack_linf'.

    Raises:
      UserError: A setting is out of range.
    """

    def __init__(
        self, attacks: Mapping[str, Any], epsilons: Sequence[str | float], name: str
    ):
        if not isinstance(attacks, Mapping) or not attacks:
            raise UserError(f"{name}: attacks are a dict of names and attacks")
        for attack in attacks:
            check_name(attack)
        balls = sorted({attack.ball.name for attack in attacks.values()})
        if len(balls) > 1:
            raise UserError(
                f"{name}: attacks in one ball, not in {' and '.join(balls)}"
            )
        self.attacks = dict(attacks)
        self.epsilons = grid(epsilons, balls[0], name)
        self.name = name
        self._trials = {
            attack: Trial(self.attacks[attack], f"{name} {attack}", closer=True)
            for attack in attacks
        }
        self._ball = balls[0]
        self._last = list(attacks)[-1]

    def cells(self) -> list[Cell]:
        described = [[name, describe(attack)] for name, attack in self.attacks.items()]
        cells = [Cell("clean", self._ball, 0.0, {"attacks": []})]
        radii = [epsilon for epsilon in reversed(self.epsilons) if epsilon]
        for i, epsilon in enumerate(radii):
            for j, attack in enumerate(self.attacks):
                # The attacks after this one matter where they decided what is attacked.
                used = described if i else described[: j + 1]
                last = attack == self._last
                settings = {"attacks": used, "epsilons": describe(radii[: i + 1])}
                cells.append(
                    Cell(
                        _cell(epsilon, attack),
                        self._ball,
                        epsilon,
                        settings | {"attack": attack},
                        "accuracy" if last else f"accuracy after {attack}",
                    )
                )
        return cells

    def measure(
        self, cell: Cell, subject: Subject, outcomes: Mapping[str, Outcome]
    ) -> Outcome:
        """See `Evaluator`. Beside "correct" there is "distance" [n] float32: the norm
        of the smallest perturbation found so far, inf if there is none, 0 if the clean
        image is classified wrong."""
        if cell.name == "clean":
            found = clean(subject, f"{self.name} clean")["correct"]
            distance = np.where(found, np.inf, 0.0).astype("float32")
            return {"correct": found, "distance": distance}
        attack = cell.settings["attack"]
        *_, before = outcomes.values()
        distance = before["distance"].copy()
        standing = self._standing(cell.strength, outcomes)
        undecided = beyond(distance, cell.strength) & ~standing
        if undecided.any():
            label = f"{self.name} {size(cell.strength)} {attack}"
            found = self._trials[attack](subject, cell.strength, undecided, label)
            nearest = np.where(
                found["correct"], np.inf, found["distance"].clip(max=cell.strength)
            ).astype("float32")
            distance = np.minimum(distance, scatter(undecided, nearest, np.inf))
        return {"correct": beyond(distance, cell.strength), "distance": distance}

    def _standing(self, epsilon: float, outcomes: Mapping[str, Outcome]) -> np.ndarray:
        """[n] bool, what has withstood the next larger epsilon."""
        larger = [other for other in self.epsilons if other > epsilon]
        if not larger:
            return np.zeros_like(outcomes["clean"]["correct"])
        return outcomes[_cell(larger[0], self._last)]["correct"]

    def marks(self, outcomes: Mapping[str, Outcome]) -> dict[str, str]:
        """Whether an attack without gradients found what those with them did not."""
        marks = {}
        for epsilon in filter(None, self.epsilons):
            stages = [
                outcomes[_cell(epsilon, name)]["correct"] for name in self.attacks
            ]
            for before, after, name in zip(
                stages, stages[1:], list(self.attacks)[1:], strict=False
            ):
                broken, n = int((before & ~after).sum()), len(after)
                free = getattr(self.attacks[name], "gradient_free", False)
                if free and broken > _GRADIENT_FREE_GAIN * n:
                    marks["gradient_free_attack_helps"] = (
                        f"{name} lowers the accuracy at {size(epsilon)} by another"
                        f" {100 * broken / n:.1f} points: gradients may mislead the"
                        " attacks before it, and the true robustness be lower"
                    )
        return marks


def _cell(epsilon: float, attack: str) -> str:
    return f"epsilon_{epsilon!r}_{attack}"
