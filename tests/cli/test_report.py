"""bin/report as its users start it."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

# Runs the program, then tells whether TensorFlow was loaded.
PROGRAM = """
import runpy, sys
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    print("tensorflow loaded:", "tensorflow" in sys.modules)
"""


def report(*arguments):
    code = f"import sys; sys.argv = {['bin/report', *map(str, arguments)]!r}\n{PROGRAM}"
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


def fake_run(folder, name, value):
    cell = {
        "key": "k",
        "row": {
            "run": name,
            "seed": 0,
            "dataset": "digits",
            "split": "test",
            "evaluator": "clean",
            "perturbation": "none",
            "strength": 0.0,
            "metric": "accuracy",
            "value": value,
            "n": 100,
            "low": value - 0.1,
            "high": value + 0.1,
        },
        "settings": {},
        "seconds": 0.1,
    }
    path = folder / name / "results" / "clean" / "clean.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(cell))


def test_report_of_a_folder_of_runs_without_tensorflow(tmp_path):
    fake_run(tmp_path / "runs", "at", 0.5)
    fake_run(tmp_path / "runs", "ssl", 0.6)
    done = report(tmp_path / "runs", "--out", tmp_path / "out", "--baseline", "at")
    assert done.returncode == 0, done.stderr
    assert "ssl      1  60.0 [50.0, 70.0]" in done.stdout
    assert "+10.0" in done.stdout
    assert "tensorflow loaded: False" in done.stdout
    assert "60.0 [50.0, 70.0]" in (tmp_path / "out/table.csv").read_text()


def test_mistakes_are_one_line(tmp_path):
    for arguments, message in (
        ([tmp_path, "--out", tmp_path / "out"], "holds no results"),
        ([tmp_path], "--out is missing"),
        (["--out", tmp_path / "out"], "no run directories given"),
    ):
        done = report(*arguments)
        assert done.returncode == 1
        assert done.stderr.startswith("error: ")
        assert message in done.stderr
        assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_help_teaches():
    done = report("--help")
    assert "bin/report RUN_DIR [RUN_DIR ...] --out DIR [--baseline NAME]" in done.stdout
    assert "rows.csv" in done.stdout
