"""What is measured of a classifier. A new evaluator is a class like those here."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import gin
import numpy as np
import tensorflow as tf

from tfssl.evaluation.results import describe, size
from tfssl.evaluation.subject import Subject
from tfssl.types import Batch, UserError, fraction


@dataclasses.dataclass(frozen=True)
class Cell:
    """One number to measure: the share of examples that are classified right.

    Attributes:
      name: Of its files.
      perturbation, strength, metric: As in `types.Row`.
      settings: All of the evaluator that determines the number, as `describe` gives it.
    """

    name: str
    perturbation: str
    strength: float
    settings: dict[str, Any]
    metric: str = "accuracy"


class Evaluator(Protocol):
    """Measures its cells one by one, in order."""

    name: str

    def cells(self) -> list[Cell]:
        """What it measures."""

    def measure(
        self, cell: Cell, subject: Subject, previous: np.ndarray | None
    ) -> np.ndarray:
        """Measures one cell.

        Args:
          cell: One of `cells()`.
          subject: Classifier and examples.
          previous: Result of the preceding cell, None for the first.

        Returns:
          [n] bool, whether each example is classified right.
        """


@gin.register(module="tfssl.evaluation")
class Clean:
    """Accuracy on the images as they are."""

    name = "clean"

    def cells(self) -> list[Cell]:
        return [Cell("clean", "none", 0.0, {"evaluator": describe(self)})]

    def measure(
        self, cell: Cell, subject: Subject, previous: np.ndarray | None
    ) -> np.ndarray:
        return subject.map(_clean, label=self.name)["correct"]


@gin.register(module="tfssl.evaluation")
class AttackCurve:
    """Accuracy under an attack, over a grid of epsilons.

    An example counts as broken from the smallest epsilon on at which it was broken,
    and is not attacked again: a perturbation is also one of every larger ball. Hence
    the accuracy never rises with epsilon. At epsilon 0 it is the clean accuracy.

    An attack is not believed: its image must lie in the ball and in [0, 1], and goes
    through the classifier once more.

    Args:
      attack: An attack with `ball.name` 'linf' or 'l2', see the design page. If it has
        a true attribute `eager` it is called outside of graphs with a Python number.
      epsilons: Radii in [0, 1] units, ascending: ['0', '2/255', '8/255'].
      name: Of the evaluator and its folder of results, for instance 'pgd20_linf'.

    Raises:
      UserError: A setting is out of range.
    """

    def __init__(self, attack: Any, epsilons: Sequence[str | float], name: str):
        if attack.ball.name not in _NORMS:
            raise UserError(
                f"{name}: no check for the ball {attack.ball.name!r}, only for"
                f" {' and '.join(_NORMS)}"
            )
        if not re.fullmatch(r"\w[\w.-]*", name):
            raise UserError(f"evaluator name {name!r} must be fit for a folder's name")
        self.attack = attack
        self.epsilons = [fraction(epsilon) for epsilon in epsilons]
        self.name = name
        if not self.epsilons or self.epsilons != sorted(set(self.epsilons)):
            raise UserError(f"{name}: epsilons must ascend, not be {list(epsilons)}")
        if attack.ball.name == "linf" and self.epsilons[-1] > 1:
            raise UserError(
                f"{name}: epsilon {epsilons[-1]} is out of range: images are in [0, 1],"
                " so write '8/255' rather than 8"
            )

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
        self, cell: Cell, subject: Subject, previous: np.ndarray | None
    ) -> np.ndarray:
        if previous is None:
            previous = subject.map(_clean, label=f"{self.name} clean")["correct"]
        if cell.strength == 0 or not previous.any():
            return previous
        eager = getattr(self.attack, "eager", False)
        found = subject.map(
            self._attacked,
            cell.strength if eager else tf.constant(cell.strength, tf.float32),
            keep=previous,
            eager=eager,
            label=f"{self.name} {size(cell.strength)}",
        )
        self._check(found, cell.strength)
        correct = previous.copy()
        correct[previous] = found["correct"]
        return correct

    def _attacked(
        self, logits: Callable, batch: Batch, epsilon: tf.Tensor | float
    ) -> dict[str, tf.Tensor]:
        image = batch["image"]
        attacked = tf.ensure_shape(
            self.attack.perturb(logits, image, batch["label"], batch["seed"], epsilon),
            image.shape,
        )
        # In double precision, so that only the attack's own rounding is left.
        delta = tf.cast(attacked, tf.float64) - tf.cast(image, tf.float64)
        return {
            "correct": _correct(logits(attacked), batch["label"]),
            "distance": _NORMS[self.attack.ball.name](delta),
            "low": tf.reduce_min(attacked, [1, 2, 3]),
            "high": tf.reduce_max(attacked, [1, 2, 3]),
        }

    def _check(self, found: dict[str, np.ndarray], epsilon: float) -> None:
        """Raises RuntimeError unless all attacked images are allowed ones."""
        # `not <=` rather than `>`: NaN is not allowed either.
        distance = found["distance"].max()
        if not distance <= epsilon + 1e-6 * max(1.0, epsilon):
            raise RuntimeError(
                f"{self.name}: the attack left its ball: {self.attack.ball.name}"
                f" distance {distance:.9g} at epsilon {epsilon:.9g}"
            )
        low, high = found["low"].min(), found["high"].max()
        if not (low >= 0 and high <= 1):
            raise RuntimeError(
                f"{self.name}: the attack left [0, 1]: pixels from {low} to {high}"
            )


# Not the attacks' own norms: what is checked does not check itself.
_NORMS = {
    "linf": lambda delta: tf.reduce_max(tf.abs(delta), [1, 2, 3]),
    "l2": lambda delta: tf.sqrt(tf.reduce_sum(delta**2, [1, 2, 3])),
}


def _clean(logits: Callable, batch: Batch) -> dict[str, tf.Tensor]:
    return {"correct": _correct(logits(batch["image"]), batch["label"])}


def _correct(logits: tf.Tensor, label: tf.Tensor) -> tf.Tensor:
    """[b, k] and [b] to [b] bool. Logits that are not finite are no right answer."""
    finite = tf.reduce_all(tf.math.is_finite(logits), axis=-1)
    return finite & (tf.argmax(logits, axis=-1, output_type=label.dtype) == label)
