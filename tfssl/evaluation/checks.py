"""Does an attack do its work? Carlini et al. 2019, as experiments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gin
import numpy as np
import tensorflow as tf

from tfssl.evaluation.classifier import Classifier
from tfssl.evaluation.evaluators import (
    Cell,
    Outcome,
    check_examples,
    grid,
    scatter,
)
from tfssl.evaluation.gates import GateError
from tfssl.evaluation.results import describe, size
from tfssl.evaluation.subject import Subject
from tfssl.evaluation.trial import Trial, correct, margin, perturb
from tfssl.types import Batch, UserError

# What a weaker attack may break that the attack does not, as a share of the examples,
# and what is said if it breaks more.
_WEAKER = {
    "noise": (0.0, "random noise of the same norm"),
    "single_step": (0.005, "a single step"),
    "gradient_free": (0.002, "an attack that needs no gradients"),
    "transfer": (0.002, "an attack on another model"),
}
_STRONGER = {"more_steps": "more steps", "more_restarts": "more restarts"}
_TOLERANCE = 0.005
_STILL_RISING = 0.05


@gin.register(module="tfssl.evaluation")
class Checks:
    """Compares an attack with others that ought to be weaker, or no stronger.

    One row each: the accuracy under the attack, under each of the others, at epsilon 0,
    where attacked images must be the clean ones bit by bit (otherwise the evaluation
    fails), and without limits, where nothing may be left (likewise).

    | mark | the rule |
    |---|---|
    | noise_beats_attack | noise breaks an example that the attack does not |
    | single_step_beats_attack | a single step does, for more than 0.5 % of them |
    | gradient_free_beats_attack, transfer_beats_attack | likewise, 0.2 % |
    | more_steps_help, more_restarts_help | accuracy falls by more than 0.5 points |
    | loss_still_rising | with more steps the margin rises more than 5 % further |
    | unbounded_attack_fails | not all examples are broken without limits (fails) |

    Args:
      attack: What is checked. Give it its usual settings.
      epsilon: Radius in [0, 1] units at which to compare.
      others: From a name of the table above, without what follows it ('noise',
        'single_step', 'gradient_free', 'transfer', 'more_steps', 'more_restarts'), to
        an attack in the same ball. Any may be left out.
      about: Names of the evaluators whose numbers rest on the attack.
      examples: How many of the first examples to use.
      name: Of the evaluator and its folder of results.

    Raises:
      UserError: A setting is out of range.
    """

    fatal = ("unbounded_attack_fails",)

    def __init__(
        self,
        attack: Any,
        epsilon: str | float,
        others: Mapping[str, Any],
        about: Sequence[str],
        examples: int = 200,
        name: str = "checks",
    ):
        unknown = sorted(set(others) - set(_WEAKER) - set(_STRONGER))
        if unknown:
            known = ", ".join([*_WEAKER, *_STRONGER])
            raise UserError(f"{name}: no check {unknown[0]!r}, only {known}")
        balls = {other.ball.name for other in (attack, *others.values())}
        if len(balls) > 1:
            raise UserError(f"{name}: compares attacks in one ball, not in {balls}")
        (self.epsilon,) = grid([epsilon], attack.ball.name, name)
        if not self.epsilon:
            raise UserError(f"{name}: epsilon must be positive")
        if isinstance(about, str):
            raise UserError(f"{name}: about is a list of names, not {about!r}")
        check_examples(name, examples)
        self.attack = attack
        self.others = dict(others)
        self.about = list(about)
        self.examples = examples
        self.name = name
        self._trials = {
            role: Trial(other, f"{name} {role}")
            for role, other in {"attack": attack, **others}.items()
        }

    def cells(self) -> list[Cell]:
        attacks = {"attack": self.attack, **self.others, "unbounded": self.attack}
        metrics = {"clean": "accuracy", "attack": "accuracy"}

        def cell(role: str, strength: float, settings: dict[str, Any]) -> Cell:
            return Cell(
                role,
                self.attack.ball.name,
                strength,
                settings | {"role": role},
                metrics.get(role, f"accuracy, {role}"),
                self.examples,
            )

        return [
            cell("clean", 0.0, {"attack": describe(self.attack)}),
            *(
                cell(
                    role,
                    self.epsilon,
                    {"attack": describe(attack), "epsilon": describe(self.epsilon)},
                )
                for role, attack in attacks.items()
            ),
        ]

    def measure(
        self, cell: Cell, subject: Subject, outcomes: Mapping[str, Outcome]
    ) -> Outcome:
        """See `Evaluator`. Beside "correct" there is "margin" [n] float32."""
        if cell.name == "clean":
            return self._clean(subject)
        right = outcomes["clean"]["correct"]
        if not right.any():
            return dict(outcomes["clean"])
        epsilon, role = self.epsilon, cell.name
        if role == "unbounded":
            epsilon, role = self._everything(subject), "attack"
        label = f"{self.name} {cell.name}"
        found = self._trials[role](subject, epsilon, right, label)
        return {
            "correct": scatter(right, found["correct"]),
            "margin": scatter(right, found["margin"]),
        }

    def _everything(self, subject: Subject) -> float:
        """The radius of a ball around any image that holds all others."""
        if self.attack.ball.name == "linf":
            return 1.0
        return float(np.sqrt(subject.sample(1)["image"][0].size))

    def _clean(self, subject: Subject) -> Outcome:
        eager = getattr(self.attack, "eager", False)
        zero = 0.0 if eager else tf.constant(0.0)
        found = subject.map(self._at_zero, zero, eager=eager, label=f"{self.name} zero")
        if not found.pop("same").all():
            raise GateError(f"{self.name}: at epsilon 0 the attack changes images")
        return found

    def _at_zero(
        self, classifier: Classifier, batch: Batch, epsilon: tf.Tensor | float
    ) -> dict[str, tf.Tensor]:
        image, label = batch["image"], batch["label"]
        attacked = perturb(self.attack, classifier, batch, epsilon)
        outputs = classifier.logits(attacked)
        return {
            "same": tf.reduce_all(attacked == image, [1, 2, 3]),
            "correct": correct(outputs, label),
            "margin": margin(outputs, label),
        }

    def marks(self, outcomes: Mapping[str, Outcome]) -> dict[str, str]:
        """See the table above."""
        marks = {}
        at = f"at {self.attack.ball.name} {size(self.epsilon)}"
        of = f"of {len(outcomes['attack']['correct'])} examples"
        attack = outcomes["attack"]
        for role, (tolerance, what) in _WEAKER.items():
            if role not in outcomes:
                continue
            missed = attack["correct"] & ~outcomes[role]["correct"]
            if missed.sum() > tolerance * len(missed):
                marks[f"{role}_beats_attack"] = (
                    f"{what} breaks {missed.sum()} {of} that the attack does not, {at}"
                )
        for role, what in _STRONGER.items():
            if role not in outcomes:
                continue
            n = len(attack["correct"])
            gain = int(attack["correct"].sum()) - int(outcomes[role]["correct"].sum())
            if gain > _TOLERANCE * n:
                marks[f"{role}_help"] = (
                    f"{what} lower the accuracy by {100 * gain / n:.1f} points {at}:"
                    " the attack has not converged"
                )
        if "more_steps" in outcomes:
            marks |= self._rising(outcomes, at)
        left = int(outcomes["unbounded"]["correct"].sum())
        if left:
            marks["unbounded_attack_fails"] = (
                f"{left} {of} withstand the attack even without limits, where every"
                " image is allowed: the attack does not work on this model"
            )
        return marks

    def _rising(self, outcomes: Mapping[str, Outcome], at: str) -> dict[str, str]:
        """How much further the margin rises, where neither attack has won."""
        more, attack = outcomes["more_steps"], outcomes["attack"]
        both = attack["correct"] & more["correct"]
        if not both.any():
            return {}
        start = outcomes["clean"]["margin"][both].mean()
        rise = attack["margin"][both].mean() - start
        further = more["margin"][both].mean() - start
        if further - rise <= _STILL_RISING * max(rise, 0) + 1e-4:
            return {}
        return {
            "loss_still_rising": "with more steps the margin of what withstands rises"
            f" by {further:.3g} instead of {rise:.3g} {at}: the attack stops too early"
        }
