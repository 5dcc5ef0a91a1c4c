"""Runs nodes as tasks of Ray, on this machine or on a cluster.

A task starts its node's command as a process, as `processes` does, and waits for it.
What Ray pickles on the way is text and numbers that this module made; but whoever can
reach the ports of a cluster can have it run anything (docs/running.md).
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from pathlib import Path

from tfssl.studies import processes
from tfssl.studies.node import Node
from tfssl.types import UserError

_LOST = 10  # How often a run goes on elsewhere after its worker or machine has died.
_PATIENCE = 20.0  # Seconds from asking tasks to end to ending them; `stop` takes 10.

# A worker that is killed takes its process along: Ray starts the task again at once,
# and there must not be two. 1 is PR_SET_PDEATHSIG.
_LAUNCHER = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() != int(sys.argv[1]):
    os._exit(1)
os.execvp(sys.argv[2], sys.argv[2:])
"""
# The rest of the environment is the machine's own.
_CARRIED = re.compile(
    r"(TF|TFDS|XLA|KERAS|CUDNN|NVIDIA|OMP)_\w+|PYTHON(PATH|UNBUFFERED|HASHSEED)"
)


class Again(Exception):
    """A run was asked to end, as happens before a machine goes: it is to go on."""


class RayTasks:
    """An `engine.Executor` of Ray tasks.

    Args:
      address: Of a running cluster, 'auto' or 'ray://host:port'; None: one of this
        machine's own, that nothing outside of it can reach, started and shut down.
      slots: How many tasks Ray is given at a time; None: all that are ready.
      cpus, gpus: That each run takes; None: the cores of the smallest machine, shared
        by its GPUs or by four; a GPU where there are any.

    Raises:
      UserError: Ray is not installed, or cannot be started or found.
    """

    def __init__(
        self,
        address: str | None = None,
        slots: int | None = None,
        cpus: int | None = None,
        gpus: float | None = None,
    ):
        self._ray = _connect(address)
        machines = [
            node["Resources"] for node in self._ray.nodes() if node.get("Alive")
        ]
        with_gpu = [each for each in machines if each.get("GPU")]
        if gpus is None:
            gpus = 1.0 if with_gpu else 0.0
        if cpus is None:
            there = with_gpu if gpus and with_gpu else machines
            shares = [each["CPU"] // each.get("GPU", 4) for each in there]
            cpus = max(1, int(min(shares)))
        self.slots = slots or sys.maxsize
        self._cpus = cpus
        self._submit = self._ray.remote(_run).options(
            num_cpus=cpus,
            num_gpus=gpus,
            max_retries=_LOST,
            retry_exceptions=[Again],
        )
        self._running: dict[object, Node] = {}

    def start(self, node: Node) -> None:
        carried = {k: v for k, v in os.environ.items() if _CARRIED.fullmatch(k)}
        limits = processes.thread_limits(self._cpus)
        task = self._submit.remote(
            list(node.command), str(node.log), os.getcwd(), limits | carried
        )
        self._running[task] = node

    def ended(self) -> list[tuple[Node, bool]]:
        if not self._running:
            return []
        tasks = list(self._running)
        over, _ = self._ray.wait(tasks, num_returns=len(tasks), timeout=0)
        nodes = [self._running.pop(task) for task in over]
        return [
            (node, self._went_well(node, task))
            for node, task in zip(nodes, over, strict=True)
        ]

    def _went_well(self, node: Node, task: object) -> bool:
        try:
            return self._ray.get(task) == 0
        except self._ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines() or [type(error).__name__]
            node.log.parent.mkdir(parents=True, exist_ok=True)
            with node.log.open("a", encoding="utf-8") as log:
                log.write(f"error: {reason[-1]}\n")
            return False

    def stop(self) -> None:
        tasks = list(self._running)
        for force in (False, True):
            for task in tasks:
                # One that has ended meanwhile.
                with contextlib.suppress(self._ray.exceptions.RayError, ValueError):
                    self._ray.cancel(task, force=force)
            if tasks:
                _, tasks = self._ray.wait(
                    tasks, num_returns=len(tasks), timeout=_PATIENCE
                )
        self._ray.shutdown()


def _connect(address: str | None):
    """The module `ray`, connected."""
    # Ray reads these when it is imported. On a cluster those count that it was started
    # with.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if not address:
        # It would kill runs, and start them again, when memory is short.
        os.environ.setdefault("RAY_memory_monitor_refresh_ms", "0")
        # Without a cluster all of it listens on the loopback device alone. It is so by
        # default where this name says; it would take another address even if told.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    try:
        import ray
    except ImportError:
        raise UserError(
            "--executor ray needs Ray, which is not installed: pip install 'tfssl[ray]'"
        ) from None
    local = {
        "num_cpus": processes.cores(),
        "include_dashboard": False,
        "object_store_memory": 100 * 2**20,  # Nothing is kept there.
    }
    try:
        ray.init(
            address=address or "local",
            logging_level="ERROR",
            log_to_driver=False,
            **({} if address else local),
        )
    except Exception as error:  # Of its own, of sockets, of files.
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        if not address:
            raise UserError(f"Ray does not start: {reason}") from error
        raise UserError(
            f"no cluster at {address}, or it wants a token (docs/running.md): {reason}"
        ) from error
    return ray


def _run(command: list[str], log: str, folder: str, changes: dict[str, str]) -> int:
    """In a worker of Ray: runs a command to its end.

    Args:
      command, log: Of the node.
      folder: Where it starts, the same on all machines.
      changes: To the worker's environment.

    Returns:
      Its exit code.

    Raises:
      Again: It was asked to end.
    """
    launcher = [sys.executable, "-I", "-c", _LAUNCHER, str(os.getpid())]
    environment = os.environ | changes
    process = processes.start(command, Path(log), environment, folder, launcher)
    try:
        code = process.wait()
    finally:  # When the task is cancelled.
        processes.stop([process])
    if code == os.EX_TEMPFAIL:
        raise Again("the run was asked to end each time that it was started")
    return code
