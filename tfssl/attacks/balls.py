"""Balls: the perturbations an attacker may choose from.

Everything here acts on perturbations [..., h, w, c] and treats each image, that is the
last three axes, on its own. `epsilon` is a scalar or broadcasts to [..., 1, 1, 1].
"""

from __future__ import annotations

import gin
import tensorflow as tf

from tfssl import randomness

_IMAGE_AXES = (-3, -2, -1)


@gin.register(module="tfssl.attacks")
class Linf:
    """max |delta| <= epsilon."""

    name = "linf"

    def norm(self, delta: tf.Tensor) -> tf.Tensor:
        """[..., h, w, c] to [..., 1, 1, 1]."""
        return tf.reduce_max(tf.abs(delta), _IMAGE_AXES, keepdims=True)

    def project(self, delta: tf.Tensor, epsilon) -> tf.Tensor:
        """The nearest point of the ball."""
        return tf.clip_by_value(delta, -epsilon, epsilon)

    def steepest(self, gradient: tf.Tensor) -> tf.Tensor:
        """The direction of norm 1 in which a linear function rises most."""
        return tf.sign(gradient)

    def random(self, seed: tf.Tensor, shape: tf.TensorShape, epsilon) -> tf.Tensor:
        """Uniform in the ball; seeds [b, 2] to [b, *shape]."""
        return randomness.uniform(seed, shape, -1.0, 1.0) * epsilon


@gin.register(module="tfssl.attacks")
class L2:
    """||delta||_2 <= epsilon, over all pixels and channels of an image."""

    name = "l2"

    def norm(self, delta: tf.Tensor) -> tf.Tensor:
        """[..., h, w, c] to [..., 1, 1, 1]."""
        # Scaled by the largest entry: squares of gradients of 1e-20 and less, which
        # saturated networks have, would underflow.
        largest = tf.reduce_max(tf.abs(delta), _IMAGE_AXES, keepdims=True)
        unit = tf.math.divide_no_nan(delta, largest)
        square = tf.reduce_sum(tf.square(unit), _IMAGE_AXES, keepdims=True)
        return largest * tf.sqrt(square)

    def project(self, delta: tf.Tensor, epsilon) -> tf.Tensor:
        """The nearest point of the ball."""
        norm = self.norm(delta)
        shrink = tf.math.divide_no_nan(tf.ones_like(norm) * epsilon, norm)
        return tf.where(norm > epsilon, delta * shrink, delta)

    def steepest(self, gradient: tf.Tensor) -> tf.Tensor:
        """The direction of norm 1 in which a linear function rises most."""
        largest = tf.reduce_max(tf.abs(gradient), _IMAGE_AXES, keepdims=True)
        unit = tf.math.divide_no_nan(gradient, largest)
        return tf.math.divide_no_nan(unit, self.norm(unit))

    def random(self, seed: tf.Tensor, shape: tf.TensorShape, epsilon) -> tf.Tensor:
        """Uniform in the ball; seeds [b, 2] to [b, *shape].

        A normal draw has a uniform direction; a radius epsilon * u^(1/n), n being the
        number of entries, makes it uniform in volume.
        """
        shape = tf.TensorShape(shape)
        direction = self.steepest(
            randomness.normal(randomness.fold(seed, "direction"), shape)
        )
        views, entries = shape[:-3].as_list(), shape[-3:].num_elements()
        radius = randomness.uniform(
            randomness.fold(seed, "radius"), [*views, 1, 1, 1]
        ) ** (1.0 / entries)
        return direction * radius * epsilon
