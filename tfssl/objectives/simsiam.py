"""SimSiam (Chen and He 2021, https://arxiv.org/abs/2011.10566)."""

from __future__ import annotations

from collections.abc import Sequence

import gin
import keras
import tensorflow as tf

from tfssl import types
from tfssl.losses import similarity
from tfssl.objectives import heads
from tfssl.objectives.views import ViewObjective


@gin.register(module="tfssl.objectives")
class SimSiam(ViewObjective):
    """A prediction from one view agrees with the projection of the other.

    L = D(p1, stopgrad(z2)) / 2 + D(p2, stopgrad(z1)) / 2 with D the negative cosine
    similarity (eq. 3 and 4, algorithm 1). Each view is a pass of its own. BatchNorm is
    on all layers of the projector, its output included, and on the predictor's hidden
    layer alone (section 3).

    Args:
      projector: Widths of the projector's layers. (Paper: two or three of 2048; two for
        CIFAR.)
      predictor: Width of the predictor's hidden layer.
    """

    name = "simsiam"

    def __init__(self, projector: Sequence[int] = (2048, 2048), predictor: int = 512):
        self.projector = list(projector)
        self.predictor = predictor

    def build(self, features: int, num_classes: int) -> None:
        inputs = keras.Input([features])
        z = heads.mlp(
            inputs, self.projector, f"{self.name}_projector", last_batch_norm=True
        )
        p = heads.mlp(z, [self.predictor, self.projector[-1]], f"{self.name}_predictor")
        self.head = keras.Model(inputs, [z, p], name=f"{self.name}_head")

    def loss(
        self, forward: types.Forward, views: tf.Tensor, batch: types.Batch
    ) -> tf.Tensor:
        (z1, p1), (z2, p2) = self.apart(forward, views)
        return (
            similarity.negative_cosine(p1, tf.stop_gradient(z2))
            + similarity.negative_cosine(p2, tf.stop_gradient(z1))
        ) / 2
