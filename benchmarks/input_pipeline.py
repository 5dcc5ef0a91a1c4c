"""Does the input pipeline keep up? Its cost beside that of the training step.

  python benchmarks/input_pipeline.py --output_dir /tmp/benchmark --threads 1

For each recipe of gin/papers/ at the size of scales/ssl_small.gin (CIFAR-10, a slim
ResNet-18): processor time of a batch as `Dataset.train_batches` makes it (images in
memory, shuffled, views), and of a training step on a batch that is there already. The
two take turns, round after round, and medians are compared.
"""

from __future__ import annotations

import csv
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import gin
import keras
import machine
import tensorflow as tf
from absl import app, flags

from tfssl import config
from tfssl.training.trainer import Trainer

RECIPES = flags.DEFINE_list(
    "recipes",
    ["chen2020/simclr_cifar10", "chen2021/simsiam_cifar10", "grill2020/byol_cifar10"],
    "Files of gin/papers/.",
)
BATCHES = flags.DEFINE_integer("batches", 10, "In a timed run.", 1)
ROUNDS = flags.DEFINE_integer("rounds", 5, "Timed runs of both.", 1)
OUTPUT_DIR = flags.DEFINE_string(
    "output_dir", None, "Where input_pipeline.csv and .json go.", required=True
)


@gin.configurable(module="benchmarks")
def load(**parts: Any) -> dict[str, Any]:
    """What a gin file sets the macros to, as `tfssl.training.loop.train` takes it."""
    return parts


MACROS = ("dataset", "augment", "views", "backbone", "terms", "attack", "optimizer")


def contestants(recipe: str) -> tuple[dict[str, Callable[[], float]], int]:
    """Calls that make `BATCHES` batches or steps each, and the images of a batch."""
    files = [f"papers/{recipe}.gin", "scales/ssl_small.gin"]
    names = [*MACROS, "batch_size"]
    config.parse(files, [f"load.{name} = %{name.upper()}" for name in names])
    parts = load()
    dataset, size = parts["dataset"], parts["batch_size"]
    keras.utils.set_random_seed(0)
    trainer = Trainer(
        parts["backbone"](dataset.image_shape),
        *(dataset.num_classes, parts["terms"], parts["attack"]),
    )
    trainer.last_step = 1000
    trainer.compile(optimizer=parts["optimizer"](learning_rate=1e-3))
    train_step = tf.function(trainer.train_step, autograph=False)
    data = dataset.train_batches(size, 0, 0, parts["augment"], parts["views"])
    batch = next(iter(data))

    def pipeline() -> float:
        # An iterator of its own, lest it fill its buffers while steps are timed.
        batches = iter(data)
        for _ in range(BATCHES.value):
            next(batches)
        since = time.process_time()
        for _ in range(BATCHES.value):
            next(batches)
        return time.process_time() - since

    def step() -> float:
        since = time.process_time()
        for _ in range(BATCHES.value):
            train_step(batch)
        return time.process_time() - since

    return {"pipeline": pipeline, "step": step}, size


def measure(recipe: str) -> tuple[dict, dict]:
    """A row of the table, and the seconds of both by round."""
    calls, size = contestants(recipe)
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for i in range(ROUNDS.value + 1):
        for name, call in calls.items():
            taken = call()
            if i:  # The first traces graphs.
                seconds[name].append(taken)
    rate = {
        name: BATCHES.value * size / statistics.median(values)
        for name, values in seconds.items()
    }
    row = {
        "recipe": recipe,
        "pipeline_images_per_second": rate["pipeline"],
        "step_images_per_second": rate["step"],
        "ratio": rate["pipeline"] / rate["step"],
    }
    return row, seconds


def main(argv: list[str]) -> None:
    machine.set_up()
    folder = Path(OUTPUT_DIR.value)
    folder.mkdir(parents=True, exist_ok=True)
    facts = machine.environment(("recipes", "batches", "rounds"))
    rows, rounds = [], {}
    for recipe in RECIPES.value:
        row, rounds[recipe] = measure(recipe)
        rows.append(row)
        shown = [f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()]
        print("  ".join(shown), flush=True)
    facts["load_after"] = os.getloadavg()
    (folder / "input_pipeline.json").write_text(
        json.dumps({"rows": rows, "rounds": rounds, **facts}, indent=2) + "\n"
    )
    with (folder / "input_pipeline.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    app.run(main)
