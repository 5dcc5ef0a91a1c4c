"""Predict, from one view of an image, the cluster that another view of it is put in."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from tfssl import distribute


def sinkhorn(
    scores: tf.Tensor,
    epsilon: float = 0.05,
    iterations: int = 3,
    known: tf.Tensor | None = None,
) -> tf.Tensor:
    """Codes: soft clusters that share the global batch almost equally.

    Eq. 3 to 5 of SwAV (Caron et al. 2020, https://arxiv.org/abs/2006.09882) by its
    Algorithm 1: starting from exp(scores / epsilon), each iteration scales first the
    clusters to the same total, B / k, and then the examples to a total of 1. B is the
    global batch, and m more examples if some are known. Computed in log space, so that
    no score is too large. The codes are targets: they have no gradient.

    Args:
      scores: [b, k], cosines of embeddings and prototypes, in [-1, 1].
      epsilon: > 0; the larger, the softer the codes. The paper's is 0.05.
      iterations: The paper has 3. Towards infinity each cluster's total becomes B / k.
      known: [m, k], scores of earlier examples, the same on all replicas; they take
        part in the sharing and get no codes (section 4.1, small batches).

    Returns:
      [b, k] of this replica's examples, in [0, 1], adding up to 1 over k.
    """
    own = tf.stop_gradient(scores) / epsilon
    everyone = distribute.gather(own)
    if known is not None:
        everyone = tf.concat([everyone, tf.stop_gradient(known) / epsilon], axis=0)
    # The codes are exp(everyone + cluster + example): only the two scales change.
    example = tf.zeros_like(everyone[:, :1])
    cluster = tf.zeros_like(everyone[:1])
    for _ in range(iterations):
        cluster = -tf.reduce_logsumexp(everyone + example, axis=0, keepdims=True)
        example = -tf.reduce_logsumexp(everyone + cluster, axis=1, keepdims=True)
    return tf.nn.softmax(own + cluster)


def swapped_prediction(
    scores: Sequence[tf.Tensor], codes: Sequence[tf.Tensor], temperature: float
) -> tf.Tensor:
    """Mean over pairs of different views i, j of -sum_k q_i log softmax(z_j / t).

    Eq. 1 and 2 of SwAV (see `sinkhorn`) and, with more views than codes, multi-crop,
    its eq. 6. Each code of a global crop i is predicted from all crops j but i itself,
    the local ones included. The paper writes a sum over the pairs; its code takes their
    mean, as here. In [0, inf); log(k) for equal scores. No gradient is stopped here.

    Args:
      scores: One [b, k] per view: cosines of embeddings and prototypes, the views that
        have codes first.
      codes: One [b, k] per global crop, probabilities, in the order of `scores`.
      temperature: t > 0, of the scores only; the paper's is 0.1.

    Returns:
      [b].
    """
    log_p = [tf.nn.log_softmax(of_view / temperature) for of_view in scores]
    pairs = [
        -tf.reduce_sum(code * log_p[j], axis=-1)
        for i, code in enumerate(codes)
        for j in range(len(scores))
        if i != j
    ]
    return tf.add_n(pairs) / len(pairs)
