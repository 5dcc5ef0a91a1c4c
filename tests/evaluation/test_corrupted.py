"""Cells of corruptions against numpy, image by image."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfssl.evaluation import calibration
from tfssl.evaluation.classifier import Classifier
from tfssl.evaluation.corrupted import Corrupted
from tfssl.evaluation.evaluate import evaluate
from tfssl.evaluation.subject import Subject
from tfssl.types import UserError


class Darker:
    """Light taken away, and a shift by the example's own seed."""

    name = "darker"

    def __init__(self):
        self._calls = 0

    def of(self, batch, severity):
        self._calls += 1
        shift = tf.cast(batch["seed"][:, :1] % 7, tf.float32)[..., None, None] / 70
        return tf.clip_by_value(batch["image"] * (1 - 0.15 * severity) + shift, 0, 1)


def test_all_numbers_against_numpy(make_model, dataset, weights, tmp_path):
    path = tmp_path / "model.keras"
    make_model().save(path)
    corruption = Darker()
    evaluator = Corrupted([corruption], "dark", [2, 4], also=["nll", "brier", "ece"])
    rows = evaluate(tmp_path / "run", path, dataset, [evaluator], batch_size=64)
    found = {(row.perturbation, row.strength, row.metric): row for row in rows}
    assert len(rows) == 12

    for severity in (0, 2, 4):
        # Padding shows if it counts; the order is not that of the ids.
        batch = next(iter(dataset.eval_batches("test", 230, 0)))
        image = Darker().of(batch, severity).numpy() if severity else dataset.image
        logits = image.reshape(-1, 64).astype(np.float64) @ weights[0] + weights[1]
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        right = p.argmax(1) == dataset.label
        of_label = p[np.arange(230), dataset.label]
        brier = ((p - np.eye(10)[dataset.label]) ** 2).sum(1)
        ece = 0.0
        for low in np.arange(15) / 15:
            inside = (p.max(1) > low) & (p.max(1) <= low + 1 / 15)
            if inside.any():
                gap = right[inside].mean() - p.max(1)[inside].mean()
                ece += inside.mean() * abs(gap)
        place = ("darker", severity) if severity else ("none", 0)
        expected = {
            "accuracy": right.mean(),
            "nll": -np.log(of_label).mean(),
            "brier": brier.mean(),
            "ece": ece,
        }
        for metric, value in expected.items():
            assert math.isclose(found[(*place, metric)].value, value, rel_tol=1e-5), (
                metric
            )
        row = found[(*place, "brier")]
        half = 1.959964 * brier.std() / np.sqrt(230)
        assert math.isclose(row.high - row.value, half, rel_tol=1e-4)
        assert math.isnan(found[(*place, "ece")].low)
    assert found["darker", 4, "nll"].unit == "nats"
    # What is there is read, not measured again.
    calls = corruption._calls
    assert str(evaluate(tmp_path / "run", path, dataset, [evaluator])) == str(rows)
    assert corruption._calls == calls
    with pytest.raises(UserError, match="also"):
        evaluate(
            tmp_path / "run", path, dataset, [Corrupted([corruption], "dark", [2])]
        )


def test_accuracy_may_rise_with_severity(make_model, dataset, tmp_path):
    """Which is a finding of the benchmark, and no fault, as it is of attacks."""

    class Lighter(Darker):
        def of(self, batch, severity):
            return tf.cast(severity == 5, tf.float32) * batch["image"]

    path = tmp_path / "model.keras"
    make_model().save(path)
    rows = evaluate(tmp_path / "run", path, dataset, [Corrupted([Lighter()], "light")])
    assert rows[-1].value == rows[0].value > rows[-2].value


def test_ssim_pairs_each_image_with_itself():
    class Big:
        """Images large enough for SSIM's windows."""

        name, num_classes, image_shape = "big", 2, (16, 16, 3)
        image = np.random.default_rng(0).random((10, 16, 16, 3), np.float32)

        def ids(self, split):
            return np.arange(10)

        def eval_batches(self, split, batch_size, seed, keep=None):
            yield_ = {
                "image": self.image,
                "label": np.zeros(10, np.int32),
                "id": np.arange(10),
                "seed": np.stack([np.arange(10), np.arange(10)], 1).astype(np.int32),
            }
            return tf.data.Dataset.from_tensor_slices(yield_).batch(batch_size)

    image = keras.Input((16, 16, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(image)
    model = keras.Model(image, keras.layers.Dense(2)(pooled))
    evaluator = Corrupted([Darker()], "dark", [3], also=["ssim"])
    subject = Subject(Classifier(model), Big(), "test", 5, 0)
    outcomes = {}
    for cell in evaluator.cells():
        outcomes[cell.name] = evaluator.measure(cell, subject, outcomes)
    batch = next(iter(Big().eval_batches("test", 10, 0)))
    corrupted = Darker().of(batch, 3)
    expected = [
        tf.image.ssim(a, b, 1.0) for a, b in zip(Big.image, corrupted, strict=True)
    ]
    np.testing.assert_allclose(outcomes["darker_3.ssim"]["value"], expected, rtol=1e-5)
    assert "clean.ssim" not in outcomes


def test_calibration_error_of_the_ends_of_bins():
    # A confidence at the upper end of a bin belongs to it; all in all by hand.
    confidence = np.array([0.5, 0.5, 1.0, 0.75, 0.0])
    correct = np.array([True, False, True, True, False])
    found = calibration.expected_calibration_error(confidence, correct, bins=2)
    # (0, 0.5]: two at 0.5 and the one at 0, one right; (0.5, 1]: both right.
    assert math.isclose(found, (abs(1 - 1.0) + abs(2 - 1.75)) / 5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"corruptions": []}, "distinct"),
        ({"severities": [0, 1]}, "severities"),
        ({"severities": [2, 1]}, "severities"),
        ({"also": ["sim"]}, "sim"),
        ({"also": "ssim"}, "also"),
    ],
)
def test_user_errors(settings, message):
    arguments = {"corruptions": [Darker()], "name": "dark"} | settings
    with pytest.raises(UserError, match=message):
        Corrupted(**arguments)
