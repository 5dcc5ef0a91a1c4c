"""Contrastive losses: tell the other view of an image from views of other images.

All return one number per example of this replica [b]. Embeddings [b, d] are normalised
here, so that they are compared by their cosine. Negatives are all images of the global
batch, B = b * replicas, wherever a loss takes its negatives from the batch. No gradient
is stopped here: where a paper stops it at the keys, the caller does.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tfssl import distribute
from tfssl.losses import classification
from tfssl.losses.similarity import normalise


def nt_xent(first: tf.Tensor, second: tf.Tensor, temperature: float) -> tf.Tensor:
    """-log exp(s_ij / t) / sum_{k != i} exp(s_ik / t), the mean of both directions.

    Eq. 1 and Algorithm 1 of SimCLR (Chen et al. 2020, https://arxiv.org/abs/2002.05709)
    with s the cosine, i one view of an image, j its other view, and k all 2B views of
    the global batch but i itself: 2B - 1 terms, of which 2B - 2 are negatives. In
    [0, inf); log(2B - 1) if all embeddings are equal.

    Args:
      first: [b, d], one view of each image.
      second: [b, d], the other.
      temperature: t > 0.

    Returns:
      [b], the mean of the losses of an image's two views.
    """
    return nt_xent_of_views(tf.stack([first, second], axis=1), temperature)


def nt_xent_of_views(views: tf.Tensor, temperature: float) -> tf.Tensor:
    """`nt_xent` of v >= 2 views of each image: a mean over all pairs of its views.

    An anchor's loss is the mean, over the image's v - 1 other views j, of
    -log exp(s_ij / t) / sum_{k != i} exp(s_ik / t), with k all vB views of the global
    batch but i itself. So the other positives are in the denominator, and the mean is
    outside of the logarithm: eq. 2 of Khosla et al. 2020
    (https://arxiv.org/abs/2004.11362) with an image as its own class.

    RoCL (Kim et al. 2020, https://arxiv.org/abs/2006.07589) has three views, one of
    them attacked, and t = 0.5. Its code adds an anchor's two positives where this takes
    their mean, so its loss is twice this one, and it lets no gradient through one side
    of each product; its paper has the sum over the positives inside the logarithm.

    Args:
      views: [b, v, d].
      temperature: t > 0.

    Returns:
      [b], the mean of the losses of an image's views; log(vB - 1) if all embeddings are
      equal.
    """
    views = normalise(views)
    everyone = distribute.gather(views)
    number = views.shape[1]
    logits = tf.einsum("iad,jcd->iajc", views, everyone) / temperature
    # An anchor is not compared with itself.
    same_image = _positions(views)[:, None] == tf.range(tf.shape(everyone)[0])
    same_view = tf.eye(number, dtype=tf.bool)
    itself = same_image[:, None, :, None] & same_view[:, None, :]
    others = tf.where(itself, tf.constant(-np.inf, logits.dtype), logits)
    of_all = tf.reduce_logsumexp(others, axis=[2, 3])

    pairs = tf.matmul(views, views, transpose_b=True) / temperature
    of_itself = tf.linalg.diag_part(pairs)
    positive = (tf.reduce_sum(pairs, axis=2) - of_itself) / (number - 1)
    return tf.reduce_mean(of_all - positive, axis=1)


def info_nce(
    query: tf.Tensor, key: tf.Tensor, queue: tf.Tensor, temperature: float
) -> tf.Tensor:
    """-log exp(q.k / t) / (exp(q.k / t) + sum_i exp(q.k_i / t)), k_i in the queue.

    Eq. 1 of MoCo (He et al. 2019, https://arxiv.org/abs/1911.05722), there t = 0.07,
    and of MoCo v2 (Chen et al. 2020, https://arxiv.org/abs/2003.04297), there t = 0.2.
    One direction; no other image of the batch is a negative. In [0, inf);
    log(m + 1) if all embeddings are equal.

    Args:
      query: [b, d].
      key: [b, d], of the other view of the same images.
      queue: [m, d], keys of earlier images, the same on all replicas.
      temperature: t > 0.
    """
    query, key, queue = normalise(query), normalise(key), normalise(queue)
    positive = tf.reduce_sum(query * key, axis=-1, keepdims=True)
    negatives = tf.matmul(query, queue, transpose_b=True)
    logits = tf.concat([positive, negatives], axis=1) / temperature
    return classification.cross_entropy(tf.zeros_like(logits[:, 0], tf.int32), logits)


def moco_v3(query: tf.Tensor, key: tf.Tensor, temperature: float) -> tf.Tensor:
    """2 t * (-log exp(q_i.k_i / t) / sum_j exp(q_i.k_j / t)), j the global batch.

    `ctr` of Algorithm 1 of MoCo v3 (Chen et al. 2021,
    https://arxiv.org/abs/2104.02057) with its factor 2 t. One direction: the paper's
    loss is the sum ctr(q1, k2) + ctr(q2, k1). In [0, inf); 2 t log(B) if all embeddings
    are equal.

    Args:
      query: [b, d].
      key: [b, d], of the other view of the same images.
      temperature: t > 0.
    """
    query, key = normalise(query), normalise(key)
    everyone = distribute.gather(key)
    logits = tf.matmul(query, everyone, transpose_b=True) / temperature
    loss = classification.cross_entropy(_positions(query), logits)
    return 2 * temperature * loss


def _positions(here: tf.Tensor) -> tf.Tensor:
    """Where in the global batch the examples of this replica are: [b] int32."""
    number = tf.shape(here)[0]
    return distribute.replica() * number + tf.range(number)
