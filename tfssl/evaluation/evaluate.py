"""The door of bin/evaluate: measures a saved model, cell by cell."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gin
import numpy as np
import tensorflow as tf
from absl import logging

from tfssl import distribute, manifest
from tfssl.evaluation import results
from tfssl.evaluation.classifier import Classifier
from tfssl.evaluation.evaluators import Cell, Evaluator
from tfssl.evaluation.intervals import wilson
from tfssl.evaluation.subject import Subject
from tfssl.types import Row, UserError


@gin.configurable(module="tfssl.evaluation", denylist=["run_dir", "model_path"])
def evaluate(
    run_dir: str | os.PathLike,
    model_path: str | os.PathLike,
    dataset: Any,
    evaluators: Sequence[Evaluator],
    split: str = "test",
    batch_size: int = 500,
    seed: int = 0,
    strategy: Callable[[], tf.distribute.Strategy] = distribute.strategy,
) -> list[Row]:
    """Measures all cells that `run_dir` does not hold yet.

    Args:
      run_dir: Results go to its folder `results`. Its manifest names the run; one is
        written if there is none.
      model_path: A `.keras` file: images in [0, 1] to logits.
      dataset: A data set, see the design page.
      evaluators: Of distinct names.
      split: 'train', 'validation' or 'test'.
      batch_size: Examples at a time, over all devices. Results do not depend on it.
      seed: Of the attacks' random draws.
      strategy: Makes the strategy: where to run.

    Returns:
      The rows of all evaluators, measured now or before.

    Raises:
      UserError: The model cannot be read or does not fit, or `run_dir` holds results of
        another model or configuration.
    """
    names = [evaluator.name for evaluator in evaluators]
    if not names or len(set(names)) < len(names):
        raise UserError(f"evaluators need distinct names, at least one; got {names}")

    with strategy().scope():
        classifier = Classifier.load(model_path)
        subject = Subject(classifier, dataset, split, batch_size, seed)
        first = subject.first_batch()
        classifier.check_outputs(first["image"], first["label"])

        model = hashlib.sha256(Path(model_path).read_bytes()).hexdigest()
        facts = {
            "model": model,
            "dataset": results.describe(dataset.fingerprint),
            "split": split,
            "seed": seed,
        }
        folder = Path(run_dir) / "results"
        plan = [
            (evaluator, cell, facts | cell.settings)
            for evaluator in evaluators
            for cell in evaluator.cells()
        ]
        # All are read before any is measured: what is refused is refused at once.
        finished = [
            results.read_cell(folder / evaluator.name, cell.name, settings, subject.ids)
            for evaluator, cell, settings in plan
        ]
        origin = _origin(Path(run_dir), model)
        origin |= {"dataset": dataset.name, "split": split}

        rows, outcomes = [], {}
        for (evaluator, cell, settings), known in zip(plan, finished, strict=True):
            correct = None
            if known:
                found, correct = known
                row = _row(origin, evaluator, cell, correct)
                if row != found:
                    logging.warning(
                        "%s does not fit its outcomes: measured anew", found
                    )
                    correct = None
            if correct is None:
                start = time.perf_counter()
                correct = evaluator.measure(cell, subject, outcomes.get(evaluator.name))
                seconds = time.perf_counter() - start
                row = _row(origin, evaluator, cell, correct)
                results.write_cell(
                    folder / evaluator.name,
                    cell.name,
                    row,
                    settings,
                    seconds,
                    subject.ids,
                    correct,
                )
                logging.info(
                    "%s %s: %.2f %%, %.1f s",
                    *(row.evaluator, results.size(row.strength)),
                    *(100 * row.value, seconds),
                )
            rows.append(row)
            outcomes[evaluator.name] = correct
    return rows


def _row(
    origin: dict[str, Any], evaluator: Evaluator, cell: Cell, correct: np.ndarray
) -> Row:
    low, high = wilson(int(correct.sum()), len(correct))
    return Row(
        **origin,
        evaluator=evaluator.name,
        perturbation=cell.perturbation,
        strength=cell.strength,
        metric=cell.metric,
        value=float(correct.mean()),
        n=len(correct),
        low=low,
        high=high,
    )


def _origin(run_dir: Path, model: str) -> dict[str, Any]:
    """Run and seed, from the manifest; a foreign model gets one with seed 0."""
    if not manifest.read(run_dir):
        entries = {"name": run_dir.resolve().name, "seed": 0, "model": model}
        manifest.write(run_dir, {**entries, **manifest.environment()})
    entries = manifest.read(run_dir)
    try:
        return {"run": str(entries["name"]), "seed": int(entries["seed"])}
    except (ValueError, TypeError, KeyError):
        raise UserError(
            f"{run_dir}/manifest.json does not say the run's name and seed"
        ) from None
