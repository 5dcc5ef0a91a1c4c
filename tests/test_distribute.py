"""The global batch, as replicas see it."""

import numpy as np
import tensorflow as tf

from tfssl import distribute

X = np.random.default_rng(0).normal(size=(6, 2, 3))


@tf.function
def gathered(x):
    """Of this replica: its index, the global batch, and the gradient of its loss."""
    index = distribute.replica()
    own = tf.reshape(x, [2, 3, 2, 3])[index]
    with tf.GradientTape() as tape:
        tape.watch(own)
        everyone = distribute.gather(own)
        loss = tf.cast(index + 1, own.dtype) * tf.reduce_sum(x * everyone**2)
    return index, everyone, tape.gradient(loss, own)


def test_replicas_gather_in_order_and_their_losses_are_summed(two_replicas):
    results = two_replicas.run(gathered, args=(tf.constant(X),))
    index, everyone, gradient = map(two_replicas.experimental_local_results, results)
    assert [int(i) for i in index] == [0, 1]
    for all_of_them in everyone:
        np.testing.assert_array_equal(all_of_them, X)
    # The losses are sum(x^3) and twice that, so the gradient is 2 x^2 (1 + 2).
    np.testing.assert_allclose(np.concatenate(gradient), 6 * X**2, rtol=1e-12)


def test_one_replica_and_no_replica_have_it_all(two_replicas):
    x = tf.constant(X)
    assert distribute.gather(x) is x
    assert distribute.replica().dtype == tf.int32
    assert distribute.replica() == 0
    with two_replicas.scope():
        assert distribute.gather(x) is x
        assert distribute.replica() == 0
