"""Kills trainings and evaluations at random moments; they must end as undisturbed ones.

  python tests/training/faults.py --kills 30
  python tests/training/faults.py --kills 30 --workers 2

Each kill is followed by the same command, until that finishes; then what it has left is
compared with what an undisturbed run has: weights and outcomes bit by bit, metrics.csv
but for images_per_second, rows of results. Two kills in three come with one of the
changes in the run's folder, to hit the writing of files, the others at any time. One
in four is SIGTERM, which must end with exit code 75 or, near the end, 0.

With several workers, over the loopback device, it is any one of them that is killed,
sometimes while they still wait for each other. The others must end by themselves and
say that a worker is gone; then all are started again. One that is not the chief trains
on after SIGTERM.

A process starts as a copy (fork) of one that has imported TensorFlow and done nothing
with it: a start takes no time, and dozens of kills some minutes. It is tiny networks on
digits, in deterministic mode. Exit code 1 says that something differed.
"""

from __future__ import annotations

import argparse
import collections
import csv
import dataclasses
import functools
import io
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from loopback import tf_configs

TRAIN = ["runs/train.gin", "data/digits.gin", "models/tiny.gin", "terms/standard.gin"]
TRAIN_PARAMS = [
    *("NAME='test'", "EPOCHS=3", "BATCH_SIZE=50", "LEARNING_RATE=0.05"),
    *("Dataset.validation=100", "Dataset.num_examples=600", "resnet.width=4"),
    *("resnet.blocks=(1,)", "Trainer.ema_decay=0.9", "train.deterministic=True"),
    *("import tfssl.evaluation.validation", "VALIDATION=@Validation()"),
    *("import tfssl.evaluation.evaluators", "Validation.evaluators=[@Clean()]"),
    *("SELECT='clean'", "train.log_every=5", "train.checkpoint_seconds=0.05"),
]
# Of cells: times, and where they were measured.
DIFFERS = ("seconds", "environment")
EVALUATE = ["evaluation/noise_linf.gin"]
EVALUATE_PARAMS = ["evaluate.examples=120", "evaluate.batch_size=20"]
# What workers say who have lost another one: `distribute`, or its watchdog.
GONE = ("another worker is gone", "Timeout (")
WORKERS_PARAMS = ["join_cluster.timeout=20"]
SECONDS = 60  # In which they must.


def train(run_dir: Path, params: Sequence[str] = ()) -> list[str]:
    """The command line of a training, with further bindings."""
    return ["train", *_flags(run_dir, TRAIN, [*TRAIN_PARAMS, *params])]


def evaluate(run_dir: Path) -> list[str]:
    """The command line of an evaluation, of a training in that folder."""
    return ["evaluate", *_flags(run_dir, EVALUATE, EVALUATE_PARAMS)]


def _flags(run_dir: Path, files: list[str], params: list[str]) -> list[str]:
    flags = [f"--gin_file={name}" for name in files]
    return [f"--run_dir={run_dir}", *flags, *(f"--gin_param={p}" for p in params)]


@dataclasses.dataclass
class Task:
    """A program to disturb.

    Attributes:
      name: For the log.
      command: Its command line, of a run directory.
      prepare: Makes a new run directory.
      whole: The run directory of the undisturbed run.
      workers: How many processes run it together.
      changes, seconds: Of the undisturbed run.
      killed: Kills by name of the signal.
      amid: Kills that left a file half-written.
      waited: Seconds at most until the other workers had ended, too.
      finished: Runs that went on to their end.
    """

    name: str
    command: Callable[[Path], list[str]]
    prepare: Callable[[Path], None]
    whole: Path
    workers: int = 1
    changes: int = 0
    seconds: float = 0.0
    killed: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    amid: int = 0
    waited: float = 0.0
    finished: int = 0

    def __str__(self) -> str:
        kinds = ", ".join(f"{n} {name}" for name, n in sorted(self.killed.items()))
        others = f" others ended within {self.waited:.0f} s;" if self.waited else ""
        return (
            f"{self.name}: {self.killed.total()} kills ({kinds or 'none'}),"
            f" {self.amid} amid a write;{others} {self.finished} runs ended as"
            " undisturbed"
        )


