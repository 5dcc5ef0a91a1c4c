"""MoCo v3 (Chen, Xie and He 2021, https://arxiv.org/abs/2104.02057)."""

from __future__ import annotations

import gin
import keras
import tensorflow as tf

from tfssl import types
from tfssl.losses import contrastive
from tfssl.objectives import heads
from tfssl.objectives.momentum import cosine_momentum
from tfssl.objectives.teacher import Teacher
from tfssl.objectives.views import ViewObjective


@gin.register(module="tfssl.objectives")
class MoCoV3(ViewObjective):
    """Predictions from one view find a teacher's projection of the other.

    ctr(q1, k2) + ctr(q2, k1) of algorithm 1, each 2 tau times an InfoNCE whose
    negatives are the keys of the global batch. BatchNorm on all layers of projector and
    predictor, the outputs included (section 4).

    Args:
      hidden: Width of the hidden layers of projector and predictor.
      out: Dimensions of queries and keys.
      temperature: tau.
      momentum: Of the teacher, at the start; it rises to 1 along half a cosine.
    """

    name = "moco_v3"

    def __init__(
        self,
        hidden: int = 4096,
        out: int = 256,
        temperature: float = 0.2,
        momentum: float = 0.99,
    ):
        self.hidden = hidden
        self.out = out
        self.temperature = types.positive("MoCoV3.temperature", temperature)
        self.momentum = types.share("MoCoV3.momentum", momentum)

    def build(self, features: int, num_classes: int) -> None:
        inputs = keras.Input([features])
        widths = [self.hidden, self.out]
        z = heads.mlp(inputs, widths, f"{self.name}_projector", last_batch_norm=True)
        self.projector = keras.Model(inputs, z, name=f"{self.name}_projector")
        q = heads.mlp(z, widths, f"{self.name}_predictor", last_batch_norm=True)
        self.head = keras.Model(inputs, q, name=f"{self.name}_head")

    def follow(self, backbone: keras.Model) -> None:
        self.teacher = Teacher(backbone, self.projector)
        self.state = self.teacher.variables

    def loss(
        self, forward: types.Forward, views: tf.Tensor, batch: types.Batch
    ) -> tf.Tensor:
        q1, q2 = self.apart(forward, views)
        k1, k2 = [self.teacher(view) for view in tf.unstack(views, axis=1)]
        return contrastive.moco_v3(q1, k2, self.temperature) + contrastive.moco_v3(
            q2, k1, self.temperature
        )

    def after_step(self, progress: tf.Tensor) -> None:
        self.teacher.follow(cosine_momentum(self.momentum, 1.0, progress))
