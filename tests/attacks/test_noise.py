"""Noise: its distribution, its size, and when it stops."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from tfssl.attacks.balls import L2, Linf
from tfssl.attacks.noise import Noise
from tfssl.types import UserError

N = 64
KINDS = [(b, k) for b in (Linf(), L2()) for k in ("uniform", "gaussian")]


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    image = rng.uniform(0.3, 0.7, size=(N, 4, 6, 2)).astype(np.float32)
    seed = rng.integers(0, 2**31 - 1, (N, 2)).astype(np.int32)
    return tf.constant(image), tf.zeros(N, tf.int32), tf.constant(seed)


def never_broken(x):
    value = tf.reduce_mean(x, [1, 2, 3])
    return tf.stack([tf.ones_like(value), 0 * value], 1)


@pytest.mark.parametrize(("ball", "kind"), KINDS)
def test_distribution(data, ball, kind):
    """Of the norm, the mean and the sign; epsilon is small: nothing is clipped."""
    image, label, seed = data
    attack = tf.function(Noise(ball, 0.2, kind).perturb)
    noise = (attack(never_broken, image, label, seed) - image).numpy()
    norm = ball.norm(noise).numpy().ravel() / 0.2
    n = noise[0].size
    if kind == "gaussian":
        np.testing.assert_allclose(norm, 1, atol=1e-5)
        kurtosis = (noise**4).mean() / (noise**2).mean() ** 2
        assert abs(kurtosis - 3 * n / (n + 2)) < 0.4 or ball.name == "linf"
    else:
        # The share of the volume within a norm is norm^n: uniform in [0, 1].
        volume = np.sort(norm**n)
        distance = np.abs(volume - (np.arange(N) + 0.5) / N).max()
        assert distance < 2 / np.sqrt(N)
    assert abs(noise.mean()) < 4.5 * noise.std() / np.sqrt(noise.size)
    assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 4.5 / np.sqrt(n)


@pytest.mark.parametrize(("ball", "kind"), KINDS)
def test_stays_in_ball_and_box(data, ball, kind):
    image, label, seed = data
    image = tf.round(image)  # All pixels are at a bound.
    found = Noise(ball, kind=kind).perturb(never_broken, image, label, seed, 0.5)
    assert tf.reduce_max(ball.norm(found - image)) <= 0.5 + 1e-6
    assert tf.reduce_min(found) >= 0
    assert tf.reduce_max(found) <= 1
    still = Noise(ball, kind=kind).perturb(never_broken, image, label, seed, 0.0)
    np.testing.assert_array_equal(still, image)


def test_keeps_the_first_draw_that_wins(data):
    """A draw wins with a probability of one half if its first entry decides."""
    image, label, seed = data
    image = 0 * image + 0.5

    def logits_fn(x):
        return tf.stack([tf.fill([tf.shape(x)[0]], 0.5), x[:, 0, 0, 0]], 1)

    def broken(draws):
        attack = tf.function(Noise(Linf(), 0.1, draws=draws).perturb)
        found = attack(logits_fn, image, label, seed).numpy()
        return found, found[:, 0, 0, 0] > 0.5

    tries = [broken(draws) for draws in (1, 2, 12)]
    np.testing.assert_allclose([won.mean() for _, won in tries], [0.5, 0.75, 1], 0.2)
    for (before, won), (after, _) in itertools.pairwise(tries):
        np.testing.assert_array_equal(after[won], before[won])
        assert np.all(np.any(after[~won] != before[~won], (1, 2, 3)))


def test_example_does_not_depend_on_its_batch(data):
    image, label, seed = data
    attack = Noise(L2(), 0.3, "gaussian", draws=2)
    whole = attack.perturb(never_broken, image, label, seed)
    part = attack.perturb(never_broken, image[5:6], label[5:6], seed[5:6])
    np.testing.assert_allclose(whole[5:6], part, atol=1e-6)


def test_misclassified_images_are_left_alone(data):
    image, label, seed = data
    found = Noise(Linf(), 0.1).perturb(never_broken, image, label + 1, seed)
    np.testing.assert_array_equal(found, image)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"draws": 0}, "positive integer"),
        ({"kind": "salt"}, "'uniform' or 'gaussian'"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(UserError, match=message):
        Noise(**{"ball": Linf(), **settings})
