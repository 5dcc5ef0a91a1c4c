"""Each mark on a model, or an attack, that is built to trip it."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfssl.attacks.balls import L2, Linf
from tfssl.attacks.noise import Noise
from tfssl.attacks.pgd import PGD
from tfssl.attacks.square import Square
from tfssl.evaluation import results
from tfssl.evaluation.checks import Checks
from tfssl.evaluation.classifier import Classifier
from tfssl.evaluation.evaluate import evaluate
from tfssl.evaluation.evaluators import AttackCurve
from tfssl.evaluation.gates import GateError, check_monotone
from tfssl.evaluation.subject import Subject
from tfssl.evaluation.trial import Trial
from tfssl.types import Row, UserError

EPSILON = "32/255"


class _Stopped(keras.layers.Layer):
    def call(self, x):
        return tf.stop_gradient(x)


class _Rounded(keras.layers.Layer):
    def call(self, x):
        return tf.round(x * 2) / 2


def _checks(attack=None, ball=None, **others):
    ball = ball or Linf()
    given = {
        "noise": Noise(ball, draws=10),
        "single_step": PGD(
            ball, steps=1, relative_step_size=1, random_start=False, keep="best"
        ),
        "gradient_free": Square(ball, queries=60),
        "more_steps": PGD(ball, steps=20, relative_step_size=0.25, keep="best"),
        "more_restarts": PGD(
            ball, steps=10, relative_step_size=0.25, keep="best", restarts=3
        ),
    }
    attack = attack or PGD(ball, steps=10, relative_step_size=0.25, keep="best")
    return Checks(attack, EPSILON, given | others, ["pgd"], examples=60)


def _marks(model, dataset, checks):
    subject = Subject(Classifier(model), dataset, "test", 60, 0)
    outcomes = {}
    for cell in checks.cells():
        part = subject.first(cell.examples)
        outcomes[cell.name] = checks.measure(cell, part, outcomes)
        assert outcomes[cell.name]["correct"].shape == (60,)
    return checks.marks(outcomes)


@pytest.fixture
def wrapped(make_model):
    """The good model with layers before and after it."""

    def wrap(before=None, after=None):
        image = keras.Input((8, 8, 1))
        x = make_model()(before(image) if before else image)
        return keras.Model(image, after(x) if after else x)

    return wrap


@pytest.mark.parametrize("ball", [Linf, L2])
def test_nothing_is_said_of_a_good_attack(make_model, dataset, ball):
    # Of ten classes one start may miss the nearest.
    attack = PGD(ball(), steps=10, relative_step_size=0.25, keep="best", restarts=3)
    assert _marks(make_model(), dataset, _checks(attack, ball=ball())) == {}


@pytest.mark.parametrize(
    "layers",
    [
        {"before": _Stopped()},
        {"before": _Rounded()},
        {"after": keras.layers.Rescaling(1e6)},
        {"after": keras.layers.Lambda(lambda x: tf.nn.softmax(100 * x))},
    ],
    ids=["stop_gradient", "quantised", "saturated", "softmax"],
)
def test_masked_gradients_are_found_out(wrapped, dataset, layers):
    found = _marks(wrapped(**layers), dataset, _checks())
    assert {"gradient_free_beats_attack", "unbounded_attack_fails"} <= set(found)


def test_an_attack_that_stops_early(make_model, dataset):
    weak = PGD(Linf(), steps=2, relative_step_size=0.02, keep="best")
    found = _marks(make_model(), dataset, _checks(weak))
    assert {"single_step_beats_attack", "more_steps_help"} <= set(found)
    assert "loss_still_rising" in found


class _Lucky:
    """Leaves images alone but for those whose seed is lucky, where it does its work."""

    def __init__(self, share):
        self.ball = Linf()
        self._work = PGD(self.ball, steps=20, relative_step_size=0.25, keep="best")
        self._share = share

    def perturb(self, logits_fn, image, label, seed, epsilon):
        found = self._work.perturb(logits_fn, image, label, seed, epsilon)
        lucky = tf.cast(seed[:, 1] % 100, tf.float32) < 100 * self._share
        return tf.where(lucky[:, None, None, None], found, image)


def test_an_attack_that_depends_on_luck(make_model, dataset):
    checks = _checks(_Lucky(0.5), more_restarts=_Lucky(0.9))
    assert "more_restarts_help" in _marks(make_model(), dataset, checks)
    checks = _checks(_Lucky(0.5), noise=_Lucky(0.9), transfer=_Lucky(0.9))
    found = _marks(make_model(), dataset, checks)
    assert {"noise_beats_attack", "transfer_beats_attack"} <= set(found)


def test_an_attack_that_moves_images_at_epsilon_0(make_model, dataset):
    moving = PGD(Linf(), steps=1)
    moving.perturb = lambda logits, image, *_: tf.minimum(image + 1e-7, 1.0)
    with pytest.raises(GateError, match="at epsilon 0 the attack changes images"):
        _marks(make_model(), dataset, _checks(moving))


class _Noisy(keras.layers.Layer):
    def call(self, x):
        return x + 0.3 * tf.random.normal(tf.shape(x))


def test_outcomes_that_do_not_repeat(wrapped, dataset):
    trial = Trial(PGD(Linf(), steps=2, keep="best"), "t")
    subject = Subject(Classifier(wrapped(_Noisy())), dataset, "test", 60, 0)
    everything = np.ones(230, bool)
    with pytest.raises(GateError, match="classified differently when they are passed"):
        trial(subject, 0.05, everything, "t")
    # Of a model that is known to be random it is not asked.
    subject.randomised = True
    trial(subject, 0.05, everything, "t")


def test_a_failed_gate_fails_the_evaluation_but_keeps_its_marks(
    wrapped, dataset, tmp_path, monkeypatch
):
    model = wrapped(after=keras.layers.Rescaling(1e6))
    model.save(tmp_path / "model.keras")
    curve = AttackCurve(PGD(Linf(), steps=5), ["0", EPSILON], "pgd")
    checks = _checks()

    def run():
        return evaluate(
            tmp_path / "a", tmp_path / "model.keras", dataset, [curve, checks]
        )

    for _ in range(2):  # The second reads what the first has measured.
        with pytest.raises(GateError, match=r"checks: .* without limits"):
            run()
        marks = json.loads((tmp_path / "a" / "results" / "marks.json").read_text())
        assert "saturated" in marks["model"]["marks"]
        assert marks["checks"]["about"] == ["checks", "pgd"]
        assert "gradient_free_beats_attack" in marks["checks"]["marks"]
        assert marks["pgd"]["marks"] == {}
        monkeypatch.setattr(PGD, "perturb", None)


def test_accuracy_may_not_rise(make_model, dataset, tmp_path, model_path):
    curve = AttackCurve(PGD(Linf(), steps=2), ["0", EPSILON], "pgd")
    measure = curve.measure

    def rising(cell, *args):
        right = measure(cell, *args)["correct"]
        return {"correct": np.full_like(right, cell.strength > 0)}

    curve.measure = rising
    with pytest.raises(GateError, match="pgd: accuracy rises from 0"):
        evaluate(tmp_path / "a", model_path, dataset, [curve])
    # What is on disk is marked.
    marks = json.loads((tmp_path / "a" / "results" / "marks.json").read_text())
    assert "rises from" in marks["pgd"]["marks"]["gate_failed"]


def test_a_stage_of_an_ensemble_may_rise():
    def row(strength, metric, value):
        origin = ("r", 0, "d", "test", "e", "linf")
        return Row(*origin, strength, metric, value, 9, 0.0, 1.0)

    rows = [row(0.1, "accuracy", 0.5), row(0.2, "accuracy", 0.5)]
    rows += [row(0.1, "accuracy after a", 0.5), row(0.2, "accuracy after a", 0.6)]
    check_monotone(rows)
    with pytest.raises(GateError, match=r"e: accuracy rises from 0.5000 at epsilon"):
        check_monotone([*rows, row(0.3, "accuracy", 0.6)])


def test_another_data_set_may_be_easier():
    """Such as the three sets of ImageNet-V2, which stand in one evaluator."""

    def row(dataset, value):
        cell = ("test", "shifts", "none", 0.0, "accuracy", value, 9, 0.0, 1.0)
        return Row("r", 0, dataset, *cell)

    check_monotone([row("own", 0.5), row("v4", 0.4), row("v6", 0.6)])
    with pytest.raises(GateError, match="shifts: accuracy rises"):
        check_monotone([row("own", 0.5), row("own", 0.6)])


def test_marks_of_another_model_are_dropped(tmp_path):
    results.note(tmp_path, "one", "model", ["*"], {"saturated": "..."})
    results.note(tmp_path, "one", "checks", ["checks"], {})
    assert list(results.read_marks(tmp_path)) == ["model", "checks"]
    results.note(tmp_path, "two", "pgd", ["pgd"], {})
    assert list(results.read_marks(tmp_path)) == ["pgd"]
    (tmp_path / "marks.json").write_text("[]")
    assert results.read_marks(tmp_path) == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"others": {"magic": None}}, "no check 'magic', only noise"),
        ({"others": {"noise": Noise(L2())}}, "in one ball"),
        ({"epsilon": "0"}, "positive"),
        ({"epsilon": "8"}, "8/255"),
        ({"examples": 0}, "positive integer"),
        ({"about": "pgd"}, "a list of names"),
    ],
)
def test_wrong_settings(change, message):
    settings = {"attack": PGD(Linf()), "epsilon": "8/255", "others": {}, "about": []}
    with pytest.raises(UserError, match=message):
        Checks(**settings | change)
