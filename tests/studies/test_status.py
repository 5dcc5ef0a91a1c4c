"""The status of runs, from files as the programs leave them."""

import fcntl
import json
import os
import socket
import time

import pytest

from tfssl.studies import status
from tfssl.studies.node import Node

LOG = """$ python -m tfssl.cli.train --gin_file a.gin
I1231 23:40:00.000000 1 loop.py:239] at step 10/500
error: a disk was full
$ python -m tfssl.cli.train --gin_file a.gin
I1231 23:50:00.489915 139767635749760 loop.py:239] at step 100/500
I1231 23:51:00.781130 139767635749760 loop.py:260] at step 120/500 loss 0.9 75 images/s
"""
OLD = time.time() - 3600


@pytest.fixture
def run(tmp_path):
    """Makes the nodes of a run whose files were changed an hour ago."""

    def make(name, log=LOG, finished=(), lock=None, **files):
        run_dir = tmp_path / name
        run_dir.mkdir()
        if log is not None:
            files["train.log"] = log
        if lock is not None:
            files[".lock"] = lock
        for file, text in files.items():
            (run_dir / file).write_text(text)
            os.utime(run_dir / file, (OLD, OLD))
        train, evaluate = f"train {name}", f"evaluate {name}"
        return [
            Node(train, [], run_dir / "train.log", lambda: "train" in finished),
            Node(
                *(evaluate, [], run_dir / "evaluate.log"),
                lambda: "evaluate" in finished,
                [train],
            ),
        ]

    return make


def states(nodes):
    return [each.state for each in status.look(nodes)]


def test_a_run_that_is_locked_runs(run):
    nodes = run("at", lock="{}")
    assert states(nodes) == ["stopped", "waiting"]
    metrics = "step,epoch,loss\n50,0.5,2\n110,1.1,1\n"
    (nodes[0].log.parent / "metrics.csv").write_text(metrics)
    os.utime(nodes[0].log.parent / "metrics.csv", (OLD, OLD))
    with open(nodes[0].log.parent / ".lock") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        train, evaluate = status.look(nodes)
    assert (train.state, evaluate.state) == ("running", "waiting")
    assert train.progress == "step 120/500, epoch 1.1"
    # 20 steps a minute, since it was started for the last time: 380 are left.
    assert train.left == pytest.approx(19 * 60, rel=0.01)
    lines = status.table([train, evaluate]).splitlines()
    assert (
        lines[0] == "running   train at     step 120/500, epoch 1.1  about 19 min left"
    )
    assert lines[-1] == "2 steps: 1 running, 1 waiting"
    assert states(nodes) == ["stopped", "waiting"]


@pytest.mark.parametrize(
    ("lock", "state"),
    [
        (None, "running"),
        ("", "stopped"),  # Let go of.
        (json.dumps({"host": socket.gethostname()}), "stopped"),  # Killed, here.
        (json.dumps({"host": "elsewhere"}), "running"),
        ("{", "running"),
    ],
)
def test_where_no_lock_is_seen_files_tell(run, lock, state):
    train = run("at", lock=lock)[0]
    assert states([train]) == ["stopped"]
    os.utime(train.log)
    assert states([train]) == [state]


def test_the_others(run):
    broken = "$ a\nTraceback (most recent call last):\n  x\nValueError: what\n\n"
    said = "$ a\nI1231 23:50:00.489915 1 x.py:2] x\nerror: no model\n"
    nodes = [
        *run("a", finished=["train", "evaluate"]),
        *run("b", log=broken),
        *run("c", finished=["train"]),
        *run("d", log=None),
        *run("e", finished=["train"], **{"evaluate.log": said}),
    ]
    cells = nodes[-1].log.parent / "results" / "pgd"
    cells.mkdir(parents=True)
    (cells / "one.json").touch()
    found = status.look(nodes)
    assert [each.state for each in found] == [
        *("finished", "finished", "failed", "waiting", "finished", "waiting"),
        *("waiting", "waiting", "finished", "failed"),
    ]
    assert found[2].last == "ValueError: what"
    assert (found[-1].progress, found[-1].last) == ("1 cells", "error: no model")
    text = status.table(found)
    assert "\n          ValueError: what\n" in text
    assert text.endswith("10 steps: 4 finished, 4 waiting, 2 failed")
