"""What every objective offers, and what it offers if it says nothing else."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import tensorflow as tf

from tfssl import types


class Objective:
    """One loss L_i: the views it needs, the head it builds, one number per example.

    A plain class, not a Keras one: the trainer holds the heads.

    Attributes:
      name: Short and stable: it names the head, and columns of logs.
      classifies: Whether it reads `forward.logits`, so that a classifier is needed.
      pipeline_views: Whether it looks at `batch['views']`, which the data pipeline made
        of the clean image; an attack can then only change the views themselves.
      gathers: Whether its loss reads the batches of other replicas.
      head: A model on features [n, d], or None. Set by `build`. It may have several
        outputs, such as a projection and a prediction of it.
      state: Variables that no optimizer trains: a teacher, a queue, a centre. They are
        checkpointed, and equal on all replicas.
    """

    name: str
    classifies: bool = False
    pipeline_views: bool = False
    gathers: bool = False
    head: keras.Model | None
    state: Sequence[tf.Variable] = ()

    def build(self, features: int, num_classes: int) -> None:
        """Makes `self.head`, if the objective has one.

        Called once, inside the strategy's scope and after the seed is set.

        Args:
          features: d, the number of features of the backbone.
          num_classes: k, the number of classes of the data set.
        """
        self.head = None

    def follow(self, backbone: keras.Model) -> None:
        """Makes what needs the backbone itself, such as a teacher; after `build`.

        Args:
          backbone: A Keras model, or what has its `stateless_call` and variables.
        """

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
        """[b], one number per example.

        `batch['progress']` is the share of the run that is done. State that follows a
        pass (a queue, a centre) moves here, and only if `forward.updates`.
        """
        raise NotImplementedError

    def attack_loss(
        self, forward: types.Forward, views: tf.Tensor, batch: types.Batch
    ) -> tf.Tensor:
        """[b], what an attack maximises, where that is not the loss."""
        return self.loss(forward, views, batch)

    def accuracy(
        self, forward: types.Forward, views: tf.Tensor, batch: types.Batch
    ) -> tf.Tensor | None:
        """[b] in [0, 1], for the log; None where there is no right answer."""
        return None

    def statistics(self, forward: types.Forward) -> dict[str, tf.Tensor]:
        """Further numbers [b] for the log, by name, after the loss of a forward."""
        return {}

    def after_step(self, progress: tf.Tensor) -> None:
        """Moves state that follows an update, such as a teacher.

        Args:
          progress: Scalar in (0, 1], the share of the run that is done.
        """
