"""Scores and metrics for foreign images against slow numpy, and the cells they make."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.metrics import roc_auc_score

from tfssl.data.dataset import Dataset
from tfssl.data.out_sets import out_sets
from tfssl.evaluation import detection, knn, other_images, results
from tfssl.evaluation.classifier import Classifier
from tfssl.evaluation.evaluate import evaluate
from tfssl.evaluation.evaluators import need_logits
from tfssl.evaluation.out_of_distribution import OutOfDistribution
from tfssl.evaluation.subject import Subject
from tfssl.types import UserError


class Pictures:
    """Coloured pictures of 5 x 12 pixels, written to the contract."""

    num_classes = 3

    def __init__(self, n=37, name="pictures:1.0.0", channels=3):
        self.name = name
        self.image_shape = (5, 12, channels)
        self.image = np.random.default_rng(0).random((n, *self.image_shape), "float32")
        self.fingerprint = {"name": name, "size": n}
        self.passes = 0

    def ids(self, split):
        assert split == "test"
        return np.arange(len(self.image))

    def eval_batches(self, split, batch_size, seed, keep=None):
        self.passes += 1
        n = len(self.image)
        chosen = np.arange(n) if keep is None else np.flatnonzero(keep)
        fill = -len(chosen) % batch_size
        ids = np.concatenate([chosen, np.full(fill, -1)])
        # Padding is a copy of the first picture: counted, it would show.
        image = self.image[np.concatenate([chosen, np.zeros(fill, int)])]
        return tf.data.Dataset.from_tensor_slices(
            {
                "image": image,
                "label": np.zeros(len(ids), np.int32),
                "id": ids,
                "seed": np.zeros((len(ids), 2), np.int32),
            }
        ).batch(batch_size, drop_remainder=True)


def slow_auroc(own, out):
    """P(out > own) + P(out = own) / 2 over all pairs."""
    return np.mean([(y > x) + (y == x) / 2 for x in own for y in out])


def slow_aupr(own, out):
    """Sum over thresholds of precision times the step in recall."""
    area, before = 0.0, 0.0
    for t in sorted({*own, *out}, reverse=True):
        hits, alarms = (out >= t).sum(), (own >= t).sum()
        recall = hits / len(out)
        area += hits / (hits + alarms) * (recall - before)
        before = recall
    return area


def slow_fpr95(own, out):
    """The least share of foreign images among thresholds that pass 95 % of the own."""
    passing = [t for t in {*own, *out} if 100 * (own <= t).sum() >= 95 * len(own)]
    return min((out <= t).mean() for t in passing)


def slow_delong(own, out):
    """The variance of DeLong et al. 1988, eqs. 3 to 6, of one curve."""
    psi = np.array([[(y > x) + (y == x) / 2 for x in own] for y in out])
    return psi.mean(1).var(ddof=1) / len(out) + psi.mean(0).var(ddof=1) / len(own)


@pytest.mark.parametrize("levels", [3, 10, 10**6])
def test_metrics_are_their_definitions(levels):
    """With many ties, some, and none."""
    rng = np.random.default_rng(levels)
    own = np.floor(levels * rng.beta(2, 3, 61)) / levels
    out = np.floor(levels * rng.beta(3, 2, 43)) / levels
    value, low, high = detection.auroc(own, out)
    assert value == pytest.approx(slow_auroc(own, out))
    assert value == pytest.approx(roc_auc_score([0] * 61 + [1] * 43, [*own, *out]))
    half = 1.959964 * math.sqrt(slow_delong(own, out))
    assert (low, high) == pytest.approx((value - half, value + half))
    assert detection.aupr(own, out)[0] == pytest.approx(slow_aupr(own, out))
    assert detection.fpr95(own, out)[0] == slow_fpr95(own, out)


def test_metrics_at_the_ends():
    own, out = np.arange(100.0), np.arange(100.0, 130)
    for numbers, want in [
        ((own, out), (1, 1, 0)),  # All told apart.
        ((own, own), (0.5, slow_aupr(own, own), 0.95)),  # The same twice.
        ((np.ones(9), np.ones(3)), (0.5, 0.25, 1)),  # All equal.
        ((out, own), (0, slow_aupr(out, own), 1)),  # The wrong way round.
    ]:
        auroc, aupr, fpr95 = (
            f(*numbers) for f in (detection.auroc, detection.aupr, detection.fpr95)
        )
        assert (auroc[0], aupr[0], fpr95[0]) == pytest.approx(want)
        assert np.isnan([*aupr[1:], *fpr95[1:]]).all()
        # No pair is undecided and none decided otherwise: there is no spread.
        assert np.isnan(auroc[1:]).all() == (want[0] != 0.5 or len(numbers[1]) == 3)
    # Of 20 own images 19 pass, and not 20 by a rounding error.
    assert detection.fpr95(np.arange(20.0), np.array([18.0, 18.5]))[0] == 0.5


def test_the_interval_covers():
    """Of normal scores a standard deviation apart the AUROC is known."""
    rng = np.random.default_rng(0)
    truth = 0.5 * (1 + math.erf(0.5))
    inside = 0
    for _ in range(400):
        _, low, high = detection.auroc(rng.normal(size=150), rng.normal(1, 1, 60))
        inside += low <= truth <= high
    assert 0.925 < inside / 400 < 0.975


@pytest.mark.parametrize("k", [1, 7, 40])
def test_distance_is_that_of_all_pairs(k, monkeypatch):
    monkeypatch.setattr(knn, "_ENTRIES", 130)  # A few rows at a time.
    rng = np.random.default_rng(k)
    known, asked = rng.normal(size=(40, 5)), rng.normal(size=(23, 5))
    asked[3] = known[8] * 7  # Of the same direction, and of none.
    known[9] = 0
    unit = [
        x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-9)
        for x in (known, asked)
    ]
    distance = np.linalg.norm(unit[1][:, None] - unit[0][None], axis=2)
    found = knn.kth_distance(known.astype("float32"), asked.astype("float32"), k)
    if k == 1:
        assert found[3] < 1e-3
    # A row of zeros counts as one at a right angle.
    distance[:, 9] = math.sqrt(2)
    np.testing.assert_allclose(found, np.sort(distance, 1)[:, k - 1], atol=1e-3)


def expected_scores(image, weights, known):
    """Scores of images [n, 64] by a linear classifier and its logits as features."""
    logits = image.astype(np.float64) @ weights[0] + weights[1]
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    z, near = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (logits, known))
    distance = np.linalg.norm(z[:, None] - near[None], axis=2)
    return {
        "msp": -np.log(p.max(1)),
        "energy": -np.log(np.exp(logits).sum(1)),
        "knn": np.sort(distance, 1)[:, 4],
    }


def fitted(pictures):
    """[n, 64]: by hand, as grey pictures of 8 x 8 pixels."""
    grey = pictures.image @ np.array([0.2989, 0.587, 0.114])
    grey = tf.image.resize(grey[..., None], (8, 8), "bilinear", antialias=True)
    return grey.numpy().reshape(-1, 64)


def test_cells_against_numpy(make_model, dataset, weights, tmp_path, monkeypatch):
    model_path = tmp_path / "model.keras"
    make_model().save(model_path)
    pictures = Pictures()
    evaluator = OutOfDistribution([pictures], ["uniform"], k=5)

    def run():
        return evaluate(
            tmp_path / "run", model_path, dataset, [evaluator], batch_size=64
        )

    rows = run()
    found = {(row.perturbation, row.metric): row for row in rows}
    assert len(rows) == len(found) == 2 * 3 * 3

    own = dataset.image.reshape(-1, 64)
    known = own.astype(np.float64) @ weights[0] + weights[1]
    batch = next(iter(dataset.eval_batches("test", 230, 0)))
    noise = other_images.uniform(batch).numpy().reshape(-1, 64)
    want = expected_scores(own, weights, known)
    for name, image in [("pictures:1.0.0", fitted(pictures)), ("uniform", noise)]:
        others = expected_scores(image, weights, known)
        for score in want:
            path = tmp_path / "run/results/out_of_distribution"
            stem = f"{name.replace(':', '_')}.{score}"
            with np.load(path / f"{stem}.fpr95.npz") as arrays:
                np.testing.assert_allclose(arrays["value"], want[score], atol=2e-3)
                np.testing.assert_allclose(arrays["out"], others[score], atol=2e-3)
                kept = arrays["value"], arrays["out"]
            row = found[name, f"auroc of {score}"]
            assert row.value == pytest.approx(slow_auroc(*kept))
            assert row.low < row.value < row.high
            assert (row.strength, row.n, row.unit) == (0, 230, "%")
            assert row.dataset == "fake_digits"
            fpr95 = found[name, f"fpr95 of {score}"].value
            assert fpr95 == slow_fpr95(*kept)
            aupr = found[name, f"aupr of {score}"].value
            assert aupr == pytest.approx(slow_aupr(*kept))

    # What is there is read, and what is missing is measured again, the same.
    passes = pictures.passes
    (path / "pictures_1.0.0.energy.auroc.json").unlink()
    assert str(run()) == str(rows)
    assert pictures.passes == passes + 1
    # Another data set, other neighbours or fewer images make other numbers.
    evaluator = OutOfDistribution([Pictures(38)], ["uniform"], k=5)
    with pytest.raises(UserError, match=r"out.size \(37, now 38\)"):
        run()
    keys = [
        results.key(OutOfDistribution([Pictures()], **settings).cells()[6].settings)
        for settings in ({}, {"k": 6}, {"train_examples": 60}, {"out_examples": 20})
    ]
    assert len(set(keys)) == 4


def test_an_encoder_has_neighbours_alone(dataset, weights, tmp_path, two_replicas):
    image = keras.Input((8, 8, 1))
    flat = keras.layers.Flatten()(image)
    layer = keras.layers.Dense(10, name="features")
    encoder = keras.Model(image, layer(flat))
    layer.set_weights(weights)
    encoder.save(tmp_path / "encoder.keras")
    arguments = tmp_path / "encoder.keras", dataset
    with pytest.raises(UserError, match="fit a head first"):
        evaluate(tmp_path, *arguments, [OutOfDistribution(k=5)])
    alone = OutOfDistribution([Pictures()], ["gaussian"], ["knn"], k=5)
    assert not need_logits([alone])
    values = []
    for name, strategy in [("one", tf.distribute.get_strategy), ("two", None)]:
        found = evaluate(
            *(tmp_path / name, *arguments, [alone]),
            batch_size=24,
            strategy=strategy or (lambda: two_replicas),
        )
        values.append([row.value for row in found])
    assert len(values[0]) == 2 * 3
    np.testing.assert_allclose(*values)


def test_few_examples_and_a_smaller_bank(make_model, dataset):
    subject = Subject(Classifier(make_model()), dataset, "test", 32, 0).first(50)
    pictures = Pictures()
    evaluator = OutOfDistribution(
        [pictures], ["gaussian"], k=5, train_examples=9, out_examples=20
    )
    outcomes = {}
    for cell in evaluator.cells():
        outcomes[cell.name] = evaluator.measure(cell, subject, outcomes)
    sizes = {name: (len(o["value"]), len(o["out"])) for name, o in outcomes.items()}
    assert sizes["pictures_1.0.0.knn.auroc"] == (50, 20)
    assert sizes["gaussian.msp.aupr"] == (50, 50)
    # Of the nine in the bank the first is an own image: nearest to itself at least.
    features = subject.features("own")[0]
    want = knn.kth_distance(features[:9], features, 5)
    np.testing.assert_allclose(outcomes["gaussian.knn.auroc"]["value"], want, atol=1e-6)
    evaluator = OutOfDistribution(k=231)
    cell = evaluator.cells()[6]
    with pytest.raises(UserError, match="231 neighbours of 230"):
        evaluator.measure(cell, subject, {})


def test_noise_is_drawn_anew_for_each_example_and_repeats(dataset):
    batch = next(iter(dataset.eval_batches("test", 230, 0)))
    for make, share in (
        (other_images.uniform, 0),
        # Of a normal number of mean 1/2 and variance 1, P(|x - 1/2| > 1/2).
        (other_images.gaussian, 1 - math.erf(0.5 / math.sqrt(2))),
    ):
        image = make(batch).numpy()
        assert image.shape == (230, 8, 8, 1)
        assert image.min() >= 0
        assert image.max() <= 1
        assert len(np.unique(image.reshape(230, -1), axis=0)) == 230
        assert image.mean() == pytest.approx(0.5, abs=0.01)
        assert np.isin(image, [0, 1]).mean() == pytest.approx(share, abs=0.02)
        few = {name: value[100:103] for name, value in batch.items()}
        np.testing.assert_array_equal(make(few), image[100:103])


def test_confidence_does_not_saturate():
    """Logits 30 and 60 apart are both 1 in float32, and yet not the same."""
    image = keras.Input((1, 1, 2))
    model = keras.Model(image, keras.layers.Flatten()(image))

    class Two:
        name, num_classes, image_shape = "two", 2, (1, 1, 2)

        def ids(self, split):
            return np.arange(2)

        def eval_batches(self, split, batch_size, seed, keep=None):
            image = np.array([[30.0, 0], [0, 60]], "float32").reshape(2, 1, 1, 2)
            seed = np.zeros((2, 2), np.int32)
            batch = {"image": image, "id": np.arange(2), "seed": seed}
            return tf.data.Dataset.from_tensors(batch)

    subject = Subject(Classifier(model), Two(), "test", 2, 0)
    evaluator = OutOfDistribution(scores=["msp"])
    found = evaluator.measure(evaluator.cells()[0], subject, {})["value"]
    np.testing.assert_allclose(found, np.exp([-30.0, -60.0]), rtol=1e-5)


def test_grey_images_for_a_coloured_network():
    grey = Pictures(channels=1)
    (batch,) = other_images.fitted(grey, (5, 12, 3)).eval_batches("test", 37, 0)
    np.testing.assert_array_equal(batch["image"], np.repeat(grey.image, 3, axis=3))
    with pytest.raises(UserError, match="have 2 channels"):
        other_images.fitted(Pictures(channels=2), (5, 12, 3))


def test_a_data_set_that_is_only_for_tests(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    import tfssl.data.digits  # noqa: F401

    (digits,) = out_sets({"digits:1.0.0": "train[:100]+test[:20]"}, image_size=4)
    assert digits.image_shape == (8, 8, 1)
    assert set(digits.fingerprint["splits"]) == {"test"}
    assert digits.size("test") == len(digits.ids("test")) == 120
    with pytest.raises(UserError, match="no split 'train'"):
        digits.train_batches(5, 0)
    assert (
        digits.fingerprint["splits"]["test"]
        == (
            Dataset("digits:1.0.0", test_split="train[:100]+test[:20]", validation=0)
        ).fingerprint["splits"]["test"]
    )


def test_data_that_are_not_there_are_one_clear_line(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(UserError, match="TFDS knows no data set 'svnh"):
        out_sets({"svnh:1.0.0": "test"}, image_size=32)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scores": ["entropy"]}, "may list msp, energy, knn"),
        ({"scores": []}, "give a score"),
        ({"noises": ["pink"]}, "may list gaussian, uniform"),
        ({"noises": []}, "a data set or a noise"),
        ({"out_sets": [Pictures(), Pictures()]}, "distinct"),
        ({"k": 0}, "k must"),
        ({"train_examples": 0}, "train_examples must"),
        ({"name": "a/b"}, "folder"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(UserError, match=message):
        OutOfDistribution(**settings)
