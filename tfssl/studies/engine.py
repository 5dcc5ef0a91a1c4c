"""Runs a graph of command lines on this machine, several at a time.

A node is one command line and runs as its own process: a crash touches no other node,
and whatever else can start a process (a cluster's scheduler) can run the same nodes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from absl import logging
from tqdm import tqdm

_POLL = 0.1  # Seconds.
_GRACE = 10.0  # Seconds from asking a process to end to killing it.


@dataclasses.dataclass(frozen=True, eq=False)
class Node:
    """One process to run.

    Attributes:
      name: Unique in its graph.
      command: Program and arguments; no shell is involved.
      log: The file that its output is appended to.
      is_finished: Whether it was run to its end before, and need not run again.
      needs: Names of the nodes that must have ended well before it starts.
    """

    name: str
    command: Sequence[str]
    log: Path
    is_finished: Callable[[], bool]
    needs: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of the nodes that did not end well.

    Attributes:
      failed: Those whose command failed.
      skipped: Those that need one which failed or was skipped.
    """

    failed: Sequence[Node]
    skipped: Sequence[Node]


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


def run(nodes: Sequence[Node], slots: int) -> Outcome:
    """Runs what is not finished; ends when nothing is left that could run.

    Ready nodes start in the order given, as soon as one of the slots is free.

    Args:
      nodes: Each behind those that it needs.
      slots: Number of processes at a time, which share the cores evenly.

    Raises:
      KeyboardInterrupt: Ctrl-C, SIGTERM or SIGHUP came. No process is left running.
    """
    _check(nodes)
    waiting = [node for node in nodes if not node.is_finished()]
    done = {node.name for node in nodes} - {node.name for node in waiting}
    failed: list[Node] = []
    skipped: list[Node] = []
    running: dict[Node, subprocess.Popen] = {}
    with _Progress(len(nodes), len(done)) as progress, _interruption() as signals:
        try:
            while waiting or running:
                for node in [n for n in waiting if _lost(n, failed + skipped)]:
                    waiting.remove(node)
                    skipped.append(node)
                    progress.advance()
                ready = [node for node in waiting if done.issuperset(node.needs)]
                starting = ready[: slots - len(running)]
                for node in starting:
                    waiting.remove(node)
                    running[node] = _start(node, slots)
                if starting:
                    progress.show(running)
                time.sleep(_POLL)
                if signals:
                    raise KeyboardInterrupt
                for node in [n for n, p in running.items() if p.poll() is not None]:
                    if running.pop(node).returncode == 0:
                        done.add(node.name)
                    else:
                        failed.append(node)
                        progress.say(f"{node.name} failed, see {node.log}")
                    progress.advance()
        finally:
            _stop(running.values())
    return Outcome(failed, skipped)


def _check(nodes: Sequence[Node]) -> None:
    known = set()
    for node in nodes:
        if node.name in known or not known.issuperset(node.needs):
            raise ValueError(f"node {node.name} is there twice or before what it needs")
        known.add(node.name)


def _lost(node: Node, without_result: Sequence[Node]) -> bool:
    return not {other.name for other in without_result}.isdisjoint(node.needs)


def command_line(node: Node) -> str:
    """A node's command as one would type it into a shell."""

    def quoted(part: str) -> str:
        # Gin's strings stay readable.
        if "'" in part and not set(part) & set('"\\$`!'):
            return f'"{part}"'
        return shlex.quote(part)

    return " ".join(map(quoted, node.command))


def log_tail(node: Node, lines: int = 10) -> str:
    """The last lines of a node's log."""
    text = node.log.read_text(encoding="utf-8", errors="replace")
    return "\n".join(text.splitlines()[-lines:])


def _start(node: Node, slots: int) -> subprocess.Popen:
    threads = str(max(1, cores() // slots))
    # What the user has set is left alone.
    environment = {
        "TF_NUM_INTRAOP_THREADS": threads,
        "OMP_NUM_THREADS": threads,
    } | os.environ
    node.log.parent.mkdir(parents=True, exist_ok=True)
    with open(node.log, "ab") as log:
        log.write(f"$ {command_line(node)}\n".encode())
        log.flush()
        return subprocess.Popen(
            node.command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            # A group of its own: Ctrl-C reaches it through `_stop` alone, with all
            # processes that it may have started.
            start_new_session=True,
        )


def _stop(processes: Iterable[subprocess.Popen]) -> None:
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


@contextlib.contextmanager
def _interruption() -> Iterator[list[int]]:
    """Collects what asks to end, so that nothing ends amid the start of a process.

    Yields:
      The numbers of the signals that came.
    """
    came: list[int] = []
    before = {
        number: signal.getsignal(number)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # As under nohup.
            signal.signal(number, lambda number, frame: came.append(number))
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Progress:
    """A bar on a terminal, lines in the log elsewhere."""

    def __init__(self, total: int, finished: int):
        self._bar = tqdm(
            total=total,
            initial=finished,
            bar_format="{n_fmt}/{total_fmt} {bar:20} {remaining} to go{postfix}",
            dynamic_ncols=True,
            leave=False,
            disable=not sys.stderr.isatty(),
        )
        self._left = total - finished
        self._ended = 0
        self._since = time.monotonic()
        logging.info("%d of %d finished before", finished, total)

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *exception) -> None:
        self._bar.close()

    def advance(self) -> None:
        """One more node has ended, well or not."""
        self._left -= 1
        self._ended += 1
        self._bar.update()

    def show(self, running: Iterable[Node]) -> None:
        """Says what runs, and how long it may take."""
        names = ", ".join(node.name for node in running)
        if not self._bar.disable:
            self._bar.set_postfix_str(names)
        elif self._ended:
            seconds = (time.monotonic() - self._since) / self._ended * self._left
            about = _duration(seconds)
            logging.info("%d to go, %s; running: %s", self._left, about, names)
        else:
            logging.info("%d to go; running: %s", self._left, names)

    def say(self, text: str) -> None:
        """A line of its own, above the bar."""
        if self._bar.disable:
            logging.warning("%s", text)
        else:
            self._bar.write(text, file=sys.stderr)


def _duration(seconds: float) -> str:
    """'about 40 s', 'about 12 min' or 'about 3.5 h'."""
    if seconds < 90:
        return f"about {seconds:.0f} s"
    if seconds < 90 * 60:
        return f"about {seconds / 60:.0f} min"
    return f"about {seconds / 3600:.1f} h"
