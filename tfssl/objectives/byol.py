"""BYOL (Grill et al. 2020, https://arxiv.org/abs/2006.07733)."""

from __future__ import annotations

import gin
import keras
import tensorflow as tf

from tfssl import types
from tfssl.losses import similarity
from tfssl.objectives import heads
from tfssl.objectives.momentum import cosine_momentum
from tfssl.objectives.teacher import Teacher
from tfssl.objectives.views import ViewObjective


@gin.register(module="tfssl.objectives")
class BYOL(ViewObjective):
    """A prediction from one view agrees with a teacher's projection of the other.

    L = (2 - 2 cos(p1, z2')) + (2 - 2 cos(p2, z1')), z' being the teacher's (eq. 2 and
    its symmetric counterpart). The teacher's momentum rises from `momentum` to 1 along
    half a cosine (section 3.3).

    Args:
      hidden: Width of the hidden layers of projector and predictor.
      out: Dimensions of projection and prediction.
      momentum: Of the teacher, at the start.
    """

    name = "byol"

    def __init__(self, hidden: int = 4096, out: int = 256, momentum: float = 0.996):
        self.hidden = hidden
        self.out = out
        self.momentum = types.share("BYOL.momentum", momentum)

    def build(self, features: int, num_classes: int) -> None:
        inputs = keras.Input([features])
        z = heads.mlp(inputs, [self.hidden, self.out], f"{self.name}_projector")
        self.projector = keras.Model(inputs, z, name=f"{self.name}_projector")
        p = heads.mlp(z, [self.hidden, self.out], f"{self.name}_predictor")
        self.head = keras.Model(inputs, [z, p], name=f"{self.name}_head")

    def follow(self, backbone: keras.Model) -> None:
        self.teacher = Teacher(backbone, self.projector)
        self.state = self.teacher.variables

    def loss(
        self, forward: types.Forward, views: tf.Tensor, batch: types.Batch
    ) -> tf.Tensor:
        (_, p1), (_, p2) = self.apart(forward, views)
        z1, z2 = [self.teacher(view) for view in tf.unstack(views, axis=1)]
        return similarity.byol(p1, z2) + similarity.byol(p2, z1)

    def after_step(self, progress: tf.Tensor) -> None:
        self.teacher.follow(cosine_momentum(self.momentum, 1.0, progress))
