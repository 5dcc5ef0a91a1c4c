"""Speed of the views that self-supervised methods compare: against other libraries.

  python benchmarks/views.py --output_dir /tmp/benchmark --threads 1

All views of 32 x 32 images in the recipes of gin/views/, by tfssl, torchvision,
albumentations and Keras' layers; `view_peers.py` says how each is set. torchvision and
albumentations get uint8, as their users give them, and all return float32.

What is compared is images with all their views per second of processor time, so that
other programs on the machine disturb less. The contestants take turns, round after
round, and medians are compared; a first call, in which TensorFlow traces its graphs, is
not among them. What is not installed or fails is listed with the reason:

  pip install torchvision albumentations

That torchvision does the same work is checked: brightness and contrast of its views
must be those of tfssl's on average. Of the others they are written beside.
"""

from __future__ import annotations

import csv
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import gin
import machine
import numpy as np
import tensorflow as tf
import view_peers
from absl import app, flags, logging

from tfssl import config, randomness
from tfssl.data.views import Views

RECIPES = flags.DEFINE_list(
    "recipes", ["simclr", "simsiam", "byol", "swav_multicrop"], "Files of gin/views/."
)
IMAGES = flags.DEFINE_integer("images", 512, "Images per run.", 1)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 128, "Of tfssl and of Keras.", 1)
ROUNDS = flags.DEFINE_integer("rounds", 7, "Timed runs of everything.", 1)
OUTPUT_DIR = flags.DEFINE_string(
    "output_dir", None, "Where views.csv and views.json go.", required=True
)

ROUNDING = 0.005  # Of uint8, which Pillow cuts off after each operation.


@gin.configurable(module="benchmarks")
def load(views: Views) -> Views:
    """What a gin file sets VIEWS to."""
    return views


def smooth_images(n: int) -> np.ndarray:
    """[n, 32, 32, 3] uint8: coloured clouds, with something for each operation."""
    rng = np.random.default_rng(0)
    clouds = tf.image.resize(rng.random((n, 5, 5, 3), np.float32), (32, 32), "bicubic")
    return (255 * tf.clip_by_value(clouds, 0, 1)).numpy().astype(np.uint8)


def tfssl_views(views: Views) -> Callable[[np.ndarray], list]:
    """As the pipeline of a `Dataset` does it."""
    seeds = randomness.example_seeds(0, 0, tf.range(IMAGES.value))

    @tf.function(autograph=False)
    def make(images, seed):
        return list(views(tf.cast(images, tf.float32) / 255, seed).values())

    def batches(images):
        size = BATCH_SIZE.value
        return [
            group
            for i in range(0, len(images), size)
            for group in make(images[i : i + size], seeds[i : i + size])
        ]

    return batches


def keras_views(views: Views) -> Callable[[np.ndarray], list]:
    make, size = view_peers.keras_layers(views), BATCH_SIZE.value

    def batches(images):
        parts = (images[i : i + size] for i in range(0, len(images), size))
        return [view for part in parts for view in make(part)]

    return batches


MAKERS = {
    "tfssl": tfssl_views,
    "torchvision": view_peers.torchvision,
    "albumentations": view_peers.albumentations,
    "keras": keras_views,
}


def look(made: list) -> np.ndarray:
    """[n, 2], brightness and contrast (standard deviation) of the larger views."""
    large = [np.array(x) for x in made if x.shape[-2] == 32]
    values = np.concatenate([x.reshape(-1, 32 * 32 * 3) for x in large])
    return np.stack([values.mean(axis=1), values.std(axis=1)], axis=1)


def check(ours: np.ndarray, theirs: np.ndarray) -> None:
    """Raises AssertionError if brightness or contrast differ on average."""
    error = np.sqrt(ours.var(axis=0) / len(ours) + theirs.var(axis=0) / len(theirs))
    difference = np.abs(ours.mean(axis=0) - theirs.mean(axis=0))
    if np.any(difference > 4 * error + ROUNDING):
        raise AssertionError(f"not the same work: they differ by {difference}")


def measure(recipe: str, images: np.ndarray) -> tuple[list[dict], dict]:
    """Rows of the table, and the seconds of each contestant by round.

    Raises:
      AssertionError: torchvision's views look otherwise: the work is not the same.
    """
    config.parse([f"views/{recipe}.gin"], ["load.views = %VIEWS"])
    views = load()
    contestants, reasons, looks = {}, {}, {}
    for name, maker in MAKERS.items():
        try:
            make = maker(views)
            looks[name] = look(make(images))
            contestants[name] = make
        except Exception as error:  # A peer may fail in any way.
            if name == "tfssl":
                raise
            reasons[name] = f"{type(error).__name__}: {' '.join(str(error).split())}"
            logging.warning("%s: %.300s", name, reasons[name])
    if "torchvision" in looks:
        check(looks["tfssl"], looks["torchvision"])

    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(ROUNDS.value):
        for name, make in contestants.items():
            since = time.process_time()
            make(images)
            seconds[name].append(time.process_time() - since)
    median = {name: statistics.median(s) for name, s in seconds.items()}
    rows = []
    for name in MAKERS:
        row = {
            "recipe": recipe,
            "views": len(list(view_peers.recipes(views))),
            "library": name,
            "reason": reasons.get(name, ""),
        }
        if name in median:
            brightness, contrast = looks[name].mean(axis=0)
            row |= {
                "images_per_second": len(images) / median[name],
                "speedup_of_tfssl": median[name] / median["tfssl"],
                "brightness": float(brightness),
                "contrast": float(contrast),
            }
        rows.append(row)
    return rows, seconds


def main(argv: list[str]) -> None:
    machine.set_up()
    folder = Path(OUTPUT_DIR.value)
    folder.mkdir(parents=True, exist_ok=True)
    facts = machine.environment(
        ("recipes", "images", "batch_size", "rounds"),
        ("torchvision", "albumentations", "opencv-python-headless", "pillow"),
    )
    images = smooth_images(IMAGES.value)
    rows, rounds = [], {}
    for recipe in RECIPES.value:
        measured, rounds[recipe] = measure(recipe, images)
        rows += measured
        for row in measured:
            shown = [
                f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()
            ]
            print("  ".join(shown), flush=True)
    facts["load_after"] = os.getloadavg()
    (folder / "views.json").write_text(
        json.dumps({"rows": rows, "rounds": rounds, **facts}, indent=2) + "\n"
    )
    with (folder / "views.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    app.run(main)
