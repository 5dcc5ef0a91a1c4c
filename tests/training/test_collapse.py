"""Closed forms of the numbers that tell a collapse."""

import numpy as np
import tensorflow as tf

from tfssl.training import collapse


def test_closed_forms():
    rng = np.random.default_rng(0)
    even = rng.normal(size=(4000, 8)).astype("float32")
    np.testing.assert_allclose(collapse.spread(tf.constant(even)), 1.0, atol=0.01)
    np.testing.assert_allclose(collapse.effective_rank(even), 8.0, atol=0.1)
    point = tf.ones([50, 8])
    assert collapse.spread(point) < 1e-6
    assert collapse.effective_rank(point) == 1
    noise = 1e-7 * np.random.default_rng(0).normal(size=point.shape)
    assert collapse.effective_rank(point + noise.astype("float32")) == 1
    plane = tf.constant(even[:, :2] @ rng.normal(size=(2, 8)).astype("float32"))
    assert 1 < collapse.effective_rank(plane) <= 2 + 1e-5


def test_effective_rank_is_that_of_the_eigenvalues():
    x = np.random.default_rng(1).normal(size=(20, 6)) * np.arange(1, 7)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    eigenvalues = np.linalg.eigvalsh(np.cov(unit.T))
    want = eigenvalues.sum() ** 2 / (eigenvalues**2).sum()
    got = collapse.effective_rank(tf.constant(x.astype("float32")))
    np.testing.assert_allclose(got, want, rtol=1e-5)
