"""Killed at random moments, runs end as undisturbed ones (see faults.py)."""

import subprocess
import sys

import faults
import keras
import numpy as np
import pytest

from tfssl import config


def disturbed(folder, *flags):
    """What faults.py says; undisturbed runs and killed ones are in the folder."""
    command = [sys.executable, faults.__file__, f"--run_dir={folder}", *flags]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Of `--kills 4`: the undisturbed ones, train/ and evaluate/, and the killed."""
    folder = tmp_path_factory.mktemp("faults")
    said = disturbed(folder, "--kills=4")
    assert "train: 3 kills" in said
    assert "evaluate: 1 kills" in said
    return folder


def test_one_of_two_workers_is_killed(tmp_path):
    """The other ends by itself, and both go on as if nothing had been."""
    # With this seed it is the training's chief that gets SIGTERM, if all goes as usual.
    said = disturbed(tmp_path, "--kills=2", "--workers=2", "--seed=68")
    assert "train: 1 kills" in said
    assert "evaluate: 1 kills" in said


def test_weights_rows_and_outcomes_are_compared(runs):
    """A difference in any of them would have been found."""
    killed = runs / "train-0"
    assert not faults.differences(killed, runs / "train")
    text = (killed / "metrics.csv").read_text()
    (killed / "metrics.csv").write_text(text.replace("\n5,", "\n6,"))
    assert faults.differences(killed, runs / "train") == ["row 5", "row 6"]
    (killed / "metrics.csv").write_text(text)
    model = keras.saving.load_model(killed / "model.keras")
    weights = model.get_weights()
    weights[-1][-1] = np.nextafter(weights[-1][-1], np.float32(1))
    model.set_weights(weights)
    model.save(killed / "model.keras")
    (found,) = faults.differences(killed, runs / "train")
    assert found.startswith("weights ")

    killed = runs / "evaluate-0"
    found = faults.differences(killed, runs / "train")
    assert any(name.endswith(".npz") for name in found)
    assert any(name.endswith(".json") for name in found)


def test_what_was_run_can_be_read_back(runs):
    """Also of a run that was killed, and it says the same."""
    config.parse([runs / "train-0" / "config.gin"])
    text = (runs / "train" / "config.gin").read_text()
    assert not config.differences(text, config.text())
    operative = (runs / "train-0" / "operative.gin").read_text()
    assert "train.deterministic = True" in operative
