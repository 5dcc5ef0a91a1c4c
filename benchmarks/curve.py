"""What a robustness curve costs: a grid of epsilons against one of its points.

  python benchmarks/curve.py --model model.keras --output_dir /tmp/curve

APGD on the cross-entropy at 0, 2, 4, 8, 12 and 16/255 (linf) on the first test images
of CIFAR-10: by `Ensemble`, which goes downwards and attacks each image in full once,
and by `AttackCurve`, which attacks all that stands at each epsilon; and 8/255
alone. They take turns, round after round. It prints accuracies, median seconds
and their ratio to those of the point 8/255.
"""

from __future__ import annotations

import functools
import json
import os
import statistics
import time
from pathlib import Path

import machine
from absl import app, flags

from tfssl.attacks.apgd import APGD
from tfssl.attacks.balls import Linf
from tfssl.data.dataset import Dataset
from tfssl.evaluation.classifier import Classifier
from tfssl.evaluation.ensemble import Ensemble
from tfssl.evaluation.evaluators import AttackCurve
from tfssl.evaluation.subject import Subject

GRID = ["0", "2/255", "4/255", "8/255", "12/255", "16/255"]

MODEL = flags.DEFINE_string("model", None, "A model.keras.", required=True)
OUTPUT_DIR = flags.DEFINE_string("output_dir", None, "For curve.json.", required=True)
EXAMPLES = flags.DEFINE_integer("examples", 300, "The first so many images.", 1)
STEPS = flags.DEFINE_integer("steps", 100, "Of APGD.", 1)
ROUNDS = flags.DEFINE_integer("rounds", 2, "Timed runs of each.", 1)


def measure(evaluator, subject: Subject) -> list[float]:
    """The accuracies of its grid, ascending in epsilon."""
    outcomes, accuracy = {}, {}
    for cell in evaluator.cells():
        outcomes[cell.name] = evaluator.measure(cell, subject, outcomes)
        accuracy[cell.strength] = float(outcomes[cell.name]["correct"].mean())
    return [accuracy[strength] for strength in sorted(accuracy)]


def main(argv: list[str]) -> None:
    machine.set_up()
    folder = Path(OUTPUT_DIR.value)
    folder.mkdir(parents=True, exist_ok=True)
    facts = machine.environment(("model", "examples", "steps", "rounds"))

    subject = Subject(
        Classifier.load(MODEL.value), Dataset("cifar10:3.0.2"), "test", 500, 0
    ).first(EXAMPLES.value)
    attack = functools.partial(APGD, Linf(), steps=STEPS.value)
    contestants = {
        "one point": Ensemble({"apgd_ce": attack()}, ["8/255"], "one_point"),
        "downwards": Ensemble({"apgd_ce": attack()}, GRID, "downwards"),
        "in full": AttackCurve(attack(), GRID, "in_full"),
    }
    accuracy = {
        name: measure(evaluator, subject) for name, evaluator in contestants.items()
    }  # Untimed: it traces the graphs.
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(ROUNDS.value):
        for name, evaluator in contestants.items():
            since = time.perf_counter()
            measure(evaluator, subject)
            seconds[name].append(time.perf_counter() - since)
    facts["load_after"] = os.getloadavg()

    medians = {name: statistics.median(values) for name, values in seconds.items()}
    print(f"| | {' | '.join(GRID)} | seconds | ratio |")
    print("|---|" + "---:|" * (len(GRID) + 2))
    for name, values in accuracy.items():
        cells = [f"{100 * value:.1f}" for value in values]
        if name == "one point":
            clean, point = cells
            cells = [clean, "", "", point, "", ""]
        ratio = medians[name] / medians["one point"]
        print(f"| {name} | {' | '.join(cells)} | {medians[name]:.3g} | {ratio:.2f} |")
    result = {"accuracy": accuracy, "seconds": seconds, **facts}
    (folder / "curve.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    app.run(main)
