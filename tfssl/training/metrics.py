"""metrics.csv: what a run logged, a row every so many steps."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from tfssl import files


class MetricsFile:
    """Appends rows to a CSV file whose columns may grow.

    Args:
      path: The file.
      step: The step the run goes on from: later rows, written after the checkpoint it
        goes on from, are dropped.
    """

    def __init__(self, path: Path, step: int):
        self._path = path
        self.rows: list[dict[str, str]] = []
        if path.exists():
            with path.open(newline="") as file:
                # A row that a crash cut short has no number in its first column.
                self.rows = [
                    row
                    for row in csv.DictReader(file)
                    if (row.get("step") or "").isdigit() and int(row["step"]) <= step
                ]

    def append(self, row: Mapping[str, float]) -> None:
        """Adds a row; the file is replaced as a whole, so it is never half-written."""
        self.rows.append(
            {
                name: str(value) if isinstance(value, int) else f"{value:.7g}"
                for name, value in row.items()
            }
        )
        columns = list(dict.fromkeys(name for row in self.rows for name in row))
        with (
            files.replacing(self._path) as path,
            path.open("w", newline="") as file,
        ):
            writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows)
