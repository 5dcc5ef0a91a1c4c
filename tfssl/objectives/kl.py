"""The regulariser of TRADES: predictions on an attacked image equal the clean ones."""

from __future__ import annotations

import gin
import tensorflow as tf

from tfssl import types
from tfssl.losses import divergence
from tfssl.objectives.objective import Objective


@gin.register(module="tfssl.objectives")
class KL(Objective):
    """KL(p(clean) || p(views)), with p the softmax of the classifier.

    The second term of TRADES (Zhang et al. 2019, https://arxiv.org/abs/1901.08573,
    eq. 5), where the paper leaves the loss open. Direction and gradient are those of
    the authors' code: the clean prediction is constant in the attack and learns in the
    update.
    """

    name = "kl"
    classifies = True

    def before_attack(
        self, forward: types.Forward, views: tf.Tensor, batch: types.Batch
    ) -> types.Batch:
        clean = tf.stop_gradient(forward.logits(batch["image"]))
        return {**batch, "clean_logits": clean}

    def loss(
        self, forward: types.Forward, views: tf.Tensor, batch: types.Batch
    ) -> tf.Tensor:
        return divergence.kl(clean_logits(forward, batch), forward.logits(views))


def clean_logits(forward: types.Forward, batch: types.Batch) -> tf.Tensor:
    """Logits [b, k] of the clean image: those of `before_attack`, or a new pass."""
    if "clean_logits" in batch:
        return batch["clean_logits"]
    return forward.logits(batch["image"])
