"""Accuracy of logistic regression on features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import gin
import numpy as np

from tfssl.evaluation.evaluators import Outcome
from tfssl.evaluation.logistic import PENALTIES, Logistic, classify
from tfssl.evaluation.probe import Probe
from tfssl.evaluation.subject import Subject


@gin.register(module="tfssl.evaluation")
class LinearProbe(Probe):
    """Accuracy of a linear classifier, see `Logistic`.

    Args:
      l2: See `Logistic`.
      name: Of the evaluator and its folder of results.

    Raises:
      UserError, GateError: See `Logistic`.
    """

    def __init__(
        self,
        l2: Sequence[float] = PENALTIES,
        name: str = "linear",
    ):
        super().__init__(name)
        self._logistic = Logistic(l2, name)
        self.l2 = self._logistic.l2

    def predict(
        self, known: tuple[np.ndarray, np.ndarray], asked: np.ndarray, subject: Subject
    ) -> tuple[np.ndarray, Outcome]:
        weights, chosen = self._logistic.weights(known, subject)
        return classify(asked, weights), {"l2": np.full(len(asked), chosen)}

    def marks(self, outcomes: Mapping[str, Outcome]) -> dict[str, str]:
        """Whether the best penalty may lie outside of the grid."""
        return self._logistic.marks(float(outcomes[self.name]["l2"][0]))
