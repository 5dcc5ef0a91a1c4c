"""A small network behind the `Forward` that objectives are handed."""

import keras
import numpy as np
import pytest
import tensorflow as tf


class DenseForward:
    """Flattened image -> Dense(6) -> Dense(5), any leading dimensions."""

    training = False

    def __init__(self, image_shape):
        size = int(np.prod(image_shape))
        self.image_rank = len(image_shape)
        self.backbone = keras.layers.Dense(6, activation="tanh")
        self.classifier = keras.layers.Dense(5)
        self.backbone.build([None, size])
        self.classifier.build([None, 6])

    @property
    def variables(self):
        variables = self.backbone.trainable_variables
        return variables + self.classifier.trainable_variables

    def features(self, image):
        leading = tf.shape(image)[: -self.image_rank]
        flat = tf.reshape(image, [-1, self.backbone.kernel.shape[0]])
        return tf.reshape(self.backbone(flat), tf.concat([leading, [6]], 0))

    def logits(self, image):
        return self.classifier(self.features(image))


@pytest.fixture
def make_forward():
    def make(image_shape):
        keras.utils.set_random_seed(0)
        return DenseForward(image_shape)

    return make


@pytest.fixture
def make_batch():
    def make(size, image_shape):
        generator = np.random.default_rng(0)
        image = generator.uniform(0, 1, (size, *image_shape)).astype(np.float32)
        return {
            "image": tf.constant(image),
            "label": tf.constant(generator.integers(0, 5, size), tf.int32),
            "id": tf.range(size, dtype=tf.int64),
            "seed": tf.constant(generator.integers(0, 2**31, (size, 2)), tf.int32),
        }

    return make
