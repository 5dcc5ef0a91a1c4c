"""Stateless random draws, one stream per example.

Every example carries a seed [2] int32 of its own (`Batch['seed']`). A draw depends on
that seed and on the tag of the draw alone: not on the batch it sits in, its place
there, the number of replicas, or what was drawn before. That is what makes two
replicas equal one and a resumed run equal an undisturbed one.
"""

import hashlib

import numpy as np
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


def uniforms(seed: tf.Tensor, index, count: int) -> tf.Tensor:
    """A few draws for every example at once: [b, count] float32, uniform in [0, 1).

    The functions above loop over the examples, which is too slow for an attack that
    draws a handful of numbers thousands of times. Here a number depends on the
    example's seed, the index and the column alone: word `column % 2` of
    `threefry(seed, (index, column // 2))`.

    Args:
      seed: [b, 2] int32.
      index: Scalar or [b] int; which draw of the stream, such as the step.
      count: Numbers per example.
    """
    key = tf.bitcast(seed, tf.uint32)
    index = tf.bitcast(tf.cast(index, tf.int32), tf.uint32)
    pairs = (count + 1) // 2
    words = threefry(
        (key[:, :1], key[:, 1:]),
        (tf.reshape(index, [-1, 1]), np.arange(pairs, dtype=np.uint32)[None]),
    )
    # 24 bits are what a float32 in [0, 1) can hold; 32 would round up to 1.
    words = [tf.bitwise.right_shift(word, np.uint32(8)) for word in words]
    columns = [tf.cast(word, tf.float32) * 2.0**-24 for word in words]
    return tf.reshape(tf.stack(columns, axis=-1), [-1, 2 * pairs])[:, :count]


def threefry(key, counter) -> tuple[tf.Tensor, tf.Tensor]:
    """Threefry-2x32 with 20 rounds: counters in, random words out.

    Salmon et al. 2011, Parallel random numbers: as easy as 1, 2, 3, section 3.3. In
    uint32 because TensorFlow adds int32 on the host even where there is a GPU.

    Args:
      key: Two uint32 tensors.
      counter: Two uint32 tensors or arrays that broadcast with those of the key.

    Returns:
      Two uint32 tensors.
    """
    xor = tf.bitwise.bitwise_xor
    keys = (*key, xor(xor(key[0], key[1]), np.uint32(0x1BD11BDA)))
    x, y = keys[0] + counter[0], keys[1] + counter[1]
    for block in range(5):
        for bits in ((13, 15, 26, 6), (17, 29, 16, 24))[block % 2]:
            x += y
            high = tf.bitwise.left_shift(y, np.uint32(bits))
            y = xor(high + tf.bitwise.right_shift(y, np.uint32(32 - bits)), x)
        x += keys[(block + 1) % 3]
        y += keys[(block + 2) % 3] + np.uint32(block + 1)
    return x, y
