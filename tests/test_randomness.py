"""The counter-based draws: known answers, and what a number may depend on."""

import numpy as np
import pytest
import tensorflow as tf

from tfssl import randomness

SEEDS = np.random.default_rng(0).integers(-(2**31), 2**31, (64, 2)).astype(np.int32)


@pytest.mark.parametrize(
    ("key", "counter", "words"),
    [
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((2**32 - 1,) * 2, (2**32 - 1,) * 2, (0x1CB996FC, 0xBB002BE7)),
        (
            (0x13198A2E, 0x03707344),
            (0x243F6A88, 0x85A308D3),
            (0xC4923A9C, 0x483DF7A0),
        ),
    ],
)
def test_threefry_gives_the_known_answers(key, counter, words):
    """The vectors that come with Random123, the authors' library."""
    key, counter = (
        [tf.constant(x, tf.uint32) for x in pair] for pair in (key, counter)
    )
    assert tuple(int(x) for x in randomness.threefry(key, counter)) == words


def test_uniforms_are_the_words_of_the_generator():
    got = randomness.uniforms(SEEDS, 7, 5).numpy()
    for seed, row in zip(SEEDS.astype(np.uint32), got, strict=True):
        for column, number in enumerate(row):
            counter = [tf.constant(x, tf.uint32) for x in (7, column // 2)]
            words = randomness.threefry([tf.constant(x) for x in seed], counter)
            assert number == (int(words[column % 2]) >> 8) / 2**24


def test_uniforms_depend_on_seed_index_and_column_alone():
    index = np.arange(64, dtype=np.int32) // 8
    whole = tf.function(randomness.uniforms)(SEEDS, index, 6)
    for rows in (slice(3, 4), slice(8, 16), slice(None, None, -1)):
        part = randomness.uniforms(SEEDS[rows], index[rows], 5)
        np.testing.assert_array_equal(part, whole[rows, :5])
    scalar = randomness.uniforms(SEEDS[8:16], 1, 6)
    np.testing.assert_array_equal(scalar, whole[8:16])


def test_uniforms_are_uniform_and_unrelated():
    """Over seeds and indices that differ by little, as they do in use."""
    seeds = np.stack(np.meshgrid(range(64), range(64)), -1).reshape(-1, 2)
    draws = np.stack(
        [randomness.uniforms(seeds.astype(np.int32), i, 3) for i in range(4)], 1
    ).reshape(-1, 12)
    assert draws.min() >= 0
    assert draws.max() < 1
    n = len(draws)
    for column in draws.T:
        # Kolmogorov-Smirnov: beyond 2 / sqrt(n) with a probability of 0.0007.
        distance = np.abs(np.sort(column) - (np.arange(n) + 0.5) / n).max()
        assert distance < 2 / np.sqrt(n)
    noise = np.abs(np.corrcoef(draws.T) - np.eye(12)).max()
    assert noise < 4.5 / np.sqrt(n)
    neighbours = np.corrcoef(draws[:-1, 0], draws[1:, 0])[0, 1]
    assert abs(neighbours) < 4.5 / np.sqrt(n)
