"""Measured cells on disk, each with a key of all that determines its number.

A cell is `<folder>/<cell>.npz` with the arrays `ids` [n] int64, `correct` [n] bool or
`value` [n] float, and what else its evaluator keeps, [n, ...] but for `out` [m], which
is of the examples of another data set, and, written after it,
`<folder>/<cell>.json`:

    {"key": ..., "row": {the fields of types.Row}, "settings": {...}, "seconds": 1.2,
     "environment": ...}

where the last is a key of `environments.json`, beside the folders of the evaluators:
what measured it, as `manifest.environment` describes it. It is no part of the key: a
number is to be the same wherever it was measured.

A cell without a readable pair of files has not been measured. Reasons to doubt numbers
are kept beside the folders of the evaluators, in `marks.json`:

    {source: {"about": [evaluators], "model": sha256, "marks": {name: sentence}}}
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from tfssl import files
from tfssl.settings import differences
from tfssl.types import BALLS, PANEL, Row, UserError

EVERY_ATTACK = "*"
"""Among those that a mark is about: all evaluators, wherever they attack."""


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
    environment: str,
    ids: np.ndarray,
    outcome: dict[str, np.ndarray],
) -> None:
    """Writes a finished cell; the JSON file last, as it says that the cell is there."""
    with files.replacing(folder / f"{name}.npz") as path:
        np.savez(path, ids=ids, **outcome)
    cell = {
        "key": key(settings),
        "row": dataclasses.asdict(row),
        "settings": settings,
        "seconds": seconds,
        "environment": environment,
    }
    with files.replacing(folder / f"{name}.json") as path:
        path.write_text(json.dumps(cell, indent=2))


def enter_environment(folder: Path, environment: dict[str, Any]) -> str:
    """Adds an environment to those in `environments.json`; returns its key."""
    path = folder / "environments.json"
    try:
        known = dict(json.loads(path.read_text()))
    except FileNotFoundError:
        known = {}
    except (ValueError, TypeError):
        logging.warning("%s is damaged and begun anew", path)
        known = {}
    name = key(environment)[:12]
    if name not in known:
        with files.replacing(path) as temporary:
            temporary.write_text(json.dumps({**known, name: environment}, indent=2))
    return name


def settings_of(folder: Path, name: str) -> dict[str, Any]:
    """The settings of a finished cell, unchecked; none if it cannot be read."""
    try:
        return dict(json.loads((folder / f"{name}.json").read_text())["settings"])
    except (OSError, ValueError, TypeError, KeyError):
        return {}


def read_cell(
    folder: Path, name: str, settings: dict[str, Any], ids: np.ndarray | None
) -> tuple[Row, dict[str, np.ndarray]] | None:
    """Reads a finished cell: its row and its arrays, see above.

    Args:
      folder, name, settings: As they were written.
      ids: [n] int64, which must be the examples; not compared if None.

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
        differing = [
            f"{name} ({found}, now {now})"
            for name, found, now in differences(found_settings, settings)
        ]
        if not differing:
            logging.warning("%s is damaged; measuring it again", path)
            return None
        more = f" and {len(differing) - 4} more" if len(differing) > 4 else ""
        raise UserError(
            f"{path} was measured with another {', '.join(differing[:4])}{more}: choose"
            f" another --run_dir, or delete {folder} to measure anew"
        )
    try:
        with np.load(folder / f"{name}.npz", allow_pickle=False) as arrays:
            outcome = dict(arrays)
        found_ids = outcome.pop("ids")
        ids = found_ids if ids is None else ids
        whole = np.array_equal(found_ids, ids)
        own = [array for name, array in outcome.items() if name != "out"]
        whole = whole and all(len(array) == len(ids) for array in own)
        known = {"correct", "value"} & outcome.keys()
        whole = whole and bool(known)
        whole = whole and outcome.get("correct", np.zeros(0, bool)).dtype == bool
    # A damaged header can ask for a compression that does not exist, or a password.
    except (
        *(OSError, EOFError, ValueError, TypeError, KeyError, RuntimeError),
        zipfile.BadZipFile,
    ):
        whole = False
    if not whole:
        logging.warning("%s.npz is damaged; measuring it again", folder / name)
        return None
    return row, outcome


def read_marks(folder: Path) -> dict[str, dict[str, Any]]:
    """What `marks.json` in a folder of results says; nothing if it is damaged."""
    try:
        found = json.loads((folder / "marks.json").read_text())
        return {
            str(source): {
                "about": [str(name) for name in entry["about"]],
                "model": str(entry["model"]),
                "marks": {str(k): str(v) for k, v in entry["marks"].items()},
            }
            for source, entry in found.items()
        }
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, KeyError, AttributeError):
        logging.warning("%s/marks.json is damaged", folder)
        return {}


def note(
    folder: Path, model: str, source: str, about: list[str], marks: dict[str, str]
) -> None:
    """Enters one source's marks, none included, and drops those of other models."""
    for name, sentence in marks.items():
        logging.warning("%s: %s: %s", source, name, sentence)
    found = {k: v for k, v in read_marks(folder).items() if v["model"] == model}
    found[source] = {"about": about, "model": model, "marks": marks}
    with files.replacing(folder / "marks.json") as path:
        path.write_text(json.dumps(found, indent=2))


def marks_of(row: Row, marks: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Those that are about a row; what is said of the model is about all attacks."""
    found = {}
    for entry in marks.values():
        attacked = row.perturbation in BALLS and row.strength > 0
        if (EVERY_ATTACK in entry["about"] and attacked) or row.evaluator in entry[
            "about"
        ]:
            found |= entry["marks"]
    return found


def table(rows: Sequence[Row], marks: dict[str, dict[str, Any]] | None = None) -> str:
    """Rows as text, one line each; marks as numbers and notes.

    Pictures (`types.PANEL`) are left out.
    """
    several = len({row.dataset for row in rows}) > 1
    header = ("evaluator", "perturbation", "strength", "metric", "value")
    lines = [(*header, "95 % interval", "n", "marks")]
    notes: dict[tuple[str, str], int] = {}
    for row in (row for row in rows if row.metric != PANEL):
        found = marks_of(row, marks or {}).items()
        numbers = sorted(notes.setdefault(mark, len(notes) + 1) for mark in found)
        lines.append(
            (
                row.evaluator,
                f"{row.dataset}: {row.perturbation}" if several else row.perturbation,
                size(row.strength),
                row.metric,
                shown(row.value, row.unit),
                _interval(row),
                str(row.n),
                ",".join(f"[{number}]" for number in numbers),
            )
        )
    if not notes:
        lines = [line[:-1] for line in lines]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = "\n".join(
        "  ".join(
            text.ljust(width) if i in (0, 1, 3, 7) else text.rjust(width)
            for i, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
    for (name, sentence), number in notes.items():
        text += f"\n[{number}] {name}: {sentence}"
    return text


def shown(value: float, unit: str) -> str:
    """'45.20 %' for a share, other numbers as they are: '0.8312'."""
    if unit == "%":
        return f"{100 * value:.2f} %"
    return f"{value:.4g} {unit}".rstrip()


def _interval(row: Row) -> str:
    if math.isnan(row.low):
        return ""
    low, high = (shown(end, row.unit).split()[0] for end in (row.low, row.high))
    return f"{low} - {high}"


def size(strength: float) -> str:
    """'8/255' for 8 / 255, and plain numbers as they are."""
    levels = strength * 255
    if 0 < levels < 255 and abs(levels - round(levels)) < 1e-9:
        return f"{round(levels)}/255"
    return f"{strength:g}"
