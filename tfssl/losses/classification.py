"""Losses and scores that compare logits with a label.

All take `labels` [...] int in [0, k) and `logits` [..., k], any real numbers, and
return one number per label [...]. They are computed in log space and stay finite, with
finite gradients, however saturated the logits are.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf


def cross_entropy(
    labels: tf.Tensor, logits: tf.Tensor, label_smoothing: float = 0.0
) -> tf.Tensor:
    """-sum_k q_k log p_k, with p = softmax(logits); in [0, inf).

    Args:
      labels: [...].
      logits: [..., k].
      label_smoothing: s in [0, 1). The target q is 1 - s + s / k for the label and
        s / k for the others (Szegedy et al. 2016, https://arxiv.org/abs/1512.00567,
        section 7).
    """
    loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    if not label_smoothing:
        return loss
    uniform = -tf.reduce_mean(tf.nn.log_softmax(logits), axis=-1)
    return (1 - label_smoothing) * loss + label_smoothing * uniform


def margin(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """max_{j != y} z_j - z_y, positive if and only if the label loses to another class.

    To be maximised by an attack: f_6 of Carlini and Wagner 2017
    (https://arxiv.org/abs/1608.04644, section V.A) for an untargeted attack, with the
    sign turned and not clipped at -kappa.
    """
    of_others = tf.reduce_max(_without(labels, logits), axis=-1)
    return of_others - _of(labels, logits)


def dlr(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Difference of logits ratio, -(z_y - max_{i != y} z_i) / (z_pi1 - z_pi3).

    To be maximised by an attack: eq. 6 of Croce and Hein 2020
    (https://arxiv.org/abs/2003.01690), pi being the order of falling logits. Positive
    if and only if the label loses. Shifting or scaling the logits does not change it.
    As in the authors' code 1e-12 is added to the denominator. With two classes there is
    no third logit and no denominator: then it is `margin`.
    """
    return margin(labels, logits) / _spread(logits, 3)


def targeted_dlr(labels: tf.Tensor, targets: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """-(z_y - z_t) / (z_pi1 - (z_pi3 + z_pi4) / 2), eq. 7 of the paper of `dlr`.

    With fewer than four classes there is no denominator: z_pi1 - z_pi3 of three would
    make the loss constant, -1, for the least likely class.

    Args:
      labels: [...].
      targets: [...], the classes t that an attack wants instead.
      logits: [..., k].
    """
    return (_of(targets, logits) - _of(labels, logits)) / _spread(logits, 4)


def boosted_cross_entropy(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """-log p_y - log(1 - max_{k != y} p_k), in [0, inf).

    BCE of MART (Wang et al. 2020, https://openreview.net/forum?id=rklOg6EFwS,
    section 3). The authors' code replaces the second term by
    -log(1.0001 - max_{k != y} p_k + 1e-12), which bounds it by 9.2; here it is the
    paper's, and 1 - p_j is the sum of the other probabilities, added in log space.
    """
    log_p = tf.nn.log_softmax(logits)
    rival = tf.argmax(_without(labels, log_p), axis=-1)
    log_others = tf.reduce_logsumexp(_without(rival, log_p), axis=-1)
    return cross_entropy(labels, logits) - log_others


def correct(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """1 where the largest logit is the label's, else 0; float32."""
    prediction = tf.argmax(logits, axis=-1, output_type=labels.dtype)
    return tf.cast(prediction == labels, tf.float32)


def _spread(logits: tf.Tensor, last: int) -> tf.Tensor:
    """z_pi1 minus the mean of z_pi3 to z_pi`last`; 1 if k is less than that; [...]."""
    if logits.shape[-1] < last:
        return tf.ones_like(logits[..., 0])
    largest = tf.math.top_k(logits, last).values
    return largest[..., 0] - tf.reduce_mean(largest[..., 2:], axis=-1) + 1e-12


def _of(classes: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
    """The entries of `values` [..., k] at `classes` [...]."""
    return tf.reduce_sum(tf.where(_at(classes, values), values, 0), axis=-1)


def _at(classes: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
    """True at `classes` [...] of `values` [..., k], else False."""
    return tf.one_hot(classes, tf.shape(values)[-1], on_value=True, off_value=False)


def _without(classes: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
    """`values` [..., k] with -inf at `classes` [...]."""
    return tf.where(_at(classes, values), tf.constant(-np.inf, values.dtype), values)
