"""Which weights a run exports: the last, or those that validated best."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from tfssl import files
from tfssl.types import UserError

# Of the best so far. Two checkpoints are kept, and a run that goes on from either must
# find what was best then. Between them and after the newest, one each can be better.
_KEPT = 3


class Selection:
    """Keeps the weights with the largest value of one validation number.

    What was best at a step lies in best-<step>.keras; which one counts is said by
    `note`, in the checkpoint. So whatever lies there, a run goes on with what was best
    at its checkpoint.

    Args:
      folder: Where to keep them.
      select: Name of the number; None: the last weights are exported.
      note: As it was at the checkpoint that the run goes on from.

    Attributes:
      note: The best ones, each better than those before: step, value, SHA-256.
    """

    def __init__(
        self, folder: Path, select: str | None, note: Sequence[dict[str, Any]] = ()
    ):
        self._folder = folder
        self._select = select
        self.note = list(note)

    @property
    def step(self) -> int:
        """Of the best weights; 0 if there are none."""
        return self.note[-1]["step"] if self.note else 0

    def offer(
        self, step: int, measured: Mapping[str, float], model: keras.Model
    ) -> None:
        """Keeps the weights if they are the best so far."""
        if not self._select:
            return
        value = float(measured[self._select])
        if self.note and value <= self.note[-1]["value"]:
            return
        entry = {"step": step, "value": value}
        if files.dropped():
            self.note = [entry]
            return
        path = self._path(step)
        _save(model, path)
        entry["sha256"] = _digest(path)
        self.note = [*self.note, entry][-_KEPT:]
        kept = {self._path(entry["step"]) for entry in self.note}
        for old in set(self._folder.glob("best-*.keras")) - kept:
            old.unlink()

    def export(self, path: Path, model: keras.Model) -> None:
        """Writes the selected weights, or those of `model` if there is no selection.

        Raises:
          UserError: The selected weights are lost or damaged.
        """
        if files.dropped():  # The best weights may still be on their way to the disk.
            return
        if self._select:
            best = self._path(self.step)
            try:
                if _digest(best) != self.note[-1]["sha256"]:
                    raise ValueError
                model = keras.saving.load_model(best, compile=False, safe_mode=True)
            except (OSError, ValueError, KeyError, zipfile.BadZipFile):
                raise UserError(
                    f"{best}, the best weights, cannot be read: delete the run's folder"
                    " to train anew"
                ) from None
        _save(model, path)

    def _path(self, step: int) -> Path:
        return self._folder / f"best-{step}.keras"


def _save(model: keras.Model, path: Path) -> None:
    with files.replacing(path) as temporary:
        model.save(temporary)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
