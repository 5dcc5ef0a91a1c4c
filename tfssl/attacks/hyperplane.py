"""Nearest points of a hyperplane inside the box of images.

    min ||delta||_p   such that   <w, point + delta> = b,  0 <= point + delta <= 1

for p = infinity and 2: the projection that FAB takes its steps with (Croce and Hein
2020, https://arxiv.org/abs/1907.02044, section 3).

Seen from the point, the solution moves every entry in the direction that brings the
hyperplane nearer, by min(t speed_i, room_i): speed is 1 for linf and |w_i| for l2 (the
conditions of optimality), room_i is the way to the bound. What is left is to find t:
the gain sum_i |w_i| min(t speed_i, room_i) is concave and piecewise linear in t, and
has to equal the gap |b - <w, point>|.
"""

from __future__ import annotations

import tensorflow as tf


def project_linf(point: tf.Tensor, w: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """The displacement of smallest linf norm.

    Of the many, the one that leaves entries with w = 0 alone and moves all others by
    the norm or, where that is less, to their bound.

    Args:
      point: [m, d] in [0, 1].
      w: [m, d] finite, of any scale; may have zeros.
      b: [m].

    Returns:
      [m, d]. If the hyperplane misses the box: the way to the corner that is nearest
      to it, each entry with w != 0 moved to the bound that helps. 0 if w = 0.
    """
    return _project(point, w, b, tf.ones_like)


def project_l2(point: tf.Tensor, w: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """The displacement of smallest l2 norm; as `project_linf`."""
    return _project(point, w, b, tf.identity)


def _project(point, w, b, speed_of):
    # Gradients of saturated networks are so small that their squares are 0.
    largest = tf.reduce_max(tf.abs(w), axis=1)
    w = tf.math.divide_no_nan(w, largest[:, None])
    # Not a matrix product: those are less precise on some accelerators.
    gap = tf.math.divide_no_nan(b, largest) - tf.reduce_sum(w * point, axis=1)

    direction = tf.sign(w) * tf.sign(gap)[:, None]
    room = tf.where(direction > 0, 1 - point, point)
    weight, gap = tf.abs(w), tf.abs(gap)
    t = _solve(weight, speed_of(weight), room, gap)
    return direction * tf.minimum(t[:, None] * speed_of(weight), room)


def _solve(weight, speed, room, gap):
    """[m] t with sum_i weight_i min(t speed_i, room_i) = gap; huge if there is none.

    Newton's method from t = 0. A tangent lies above the concave gain, so t only grows;
    it is exact once it is on the right piece. No sorting, and sums of one sign in
    place of differences of cumulative sums: exact to rounding in float32. In each step
    the slope or the distance to the gap at least halves, so there are few.
    """
    used = weight * room
    slopes = weight * speed

    def newton(t, _):
        free = t[:, None] * speed < room
        missing = gap - tf.reduce_sum(tf.where(free, 0.0, used), axis=1)
        slope = tf.reduce_sum(tf.where(free, slopes, 0.0), axis=1)
        new = tf.maximum(tf.math.divide_no_nan(missing, slope), t)
        return new, tf.reduce_any(new > t)

    t, _ = tf.while_loop(
        lambda _, moved: moved,
        newton,
        (tf.zeros_like(gap), tf.constant(True)),
        parallel_iterations=1,
    )
    # Not infinity, which times a speed of 0 is NaN; far beyond any room / speed.
    return tf.where(gap >= tf.reduce_sum(used, axis=1), weight.dtype.max, t)
