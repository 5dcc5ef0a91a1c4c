"""AutoAttack by its authors (pyautoattack), stage by stage, beside tfssl's.

  bin/evaluate --run_dir RUN --gin_file evaluation/autoattack_linf.gin \
    --gin_param evaluate.examples=1000
  python benchmarks/autoattack_stages.py --run_dir RUN --output_dir /tmp/stages \
    --examples 1000

Version 'standard' on the run's ResNet-18, ported to PyTorch, and the first test images
of CIFAR-10; after each attack, what is left standing, and for tfssl what its evaluation
of these images, or of more, has found. Each attack gets what those before have left,
from the clean images. What the authors' attacks find is judged by the Keras model.

A stage that is in the output folder already is not run again.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import machine
import numpy as np
import tensorflow as tf
import torch
from absl import app, flags
from pytorch_resnet import to_torch
from trained import cifar10, port

from tfssl.evaluation.classifier import Classifier
from tfssl.types import fraction

STAGES = ("apgd-ce", "apgd-t", "fab-t", "square")

RUN_DIR = flags.DEFINE_string("run_dir", None, "Of a trained run.", required=True)
OUTPUT_DIR = flags.DEFINE_string(
    "output_dir", None, "Where stages_<ball>.json and the flags go.", required=True
)
BALL = flags.DEFINE_enum("ball", "linf", ["linf", "l2"], "The ball.")
EPSILON = flags.DEFINE_string("epsilon", None, "8/255 for linf, 0.5 for l2 if None.")
EXAMPLES = flags.DEFINE_integer("examples", 1000, "The first so many test images.", 1)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 250, "Images at a time.", 1)
SEED = flags.DEFINE_integer("seed", 0, "Of the authors' attacks.")


def run_stage(
    stage: str,
    network: torch.nn.Module,
    classifier: Classifier,
    image: np.ndarray,
    label: np.ndarray,
    epsilon: float,
) -> np.ndarray:
    """[n] bool, which of the images withstand one attack of the authors'."""
    from pyautoattack import AutoAttack

    norm = {"linf": "Linf", "l2": "L2"}[BALL.value]
    attack = AutoAttack(
        network, norm=norm, eps=epsilon, version="standard", seed=SEED.value
    )
    attack.attacks_to_run = [stage]
    found, *_ = attack.run_standard_evaluation(
        to_torch(image), torch.from_numpy(label).long(), batch_size=BATCH_SIZE.value
    )
    found = np.moveaxis(found.numpy(), 1, -1)
    delta = (found - image).reshape(len(image), -1)
    reach = np.linalg.norm(delta, {"linf": np.inf, "l2": 2}[BALL.value], axis=1)
    if not reach.max() <= epsilon + 1e-5:
        raise AssertionError(f"{stage} left the ball: {reach.max()}")
    return right(classifier, found, label)


def right(classifier: Classifier, image: np.ndarray, label: np.ndarray) -> np.ndarray:
    parts = range(0, len(image), BATCH_SIZE.value)
    logits = [classifier.logits(image[i : i + BATCH_SIZE.value]) for i in parts]
    return np.argmax(np.concatenate(logits), -1) == label


def ours(stage: str, epsilon: float) -> float | None:
    """What tfssl's evaluation of the run has found; None if there is none."""
    cell = "clean" if stage == "clean" else f"epsilon_{epsilon!r}_{stage}"
    folder = Path(RUN_DIR.value, "results", f"autoattack_{BALL.value}")
    path = folder / f"{cell.replace('-', '_')}.npz"
    if not path.exists():
        return None
    with np.load(path) as outcome:
        correct = outcome["correct"][: EXAMPLES.value]
    return float(correct.mean()) if len(correct) == EXAMPLES.value else None


def main(argv: list[str]) -> None:
    machine.set_up()
    folder = Path(OUTPUT_DIR.value)
    folder.mkdir(parents=True, exist_ok=True)
    epsilon = fraction(EPSILON.value or {"linf": "8/255", "l2": 0.5}[BALL.value])
    names = ("run_dir", "ball", "epsilon", "examples", "batch_size", "seed")
    facts = machine.environment(names, ["pyautoattack"])
    facts.pop("load_before")

    classifier = Classifier.load(Path(RUN_DIR.value, "model.keras"))
    image, label = cifar10(classifier, EXAMPLES.value)
    network, difference = port(classifier, image)

    path = folder / f"stages_{BALL.value}.json"
    settings = {"flags": facts["flags"], "logits_differ_by": difference}
    found = json.loads(path.read_text()) if path.exists() else {"stages": {}} | settings
    if {k: found[k] for k in settings} != settings:
        raise SystemExit(f"{path} was measured with other settings: {found['flags']}")
    standing = right(classifier, image, label)
    rows = [("clean", float(standing.mean()), None)]
    for stage in STAGES:
        known = found["stages"].get(stage)
        if known is None:
            since = time.perf_counter()
            rest = standing.copy()
            if rest.any():
                rest[standing] = run_stage(
                    *(stage, network, classifier),
                    *(image[standing], label[standing], epsilon),
                )
            known = {
                "standing": np.flatnonzero(rest).tolist(),
                "seconds": time.perf_counter() - since,
            }
            found["stages"][stage] = known
            path.write_text(json.dumps(facts | found) + "\n")
        standing = np.isin(np.arange(len(label)), known["standing"])
        rows.append((stage, float(standing.mean()), known["seconds"]))

    print("| after | authors' code, % | seconds | tfssl, % |\n|---|---:|---:|---:|")
    for stage, accuracy, seconds in rows:
        mine = ours(stage, epsilon)
        mine = "" if mine is None else f"{100 * mine:.1f}"
        seconds = "" if seconds is None else f"{seconds:.0f}"
        print(f"| {stage} | {100 * accuracy:.1f} | {seconds} | {mine} |")


if __name__ == "__main__":
    tf.get_logger().setLevel("ERROR")
    app.run(main)
