import dataclasses
import hashlib
import importlib.metadata
import json
import socket

import numpy as np
import pytest
import tensorflow as tf

from tfssl import files, manifest
from tfssl.evaluation import results
from tfssl.evaluation.evaluate import evaluate
from tfssl.evaluation.evaluators import AttackCurve, Clean
from tfssl.types import Row, UserError

GRID = ["0", "8/255", "24/255"]


@pytest.fixture
def run(tmp_path, model_path, dataset, attack):
    """Evaluates into a folder; what is not said is as always."""

    def run(folder, epsilons=GRID, model=model_path, **kwargs):
        evaluators = [Clean(), AttackCurve(attack, epsilons, "sign")]
        return evaluate(
            tmp_path / folder,
            model,
            dataset,
            kwargs.pop("evaluators", evaluators),
            batch_size=64,
            **kwargs,
        )

    return run


def _contents(folder):
    """What a folder of results says, times aside."""
    contents, measured_in, environments = {}, set(), {}
    for path in sorted(folder.rglob("*.*")):
        contents[path.relative_to(folder)] = path.read_bytes()
        if path.name == "environments.json":
            environments = json.loads(path.read_text())
            del contents[path.relative_to(folder)]
        elif path.suffix == ".json" and path.name != "marks.json":
            cell = json.loads(path.read_text())
            assert cell.pop("seconds") > 0
            measured_in.add(cell.pop("environment"))
            contents[path.relative_to(folder)] = json.dumps(cell)
    assert measured_in <= environments.keys()
    return contents


def test_rows_and_files(run, tmp_path):
    rows = run("a")
    assert [(r.evaluator, r.strength, r.perturbation) for r in rows] == [
        ("clean", 0, "none"),
        ("sign", 0, "linf"),
        ("sign", 8 / 255, "linf"),
        ("sign", 24 / 255, "linf"),
    ]
    for row in rows:
        assert (row.run, row.seed, row.dataset) == ("a", 0, "fake_digits")
        assert (row.split, row.metric, row.n) == ("test", "accuracy", 230)
        assert row.low < row.value < row.high
        name = "clean" if row.evaluator == "clean" else f"epsilon_{row.strength!r}"
        folder = tmp_path / "a" / "results" / row.evaluator
        cell = json.loads((folder / f"{name}.json").read_text())
        assert cell["row"] == vars(row)
        with np.load(folder / f"{name}.npz", allow_pickle=False) as arrays:
            assert arrays["correct"].mean() == row.value
            np.testing.assert_array_equal(arrays["ids"], 1000 + 3 * np.arange(230))
    assert rows[0].value == rows[1].value > rows[2].value > rows[3].value


class _Kill(BaseException):
    pass


def test_killed_at_any_write_and_resumed(run, tmp_path, attack, monkeypatch):
    evaluators = [AttackCurve(attack, GRID, "sign")]
    rows = run("a", evaluators=evaluators)
    whole = _contents(tmp_path / "a" / "results")
    replacing = files.replacing
    for survive in range(9):  # Three cells of two files, marks, the environment.
        folder = tmp_path / f"killed_{survive}"
        folder.mkdir()
        # Named as the undisturbed run, so that the rows can be the same.
        manifest = (tmp_path / "a" / "manifest.json").read_bytes()
        (folder / "manifest.json").write_bytes(manifest)
        writes = iter(range(survive))

        def dying(path, writes=writes):
            if next(writes, None) is None:
                raise _Kill
            return replacing(path)

        monkeypatch.setattr(files, "replacing", dying)
        with pytest.raises(_Kill):
            run(folder, evaluators=evaluators)
        monkeypatch.setattr(files, "replacing", replacing)
        assert run(folder, evaluators=evaluators) == rows
        assert _contents(folder / "results") == whole


def test_a_finished_evaluation_measures_nothing(run, attack, monkeypatch):
    rows = run("a")
    monkeypatch.setattr(type(attack), "perturb", None)
    monkeypatch.setattr(manifest, "environment", None)  # Who only reads is not noted.
    assert run("a") == rows


