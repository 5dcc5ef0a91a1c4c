import inspect
import json

import gin
import pytest

from tfssl import config
from tfssl.attacks.cleverhans_attacks import CleverhansFGM, CleverhansMIM, CleverhansPGD
from tfssl.attacks.pgd import PGD
from tfssl.evaluation.classifier import Classifier
from tfssl.evaluation.evaluate import evaluate
from tfssl.evaluation.evaluators import AttackCurve
from tfssl.evaluation.results import describe
from tfssl.evaluation.subject import Subject

FILES = sorted(path.stem for path in (config.gin_dir() / "evaluation").glob("*.gin"))


def _evaluators(name, *files):
    config.parse([*files, f"evaluation/{name}.gin"], ["DATASET = @FakeDigits()"])
    return gin.get_bindings(evaluate)["evaluators"]


@pytest.mark.parametrize("name", FILES)
def test_files_measure_what_they_are_called(name, make_model, dataset):
    clean, *curves = _evaluators(name)
    expected = {"clean": [], "pgd20": ["pgd20_linf", "pgd20_l2"]}.get(name, [name])
    assert [curve.name for curve in curves] == expected

    subject = Subject(Classifier(make_model()), dataset, "test", 230, 0)
    right = clean.measure(clean.cells()[0], subject, {})
    for curve in curves:
        assert curve.name.endswith(f"_{curve.attack.ball.name}")
        assert curve.epsilons[0] == 0
        assert len(curve.epsilons) >= 5
        attacked = curve.measure(curve.cells()[3], subject, {"before": right})
        assert 0 < attacked["correct"].sum() < right["correct"].sum()


@pytest.mark.parametrize("name", FILES)
def test_no_setting_of_training_leaks_in(name, tmp_path):
    classes = (AttackCurve, PGD, CleverhansFGM, CleverhansPGD, CleverhansMIM)
    bindings = [f"import {cls.__module__}" for cls in classes] + [
        f"{cls.__name__}.{parameter} = 'leaked'"
        for cls in classes
        for parameter in inspect.signature(cls).parameters
    ]
    (tmp_path / "run.gin").write_text("\n".join(bindings))
    described = json.dumps(describe(_evaluators(name, tmp_path / "run.gin")))
    assert "leaked" not in described
