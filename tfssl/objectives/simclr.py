"""SimCLR (Chen et al. 2020, https://arxiv.org/abs/2002.05709)."""

from __future__ import annotations

import gin
import keras
import tensorflow as tf

from tfssl import types
from tfssl.losses import contrastive
from tfssl.objectives import heads
from tfssl.objectives.views import ViewObjective


@gin.register(module="tfssl.objectives")
class SimCLR(ViewObjective):
    """Two views of an image agree more than those of different images.

    NT-Xent (eq. 1) over the global batch, on z = W2 relu(W1 h). Both views pass as one
    batch, as in the authors' code.

    Args:
      hidden: Width of the head's hidden layer.
      out: Dimensions of z. (Paper: 128.)
      temperature: Of NT-Xent.
    """

    name = "simclr"

    def __init__(self, hidden: int = 2048, out: int = 128, temperature: float = 0.5):
        self.hidden = hidden
        self.out = out
        self.temperature = types.positive("SimCLR.temperature", temperature)

    def build(self, features: int, num_classes: int) -> None:
        inputs = keras.Input([features])
        z = heads.mlp(inputs, [self.hidden, self.out], self.name, batch_norm=False)
        self.head = keras.Model(inputs, z, name=f"{self.name}_head")

    def loss(
        self, forward: types.Forward, views: tf.Tensor, batch: types.Batch
    ) -> tf.Tensor:
        first, second = tf.unstack(self.together(forward, views), axis=1)
        return contrastive.nt_xent(first, second, self.temperature)
