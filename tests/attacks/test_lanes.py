import numpy as np
import tensorflow as tf

from tfssl.attacks import lanes


def collatz(state):
    """Until a number is 1: how many steps, and the largest number on the way."""
    n = state["n"]
    n = tf.where(n % 2 == 0, n // 2, 3 * n + 1)
    return {
        "n": n,
        "steps": state["steps"] + 1,
        "largest": tf.maximum(state["largest"], tf.stack([n, -n], axis=1)),
        "active": n != 1,
    }


def slow_collatz(n):
    steps, largest = 0, [n, -n]
    while n != 1:
        n = n // 2 if n % 2 == 0 else 3 * n + 1
        steps += 1
        largest = [max(largest[0], n), max(largest[1], -n)]
    return steps, largest


def start(numbers):
    n = tf.constant(numbers, tf.int32)
    return {
        "n": n,
        "steps": tf.zeros_like(n),
        "largest": tf.stack([n, -n], axis=1),
        "active": n != 1,
    }


def test_each_example_ends_when_it_is_done():
    numbers = np.random.default_rng(0).permutation(np.arange(1, 120))
    run = tf.function(lambda s: lanes.run(collatz, s, ["steps", "largest"]))
    found = run(start(numbers))
    expected = [slow_collatz(int(n)) for n in numbers]
    np.testing.assert_array_equal(found["steps"], [steps for steps, _ in expected])
    np.testing.assert_array_equal(found["largest"], [large for _, large in expected])


def test_the_batch_shrinks_and_takes_few_sizes():
    sizes = []

    def step(state):
        sizes.append(len(state["n"]))
        return collatz(state)

    lanes.run(step, start(range(1, 120)), ["steps"])
    assert sizes == sorted(sizes, reverse=True)
    work = sum(slow_collatz(n)[0] for n in range(1, 120))
    assert work <= sum(sizes) < 1.2 * work
    assert len(set(sizes)) < 30


def test_nothing_to_do():
    found = lanes.run(collatz, start([1, 1]), ["steps"])
    np.testing.assert_array_equal(found["steps"], [0, 0])
