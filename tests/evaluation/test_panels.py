"""What is kept for pictures, of a network whose maps are known."""

import keras
import numpy as np
import tensorflow as tf
from fake_columns import Moved, Spots

from tfssl.evaluation.classifier import Classifier
from tfssl.evaluation.panels import Panels
from tfssl.evaluation.subject import Subject
from tfssl.types import UserError


class Large(Spots):
    """Four times as large: SSIM needs 11 pixels."""

    image_shape = (16, 16, 1)

    def eval_batches(self, *arguments, **keywords):
        def large(batch):
            image = tf.repeat(tf.repeat(batch["image"], 4, axis=1), 4, axis=2)
            return batch | {"image": image}

        return super().eval_batches(*arguments, **keywords).map(large)


class LargeMoved(Moved):
    def of(self, batch, severity):
        return super().of(batch, 4 * severity - 3)


def kept(attention):
    """All outcomes; the network says of each image which column is bright."""
    image = keras.Input((16, 16, 1))
    features = keras.layers.Conv2D(
        1, 1, use_bias=False, kernel_initializer="ones", name="features_map"
    )(image)
    logits = keras.layers.Dense(4, use_bias=False)
    model = keras.Model(image, logits(keras.layers.Flatten()(features)))
    logits.set_weights([np.tile(np.eye(4, dtype=np.float32).repeat(4, 0), [16, 1])])
    evaluator = Panels([LargeMoved()], "panels", [1, 2], 8, attention)
    subject = Subject(Classifier(model), Large(), "test", 4, 0)
    assert {cell.examples for cell in evaluator.cells()} == {8}
    return {
        cell.name: evaluator.measure(cell, subject, {}) for cell in evaluator.cells()
    }


def test_images_maps_and_what_is_right():
    found = kept(None)
    assert list(found) == ["clean", "moved_1", "moved_2"]
    bright = np.tile(np.eye(4)[np.arange(8) % 4, None].repeat(4, 2), [1, 16, 1])
    for name, right in (("clean", True), ("moved_1", True), ("moved_2", False)):
        cell = found[name]
        assert set(cell) == {"image", "map", "ssim", "correct"}
        image = bright if right else np.roll(bright, 4, axis=2)
        np.testing.assert_array_equal(cell["image"], 255 * image[..., None])
        np.testing.assert_array_equal(cell["correct"], [right] * 8)
        # The map is that of the label: a fourth of all gradients, on what is bright.
        np.testing.assert_array_equal(cell["map"], 255 * image)
    np.testing.assert_allclose(found["moved_1"]["ssim"], 1, atol=1e-6)
    assert (found["moved_2"]["ssim"] < 0.9).all()


def test_attention_where_there_is_one():
    def attention(model):
        heads = keras.layers.Lambda(lambda x: tf.stack([x[..., 0], 0 * x[..., 0]], 1))
        return keras.Model(model.inputs, heads(model.inputs[0]))

    cell = kept(attention)["moved_1"]
    # The mean of two heads, divided by its largest.
    np.testing.assert_array_equal(cell["attention"], cell["image"][..., 0])

    def none(model):
        raise UserError("no ViT")

    assert "attention" not in kept(none)["clean"]
