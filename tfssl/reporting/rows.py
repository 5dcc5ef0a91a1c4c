"""From run directories to one DataFrame with a line per measured number.

A finished cell is a file `<run_dir>/results/<evaluator>/<cell>.json`:

    {"key": ..., "row": {the fields of types.Row}, "settings": {...}, "seconds": 1.2}

A CSV file with the fields of `types.Row` as columns, such as the `rows.csv` that a
report has or the published tables in `published/`, is read as well.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path

import pandas as pd
from absl import logging

from tfssl import types
from tfssl.reporting import marks

FIELDS = [field.name for field in dataclasses.fields(types.Row)]
NUMBERS = ["seed", "strength", "value", "n", "low", "high"]
MEASURED = ["run", "seed", "dataset", "split", "evaluator", "perturbation"] + [
    "strength",
    "metric",
]
"""What identifies a number: two rows that agree in these claim the same thing."""


def read(folders: Iterable[str | Path]) -> pd.DataFrame:
    """Reads all finished cells of some runs.

    Args:
      folders: Run directories, or directories that contain some at any depth, or CSV
        files with a column for each field of `types.Row`; `low`, `high`, `seed` and
        `unit` may be missing. Names in a column `marks`, joined by ';', are reasons to
        doubt, and a column `reason` is the sentence to them.

    Returns:
      A DataFrame with the fields of `types.Row` and
        epsilon_train  the manifest's `epsilon`, in [0, 1] units, if the run was trained
                       against the norm of the row's perturbation; otherwise NaN
        settings       the evaluator's settings, as JSON
        run_dir, cell  where it was read: the cell's file is `run_dir/cell`
        marks          the reasons to doubt it, a frozenset of `marks.Mark`
      Runs come in the order of `folders`, and by path within a folder; the rows of
      a run by seed, evaluator and strength. A number that is found twice and agrees
      is kept once, with the marks of both. Unreadable cells are skipped with a warning.

    Raises:
      UserError: A folder or file does not exist or holds no result, or two cells claim
        the same number and disagree in it or in their settings.
    """
    cells, known = {}, {}
    for folder in map(Path, folders):
        if folder.suffix == ".csv" and folder.is_file():
            for cell in _read_csv(folder):
                _add(cells, cell)
            continue
        if not folder.is_dir():
            raise types.UserError(f"{folder} is no folder; give run directories")
        found = [_read_cell(path) for path in _cell_paths(folder)]
        if not any(found):
            raise types.UserError(
                f"{folder} holds no results: evaluate its runs first (bin/evaluate)"
            )
        for cell in filter(None, found):
            run_dir = cell["run_dir"]
            if run_dir not in known:
                known[run_dir] = marks.read(Path(run_dir))
            _add(cells, cell | {"marks": marks.of(cell, known[run_dir])})

    rows = pd.DataFrame(list(cells.values()))
    # Names in the order of appearance, the rest by value.
    rows["order"] = pd.factorize(rows["run"])[0]
    by = ["order"] + [name for name in MEASURED if name != "run"]
    return rows.sort_values(by, ignore_index=True).drop(columns="order")


def _cell_paths(folder: Path) -> list[Path]:
    """All `results/<evaluator>/<cell>.json` in and below a folder, by path."""
    # A run or a folder of runs may itself be called results, so that these fit too.
    others = ("manifest.json", "marks.json", "environments.json")
    paths = folder.rglob("results/*/*.json")
    return sorted(path for path in paths if path.name not in others)


def _read_cell(path: Path) -> dict | None:
    """One line of the DataFrame, or None with a warning if the file is no cell."""
    try:
        cell = json.loads(path.read_text(encoding="utf-8"))
        line = dataclasses.asdict(types.Row(**cell["row"]))
        line |= {name: float(line[name]) for name in NUMBERS}
        line |= {name: int(line[name]) for name in ("seed", "n")}
        settings = json.dumps(dict(cell["settings"]), sort_keys=True)
    except (ValueError, TypeError, KeyError) as error:
        logging.warning("skipped %s, no finished cell: %s", path, error)
        return None
    run_dir = path.parents[2]
    return line | {
        "epsilon_train": _epsilon_train(run_dir, line["perturbation"]),
        "settings": settings,
        "run_dir": str(run_dir),
        "cell": str(path.relative_to(run_dir)),
    }


def _read_csv(path: Path) -> list[dict]:
    """The lines of the DataFrame that a CSV file holds."""
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        defaults = {"seed": "0", "low": "nan", "high": "nan", "unit": "%"}
        missing = {k: v for k, v in defaults.items() if k not in table}
        table = table.assign(**missing)
        lines = []
        for place, line in enumerate(table.to_dict("records"), start=2):
            cell = {name: line[name] for name in FIELDS}
            cell |= {name: float(cell[name] or "nan") for name in NUMBERS}
            cell |= {name: int(cell[name]) for name in ("seed", "n")}
            names = filter(None, line.get("marks", "").split(";"))
            sentence = line.get("reason") or f"marked in {path.name}"
            lines.append(
                cell
                | {
                    "epsilon_train": float(line.get("epsilon_train") or "nan"),
                    "settings": line.get("settings") or "{}",
                    "run_dir": str(path),
                    "cell": f"line {place}",
                    "marks": frozenset(
                        marks.Mark(name, cell["run"], cell["seed"], sentence)
                        for name in names
                    ),
                }
            )
            json.loads(lines[-1]["settings"])
    except (OSError, ValueError, KeyError) as error:
        raise types.UserError(
            f"{path} is no table with the columns {', '.join(FIELDS)}: {error}"
        ) from None
    if not lines:
        raise types.UserError(f"{path} holds no numbers")
    return lines


def _epsilon_train(run_dir: Path, norm: str) -> float:
    """The epsilon a run was trained with in this norm; NaN if it was not."""
    try:
        manifest = json.loads((run_dir / "manifest.json").read_text(encoding="utf-8"))
        if manifest.get("norm", norm) == norm:
            return types.fraction(manifest["epsilon"])
    except (OSError, ValueError, KeyError):
        pass  # No manifest, or no epsilon: a foreign model, or trained without attack.
    return float("nan")


def _add(cells: dict[tuple, dict], cell: dict) -> None:
    """Adds a cell unless it is there already.

    Raises:
      UserError: It is there and says something else.
    """
    first = cells.setdefault(tuple(cell[name] for name in MEASURED), cell)
    # As text, so that NaN equals NaN.
    differing = [name for name in FIELDS if str(first[name]) != str(cell[name])]
    differing += differing_settings([first["settings"], cell["settings"]])
    if differing:
        raise types.UserError(
            f"{first['run_dir']}/{first['cell']} and {cell['run_dir']}/{cell['cell']}"
            f" both claim to be run {cell['run']}, seed {cell['seed']}, but differ in"
            f" {', '.join(differing)}: leave one out, or name the runs differently"
        )
    first["marks"] |= cell["marks"]


def to_csv(rows: pd.DataFrame) -> str:
    """What `read` returns as text, with the names of the marks joined by ';'."""
    names = [";".join(sorted({m.name for m in found})) for found in rows["marks"]]
    return rows.assign(marks=names).to_csv(index=False, lineterminator="\n")


def differing_settings(settings: Iterable[str]) -> list[str]:
    """The names of the settings, each given as JSON, that are not the same in all."""
    loaded = [json.loads(text) for text in settings]
    names = {name for each in loaded for name in each}
    texts = {name: {json.dumps(each.get(name)) for each in loaded} for name in names}
    return sorted(name for name, different in texts.items() if len(different) > 1)
