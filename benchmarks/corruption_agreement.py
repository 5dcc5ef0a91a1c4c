"""Do the 19 corruptions agree with those of the package imagecorruptions?

  pip install imagecorruptions scikit-image 'setuptools<81'
  python benchmarks/corruption_agreement.py --output_dir /tmp/agreement \
    --model runs/supervised/model.keras

On the first test images of CIFAR-10, with the constants of ImageNet-C, which are the
only ones of imagecorruptions, and with its pictures of frost. For each corruption and
severity: how much it changes the images on average (in levels of 255), how much their
changes spread (the deviation of a change within an image, averaged over images), and
how many of them a network gets right. `z` is how far apart the two are, in standard
errors of the mean over images of their difference: random corruptions should lie
within 3, and those without randomness at 0. The last column is the share of levels
that are not the same.

imagecorruptions differs from the original scripts on purpose or by accident: it has its
own constants of the elastic transform, scales the pictures of frost, and cuts flakes of
snow out of the upper left corner of the enlarged layer instead of its centre, which
shows at severity 4 on small images.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path

import corruption_peer
import gin
import machine
import numpy as np
import tensorflow as tf
from absl import app, flags

from tfssl import config
from tfssl.data.corruptions.corruption import SEVERITIES, Corruption
from tfssl.data.dataset import Dataset
from tfssl.evaluation.classifier import Classifier

MODEL = flags.DEFINE_string("model", None, "A .keras file.", required=True)
EXAMPLES = flags.DEFINE_integer("examples", 500, "The first so many test images.", 2)
NAMES = flags.DEFINE_list("names", [], "Of the corruptions; all if not given.")
SEED = flags.DEFINE_integer("seed", 0, "Of both.")
OUTPUT_DIR = flags.DEFINE_string(
    "output_dir", None, "Where agreement.csv and agreement.json go.", required=True
)


@gin.configurable(module="benchmarks")
def load(corruptions: list[Corruption]) -> list[Corruption]:
    """What a gin file sets CORRUPTIONS to."""
    return corruptions


def first_images(n: int) -> dict[str, np.ndarray]:
    """A batch of CIFAR-10's first n test images."""
    dataset = Dataset("cifar10:3.0.2")
    keep = np.arange(dataset.size("test")) < n
    return next(dataset.eval_batches("test", n, SEED.value, keep).as_numpy_iterator())


def compare(
    corruption: Corruption,
    severity: int,
    batch: dict[str, np.ndarray],
    classifier: Classifier,
) -> dict:
    """A row of the table."""
    clean = np.round(255 * batch["image"]).astype(np.uint8)
    peer = corruption_peer.load()
    np.random.seed(SEED.value)
    theirs = np.stack([peer(x, corruption.name, severity) for x in clean])
    ours = np.round(255 * corruption.of(batch, severity).numpy())
    row = {"corruption": corruption.name, "severity": severity}
    measured = {}
    for key, images in (("tfssl", ours), ("peer", theirs.astype(np.float32))):
        change = images - clean
        logits = classifier.logits(tf.constant(images / 255, tf.float32)).numpy()
        measured[key] = {
            "change": np.abs(change).mean((1, 2, 3)),
            "spread": change.std((1, 2, 3)),
            "accuracy": 100.0 * (logits.argmax(1) == batch["label"]),
        }
    for name in ("change", "spread", "accuracy"):
        difference = measured["tfssl"][name] - measured["peer"][name]
        error = difference.std(ddof=1) / len(difference) ** 0.5
        for key, values in measured.items():
            row[f"{name}_{key}"] = float(values[name].mean())
        row[f"{name}_z"] = float(difference.mean() / error) if error else 0.0
    row["levels_unlike"] = float(np.mean(ours != theirs))
    return row


def main(argv: list[str]) -> None:
    machine.set_up()
    folder = Path(OUTPUT_DIR.value)
    folder.mkdir(parents=True, exist_ok=True)
    facts = machine.environment(
        ("examples", "names", "seed"), ("imagecorruptions", "scikit-image", "pillow")
    )
    config.parse(["corruptions/imagenet.gin"], ["load.corruptions = %CORRUPTIONS"])
    classifier = Classifier.load(MODEL.value)
    batch = first_images(EXAMPLES.value)
    corruptions = {corruption.name: corruption for corruption in load()}
    rows = []
    for name in NAMES.value or corruptions:
        for severity in SEVERITIES:
            rows.append(compare(corruptions[name], severity, batch, classifier))
            shown = [
                f"{v:.4g}" if isinstance(v, float) else str(v)
                for v in rows[-1].values()
            ]
            print("  ".join(shown), flush=True)
    facts["rows"] = rows
    (folder / "agreement.json").write_text(json.dumps(facts, indent=2) + "\n")
    with (folder / "agreement.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    app.run(main)
