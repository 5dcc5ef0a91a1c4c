"""The two losses of MART: misclassified examples count more.

Wang et al. 2020, https://openreview.net/forum?id=rklOg6EFwS, section 3: the loss of an
example is BCE(p(x'), y) + lambda * KL(p(x) || p(x')) * (1 - p_y(x)), with x' found by
maximising the plain cross-entropy. As in the authors' code, gradients flow through all
of it.
"""

from __future__ import annotations

import gin
import tensorflow as tf

from tfssl import types
from tfssl.losses import classification
from tfssl.objectives.kl import KL, clean_logits
from tfssl.objectives.objective import Objective


@gin.register(module="tfssl.objectives")
class BoostedCrossEntropy(Objective):
    """-log p_y(views) - log(1 - max_{k != y} p_k(views))."""

    name = "boosted_cross_entropy"
    classifies = True

    def loss(
        self, forward: types.Forward, views: tf.Tensor, batch: types.Batch
    ) -> tf.Tensor:
        logits = forward.logits(views)
        return classification.boosted_cross_entropy(batch["label"], logits)

    def accuracy(
        self, forward: types.Forward, views: tf.Tensor, batch: types.Batch
    ) -> tf.Tensor:
        return classification.correct(batch["label"], forward.logits(views))


@gin.register(module="tfssl.objectives")
class WeightedKL(KL):
    """KL(p(clean) || p(views)) * (1 - p_y(clean))."""

    name = "weighted_kl"

    def loss(
        self, forward: types.Forward, views: tf.Tensor, batch: types.Batch
    ) -> tf.Tensor:
        clean = clean_logits(forward, batch)
        p_y = tf.exp(-classification.cross_entropy(batch["label"], clean))
        return super().loss(forward, views, batch) * (1 - p_y)
