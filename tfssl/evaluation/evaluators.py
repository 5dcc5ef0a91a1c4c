"""What is measured of a classifier. A new evaluator is a class like those here."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import gin
import numpy as np
import tensorflow as tf

from tfssl.evaluation.classifier import Classifier
from tfssl.evaluation.intervals import wilson
from tfssl.evaluation.results import describe, size
from tfssl.evaluation.subject import Subject
from tfssl.evaluation.trial import Trial, correct
from tfssl.types import Batch, UserError, fraction

Outcome = dict[str, np.ndarray]
"""Arrays [n, ...] of a measured cell, one entry per example: "correct" [n] bool,
whether it is classified right, or "value" [n], whose mean is the cell's number unless
`Cell.number` makes another, and what later cells may want to know. Beside them there
may be "out" [m], of the examples of another data set."""


def share_correct(outcome: Outcome) -> tuple[float, float, float]:
    """The share of examples that are classified right, and its Wilson interval."""
    correct = outcome["correct"]
    return float(correct.mean()), *wilson(int(correct.sum()), len(correct))


def mean_value(outcome: Outcome) -> tuple[float, float, float]:
    """The mean of "value" [n], and its normal 95 % interval."""
    value = outcome["value"].astype(np.float64)
    half = 1.959964 * float(value.std()) / len(value) ** 0.5
    return float(value.mean()), float(value.mean()) - half, float(value.mean()) + half


@dataclasses.dataclass(frozen=True)
class Cell:
    """One number to measure: by default the share that is classified right.

    Attributes:
      name: Of its files.
      perturbation, strength, metric: As in `types.Row`.
      settings: All of the evaluator that determines the number, as `describe` gives it.
      examples: Measure that many of the first examples; all if None.
      number: From the outcome to the number and the ends of its 95 % interval.
      unit: As in `types.Row`.
      dataset: A data set whose split 'test' to measure on; the evaluation's own data if
        None. It is not looked for before it is needed. An object with a `name`;
        `open()`, which returns the data set; and `identity()`: what tells it from
        others of that name, with its number of 'examples', or None if it is not there.
      paired: Whether the examples of `dataset` are the evaluation's own ones in another
        form, with the same ids: then they are those that are evaluated, and the row
        has the name of the own data set.
      keep: Measure some examples alone: from the labels [n] of all to [n] bool. It may
        open data sets that the settings name.
    """

    name: str
    perturbation: str
    strength: float
    settings: dict[str, Any]
    metric: str = "accuracy"
    examples: int | None = None
    number: Callable[[Outcome], tuple[float, float, float]] = share_correct
    unit: str = "%"
    dataset: Any = None
    paired: bool = False
    keep: Callable[[np.ndarray], np.ndarray] | None = None


class Evaluator(Protocol):
    """Measures its cells one by one, in order.

    If it has a method `marks(outcomes)`, that is asked, once all cells are measured,
    for the reasons to doubt the numbers: a dict from a short name, such as
    'noise_beats_attack', to a sentence. They go to its own numbers and to those of the
    evaluators whose names are listed in its attribute `about`, if there is one.

    If its attribute `on_features` is true, it looks at features alone: it measures
    encoders as well as classifiers.
    """

    name: str

    def cells(self) -> list[Cell]:
        """What it measures."""

    def measure(
        self, cell: Cell, subject: Subject, outcomes: Mapping[str, Outcome]
    ) -> Outcome:
        """Measures one cell.

        Args:
          cell: One of `cells()`.
          subject: Classifier and the cell's examples.
          outcomes: Of the cells before it, by name.
        """


@gin.register(module="tfssl.evaluation")
class Clean:
    """Accuracy on the images as they are."""

    name = "clean"

    def cells(self) -> list[Cell]:
        return [Cell("clean", "none", 0.0, {"evaluator": describe(self)})]

    def measure(
        self, cell: Cell, subject: Subject, outcomes: Mapping[str, Outcome]
    ) -> Outcome:
        return clean(subject, self.name)


@gin.register(module="tfssl.evaluation")
class AttackCurve:
    """Accuracy under an attack, over a grid of epsilons, each attacked in full.

    An example counts as broken from the smallest epsilon on at which it was broken,
    and is not attacked again: a perturbation is also one of every larger ball. Hence
    the accuracy never rises with epsilon. At epsilon 0 it is the clean accuracy.
    `Ensemble` needs fewer attacks for the same curve.

    Args:
      attack: See `Trial`.
      epsilons: Radii in [0, 1] units, ascending: ['0', '2/255', '8/255'].
      name: Of the evaluator and its folder of results, for instance 'pgd20_linf'.

    Raises:
      UserError: A setting is out of range.
    """

    def __init__(self, attack: Any, epsilons: Sequence[str | float], name: str):
        self._trial = Trial(attack, name)
        self.attack = attack
        self.epsilons = grid(epsilons, attack.ball.name, name)
        self.name = name

    def cells(self) -> list[Cell]:
        attack = describe(self.attack)
        return [
            Cell(
                f"epsilon_{epsilon!r}",
                self.attack.ball.name,
                epsilon,
                # Smaller epsilons matter, for what they broke; larger ones do not, so
                # that a grid can be continued.
                {"attack": attack, "epsilons": describe(self.epsilons[: i + 1])},
            )
            for i, epsilon in enumerate(self.epsilons)
        ]

    def measure(
        self, cell: Cell, subject: Subject, outcomes: Mapping[str, Outcome]
    ) -> Outcome:
        if outcomes:
            previous = list(outcomes.values())[-1]["correct"]
        else:
            previous = clean(subject, f"{self.name} clean")["correct"]
        if cell.strength == 0 or not previous.any():
            return {"correct": previous}
        label = f"{self.name} {size(cell.strength)}"
        found = self._trial(subject, cell.strength, previous, label)
        return {"correct": scatter(previous, found["correct"])}


def need_logits(evaluators: Sequence[Evaluator]) -> bool:
    """Whether some evaluator looks at more than features."""
    return not all(getattr(e, "on_features", False) for e in evaluators)


def grid(epsilons: Sequence[str | float], ball: str, name: str) -> list[float]:
    """Reads radii.

    Raises:
      UserError: They do not ascend, or are out of range, or `name` fits no folder.
    """
    check_name(name)
    if isinstance(epsilons, str) or not isinstance(epsilons, Sequence):
        raise UserError(f"{name}: epsilons must be a list, not {epsilons!r}")
    radii = [fraction(epsilon) for epsilon in epsilons]
    if not radii or radii != sorted(set(radii)):
        raise UserError(f"{name}: epsilons must ascend, not be {list(epsilons)}")
    if ball == "linf" and radii[-1] > 1:
        raise UserError(
            f"{name}: epsilon {epsilons[-1]} is out of range: images are in [0, 1],"
            " so write '8/255' rather than 8"
        )
    return radii


def check_examples(name: str, examples: int) -> None:
    """Raises a UserError unless it is a number of examples that can be measured."""
    if type(examples) is not int or examples < 1:
        raise UserError(f"{name}: examples = {examples!r} is no positive integer")


def check_name(name: str) -> None:
    """Raises UserError unless a name is fit for a folder's."""
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise UserError(f"evaluator name {name!r} must be fit for a folder's name")


def clean(subject: Subject, label: str) -> Outcome:
    """Which images are classified right as they are: "correct" [n] bool."""
    return subject.map(_clean, label=label)


def beyond(distance: np.ndarray, epsilon: float) -> np.ndarray:
    """Whether a ball is too small for perturbations of these norms, up to rounding."""
    return distance > epsilon * (1 + 1e-6)


def scatter(keep: np.ndarray, values: np.ndarray, rest: Any = False) -> np.ndarray:
    """[n] of values [m] at the m positions where `keep` is true, `rest` elsewhere."""
    whole = np.full(keep.shape, rest, values.dtype)
    whole[keep] = values
    return whole


def _clean(classifier: Classifier, batch: Batch) -> dict[str, tf.Tensor]:
    return {"correct": correct(classifier.logits(batch["image"]), batch["label"])}
