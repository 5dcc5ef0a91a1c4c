"""Divergences between the distributions that two tensors of logits stand for."""

from __future__ import annotations

import tensorflow as tf


def kl(p_logits: tf.Tensor, q_logits: tf.Tensor) -> tf.Tensor:
    """KL(p || q) = sum_k p_k (log p_k - log q_k), with p and q softmax of the logits.

    In [0, inf) up to rounding, exactly 0 for equal logits. Computed from
    log-probabilities, without the epsilon inside the logarithm that some published code
    has, so that saturated logits give finite values and gradients.

    Args:
      p_logits: [..., k].
      q_logits: [..., k].

    Returns:
      [...].
    """
    log_p = tf.nn.log_softmax(p_logits)
    log_q = tf.nn.log_softmax(q_logits)
    return tf.reduce_sum(tf.exp(log_p) * (log_p - log_q), axis=-1)
