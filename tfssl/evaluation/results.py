"""Measured cells on disk, each with a key of all that determines its number.

A cell is `<folder>/<cell>.npz` with the arrays `ids` [n] int64 and `correct` [n] bool,
and, written after it, `<folder>/<cell>.json`:

    {"key": ..., "row": {the fields of types.Row}, "settings": {...}, "seconds": 1.2}

A cell without a readable pair of files has not been measured.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from tfssl import files
from tfssl.types import Row, UserError


def describe(value: Any) -> Any:
    """The settings of an object as JSON: its class and its public attributes.

    Private attributes (`_graph`) are left out. Floats become their shortest exact text.

    Raises:
      TypeError: It holds something that has no settings, such as a tensor.
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, np.generic):
        return describe(value.item())
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, (list, tuple)):
        return [describe(item) for item in value]
    if isinstance(value, dict):
        return {str(name): describe(item) for name, item in value.items()}
    kind = value if hasattr(value, "__qualname__") else type(value)
    name = f"{kind.__module__}.{kind.__qualname__}"
    if kind is value:  # A function or a class.
        return name
    if not hasattr(value, "__dict__"):
        raise TypeError(f"no settings can be read from a {name}: {value!r}")
    public = {k: v for k, v in vars(value).items() if not k.startswith("_")}
    return {"class": name, **describe(public)}


def key(settings: dict[str, Any]) -> str:
    """A hash of described settings."""
    text = json.dumps(settings, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def write_cell(
    folder: Path,
    name: str,
    row: Row,
    settings: dict[str, Any],
    seconds: float,
    ids: np.ndarray,
    correct: np.ndarray,
) -> None:
    """Writes a finished cell; the JSON file last, as it says that the cell is there."""
    with files.replacing(folder / f"{name}.npz") as path:
        np.savez(path, ids=ids, correct=correct)
    cell = {
        "key": key(settings),
        "row": dataclasses.asdict(row),
        "settings": settings,
        "seconds": seconds,
    }
    with files.replacing(folder / f"{name}.json") as path:
        path.write_text(json.dumps(cell, indent=2))


def read_cell(
    folder: Path, name: str, settings: dict[str, Any], ids: np.ndarray
) -> tuple[Row, np.ndarray] | None:
    """Reads a finished cell: its row and [n] bool.

    Returns:
      None if there is no such cell, or one that cannot be read.

    Raises:
      UserError: The cell there is one of other settings.
    """
    path = folder / f"{name}.json"
    try:
        cell = json.loads(path.read_text())
        row, found_key = Row(**cell["row"]), cell["key"]
        found_settings = dict(cell["settings"])
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError):
        logging.warning("%s is damaged; measuring it again", path)
        return None
    if found_key != key(settings):
        names = found_settings.keys() | settings.keys()
        differing = sorted(
            name for name in names if found_settings.get(name) != settings.get(name)
        )
        if not differing:
            logging.warning("%s is damaged; measuring it again", path)
            return None
        raise UserError(
            f"{path} was measured with another {', '.join(differing)}: choose another"
            f" --run_dir, or delete {folder} to measure anew"
        )
    try:
        with np.load(folder / f"{name}.npz", allow_pickle=False) as arrays:
            found_ids, correct = arrays["ids"], arrays["correct"]
        whole = np.array_equal(found_ids, ids) and correct.shape == ids.shape
        whole = whole and correct.dtype == bool
    # A damaged header can ask for a compression that does not exist, or a password.
    except (OSError, EOFError, ValueError, KeyError, RuntimeError, zipfile.BadZipFile):
        whole = False
    if not whole:
        logging.warning("%s.npz is damaged; measuring it again", folder / name)
        return None
    return row, correct


def table(rows: Sequence[Row]) -> str:
    """Rows as text, one line each; shares in percent."""
    lines = [("evaluator", "perturbation", "strength", "value %", "95 % interval", "n")]
    lines += [
        (
            row.evaluator,
            row.perturbation,
            size(row.strength),
            f"{100 * row.value:.2f}",
            f"{100 * row.low:.2f} - {100 * row.high:.2f}",
            str(row.n),
        )
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            text.ljust(width) if i < 2 else text.rjust(width)
            for i, (text, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def size(strength: float) -> str:
    """'8/255' for 8 / 255, and plain numbers as they are."""
    levels = strength * 255
    if 0 < levels < 255 and abs(levels - round(levels)) < 1e-9:
        return f"{round(levels)}/255"
    return f"{strength:g}"
