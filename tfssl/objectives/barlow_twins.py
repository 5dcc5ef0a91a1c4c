"""Barlow Twins (Zbontar et al. 2021, https://arxiv.org/abs/2103.03230)."""

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
class BarlowTwins(ViewObjective):
    """The cross-correlation of two views' embeddings is the identity.

    Eq. 1 and 2 over the global batch; each view is a pass of its own.

    Args:
      projector: Widths of the projector's layers. (Paper: three of 8192.)
      off_diagonal: lambda of eq. 1.
      scale: Factor of the loss, as in the authors' code: LARS does not see it, other
        optimizers do.
    """

    name = "barlow_twins"

    def __init__(
        self,
        projector: Sequence[int] = (8192, 8192, 8192),
        off_diagonal: float = 0.0051,
        scale: float = 1.0,
    ):
        self.projector = list(projector)
        self.off_diagonal = types.positive("BarlowTwins.off_diagonal", off_diagonal)
        self.scale = types.positive("BarlowTwins.scale", scale)

    def build(self, features: int, num_classes: int) -> None:
        inputs = keras.Input([features])
        z = heads.mlp(inputs, self.projector, self.name)
        self.head = keras.Model(inputs, z, name=f"{self.name}_head")

    def loss(
        self, forward: types.Forward, views: tf.Tensor, batch: types.Batch
    ) -> tf.Tensor:
        first, second = self.apart(forward, views)
        return self.scale * redundancy.barlow_twins(first, second, self.off_diagonal)
