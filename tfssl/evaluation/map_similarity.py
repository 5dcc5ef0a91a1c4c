"""How alike two maps [h, w] are, such as those of a clean and an attacked image.

All are functions of two batches [b, h, w] and give [b]. Where a number is not defined,
for a map that is the same everywhere, it is NaN: what such maps count for, and how many
they are, is for the caller to say.
"""

from __future__ import annotations

import tensorflow as tf

from tfssl.types import UserError


def pearson(one: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
    """The correlation of the maps' pixels, [b] in [-1, 1].

    1 if one is the other but for scale (positive) and offset.
    """
    one, other = _flat(one), _flat(other)
    # Not left to the division: the mean of equal numbers may differ from them.
    constant = _is_constant(one) | _is_constant(other)
    found = _cosine(
        one - tf.reduce_mean(one, 1, keepdims=True),
        other - tf.reduce_mean(other, 1, keepdims=True),
    )
    return tf.where(constant, float("nan"), found)


def cosine(one: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
    """The cosine of the angle between the maps, [b] in [-1, 1].

    Maps that are nowhere negative have one in [0, 1]. NaN only where a map is 0.
    """
    return _cosine(_flat(one), _flat(other))


def top_overlap(one: tf.Tensor, other: tf.Tensor, share: float = 0.2) -> tf.Tensor:
    """Intersection over union of the maps' highest pixels, [b] in [0, 1].

    Those of a map are as high as the k-th highest, k = share * h * w, rounded, at least
    1: k of them, or more if there are ties. Pixels of 0 do not count, so that of a map
    that is almost nowhere positive there are fewer, and none of one that is 0.

    Args:
      one, other: [b, h, w], nowhere negative.
      share: In (0, 1].

    Raises:
      UserError: `share` is not.
    """
    if not 0 < share <= 1:
        raise UserError(f"share must lie in (0, 1], not {share!r}")
    one, other = _highest(_flat(one), share), _highest(_flat(other), share)
    both = tf.math.count_nonzero(one & other, axis=1, dtype=tf.float32)
    return both / tf.math.count_nonzero(one | other, axis=1, dtype=tf.float32)


def _flat(heat: tf.Tensor) -> tf.Tensor:
    """[b, h w] float32."""
    heat = tf.cast(heat, tf.float32)
    return tf.reshape(heat, [tf.shape(heat)[0], -1])


def _cosine(one: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
    lengths = tf.norm(one, axis=1) * tf.norm(other, axis=1)
    return tf.reduce_sum(one * other, axis=1) / lengths


def _is_constant(heat: tf.Tensor) -> tf.Tensor:
    return tf.reduce_max(heat, axis=1) == tf.reduce_min(heat, axis=1)


def _highest(heat: tf.Tensor, share: float) -> tf.Tensor:
    pixels = tf.cast(tf.shape(heat)[1], tf.float32)
    k = tf.maximum(tf.cast(tf.round(share * pixels), tf.int32), 1)
    least = tf.math.top_k(heat, k).values[:, -1:]
    return (heat >= least) & (heat > 0)
