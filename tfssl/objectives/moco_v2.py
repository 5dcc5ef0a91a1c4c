"""MoCo v2 (He et al. 2020, arXiv:1911.05722; Chen et al. 2020, arXiv:2003.04297)."""

from __future__ import annotations

import gin
import keras
import tensorflow as tf

from tfssl import distribute, types
from tfssl.losses import contrastive
from tfssl.objectives import heads
from tfssl.objectives.queue import Queue
from tfssl.objectives.teacher import Teacher
from tfssl.objectives.views import ViewObjective


@gin.register(module="tfssl.objectives")
class MoCoV2(ViewObjective):
    """A query finds its key, a teacher's, among those of earlier batches.

    InfoNCE (He 2020, eq. 1) with a queue of keys as negatives, queries from the first
    view and keys from the second; the mean of both directions if symmetric, as later
    code for CIFAR does. Head as in v2: z = W2 relu(W1 h).

    Shuffled BatchNorm, which keeps a query from recognising its key by its batch's
    statistics, is not needed: these are of the global batch.

    Args:
      hidden: Width of the head's hidden layer.
      out: Dimensions of queries and keys.
      temperature: Of InfoNCE.
      queue: Number of keys kept.
      momentum: Of the teacher.
      symmetric: Let both views be queries.
    """

    name = "moco_v2"

    def __init__(
        self,
        hidden: int = 2048,
        out: int = 128,
        temperature: float = 0.2,
        queue: int = 65536,
        momentum: float = 0.999,
        symmetric: bool = False,
    ):
        self.hidden = hidden
        self.out = out
        self.temperature = types.positive("MoCoV2.temperature", temperature)
        self.queue = queue
        self.momentum = types.share("MoCoV2.momentum", momentum)
        self.symmetric = symmetric

    def build(self, features: int, num_classes: int) -> None:
        inputs = keras.Input([features])
        z = heads.mlp(inputs, [self.hidden, self.out], self.name, batch_norm=False)
        self.head = keras.Model(inputs, z, name=f"{self.name}_head")
        self.keys = Queue(self.queue, self.out, self.name)

    def follow(self, backbone: keras.Model) -> None:
        self.teacher = Teacher(backbone, self.head)
        self.state = [*self.teacher.variables, *self.keys.variables]

    def loss(
        self, forward: types.Forward, views: tf.Tensor, batch: types.Batch
    ) -> tf.Tensor:
        images = tf.unstack(views, axis=1)
        queries = self.apart(forward, views if self.symmetric else views[:, :1])
        pairs = [(queries[0], self._key(images[1]))]
        if self.symmetric:
            pairs.append((queries[1], self._key(images[0])))
        negatives = self.keys.read()
        losses = [
            contrastive.info_nce(query, key, negatives, self.temperature)
            for query, key in pairs
        ]
        if forward.updates:
            for _, key in pairs:
                self.keys.push(distribute.gather(key))
        return tf.add_n(losses) / len(losses)

    def _key(self, image: tf.Tensor) -> tf.Tensor:
        return tf.math.l2_normalize(self.teacher(image), axis=-1)

    def after_step(self, progress: tf.Tensor) -> None:
        self.teacher.follow(self.momentum)
