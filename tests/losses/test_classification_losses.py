"""Losses on logits and labels, against the formulas written slowly in float64."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfssl.losses import classification

LABELS = np.array([0, 3, 2, 4, 1, 2])
LOGITS = np.random.default_rng(0).normal(0, 3, (6, 5))
EXTREME = np.array([[1e3, -1e3, -1e3], [-1e3, 1e3, -1e3], [1e3, 1e3, 1e3], [-1e3] * 3])
LOSSES = [
    classification.cross_entropy,
    lambda y, z: classification.cross_entropy(y, z, 0.1),
    classification.margin,
    classification.boosted_cross_entropy,
    classification.dlr,
    lambda y, z: classification.targeted_dlr(y, (y + 1) % z.shape[-1], z),
]
NAMES = ["cross_entropy", "smoothed", "margin", "boosted", "dlr", "targeted_dlr"]
CASES = list(zip(NAMES, LOSSES, strict=True))


def slow(name, y, z):
    """One example: int, [k] to a number, from the definitions."""
    p = [np.exp(a) / sum(np.exp(b) for b in z) for a in z]
    others = [k for k in range(len(z)) if k != y]
    if name == "cross_entropy":
        return -np.log(p[y])
    if name == "smoothed":
        target = [0.1 / len(z) + 0.9 * (k == y) for k in range(len(z))]
        return -sum(t * np.log(a) for t, a in zip(target, p, strict=True))
    if name == "margin":
        return max(z[k] for k in others) - z[y]
    if name == "dlr":
        first, _, third = sorted(z, reverse=True)[:3]
        return -(z[y] - max(z[k] for k in others)) / (first - third + 1e-12)
    if name == "targeted_dlr":
        first, _, *lower = sorted(z, reverse=True)[:4]
        return -(z[y] - z[(y + 1) % len(z)]) / (first - np.mean(lower) + 1e-12)
    return -np.log(p[y]) - np.log(1 - max(p[k] for k in others))


def gradient(loss, labels, logits):
    logits = tf.constant(logits)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        value = loss(labels, logits)
    return value.numpy(), tape.gradient(value, logits).numpy()


@pytest.mark.parametrize(("name", "loss"), CASES)
def test_value_and_gradient_are_those_of_the_definition(name, loss):
    value, grad = gradient(loss, LABELS, LOGITS)
    for i, y in enumerate(LABELS):
        np.testing.assert_allclose(value[i], slow(name, y, LOGITS[i]), rtol=1e-10)
        for k in range(5):
            step = 1e-6 * np.eye(5)[k]
            rise = slow(name, y, LOGITS[i] + step) - slow(name, y, LOGITS[i] - step)
            np.testing.assert_allclose(grad[i, k], rise / 2e-6, atol=1e-7)


@pytest.mark.parametrize(("name", "loss"), CASES)
def test_leading_dimensions_are_kept(name, loss):
    flat = loss(LABELS, tf.constant(LOGITS))
    folded = loss(LABELS.reshape(2, 3), tf.constant(LOGITS.reshape(2, 3, 5)))
    np.testing.assert_array_equal(tf.reshape(folded, [-1]), flat)


@pytest.mark.parametrize("label", [0, 1])
def test_saturated_logits_give_the_limits(label):
    labels = [label] * 4
    right, wrong, even = label == 0, label == 1, np.log(3)
    logits = EXTREME.astype(np.float32)

    value, grad = gradient(classification.cross_entropy, labels, logits)
    np.testing.assert_allclose(value, [2e3 * wrong, 2e3 * right, even, even], rtol=1e-6)
    assert np.isfinite(grad).all()

    value, grad = gradient(classification.margin, labels, logits)
    np.testing.assert_allclose(
        value, [2e3 * (wrong - right), 2e3 * (right - wrong), 0, 0]
    )
    np.testing.assert_allclose(grad[:, label], -1)
    np.testing.assert_allclose(grad.sum(1), 0)

    # A rival of probability 1: 1 - p is the sum of the two others, 2 exp(-2000).
    value, grad = gradient(classification.boosted_cross_entropy, labels, logits)
    lost = 2e3 + 2e3 - np.log(2)
    even = np.log(3) - np.log(2 / 3)
    expected = [0 if right else lost, lost if right else 0, even, even]
    np.testing.assert_allclose(value, expected, rtol=1e-6, atol=1e-6)
    # There -log p_y has the slopes p - y, and -log(1 - p_j) is z_j minus the logarithm
    # of the sum of the two others' exponentials, of equal logits here.
    closed = np.array([-1.5, 2.0, -0.5] if right else [2.0, -1.5, -0.5])
    np.testing.assert_allclose(grad[1 if right else 0], closed, atol=1e-6)
    assert np.isfinite(grad).all()


def test_two_classes_boost_to_twice_the_cross_entropy():
    logits = LOGITS[:, :2]
    boosted = classification.boosted_cross_entropy(LABELS % 2, tf.constant(logits))
    plain = classification.cross_entropy(LABELS % 2, tf.constant(logits))
    np.testing.assert_allclose(boosted, 2 * plain, rtol=1e-10)


def test_logits_ratio_of_few_classes_and_of_equal_logits():
    dlr, targeted = classification.dlr, classification.targeted_dlr
    np.testing.assert_allclose(dlr([0], tf.constant([[3.0, 1.0]])), [-2.0])
    np.testing.assert_allclose(targeted([0], [1], tf.constant([[3.0, 1.0]])), [-2.0])
    logits = tf.constant([[3.0, 2.0, -1.0]])
    np.testing.assert_allclose(dlr([0], logits), [-1 / 4])
    np.testing.assert_allclose(targeted([0], [2], logits), [-4.0])
    extreme = np.c_[EXTREME, EXTREME[:, 2]].astype(np.float32)
    for loss in (dlr, lambda y, z: targeted(y, [1, 1, 1, 1], z)):
        value, grad = gradient(loss, [0, 0, 0, 0], extreme)
        assert np.isfinite(value).all()
        assert np.isfinite(grad).all()
        np.testing.assert_array_equal(value[2:], 0)


@pytest.mark.parametrize("smoothing", [0.1, 0.9])
def test_label_smoothing_is_that_of_keras(smoothing):
    keras_loss = keras.losses.CategoricalCrossentropy(
        from_logits=True, label_smoothing=smoothing, reduction=None
    )
    logits = LOGITS.astype(np.float32)
    expected = keras_loss(np.eye(5, dtype=np.float32)[LABELS], logits)
    value = classification.cross_entropy(LABELS, tf.constant(logits), smoothing)
    np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_margin_is_positive_where_the_prediction_is_wrong():
    labels = tf.constant(LABELS, tf.int32)
    lost = classification.margin(labels, tf.constant(LOGITS)).numpy() > 0
    right = classification.correct(labels, tf.constant(LOGITS)).numpy()
    assert right.dtype == np.float32
    assert 0 < right.sum() < len(right)
    np.testing.assert_array_equal(lost, right == 0)
    np.testing.assert_array_equal(right, LOGITS.argmax(1) == LABELS)
