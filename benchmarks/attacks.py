"""Speed and strength of the attacks: against those of other libraries.

  python benchmarks/attacks.py --model model.keras --output_dir /tmp/benchmark

FGSM, PGD, APGD-CE, Square and AutoAttack on a trained ResNet-18 with the CIFAR stem and
the first test images of CIFAR-10, by tfssl, torchattacks, foolbox, ART, cleverhans and
the authors' own code of AutoAttack (pyautoattack). PyTorch gets the same weights, in
channels last, and no gradients of them are asked for; TensorFlow peers get the network
as a graph. It is checked that both frameworks compute the same logits.

All attack the same images, those that the network gets right, in the same batches, on
equally many threads, with the same budget: gradients, queries, restarts. Where an
attack of a library runs on both frameworks, both are measured. The peers' word is not
taken: an image counts as broken if the Keras model classifies it wrong and it lies in
the ball and in [0, 1], up to 1e-5.

The contestants take turns, round after round, and medians are compared. Their first
call, in which TensorFlow traces its graphs, is not among them and has a column of its
own: it is on the same images, but for Square and AutoAttack, which take minutes, on two
that the network gets wrong anyway, so that it is next to nothing but the tracing.

`speedup` is the time of `rival` over tfssl's: the fastest peer that leaves at most half
a point more of the images standing.

What a user needs comes with the extra `benchmark`, but for torchattacks, which asks for
a release of requests of 2020 and never imports it:

  pip install --constraint constraints.txt --editable '.[benchmark]'
  pip install --no-deps torchattacks==3.5.1
"""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import attack_peers
import machine
import numpy as np
import tensorflow as tf
import torch
from absl import app, flags, logging
from attack_peers import Budget
from pytorch_resnet import to_torch
from trained import cifar10, port

from tfssl.attacks.apgd import APGD
from tfssl.attacks.balls import L2, Linf
from tfssl.attacks.fab import FAB
from tfssl.attacks.pgd import PGD
from tfssl.attacks.square import Square
from tfssl.evaluation.classifier import Classifier
from tfssl.types import fraction

ATTACKS = ("FGSM", "PGD", "APGD-CE", "Square", "AutoAttack")

MODEL = flags.DEFINE_string("model", None, "A model.keras.", required=True)
OUTPUT_DIR = flags.DEFINE_string(
    "output_dir", None, "Where attacks_<ball>.csv, .md and .json go.", required=True
)
BALL = flags.DEFINE_enum("ball", "linf", ["linf", "l2"], "The ball.")
EPSILON = flags.DEFINE_string(
    "epsilon", None, "Its radius; 8/255 for linf and 0.5 for l2 if not given."
)
EXAMPLES = flags.DEFINE_integer("examples", 200, "The first so many test images.", 2)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 250, "Images at a time.", 1)
CHOSEN = flags.DEFINE_multi_enum("attacks", ATTACKS, ATTACKS, "Some of them alone.")
PGD_STEPS = flags.DEFINE_integer("pgd_steps", 20, "Gradients of PGD.", 1)
APGD_STEPS = flags.DEFINE_integer("apgd_steps", 100, "Steps of APGD-CE.", 1)
QUERIES = flags.DEFINE_integer("queries", 1000, "Of Square.", 2)
ROUNDS = flags.DEFINE_integer("rounds", 3, "Timed runs of FGSM, PGD and APGD-CE.", 1)
LONG_ROUNDS = flags.DEFINE_integer("long_rounds", 1, "Of Square and AutoAttack.", 1)

OUTSIDE = 1e-5
EQUAL_STRENGTH = 0.005
PACKAGES = (
    *("torchattacks", "pyautoattack", "foolbox", "eagerpy"),
    *("adversarial-robustness-toolbox", "cleverhans"),
)


