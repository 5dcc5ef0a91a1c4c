"""Evaluators without files, for the training loop to choose its best step by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gin
import keras

from tfssl.evaluation.classifier import Classifier
from tfssl.evaluation.evaluators import Evaluator, Outcome, need_logits
from tfssl.evaluation.subject import Subject
from tfssl.types import UserError


@gin.register(module="tfssl.evaluation")
class Validation:
    """Measures a model that is being trained. Call it in the strategy's scope.

    Its graphs are traced at the first call and kept as long as model and data set are
    the same objects: the weights may change in place.

    Args:
      evaluators: Of distinct names.
      split: 'train', 'validation' or 'test'.
      batch_size: Examples at a time, over all devices.
      seed: Of the attacks' random draws; the same at each call.

    Raises:
      UserError: Two cells would have the same label.
    """

    def __init__(
        self,
        evaluators: Sequence[Evaluator],
        split: str = "validation",
        batch_size: int = 500,
        seed: int = 0,
    ):
        self.evaluators = list(evaluators)
        self.split = split
        self.batch_size = batch_size
        self.seed = seed
        self._measured: tuple[keras.Model, Any, Subject] | None = None
        labels = self.labels()
        if not labels or len(set(labels)) < len(labels):
            raise UserError(f"validation needs distinct labels; got {labels}")

    def labels(self) -> list[str]:
        """What a call returns numbers for: 'clean', 'pgd10', 'pgd20_l2@0.5000'."""
        return [label for evaluator in self.evaluators for label in _labels(evaluator)]

    def prepare(self, model: keras.Model, dataset: Any) -> list[str]:
        """Finds out before training whether a call will work.

        Returns:
          `labels()`.

        Raises:
          UserError: Model, data set and settings do not fit together.
        """
        self._subject(model, dataset)
        return self.labels()

    def __call__(self, model: keras.Model, dataset: Any) -> dict[str, float]:
        """Accuracies in [0, 1] of a model of images in [0, 1], by label."""
        subject = self._subject(model, dataset)
        values = {}
        for evaluator in self.evaluators:
            outcomes: dict[str, Outcome] = {}
            cells = zip(evaluator.cells(), _labels(evaluator), strict=True)
            for cell, label in cells:
                part = subject.of_cell(cell)
                outcomes[cell.name] = evaluator.measure(cell, part, outcomes)
                values[label] = float(outcomes[cell.name]["correct"].mean())
        return values

    def _subject(self, model: keras.Model, dataset: Any) -> Subject:
        if self._measured is None or (
            self._measured[0] is not model or self._measured[1] is not dataset
        ):
            subject = Subject(
                *(Classifier(model), dataset, self.split, self.batch_size, self.seed),
                logits=need_logits(self.evaluators),
            )
            self._measured = model, dataset, subject
        return self._measured[2]


def _labels(evaluator: Evaluator) -> list[str]:
    """The name alone where it says all, so that it can be selected at any epsilon."""
    cells = evaluator.cells()
    if len(cells) == 1:
        return [evaluator.name]
    return [f"{evaluator.name}@{cell.strength:.4f}" for cell in cells]
