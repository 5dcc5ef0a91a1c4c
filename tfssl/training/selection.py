"""Which weights a run exports: the last, or those that validated best."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path

import keras

from tfssl import files
from tfssl.types import UserError

_ANEW = "delete the run's folder to train anew"


class Selection:
    """Keeps the weights with the largest value of one validation number.

    What is kept lies in best.keras and best.json, and survives a crash.

    Args:
      folder: Where to keep them.
      select: Name of the number; None: the last weights are exported.
      step: The step the run goes on from.

    Raises:
      UserError: What was kept is damaged.
    """

    def __init__(self, folder: Path, select: str | None, step: int):
        self._select = select
        self._model = folder / "best.keras"
        self._record = folder / "best.json"
        self.step, self.value = 0, -float("inf")
        if select and self._record.exists():
            try:
                record = json.loads(self._record.read_text())
                found = int(record["step"]), float(record["value"])
            except (ValueError, TypeError, KeyError):
                raise UserError(f"{self._record} is damaged: {_ANEW}") from None
            # What was selected after the checkpoint will be selected again.
            if found[0] <= step:
                self.step, self.value = found

    def offer(
        self, step: int, measured: Mapping[str, float], model: keras.Model
    ) -> None:
        """Keeps the weights if they are the best so far."""
        if not self._select or measured[self._select] <= self.value:
            return
        self.step, self.value = step, float(measured[self._select])
        _save(model, self._model)
        with files.replacing(self._record) as path:
            path.write_text(json.dumps({"step": step, "value": self.value}))

    def export(self, path: Path, model: keras.Model) -> None:
        """Writes the selected weights, or those of `model` if there is no selection.

        Raises:
          UserError: The selected weights are lost or damaged.
        """
        if files.dropped():  # The best weights may still be on their way to the disk.
            return
        if self._select:
            try:
                model = keras.saving.load_model(self._model, compile=False)
            except (OSError, ValueError, KeyError, zipfile.BadZipFile):
                raise UserError(
                    f"{self._model}, the best weights, cannot be read: {_ANEW}"
                ) from None
        _save(model, path)


def _save(model: keras.Model, path: Path) -> None:
    with files.replacing(path) as temporary:
        model.save(temporary)
