"""Many random numbers for each image of a batch, at once."""

from __future__ import annotations

import math
from collections.abc import Sequence

import tensorflow as tf

from tfssl import randomness

# Compiled, because the generator is a hundred operations on whole numbers: one pass
# over memory rather than a hundred. That takes a moment for each new shape.
_uniforms = tf.function(randomness.uniforms, autograph=False, jit_compile=True)
_FEW = 16


def uniform(seed: tf.Tensor, shape: Sequence[int]) -> tf.Tensor:
    """Seeds [b, 2] to [b, *shape] float32: multiples of 2^-24, uniform in [0, 1)."""
    count = math.prod(shape)
    draw = _uniforms if count > _FEW else randomness.uniforms
    return tf.reshape(draw(seed, 0, count), [-1, *shape])


def normal(seed: tf.Tensor, shape: Sequence[int]) -> tf.Tensor:
    """Seeds [b, 2] to [b, *shape] float32, standard normal, up to 5.3."""
    return tf.reshape(_normals(seed, math.prod(shape)), [-1, *shape])


@tf.function(autograph=False, jit_compile=True)
def _normals(seed: tf.Tensor, count: int) -> tf.Tensor:
    u = randomness.uniforms(seed, 0, count)
    # Centres of 2^23 equal intervals of (-1, 1), which float32 holds exactly.
    centred = (tf.floor(u * 2.0**23) - 2.0**22 + 0.5) * 2.0**-22
    return math.sqrt(2) * tf.math.erfinv(centred)
