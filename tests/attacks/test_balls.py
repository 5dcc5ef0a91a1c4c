"""Balls against closed forms and numpy."""

import numpy as np
import pytest
import tensorflow as tf

from tfssl.attacks.balls import L2, Linf

SHAPE = (4, 4, 3)
ENTRIES = 48


def norms(ball, delta):
    flat = np.reshape(delta, [len(delta), -1])
    if ball.name == "linf":
        return np.abs(flat).max(1)
    return np.sqrt((flat.astype(np.float64) ** 2).sum(1))


@pytest.fixture(params=[Linf, L2], ids=["linf", "l2"])
def ball(request):
    return request.param()


@pytest.fixture
def delta():
    return np.random.default_rng(0).normal(size=(6, *SHAPE)).astype(np.float32)


def test_norm(ball, delta):
    got = ball.norm(tf.constant(delta))
    assert got.shape == (6, 1, 1, 1)
    np.testing.assert_allclose(got[:, 0, 0, 0], norms(ball, delta), rtol=1e-6)


def test_projection_is_the_nearest_point(ball, delta):
    epsilon = 0.5 * float(norms(ball, delta).max())
    near = ball.project(tf.constant(delta), epsilon).numpy()
    assert norms(ball, near).max() <= epsilon * (1 + 1e-6)
    # No random point of the ball is nearer.
    rng = np.random.default_rng(1)
    for _ in range(200):
        other = rng.normal(size=delta.shape).astype(np.float32)
        scale = epsilon * rng.uniform(size=6) / norms(ball, other)
        other *= scale[:, None, None, None]
        distance = np.square(near - delta).sum((1, 2, 3))
        assert np.all(distance <= np.square(other - delta).sum((1, 2, 3)) + 1e-5)


def test_projection_leaves_the_inside_alone(ball, delta):
    epsilon = 1.01 * float(norms(ball, delta).max())
    np.testing.assert_array_equal(ball.project(tf.constant(delta), epsilon), delta)


def test_epsilon_per_example(ball, delta):
    epsilon = np.linspace(0, 0.5, 6).astype(np.float32)
    near = ball.project(tf.constant(delta), epsilon[:, None, None, None]).numpy()
    np.testing.assert_allclose(norms(ball, near), epsilon, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("scale", [1.0, 1e-30])
def test_steepest_maximises_a_linear_function(ball, delta, scale):
    gradient = (delta * scale).astype(np.float32)
    step = ball.steepest(tf.constant(gradient)).numpy()
    np.testing.assert_allclose(norms(ball, step), 1, rtol=1e-5)
    # The largest value of <g, d> over the unit ball is the dual norm of g.
    flat = gradient.reshape(6, -1).astype(np.float64)
    dual = np.abs(flat).sum(1) if ball.name == "linf" else np.linalg.norm(flat, axis=1)
    got = (flat * step.reshape(6, -1)).sum(1)
    np.testing.assert_allclose(got, dual, rtol=1e-5)


def test_no_gradient_no_step(ball):
    assert not np.any(ball.steepest(tf.zeros([2, *SHAPE])))


def test_random_is_uniform_in_the_ball(ball):
    seed = tf.stack([tf.range(4000), tf.range(4000) * 7], axis=1)
    delta = ball.random(seed, (2, 2, 1), 0.5).numpy()
    size = norms(ball, delta)
    assert size.max() <= 0.5 * (1 + 1e-6)
    # In either ball of 4 dimensions the norm r has P(norm <= r) = (r / epsilon)^4.
    share = [(size <= 0.5 * r).mean() for r in (0.5, 0.8, 0.9)]
    np.testing.assert_allclose(share, [0.5**4, 0.8**4, 0.9**4], atol=0.03)
    np.testing.assert_allclose(delta.mean(0), 0, atol=0.02)


def test_random_depends_on_the_example_alone(ball):
    seed = tf.constant([[1, 2], [3, 4], [5, 6]])
    whole = ball.random(seed, (2, 4, 4, 3), 1.0).numpy()
    alone = ball.random(seed[1:2], (2, 4, 4, 3), 1.0).numpy()
    np.testing.assert_array_equal(whole[1], alone[0])
    # Each view has a ball of its own.
    assert norms(ball, whole[0]).max() <= 1 + 1e-6
    assert not np.allclose(whole[0, 0], whole[0, 1])
