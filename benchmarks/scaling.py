"""One worker against two: throughput, and what the time of a training step goes into.

  python benchmarks/scaling.py --output_dir /tmp/benchmark

Workers are processes that talk over loopback (`distribute.join_cluster`, TF_CONFIG).
Each has one core and one thread, and the one that works alone has no more. Each has the
same number of images per step, so that two of them have twice the batch: weak scaling.
They are built from the gin files of gin/ at the size of scales/ssl_small.gin.

Each part is timed by itself, in all workers at a time:

  loop           a step as `tfssl.training.loop.train` runs it, with its batch; its
                 inverse is the throughput
  waited         the part of it spent waiting for the batch
  making         making a batch, with nothing else to do
  step           the step on a batch that is there
  attack         the search for the adversarial examples alone
  communication  all that replicas tell one another in a step, in its order and shapes,
                 of zeros and alone: the gradients, BatchNorm's sums (of each layer,
                 forwards and backwards), gathered embeddings with the gradients of
                 that, and the numbers of the log

Of the loop's time, `input` is what it takes longer than a step on a batch that is
there: a pipeline takes its time from the same core, whether or not the loop waits for
it. `update` is what is left: step - attack - communication. Waiting for a worker that
is late is in there too.

With a GPU, or --gpu, images per second of bin/train on one GPU, ResNet-18 and PGD-10,
in each precision.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import tensorflow as tf
from absl import app, flags

from tfssl import manifest

HERE = Path(__file__).parent
NETWORK = ["runs/train.gin", "data/cifar10.gin", "models/resnet18.gin"]
ADVERSARIAL = [*NETWORK, "attacks/pgd_linf.gin", "terms/adversarial.gin"]
# Gin files, and steps of a timed run: some seconds.
METHODS = {
    "standard": ([*NETWORK, "terms/standard.gin"], 30),
    "adversarial": (ADVERSARIAL, 5),
    "simclr": (["papers/chen2020/simclr_cifar10.gin"], 8),
}
PARTS = ("input", "attack", "update", "communication")

CHOSEN = flags.DEFINE_list("methods", list(METHODS), "Which of them.")
WORKERS = flags.DEFINE_integer("workers", 2, "Against one.", 2)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 128, "Images per worker and step.", 2)
STEPS = flags.DEFINE_integer("steps", None, "In a timed run; by method if not given.")
ROUNDS = flags.DEFINE_integer("rounds", 5, "Timed runs of all parts in a process.", 1)
REPEATS = flags.DEFINE_integer("repeats", 3, "Starts of all processes, in turn.", 1)
DATA = flags.DEFINE_string("data", "data/cifar10.gin", "Gin file of the data.")
GIN_PARAM = flags.DEFINE_multi_string("gin_param", [], "Bindings read last.")
GPU = flags.DEFINE_bool(
    "gpu", None, "Measure a GPU alone, or none; not given: one as well, if it is there."
)
PRECISIONS = flags.DEFINE_list(
    "precisions", ["float32", "bfloat16", "float16"], "Of the runs on a GPU."
)
GPU_BATCH_SIZES = flags.DEFINE_list("gpu_batch_sizes", ["128", "512"], "Of these runs.")
OUTPUT_DIR = flags.DEFINE_string(
    "output_dir", None, "Where scaling.md, .csv and .json go.", required=True
)


@contextlib.contextmanager
def on_core(core: int) -> Iterator[None]:
    """What is started meanwhile runs on this core alone."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def environment_of(index: int, hosts: Sequence[str]) -> dict[str, str]:
    """The variables of a worker."""
    environment = {
        **os.environ,
        "TF_NUM_INTRAOP_THREADS": "1",
        "TF_ENABLE_ONEDNN_OPTS": os.environ.get("TF_ENABLE_ONEDNN_OPTS", "1"),
        "CUDA_VISIBLE_DEVICES": "-1",
    }
    environment.pop("TF_CONFIG", None)
    if len(hosts) > 1:
        task = {"type": "worker", "index": index}
        cluster = {"cluster": {"worker": list(hosts)}, "task": task}
        environment["TF_CONFIG"] = json.dumps(cluster)
    return environment


def run_workers(method: str, count: int) -> dict:
    """Starts so many workers, and returns what the first one found.

    Raises:
      RuntimeError: One failed.
    """
    files, steps = METHODS[method]
    hosts = [f"127.0.0.1:{port}" for port in free_ports(count)]
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "found.json")
        task = {
            "files": [*files, DATA.value, "scales/ssl_small.gin"],
            "params": [
                *("NAME = 'scaling'", f"BATCH_SIZE = {BATCH_SIZE.value * count}"),
                *GIN_PARAM.value,
            ],
            "steps": STEPS.value or steps,
            "rounds": ROUNDS.value,
            "out": str(out),
        }
        command = [sys.executable, str(HERE / "scaling_worker.py"), json.dumps(task)]
        logs = [Path(folder, f"worker{i}.log") for i in range(count)]
        workers = []
        try:
            for i, log in enumerate(logs):
                with on_core(cores[i]), log.open("wb") as file:
                    workers.append(
                        subprocess.Popen(
                            command,
                            env=environment_of(i, hosts),
                            stdout=file,
                            stderr=subprocess.STDOUT,
                        )
                    )
            wait_for(workers, logs)
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()
        return json.loads(out.read_text())


