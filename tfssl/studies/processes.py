"""Runs nodes as processes of this machine."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tfssl.studies.node import Node, command_line

_GRACE = 10.0  # Seconds from asking a process to end to killing it.


def cores() -> int:
    """Number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux: a container may have fewer.
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def default_slots() -> int:
    """One process on a GPU, which it fills; else up to four that share the cores."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "0") in ("", "-1")
    gpu = any(Path("/dev").glob("nvidia[0-9]*")) and not hidden
    return 1 if gpu else min(cores(), 4)


class Processes:
    """An `engine.Executor` of child processes, which share the cores evenly.

    Args:
      slots: How many at a time.
    """

    def __init__(self, slots: int):
        self.slots = slots
        self._running: dict[Node, subprocess.Popen] = {}

    def start(self, node: Node) -> None:
        limits = thread_limits(max(1, cores() // self.slots))
        # What the user has set is left alone.
        self._running[node] = start(node.command, node.log, limits | os.environ)

    def ended(self) -> list[tuple[Node, bool]]:
        found = [n for n, p in self._running.items() if p.poll() is not None]
        return [(node, self._running.pop(node).returncode == 0) for node in found]

    def stop(self) -> None:
        stop(self._running.values())


def thread_limits(cores: int) -> dict[str, str]:
    """The variables that keep a process to so many cores."""
    return dict.fromkeys(("TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS"), str(cores))


def start(
    command: Sequence[str],
    log: Path,
    environment: Mapping[str, str],
    folder: str | None = None,
    launcher: Sequence[str] = (),
) -> subprocess.Popen:
    """Starts a command, with its output appended to its log.

    Args:
      command, log: As of a node.
      environment: Of the process.
      folder: Where it starts, and what the log is relative to; None: here.
      launcher: A program that the command is given to.
    """
    path = Path(folder or "", log)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as output:
        output.write(f"$ {command_line(command)}\n".encode())
        output.flush()
        return subprocess.Popen(
            [*launcher, *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=environment,
            # A group of its own: Ctrl-C reaches it through `stop` alone, with all
            # processes that it may have started.
            start_new_session=True,
        )


def stop(processes: Iterable[subprocess.Popen]) -> None:
    """Ends processes: asks them to, and kills those that take too long."""
    for process in processes:
        _signal(process, signal.SIGTERM)
    deadline = time.monotonic() + _GRACE
    for process in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0, deadline - time.monotonic()))
        _signal(process, signal.SIGKILL)
        process.wait()


def _signal(process: subprocess.Popen, number: signal.Signals) -> None:
    """Signals the group of a process that is not known to have ended."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
