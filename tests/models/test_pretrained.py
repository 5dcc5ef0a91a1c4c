"""A trained model as a backbone: its head is gone, and no random number is spent."""

import keras
import numpy as np
import pytest

from tfssl.models.pretrained import pretrained
from tfssl.models.resnet import resnet
from tfssl.models.vit import vit
from tfssl.types import UserError

SHAPE = (8, 8, 1)


def small():
    model = resnet(SHAPE, (1,), width=4)
    rng = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(rng.uniform(0.5, 1.5, weight.shape))
    return model


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """The same network, without and with a head, as training exports them."""
    folder = tmp_path_factory.mktemp("models")
    model = small()
    model.save(folder / "encoder.keras")
    logits = keras.layers.Dense(10, name="logits")(model.output)
    keras.Model(model.input, logits).save(folder / "classifier.keras")
    return {name: f"{folder / name}.keras" for name in ("encoder", "classifier")}


@pytest.mark.parametrize("kind", ["encoder", "classifier"])
def test_features_alone_are_taken(paths, kind):
    image = np.random.default_rng(1).random((3, *SHAPE), np.float32)
    model, expected = pretrained(SHAPE, paths[kind]), small()
    np.testing.assert_array_equal(model(image), expected(image))
    assert model.output_names == ["features"]
    assert [w.path for w in model.weights] == [w.path for w in expected.weights]
    assert len(model.trainable_variables) == len(expected.trainable_variables)


def test_frozen_stays_in_inference_mode_and_thaws(paths, tmp_path):
    image = np.random.default_rng(1).random((3, *SHAPE), np.float32)
    model = pretrained(SHAPE, paths["classifier"], frozen=True)
    assert not model.trainable_variables
    before = model.get_weights()
    np.testing.assert_array_equal(model(image, training=True), model(image))
    for weight, value in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, value)

    model.save(tmp_path / "frozen.keras")
    thawed = pretrained(SHAPE, tmp_path / "frozen.keras")
    assert len(thawed.trainable_variables) == len(small().trainable_variables)
    assert np.abs(thawed(image, training=True) - model(image)).max() > 1e-3


def test_random_draws_do_not_depend_on_the_file(paths):
    kernels = []
    for load in (
        lambda: None,
        lambda: pretrained(SHAPE, paths["encoder"]),
        lambda: pretrained(SHAPE, paths["classifier"], frozen=True),
    ):
        keras.utils.set_random_seed(0)
        load()
        layer = keras.layers.Dense(3)
        layer.build((None, 4))
        kernels.append(layer.kernel.numpy())
    np.testing.assert_array_equal(kernels[0], kernels[1])
    np.testing.assert_array_equal(kernels[0], kernels[2])


def test_batch_norm_follows_the_replicas(paths, tmp_path, two_replicas):
    def norms(model):
        return {
            layer.synchronized
            for layer in model.layers
            if isinstance(layer, keras.layers.BatchNormalization)
        }

    with two_replicas.scope():
        model = pretrained(SHAPE, paths["encoder"])
        assert norms(model) == {True}
        model.save(tmp_path / "two.keras")
    assert norms(pretrained(SHAPE, tmp_path / "two.keras")) == {False}


def test_layers_of_a_vit_are_known(tmp_path):
    vit(SHAPE, 4, 6, 1, 2, 2).save(tmp_path / "vit.keras")
    assert pretrained(SHAPE, tmp_path / "vit.keras").output_shape == (None, 6)


def test_wrong_files_are_told(paths, tmp_path):
    (tmp_path / "bad.keras").write_bytes(b"PK\x03\x04 torn")
    for shape, path, message in (
        (SHAPE, tmp_path / "none.keras", "no model file"),
        (SHAPE, tmp_path, "no model file"),
        (SHAPE, tmp_path / "bad.keras", "no Keras model that loads"),
        ((32, 32, 3), paths["encoder"], r"\(8, 8, 1\).*\(32, 32, 3\)"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            pretrained(shape, path)
        assert "\n" not in str(caught.value)
