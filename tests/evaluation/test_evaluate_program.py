import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

from tfssl import config
from tfssl.cli import evaluate as program
from tfssl.evaluation import evaluate  # noqa: F401  Gin, once locked, learns nothing.
from tfssl.types import UserError


@pytest.fixture
def call():
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()

    def call(**values):
        with flagsaver.flagsaver(**{k: v for k, v in values.items() if v is not None}):
            program.main()

    return call


@pytest.fixture
def data_file(tmp_path):
    path = tmp_path / "data.gin"
    path.write_text("DATASET = @FakeDigits()")
    return str(path)


def test_a_foreign_model(call, data_file, model_path, tmp_path, capsys):
    run_dir = str(tmp_path / "foreign")
    call(
        model=str(model_path),
        run_dir=run_dir,
        gin_file=[data_file, "evaluation/fgsm_linf.gin"],
        gin_param=["fgsm_linf/AttackCurve.epsilons = ['0', '4/255']"],
    )
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.startswith("evaluator")
    assert [line.split()[0] for line in lines] == ["clean", "fgsm_linf", "fgsm_linf"]

    # The saved configuration says it all.
    written = Path(run_dir) / "results" / "fgsm_linf"
    before = {path: path.stat().st_mtime_ns for path in written.iterdir()}
    saved = f"{run_dir}/results/config.gin"
    call(model=str(model_path), run_dir=run_dir, gin_file=[saved])
    assert capsys.readouterr().out.splitlines() == [header, *lines]
    assert {path: path.stat().st_mtime_ns for path in written.iterdir()} == before


def test_autoattack(call, data_file, model_path, tmp_path, capsys):
    call(
        model=str(model_path),
        run_dir=str(tmp_path / "foreign"),
        gin_file=[data_file, "evaluation/autoattack_linf.gin"],
        gin_param=[
            "evaluate.examples = 12",
            "EVALUATION_EPSILON = '24/255'",
        ],
    )
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    stages = [line for line in lines if line[0] == "autoattack_linf"]
    values = [float(line[-6]) for line in stages]
    assert values == sorted(values, reverse=True)
    assert values[0] > values[-1]
    assert [line[-7] for line in stages] == [
        *("accuracy", "apgd_ce", "apgd_t", "fab_t", "accuracy")
    ]
    assert not any(line[0].startswith("[") for line in lines)  # No marks.


@pytest.mark.slow
def test_killed_for_good_and_started_again(model_path, tmp_path):
    """AutoAttack, killed (-9) three times at growing distance, on the real digits."""
    command = [
        *(sys.executable, "-m", "tfssl.cli.evaluate", "--model", str(model_path)),
        *("--gin_file", "data/digits.gin"),
        *("--gin_file", "evaluation/autoattack_linf.gin"),
        *("--gin_param", "evaluate.examples = 40"),
        *("--gin_param", "evaluate.batch_size = 10"),
        *("--gin_param", "EVALUATION_EPSILON = '24/255'"),
        *("--gin_param", "apgd_checks_linf/Checks.examples = 20"),
    ]

    def outcomes(folder):
        found = {}
        for path in sorted((folder / "results").rglob("*.npz")):
            with np.load(path, allow_pickle=False) as arrays:
                found[path.name] = {k: v.tolist() for k, v in arrays.items()}
        return found

    subprocess.run([*command, "--run_dir", str(tmp_path / "whole")], check=True)
    whole = outcomes(tmp_path / "whole")
    assert len(whole) >= 8
    command += ["--run_dir", str(tmp_path / "killed")]
    for cells in (1, 3, 5):
        process = subprocess.Popen(command)
        while len(list(tmp_path.glob("killed/results/*/*.json"))) < cells:
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(command, check=True)
    assert outcomes(tmp_path / "killed") == whole


def test_a_training_run(call, data_file, model_path, tmp_path, capsys):
    config.parse([data_file])
    (tmp_path / "config.gin").write_text(config.text())
    call(run_dir=str(tmp_path))  # The model's folder; model.keras is there.
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("pgd20_linf") for line in lines) == 6


def test_default_is_the_ball_of_training(call, data_file, model_path, tmp_path, capsys):
    config.parse([data_file])
    (tmp_path / "config.gin").write_text(config.text())
    manifest = '{"name": "l2", "seed": 0, "norm": "l2"}'
    (tmp_path / "manifest.json").write_text(manifest)
    call(run_dir=str(tmp_path))
    names = {line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]}
    assert names == {"clean", "pgd20_l2"}


def test_what_a_file_asks_for_may_come_as_a_parameter(
    call, data_file, model_path, tmp_path
):
    """As the folder of CIFAR-10-C does."""
    evaluation = tmp_path / "fgsm.gin"
    evaluation.write_text(
        "include 'evaluation/fgsm_linf.gin'\n"
        "EPSILONS = %gin.REQUIRED\n"
        "fgsm_linf/AttackCurve.epsilons = %EPSILONS\n"
    )
    arguments = {
        "model": str(model_path),
        "run_dir": str(tmp_path / "run"),
        "gin_file": [data_file, str(evaluation)],
    }
    with pytest.raises(UserError, match="EPSILONS is not set"):
        call(**arguments)
    call(**arguments, gin_param=["EPSILONS = ['0']"])
    # Nor is an evaluation taken that was not asked for.
    (cell,) = (tmp_path / "run" / "results" / "fgsm_linf").glob("*.json")
    assert cell.name == "epsilon_0.0.json"


def test_what_is_missing_is_said(call, data_file, model_path, tmp_path):
    with pytest.raises(UserError, match="--run_dir is missing"):
        call(run_dir=None)
    with pytest.raises(UserError, match="no finished training run"):
        call(run_dir=str(tmp_path / "none"))
    with pytest.raises(UserError, match="needs to be told the data"):
        call(run_dir=str(tmp_path / "none"), model=str(model_path))
    with pytest.raises(UserError, match="EVALUATORS"):
        call(
            run_dir=str(tmp_path / "none"),
            model=str(model_path),
            gin_file=[data_file, "runs/evaluate.gin"],
        )
    with pytest.raises(UserError, match=r"no model file nope\.keras"):
        call(
            run_dir=str(tmp_path / "none"),
            model="nope.keras",
            gin_file=[data_file, "evaluation/clean.gin"],
        )
    assert not (tmp_path / "none").exists()


def test_run_dir_that_cannot_be_made(data_file, model_path, tmp_path):
    """One line, and not a traceback."""
    (tmp_path / "file").touch()
    result = subprocess.run(
        [
            *(sys.executable, "bin/evaluate", "--run_dir", tmp_path / "file" / "run"),
            *("--model", model_path, "--gin_file", "data/digits.gin"),
            *("--gin_file", "evaluation/clean.gin"),
        ],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert result.stderr.startswith("error: ")
    assert "Not a directory" in result.stderr
    assert result.stderr.count("\n") == 1


def test_an_error_is_one_line(tmp_path):
    result = subprocess.run(
        [sys.executable, "bin/evaluate", "--run_dir", tmp_path / "none"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