def wait_for(workers: Sequence[subprocess.Popen], logs: Sequence[Path]) -> None:
    """Raises RuntimeError as soon as one fails, for which the others would wait."""
    while any(worker.poll() is None for worker in workers):
        time.sleep(0.5)
        for worker, log in zip(workers, logs, strict=True):
            if worker.poll():
                raise RuntimeError(f"a worker failed:\n{log.read_text()[-4000:]}")


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """(median, least, largest)."""
    return statistics.median(values), min(values), max(values)


def row_of(method: str, count: int, found: Sequence[dict]) -> dict:
    """A row of the table, of all repeats of so many workers."""
    seconds = {
        name: [s for one in found for s in one["seconds"].get(name, [0.0])]
        for name in ("loop", "waited", "making", "step", "attack", "communication")
    }
    median = {name: statistics.median(values) for name, values in seconds.items()}
    images = count * BATCH_SIZE.value
    part = {
        "input": median["loop"] - median["step"],
        "attack": median["attack"],
        "update": median["step"] - median["attack"] - median["communication"],
        "communication": median["communication"],
    }
    rate = spread([images / s for s in seconds["loop"]])
    return {
        "method": method,
        "workers": count,
        **dict(
            zip(("images_per_second", "rate_least", "rate_most"), rate, strict=True)
        ),
        **{f"{name}_seconds": value for name, value in median.items()},
        **{f"{name}_share": value / median["loop"] for name, value in part.items()},
        **{key: found[0][key] for key in ("gradient_bytes", "bytes", "calls")},
    }


def efficiency(alone: Sequence[dict], together: Sequence[dict], count: int) -> dict:
    """Throughput per worker over that of one alone: of medians, and by repeat.

    Of each repeat it is the time of the loop alone over that together.
    """

    def loop(found):
        return statistics.median(s for one in found for s in one["seconds"]["loop"])

    ratios = [loop([a]) / loop([b]) for a, b in zip(alone, together, strict=True)]
    return {
        "efficiency": loop(alone) / loop(together),
        "efficiency_least": min(ratios),
        "efficiency_most": max(ratios),
    }


def on_cpu() -> tuple[list[dict], dict]:
    """Rows, and all that the workers found, by method, workers and repeat."""
    counts = (1, WORKERS.value)
    found = {method: {count: [] for count in counts} for method in CHOSEN.value}
    for i in range(REPEATS.value):
        for method, of_method in found.items():
            for count, repeats in of_method.items():
                print(f"repeat {i + 1}, {method}, workers {count}", flush=True)
                repeats.append(run_workers(method, count))
    rows = []
    for method, of_method in found.items():
        for count, repeats in of_method.items():
            row = row_of(method, count, repeats)
            rows.append(row | efficiency(of_method[1], repeats, count))
    return rows, found


