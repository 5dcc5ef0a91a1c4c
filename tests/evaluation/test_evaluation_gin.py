import inspect
import json
from types import SimpleNamespace

import gin
import numpy as np
import pytest
import tensorflow_datasets as tfds

from tfssl import config
from tfssl.attacks.apgd import APGD
from tfssl.attacks.cleverhans_attacks import CleverhansFGM, CleverhansMIM, CleverhansPGD
from tfssl.attacks.fab import FAB
from tfssl.attacks.fmn import FMN
from tfssl.attacks.noise import Noise
from tfssl.attacks.pgd import PGD
from tfssl.attacks.square import Square
from tfssl.data import out_sets, prepared
from tfssl.evaluation.checks import Checks
from tfssl.evaluation.classifier import Classifier
from tfssl.evaluation.ensemble import Ensemble
from tfssl.evaluation.evaluate import evaluate
from tfssl.evaluation.evaluators import AttackCurve, need_logits
from tfssl.evaluation.knn import KNN
from tfssl.evaluation.linear_probe import LinearProbe
from tfssl.evaluation.minimum_norm import MinimumNormCurve
from tfssl.evaluation.out_of_distribution import OutOfDistribution
from tfssl.evaluation.results import describe
from tfssl.evaluation.subject import Subject
from tfssl.reporting import corruption_scores
from tfssl.types import UserError

FILES = sorted(path.stem for path in (config.gin_dir() / "evaluation").glob("*.gin"))
PROBES = {"knn": ["knn"], "linear": ["linear"], "probes": ["knn", "linear"]}
IMAGENET_V2 = ("matched-frequency", "threshold-0.7", "topimages")
# Of the metrics of a cell, and of those of the clean images.
CORRUPTED = {
    "corruptions_cifar": (5, 4),
    "corruptions_imagenet": (5, 4),
    "cams_cifar": (2, 0),
    "cams_imagenet": (2, 0),
    "panels_cifar": (1, 1),
    "panels_imagenet": (1, 1),
}
SHOWN = {"saturate", "elastic_transform", "snow", "glass_blur"}
FOREIGN = {
    "ood_noise": [],
    "ood_cifar10": ["svhn_cropped:3.1.0", "cifar100:3.0.2", "dtd:3.0.1"],
    "ood_imagenet": ["dtd:3.0.1", "places365_small:2.1.0"],
}
RELEASED = ["cifar_c", "imagenet_c"]
SETS = {
    "cifar10_corrupted": "cifar10_corrupted/{}_{}:1.0.0",
    "imagenet2012_corrupted": "imagenet2012_corrupted/{}_{}:3.1.0",
    "corruptions_written": "mine_c/{}_{}:2.0.0",
}
SHIFTS = {
    "shifts_cifar10": ["cifar10_1/v4:1.1.0", "cifar10_1/v6:1.1.0"],
    "shifts_imagenet": [
        *(f"imagenet_v2/{variant}:3.0.0" for variant in IMAGENET_V2),
        *("imagenet_r:0.2.0", "imagenet_a:0.1.0", "imagenet_sketch:1.0.0"),
    ],
}
OTHERS = [*PROBES, *CORRUPTED, *RELEASED, *SETS, *SHIFTS, *FOREIGN]
ATTACKS = [name for name in FILES if name not in OTHERS]


def _evaluators(name, *files):
    params = ["DATASET = @FakeDigits()"]
    if name == "corruptions_written":
        params.append("WRITTEN = 'mine_c:2.0.0'")
    config.parse([*files, f"evaluation/{name}.gin"], params)
    return gin.get_bindings(evaluate)["evaluators"]


def _names(file):
    if file == "clean":
        return []
    if file == "pgd20":
        return ["pgd20_linf", "pgd20_l2"]
    checks = file.replace("autoattack", "apgd_checks")
    plain = checks != file and "plus" not in file and "rand" not in file
    return [file, checks] if plain else [file]


def _attacks(evaluator):
    """All attacks of an evaluator, by what it calls them."""
    several = getattr(evaluator, "attacks", {}) | getattr(evaluator, "others", {})
    one = {"attack": evaluator.attack} if hasattr(evaluator, "attack") else {}
    return several | one