def disturb(task: Task, kills: int, folder: Path, chance: random.Random) -> None:
    """Kills a task so many times, as often anew as it takes, and compares each end.

    Raises:
      AssertionError: A run ended in another way than the undisturbed one.
    """
    task.prepare(task.whole)
    task.changes, task.seconds = run(task, task.whole)[1:]
    while True:
        run_dir = folder / f"{task.name}-{task.finished}"
        task.prepare(run_dir)
        while task.killed.total() < kills:
            number = chance.choice([signal.SIGKILL] * 3 + [signal.SIGTERM])
            if chance.random() < 2 / 3:
                # Far enough to get on, not so far that it ends before.
                moment = {"change": chance.randint(1, max(1, task.changes // 3))}
            else:
                moment = {"second": chance.uniform(0, task.seconds / 2)}
            later = chance.choice([0.0, chance.uniform(0, 0.02)])
            worker = 0
            if task.workers > 1:
                worker = chance.randrange(task.workers)
                if chance.random() < 1 / 6:  # While they wait for each other.
                    number, moment = signal.SIGKILL, {"change": 0}
                    later = chance.uniform(0, 2)
            codes = run(task, run_dir, number, worker, later, **moment)[0]
            if not any(codes):
                break
            expected = -signal.SIGKILL if number == signal.SIGKILL else os.EX_TEMPFAIL
            assert codes[worker] == expected, (
                f"exit code {codes[worker]} after {number.name}, {run_dir}"
            )
            whom = f" of worker {worker}" if task.workers > 1 else ""
            task.killed[number.name + whom] += 1
            left = [*run_dir.rglob(".[0-9]*"), *run_dir.rglob("ckpt-*_temp*")]
            task.amid += bool(left)
        else:
            run(task, run_dir)
        found = differences(run_dir, task.whole)
        assert not found, f"{run_dir} differs from {task.whole}: {'; '.join(found)}"
        task.finished += 1
        if task.killed.total() >= kills:
            return


def run(
    task: Task,
    run_dir: Path,
    number: signal.Signals | None = None,
    worker: int = 0,
    later: float = 0.0,
    change: float = float("inf"),
    second: float = float("inf"),
) -> tuple[list[int], int, float]:
    """Runs a task, to its end or until one of its processes is sent a signal.

    Args:
      task, run_dir: What.
      number: The signal.
      worker: Which process gets it.
      later: Seconds from the moment to the signal.
      change: The moment, as a number of changes in the folder; 0 is the start.
      second: The moment, as a time since the first change: the lock.

    Returns:
      The processes' exit codes, the number of changes seen, and seconds since the first
      one.

    Raises:
      AssertionError: One failed, and not because another one had got a signal.
    """
    before = _state(run_dir)
    pids, logs = _start(task, run_dir)
    codes: dict[int, int] = {}
    changes, since, sent, ended = 0, 0.0, False, 0.0
    try:
        while len(codes) < len(pids):
            for pid in pids:
                if pid not in codes and (status := os.waitpid(pid, os.WNOHANG))[0]:
                    codes[pid] = os.waitstatus_to_exitcode(status[1])
                    ended = ended or time.monotonic()
            late = time.monotonic() - ended if ended else 0.0
            assert late < SECONDS, f"a worker does not end, see {run_dir}*.log"
            seconds = time.monotonic() - since if changes else 0.0
            now = _state(run_dir)
            if now != before:
                since = since or time.monotonic()
                before, changes = now, changes + 1
            if number and not sent and (changes >= change or seconds >= second):
                time.sleep(later)
                if pids[worker] not in codes:
                    os.kill(pids[worker], number)
                sent = True
            time.sleep(0.004)
    finally:
        for pid in set(pids) - codes.keys():
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    for i, (pid, said) in enumerate(zip(pids, logs, strict=True)):
        gone = sent and i != worker and codes[pid] == 1
        gone = gone and any(words in said() for words in GONE)
        ok = not codes[pid] or gone or (sent and i == worker)
        assert ok, f"worker {i} failed, see {run_dir}*.log"
        if gone:
            task.waited = max(task.waited, late)
    return [codes[pid] for pid in pids], changes, seconds


def _state(run_dir: Path) -> list[tuple[str, int, int]]:
    """Names, sizes and times of all files."""
    found = []
    for folder, _, names in os.walk(run_dir):
        for name in names:
            try:
                status = os.stat(os.path.join(folder, name))
            except FileNotFoundError:
                continue
            found.append((name, status.st_size, status.st_mtime_ns))
    return sorted(found)


def _start(task: Task, run_dir: Path) -> tuple[list[int], list[Callable[[], str]]]:
    """Starts a task; returns its processes' numbers, and what tells what each says."""
    configs = tf_configs(task.workers) if task.workers > 1 else [""]
    pids, logs = [], []
    for i, config in enumerate(configs):
        log = run_dir.with_suffix(f".{i}.log" if i else ".log")
        begins = log.stat().st_size if log.exists() else 0
        pids.append(_copy(task.command(run_dir), log, config))
        logs.append(functools.partial(_said, log, begins))
    return pids, logs


def _said(log: Path, begins: int) -> str:
    return log.read_bytes()[begins:].decode(errors="replace")


def _copy(command: list[str], log: Path, config: str) -> int:
    """Starts a program as a copy of this process; returns its number."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        with log.open("ab") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        os.environ["TF_CONFIG"] = config
        sys.argv = command
        program = {"train": cli_train, "evaluate": cli_evaluate}[command[0]]
        program.run()
    except SystemExit as error:
        code = error.code or 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def differences(run_dir: Path, whole: Path) -> list[str]:
    """What is not the same in two run directories, by name."""
    got, want = _contents(run_dir), _contents(whole)
    names = sorted(got.keys() | want.keys())
    return [n for n in names if n not in got or n not in want or got[n] != want[n]]


def _contents(run_dir: Path) -> dict[str, object]:
    """All that a run is about: weights, rows and outcomes."""
    found = {}
    model = run_dir / "model.keras"
    if model.exists():
        import h5py

        with zipfile.ZipFile(model) as archive:
            weights = io.BytesIO(archive.read("model.weights.h5"))
        with h5py.File(weights) as file:
            file.visititems(
                lambda name, item: (
                    found.update({f"weights {name}": item[()].tobytes()})
                    if isinstance(item, h5py.Dataset)
                    else None
                )
            )
    if (run_dir / "metrics.csv").exists():
        with (run_dir / "metrics.csv").open(newline="") as file:
            for row in csv.DictReader(file):
                del row["images_per_second"]
                found[f"row {row['step']}"] = row
    for path in (run_dir / "results").rglob("*"):
        name = str(path.relative_to(run_dir))
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                found[name] = {k: (v.dtype.str, v.tobytes()) for k, v in arrays.items()}
        elif path.parent.name != "results":  # Of a cell.
            cell = json.loads(path.read_text())
            found[name] = {k: str(v) for k, v in cell.items() if k not in DIFFERS}
        elif path.name == "marks.json":
            found[name] = json.loads(path.read_text())
    manifest = json.loads((run_dir / "manifest.json").read_text())
    found["selected"] = manifest.get("selected_step")
    names = {path.name for path in run_dir.iterdir()} - {"results"}
    return found | {"files": names}


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=30, help="Of both together.")
    parser.add_argument("--seed", type=int, default=0, help="Of the moments.")
    parser.add_argument("--workers", type=int, default=1, help="Processes of each run.")
    parser.add_argument("--run_dir", type=Path, help="A new folder; kept if given.")
    flags = parser.parse_args()
    chance = random.Random(flags.seed)
    folder = flags.run_dir or Path(tempfile.mkdtemp(prefix="faults-"))
    folder.mkdir(parents=True, exist_ok=True)

    def trained(run_dir: Path) -> None:
        run_dir.mkdir()
        for name in ("model.keras", "config.gin", "manifest.json"):
            shutil.copy(folder / "train" / name, run_dir)

    params = WORKERS_PARAMS if flags.workers > 1 else []
    training = functools.partial(train, params=params)
    tasks = [
        Task("train", training, Path.mkdir, folder / "train", flags.workers),
        Task("evaluate", evaluate, trained, folder / "evaluate", flags.workers),
    ]
    third = max(flags.kills // 3, flags.kills > 1)
    for task, kills in zip(tasks, [flags.kills - third, third], strict=True):
        disturb(task, kills, folder, chance)
        print(task, flush=True)
    if not flags.run_dir:
        shutil.rmtree(folder)


if __name__ == "__main__":
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # A GPU cannot be shared with a copy.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # All that a run needs is imported once, here, and nothing computed.
    from tfssl import config
    from tfssl.cli import evaluate as cli_evaluate
    from tfssl.cli import train as cli_train
    from tfssl.evaluation import journal

    config.parse([*TRAIN, *EVALUATE], TRAIN_PARAMS)
    journal.SECONDS = 0.0  # After each batch, as if they took half a minute.
    main()
