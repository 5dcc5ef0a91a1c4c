"""What stops a run that has gone wrong, and says where; and what warns of waste.

All that a guard judges by is in the rows of metrics.csv and in the steps since the last
of them, so that a run that was interrupted stops where an undisturbed one does.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from tfssl import files
from tfssl.training.network import OVERFLOWS
from tfssl.types import Batch, UserError, positive

Logs = Sequence[Mapping[str, float]]

_STEADY = 100  # Steps: fewer are too few to judge by.
_ROBUST = 0.1  # Accuracy that an attack has to leave before its fall says anything.
_LEAST_SCALE = 2.0**-14  # With a loss so small, gradients vanish in float16.
_IN_FLOAT16 = ", or PRECISION = 'bfloat16'"
_SHOWN = 8  # Ids in a message.


@dataclasses.dataclass(frozen=True)
class Guards:
    """Watches the rows of a run. Limits of None are not watched.

    Attributes:
      collapse: Least spread of embeddings, after a tenth of the run.
      collapse_rank: Least effective rank, after that and from 100 steps on.
      explosion: Largest loss, as a multiple of the usual one: the median of the rows
        before, or the first row's if that is larger. It has to stay above for 100
        steps, half of the last row's steps included: a peak is none.
      overfitting: Least validation accuracy, as a share of the best before, if that
        was at least 0.1. It has to stay below for two validations.

    Raises:
      UserError: A limit is not a positive number.
    """

    collapse: float | None
    collapse_rank: float | None
    explosion: float | None
    overfitting: float | None

    def __post_init__(self):
        for key, value in dataclasses.asdict(self).items():
            if value is not None:
                positive(f"train.{key}", value)

    def check(
        self,
        rows: Sequence[Mapping[str, str]],
        logs: Logs,
        last_step: int,
        select: str | None,
    ) -> None:
        """Judges the last row.

        Args:
          rows: Of metrics.csv.
          logs: The losses and more of each step that the last row is about.
          last_step: Of the run.
          select: The validation number whose best weights are exported: it may fall.

        Raises:
          UserError: The run has gone wrong.
        """
        step = int(rows[-1]["step"])
        if logs[-1].get("loss_scale", 1) < _LEAST_SCALE:
            raise UserError(
                f"at step {step} gradients overflow in float16 however small the loss"
                " is scaled: PRECISION = 'bfloat16' does not know this"
            )
        if step > last_step / 10:
            rank = self.collapse_rank if step >= _STEADY else None
            _check_collapse(rows[-1], self.collapse, rank)
        if self.explosion:
            _check_explosion(rows, logs, self.explosion)
        if self.overfitting:
            _check_overfitting(rows, self.overfitting, select)


def check_finite(
    logs: Logs,
    step: int,
    good: int,
    batch_of: Callable[[int], Batch],
    folder: Path,
) -> None:
    """Raises UserError if a number of some step is infinite or NaN.

    Its message says which, at which step and on which examples; all of them are in
    nonfinite.json.

    Args:
      logs: Of the steps up to `step`.
      step: See there.
      good: Step of the last checkpoint, 0 if there is none.
      batch_of: Makes the batch of a step again.
      folder: For nonfinite.json.
    """
    names = list(logs[0])
    bad = np.argwhere(~np.isfinite([list(entry.values()) for entry in logs]))
    if not len(bad):
        return
    first = bad[0][0]
    culprits = [names[j] for i, j in bad if i == first]
    # The sum over terms is no news if a term is named.
    culprits = [n for n in culprits if n != "loss"] or culprits
    at = int(step - len(logs) + 1 + first)
    ids, inputs = _examples(batch_of(at))
    record = {"step": at, "numbers": culprits, "ids": ids, "inputs_not_finite": inputs}
    with files.replacing(folder / "nonfinite.json") as path:
        path.write_text(json.dumps(record))
    shown = ", ".join(map(str, inputs or ids[:_SHOWN]))
    if inputs:
        examples = f"the inputs of the examples {shown} are not finite"
    else:
        rest = f" and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else ""
        examples = f"its batch has the examples {shown}{rest}"
    kept = f"the checkpoint of step {good} is the last good one"
    raise UserError(
        f"{' and '.join(culprits)} became {logs[first][culprits[0]]} at step {at};"
        f" {examples} ({folder / 'nonfinite.json'});"
        f" {kept if good else 'there is no checkpoint'}. A smaller LEARNING_RATE"
        f" usually helps{_IN_FLOAT16 if 'loss_scale' in names else ''}"
    )


def check_overflow(error: Exception, step: int) -> None:
    """Raises UserError if that is what an error of a step says."""
    if OVERFLOWS in str(error):
        raise UserError(
            f"{OVERFLOWS} in the attack of step {step}. A smaller LEARNING_RATE usually"
            f" helps{_IN_FLOAT16}"
        ) from None


def _examples(batch: Batch) -> tuple[list[int], list[int]]:
    """The ids of a batch, and those whose image or views hold an infinity or NaN."""
    ids = np.asarray(batch["id"])
    bad = np.zeros(len(ids), bool)
    for value in map(np.asarray, batch.values()):
        if value.shape[:1] == ids.shape and value.dtype.kind == "f":
            bad |= ~np.isfinite(value.reshape(len(ids), -1)).all(1)
    return ids.tolist(), ids[bad].tolist()


def _check_collapse(
    row: Mapping[str, str], spread: float | None, rank: float | None
) -> None:
    """Raises UserError if embeddings have collapsed to a point or to a line."""
    for key, text in row.items():
        watch, _, name = key.partition("/")
        if watch == "spread" and spread and float(text) < spread:
            sign = f"their spread is {float(text):.2g}, 0 being a point"
            setting = "collapse"
        elif watch == "effective_rank" and rank and float(text) < rank:
            sign = f"their effective rank is {float(text):.3g}, 1 being a line"
            setting = "collapse_rank"
        else:
            continue
        raise UserError(
            f"the embeddings of {name} have collapsed: at step {row['step']} {sign}."
            " Another LEARNING_RATE, a larger batch or other settings of the method may"
            f" help; with train.{setting} = None, in another --run_dir, it goes on"
        )


def _check_explosion(
    rows: Sequence[Mapping[str, str]], logs: Logs, factor: float
) -> None:
    """Raises UserError if the loss has been far above its usual size for a while."""
    steps = [int(row["step"]) for row in rows]
    # Rows that are judged: the last ones, as few as make up enough steps.
    first = sum(step <= steps[-1] - _STEADY for step in steps)
    if not first:
        return
    losses = [abs(float(row["loss"])) for row in rows]
    losses[-1] = min(losses[-1], statistics.median(abs(e["loss"]) for e in logs))
    usual = max(losses[0], statistics.median(losses[:first]))
    if min(losses[first:]) > factor * usual > 0:
        raise UserError(
            f"the loss has exploded: from step {steps[first - 1] + 1} to {steps[-1]} it"
            f" was at least {min(losses[first:]):.3g}, and {usual:.3g} before. A"
            " smaller LEARNING_RATE usually helps; with train.explosion = None, in"
            " another --run_dir, it goes on"
        )


def _check_overfitting(
    rows: Sequence[Mapping[str, str]], share: float, select: str | None
) -> None:
    """Raises UserError if a validation accuracy is gone for good.

    So ends robust accuracy if training with a single-step attack overfits to it (Wong
    2020, "Fast is better than free"; Andriushchenko and Flammarion 2020).
    """
    for key in [key for key in rows[-1] if key.startswith("validation/")]:
        found = [(float(r[key]), int(r["step"])) for r in rows if r.get(key)]
        best, step = max(found, key=lambda each: each[0])
        lately = [value for value, _ in found[-2:]]
        if best < _ROBUST or max(lately) >= share * best:
            continue
        message = (
            f"{key} has fallen to {lately[-1]:.2g}, after {best:.2g} at step {step}. Of"
            " robust accuracy this is catastrophic overfitting to a weak attack: a"
            " random start, a smaller step_size or more STEPS help"
        )
        if key == f"validation/{select}":
            logging.warning("%s. The weights of step %d are kept", message, step)
        else:
            raise UserError(
                f"{message}; with train.overfitting = None, in another --run_dir, it"
                " goes on"
            )


class Watched:
    """Batches, and a warning when one was long in coming.

    The first may be: buffers are filled. Of warnings there is one in ten times the
    limit.

    Args:
      batches: An iterator.
      limit: Seconds that a step may wait; None: for ever.
    """

    def __init__(self, batches: Iterator[Any], limit: float | None):
        self._batches = batches
        self._limit = limit
        self._count = 0
        self._waited = 0.0
        self._since = time.monotonic()
        self._said = -float("inf")

    def __next__(self) -> Any:
        before = time.monotonic()
        batch = next(self._batches)
        now = time.monotonic()
        self._count += 1
        if self._count == 1:
            self._since = now
            return batch
        self._waited += now - before
        late = self._limit is not None and now - before > self._limit
        if late and now - self._said > 10 * self._limit:
            self._said = now
            logging.warning(
                "a step waited %.0f s for its data; waiting is %.0f %% of the time so"
                " far. Faster storage, or fewer or simpler augmentations and views",
                now - before,
                100 * self._waited / (now - self._since),
            )
        return batch
