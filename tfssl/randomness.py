"""Stateless random draws, one stream per example.

Every example carries a seed [2] int32 of its own (`Batch['seed']`). A draw depends on
that seed and on the tag of the draw alone: not on the batch it sits in, its place
there, the number of replicas, or what was drawn before. That is what makes two
replicas equal one and a resumed run equal an undisturbed one.
"""

import hashlib

import tensorflow as tf


def example_seeds(run_seed: int, epoch, ids) -> tf.Tensor:
    """Seeds of examples: [b] int64 ids (or one id) to [b, 2] (or [2]) int32.

    Args:
      run_seed: The run's seed.
      epoch: Scalar; the pass over the data, so that each pass draws anew.
      ids: The examples' numbers.
    """
    base = tf.stack([tf.cast(run_seed, tf.int32), tf.cast(epoch, tf.int32)])

    def one(number):
        # The folded seed has the type of what is folded in.
        seed = tf.random.experimental.stateless_fold_in(base, number)
        return tf.cast(seed, tf.int32)

    ids = tf.cast(ids, tf.int64)
    if ids.shape.rank == 0:
        return one(ids)
    return tf.map_fn(one, ids, fn_output_signature=tf.TensorSpec([2], tf.int32))


def fold(seed: tf.Tensor, tag: str) -> tf.Tensor:
    """Seeds [..., 2] of another stream, named by a tag such as "rotation".

    Exclusive or with a hash of the tag: distinct tags give distinct seeds, and the
    generator (Philox) makes unrelated numbers of unequal seeds.
    """
    digest = hashlib.sha256(tag.encode()).digest()
    words = [int.from_bytes(digest[i : i + 4], "little", signed=True) for i in (0, 4)]
    return tf.bitwise.bitwise_xor(seed, tf.constant(words, tf.int32))


def _per_example(draw, seed, shape, dtype):
    return tf.map_fn(draw, seed, fn_output_signature=tf.TensorSpec(shape, dtype))


def uniform(seed: tf.Tensor, shape, low: float = 0.0, high: float = 1.0) -> tf.Tensor:
    """Seeds [b, 2] to [b, *shape] float32, uniform in [low, high)."""
    shape = tf.TensorShape(shape).as_list()
    return _per_example(
        lambda s: tf.random.stateless_uniform(shape, s, low, high),
        seed,
        shape,
        tf.float32,
    )


def normal(seed: tf.Tensor, shape) -> tf.Tensor:
    """Seeds [b, 2] to [b, *shape] float32, standard normal."""
    shape = tf.TensorShape(shape).as_list()
    return _per_example(
        lambda s: tf.random.stateless_normal(shape, s), seed, shape, tf.float32
    )


def integers(seed: tf.Tensor, shape, high: int) -> tf.Tensor:
    """Seeds [b, 2] to [b, *shape] int32, uniform in 0 .. high - 1."""
    shape = tf.TensorShape(shape).as_list()
    return _per_example(
        lambda s: tf.random.stateless_uniform(shape, s, 0, high, tf.int32),
        seed,
        shape,
        tf.int32,
    )
