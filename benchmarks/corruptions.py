"""Speed of the 19 corruptions: against the package imagecorruptions.

  python benchmarks/corruptions.py --output_dir /tmp/benchmark

Images of 32 x 32 and 224 x 224 pixels with the constants of ImageNet-C, which are the
only ones of imagecorruptions, and with its pictures of frost. tfssl gets a batch,
imagecorruptions one image after the other, as its users call it.

Images per second are counted by the clock (`speedup`), and of processor time
(`speedup_per_core`), which other programs on the machine disturb less and which does
not count for tfssl that it uses all threads. The contestants take turns, round after
round, and medians are compared; a first call, in which TensorFlow traces its graphs, is
not among them. What fails is listed with the reason:

  pip install imagecorruptions scikit-image 'setuptools<81'

How much each changes the images on average (in levels of 255) is written beside, and
should agree, but for the elastic transform, of which imagecorruptions has its own
constants, and frost, whose pictures it enlarges.
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

import corruption_peer
import cv2
import gin
import machine
import numpy as np
import tensorflow as tf
from absl import app, flags, logging

from tfssl import config, randomness
from tfssl.data.corruptions.corruption import Corruption

SIZES = flags.DEFINE_list("sizes", ["32", "224"], "Sides of the images.")
IMAGES = flags.DEFINE_list("images", ["256", "16"], "Of each size, the batch of tfssl.")
SEVERITY = flags.DEFINE_integer("severity", 3, "Of all corruptions.", 1, 5)
NAMES = flags.DEFINE_list("names", [], "Of the corruptions; all if not given.")
ROUNDS = flags.DEFINE_integer("rounds", 5, "Timed runs of everything.", 1)
OUTPUT_DIR = flags.DEFINE_string(
    "output_dir", None, "Where corruptions.csv and corruptions.json go.", required=True
)

Corrupt = Callable[[np.ndarray], np.ndarray]


@gin.configurable(module="benchmarks")
def load(corruptions: list[Corruption]) -> list[Corruption]:
    """What a gin file sets CORRUPTIONS to."""
    return corruptions


def smooth_images(n: int, size: int) -> np.ndarray:
    """[n, size, size, 3] uint8: coloured clouds, with something for each corruption."""
    rng = np.random.default_rng(0)
    clouds = rng.random((n, 5, 5, 3), np.float32)
    clouds = tf.image.resize(clouds, (size, size), "bicubic").numpy()
    return np.uint8(255 * clouds.clip(0, 1))


def by_tfssl(corruption: Corruption, n: int) -> Corrupt:
    seeds = randomness.example_seeds(0, 0, tf.range(n))

    @tf.function(autograph=False)
    def corrupt(images):
        return corruption(tf.cast(images, tf.float32) / 255, seeds, SEVERITY.value)

    return lambda images: 255 * corrupt(images).numpy()


def by_peer(name: str) -> Corrupt:
    corrupt = corruption_peer.load()
    return lambda images: np.stack([corrupt(x, name, SEVERITY.value) for x in images])


def measure(corruption: Corruption, images: np.ndarray) -> tuple[dict, dict]:
    """A row of the table, and seconds (by the clock, of the processor) by round."""
    name, n = corruption.name, len(images)
    row = {"corruption": name, "size": images.shape[1], "reason": ""}
    contestants = {"tfssl": by_tfssl(corruption, n)}
    try:
        contestants["imagecorruptions"] = by_peer(name)
        contestants["imagecorruptions"](images[:1])
    except Exception as error:  # A peer may fail in any way.
        contestants.pop("imagecorruptions", None)
        row["reason"] = f"{type(error).__name__}: {' '.join(str(error).split())}"
        logging.warning("%s: %.300s", name, row["reason"])

    seconds: dict[str, list[tuple[float, float]]] = {key: [] for key in contestants}
    for number in range(ROUNDS.value + 1):
        for key, corrupt in contestants.items():
            since = np.array([time.perf_counter(), time.process_time()])
            result = corrupt(images)
            spent = [time.perf_counter(), time.process_time()] - since
            if number:
                seconds[key].append(tuple(spent.tolist()))
            else:
                change = np.abs(result.astype(np.float32) - images)
                row[f"change_{key}"] = float(change.mean())
    for place, ending in enumerate(("", "_per_core")):
        for key, rounds in seconds.items():
            median = statistics.median(spent[place] for spent in rounds)
            row[f"images_per_second{ending}_{key}"] = n / median
        if "imagecorruptions" in seconds:
            row[f"speedup{ending}"] = (
                row[f"images_per_second{ending}_tfssl"]
                / row[f"images_per_second{ending}_imagecorruptions"]
            )
    return row, seconds


def main(argv: list[str]) -> None:
    machine.set_up()
    cv2.setNumThreads(machine.THREADS.value)
    folder = Path(OUTPUT_DIR.value)
    folder.mkdir(parents=True, exist_ok=True)
    facts = machine.environment(
        ("sizes", "images", "severity", "names", "rounds"),
        ("imagecorruptions", "opencv-python-headless", "pillow", "scikit-image"),
    )
    config.parse(["corruptions/imagenet.gin"], ["load.corruptions = %CORRUPTIONS"])
    rows, rounds = [], {}
    for size, n in zip(SIZES.value, IMAGES.value, strict=True):
        images = smooth_images(int(n), int(size))
        for corruption in load():
            if NAMES.value and corruption.name not in NAMES.value:
                continue
            row, rounds[f"{corruption.name}/{size}"] = measure(corruption, images)
            rows.append(row)
            shown = [
                f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()
            ]
            print("  ".join(shown), flush=True)
    for size in SIZES.value:
        for kind in ("speedup", "speedup_per_core"):
            found = [r[kind] for r in rows if kind in r and r["size"] == int(size)]
            if found:
                middle, least = statistics.median(found), min(found)
                print(f"{size}: {kind} median {middle:.3g}, least {least:.3g}")
    facts["load_after"] = os.getloadavg()
    (folder / "corruptions.json").write_text(
        json.dumps({"rows": rows, "rounds": rounds, **facts}, indent=2) + "\n"
    )
    with (folder / "corruptions.csv").open("w", newline="") as file:
        fields = list(dict.fromkeys(key for row in rows for key in row))
        writer = csv.DictWriter(file, fields, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    app.run(main)
