"""Rotation prediction: by which multiple of 90 degrees was the image turned?

Gidaris et al. 2018 (https://arxiv.org/abs/1803.07728). As an auxiliary task of
adversarial training: Hendrycks et al. 2019 (https://arxiv.org/abs/1906.12340).
"""

from __future__ import annotations

import gin
import keras
import tensorflow as tf

from tfssl import randomness, types
from tfssl.losses import classification
from tfssl.objectives.objective import Objective


@gin.register(module="tfssl.objectives")
class Rotation(Objective):
    """Four-way classification of the turn; the head is linear, as in Hendrycks 2019."""

    name = "rotation"

    def __init__(self, copies: int = 1):
        """Makes the objective.

        Args:
          copies: 1: the network sees each image once, turned by k * 90 degrees with a
            random k. 4: it sees all four turns of each image, and the loss is their
            mean (Gidaris 2018, eq. 3; Hendrycks 2019).
        """
        if copies not in (1, 4):
            raise types.UserError(f"copies is {copies}: a rotation task has 1 or 4")
        self.copies = copies

    def build(self, features: int, num_classes: int) -> None:
        inputs = keras.Input([features])
        dense = keras.layers.Dense(4, dtype="float32", name="rotation_head")
        self.head = keras.Model(inputs, dense(inputs), name="rotation_head")

    def labels(self, batch: types.Batch) -> tf.Tensor:
        """k of the counterclockwise turns by k * 90 degrees: [b * copies] int32."""
        if self.copies == 4:
            return tf.tile(tf.range(4), tf.shape(batch["seed"])[:1])
        if "rotation" in batch:
            return batch["rotation"]
        seed = randomness.fold(batch["seed"], "rotation")
        return randomness.integers(seed, [], 4)

    def before_attack(
        self, forward: types.Forward, views: tf.Tensor, batch: types.Batch
    ) -> types.Batch:
        if self.copies == 4:
            return batch
        # Drawing is a loop over the examples: once per attack, not once per step.
        return {**batch, "rotation": self.labels(batch)}

    def views(self, image: tf.Tensor, batch: types.Batch) -> tf.Tensor:
        """Square images [b, s, s, c] to [b, s, s, c], or to [b, 4, s, s, c].

        Raises:
          UserError: The images are not square.
        """
        if image.shape[1] != image.shape[2]:
            raise types.UserError(
                f"images of {image.shape[1]} x {image.shape[2]} pixels cannot be turned"
                " by 90 degrees: the rotation task needs square ones"
            )
        if self.copies == 4:
            half = _half_turn(image)
            turns = [image, _quarter_turn(image), half, _quarter_turn(half)]
            return tf.stack(turns, axis=1)
        # k in binary: selects and transpositions only, whose gradients are as cheap.
        turns = self.labels(batch)[:, None, None, None]
        image = tf.where(turns >= 2, _half_turn(image), image)
        return tf.where(turns % 2 == 1, _quarter_turn(image), image)

    def loss(
        self, forward: types.Forward, views: tf.Tensor, batch: types.Batch
    ) -> tf.Tensor:
        return self._per_example(classification.cross_entropy, forward, views, batch)

    def accuracy(
        self, forward: types.Forward, views: tf.Tensor, batch: types.Batch
    ) -> tf.Tensor:
        return self._per_example(classification.correct, forward, views, batch)

    def _per_example(self, score, forward, views, batch) -> tf.Tensor:
        """The mean of a score(labels, logits) over each example's copies: [b]."""
        features = forward.features(views)
        logits = self.head(tf.reshape(features, [-1, features.shape[-1]]))
        scores = score(self.labels(batch), logits)
        return tf.reduce_mean(tf.reshape(scores, [-1, self.copies]), axis=1)


def _quarter_turn(image: tf.Tensor) -> tf.Tensor:
    """[b, s, s, c], counterclockwise as `np.rot90`."""
    return tf.reverse(tf.transpose(image, [0, 2, 1, 3]), axis=[1])


def _half_turn(image: tf.Tensor) -> tf.Tensor:
    return tf.reverse(image, axis=[1, 2])
