"""A data set written to the contract, a classifier that is good at it, an attack."""

import gin
import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_digits

from tfssl import randomness


@gin.register(module="tests")
class FakeDigits:
    """230 test digits of 8 x 8 pixels; ids are not positions."""

    name = "fake_digits"
    num_classes = 10
    image_shape = (8, 8, 1)

    def __init__(self):
        digits = load_digits()
        self.image = (digits.images[:230, ..., None] / 16).astype("float32")
        self.label = digits.target[:230].astype("int32")
        self._ids = 1000 + 3 * np.arange(230)
        self.fingerprint = {"name": self.name, "size": 230}
        self.visited = []

    def ids(self, split):
        return self._ids

    def size(self, split):
        return len(self._ids)

    def eval_batches(self, split, batch_size, seed, keep=None):
        chosen = np.arange(230) if keep is None else np.flatnonzero(keep)
        self.visited.append(len(chosen))
        fill = -len(chosen) % batch_size
        # Padding is a copy of an easy example: counted, it would show.
        index = np.concatenate([chosen, np.full(fill, chosen[0])])
        ids = np.concatenate([self._ids[chosen], np.full(fill, -1)])
        return tf.data.Dataset.from_tensor_slices(
            {
                "image": self.image[index],
                "label": self.label[index],
                "id": ids.astype("int64"),
                "seed": randomness.example_seeds(seed, 0, ids).numpy(),
            }
        ).batch(batch_size, drop_remainder=True)


class Ball:
    name = "linf"


class RandomSign:
    """One signed gradient step of epsilon from a random start."""

    def __init__(self):
        self.ball = Ball()
        self.reach = 1.0

    def perturb(self, logits_fn, image, label, seed, epsilon):
        start = randomness.uniform(seed, image.shape[1:], -1.0, 1.0) * epsilon
        start = tf.clip_by_value(image + start, 0.0, 1.0)
        with tf.GradientTape() as tape:
            tape.watch(start)
            loss = tf.nn.sparse_softmax_cross_entropy_with_logits(
                label, logits_fn(start)
            )
        delta = start + epsilon * tf.sign(tape.gradient(loss, start)) - image
        delta = tf.clip_by_value(delta, -epsilon * self.reach, epsilon * self.reach)
        return tf.clip_by_value(image + delta, 0.0, 1.0)


@pytest.fixture
def dataset():
    return FakeDigits()


@pytest.fixture
def attack():
    return RandomSign()


@pytest.fixture(scope="session")
def weights():
    """Kernel [64, 10] and bias [10] of a linear classifier: ridge regression."""
    digits = load_digits()
    inputs = np.c_[digits.images[230:].reshape(-1, 64) / 16, np.ones(1567)]
    targets = inputs.T @ np.eye(10)[digits.target[230:]]
    solution = 20 * np.linalg.solve(inputs.T @ inputs + 20 * np.eye(65), targets)
    return solution[:64].astype("float32"), solution[64].astype("float32")


@pytest.fixture
def make_model(weights):
    """A Keras model with these weights; keywords are for its dense layer."""

    def make(**dense):
        image = keras.Input((8, 8, 1))
        layer = keras.layers.Dense(10, **dense)
        model = keras.Model(image, layer(keras.layers.Flatten()(image)))
        layer.set_weights(weights)
        return model

    return make


@pytest.fixture
def model_path(make_model, tmp_path):
    path = tmp_path / "model.keras"
    make_model().save(path)
    return path
