"""Optimizers against the update rule, written slowly."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfssl.training import optimizers


class Layer(keras.layers.Layer):
    """A kernel, a bias and a BatchNorm scale, by the names that Keras gives them."""

    def build(self, shape=None):
        for name in ("kernel", "bias", "gamma"):
            self.add_weight(shape=(3,), initializer="ones", name=name)


@pytest.fixture
def layer():
    layer = Layer()
    layer.build()
    return layer


GRADIENTS = np.random.default_rng(0).normal(size=(4, 3, 3)).astype(np.float32)


def steps(optimizer, layer):
    optimizer.build(layer.trainable_variables)
    for gradients in GRADIENTS:
        pairs = zip(map(tf.constant, gradients), layer.trainable_variables, strict=True)
        optimizer.apply_gradients(pairs)
    return [v.numpy() for v in layer.trainable_variables]


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_decays_kernels_as_pytorch_does(layer, nesterov):
    """buf = mu buf + (g + wd w); w -= lr buf, or lr (g + wd w + mu buf)."""
    lr, mu, wd = 0.1, 0.9, 0.05
    optimizer = optimizers.sgd(lr, weight_decay=wd, momentum=mu, nesterov=nesterov)
    got = steps(optimizer, layer)
    for i, decay in enumerate((wd, 0.0, 0.0)):
        weight, buffer = np.ones(3), np.zeros(3)
        for gradients in GRADIENTS:
            gradient = gradients[i] + decay * weight
            buffer = mu * buffer + gradient
            weight = weight - lr * (gradient + mu * buffer if nesterov else buffer)
        np.testing.assert_allclose(got[i], weight, rtol=1e-5)


def test_adamw_decays_kernels_apart_from_the_gradient(layer):
    """Loshchilov & Hutter 2019, algorithm 2, with Adam's usual constants."""
    lr, wd, b1, b2, eps = 0.1, 0.05, 0.9, 0.999, 1e-7
    got = steps(optimizers.adamw(lr, weight_decay=wd), layer)
    for i, decay in enumerate((wd, 0.0, 0.0)):
        weight, m, v = np.ones(3), np.zeros(3), np.zeros(3)
        for t, gradients in enumerate(GRADIENTS, 1):
            g = gradients[i].astype(np.float64)
            m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
            weight = weight - lr * decay * weight
            step = (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)
            weight = weight - lr * step
        np.testing.assert_allclose(got[i], weight, rtol=1e-4)


def test_adam_does_not_decay(layer):
    plain = steps(optimizers.adam(0.1), layer)
    twin = Layer()
    twin.build()
    for got, want in zip(plain, steps(optimizers.adamw(0.1, 0.0), twin), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6)
