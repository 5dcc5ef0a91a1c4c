"""Models that are built to lead attacks astray, each with the mark that it must get."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfssl.evaluation import outputs
from tfssl.evaluation.classifier import Classifier
from tfssl.types import UserError


class _Rounded(keras.layers.Layer):
    """Rounds to whole numbers, with the gradient of the identity or, hard, none."""

    def __init__(self, scale, hard):
        super().__init__()
        self.scale, self.hard = scale, hard

    def call(self, x):
        rounded = tf.round(x * self.scale) / self.scale
        return rounded if self.hard else x + tf.stop_gradient(rounded - x)


class _Root(keras.layers.Layer):
    """sqrt(x^2): |x| with a gradient that is NaN at 0."""

    def call(self, x):
        return tf.sqrt(x * x)


class _Noisy(keras.layers.Layer):
    def call(self, x):
        return x + 0.1 * tf.random.normal(tf.shape(x))


class _Company(keras.layers.Layer):
    """Subtracts the batch's mean image."""

    def call(self, x):
        return x - 0.2 * tf.reduce_mean(x, axis=0, keepdims=True)


class _Stopped(keras.layers.Layer):
    def call(self, x):
        return tf.stop_gradient(x)


class _Shut(keras.layers.Layer):
    """Lets gradients of bright images through, of dark ones none."""

    def call(self, x):
        dark = tf.reduce_mean(x, [1, 2, 3], keepdims=True) < 0.3
        return tf.where(dark, tf.stop_gradient(x), x)


@pytest.fixture
def wrapped(make_model):
    """The good model with a layer before or after it."""

    def wrap(before=None, after=None):
        image = keras.Input((8, 8, 1))
        x = make_model()(before(image) if before else image)
        return keras.Model(image, after(x) if after else x)

    return wrap


BROKEN = {
    "probabilities": {"after": lambda: keras.layers.Softmax()},
    "randomised": {"before": _Noisy},
    "batch_dependent": {"before": _Company},
    "no_gradient": {"before": _Stopped},
    "zero_gradients": {"before": _Shut},
    "saturated": {"after": lambda: keras.layers.Rescaling(1e4)},
    "gradients_not_finite": {"before": _Root},
}


def _marks(model, dataset):
    return outputs.marks(Classifier(model), dataset.image, dataset.label)


def test_a_good_model_has_no_marks(make_model, dataset):
    assert _marks(make_model(), dataset) == {}


@pytest.mark.parametrize("mark", BROKEN)
def test_broken_models_are_marked(mark, wrapped, dataset):
    layers = {place: make() for place, make in BROKEN[mark].items()}
    assert list(_marks(wrapped(**layers), dataset)) == [mark]


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("place", ["before", "after"])
def test_rounding_is_marked(place, hard, wrapped, dataset):
    # Images of digits have 17 grey levels.
    scale = 16 if place == "before" else 2
    found = _marks(wrapped(**{place: _Rounded(scale, hard)}), dataset)
    assert "quantised" in found
    # TensorFlow's round has no gradient at all.
    assert ("no_gradient" in found) == hard


def test_the_share_of_zero_gradients_is_said(wrapped, dataset):
    dark = dataset.image.mean(axis=(1, 2, 3)) < 0.3
    right = wrapped()(dataset.image).numpy().argmax(axis=1) == dataset.label
    share = f"{100 * dark[right].mean():.1f} %"
    assert 0 < dark[right].mean() < 1
    assert share in _marks(wrapped(_Shut()), dataset)["zero_gradients"]


def test_guessing_is_marked(dataset):
    # Made for another range: bright images all look alike to it.
    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten()])
    model.add(keras.layers.Dense(10, kernel_initializer="zeros"))
    found = _marks(model, dataset)
    assert "no_better_than_guessing" in found

    model.layers[-1].bias.assign([float("nan")] * 10)
    with pytest.raises(UserError, match="not finite"):
        _marks(model, dataset)


def test_batches_of_one(make_model, dataset):
    found = outputs.marks(Classifier(make_model()), dataset.image[:1], np.array([0]))
    assert set(found) <= {"no_better_than_guessing"}
