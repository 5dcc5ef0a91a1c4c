"""What evaluators share that judge features by a simple classifier on them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tfssl.evaluation.evaluators import Cell, Outcome, check_name
from tfssl.evaluation.results import describe
from tfssl.evaluation.subject import Subject
from tfssl.types import UserError


class Probe:
    """Accuracy of a classifier that is fitted on the training split's features.

    The network is frozen, in inference mode, and sees images without augmentation. A
    subclass says how to fit and classify.

    Args:
      name: Of the evaluator and its folder of results.
    """

    on_features = True

    def __init__(self, name: str):
        check_name(name)
        self.name = name

    def cells(self) -> list[Cell]:
        return [Cell(self.name, "none", 0.0, {"evaluator": describe(self)})]

    def measure(
        self, cell: Cell, subject: Subject, outcomes: Mapping[str, Outcome]
    ) -> Outcome:
        if subject.split == "train":
            raise UserError(
                f"{self.name} is fitted on the split 'train': measure it on another"
            )
        known = subject.on("train").features(f"{self.name} train")
        asked, labels = subject.features(f"{self.name} {subject.split}")
        predicted, others = self.predict(known, asked, subject)
        return {"correct": predicted == labels, **others}

    def predict(
        self, known: tuple[np.ndarray, np.ndarray], asked: np.ndarray, subject: Subject
    ) -> tuple[np.ndarray, Outcome]:
        """Fits and classifies.

        Args:
          known: Features [n, d] float32 and labels [n] of the training split.
          asked: Features [m, d] to classify.
          subject: Where further splits can be had.

        Returns:
          Classes [m], and what else to keep of each example.
        """
        raise NotImplementedError
