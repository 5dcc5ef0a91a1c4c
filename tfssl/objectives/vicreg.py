"""VICReg (Bardes, Ponce and LeCun 2022, https://arxiv.org/abs/2105.04906)."""

from __future__ import annotations

from collections.abc import Sequence

import gin
import keras
import tensorflow as tf

from tfssl import types
from tfssl.losses import redundancy
from tfssl.objectives import heads
from tfssl.objectives.views import ViewObjective


@gin.register(module="tfssl.objectives")
class VICReg(ViewObjective):
    """Embeddings of two views are close, vary in each dimension, and do not correlate.

    Eq. 6 over the global batch; each view is a pass of its own.

    Args:
      projector: Widths of the projector's layers. (Paper: three of 8192.)
      invariance, variance, covariance: Weights lambda, mu and nu.
    """

    name = "vicreg"

    def __init__(
        self,
        projector: Sequence[int] = (8192, 8192, 8192),
        invariance: float = 25.0,
        variance: float = 25.0,
        covariance: float = 1.0,
    ):
        self.projector = list(projector)
        self.invariance = types.positive("VICReg.invariance", invariance)
        self.variance = types.positive("VICReg.variance", variance)
        self.covariance = types.positive("VICReg.covariance", covariance)

    def build(self, features: int, num_classes: int) -> None:
        inputs = keras.Input([features])
        z = heads.mlp(inputs, self.projector, self.name)
        self.head = keras.Model(inputs, z, name=f"{self.name}_head")

    def loss(
        self, forward: types.Forward, views: tf.Tensor, batch: types.Batch
    ) -> tf.Tensor:
        first, second = self.apart(forward, views)
        return redundancy.vicreg(
            first, second, self.invariance, self.variance, self.covariance
        )
