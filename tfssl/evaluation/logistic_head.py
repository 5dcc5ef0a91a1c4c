"""Logistic regression as the head of a model, before training or in its place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gin
import keras
from absl import logging

from tfssl.evaluation.classifier import Classifier
from tfssl.evaluation.logistic import PENALTIES, Logistic
from tfssl.evaluation.subject import Subject
from tfssl.types import UserError


@gin.register(module="tfssl.evaluation")
class LogisticHead:
    """Sets the head of a model to the linear classifier that `LinearProbe` measures.

    Without any training it makes a classifier of an encoder; followed by training of
    all weights it is LP-FT (Kumar et al. 2022, arXiv:2202.10054), which keeps more of
    the features than a random head does.

    Args:
      l2: See `Logistic`.
      batch_size: Examples at a time, over all devices.

    Raises:
      UserError, GateError: See `Logistic`; when called, a UserError if the model has
        no head.
    """

    def __init__(
        self,
        l2: Sequence[float] = PENALTIES,
        batch_size: int = 500,
    ):
        self._logistic = Logistic(l2, "LogisticHead")
        self._batch_size = batch_size

    def __call__(self, model: keras.Model, dataset: Any) -> None:
        """Fits on the training split. Call it in the strategy's scope.

        Args:
          model: Its layer `logits` is the head.
          dataset: A data set, see the design page.
        """
        try:
            head = model.get_layer("logits")
        except ValueError:
            raise UserError(
                "LogisticHead sets the head of a classifier, and no term classifies:"
                " include terms/standard.gin"
            ) from None
        subject = Subject(Classifier(model), dataset, "train", self._batch_size, 0)
        known = subject.features("LogisticHead train")
        weights, chosen = self._logistic.weights(known, subject)
        for mark in self._logistic.marks(chosen).values():
            logging.warning("LogisticHead: %s", mark)
        head.kernel.assign(weights[:-1])
        head.bias.assign(weights[-1])
