"""Maps that stay, move and vanish, of a network whose maps are known."""

import keras
import numpy as np
import tensorflow as tf

from tfssl.evaluation.cam_shift import CamShift
from tfssl.evaluation.classifier import Classifier
from tfssl.evaluation.subject import Subject


class Spots:
    """Images with one bright column of 4 x 4 pixels each, its number the label."""

    name, num_classes, image_shape = "spots", 4, (4, 4, 1)

    def ids(self, split):
        return np.arange(8)

    def eval_batches(self, split, batch_size, seed, keep=None):
        label = np.arange(8, dtype=np.int32) % 4
        image = np.tile(np.eye(4, dtype=np.float32)[label][:, None, :, None], [4, 1, 1])
        image = image.reshape(8, 4, 4, 1)
        seeds = np.zeros([8, 2], np.int32)
        examples = {"image": image, "label": label, "id": np.arange(8), "seed": seeds}
        return tf.data.Dataset.from_tensor_slices(examples).batch(batch_size)


class Moved:
    """By `severity` columns to the right; at 4 nothing is left to see."""

    name = "moved"

    def of(self, batch, severity):
        if severity == 4:
            return tf.zeros_like(batch["image"])
        return tf.roll(batch["image"], severity - 1, axis=2)


def test_likeness_of_maps_that_are_known():
    image = keras.Input((4, 4, 1))
    features = keras.layers.Conv2D(
        2, 1, use_bias=False, kernel_initializer="ones", name="features_map"
    )(image)
    pooled = keras.layers.GlobalAveragePooling2D()(features)
    dense = keras.layers.Dense(4, kernel_initializer="ones", use_bias=False)
    model = keras.Model(image, dense(pooled))
    evaluator = CamShift([Moved()], "moves", [1, 2, 4])
    subject = Subject(Classifier(model), Spots(), "test", 4, 0)
    outcomes = {}
    for cell in evaluator.cells():
        outcomes[cell.name] = evaluator.measure(cell, subject, outcomes)
    # The same image: the same map. Another column: no pixel in common. No map: 0.
    for severity, expected in ((1, 1.0), (2, 0.0), (4, 0.0)):
        for ending in ("", ".overlap"):
            value = outcomes[f"moved_{severity}{ending}"]["value"]
            np.testing.assert_allclose(value, np.full(8, expected), atol=1e-6)

    # A class that nothing speaks for, in either image: two empty maps are alike.
    dense.set_weights([-np.ones([2, 4], np.float32)])
    found = evaluator.measure(evaluator.cells()[2], subject, {})
    np.testing.assert_array_equal(found["value"], np.ones(8))