@pytest.mark.parametrize("name", ATTACKS)
def test_files_measure_what_they_are_called(name):
    clean, *evaluators = _evaluators(name)
    assert clean.name == "clean"
    assert [evaluator.name for evaluator in evaluators] == _names(name)
    for evaluator in evaluators:
        for attack in _attacks(evaluator).values():
            assert evaluator.name.endswith(f"_{attack.ball.name}")
        cells = [cell.name for cell in evaluator.cells()]
        assert len(set(cells)) == len(cells)


@pytest.mark.parametrize("name", ATTACKS)
def test_curves_fall(name, make_model, dataset):
    clean, *evaluators = _evaluators(name)
    subject = Subject(Classifier(make_model()), dataset, "test", 230, 0)
    for curve in evaluators:
        if isinstance(curve, AttackCurve):
            assert curve.epsilons[0] == 0
            assert len(curve.epsilons) >= 5
            before = clean.measure(clean.cells()[0], subject, {})
            before["correct"] &= np.arange(230) < 50
            found = curve.measure(curve.cells()[3], subject, {"before": before})
            assert (found["correct"] <= before["correct"]).all()
            broken = before["correct"].sum() - found["correct"].sum()
            assert broken > 0 or name.startswith("noise")


@pytest.mark.parametrize("name", PROBES)
def test_probes_measure_encoders(name):
    """Neither asks for logits, and with both the settings are those of each alone."""
    evaluators = _evaluators(name)
    assert [evaluator.name for evaluator in evaluators] == PROBES[name]
    assert not need_logits(evaluators)
    alone = [_evaluators(evaluator.name)[0] for evaluator in evaluators]
    assert describe(evaluators) == describe(alone)


@pytest.mark.parametrize("name", CORRUPTED)
def test_all_corruptions_at_all_severities(name):
    (evaluator,) = _evaluators(name)
    assert evaluator.name == name
    cells = evaluator.cells()
    of_each, of_clean = CORRUPTED[name]
    corruptions = SHOWN if name.startswith("panels") else set(corruption_scores.ALL)
    assert len(cells) == len(corruptions) * 5 * of_each + of_clean
    assert len({cell.name for cell in cells}) == len(cells)
    perturbations = {cell.perturbation for cell in cells} - {"none"}
    assert perturbations == corruptions
    constants = {
        cell.settings["corruption"]["constants"]
        for cell in cells
        if cell.perturbation != "none"
    }
    assert constants == {name.rpartition("_")[2]}


@pytest.mark.parametrize("name", FOREIGN)
def test_other_data_and_noise(name, monkeypatch):
    """All metrics of all scores; of the data no more than a test split is read."""

    class Other:
        def __init__(self, name, train_split, **settings):
            assert train_split is None
            self.name = self.fingerprint = name

    image = SimpleNamespace(shape=(None, None, 3))
    builder = SimpleNamespace(info=SimpleNamespace(features={"image": image}))
    monkeypatch.setattr(prepared, "builder", lambda name: builder)
    monkeypatch.setattr(out_sets, "Dataset", Other)
    (evaluator,) = _evaluators(name)
    cells = [(cell.perturbation, cell.metric) for cell in evaluator.cells()]
    assert cells == [
        (out, f"{metric} of {score}")
        for out in [*FOREIGN[name], "gaussian", "uniform"]
        for score in ("msp", "energy", "knn")
        for metric in ("auroc", "aupr", "fpr95")
    ]


@pytest.mark.parametrize("name", SETS)
def test_corruptions_are_data_sets_that_tfds_has(name, tmp_path):
    (evaluator,) = _evaluators(name)
    assert evaluator.name == name
    _, *cells = (cell for cell in evaluator.cells() if cell.metric == "accuracy")
    assert {cell.perturbation for cell in cells} == set(corruption_scores.ALL)
    tfds_names = {"glass_blur": "frosted_glass_blur", "elastic_transform": "elastic"}
    for cell in cells:
        config = cell.perturbation
        if name == "cifar10_corrupted":
            config = tfds_names.get(config, config)
        assert cell.paired
        assert cell.dataset.name == SETS[name].format(config, int(cell.strength))
        if name != "corruptions_written":
            tfds.builder(cell.dataset.name, data_dir=tmp_path)  # TFDS knows it.