@dataclasses.dataclass
class Contestant:
    """An attack of a library on a framework, and what was seen of it.

    Attributes:
      make: Makes the attack, or raises the reason why there is none.
      seconds: Of each round.
      first_seconds: Of the first call.
      found: [n, h, w, c], what it made of the images in the last round.
      reason: Why there is no number.
    """

    library: str
    framework: str
    make: Callable[[], Callable[[Any, Any], Any]] | None = None
    seconds: list[float] = dataclasses.field(default_factory=list)
    first_seconds: float | None = None
    found: np.ndarray | None = None
    reason: str = ""
    run: Callable[[Any, Any], Any] | None = None

    def attempt(self, image: np.ndarray, label: np.ndarray) -> float | None:
        """The seconds that a run takes; None, and a reason, if it fails."""
        if self.reason:
            return None
        try:
            batches = [
                TENSORS[self.framework](image[i : i + BATCH_SIZE.value], part)
                for i in range(0, len(label), BATCH_SIZE.value)
                for part in [label[i : i + BATCH_SIZE.value]]
            ]
            # Not TensorFlow's, which would have it prepare all of its graphs anew.
            random.seed(0)
            np.random.seed(0)
            torch.manual_seed(0)
            since = time.perf_counter()
            self.run = self.run or self.make()
            found = [self.run(*batch) for batch in batches]
            seconds = time.perf_counter() - since
            self.found = np.concatenate([ARRAY[self.framework](x) for x in found])
            return seconds
        except Exception as error:  # A peer may fail in any way.
            self.reason = reason(error)
            return None


