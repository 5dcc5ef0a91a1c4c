"""Folding changes the arithmetic and not the function."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfssl.folding import Folded
from tfssl.models.preact_resnet import preact_resnet18
from tfssl.models.resnet import resnet


def randomize(network, seed):
    rng = np.random.default_rng(seed)
    # Upwards only: variances stay positive.
    network.set_weights(
        [w + rng.uniform(0, 0.2, w.shape) for w in network.get_weights()]
    )


NETWORKS = {
    # Number of BatchNorms that follow a convolution, and of all.
    "resnet": (lambda: resnet((8, 8, 3), (1, 1), width=4), 6, 6),
    "preact": (lambda: preact_resnet18((8, 8, 3), width=4), 8, 17),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_same_function_and_gradient_at_all_times(name):
    build, folds, norms = NETWORKS[name]
    network = build()
    folded = Folded(network)
    kinds = [type(layer) for layer in folded._twin.layers]
    assert kinds.count(keras.layers.BatchNormalization) == norms - folds
    image = tf.random.stateless_uniform([4, 8, 8, 3], [1, 2])

    def run(fn):
        with tf.GradientTape() as tape:
            tape.watch(image)
            features = fn(image, training=False)
            loss = tf.reduce_sum(features[:, 0])
        return features, tape.gradient(loss, image)

    for seed in (0, 1):  # The weights of the present count, not those of the making.
        randomize(network, seed)
        for got, want in zip(run(folded.at_present()), run(network), strict=True):
            scale = np.abs(want).max()
            np.testing.assert_allclose(got / scale, want / scale, atol=2e-5)


def test_what_cannot_be_folded_stays():
    """Convolutions with an activation or two readers, BatchNorm after a sum."""
    inputs = keras.Input((6, 6, 2))
    active = keras.layers.Conv2D(3, 3, activation="relu", name="active")(inputs)
    x = keras.layers.BatchNormalization()(active)
    shared = keras.layers.Conv2D(3, 1, name="shared")(x)
    normed = keras.layers.BatchNormalization()(shared)
    total = keras.layers.Add()([shared, normed])
    x = keras.layers.BatchNormalization()(total)
    plain = keras.layers.Conv2D(3, 1, name="plain")(x)  # With a bias.
    x = keras.layers.BatchNormalization(scale=False, center=False)(plain)
    network = keras.Model(inputs, x)
    randomize(network, 0)
    folded = Folded(network)
    assert set(folded._pairs) == {"plain"}
    image = tf.random.stateless_uniform([4, 6, 6, 2], [1, 2])
    np.testing.assert_allclose(folded.at_present()(image), network(image), rtol=1e-4)


def test_nothing_to_fold_is_the_network_itself():
    inputs = keras.Input((4,))
    network = keras.Model(inputs, keras.layers.Dense(2)(inputs))
    assert Folded(network).at_present() is network


def test_folding_draws_no_random_numbers():
    """Weights made after a folding are those that would have been made without."""
    values = []
    for fold in (True, False):
        keras.utils.set_random_seed(0)
        network = resnet((8, 8, 3), (1,), width=4)
        network = keras.Model(network.input, keras.layers.Dense(2)(network.output))
        if fold:
            Folded(network)
        values.append(keras.layers.Dense(3)(tf.ones([1, 2])).numpy())
    np.testing.assert_array_equal(*values)


def test_a_pair_is_seen_in_this_model_alone():
    """Layers that were called in another model before, in another order."""
    inputs = keras.Input((6, 6, 2))
    conv = keras.layers.Conv2D(3, 1, name="conv")
    norm = keras.layers.BatchNormalization()
    elsewhere = keras.Model(inputs, norm(conv(inputs)))
    x = conv(inputs)
    network = keras.Model(inputs, keras.layers.Add()([x, norm(keras.layers.ReLU()(x))]))
    randomize(network, 0)
    assert set(Folded(elsewhere)._pairs) == {"conv"}
    assert not Folded(network)._pairs


@pytest.mark.parametrize("used", ["conv", "norm"])
def test_layers_used_twice_stay(used):
    inputs = keras.Input((6, 6, 3))
    conv, norm = keras.layers.Conv2D(3, 1), keras.layers.BatchNormalization()
    x = norm(conv(inputs))
    x = conv(x) if used == "conv" else norm(keras.layers.ReLU()(x))
    network = keras.Model(inputs, x)
    randomize(network, 0)
    assert not Folded(network)._pairs


class _Twice(keras.Model):
    """Functional, with something on top that its layers do not tell."""

    def call(self, *args, **kwargs):
        return 2 * super().call(*args, **kwargs)


def test_what_fits():
    def fits(*layers, kind=keras.Model):
        inputs = keras.Input((6, 6, 3))
        x = inputs
        for layer in layers:
            x = layer(x)
        return Folded.fits(kind(inputs, x))

    known = [keras.layers.Conv2D(3, 1, activation="relu"), keras.layers.Flatten()]
    assert fits(*known, keras.layers.Normalization(mean=0.5, variance=0.1))
    assert not fits(*known, kind=_Twice)
    for stranger in (
        keras.layers.Conv2D(3, 1, activation=lambda x: x + 1),
        keras.layers.Conv2D(3, 1, activation=keras.layers.PReLU(shared_axes=[1, 2])),
        keras.layers.Conv2D(3, 1, dtype="mixed_bfloat16"),
        keras.layers.Lambda(lambda x: x + 1),
        keras.layers.Dropout(0.5),
        keras.layers.SpectralNormalization(keras.layers.Conv2D(3, 1)),
        keras.Sequential([keras.layers.ReLU()]),
        lambda x: keras.ops.exp(x),
    ):
        assert not fits(stranger)
    # What it has learnt is in attributes that are no weights.
    layer = keras.layers.Normalization()
    layer.adapt(np.random.default_rng(0).uniform(size=(2, 6, 6, 3)))
    assert not fits(layer)
