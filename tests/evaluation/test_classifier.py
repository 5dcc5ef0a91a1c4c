import keras
import numpy as np
import pytest

from tfssl.evaluation.classifier import Classifier
from tfssl.types import UserError


def test_missing_and_corrupt_files(tmp_path):
    with pytest.raises(UserError, match="no model file"):
        Classifier.load(tmp_path / "none.keras")
    for content in (b"", b"PK\x03\x04 torn"):
        (tmp_path / "bad.keras").write_bytes(content)
        with pytest.raises(UserError, match="no Keras model that loads") as caught:
            Classifier.load(tmp_path / "bad.keras")
        assert "\n" not in str(caught.value)


def test_code_in_a_model_is_not_run(tmp_path):
    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Lambda(lambda x: x)])
    model.save(tmp_path / "lambda.keras")
    with pytest.raises(UserError, match="no Keras model that loads"):
        Classifier.load(tmp_path / "lambda.keras")


def _model(shape, outputs, inputs=1):
    images = [keras.Input(shape) for _ in range(inputs)]
    joined = keras.layers.Add()(images) if inputs > 1 else images[0]
    flat = keras.layers.Flatten()(joined)
    return keras.Model(images, [keras.layers.Dense(k)(flat) for k in outputs])


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: _model((8, 8, 3), [10]), r"\(8, 8, 3\).*\(8, 8, 1\)"),
        (lambda: _model((8, 8, 1), [7]), "10 classes"),
        (lambda: _model((8, 8, 1), [10, 10]), "1 inputs and 2 outputs"),
        (lambda: _model((8, 8, 1), [10], inputs=2), "2 inputs and 1 outputs"),
        (lambda: keras.Sequential([keras.layers.Dense(10)]), "0 inputs"),
    ],
)
def test_models_that_do_not_fit(model, message, dataset):
    with pytest.raises(UserError, match=message):
        Classifier(model()).check_fit(dataset)


def test_any_size_fits(dataset):
    image = keras.Input((None, None, 1))
    pooled = keras.layers.GlobalAveragePooling2D()(image)
    model = keras.Model(image, keras.layers.Dense(10)(pooled))
    Classifier(model).check_fit(dataset)


def test_outputs_are_looked_at(make_model, dataset, caplog):
    good = make_model()
    Classifier(good).check_outputs(dataset.image, dataset.label)
    assert not caplog.records

    with pytest.raises(UserError, match="remove its softmax"):
        Classifier(make_model(activation="softmax")).check_outputs(
            dataset.image, dataset.label
        )

    # Made for another range: bright images all look alike to it.
    guessing = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten()])
    guessing.add(keras.layers.Dense(10, kernel_initializer="zeros"))
    Classifier(guessing).check_outputs(dataset.image, dataset.label)
    assert "no better than guessing" in caplog.text

    guessing.layers[-1].bias.assign([float("nan")] * 10)
    with pytest.raises(UserError, match="not finite"):
        Classifier(guessing).check_outputs(dataset.image, dataset.label)


class _Root(keras.layers.Layer):
    """sqrt(x^2): |x| with a gradient that is NaN at 0."""

    def call(self, x):
        return keras.ops.sqrt(x * x)


class _Rounded(keras.layers.Layer):
    def call(self, x):
        return keras.ops.cast(keras.ops.cast(x * 255, "int32"), "float32")


@pytest.mark.parametrize(
    ("layer", "message"), [(_Root, "not finite"), (_Rounded, "no gradient")]
)
def test_attacks_need_gradients(layer, message):
    inputs = keras.Input((4, 4, 1))
    outputs = keras.layers.Dense(3)(keras.layers.Flatten()(layer()(inputs)))
    classifier = Classifier(keras.Model(inputs, outputs))
    with pytest.raises(UserError, match=message):
        classifier.check_outputs(
            np.zeros((2, 4, 4, 1), np.float32), np.zeros(2, np.int32)
        )