def reason(error: Exception) -> str:
    """In one line, of bounded length."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


TENSORS = {
    "PyTorch": lambda image, label: (to_torch(image), torch.from_numpy(label).long()),
    "TensorFlow": lambda image, label: (tf.constant(image), tf.constant(label)),
}
ARRAY = {
    "PyTorch": lambda image: np.moveaxis(image.detach().numpy(), 1, -1),
    "TensorFlow": lambda image: image.numpy(),
}


def tfssl(classifier: Classifier, budget: Budget) -> attack_peers.Attacks:
    ball = {"linf": Linf, "l2": L2}[budget.ball]()

    def graph(attack):
        def run(image, label):
            seed = tf.stack([tf.zeros_like(label), tf.range(tf.size(label))], axis=1)
            epsilon = tf.constant(budget.epsilon)
            return attack.perturb(classifier.search(), image, label, seed, epsilon)

        # Of any number of images: AutoAttack's shrinks from attack to attack.
        return tf.function(
            run,
            input_signature=[
                tf.TensorSpec([None, 32, 32, 3], tf.float32),
                tf.TensorSpec([None], tf.int32),
            ],
        )

    def fgsm():
        return graph(PGD(ball, steps=1, relative_step_size=1.0, random_start=False))

    def pgd():
        steps, size = budget.pgd_steps, budget.step_size
        return graph(PGD(ball, steps=steps, step_size=size, keep="best"))

    def autoattack():
        attacks = [
            graph(APGD(ball, "cross_entropy", steps=100)),
            graph(APGD(ball, "targeted_dlr", steps=100, targets=9)),
            graph(FAB(ball, steps=100, targets=9)),
            graph(Square(ball, queries=5000)),
        ]
        # Makes all ready, on an image that is wrong from the start and costs nothing.
        image = tf.zeros([1, 32, 32, 3])
        label = tf.argmax(classifier.logits(image), -1, tf.int32)
        for attack in attacks:
            attack(image, (label + 1) % 10)
        return cascade(classifier, attacks)

    return {
        "FGSM": fgsm,
        "PGD": pgd,
        "APGD-CE": lambda: graph(APGD(ball, steps=budget.apgd_steps)),
        "Square": lambda: graph(Square(ball, queries=budget.queries)),
        "AutoAttack": autoattack,
    }


def cascade(classifier: Classifier, attacks: list[Callable]) -> Callable:
    """One attack after another, each on what those before have left standing."""
    logits = tf.function(classifier.logits, reduce_retracing=True)

    def run(image, label):
        found = image
        standing = np.arange(len(label))
        for attack in attacks:
            if not len(standing):
                break
            rows, truth = tf.gather(image, standing), tf.gather(label, standing)
            attacked = attack(rows, truth)
            found = tf.tensor_scatter_nd_update(found, standing[:, None], attacked)
            standing = standing[np.argmax(logits(attacked), -1) == truth]
        return found

    return run


def contestants(
    attack: str, classifier: Classifier, network: torch.nn.Module, budget: Budget
) -> list[Contestant]:
    """Those that have the attack, or would if they were installed; tfssl first."""
    found = []
    entries = (("tfssl", "TensorFlow", tfssl), *attack_peers.PEERS)
    for library, framework, attacks_of in entries:
        subject = network if framework == "PyTorch" else classifier.logits
        if library == "tfssl":
            subject = classifier
        try:
            attacks = attacks_of(subject, budget)
        except Exception as error:  # Above all, it may not be installed.
            found.append(Contestant(library, framework, reason=reason(error)))
            continue
        if attack in attacks:
            found.append(Contestant(library, framework, attacks[attack]))
    return found


def judge(
    classifier: Classifier,
    image: np.ndarray,
    label: np.ndarray,
    found: np.ndarray,
    budget: Budget,
) -> tuple[np.ndarray, np.ndarray, float]:
    """[n] bool, what stands; [n] bool, what was left of the ball; the worst excess."""
    delta = (found.astype("float64") - image).reshape(len(image), -1)
    excess = np.linalg.norm(delta, budget.order, axis=1) - budget.epsilon
    beyond = np.maximum(found.max((1, 2, 3)) - 1, -found.min((1, 2, 3)))
    excess = np.maximum(excess, beyond)
    inside = excess <= OUTSIDE  # NaN is not inside.
    right = np.argmax(classifier.logits(found), -1) == label
    return right | ~inside, ~inside, float(excess.max())


def measure(
    attack: str,
    classifier: Classifier,
    network: torch.nn.Module,
    budget: Budget,
    image: np.ndarray,
    label: np.ndarray,
) -> tuple[list[dict], dict[str, list[float]]]:
    """Rows of the table, and the seconds of each round."""
    right = np.argmax(classifier.logits(image), -1) == label
    attacked, truth = image[right], label[right]
    first = np.argsort(right, kind="stable")[:2]
    field = contestants(attack, classifier, network, budget)
    long = attack in ("Square", "AutoAttack")
    warm_up = (image[first], label[first]) if long else (attacked, truth)
    for contestant in field:
        contestant.first_seconds = contestant.attempt(*warm_up)
    for _ in range(LONG_ROUNDS.value if long else ROUNDS.value):
        for contestant in field:
            contestant.seconds.append(contestant.attempt(attacked, truth))

    rows = []
    for contestant in field:
        row = {
            "attack": attack,
            "library": contestant.library,
            "framework": contestant.framework,
            **dict.fromkeys(("robust_accuracy", "seconds", "first_seconds")),
            **dict.fromkeys(("outside", "excess", "speedup", "rival")),
            "reason": contestant.reason,
        }
        rows.append(row)
        if contestant.reason:
            continue
        stands, outside, excess = judge(
            classifier, attacked, truth, contestant.found, budget
        )
        row |= {
            "robust_accuracy": float(stands.sum() / len(label)),
            "seconds": statistics.median(contestant.seconds),
            "first_seconds": contestant.first_seconds,
            "outside": int(outside.sum()),
            "excess": excess,
        }
    ours, *peers = rows
    if not ours["reason"]:
        limit = ours["robust_accuracy"] + EQUAL_STRENGTH + 1e-9
        equal = [
            row
            for row in peers
            if not row["reason"] and row["robust_accuracy"] <= limit
        ]
        if equal:
            rival = min(equal, key=lambda row: row["seconds"])
            ours["speedup"] = rival["seconds"] / ours["seconds"]
            ours["rival"] = f"{rival['library']} on {rival['framework']}"
    return rows, {f"{c.library} {c.framework}": c.seconds for c in field}


def table(rows: list[dict], facts: dict) -> str:
    """The rows in Markdown, and what is to be said of them."""
    settings, clean = facts["flags"], 100 * facts["clean_accuracy"]
    before, after = facts["load_before"][0], facts["load_after"][0]
    lines = [
        f"{facts['ball']} {facts['epsilon']:.4g}, the first {settings['examples']} test"
        f" images, {clean:.1f} % right when clean; {settings['threads']} threads of"
        f" {facts['cpu']}, load {before:.1f} before and {after:.1f} after.",
        "",
        "| attack | library | on | robust accuracy, % | seconds | first call, seconds |"
        " outside the ball | speedup | rival |",
        "|---|---|---|---:|---:|---:|---:|---:|---|",
    ]
    for row in rows:
        cells = [row["attack"], row["library"], row["framework"]]
        if row["reason"]:
            cells += ["failed", "", "", "", "", ""]
        else:
            speedup = row["speedup"]
            cells += [
                f"{100 * row['robust_accuracy']:.1f}",
                f"{row['seconds']:.3g}",
                f"{row['first_seconds']:.3g}",
                str(row["outside"]),
                "" if speedup is None else f"{speedup:.2f}",
                row["rival"] or "",
            ]
        lines.append("| " + " | ".join(cells) + " |")
    lines.append("")
    for row in rows:
        if row["reason"]:
            who = f"{row['attack']}, {row['library']} on {row['framework']}"
            lines.append(f"- {who}: {row['reason']}")
    for attack in dict.fromkeys(row["attack"] for row in rows):
        there = {row["library"] for row in rows if row["attack"] == attack}
        missing = sorted({library for library, *_ in attack_peers.PEERS} - there)
        if missing:
            lines.append(f"- {attack}: not in {', '.join(missing)}")
    versions = ", ".join(f"{k} {v}" for k, v in facts["packages"].items() if v)
    return "\n".join([*lines, "", versions, ""])


def main(argv: list[str]) -> None:
    machine.set_up()
    tf.random.set_seed(0)
    # The peers are talkative.
    logging.set_verbosity(logging.WARNING)
    tf.get_logger().setLevel("ERROR")
    folder = Path(OUTPUT_DIR.value)
    folder.mkdir(parents=True, exist_ok=True)
    names = ("examples", "batch_size", "pgd_steps", "apgd_steps", "queries")
    facts = machine.environment((*names, "rounds", "long_rounds", "model"), PACKAGES)
    ball = BALL.value
    epsilon = fraction(EPSILON.value or {"linf": "8/255", "l2": 0.5}[ball])
    budget = Budget(ball, epsilon, PGD_STEPS.value, APGD_STEPS.value, QUERIES.value)

    classifier = Classifier.load(MODEL.value)
    image, label = cifar10(classifier, EXAMPLES.value)
    network, difference = port(classifier, image)
    facts |= {
        "ball": ball,
        "epsilon": epsilon,
        "clean_accuracy": float(
            np.mean(np.argmax(classifier.logits(image), -1) == label)
        ),
        "logits_differ_by": difference,
    }

    rows, rounds = [], {}
    for attack in CHOSEN.value:
        found, rounds[attack] = measure(
            attack, classifier, network, budget, image, label
        )
        rows += found
        for row in found:
            print({k: v for k, v in row.items() if v not in (None, "")}, flush=True)
    facts["load_after"] = os.getloadavg()

    stem = folder / f"attacks_{ball}"
    text = table(rows, facts)
    stem.with_suffix(".md").write_text(text)
    print(text)
    stem.with_suffix(".json").write_text(
        json.dumps({"rows": rows, "rounds": rounds, **facts}, indent=2) + "\n"
    )
    with stem.with_suffix(".csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    app.run(main)
