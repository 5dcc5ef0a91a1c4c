"""What docs/add_a_method.md tells to write and to run, written and run."""

import csv
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# A path in a paragraph, and the block after it.
PATH = r"`((?:tfssl|gin|tests)/\w+/\w+\.(?:py|gin))`"
FILE = re.compile(PATH + r"(?:.|\n(?!\n))*\n\n```(?:python)?\n((?:.|\n)*?)```")
COMMANDS = re.compile(r"```bash\n((?:.|\n)*?)```")


@pytest.fixture(scope="module")
def text():
    return (ROOT / "docs/add_a_method.md").read_text()


@pytest.fixture(scope="module")
def checkout(tmp_path_factory, text):
    """A copy of what the commands need, with the files of the page."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("tfssl", "gin", "bin", "tests/objectives"):
        shutil.copytree(ROOT / name, folder / name)
    for name, content in FILE.findall(text):
        assert not (folder / name).exists(), f"{name} is there already"
        (folder / name).write_text(content)
    return folder


def call(checkout, *command):
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    done = subprocess.run(
        [sys.executable, *command],
        cwd=checkout,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_both_methods_are_three_files(text):
    names = [name for name, _ in FILE.findall(text)]
    for method in ("upside_down", "align_uniform"):
        for name in (
            f"tfssl/objectives/{method}.py",
            f"gin/objectives/{method}.gin",
            f"tests/objectives/test_{method}.py",
        ):
            assert names.count(name) == 1
    assert len(names) == 6


def test_their_tests_pass(checkout, text):
    tests = [name for name, _ in FILE.findall(text) if name.startswith("tests/")]
    assert "2 passed" in call(checkout, "-m", "pytest", "-q", *tests)


def test_commands_run(checkout, text):
    blocks = "".join(COMMANDS.findall(text)).replace("\\\n", " ")
    commands = [shlex.split(line) for line in blocks.splitlines()]
    for command in commands:
        if command[0] != "make":  # Its tests are run above.
            call(checkout, *command)
    for method in ("upside_down", "align_uniform"):
        run = checkout / "runs" / method
        with (run / "metrics.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert f"loss/{method}" in rows[0]
        assert list((run / "results").glob("*/*.json"))