def test_each_cell_says_what_measured_it(run, tmp_path, monkeypatch):
    monkeypatch.setenv("TF_CUDNN_USE_AUTOTUNE", "0")
    monkeypatch.setenv("SECRET", "hunter2")
    run("a", evaluators=[Clean()])
    monkeypatch.setattr(manifest, "environment", lambda: {"python": "4"})
    run("a")
    folder = tmp_path / "a" / "results"
    known = json.loads((folder / "environments.json").read_text())
    cells = {p.stem: json.loads(p.read_text()) for p in folder.glob("*/*.json")}
    assert known[cells["epsilon_0.0"]["environment"]] == {"python": "4"}
    here = known[cells["clean"]["environment"]]
    assert here["packages"]["scipy"] == importlib.metadata.version("scipy")
    assert here["packages"].keys() >= {"gin-config", "opencv-python-headless"}
    assert here["variables"]["TF_CUDNN_USE_AUTOTUNE"] == "0"
    assert here["hardware"]["gpus"] == []
    assert here["hardware"].keys() >= {"cpu", "driver", "cuda", "cudnn"}
    text = json.dumps(known)
    assert "hunter2" not in text
    assert socket.gethostname() not in text


def test_a_grid_can_be_continued_and_shortened(run, attack):
    rows = run("a")
    assert run("a", epsilons=GRID[:2]) == rows[:3]
    assert run("a", epsilons=[*GRID, "1"])[:4] == rows


@pytest.mark.parametrize(
    "damage",
    [
        lambda cell: cell.with_suffix(".json").write_text("{"),
        lambda cell: cell.with_suffix(".json").write_text("[]"),
        lambda cell: cell.with_suffix(".json").unlink(),
        lambda cell: cell.with_suffix(".json").write_text(
            cell.with_suffix(".json").read_text().replace('"n": 230', '"n": 231')
        ),
        lambda cell: cell.with_suffix(".json").write_text(
            cell.with_suffix(".json").read_text().replace('"key": "', '"key": "0')
        ),
        lambda cell: cell.with_suffix(".npz").write_bytes(b""),
        lambda cell: cell.with_suffix(".npz").unlink(),
        lambda cell: cell.with_suffix(".npz").write_bytes(
            cell.with_suffix(".npz").read_bytes()[:-30]
        ),
        lambda cell: np.savez(
            cell.with_suffix(".npz"),
            ids=1000 + 3 * np.arange(230),
            correct=np.zeros(230, bool),
        ),
    ],
)
def test_a_damaged_cell_is_measured_again(run, tmp_path, damage):
    rows = run("a", evaluators=[Clean()])
    folder = tmp_path / "a" / "results"
    whole = _contents(folder)
    damage(folder / "clean" / "clean.json")
    assert _contents_differ(folder, whole)
    assert run("a", evaluators=[Clean()]) == rows
    assert _contents(folder) == whole


def _contents_differ(folder, whole):
    try:
        return _contents(folder) != whole
    except (ValueError, TypeError):
        return True


def test_another_configuration_is_refused(
    run, tmp_path, make_model, model_path, attack, dataset
):
    run("a")
    before = _contents(tmp_path / "a" / "results")

    def refused(what, **kwargs):
        with pytest.raises(UserError, match=rf"another {what}: choose") as caught:
            run("a", **kwargs)
        assert "delete" in str(caught.value)

    refused(r"seed \(0, now 1\)", seed=1)
    refused(
        rf"epsilons.1 \({8 / 255}, now {4 / 255}\), epsilons.2 \(None, now {8 / 255}\)",
        epsilons=["0", "4/255", "8/255", "24/255"],
    )
    other = make_model()
    other.layers[-1].bias.assign_add([1e-3] * 10)
    other.save(tmp_path / "other.keras")
    old, new = (
        hashlib.sha256(path.read_bytes()).hexdigest()[:12]
        for path in (model_path, tmp_path / "other.keras")
    )
    refused(
        rf"model \({old}..., now {new}...\)",
        model=tmp_path / "other.keras",
    )
    attack.steps = 3
    refused(r"attack.steps \(None, now 3\)")
    attack.eta = attack.beta = attack.rho = attack.reach = 2
    refused(r"attack.beta .*, attack.reach \(1.0, now 2\), .* and 1 more")
    del attack.steps, attack.eta, attack.beta, attack.rho
    attack.reach = 1.0
    attack.ball.radius = 0.1  # Settings within settings count.
    refused(r"attack.ball.radius \(None, now 0.1\)")
    del attack.ball.radius
    dataset.fingerprint = {"name": "fake_digits", "size": 231}
    refused(r"dataset.size \(230, now 231\)")
    assert _contents(tmp_path / "a" / "results") == before


