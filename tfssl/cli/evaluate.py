r"""Measures a saved model: accuracy on clean and on attacked images.

A run of bin/train, on the data it was trained on:

  bin/evaluate --run_dir runs/at
  bin/evaluate --run_dir runs/at --gin_file evaluation/pgd20_l2.gin

Without an evaluation it is PGD-20 in the ball of training, evaluation/pgd20_linf.gin or
evaluation/pgd20_l2.gin.

A Keras model from elsewhere, which takes images in [0, 1] and returns logits, by
AutoAttack on the first 1000 test images (docs/robustness.md):

  bin/evaluate --model resnet.keras --run_dir runs/resnet \
    --gin_file data/cifar10.gin --gin_file evaluation/autoattack_linf.gin \
    --gin_param evaluate.examples=1000

Other epsilons, more images at a time:

  bin/evaluate --run_dir runs/at --gin_file evaluation/pgd20_linf.gin \
    --gin_param "pgd20_linf/AttackCurve.epsilons = ['0', '1/255']" \
    --gin_param "evaluate.batch_size = 1000"

The shipped evaluations are the files in gin/evaluation/; give one at a time. Each
number goes to <run_dir>/results/<evaluator>/ once it is measured, so that the same
command goes on where it was interrupted, and one that has finished prints its table.
SIGTERM and SIGUSR1 end it with exit code 75.
Reasons to doubt a number are printed below it and kept in <run_dir>/results/marks.json.
A number that cannot be right, such as of an attack that leaves its ball, is an error.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from absl import flags

from tfssl import config, files, signals
from tfssl.cli import app
from tfssl.types import UserError

MODEL = flags.DEFINE_string(
    "model", None, "A .keras file, instead of the model in --run_dir."
)


def main() -> None:
    """Parses the configuration, measures, prints the table."""
    run_dir = Path(app.required_run_dir())
    gin_files = list(app.GIN_FILE.value)
    model = MODEL.value
    if model is None:
        model = run_dir / "model.keras"
        if not model.is_file() or not (run_dir / "config.gin").is_file():
            raise UserError(
                f"{run_dir} holds no finished training run (model.keras, config.gin):"
                " train it first, or give --model"
            )
        gin_files = [run_dir / "config.gin", *gin_files]
    elif not gin_files:
        raise UserError(
            "--model needs to be told the data and the evaluation, for instance"
            " --gin_file data/cifar10.gin --gin_file evaluation/pgd20_linf.gin"
        )
    stop = signals.Stop().listen()
    app.load_tensorflow()
    from tfssl import distribute, manifest
    from tfssl.evaluation import results
    from tfssl.evaluation.evaluate import evaluate

    allowed = app.ALLOW_IMPORT.value
    if not config.files_name(gin_files, "EVALUATORS", allowed):
        norm = manifest.read(run_dir).get("norm") or "linf"
        gin_files.append(f"evaluation/pgd20_{norm}.gin")
    config.parse(gin_files, app.GIN_PARAM.value, allowed)
    app.join_cluster()
    with app.alone_in(run_dir), distribute.in_one_line(stop):
        rows = evaluate(run_dir, model)
        with files.replacing(run_dir / "results" / "config.gin") as path:
            path.write_text(config.text())
        with files.replacing(run_dir / "results" / "command.json") as path:
            path.write_text(json.dumps({"command": sys.argv}, indent=2))
        stop.patient = True  # There is nothing left to stop.
    if distribute.is_chief():
        print(results.table(rows, results.read_marks(run_dir / "results")))


def run() -> None:
    """The program."""
    app.run(main, __doc__)


if __name__ == "__main__":  # As `bin/study` starts it.
    run()
