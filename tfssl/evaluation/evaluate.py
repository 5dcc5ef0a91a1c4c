"""The door of bin/evaluate: measures a saved model, cell by cell."""

from __future__ import annotations

import dataclasses
import functools
import glob
import hashlib
import math
import os
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gin
import tensorflow as tf
from absl import logging

from tfssl import distribute, files, manifest
from tfssl.evaluation import outputs, results
from tfssl.evaluation.classifier import Classifier
from tfssl.evaluation.evaluators import Cell, Evaluator, Outcome, need_logits
from tfssl.evaluation.gates import GateError, check_monotone
from tfssl.evaluation.journal import Journal
from tfssl.evaluation.subject import Subject
from tfssl.types import Row, UserError


@gin.configurable(module="tfssl.evaluation", denylist=["run_dir", "model_path"])
def evaluate(
    run_dir: str | os.PathLike,
    model_path: str | os.PathLike,
    dataset: Any,
    evaluators: Sequence[Evaluator],
    split: str = "test",
    examples: int | None = None,
    batch_size: int = 500,
    seed: int = 0,
    strategy: Callable[[], tf.distribute.Strategy] = distribute.strategy,
    tensor_float_32: bool = False,
) -> list[Row]:
    """Measures all cells that `run_dir` does not hold yet.

    Args:
      run_dir: Results go to its folder `results`. Its manifest names the run; one is
        written if there is none.
      model_path: A `.keras` file: images in [0, 1] to logits, or to features if all
        evaluators are content with those.
      dataset: A data set, see the design page.
      evaluators: Of distinct names.
      split: 'train', 'validation' or 'test'.
      examples: Measure the first so many examples alone, of each data set; all if None.
      batch_size: Examples at a time, over all devices. Results do not depend on it.
      seed: Of the attacks' random draws.
      strategy: Makes the strategy: where to run.
      tensor_float_32: Let GPUs since Ampere round what they multiply to 10 bits, as
        TensorFlow does if it is not told otherwise; faster, and another measurement.

    Returns:
      The rows of all evaluators, measured now or before.

    Raises:
      UserError: The model cannot be read or does not fit, or `run_dir` holds results of
        another model or configuration.
      GateError: What was measured cannot be right. What had been measured before is
        kept, and so are the reasons to doubt it.
    """
    names = [evaluator.name for evaluator in evaluators]
    if not names or len(set(names)) < len(names):
        raise UserError(f"evaluators need distinct names, at least one; got {names}")

    if examples is not None and (not isinstance(examples, int) or examples < 1):
        raise UserError(f"evaluate.examples must be a positive integer: {examples!r}")

    tf.config.experimental.enable_tensor_float_32_execution(tensor_float_32)
    logits = need_logits(evaluators)
    with strategy().scope():
        classifier = Classifier.load(model_path)
        subject = Subject(classifier, dataset, split, batch_size, seed, logits)
        subject = subject.first(examples)
        doubts = {}
        if logits:
            sample = subject.sample(outputs.EXAMPLES)
            doubts = outputs.marks(classifier, sample["image"], sample["label"])
            subject.randomised = "randomised" in doubts

        model = hashlib.sha256(Path(model_path).read_bytes()).hexdigest()
        facts = {
            "model": model,
            "dataset": results.describe(dataset.fingerprint),
            "split": split,
            "seed": seed,
            **({"tensor_float_32": True} if tensor_float_32 else {}),
        }
        folder = Path(run_dir) / "results"

        @functools.cache  # And only once something is measured.
        def environment() -> str:
            return results.enter_environment(folder, manifest.environment())

        plans = {
            evaluator.name: [
                _Planned(
                    *(evaluator, cell, folder / evaluator.name),
                    *(facts, subject, examples, environment),
                )
                for cell in evaluator.cells()
            ]
            for evaluator in evaluators
        }
        # All are read before any is measured: what is refused is refused at once.
        known = {name: [cell.read() for cell in plan] for name, plan in plans.items()}
        # So is what cannot be had.
        for name, plan in plans.items():
            for planned, before in zip(plan, known[name], strict=True):
                if before is None and planned.cell.dataset is not None:
                    classifier.check_fit(planned.cell.dataset.open(), logits)
        distribute.same_everywhere(
            "the number of cells measured before",
            sum(row is not None for plan in known.values() for row in plan),
        )
        origin = _origin(Path(run_dir), model)
        origin |= {"dataset": dataset.name, "split": split}

        note = functools.partial(results.note, folder, model)
        if logits:
            note("model", [results.EVERY_ATTACK], doubts)
        rows, failed = [], []
        for evaluator in evaluators:
            about = [evaluator.name, *getattr(evaluator, "about", [])]
            plan, before = plans[evaluator.name], known[evaluator.name]
            try:
                found, outcomes = _measure(plan, before, origin)
            except GateError as error:
                note(evaluator.name, about, {"gate_failed": str(error)})
                failed.append(str(error))
                continue
            rows += found
            marks = evaluator.marks(outcomes) if hasattr(evaluator, "marks") else {}
            note(evaluator.name, about, marks)
            fatal = set(getattr(evaluator, "fatal", ())) & set(marks)
            failed += [f"{evaluator.name}: {marks[name]}" for name in sorted(fatal)]
    if failed:
        raise GateError("; ".join(failed))
    return rows


