"""KL divergence of logits, against the definition in float64."""

import numpy as np
import tensorflow as tf

from tfssl.losses import divergence

GENERATOR = np.random.default_rng(0)
P, Q = GENERATOR.normal(0, 2, (2, 4, 5))


def softmax(z):
    return np.exp(z) / np.exp(z).sum(-1, keepdims=True)


def gradients(p_logits, q_logits):
    p_logits, q_logits = tf.constant(p_logits), tf.constant(q_logits)
    with tf.GradientTape() as tape:
        tape.watch([p_logits, q_logits])
        value = divergence.kl(p_logits, q_logits)
    by_p, by_q = tape.gradient(value, [p_logits, q_logits])
    return value.numpy(), by_p.numpy(), by_q.numpy()


def test_value_and_gradients_are_those_of_the_definition():
    value, by_p, by_q = gradients(P, Q)
    p, q = softmax(P), softmax(Q)
    ratio = np.log(p / q)
    expected = np.array([sum(p[i] * ratio[i]) for i in range(4)])
    np.testing.assert_allclose(value, expected, rtol=1e-10)
    np.testing.assert_allclose(by_p, p * (ratio - expected[:, None]), atol=1e-12)
    np.testing.assert_allclose(by_q, q - p, atol=1e-12)


def test_no_divergence_from_itself_nor_from_shifted_logits():
    logits = P.astype(np.float32)
    assert (divergence.kl(logits, logits).numpy() == 0).all()
    np.testing.assert_allclose(divergence.kl(logits, logits + 7), 0, atol=1e-6)


def test_direction():
    # A certain p against an even q costs log k; the other way round, far more.
    certain, even = np.float32([[1e3, -1e3]]), np.float32([[0, 0]])
    np.testing.assert_allclose(divergence.kl(certain, even), np.log(2), rtol=1e-6)
    np.testing.assert_allclose(divergence.kl(even, certain), 1e3 - np.log(2), rtol=1e-6)


def test_saturated_logits_stay_finite():
    one, other = np.float32([[1e3, -1e3, -1e3]]), np.float32([[-1e3, 1e3, -1e3]])
    value, by_p, by_q = gradients(one, other)
    np.testing.assert_allclose(value, 2e3, rtol=1e-6)
    np.testing.assert_allclose(by_p, 0, atol=1e-6)
    np.testing.assert_allclose(by_q, [[-1, 1, 0]], atol=1e-6)
