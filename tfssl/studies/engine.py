"""Runs a graph of command lines, several at a time.

A node is one command line and runs as its own process: a crash touches no other node,
and whatever can start a process can run it. What does so is an executor.
"""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Protocol

from tfssl.studies.node import Node
from tfssl.studies.progress import Progress

_POLL = 0.1  # Seconds.


class Executor(Protocol):
    """Where nodes run.

    Attributes:
      slots: The most nodes that are to be started before one of them has ended.
    """

    slots: int

    def start(self, node: Node) -> None:
        """Starts a node, or takes it on to start it when there is room."""

    def ended(self) -> list[tuple[Node, bool]]:
        """Those that have ended since the last call, and whether well."""

    def stop(self) -> None:
        """Ends those that run. No process is left running. It is called at the end."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of the nodes that did not end well.

    Attributes:
      failed: Those whose command failed.
      skipped: Those that need one which failed or was skipped.
    """

    failed: Sequence[Node]
    skipped: Sequence[Node]


def run(nodes: Sequence[Node], executor: Executor, retries: int = 0) -> Outcome:
    """Runs what is not finished; ends when nothing is left that could run.

    Ready nodes start in the order given, as soon as one of the slots is free.

    Args:
      nodes: Each behind those that it needs.
      executor: Where they run.
      retries: How many times a node whose command has failed is started again.

    Raises:
      KeyboardInterrupt: Ctrl-C, SIGTERM or SIGHUP came. No process is left running.
    """
    _check(nodes)
    waiting = [node for node in nodes if not node.is_finished()]
    done = {node.name for node in nodes} - {node.name for node in waiting}
    failed: list[Node] = []
    skipped: list[Node] = []
    running: list[Node] = []
    attempts: Counter[Node] = Counter()
    with Progress(len(nodes), len(done)) as progress, _interruption() as signals:
        try:
            while waiting or running:
                for node in [n for n in waiting if _lost(n, failed + skipped)]:
                    waiting.remove(node)
                    skipped.append(node)
                    progress.advance()
                ready = [node for node in waiting if done.issuperset(node.needs)]
                starting = ready[: executor.slots - len(running)]
                for node in starting:
                    waiting.remove(node)
                    executor.start(node)
                    running.append(node)
                if starting:
                    progress.show(running)
                time.sleep(_POLL)
                if signals:
                    raise KeyboardInterrupt
                for node, well in executor.ended():
                    running.remove(node)
                    attempts[node] += 1
                    if not well and attempts[node] <= retries:
                        progress.say(f"{node.name} failed and is tried again")
                        waiting.insert(0, node)
                        continue
                    if well:
                        done.add(node.name)
                    else:
                        failed.append(node)
                        progress.say(f"{node.name} failed, see {node.log}")
                    progress.advance()
        finally:
            executor.stop()
    return Outcome(failed, skipped)


def _check(nodes: Sequence[Node]) -> None:
    known = set()
    for node in nodes:
        if node.name in known or not known.issuperset(node.needs):
            raise ValueError(f"node {node.name} is there twice or before what it needs")
        known.add(node.name)


def _lost(node: Node, without_result: Sequence[Node]) -> bool:
    return not {other.name for other in without_result}.isdisjoint(node.needs)


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