def _measure(
    plan: list[_Planned],
    known: list[tuple[Row, Outcome] | None],
    origin: dict[str, Any],
) -> tuple[list[Row], dict[str, Outcome]]:
    """All cells of an evaluator: their rows, and their outcomes by name."""
    rows: list[Row] = []
    outcomes: dict[str, Outcome] = {}
    for planned, before in zip(plan, known, strict=True):
        row, outcome = planned.measured(origin, before, outcomes)
        rows.append(row)
        outcomes[planned.cell.name] = outcome
    check_monotone(rows)
    return rows, outcomes


@dataclasses.dataclass(frozen=True)
class _Planned:
    """A cell, where it is kept, all that determines its number, and what measures."""

    evaluator: Evaluator
    cell: Cell
    folder: Path
    facts: dict[str, Any]
    whole: Subject
    examples: int | None
    environment: Callable[[], str]

    @property
    def settings(self) -> dict[str, Any]:
        """With the number of examples, unless it is all of the split.

        Found without reading data: what cannot be known of a data set that is not there
        is as it was when the cell was measured.
        """
        part = self.whole.first(self.cell.examples)
        count = {} if part.complete else {"examples": len(part.ids)}
        settings = self.facts | self.cell.settings
        dataset = self.cell.dataset
        if dataset is None:
            return settings | count
        before = results.settings_of(self.folder, self.cell.name).get("on", {})
        on = results.describe(dataset)
        on["identity"] = results.describe(dataset.identity()) or before.get("identity")
        if not self.cell.paired:
            limits = [n for n in (self.examples, self.cell.examples) if n is not None]
            size = (on["identity"] or {}).get("examples", math.inf)
            count = {"examples": min(limits)} if limits and min(limits) < size else {}
        return settings | {"on": on} | count

    def read(self) -> tuple[Row, Outcome] | None:
        cell = self.cell
        own = cell.keep is None and (cell.dataset is None or cell.paired)
        ids = self.whole.first(cell.examples).ids if own else None
        return results.read_cell(self.folder, cell.name, self.settings, ids)

    def measured(
        self,
        origin: dict[str, Any],
        known: tuple[Row, Outcome] | None,
        earlier: dict[str, Outcome],
    ) -> tuple[Row, Outcome]:
        """The cell's row and outcome, if need be by measuring it."""
        evaluator, cell = self.evaluator, self.cell
        if cell.dataset is not None and not cell.paired:
            origin = origin | {"dataset": cell.dataset.name, "split": "test"}
        if known:
            row = _row(origin, evaluator, cell, known[1])
            # As text, so that NaN equals NaN.
            if str(row) == str(known[0]):
                return known
            logging.warning("%s does not fit its outcomes: measured anew", known[0])
        settings = self.settings
        key = results.key(settings)
        subject = self.whole.of_cell(cell, self.examples)
        subject.journals = lambda label: Journal(
            self.folder / f"{cell.name}.{_file_name(label)}.part.npz", key
        )
        start = time.perf_counter()
        outcome = evaluator.measure(cell, subject, earlier)
        seconds = time.perf_counter() - start
        row = _row(origin, evaluator, cell, outcome)
        results.write_cell(
            *(self.folder, cell.name, row, settings, seconds, self.environment()),
            *(subject.ids, outcome),
        )
        for path in self.folder.glob(f"{glob.escape(cell.name)}.*.part.npz"):
            if not files.dropped():
                path.unlink(missing_ok=True)
        logging.info(
            "%s %s %s %s: %s, %.1f s",
            *(row.evaluator, row.perturbation, results.size(row.strength)),
            *(row.metric, results.shown(row.value, row.unit), seconds),
        )
        return row, outcome


def _file_name(label: str) -> str:
    return re.sub(r"[^\w.-]+", "_", label)


def _row(
    origin: dict[str, Any], evaluator: Evaluator, cell: Cell, outcome: Outcome
) -> Row:
    value, low, high = cell.number(outcome)
    return Row(
        **origin,
        evaluator=evaluator.name,
        perturbation=cell.perturbation,
        strength=cell.strength,
        metric=cell.metric,
        value=value,
        n=len(next(iter(outcome.values()))),
        low=low,
        high=high,
        unit=cell.unit,
    )


def _origin(run_dir: Path, model: str) -> dict[str, Any]:
    """Run and seed, from the manifest; a foreign model gets one with seed 0."""
    entries = manifest.read(run_dir)
    if not entries:
        entries = {"name": run_dir.resolve().name, "seed": 0, "model": model}
        manifest.write(run_dir, {**entries, **manifest.environment()})
    if entries.get("model", model) != model:
        raise UserError(
            f"{run_dir} holds results of another model: choose another --run_dir"
        )
    try:
        return {"run": str(entries["name"]), "seed": int(entries["seed"])}
    except (ValueError, TypeError, KeyError):
        raise UserError(
            f"{run_dir}/manifest.json does not say the run's name and seed"
        ) from None