def test_the_manifest_names_the_run(run, tmp_path):
    (tmp_path / "a").mkdir()
    manifest = tmp_path / "a" / "manifest.json"
    manifest.write_text('{"name": "at_rotation", "seed": 3, "epsilon": "8/255"}')
    (row,) = run("a", evaluators=[Clean()])
    assert (row.run, row.seed) == ("at_rotation", 3)
    manifest.write_text('{"name": "at_rotation"}')
    with pytest.raises(UserError, match="does not say the run's name"):
        run("a")


def test_two_replicas_equal_one(run, two_replicas):
    assert [(r.value, r.low) for r in run("one")] == [
        (r.value, r.low) for r in run("two", strategy=lambda: two_replicas)
    ]


def test_tensor_float_32_is_off_and_another_measurement(run):
    run("a", evaluators=[Clean()])
    enabled = tf.config.experimental.tensor_float_32_execution_enabled
    assert not enabled()
    with pytest.raises(UserError, match="tensor_float_32"):
        run("a", evaluators=[Clean()], tensor_float_32=True)
    run("b", evaluators=[Clean()], tensor_float_32=True)
    assert enabled()


def test_names_must_differ(run):
    for evaluators in ([], [Clean(), Clean()]):
        with pytest.raises(UserError, match="distinct names"):
            run("a", evaluators=evaluators)


def test_describe():
    class Ball:
        def __init__(self):
            self.radius = 0.1
            self._graph = object()

    described = results.describe(
        {
            1: Ball(),
            "goal": test_describe,
            "n": np.int64(3),
            "f": (np.float64(0.5), None),
        }
    )
    assert json.loads(json.dumps(described)) == described
    assert described["1"]["radius"] == "0.1"
    assert described["1"]["class"].endswith("test_describe.<locals>.Ball")
    assert set(described["1"]) == {"class", "radius"}
    assert described["goal"].endswith(".test_describe")
    assert described["n"] == 3
    assert described["f"] == ["0.5", None]
    with pytest.raises(TypeError, match="no settings"):
        results.describe(object())


def test_table():
    row = Row(
        "r", 0, "d", "test", "pgd", "linf", 8 / 255, "accuracy", 0.5, 9, 0.25, 0.75
    )
    clean = dataclasses.replace(row, perturbation="none", strength=0.0)
    header, line, _ = results.table([row, clean]).splitlines()
    assert header.split()[:3] == ["evaluator", "perturbation", "strength"]
    assert " ".join(line.split()) == "pgd linf 8/255 accuracy 50.00 % 25.00 - 75.00 9"

    marks = {
        "model": {"about": ["*"], "marks": {"randomised": "Each time another."}},
        "checks": {"about": ["checks", "pgd"], "marks": {"more_steps_help": "By 3."}},
        "other": {"about": ["other"], "marks": {"noise_beats_attack": "Two."}},
    }
    _, line, other, *notes = results.table([row, clean], marks).splitlines()
    assert line.split()[-1] == "[1],[2]"
    # What is said of the model is of its attacks alone.
    assert other.split()[-1] == "[2]"
    assert notes == ["[1] randomised: Each time another.", "[2] more_steps_help: By 3."]
