"""How far the runs of a study have come, from their files alone.

Wherever they run: on this machine, or on another one that shares the disk.
"""

from __future__ import annotations

import csv
import dataclasses
import fcntl
import json
import re
import socket
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tfssl.studies.node import Node
from tfssl.studies.progress import duration

_RECENT = 180.0  # Seconds: three times the longest silence of a training that runs.
_TAIL = 2**20  # Bytes of a log that are looked at.
_STEP = re.compile(r"^I(\d{4} \d\d:\d\d:\d\d)\.\d+ .* step (\d+)/(\d+)", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Status:
    """What is known of a node.

    Attributes:
      name: The node's.
      state: 'finished', 'running', 'failed', 'stopped' (it began, and does not run any
        more) or 'waiting'.
      progress: For instance 'step 624/1248, epoch 4.0', or nothing.
      left: Seconds until it may be finished; None if that is not known.
      last: Of a node that failed, the last line of its log.
    """

    name: str
    state: str
    progress: str = ""
    left: float | None = None
    last: str = ""


def look(nodes: Sequence[Node]) -> list[Status]:
    """The status of each node; each node is behind those that it needs."""
    finished: set[str] = set()
    found = []
    for node in nodes:
        if node.is_finished():
            finished.add(node.name)
            found.append(Status(node.name, "finished"))
        elif not finished.issuperset(node.needs) or not node.log.exists():
            found.append(Status(node.name, "waiting"))
        else:
            found.append(_begun(node))
    return found


def table(found: Sequence[Status]) -> str:
    """A line per node, and one that counts them."""
    width = max((len(status.name) for status in found), default=0)
    lines = []
    for status in found:
        parts = [f"{status.state:8}  {status.name:{width}}", status.progress]
        if status.left is not None:
            parts.append(f"{duration(status.left)} left")
        lines.append("  ".join(filter(None, parts)).rstrip())
        if status.last:
            lines.append(f"{'':10}{status.last}")
    counts = Counter(status.state for status in found)
    order = ("finished", "running", "waiting", "stopped", "failed")
    counted = ", ".join(f"{counts[state]} {state}" for state in order if counts[state])
    return "\n".join([*lines, f"{len(found)} steps: {counted}"])


def _begun(node: Node) -> Status:
    """Of a node that has a log, but is not finished."""
    run_dir = node.log.parent
    attempt = _last_attempt(node.log)
    lines = attempt.strip().splitlines()
    if node.name.startswith("evaluate "):
        cells = len(list(run_dir.glob("results/*/*.json")))
        progress, left = f"{cells} cells", None
    else:
        progress, left = _training(run_dir, attempt)
    broken = "Traceback (most recent call last)" in attempt or any(
        line.startswith("error: ") for line in lines
    )
    if broken:
        return Status(node.name, "failed", progress, last=lines[-1])
    if is_running(run_dir):
        return Status(node.name, "running", progress, left)
    return Status(node.name, "stopped", progress)


def is_running(run_dir: Path) -> bool:
    """Whether a process is at work in a run directory.

    One that holds `.lock` is. If nobody seems to, but the last holder did not say that
    it let go, and was on another machine, it may be that locks do not reach so far:
    then, and without that file, how old the files are decides.
    """
    try:
        with (run_dir / ".lock").open() as file:
            try:
                # For an instant, which a run that wants to start waits for.
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            holder = file.read()
        if not holder or json.loads(holder)["host"] == socket.gethostname():
            return False
    except (OSError, ValueError, TypeError, KeyError):
        pass  # No such file, or another one.
    paths = [*run_dir.glob("*"), *run_dir.glob("results/*/*")]
    changes = [_changed(path) for path in paths]
    return time.time() - max(changes, default=0.0) < _RECENT


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # It has been replaced meanwhile.
        return 0.0


def _last_attempt(log: Path) -> str:
    """The end of a log, from where the command was started for the last time."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _TAIL))
        text = file.read().decode(errors="replace")
    return re.split(r"^\$ .*$", text, flags=re.MULTILINE)[-1]


def _training(run_dir: Path, attempt: str) -> tuple[str, float | None]:
    """Progress of a training, and how many seconds are left at its pace so far."""
    steps = _STEP.findall(attempt)
    epoch = ""
    try:
        with (run_dir / "metrics.csv").open(newline="") as file:
            *_, row = csv.DictReader(file)
        epoch = f"epoch {float(row['epoch']):.1f}"
        progress = f"step {int(row['step'])}"
    except (OSError, ValueError, TypeError, KeyError):
        progress = ""  # Nothing was logged yet.
    if not steps:
        return ", ".join(filter(None, [progress, epoch])), None
    (since, first, _), (until, last, total) = steps[0], steps[-1]
    progress = ", ".join(filter(None, [f"step {last}/{total}", epoch]))
    done, to_go = int(last) - int(first), int(total) - int(last)
    # Logs do not say the year.
    seconds = _clock(until) - _clock(since)
    if done <= 0 or seconds <= 0:
        return progress, None
    return progress, seconds / done * to_go


def _clock(text: str) -> float:
    """Seconds, of '1126 18:40:44'."""
    return time.mktime(time.strptime(f"2000{text}", "%Y%m%d %H:%M:%S"))
