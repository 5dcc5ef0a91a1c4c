"""Optimizers against the update rule, written slowly."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfssl import distribute
from tfssl.objectives.prototypes import Prototypes
from tfssl.training import optimizers
from tfssl.training.checkpoints import Checkpoints
from tfssl.types import UserError


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


def slow_lars(variables, gradients, rates, wd, mu, trust, clip):
    """The rule of the docstring, one number of each formula at a time."""
    values = {name: np.array(value, float) for name, value in variables.items()}
    momenta = {name: np.zeros_like(value) for name, value in values.items()}
    for step, lr in enumerate(rates):
        for name, w in values.items():
            g, rate = gradients[name][step].astype(float), lr
            if name == "kernel":
                apart = np.sqrt((g**2).sum()) + wd * np.sqrt((w**2).sum())
                g = g + wd * w
                if np.any(w) and np.any(g):
                    below = apart if clip else np.sqrt((g**2).sum())
                    local = trust * np.sqrt((w**2).sum()) / below
                    rate = min(local, lr) if clip else lr * local
            momenta[name] = mu * momenta[name] + rate * g
            values[name] = w - momenta[name]
    return values


class Falling(keras.optimizers.schedules.LearningRateSchedule):
    RATES = (0.5, 0.2, 0.08, 0.01)

    def __call__(self, step):
        return tf.gather(tf.constant(self.RATES), tf.cast(step, tf.int32))


@pytest.mark.parametrize("start", [1.0, 0.0])
@pytest.mark.parametrize(("trust", "clip"), [(0.5, False), (0.05, True)])
def test_lars(layer, start, trust, clip):
    """Local rates on both sides of the bound, if there is one; a kernel of zeros."""
    layer.trainable_variables[0].assign([start] * 3)
    optimizer = optimizers.lars(
        Falling(), weight_decay=0.3, momentum=0.8, trust=trust, clip=clip
    )
    got = steps(optimizer, layer)
    names = ["kernel", "bias", "gamma"]
    variables = dict(zip(names, [[start] * 3, [1.0] * 3, [1.0] * 3], strict=True))
    gradients = {name: GRADIENTS[:, i] for i, name in enumerate(names)}
    want = slow_lars(variables, gradients, Falling.RATES, 0.3, 0.8, trust, clip)
    for value, name in zip(got, names, strict=True):
        np.testing.assert_allclose(value, want[name], rtol=1e-5, err_msg=name)


def test_lars_adapts_to_prototypes():
    layer = Prototypes(5)
    layer.build([None, 3])
    optimizer = optimizers.lars(0.5, weight_decay=0.0, momentum=0.0, trust=0.1)
    before = layer.kernel.numpy()
    gradient = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    optimizer.apply([tf.constant(gradient)], [layer.kernel])
    moved = np.linalg.norm(layer.kernel.numpy() - before)
    assert moved == pytest.approx(0.5 * 0.1 * np.linalg.norm(before), rel=1e-4)


def test_lars_on_two_replicas_and_resumed(tmp_path, two_replicas):
    """Unequal shares of each gradient; halfway, all goes on from a file."""
    rate, settings = Falling(), {"weight_decay": 0.3, "trust": 0.5}

    def make():
        layer = Layer(name="layer")
        layer.build()
        optimizer = optimizers.lars(rate, **settings)
        optimizer.build(layer.trainable_variables)
        named = [*layer.weights, *optimizer.variables]

        @tf.function
        def step(gradients):
            share = 0.75 - 0.5 * tf.cast(distribute.replica(), tf.float32)
            pairs = zip(
                tf.unstack(share * gradients), layer.trainable_variables, strict=True
            )
            optimizer.apply_gradients(pairs)

        return layer, step, Checkpoints(tmp_path, {v.path: v.value for v in named})

    with two_replicas.scope():
        layer, step, checkpoints = make()
        for gradients in GRADIENTS[:2]:
            two_replicas.run(step, [tf.constant(gradients)])
        checkpoints.save(2, {})
        layer, step, checkpoints = make()
        assert checkpoints.restore() == (2, {})
        for gradients in GRADIENTS[2:]:
            two_replicas.run(step, [tf.constant(gradients)])

    alone = Layer()
    alone.build()
    want = steps(optimizers.lars(rate, **settings), alone)
    for variable, value in zip(layer.trainable_variables, want, strict=True):
        for copy in two_replicas.experimental_local_results(variable.value):
            np.testing.assert_allclose(copy, value, rtol=1e-5)


def test_lars_under_loss_scaling(layer):
    """Mixed precision: decay and norms are of the gradient itself, not the scaled."""
    twin = Layer()
    twin.build()
    settings = {"weight_decay": 0.3, "trust": 0.5}
    want = steps(optimizers.lars(Falling(), **settings), layer)
    scaled = keras.optimizers.LossScaleOptimizer(
        optimizers.lars(Falling(), **settings), initial_scale=4.0
    )
    scaled.build(twin.trainable_variables)
    for gradients in GRADIENTS:
        pairs = zip(4 * tf.constant(gradients), twin.trainable_variables, strict=True)
        scaled.apply_gradients(pairs)
    for variable, value in zip(twin.trainable_variables, want, strict=True):
        np.testing.assert_allclose(variable, value, rtol=1e-5)


@pytest.mark.parametrize("trust", [0, -1.0, float("nan")])
def test_lars_needs_trust(trust):
    with pytest.raises(UserError, match="trust must be positive"):
        optimizers.lars(0.1, trust=trust)