@pytest.mark.parametrize("name", SHIFTS)
def test_shifts_are_data_sets_that_tfds_has(name, tmp_path):
    (evaluator,) = _evaluators(name)
    assert evaluator.name == name
    others = [cell.dataset for cell in evaluator.cells() if cell.dataset]
    assert [other.name for other in others] == SHIFTS[name]
    for other in others:
        labels = tfds.builder(other.name, data_dir=tmp_path).info.features["label"]
        assert labels.num_classes == (10 if name == "shifts_cifar10" else 1000)
        of_part = other.name.startswith(("imagenet_r", "imagenet_a"))
        assert other.classes == (200 if of_part else None)


def test_released_images_need_their_folder(tmp_path):
    with pytest.raises(UserError, match="RELEASED"):
        _evaluators("cifar_c")
    np.save(tmp_path / "fog.npy", np.zeros([10, 4, 4, 3], np.uint8))
    np.save(tmp_path / "labels.npy", np.zeros(10, np.uint8))
    config.parse(
        ["evaluation/cifar_c.gin"],
        ["DATASET = @FakeDigits()", f"RELEASED = '{tmp_path}'"],
    )
    (evaluator,) = gin.get_bindings(evaluate)["evaluators"]
    assert {cell.perturbation for cell in evaluator.cells()} == {"none", "fog"}


def test_autoattack_is_that_of_its_authors():
    """Version 'standard': papers.md of the field and the code agree on these."""
    for norm, epsilon in (("linf", 8 / 255), ("l2", 0.5)):
        _, ensemble, _ = _evaluators(f"autoattack_{norm}")
        assert ensemble.epsilons == [epsilon]
        described = {
            name: {k: v for k, v in describe(attack).items() if k not in ("ball",)}
            for name, attack in ensemble.attacks.items()
        }
        assert list(described) == ["apgd_ce", "apgd_t", "fab_t", "square"]
        apgd = {"epsilon": None, "steps": 100, "restarts": 1, "rho": "0.75", "eot": 1}
        apgd |= {"class": "tfssl.attacks.apgd.APGD", "targets": 9}
        assert described["apgd_ce"] == apgd | {"loss": "cross_entropy"}
        assert described["apgd_t"] == apgd | {"loss": "targeted_dlr"}
        fab = {"epsilon": None, "steps": 100, "targets": 9, "restarts": 1}
        fab |= {"alpha_max": "0.1", "eta": "1.05", "beta": "0.9"}
        assert described["fab_t"] == fab | {"class": "tfssl.attacks.fab.FAB"}
        square = {"epsilon": None, "queries": 5000, "p_init": "0.8"}
        assert described["square"] == square | {"class": "tfssl.attacks.square.Square"}


@pytest.mark.parametrize(
    "name", [name for name in FILES if name not in RELEASED and not FOREIGN.get(name)]
)
def test_no_setting_of_training_leaks_in(name, tmp_path, monkeypatch):
    monkeypatch.setattr(config, "_check_types", lambda: None)
    classes = (
        *(AttackCurve, Checks, Ensemble, KNN, LinearProbe, MinimumNormCurve),
        OutOfDistribution,
        *(APGD, FAB, FMN, Noise, PGD, Square),
        *(CleverhansFGM, CleverhansPGD, CleverhansMIM),
    )
    bindings = [f"import {cls.__module__}" for cls in classes] + [
        f"{cls.__name__}.{parameter} = 'leaked'"
        for cls in classes
        for parameter in inspect.signature(cls).parameters
    ]
    (tmp_path / "run.gin").write_text("\n".join(bindings))
    described = json.dumps(describe(_evaluators(name, tmp_path / "run.gin")))
    assert "leaked" not in described
