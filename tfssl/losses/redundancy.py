"""Losses without negatives, that keep the dimensions of an embedding apart.

Both look at statistics of the global batch, B = b * replicas >= 2 examples, and return
[b]. Embeddings [b, d] are not normalised to length 1. Both are symmetric in the views.
"""

from __future__ import annotations

import tensorflow as tf

from tfssl import distribute


def barlow_twins(first: tf.Tensor, second: tf.Tensor, off_diagonal: float) -> tf.Tensor:
    """sum_i (1 - C_ii)^2 + lambda sum_i sum_{j != i} C_ij^2; sums over dimensions.

    Eq. 1 of Zbontar et al. 2021 (https://arxiv.org/abs/2103.03230), there lambda is
    0.0051. C is the correlation of the first view's dimension i with the second's
    dimension j over the global batch (eq. 2). As in the authors' code each dimension is
    standardised as BatchNorm without scale and offset does it: with the biased
    variance, to which 1e-5 is added.

    Args:
      first: [b, d], of one view.
      second: [b, d], of the other.
      off_diagonal: lambda.

    Returns:
      [b], all equal: it is a number of the global batch.
    """
    correlation = _products(_standardised(first), _standardised(second))
    on = tf.reduce_sum((1 - tf.linalg.diag_part(correlation)) ** 2)
    off = tf.reduce_sum(_without_diagonal(correlation) ** 2)
    return tf.fill(tf.shape(first)[:1], on + off_diagonal * off)


def vicreg(
    first: tf.Tensor,
    second: tf.Tensor,
    invariance: float = 25.0,
    variance: float = 25.0,
    covariance: float = 1.0,
) -> tf.Tensor:
    """lambda s(Z, Z') + mu (v(Z) + v(Z')) + nu (c(Z) + c(Z')).

    Eq. 6 of Bardes et al. 2021 (https://arxiv.org/abs/2105.04906). Over the global
    batch, with unbiased variance and covariance C:

      v = mean_j max(0, 1 - sqrt(Var(z_j) + 1e-4))   eq. 1 and 2
      c = sum_{i != j} C_ij^2 / d                    eq. 3 and 4
      s = |z - z'|^2 / d                             eq. 5

    Eq. 5 has no 1 / d. It is in the paper's Algorithm 1, and it is what the default
    weights, 25, 25 and 1, go with. The authors' code halves v besides.

    Args:
      first: [b, d], of one view.
      second: [b, d], of the other.
      invariance: lambda.
      variance: mu.
      covariance: nu.

    Returns:
      [b]: s of each example, plus the other two, which are numbers of the global batch.
    """
    distance = tf.reduce_mean(tf.math.squared_difference(first, second), axis=-1)
    loss = invariance * distance
    for view in (first, second):
        centred = _centred(view)
        number = tf.cast(tf.shape(centred)[0], centred.dtype)
        unbiased = _products(centred, centred) * number / (number - 1)
        deviation = tf.sqrt(tf.linalg.diag_part(unbiased) + 1e-4)
        loss += variance * tf.reduce_mean(tf.nn.relu(1 - deviation))
        off = tf.reduce_sum(_without_diagonal(unbiased) ** 2, axis=1)
        loss += covariance * tf.reduce_mean(off)
    return loss


def _centred(view: tf.Tensor) -> tf.Tensor:
    """The global batch [B, d] with each dimension's mean subtracted."""
    everyone = distribute.gather(view)
    return everyone - tf.reduce_mean(everyone, axis=0)


def _standardised(view: tf.Tensor) -> tf.Tensor:
    """The global batch [B, d] with each dimension of mean 0 and variance 1."""
    centred = _centred(view)
    return centred * tf.math.rsqrt(tf.reduce_mean(centred**2, axis=0) + 1e-5)


def _products(first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
    """Means over the batch of products of two dimensions: two [B, d] to [d, d]."""
    number = tf.cast(tf.shape(first)[0], first.dtype)
    return tf.matmul(first, second, transpose_a=True) / number


def _without_diagonal(matrix: tf.Tensor) -> tf.Tensor:
    """[d, d] with zeros on the diagonal."""
    return tf.linalg.set_diag(matrix, tf.zeros_like(matrix[0]))
