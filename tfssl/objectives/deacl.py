"""DeACL (Zhang et al. 2022, https://arxiv.org/abs/2207.10899)."""

from __future__ import annotations

import os

import gin
import tensorflow as tf

from tfssl import saved, types
from tfssl.losses import distillation, similarity
from tfssl.objectives.objective import Objective


@gin.register(module="tfssl.objectives")
class DeACL(Objective):
    """Features of an attacked image follow those of the clean one, which follow a
    frozen teacher's: decoupled adversarial contrastive learning.

    L = -cos(s(x), t(x)) - 2 cos(s(x'), s(x)); the attack maximises -cos(s(x'), t(x)).
    To be used in a term with an example. The teacher is an encoder that was trained
    without attacks, such as a SimCLR run.

    Args:
      teacher: Path of its `model.keras`; of a classifier the head is left out.
      robustness: Weight of the second part.
    """

    name = "deacl"

    def __init__(self, teacher: str | os.PathLike, robustness: float = 2.0):
        self.teacher = os.fspath(teacher)
        self.robustness = types.positive("DeACL.robustness", robustness)

    def build(self, features: int, num_classes: int) -> None:
        self.head = None
        network = saved.features(saved.load(self.teacher), self.teacher)
        network.trainable = False
        if network.output_shape[-1] != features:
            raise types.UserError(
                f"DeACL.teacher has {network.output_shape[-1]} features and the network"
                f" {features}: they must agree"
            )
        # Not a Keras attribute of anything: it does not move, and is not checkpointed.
        self._network = network

    def before_attack(
        self, forward: types.Forward, views: tf.Tensor, batch: types.Batch
    ) -> types.Batch:
        return {**batch, "deacl": self._taught(batch)}

    def attack_loss(
        self, forward: types.Forward, views: tf.Tensor, batch: types.Batch
    ) -> tf.Tensor:
        return similarity.negative_cosine(forward.features(views), batch["deacl"])

    def loss(
        self, forward: types.Forward, views: tf.Tensor, batch: types.Batch
    ) -> tf.Tensor:
        clean = forward.features(batch["image"])
        return distillation.cosine_distillation(
            clean, forward.features(views), self._taught(batch), self.robustness
        )

    def _taught(self, batch: types.Batch) -> tf.Tensor:
        return tf.stop_gradient(self._network(batch["image"], training=False))
