"""Goals: what an attack on a classifier maximises, and when it has won."""

from __future__ import annotations

import gin
import tensorflow as tf

from tfssl.losses import classification


def misclassified(label: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """[b] bool: the most likely class is not the label, or logits are not finite.

    An image that a model has no answer to is one that it gets wrong: so evaluations
    count it, whatever the image.
    """
    best = tf.argmax(logits, axis=-1, output_type=label.dtype)
    return ~tf.reduce_all(tf.math.is_finite(logits), -1) | (best != label)


@gin.register(module="tfssl.attacks")
class CrossEntropy:
    """-log p(label): the goal of FGSM and PGD (Goodfellow 2015, Madry 2018)."""

    def __call__(self, label: tf.Tensor, logits: tf.Tensor) -> tuple:
        """Labels [b], logits [b, k] to ([b] loss, [b] bool won)."""
        loss = classification.cross_entropy(label, logits)
        return loss, misclassified(label, logits)


@gin.register(module="tfssl.attacks")
class Margin:
    """Largest other logit minus the label's (f_6 of Carlini & Wagner 2017, kappa = 0).

    Its gradient does not vanish when the softmax saturates.
    """

    def __call__(self, label: tf.Tensor, logits: tf.Tensor) -> tuple:
        """Labels [b], logits [b, k] to ([b] loss, [b] bool won)."""
        loss = classification.margin(label, logits)
        return loss, misclassified(label, logits)
