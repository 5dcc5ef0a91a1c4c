"""Has an encoder collapsed? Numbers to watch while it trains."""

from __future__ import annotations

import math

import tensorflow as tf

_ROUNDING = 1e-10  # Of a variance; that of embeddings on the sphere is 1.


def spread(embeddings: tf.Tensor) -> tf.Tensor:
    """sqrt(d) times the mean standard deviation of the dimensions: [n, d] to a scalar.

    Of embeddings of length 1 (Chen and He 2021, SimSiam, section 4.1): 1 if they lie
    evenly on the sphere, 0 if all are the same.
    """
    unit = tf.math.l2_normalize(embeddings, axis=-1)
    deviation = tf.math.reduce_std(unit, axis=0)
    return math.sqrt(embeddings.shape[-1]) * tf.reduce_mean(deviation)


def effective_rank(embeddings: tf.Tensor) -> tf.Tensor:
    """Number of dimensions that embeddings use, 1 to min(n, d): [n, d] to a scalar.

    Of embeddings of length 1, (sum of l)^2 / sum of l^2 for the eigenvalues l of their
    covariance: the effective rank of Roy and Vetterli 2007 with Renyi's entropy of
    order 2 for Shannon's, which takes no decomposition. 1 if all are the same but for
    rounding.
    """
    unit = tf.math.l2_normalize(embeddings, axis=-1)
    centred = unit - tf.reduce_mean(unit, axis=0)
    gram = tf.matmul(centred, centred, transpose_b=True)
    trace = tf.linalg.trace(gram)
    rank = tf.math.divide_no_nan(trace**2, tf.reduce_sum(tf.square(gram)))
    one_point = trace < _ROUNDING * tf.cast(tf.shape(unit)[0], unit.dtype)
    return tf.where(one_point, 1.0, tf.maximum(rank, 1.0))
