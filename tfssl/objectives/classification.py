"""Classification by the data set's labels."""

from __future__ import annotations

import gin
import tensorflow as tf

from tfssl import types
from tfssl.losses import classification
from tfssl.objectives.objective import Objective


@gin.register(module="tfssl.objectives")
class Classification(Objective):
    """Cross-entropy of the classifier, which the trainer owns, with the labels."""

    name = "classification"
    classifies = True

    def __init__(self, label_smoothing: float = 0.0):
        """Makes the objective.

        Args:
          label_smoothing: In [0, 1); see `losses.classification.cross_entropy`.
        """
        if not 0 <= label_smoothing < 1:
            raise types.UserError(
                f"label_smoothing is {label_smoothing}: choose a number in [0, 1)"
            )
        self.label_smoothing = label_smoothing

    def loss(
        self, forward: types.Forward, views: tf.Tensor, batch: types.Batch
    ) -> tf.Tensor:
        return classification.cross_entropy(
            batch["label"], forward.logits(views), self.label_smoothing
        )

    def accuracy(
        self, forward: types.Forward, views: tf.Tensor, batch: types.Batch
    ) -> tf.Tensor:
        return classification.correct(batch["label"], forward.logits(views))
