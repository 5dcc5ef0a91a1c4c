"""Graphs of tiny programs on a Ray of this machine's own."""

import functools
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tfssl.studies import engine
from tfssl.studies.node import Node, log_tail
from tfssl.studies.ray_tasks import RayTasks

ROOT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(
        sys.platform != "linux", reason="Ray, as it is used, is Linux's"
    ),
]

# Five steps, each kept in a file; goes on after the last one that was. At step 3 it may
# wait to be killed, or end as it is told.
PROGRAM = """
import os, sys, time
from pathlib import Path
here, name, what = Path(sys.argv[1]), *sys.argv[2:]
journal = open(here / "journal", "a", buffering=1)
kept = here / f"{name}.step"
first = int(kept.read_text()) if kept.exists() else 0
journal.write(f"{name}:start\\n")
for step in range(first + 1, 6):
    if step == 3 and what == "hang" and first == 0:
        print(os.getpid(), flush=True)
        (here / f"{name}.worker").write_text(str(os.getppid()))
        time.sleep(60)
    if step == 3 and what == "75" and first == 0:
        sys.exit(75)
    if step == 3 and what == "3":
        print("error: it broke")
        sys.exit(3)
    journal.write(f"{name}:{step}\\n")
    kept.write_text(str(step))
(here / f"{name}.done").touch()
"""


def test_a_worker_dies_and_nothing_is_repeated(tmp_path, monkeypatch):
    def node(name, *needs, what=""):
        return Node(
            name,
            [sys.executable, "-c", PROGRAM, str(tmp_path), name, what],
            # As in a study, relative to where it was started from.
            Path("logs") / f"{name}.log",
            functools.partial((tmp_path / f"{name}.done").exists),
            needs,
        )

    monkeypatch.chdir(tmp_path)
    what = {1: "hang", 2: "75", 3: "3"}
    graph = [node(f"train{i}", what=what.get(i, "")) for i in range(6)]
    graph += [node(f"evaluate{i}", f"train{i}") for i in range(6)]
    graph.append(node("last", "evaluate0", "evaluate1"))

    pids = []

    def kill():
        worker = tmp_path / "train1.worker"
        while not worker.exists() or not worker.read_text():
            time.sleep(0.05)
        pids.append(int(log_tail(graph[1], 1)))
        os.kill(int(worker.read_text()), signal.SIGKILL)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    executor = RayTasks(cpus=1)
    listening = _listening()
    outcome = engine.run(graph, executor)
    killer.join(1)

    assert [node.name for node in outcome.failed] == ["train3"]
    assert [node.name for node in outcome.skipped] == ["evaluate3"]
    assert log_tail(outcome.failed[0], 1) == "error: it broke"
    lines = (tmp_path / "journal").read_text().split()
    good = [n.name for n in graph if n.name not in ("train3", "evaluate3")]
    steps = [line for line in lines if not line.endswith("start")]
    expected = {f"{name}:{step}" for name in good for step in range(1, 6)}
    assert set(steps) == expected | {"train3:1", "train3:2"}
    assert len(steps) == len(set(steps))  # Nothing twice, though two started twice.
    starts = [line.partition(":")[0] for line in lines if line.endswith("start")]
    assert {name for name in starts if starts.count(name) > 1} == {"train1", "train2"}
    assert not _lives(pids[0])
    assert listening == {"127.0.0.1"}

    # The same graph again: what has finished is not run again.
    (tmp_path / "journal").unlink()
    graph[3] = node("train3")
    outcome = engine.run(graph, RayTasks(cpus=1))
    assert not outcome.failed
    again = {line.partition(":")[0] for line in (tmp_path / "journal").open()}
    assert again == {"train3", "evaluate3"}


def _lives(pid):
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2]
    except FileNotFoundError:
        return False


def _listening():
    """Addresses at which processes of Ray listen for TCP."""
    import psutil

    found = set()
    for process in psutil.Process().children(recursive=True):
        try:
            connections = process.net_connections("tcp")
        except psutil.Error:
            continue
        found |= {
            c.laddr.ip.removeprefix("::ffff:")
            for c in connections
            if c.status == psutil.CONN_LISTEN
        }
    return found


@pytest.mark.slow
def test_a_study_whose_worker_dies_has_the_table_of_one_left_alone(tmp_path):
    """12 trainings and 12 evaluations, twice: twelve minutes on two cores."""
    flags = ["--seeds", "4", "--gin_param", "EPOCHS=12"]
    flags += ["--gin_param", "train.deterministic=True"]
    environment = os.environ | {"TF_NUM_INTRAOP_THREADS": "1", "OMP_NUM_THREADS": "1"}

    def command(folder, *more):
        program = [sys.executable, "bin/study", "quickstart", *flags]
        return [*program, "--run_dir", str(tmp_path / folder), *more]

    ray = command("ray", "--executor", "ray", "--cpus_per_run", "1")
    study = subprocess.Popen(ray, cwd=ROOT, env=environment)
    run_dir = tmp_path / "ray" / "at_linf32_rotation_both_0.5-seed0"
    _eventually(lambda: _rows(run_dir) >= 3)
    worker = _trains(run_dir).parent()
    assert worker.name().startswith("ray::")
    worker.kill()
    killed_at = _rows(run_dir)
    assert study.wait(1200) == 0
    subprocess.run(command("alone"), cwd=ROOT, env=environment, check=True)

    assert 3 <= killed_at < 12
    logs = {path: path.read_text() for path in (tmp_path / "ray").glob("*/*.log")}
    assert len(logs) == 24
    starts = {path: text.count("$ ") for path, text in logs.items()}
    assert starts.pop(run_dir / "train.log") == 2
    assert set(starts.values()) == {1}
    assert "resuming" in logs[run_dir / "train.log"]
    for name in ("table.csv", "differences.csv"):
        tables = [tmp_path / each / "report" / name for each in ("ray", "alone")]
        assert tables[0].read_text() == tables[1].read_text()
    # Asked again, it starts nothing.
    subprocess.run(ray, cwd=ROOT, env=environment, check=True)
    assert {path: path.read_text() for path in logs} == logs


def _rows(run_dir):
    """Of metrics.csv, without its header."""
    path = run_dir / "metrics.csv"
    return path.read_text().count("\n") - 1 if path.exists() else 0


def _trains(run_dir):
    """The process that trains a run."""
    import psutil

    words = ("tfssl.cli.train", str(run_dir))
    for process in psutil.process_iter(["cmdline"]):
        if set(words) <= set(process.info["cmdline"] or []):
            return process
    raise AssertionError(f"nothing trains {run_dir}")


def _eventually(condition, seconds=600):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)
