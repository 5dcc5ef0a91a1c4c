"""Graphs of tiny programs that touch files."""

import functools
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tfssl.studies import engine, processes
from tfssl.studies.node import Node, command_line, log_tail

# Says that it starts, waits for a file if it is to, says that it has ended.
PROGRAM = """
import os, sys, time
from pathlib import Path
here, name, code, awaited = Path(sys.argv[1]), *sys.argv[2:]
journal = open(here / "journal", "a", buffering=1)
journal.write(f"+{name}\\n")
print("threads", os.environ["OMP_NUM_THREADS"], os.environ["TF_NUM_INTRAOP_THREADS"])
deadline = time.monotonic() + 20
while awaited and not (here / awaited).exists() and time.monotonic() < deadline:
    time.sleep(0.01)
if code == "0":
    (here / f"{name}.done").touch()
else:
    print("error: it broke")
journal.write(f"-{name}\\n")
sys.exit(int(code))
"""


@pytest.fixture
def node(tmp_path):
    def make(name, *needs, code=0, awaited=""):
        return Node(
            name=name,
            command=[sys.executable, "-c", PROGRAM]
            + [str(tmp_path), name, str(code), awaited],
            log=tmp_path / "logs" / name / "train.log",
            is_finished=functools.partial((tmp_path / f"{name}.done").exists),
            needs=needs,
        )

    return make


def run(nodes, slots, **kwargs):
    return engine.run(nodes, processes.Processes(slots), **kwargs)


def journal(folder):
    return (folder / "journal").read_text().split()


def names(nodes):
    return [node.name for node in nodes]


def test_order_follows_needs(node, tmp_path):
    graph = [node("a"), node("b", "a"), node("c"), node("d", "b", "c")]
    outcome = run(graph, slots=3)
    assert not outcome.failed
    assert not outcome.skipped
    lines = journal(tmp_path)
    assert sorted(lines) == sorted(f"{sign}{n}" for sign in "+-" for n in "abcd")
    for before, after in (("a", "b"), ("b", "d"), ("c", "d")):
        assert lines.index(f"-{before}") < lines.index(f"+{after}")


def test_one_slot_runs_one_at_a_time_in_the_order_given(node, tmp_path):
    run([node("a"), node("b", "a"), node("c")], slots=1)
    assert journal(tmp_path) == ["+a", "-a", "+b", "-b", "+c", "-c"]


def test_slots_run_together_and_share_the_cores(node, tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "cores", lambda: 6)
    for variable in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS"):
        monkeypatch.delenv(variable, raising=False)
    # Each waits for the other to start: one after the other they would time out.
    graph = [node("a", awaited="b.done"), node("b")]
    start = time.monotonic()
    run(graph, slots=2)
    assert time.monotonic() - start < 15
    assert journal(tmp_path)[-1] == "-a"
    assert graph[0].log.read_text().startswith(f"$ {sys.executable} -c ")
    assert log_tail(graph[0], 1) == "threads 3 3"

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    run([third := node("c")], slots=2)
    assert log_tail(third, 1) == "threads 1 3"


def test_a_failure_stops_only_what_needs_it_and_the_rest_is_kept(node, tmp_path):
    graph = [node("a", code=3), node("b", "a"), node("c", "b"), node("d")]
    outcome = run(graph, slots=2)
    assert names(outcome.failed) == ["a"]
    assert names(outcome.skipped) == ["b", "c"]
    assert log_tail(outcome.failed[0], 1) == "error: it broke"
    assert "+d" in journal(tmp_path)

    # The same graph again, mended: what has finished is not run again.
    (tmp_path / "journal").unlink()
    outcome = run([node("a"), *graph[1:]], slots=1)
    assert not outcome.failed
    assert not outcome.skipped
    assert journal(tmp_path) == ["+a", "-a", "+b", "-b", "+c", "-c"]


class Scripted:
    """An executor without processes: what was started last ends first, as told.

    Args:
      slots: As of every executor.
      failures: How often a node fails before it succeeds, by name.
    """

    def __init__(self, slots, **failures):
        self.slots, self.failures = slots, failures
        self.started, self.most, self.stopped, self._running = [], 0, False, []

    def start(self, node):
        self.started.append(node.name)
        self._running.append(node)
        self.most = max(self.most, len(self._running))

    def ended(self):
        if not self._running:
            return []
        node = self._running.pop()
        left = self.failures.get(node.name, 0)
        self.failures[node.name] = left - 1
        return [(node, left < 1)]

    def stop(self):
        self.stopped = True


def test_any_executor(node, monkeypatch):
    monkeypatch.setattr(engine, "_POLL", 0.0)
    graph = [node(f"{i}") for i in range(6)]
    graph += [node(f"{i}{i}", f"{i}") for i in range(6)]
    executor = Scripted(3, **{"0": 2, "1": 1, "22": 9})
    outcome = engine.run(graph, executor, retries=1)
    assert set(names(outcome.failed)) == {"0", "22"}
    assert names(outcome.skipped) == ["00"]
    assert executor.most == 3
    assert executor.stopped
    assert {name: executor.started.count(name) for name in executor.started} == {
        **dict.fromkeys(["0", "1", "22"], 2),
        **dict.fromkeys(["2", "3", "4", "5", "11", "33", "44", "55"], 1),
    }


def test_a_graph_must_be_in_order(node, tmp_path):
    for graph in ([node("a", "b"), node("b")], [node("a"), node("a")]):
        with pytest.raises(ValueError, match="node a"):
            run(graph, slots=1)
    assert not (tmp_path / "journal").exists()


CHILD = """
import os, subprocess, sys, time
grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(os.getpid(), grandchild.pid, flush=True)
time.sleep(60)
"""

PARENT = """
import signal, sys
from pathlib import Path
# Background jobs ignore it.
signal.signal(signal.SIGINT, signal.default_int_handler)
from tfssl.studies import engine
from tfssl.studies.node import Node
from tfssl.studies.processes import Processes
log = Path(sys.argv[1])
command = [sys.executable, "-c", sys.argv[2]]
try:
    engine.run([Node("a", command, log, lambda: False)], Processes(1))
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_leave_no_orphans(tmp_path, number):
    log = tmp_path / "a.log"
    parent = subprocess.Popen([sys.executable, "-c", PARENT, log, CHILD])
    pids = _eventually(lambda: _pids(log))
    assert all(_lives(pid) for pid in pids)
    parent.send_signal(number)
    assert parent.wait(20) == 130
    _eventually(lambda: not any(_lives(pid) for pid in pids))


def _pids(log: Path) -> list[int]:
    """What CHILD prints, once it has."""
    last = log.read_text().splitlines()[-1:] if log.exists() else []
    words = last[0].split() if last else []
    return [int(word) for word in words] if len(words) == 2 else []


def _lives(pid: int) -> bool:
    try:
        # An orphan that has ended may wait for a container's init to notice.
        return (
            Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        )
    except FileNotFoundError:
        return False


def _eventually(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return value


def test_command_line_survives_a_shell():
    command = [
        "echo",
        "NAME='a b'",
        "['0', '8/255']",
        'a"b',
        "$HOME",
        "it's `x`",
        "a\nb",
    ]
    line = command_line(command).removeprefix("echo ")
    assert line.startswith("\"NAME='a b'\" \"['0', '8/255']\" ")
    done = subprocess.run(["sh", "-c", f"printf '%s|' {line}"], capture_output=True)
    assert done.stdout.decode().split("|")[:-1] == command[1:]
