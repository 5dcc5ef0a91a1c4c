"""Projections on a hyperplane within the box against scipy and slow bisection."""

import numpy as np
import pytest
import tensorflow as tf
from scipy.optimize import linprog

from tfssl.attacks.hyperplane import project_l2, project_linf

PROJECTIONS = {"linf": project_linf, "l2": project_l2}


def slow_l2(point, w, b):
    """delta = clip(s w, -point, 1 - point): the conditions of optimality; s by halving.

    None if the hyperplane misses the box.
    """

    def delta(s):
        return np.where(w == 0, 0, np.clip(s * w, -point, 1 - point))

    low, high = -1e9, 1e9
    if not w @ (point + delta(low)) <= b <= w @ (point + delta(high)):
        return None
    for _ in range(200):
        middle = (low + high) / 2
        reaches = w @ (point + delta(middle)) >= b
        low, high = (low, middle) if reaches else (middle, high)
    return delta(high)


def smallest_linf(point, w, b):
    """min t with |delta_i| <= t as a linear program; None if it has no solution."""
    d = len(point)
    beyond = np.vstack([np.c_[np.eye(d), -np.ones(d)], np.c_[-np.eye(d), -np.ones(d)]])
    found = linprog(
        np.r_[np.zeros(d), 1],
        A_ub=beyond,
        b_ub=np.zeros(2 * d),
        A_eq=[np.r_[w, 0]],
        b_eq=[b - w @ point],
        bounds=[*zip(-point, 1 - point, strict=True), (0, None)],
    )
    return found.fun if found.status == 0 else None


def cases(count=60, d=7):
    """Random points, normals with zeros, planes on both sides, hit and missed."""
    rng = np.random.default_rng(0)
    point = rng.uniform(size=(count, d))
    # Entries at the bounds, as in images.
    point = np.where(rng.uniform(size=point.shape) < 0.3, np.round(point), point)
    w = rng.normal(size=(count, d)) * rng.choice([1e-2, 1, 1e2], (count, 1))
    w = np.where(rng.uniform(size=w.shape) < 0.2, 0, w)
    w[:, 0] += w[:, 0] == 0
    low, high = np.minimum(w, 0).sum(1), np.maximum(w, 0).sum(1)
    b = low + rng.uniform(-0.5, 1.5, count) * (high - low)
    return [v.astype(np.float32).astype(np.float64) for v in (point, w, b)]


def run(name, point, w, b):
    arguments = [tf.constant(v, tf.float32) for v in (point, w, b)]
    return tf.function(PROJECTIONS[name])(*arguments).numpy().astype(np.float64)


@pytest.mark.parametrize("name", PROJECTIONS)
def test_nearest_point(name):
    hits = misses = 0
    for point, w, b, delta in zip(*cases(), run(name, *cases()), strict=True):
        assert np.all(delta[w == 0] == 0)
        moved = point + delta
        assert -1e-6 < moved.min() <= moved.max() < 1 + 1e-6
        expected = (
            smallest_linf(point, w, b) if name == "linf" else slow_l2(point, w, b)
        )
        if expected is None:
            misses += 1
            corner = np.where(b > w @ point, w > 0, w < 0)
            np.testing.assert_allclose(moved, np.where(w == 0, point, corner))
            continue
        hits += 1
        assert w @ moved == pytest.approx(b, abs=1e-5 * np.abs(w).sum())
        if name == "linf":
            assert np.abs(delta).max() == pytest.approx(expected, abs=1e-5)
        else:
            np.testing.assert_allclose(delta, expected, atol=1e-5)
    assert hits > 15
    assert misses > 15


@pytest.mark.parametrize("name", PROJECTIONS)
def test_scale_of_the_normal_does_not_matter(name):
    point, w, b = cases()
    plain = run(name, point, w, b)
    for scale in (1e-25, 1e25):
        np.testing.assert_allclose(
            run(name, point, w * scale, b * scale), plain, atol=1e-5
        )


@pytest.mark.parametrize("name", PROJECTIONS)
def test_nothing_to_do(name):
    point = np.array([[0.25, 0.5, 1.0]] * 2)
    w = np.array([[1.0, -2.0, 0.5], [0.0, 0.0, 0.0]])
    np.testing.assert_array_equal(run(name, point, w, [-0.25, 1.0]), np.zeros((2, 3)))


@pytest.mark.parametrize("name", PROJECTIONS)
def test_as_many_entries_as_a_large_image_has(name):
    """Normals over many magnitudes, in float32, against bisection in float64."""
    rng = np.random.default_rng(0)
    d = 224 * 224 * 3
    point = rng.uniform(size=(2, d)).astype(np.float32)
    w = (rng.normal(size=(2, d)) * 10 ** rng.uniform(-6, 0, (2, d))).astype(np.float32)
    point64, w64 = point.astype(np.float64), w.astype(np.float64)
    corner = np.where(w > 0, 1 - point64, point64)
    gain = (np.abs(w64) * corner).sum(1)
    b = np.sum(w64 * point64, 1) + [0.02, 0.9] * gain
    delta = run(name, point, w, b)
    speed = np.ones_like(w64) if name == "linf" else np.abs(w64)
    for i in range(2):
        low, high = 0.0, 1e9
        for _ in range(100):
            t = (low + high) / 2
            reached = np.abs(w64[i]) @ np.minimum(t * speed[i], corner[i])
            low, high = (low, t) if reached > b[i] - w64[i] @ point64[i] else (t, high)
        expected = np.sign(w64[i]) * np.minimum(t * speed[i], corner[i])
        np.testing.assert_allclose(delta[i], expected, atol=1e-5)
        assert w64[i] @ (point64[i] + delta[i]) == pytest.approx(b[i], rel=1e-5)
