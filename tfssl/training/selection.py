"""Which weights a run exports: the last, or those that validated best."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import keras

from tfssl import files
from tfssl.types import UserError


class Selection:
    """Keeps the weights with the largest value of one validation number.

    What is kept lies in best.keras and best.json, and survives a crash.

    Args:
      folder: Where to keep them.
      select: Name of the number; None: the last weights are exported.
    """

    def __init__(self, folder: Path, select: str | None):
        self._select = select
        self._model = folder / "best.keras"
        self._record = folder / "best.json"
        self.step, self.value = 0, -float("inf")
        if select and self._record.exists():
            record = json.loads(self._record.read_text())
            self.step, self.value = record["step"], record["value"]

    def offer(
        self, step: int, measured: Mapping[str, float], model: keras.Model
    ) -> None:
        """Keeps the weights if they are the best so far.

        Raises:
          UserError: The number to select by was not measured.
        """
        if not self._select:
            return
        if self._select not in measured:
            raise UserError(
                f"train.select is {self._select!r}, but validation measures"
                f" {', '.join(measured)}"
            )
        if measured[self._select] <= self.value:
            return
        self.step, self.value = step, float(measured[self._select])
        _save(model, self._model)
        with files.replacing(self._record) as path:
            path.write_text(json.dumps({"step": step, "value": self.value}))

    def export(self, path: Path, model: keras.Model) -> None:
        """Writes the selected weights, or those of `model` if none were selected."""
        if self._select and self._model.exists():
            with files.replacing(path) as temporary:
                shutil.copyfile(self._model, temporary)
        else:
            _save(model, path)


def _save(model: keras.Model, path: Path) -> None:
    with files.replacing(path) as temporary:
        model.save(temporary)
