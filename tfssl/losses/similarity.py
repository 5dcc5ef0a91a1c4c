"""How far two embeddings of one image point into different directions.

All take two embeddings [..., d] and return one number per pair [...]. The embeddings
are normalised here. No gradient is stopped here: where a paper stops it at the target,
the caller does. Where a paper adds the loss of the exchanged views, the caller adds.
"""

from __future__ import annotations

import tensorflow as tf


def normalise(x: tf.Tensor) -> tf.Tensor:
    """x / |x|, with the Euclidean norm of the last axis; [..., d] to [..., d].

    Norms count as at least 1e-6, so that a vector of zeros stays zero and has a finite
    gradient.
    """
    return tf.math.l2_normalize(x, axis=-1, epsilon=1e-12)


def negative_cosine(prediction: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
    """D(p, z) = -p . z / (|p| |z|), in [-1, 1]; -1 for equal directions.

    Eq. 1 of SimSiam (Chen and He 2020, https://arxiv.org/abs/2011.10566), whose loss is
    D(p1, stop(z2)) / 2 + D(p2, stop(z1)) / 2 (eq. 4), a mean of the two directions.
    """
    return -tf.reduce_sum(normalise(prediction) * normalise(target), axis=-1)


def byol(prediction: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
    """|p / |p| - z / |z||^2 = 2 - 2 cos(p, z), in [0, 4]; a sum over dimensions.

    Eq. 2 of BYOL (Grill et al. 2020, https://arxiv.org/abs/2006.07733), whose loss is
    the sum, not the mean, of the two directions.
    """
    return 2 + 2 * negative_cosine(prediction, target)
