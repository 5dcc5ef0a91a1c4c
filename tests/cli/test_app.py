"""How the programs end."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "arguments", [["bin/train", "--help"], ["bin/study", "--list"]]
)
def test_a_reader_that_has_seen_enough(arguments):
    """Standard output is a pipe that no one reads any more."""
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as out:
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=ROOT,
            # As it is for users: what is written waits in a buffer.
            env=os.environ | {"PYTHONUNBUFFERED": ""},
            stdout=out,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.stderr == ""
    assert done.returncode == 1
