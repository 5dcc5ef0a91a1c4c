"""bin/corrupt as its users start it."""

import os
import subprocess
import sys
from pathlib import Path

import tensorflow_datasets as tfds

ROOT = Path(__file__).parents[2]


def corrupt(tmp_path, *arguments):
    return subprocess.run(
        [sys.executable, "bin/corrupt", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )


def test_data_sets_are_written_and_tfds_reads_them(tmp_path):
    out = tmp_path / "new" / "data"
    command = [
        *("--gin_file=data/digits.gin", "--gin_param=Dataset.image_size=32"),
        *("--gin_param=Dataset.num_test_examples=9", f"--out={out}"),
        *(
            "--gin_param=corrupt.only=['contrast']",
            "--gin_param=corrupt.severities=[3]",
        ),
    ]
    done = corrupt(tmp_path, *command)
    assert done.returncode == 0, done.stderr
    assert (
        f"1 data sets in {out}, the last one digits_c/contrast_3:1.0.0" in done.stdout
    )
    assert "Traceback" not in done.stderr
    data = tfds.load("digits_c/contrast_3", data_dir=out, split="test")
    assert len(data) == 9


def test_errors_are_one_line(tmp_path):
    (tmp_path / "file").touch()
    for arguments, message in (
        ([], "--out is missing"),
        ([f"--out={tmp_path / 'file' / 'data'}"], "cannot make the folder"),
    ):
        done = corrupt(tmp_path, *arguments)
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        assert message in line
