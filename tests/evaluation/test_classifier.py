import keras
import numpy as np
import pytest
import tensorflow as tf

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


@pytest.mark.parametrize("kind", ["functional", "sequential", "unknown"])
def test_what_attacks_get_is_the_same_function(kind):
    layers = [
        keras.Input((6, 6, 2)),
        keras.layers.Conv2D(4, 3, name="conv"),
        keras.layers.BatchNormalization(),
        keras.layers.Dropout(0.5) if kind == "unknown" else keras.layers.ReLU(),
        keras.layers.Flatten(),
        keras.layers.Dense(3),
    ]
    model = keras.Sequential(layers)
    if kind == "functional":
        model = keras.Model(model.inputs, model.outputs)
    classifier = Classifier(model)
    image = tf.random.stateless_uniform([5, 6, 6, 2], [1, 2])
    run = tf.function(lambda: classifier.search()(image))
    for shift in (0.0, 0.1):  # Of the present weights, not those of the tracing.
        model.set_weights([w + shift for w in model.get_weights()])
        np.testing.assert_allclose(run(), classifier.logits(image), atol=1e-5)
    assert (classifier._folded is None) == (kind == "unknown")
    assert classifier.search() is classifier.search()


def test_a_model_that_cannot_be_copied_is_attacked_as_it_is():
    inputs = keras.Input((6, 6, 2))
    conv = keras.layers.Conv2D(3, 3, kernel_regularizer=lambda w: 0.0 * w)
    x = keras.layers.BatchNormalization()(conv(inputs))
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))
    image = tf.random.stateless_uniform([2, 6, 6, 2], [1, 2])
    classifier = Classifier(model)
    got = tf.function(lambda: classifier.search()(image))()
    np.testing.assert_allclose(got, model(image), atol=1e-6)


def test_shorter_floats_are_attacked_as_they_are():
    """Folded, bfloat16 rounds otherwise, and what PGD finds at the boundary is lost."""
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        inputs = keras.Input((6, 6, 2))
        x = keras.layers.BatchNormalization()(keras.layers.Conv2D(3, 3)(inputs))
        model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))
    finally:
        keras.config.set_dtype_policy("float32")
    assert Classifier(model)._folded is None
