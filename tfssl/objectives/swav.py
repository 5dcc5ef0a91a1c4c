"""SwAV (Caron et al. 2020, https://arxiv.org/abs/2006.09882)."""

from __future__ import annotations

import gin
import keras
import tensorflow as tf

from tfssl import distribute, types
from tfssl.losses import clustering
from tfssl.objectives import heads
from tfssl.objectives.multi_crop import MultiCropObjective
from tfssl.objectives.prototypes import Prototypes
from tfssl.objectives.queue import Queue


@gin.register(module="tfssl.objectives")
class SwAV(MultiCropObjective):
    """Each view predicts the cluster assignment of the other global view.

    The codes of the two global views are soft assignments of the global batch to
    prototypes, balanced by Sinkhorn's iterations (eq. 2 to 5); local views predict both
    (eq. 6). From a share of the run on, and not before there are as many as it holds,
    the embeddings of a queue of earlier batches take part in the balancing (section
    4.1, "working with small batches").

    Args:
      hidden: Width of the head's hidden layer.
      out: Dimensions of the embeddings.
      prototypes: Number of clusters.
      temperature: Of the predictions.
      epsilon: Of Sinkhorn's iterations.
      iterations: Their number.
      queue: Number of earlier embeddings kept for each global view; 0: none.
      queue_from: Share of the run after which the queue is used.
      frozen: Share of the run in which the prototypes do not learn.
    """

    name = "swav"

    def __init__(
        self,
        hidden: int = 2048,
        out: int = 128,
        prototypes: int = 3000,
        temperature: float = 0.1,
        epsilon: float = 0.05,
        iterations: int = 3,
        queue: int = 3840,
        queue_from: float = 0.05,
        frozen: float = 0.001,
    ):
        self.hidden = hidden
        self.out = out
        self.prototypes = types.whole("SwAV.prototypes", prototypes, 2)
        self.temperature = types.positive("SwAV.temperature", temperature)
        self.epsilon = types.positive("SwAV.epsilon", epsilon)
        self.iterations = types.whole("SwAV.iterations", iterations, 1)
        self.queue = types.whole("SwAV.queue", queue, 0)
        self.queue_from = types.share("SwAV.queue_from", queue_from)
        self.frozen = types.share("SwAV.frozen", frozen)

    def build(self, features: int, num_classes: int) -> None:
        inputs = keras.Input([features])
        z = heads.mlp(inputs, [self.hidden, self.out], self.name)
        z = keras.layers.UnitNormalization(dtype="float32", name=f"{self.name}_unit")(z)
        self.clusters = Prototypes(self.prototypes, name=f"{self.name}_prototypes")
        self.head = keras.Model(inputs, [z, self.clusters(z)], name=f"{self.name}_head")
        self._queues = []
        if self.queue:
            self._queues = [
                Queue(self.queue, self.out, f"{self.name}_{view}")
                for view in range(self.num_views)
            ]
        self.state = [v for queue in self._queues for v in queue.variables]

    def loss(
        self,
        forward: types.Forward,
        views: tuple[tf.Tensor, ...],
        batch: types.Batch,
    ) -> tf.Tensor:
        learns = batch["progress"] >= self.frozen
        embeddings = [z for z, _ in self.crops(forward, views)]
        scores = [self.clusters(z, learns) for z in embeddings]
        codes = [
            self._codes(view, embeddings[view], scores[view], forward.updates, batch)
            for view in range(self.num_views)
        ]
        return clustering.swapped_prediction(scores, codes, self.temperature)

    def _codes(self, view, z, scores, updates, batch) -> tf.Tensor:
        """[b, k], of a global view; without gradient."""
        z, scores = tf.stop_gradient(z), tf.stop_gradient(scores)
        if not self._queues:
            return self._balanced(scores)
        queue = self._queues[view]
        known = tf.stop_gradient(self.clusters(queue.read()))
        # Both, since replicas cannot gather within a tf.cond.
        codes = tf.where(
            (batch["progress"] >= self.queue_from) & queue.full,
            self._balanced(scores, known),
            self._balanced(scores),
        )
        if updates:
            queue.push(distribute.gather(z))
        return codes

    def _balanced(self, scores, known=None) -> tf.Tensor:
        return clustering.sinkhorn(scores, self.epsilon, self.iterations, known)

    def after_step(self, progress: tf.Tensor) -> None:
        self.clusters.normalize()
