"""Strength of training's attack in shorter floats, judged in float32.

  python benchmarks/attack_precision.py --model model.keras

PGD-10 in a linf ball of 8/255 with steps of 2/255, on test images of CIFAR-10, with
gradients of the network in float32, bfloat16 and float16, and in float16 without the
scale that each image's gradient has there. `--logits 4` multiplies the logits, so that
the network is surer of itself: the gradients of its loss are smaller.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # As tfssl's programs.

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

from tfssl import randomness, saved
from tfssl.attacks.balls import Linf
from tfssl.attacks.pgd import PGD
from tfssl.data.dataset import Dataset
from tfssl.evaluation.classifier import Classifier
from tfssl.losses import classification
from tfssl.training import network

MODEL = flags.DEFINE_string("model", None, "A .keras file.", required=True)
N = flags.DEFINE_integer("n", 1000, "Test images.", 1)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 100, "Images at a time.", 1)
LOGITS = flags.DEFINE_float("logits", 1.0, "Their factor.", 0.0)

ATTACK = PGD(Linf(), "8/255", steps=10, step_size="2/255")


def attacked(
    function: network.Network,
    head: keras.layers.Dense,
    image: np.ndarray,
    label: np.ndarray,
) -> np.ndarray:
    """What the attack makes of images [n, h, w, c]."""

    @tf.function(autograph=False)
    def of_batch(image, label, seed):
        backbone = function.for_attack(training=False, whole=True)

        def loss(x):
            logits = LOGITS.value * head(backbone(x, training=False))
            return classification.cross_entropy(label, logits)

        return ATTACK(loss, image, seed)

    seed = randomness.example_seeds(0, 0, np.arange(len(image)))
    found = []
    for i in range(0, len(image), BATCH_SIZE.value):
        part = slice(i, i + BATCH_SIZE.value)
        found.append(of_batch(image[part], label[part], seed[part]))
    return np.concatenate(found)


def main(_: list[str]) -> None:
    """Prints a table."""
    model = saved.load(MODEL.value)
    classifier = Classifier(model)
    dataset = Dataset("cifar10:3.0.2")
    keep = np.arange(dataset.size("test")) < N.value
    batches = dataset.eval_batches("test", N.value, 0, keep)
    batch = next(batches.as_numpy_iterator())
    image, label = batch["image"], batch["label"]
    backbone = saved.features(model, MODEL.value)
    head = model.get_layer("logits")
    functions = {name: network.Network(backbone, name) for name in network.PRECISIONS}

    def right(image: np.ndarray) -> np.ndarray:
        logits = [
            classifier.logits(image[i : i + BATCH_SIZE.value])
            for i in range(0, len(image), BATCH_SIZE.value)
        ]
        return np.argmax(np.concatenate(logits), 1) == label

    print(f"clean {100 * right(image).mean():.1f} %")
    print("| gradients in | accuracy | more than in float32 |\n|---|---:|---:|")
    results = {}
    for name, function in functions.items():
        results[name] = right(attacked(function, head, image, label))
    scaled, network._scaled = network._scaled, lambda plain: plain
    name = "float16, not scaled"
    results[name] = right(attacked(functions["float16"], head, image, label))
    network._scaled = scaled
    for name, found in results.items():
        more = 100 * (found.astype(float) - results["float32"])
        half = 1.96 * more.std(ddof=1) / np.sqrt(len(more))
        print(
            f"| {name} | {100 * found.mean():.1f} | {more.mean():+.1f}"
            f" [{more.mean() - half:+.1f}, {more.mean() + half:+.1f}] |"
        )


if __name__ == "__main__":
    app.run(main)
