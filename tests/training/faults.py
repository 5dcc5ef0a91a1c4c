"""Kills trainings and evaluations at random moments; they must end as undisturbed ones.

  python tests/training/faults.py --kills 30

Each kill is followed by the same command, until that finishes; then what it has left is
compared with what an undisturbed run has: weights and outcomes bit by bit, metrics.csv
but for images_per_second, rows of results. Two kills in three come with one of the
changes in the run's folder, to hit the writing of files, the others at any time. One
in four is SIGTERM, which must end with exit code 75 or, near the end, 0.

A process starts as a copy (fork) of one that has imported TensorFlow and done nothing
with it: a start takes no time, and dozens of kills some minutes. It is tiny networks on
digits, in deterministic mode. Exit code 1 says that something differed.
"""

from __future__ import annotations

import argparse
import collections
import csv
import dataclasses
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
from collections.abc import Callable
from pathlib import Path

import numpy as np

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


def train(run_dir: Path) -> list[str]:
    """The command line of a training."""
    return ["train", *_flags(run_dir, TRAIN, TRAIN_PARAMS)]


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
      changes, seconds: Of that.
      killed: Kills by name of the signal.
      amid: Kills that left a file half-written.
      finished: Runs that went on to their end.
    """

    name: str
    command: Callable[[Path], list[str]]
    prepare: Callable[[Path], None]
    whole: Path
    changes: int = 0
    seconds: float = 0.0
    killed: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    amid: int = 0
    finished: int = 0

    def __str__(self) -> str:
        kinds = ", ".join(f"{n} {name}" for name, n in sorted(self.killed.items()))
        return (
            f"{self.name}: {self.killed.total()} kills ({kinds or 'none'}),"
            f" {self.amid} amid a write; {self.finished} runs ended as undisturbed"
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
            code = run(task, run_dir, number, later, **moment)[0]
            if code == 0:
                break
            expected = -signal.SIGKILL if number == signal.SIGKILL else os.EX_TEMPFAIL
            assert code == expected, f"exit code {code} after {number.name}, {run_dir}"
            task.killed[number.name] += 1
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
    later: float = 0.0,
    change: float = float("inf"),
    second: float = float("inf"),
) -> tuple[int, int, float]:
    """Runs a task, to its end or until it is sent a signal.

    Args:
      task, run_dir: What.
      number: The signal.
      later: Seconds from the moment to the signal.
      change: The moment, as a number of changes in the folder.
      second: The moment, as a time since the first change: the lock.

    Returns:
      Its exit code, the number of changes seen, and seconds since the first one.

    Raises:
      AssertionError: It failed, without a signal.
    """
    log = run_dir.with_suffix(".log")
    before = _state(run_dir)
    pid = _start(task.command(run_dir), log)
    changes, since, sent = 0, 0.0, False
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        seconds = time.monotonic() - since if changes else 0.0
        if ended:
            code = os.waitstatus_to_exitcode(status)
            assert sent or code == 0, f"failed, see {log}"
            return code, changes, seconds
        now = _state(run_dir)
        if now != before:
            since = since or time.monotonic()
            before, changes = now, changes + 1
        if number and not sent and (changes >= change or seconds >= second):
            time.sleep(later)
            os.kill(pid, number)
            sent = True
        time.sleep(0.004)


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


def _start(command: list[str], log: Path) -> int:
    """Starts a program as a copy of this process; returns its number."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        with log.open("ab") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
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
    parser.add_argument("--run_dir", type=Path, help="A new folder; kept if given.")
    flags = parser.parse_args()
    chance = random.Random(flags.seed)
    folder = flags.run_dir or Path(tempfile.mkdtemp(prefix="faults-"))
    folder.mkdir(parents=True, exist_ok=True)

    def trained(run_dir: Path) -> None:
        run_dir.mkdir()
        for name in ("model.keras", "config.gin", "manifest.json"):
            shutil.copy(folder / "train" / name, run_dir)

    tasks = [
        Task("train", train, Path.mkdir, folder / "train"),
        Task("evaluate", evaluate, trained, folder / "evaluate"),
    ]
    shares = [flags.kills - flags.kills // 3, flags.kills // 3]
    for task, kills in zip(tasks, shares, strict=True):
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
