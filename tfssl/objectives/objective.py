"""What every objective offers, and what it offers if it says nothing else."""

from __future__ import annotations

import keras
import tensorflow as tf

from tfssl import types


class Objective:
    """One loss L_i: the views it needs, the head it builds, one number per example.

    A plain class, not a Keras one: the trainer holds the heads.

    Attributes:
      name: Short and stable: it names the head, and columns of logs.
      classifies: Whether it reads `forward.logits`, so that a classifier is needed.
      head: A model on features [n, d], or None. Set by `build`.
    """

    name: str
    classifies: bool = False
    head: keras.Model | None

    def build(self, features: int, num_classes: int) -> None:
        """Makes `self.head`, if the objective has one.

        Called once, inside the strategy's scope and after the seed is set.

        Args:
          features: d, the number of features of the backbone.
          num_classes: k, the number of classes of the data set.
        """
        self.head = None

    def views(self, image: tf.Tensor, batch: types.Batch) -> tf.Tensor:
        """What the network sees of `image` [b, h, w, c]: [b, (v,) h, w, c].

        Differentiable in `image`, which may be attacked or clean. Random choices
        depend on `batch['seed']` alone, so they are the same at every step of an attack
        and in the update after it.
        """
        return image

    def before_attack(
        self, forward: types.Forward, views: tf.Tensor, batch: types.Batch
    ) -> types.Batch:
        """The batch for an attack: with whatever stays constant during it.

        It goes through all terms of an example, so new keys name what they hold. The
        update that follows gets the batch as it was.
        """
        return batch

    def loss(
        self, forward: types.Forward, views: tf.Tensor, batch: types.Batch
    ) -> tf.Tensor:
        """[b], one number per example."""
        raise NotImplementedError

    def accuracy(
        self, forward: types.Forward, views: tf.Tensor, batch: types.Batch
    ) -> tf.Tensor | None:
        """[b] in [0, 1], for the log; None where there is no right answer."""
        return None

    def after_step(self) -> None:
        """Moves state that follows an update: a teacher, a queue."""
