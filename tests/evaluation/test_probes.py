"""Nearest neighbours and logistic regression on features, and who may ask for them."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from tfssl.evaluation import knn, logistic
from tfssl.evaluation.evaluate import evaluate
from tfssl.evaluation.evaluators import AttackCurve, Clean
from tfssl.evaluation.gates import GateError
from tfssl.evaluation.intervals import wilson
from tfssl.evaluation.knn import KNN
from tfssl.evaluation.linear_probe import LinearProbe
from tfssl.evaluation.logistic_head import LogisticHead
from tfssl.evaluation.validation import Validation
from tfssl.types import UserError


class Splits:
    """Digits of 8 x 8 pixels; an id says where in all of them an example is."""

    name = "splits"
    num_classes = 10
    image_shape = (8, 8, 1)

    def __init__(self, train=200, validation=60, test=80):
        self.fingerprint = {"train": train, "validation": validation, "test": test}
        self._digits = load_digits()
        ends = np.cumsum([0, train, validation, test])
        self._ids = {
            name: np.arange(start, end)
            for name, start, end in zip(
                self.fingerprint, ends[:-1], ends[1:], strict=True
            )
        }

    def ids(self, split):
        return self._ids[split]

    def pixels(self, split):
        """[n, 64] in [0, 1] and labels [n]."""
        ids = self._ids[split]
        image = (self._digits.data[ids] / 16).astype("float32")
        return image, self._digits.target[ids].astype("int32")

    def eval_batches(self, split, batch_size, seed, keep=None):
        image, label = self.pixels(split)
        chosen = np.arange(len(label)) if keep is None else np.flatnonzero(keep)
        fill = -len(chosen) % batch_size
        index = np.concatenate([chosen, np.zeros(fill, int)])
        ids = np.concatenate([self._ids[split][chosen], np.full(fill, -1)])
        return tf.data.Dataset.from_tensor_slices(
            {
                "image": image[index].reshape(-1, *self.image_shape),
                "label": label[index],
                "id": ids,
                "seed": np.zeros((len(ids), 2), "int32"),
            }
        ).batch(batch_size, drop_remainder=True)


@pytest.fixture(scope="module")
def splits():
    return Splits()


def features(splits, split):
    """[n, 64] and [n], what `encoder` gives."""
    image, label = splits.pixels(split)
    return image * SCALES, label


SCALES = np.linspace(0.01, 50, 64, dtype="float32")


def encoder():
    """Images to their pixels, in different units."""
    image = keras.Input((8, 8, 1))
    flat = keras.layers.Flatten()(image)
    scaled = keras.layers.Rescaling(SCALES, name="features")(flat)
    return keras.Model(image, scaled, name="encoder")


@pytest.fixture
def encoder_path(tmp_path):
    encoder().save(tmp_path / "encoder.keras")
    return tmp_path / "encoder.keras"


def slow_vote(features, labels, asked, num_classes, k, temperature):
    """Wu et al. 2018, 3.4, one example at a time."""
    classes = []
    for x in asked:
        similarity = [x @ y / np.linalg.norm(x) / np.linalg.norm(y) for y in features]
        votes = np.zeros(num_classes)
        for i in sorted(range(len(labels)), key=lambda i: -similarity[i])[:k]:
            votes[labels[i]] += np.exp(similarity[i] / temperature)
        classes.append(votes.argmax())
    return np.array(classes)


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (9, 0.07), (50, 0.5)])
def test_votes_are_those_of_slow_numpy(k, temperature, monkeypatch):
    monkeypatch.setattr(knn, "_ENTRIES", 650)  # A few rows at a time.
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, 90)
    centres = rng.normal(size=(5, 6))
    features = (centres[labels] + rng.normal(size=(90, 6))).astype("float32")
    asked = rng.normal(size=(31, 6)).astype("float32")
    expected = slow_vote(features, labels, asked, 5, k, temperature)
    found = knn.vote(features, labels, asked, 5, k, temperature)
    np.testing.assert_array_equal(found, expected)
    assert len(set(expected)) == 5


def test_a_low_temperature_does_not_overflow():
    features = np.eye(3, dtype="float32")
    found = knn.vote(features, np.array([0, 1, 2]), features[::-1], 3, 3, 1e-3)
    np.testing.assert_array_equal(found, [2, 1, 0])


@pytest.mark.parametrize("scale", [1e-12, 1e25])
def test_votes_do_not_depend_on_the_length_of_features(scale):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 40)
    features = rng.normal(size=(60, 4)).astype("float32")
    known, asked = features[:40], features[40:]
    want = knn.vote(known, labels, asked, 3, 9, 0.07)
    scaled = [np.float32(x * np.float64(scale)) for x in (known, asked)]
    found = knn.vote(scaled[0], labels, scaled[1], 3, 9, 0.07)
    np.testing.assert_array_equal(found, want)


def test_fit_of_two_points_in_closed_form():
    """Of x = -1 and 1 with W = [[-a, a], [b, b]], the minimum solves
    l2 a (1 + exp(2 a)) = 1."""
    inputs, labels = np.array([[-1.0, 1], [1, 1]]), np.array([0, 1])
    weights = logistic.fit(inputs, labels, 0.1, np.zeros((2, 2)))
    a = weights[0, 1]
    assert weights[0, 0] == pytest.approx(-a, abs=1e-5)
    assert weights[1, 0] == pytest.approx(weights[1, 1], abs=1e-5)
    assert 0.1 * a * (1 + np.exp(2 * a)) == pytest.approx(1, abs=1e-4)


def test_the_gradient_vanishes_wherever_the_fit_starts():
    rng = np.random.default_rng(1)
    inputs = np.c_[rng.normal(size=(70, 5)), np.ones(70)]
    labels = rng.integers(0, 4, 70)
    found = []
    for start in (np.zeros((6, 4)), rng.normal(size=(6, 4))):
        weights = logistic.fit(inputs, labels, 0.01, start)
        odds = np.exp(inputs @ weights)
        error = odds / odds.sum(axis=1, keepdims=True) - np.eye(4)[labels]
        gradient = inputs.T @ error / 70 + 0.01 * np.r_[weights[:5], np.zeros((1, 4))]
        assert np.abs(gradient).max() < 1.1e-6
        found.append(weights - weights.mean(axis=1, keepdims=True))
    np.testing.assert_allclose(*found, atol=1e-3)


def test_no_number_without_convergence(monkeypatch):
    monkeypatch.setattr(logistic, "_STEPS", 2)
    inputs = np.c_[np.random.default_rng(0).normal(size=(30, 4)), np.ones(30)]
    with pytest.raises(GateError, match="did not converge in 2 steps"):
        logistic.fit(inputs, np.arange(30) % 3, 1e-4, np.zeros((5, 3)))


def test_no_number_of_nan():
    inputs = np.array([[np.nan, 1], [1, 1]])
    with pytest.raises(GateError, match="did not converge"):
        logistic.fit(inputs, np.array([0, 1]), 0.1, np.zeros((2, 2)))


def test_separable_classes_are_separated():
    centres = np.array([[0.0, 0], [4, 0], [0, 4]])
    labels = np.arange(60) % 3
    inputs = centres[labels] + np.random.default_rng(0).uniform(-1, 1, (60, 2))
    inputs = np.c_[inputs, np.ones(60)]
    weights = logistic.fit(inputs, labels, 1e-5, np.zeros((3, 3)))
    np.testing.assert_array_equal(logistic.classify(inputs[:, :2], weights), labels)


def test_linear_probe_is_scikit_learns(splits, encoder_path, tmp_path):
    grid = [1e-3, 1e-2, 1e-1, 1.0]
    train, labels = features(splits, "train")
    scaler = StandardScaler().fit(train.astype("float64"))
    best = -1.0
    for l2 in reversed(grid):
        model = LogisticRegression(C=1 / (l2 * len(train)), tol=1e-7, max_iter=10_000)
        model.fit(scaler.transform(train), labels)
        held_out, truth = features(splits, "validation")
        accuracy = model.score(scaler.transform(held_out), truth)
        if accuracy > best:
            best, chosen, winner = accuracy, l2, model
    test, truth = features(splits, "test")
    expected = winner.predict(scaler.transform(test)) == truth

    evaluator = LinearProbe(grid)
    (row,) = evaluate(tmp_path, encoder_path, splits, [evaluator], batch_size=64)
    with np.load(tmp_path / "results/linear/linear.npz") as arrays:
        np.testing.assert_array_equal(arrays["correct"], expected)
        assert set(arrays["l2"]) == {chosen}
    assert 0.5 < row.value < 1


def test_logistic_head_is_what_the_probe_measures(splits, encoder_path, tmp_path):
    (row,) = evaluate(tmp_path, encoder_path, splits, [LinearProbe()], batch_size=64)
    with np.load(tmp_path / "results/linear/linear.npz") as arrays:
        expected = arrays["correct"]
    network = encoder()
    logits = keras.layers.Dense(10, name="logits")(network.output)
    model = keras.Model(network.input, logits)
    LogisticHead(batch_size=64)(model, splits)
    image, label = splits.pixels("test")
    logits = model.predict(image.reshape(-1, 8, 8, 1), verbose=0)
    found = logits.argmax(axis=1) == label
    np.testing.assert_array_equal(found, expected)
    assert 0.3 < row.value < 1


def test_logistic_head_needs_a_head(splits):
    with pytest.raises(UserError, match=r"terms/standard\.gin"):
        LogisticHead()(encoder(), splits)


def test_an_l2_at_the_end_of_the_grid_is_marked(splits, encoder_path, tmp_path):
    evaluate(tmp_path, encoder_path, splits, [LinearProbe([10.0, 100.0])])
    marks = json.loads((tmp_path / "results/marks.json").read_text())
    assert "l2_at_the_end" in marks["linear"]["marks"]
    assert "model" not in marks  # Nothing was asked about logits.


def test_rows_of_an_encoder(splits, encoder_path, tmp_path, two_replicas):
    train, labels = features(splits, "train")
    test, truth = features(splits, "test")
    correct = slow_vote(train, labels, test, 10, 20, 0.07) == truth
    rows = []
    for folder, strategy in (("one", None), ("two", lambda: two_replicas)):
        kwargs = {"strategy": strategy} if strategy else {}
        (row,) = evaluate(
            *(tmp_path / folder, encoder_path, splits, [KNN(20)]),
            batch_size=24,
            **kwargs,
        )
        rows.append(row)
    for row in rows:
        assert (row.evaluator, row.perturbation, row.strength) == ("knn", "none", 0)
        assert (row.metric, row.split, row.n) == ("accuracy", "test", 80)
        assert row.value == correct.mean() < 1
        assert (row.low, row.high) == wilson(int(correct.sum()), 80)
    # Fewer examples to test, but all to compare with.
    (row,) = evaluate(tmp_path / "few", encoder_path, splits, [KNN(20)], examples=30)
    assert row.value == correct[:30].mean()


def test_the_head_of_a_classifier_plays_no_part(splits, encoder_path, tmp_path):
    model = encoder()
    logits = keras.layers.Dense(10, kernel_initializer="zeros")(model.output)
    keras.Model(model.input, logits).save(tmp_path / "classifier.keras")
    evaluators = [KNN(20), LinearProbe([0.1])]
    found = [
        [row.value for row in evaluate(tmp_path / name, path, splits, evaluators)]
        for name, path in [
            ("encoder", encoder_path),
            ("classifier", tmp_path / "classifier.keras"),
        ]
    ]
    assert found[0] == found[1]


def test_an_encoder_has_no_logits(splits, encoder_path, tmp_path, attack):
    for evaluator in (AttackCurve(attack, ["8/255"], "sign"), Clean()):
        with pytest.raises(UserError, match=r"is an encoder.* fit a head first"):
            evaluate(tmp_path, encoder_path, splits, [KNN(20), evaluator])
    # Not even where there are as many features as classes.
    image = keras.Input((8, 8, 1))
    flat = keras.layers.Flatten()(image)
    model = keras.Model(image, keras.layers.Dense(10, name="features")(flat))
    with pytest.raises(UserError, match="fit a head first"):
        Validation([Clean()]).prepare(model, splits)


def test_validation_follows_an_encoder(splits):
    image = keras.Input((8, 8, 1))
    rotated = keras.layers.Dense(64, use_bias=False, name="features")
    model = keras.Model(image, rotated(encoder()(image)))
    validation = Validation([KNN(20)], batch_size=30)
    assert validation.prepare(model, splits) == ["knn"]
    rotated.kernel.assign(np.eye(64))
    before = validation(model, splits)
    rotated.kernel.assign(np.zeros((64, 64)))
    assert validation(model, splits)["knn"] < 0.5 < before["knn"]


@pytest.mark.parametrize(
    ("evaluator", "split", "sizes", "message"),
    [
        (KNN(20), "train", {}, "measure it on another"),
        (KNN(), "test", {"train": 199}, "has 199 examples"),
        (LinearProbe(), "test", {"validation": 0}, "hold some out"),
    ],
)
def test_what_does_not_fit_is_said(
    evaluator, split, sizes, message, encoder_path, tmp_path
):
    with pytest.raises(UserError, match=message):
        evaluate(tmp_path, encoder_path, Splits(**sizes), [evaluator], split)


def test_features_that_are_not_finite_or_no_vector(splits, tmp_path):
    image = keras.Input((8, 8, 1))
    bad = keras.layers.Rescaling(np.inf, name="features")
    flat = keras.layers.Flatten()(image)
    keras.Model(image, bad(flat)).save(tmp_path / "inf.keras")
    with pytest.raises(UserError, match="not finite"):
        evaluate(tmp_path / "inf", tmp_path / "inf.keras", splits, [KNN(20)])
    pooled = keras.layers.AveragePooling2D(2)(image)
    keras.Model(image, pooled).save(tmp_path / "map.keras")
    with pytest.raises(UserError, match="must be a vector"):
        evaluate(tmp_path / "map", tmp_path / "map.keras", splits, [KNN(20)])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: KNN(k=0), "k must be a positive"),
        (lambda: KNN(temperature=0.0), "temperature must be positive"),
        (lambda: KNN(name="a/b"), "folder"),
        (lambda: LinearProbe([]), "must be a list"),
        (lambda: LinearProbe(0.1), "must be a list"),
        (lambda: LinearProbe([0.0]), "l2 must be positive"),
    ],
)
def test_wrong_settings(make, message):
    with pytest.raises(UserError, match=message):
        make()