def on_gpu(precision: str, batch_size: int) -> dict:
    """A row of the GPU's table: bin/train for some epochs, by its metrics.csv."""
    with tempfile.TemporaryDirectory() as folder:
        params = [
            *("NAME = 'scaling'", "EPOCHS = 4", f"BATCH_SIZE = {batch_size}"),
            *(f"Trainer.precision = '{precision}'", "strategy.devices = ['GPU:0']"),
            *GIN_PARAM.value,
        ]
        command = [
            *(sys.executable, "-m", "tfssl.cli.train", f"--run_dir={folder}/run"),
            *(f"--gin_file={file}" for file in [*ADVERSARIAL, DATA.value]),
            *(f"--gin_param={param}" for param in params),
        ]
        subprocess.run(command, check=True)
        with Path(folder, "run", "metrics.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
    # The first epoch has the tracing of graphs in it.
    rate = spread([float(row["images_per_second"]) for row in rows[1:]])
    names = ("images_per_second", "rate_least", "rate_most")
    return {
        "precision": precision,
        "batch_size": batch_size,
        **dict(zip(names, rate, strict=True)),
    }


def cells(*values: object) -> str:
    return f"| {' | '.join(map(str, values))} |"


def with_range(row: dict, name: str, least: str, most: str, digits: int) -> str:
    low, high = f"{row[least]:.{digits}f}", f"{row[most]:.{digits}f}"
    return f"{row[name]:.{digits}f} ({low} to {high})"


def tables(rows: Sequence[dict], gpu_rows: Sequence[dict], facts: dict) -> str:
    """All in Markdown, and what is to be said of it."""
    lines = []
    if rows:
        lines += throughput(rows) + parts(rows) + volume(rows)
    if gpu_rows:
        lines += [
            *("Training on a GPU, PGD-10, ResNet-18; median (least to most):", ""),
            cells("precision", "batch", "images/s"),
            "|---|---:|---:|",
        ]
        for row in gpu_rows:
            rate = with_range(row, "images_per_second", "rate_least", "rate_most", 0)
            lines.append(cells(row["precision"], row["batch_size"], rate))
        lines.append("")
    hardware = facts["hardware"]
    versions = ", ".join(f"{k} {v}" for k, v in facts["packages"].items() if v)
    load = "load {:.2f} before, {:.2f} after".format(
        facts["load_before"][0], facts["load_after"][0]
    )
    gpus = ", ".join(hardware["gpus"])
    machine = f"{hardware['cpu']}, {hardware['cores']} cores{gpus and ', '}{gpus}"
    return "\n".join([*lines, f"{machine}; {load}", "", versions, ""])


def throughput(rows: Sequence[dict]) -> list[str]:
    lines = [
        f"{BATCH_SIZE.value} images per worker and step, one core per worker;"
        " median (least to most):",
        "",
        cells("method", "workers", "images/s", "efficiency"),
        "|---|---:|---:|---:|",
    ]
    for row in rows:
        rate = with_range(row, "images_per_second", "rate_least", "rate_most", 1)
        gain = ("efficiency", "efficiency_least", "efficiency_most")
        ratio = with_range(row, *gain, 2) if row["workers"] > 1 else ""
        lines.append(cells(row["method"], row["workers"], rate, ratio))
    return [*lines, ""]


def parts(rows: Sequence[dict]) -> list[str]:
    lines = [
        "Where the time goes: shares of the loop's, and what was measured beside it:",
        "",
        cells("method", "workers", "loop, ms", *PARTS, "making, ms", "waited, ms"),
        "|---|" + "---:|" * 8,
    ]
    for row in rows:
        shares = [f"{100 * row[f'{part}_share']:.1f} %" for part in PARTS]
        loop, making, waited = (
            f"{1000 * row[f'{name}_seconds']:.1f}"
            for name in ("loop", "making", "waited")
        )
        lines.append(
            cells(row["method"], row["workers"], loop, *shares, making, waited)
        )
    return [*lines, ""]


def volume(rows: Sequence[dict]) -> list[str]:
    lines = [
        "What each worker has to tell the others in a step:",
        "",
        cells("method", "gradients, MB", "all, MB", "collective operations"),
        "|---|---:|---:|---:|",
    ]
    for row in rows:
        if row["workers"] > 1:
            sizes = (f"{row[name] / 1e6:.3f}" for name in ("gradient_bytes", "bytes"))
            lines.append(cells(row["method"], *sizes, row["calls"]))
    return [*lines, ""]


def write_csv(path: Path, rows: Sequence[dict]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def main(_: list[str]) -> None:
    """Measures, prints and writes."""
    for method in CHOSEN.value:
        if method not in METHODS:
            raise app.UsageError(f"{method} is none of {', '.join(METHODS)}")
    if not GPU.value and WORKERS.value > len(os.sched_getaffinity(0)):
        raise app.UsageError("each worker needs a core of its own")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # And end the workers.
    folder = Path(OUTPUT_DIR.value)
    folder.mkdir(parents=True, exist_ok=True)
    facts = manifest.environment() | {"load_before": os.getloadavg()}
    names = ("methods", "workers", "batch_size", "steps", "rounds", "repeats", "data")
    names += ("gin_param", "precisions", "gpu_batch_sizes")
    facts["flags"] = {name: flags.FLAGS[name].value for name in names}
    rows, found, gpu_rows = [], {}, []
    if not GPU.value:
        rows, found = on_cpu()
        write_csv(folder / "scaling.csv", rows)
    if GPU.value or (GPU.value is None and tf.config.list_physical_devices("GPU")):
        for precision in PRECISIONS.value:
            gpu_rows += [on_gpu(precision, int(b)) for b in GPU_BATCH_SIZES.value]
        write_csv(folder / "scaling_gpu.csv", gpu_rows)
    facts["load_after"] = os.getloadavg()
    text = tables(rows, gpu_rows, facts)
    print(text)
    (folder / "scaling.md").write_text(text)
    everything = {"rows": rows, "gpu_rows": gpu_rows, "found": found, **facts}
    (folder / "scaling.json").write_text(json.dumps(everything, indent=2) + "\n")


if __name__ == "__main__":
    app.run(main)
