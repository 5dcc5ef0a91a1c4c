"""What does not belong together is refused, and what differs is named."""

import copy

import pytest
from fake_cells import EPS, curve, write_cell

from tfssl.reporting import report, rows
from tfssl.types import UserError

SETTINGS = {
    "model": "sha",
    "seed": 0,
    "split": "test",
    "dataset": {
        "name": "digits/1.0.0",
        "splits": {"train": {"examples": 640}, "test": {"labels": "a" * 64}},
    },
    "attack": {"class": "tfssl.attacks.pgd.PGD", "steps": 20, "restarts": 1},
    "corruption": {"class": "Fog", "constants": [["1.5", "2"], ["2.0", "2"]]},
}


def changed(value, *path):
    settings = copy.deepcopy(SETTINGS)
    inner = settings
    for part in path[:-1]:
        inner = inner[part]
    inner[path[-1]] = value
    return settings


@pytest.fixture
def refused(tmp_path):
    """What a report on all runs says against it, and can be told to overlook."""

    def refused():
        with pytest.raises(UserError) as error:
            report.write([tmp_path / "runs"], tmp_path / "out")
        assert not (tmp_path / "out").exists()
        report.write([tmp_path / "runs"], tmp_path / "out", allow_unlike=True)
        assert "\n" not in str(error.value)
        assert "--allow_unlike" in str(error.value)
        return str(error.value)

    return refused


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (changed(50, "attack", "steps"), "attack.steps (20, 50)"),
        (changed(5, "attack", "restarts"), "attack.restarts (1, 5)"),
        (changed(1000, "examples"), "examples (None, 1000)"),
        (
            changed("b" * 64, "dataset", "splits", "test", "labels"),
            "dataset.splits.test.labels (aaaaaaaaaaaa..., bbbbbbbbbbbb...)",
        ),
        (changed("cifar10", "dataset", "name"), "dataset.name (digits/1.0.0, cifar10)"),
        (changed("1.0", "corruption", "constants", 0, 0), "constants.0.0 (1.5, 1.0)"),
    ],
)
@pytest.mark.parametrize("other", [("at", 1), ("ssl", 0)])
def test_a_column_is_measured_alike(tmp_path, refused, settings, said, other):
    """Between the seeds of a run, and between runs."""
    runs = tmp_path / "runs"
    write_cell(runs / "one", EPS, 0.5, "at", 0, settings=SETTINGS)
    write_cell(runs / "two", EPS, 0.4, *other, settings=settings)
    message = refused()
    assert said in message
    assert f"run at, seed 0 ({runs}/one) and run {other[0]}, seed {other[1]}" in message
    assert "pgd_linf accuracy of linf" in message


def test_what_may_differ_and_what_is_not_known(tmp_path):
    write_cell(tmp_path / "a", EPS, 0.5, "at", settings=SETTINGS)
    for number, settings in enumerate(
        [
            changed("other", "model"),
            changed(1, "seed"),
            # As of a run that learnt from fewer labels.
            changed({"examples": 64}, "dataset", "splits", "train"),
        ]
    ):
        write_cell(tmp_path / f"b{number}", EPS, 0.5, f"b{number}", settings=settings)
    # Another column, and a table without settings.
    write_cell(tmp_path / "c", 0.1, 0.5, "at", settings=changed(5, "attack", "steps"))
    published = tmp_path / "published.csv"
    published.write_text(
        "run,dataset,split,evaluator,perturbation,strength,metric,value,n\n"
        f"paper,digits,test,pgd_linf,linf,{EPS!r},accuracy,0.4,500\n"
    )
    report.write([tmp_path, published], tmp_path / "out")

    # What one report has written, the next one can still tell apart.
    again = tmp_path / "out" / "rows.csv"
    write_cell(tmp_path / "d", EPS, 0.5, "d", settings=changed(5, "attack", "steps"))
    with pytest.raises(UserError, match=r"run d, seed 0 .* attack.steps \(20, 5\)"):
        report.write([again, tmp_path / "d"], tmp_path / "out")


CONFIG = """import tfssl.models.resnet

# Macros:
BATCH_SIZE = 128
NAME = 'linear'
PRETRAINED = \\
    '/a/rather/long/path/runs/resnet18/simclr-seed{start}/model.keras'
SEED = {seed}

# Parameters for train:
train.batch_size = %BATCH_SIZE
"""


def trained(folder, seed, text):
    curve(folder, "linear", seed, [0.9, 0.5, 0.1])
    (folder / "config.gin").write_text(text)


def test_seeds_are_trained_alike(tmp_path, refused):
    runs = tmp_path / "runs"
    for seed in (0, 1, 2):
        text = CONFIG.format(seed=seed, start=seed)
        trained(runs / f"linear-seed{seed}", seed, text)
    report.write([runs], tmp_path / "out")
    assert sorted({*rows.read([runs])["seed"]}) == [0, 1, 2]
    (tmp_path / "out").rename(tmp_path / "before")

    larger = CONFIG.format(seed=2, start=2).replace("128", "256")
    trained(runs / "linear-seed2", 2, larger)
    message = refused()
    assert "- BATCH_SIZE = 128; + BATCH_SIZE = 256" in message
    assert f"run linear, seed 0 ({runs}/linear-seed0) and run linear, seed 2" in message


@pytest.mark.parametrize(
    "text",
    [
        CONFIG.format(seed=1, start=0),
        CONFIG.format(seed=1, start=1).replace("simclr", "byol"),
        CONFIG.format(seed=1, start=1).replace("resnet18", "resnet50"),
    ],
)
def test_seeds_start_alike(tmp_path, refused, text):
    trained(tmp_path / "runs" / "0", 0, CONFIG.format(seed=0, start=0))
    trained(tmp_path / "runs" / "1", 1, text)
    assert "PRETRAINED" in refused()
