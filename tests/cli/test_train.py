"""bin/train: its one-line errors. Resuming: tests/training/test_faults.py."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags
from absl.testing import flagsaver

from tfssl import config
from tfssl.cli import train
from tfssl.types import UserError

BIN = Path(__file__).parents[2] / "bin" / "train"
PARTS = [
    *("runs/train.gin", "data/digits.gin", "models/tiny.gin"),
    *("terms/adversarial_ssl_both.gin", "objectives/rotation.gin"),
    "attacks/pgd_linf.gin",
]
PARAMS = [
    *("NAME='test'", "EPOCHS=2", "STEPS=2", "BATCH_SIZE=50"),
    *("Dataset.validation=100", "Dataset.num_examples=600", "train.log_every=2"),
    *("train.deterministic=True", "LEARNING_RATE=0.05"),
]


@pytest.fixture
def refused(tmp_path):
    """Runs the program's main in this process and returns its error."""
    if not flags.FLAGS.is_parsed():
        flags.FLAGS(["train"])

    def run(files=PARTS, params=(), run_dir=tmp_path / "run"):
        values = {"gin_file": files, "gin_param": [*params], "run_dir": str(run_dir)}
        with flagsaver.flagsaver(**values), pytest.raises(UserError) as error:
            train.main()
        return str(error.value).splitlines()[0]

    return run


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (["EPOHCS=1"], "no macro EPOHCS in this configuration; did you mean EPOCHS?"),
        (["NAME='x'", "sgd.momentun=0.9"], "momentun"),
        (["NAME='x'", "sgdd.momentum=0.9"], "sgdd"),
        (["NAME='x'", "clasify/Term.weight=1.0"], "clasify"),
        (["NAME='x'", "EPSILON='8/'"], "'8/' is not a size"),
        (["NAME='x'", "EPSILON=8"], "write '8/255' rather than 8"),
        (["NAME='x'", "EPSILON='-1/255'"], "non-negative"),
        (["NAME='x'", "EPSILON=8/255"], "--gin_param EPSILON=8/255: words, and frac"),
        (["NAME='x'", "SSL_WEIGHT=-1"], ">= 0"),
        (["NAME='x'", "EPOCHS=-1"], "epochs must be a whole number, at least 0"),
        (["NAME='x'", "Trainer.ema_decay=2.0"], "ema_decay"),
        (["NAME='x'", "SCHEDULE=@constant"], "constant"),
        (["NAME='x'", "WEIGHT_DECAY=-1.0"], "weight_decay"),
        ([], "NAME is not set: include a file that sets it"),
    ],
)
def test_bad_parameters(refused, params, message):
    assert message in refused(params=params)


def test_unknown_gin_file_names_its_neighbours(refused):
    message = refused(files=["data/cifar11.gin"])
    assert "no gin file data/cifar11.gin" in message
    assert "did you mean cifar10" in message
    message = refused(files=["attacks/nosuch.gin"])
    assert "attacks holds fgsm_random_start_linf.gin, pgd_l2.gin, pgd_l" in message


def test_run_dir_of_another_configuration(refused, tmp_path):
    (tmp_path / "run").mkdir()
    config.parse(PARTS, [*PARAMS, "SEED=1"])
    (tmp_path / "run" / "config.gin").write_text(config.text())
    # As long as nothing has been learnt, any configuration may be tried.
    assert "epochs" in refused(params=[*PARAMS, "SEED=2", "EPOCHS=-1"])
    config.parse(PARTS, [*PARAMS, "SEED=1"])
    (tmp_path / "run" / "config.gin").write_text(config.text())
    (tmp_path / "run" / "checkpoints").mkdir()
    (tmp_path / "run" / "checkpoints" / "ckpt-2.index").touch()
    message = refused(params=[*PARAMS, "SEED=2"])
    assert "another configuration" in message
    assert "- SEED = 1; + SEED = 2" in message
    assert "EPOCHS" not in message


def test_missing_data_says_how_to_get_them(refused, tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    def no_network(self, **kwargs):
        raise OSError("no network")

    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "empty"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", no_network)
    files = [name.replace("digits", "cifar10") for name in PARTS]
    message = refused(files=files, params=["NAME='x'"])
    assert "cifar10:3.0.2 is not in" in message
    assert "TFDS_DATA_DIR" in message


def test_run_dir_that_cannot_be_made(refused, tmp_path):
    (tmp_path / "file").touch()
    message = refused(params=["NAME='x'"], run_dir=tmp_path / "file" / "run")
    assert "cannot make the folder" in message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--run_dir=x"], "error: --gin_file is missing"),
        (["--gin_file=runs/train.gin"], "error: --run_dir is missing"),
        (["stray"], "error: unexpected argument stray"),
    ],
)
def test_errors_are_one_line_and_exit_1(arguments, message, tmp_path):
    result = subprocess.run(
        [sys.executable, str(BIN), *arguments],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ},
        check=False,
    )
    assert result.returncode == 1
    assert result.stderr.startswith(message)
    assert result.stderr.count("\n") == 1


def test_help_teaches_and_names_the_flags():
    result = subprocess.run(
        [sys.executable, str(BIN), "--help"], capture_output=True, text=True, check=True
    )
    assert "bin/train --gin_file papers/madry2018/cifar10.gin" in result.stdout
    assert "--gin_param" in result.stdout
