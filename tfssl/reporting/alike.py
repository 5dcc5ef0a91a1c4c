"""Whether numbers that are to stand under one name were measured and trained alike."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from tfssl import config, settings
from tfssl.reporting.rows import MEASURED
from tfssl.types import UserError

_FREE = ("model", "seed")
"""Settings of a cell that may differ: what is measured, and the evaluation's draws."""

_SHOWN = 4  # Differences in a message.


def check(rows: pd.DataFrame) -> None:
    """Compares what belongs together, as far as its settings are known.

    The runs of a column: they were measured by the same settings, on the same data.
    Of the data the split that was measured counts; how many examples were trained on
    may be what the runs differ in. The seeds of a run: they were trained by the same
    configuration, but for the seed and what follows from it.

    Args:
      rows: As from `rows.read`.

    Raises:
      UserError: Two differ. The message names both, and the settings.
    """
    columns = [name for name in MEASURED if name not in ("run", "seed")]
    for _, column in rows.groupby(columns, sort=False):
        _check_measured(column)
    for _, run in rows.groupby("run", sort=False):
        _check_trained(run)


def _check_measured(column: pd.DataFrame) -> None:
    first = None
    for row in column.drop_duplicates("settings").itertuples():
        found = json.loads(row.settings)
        if not found:  # Of a published table.
            continue
        if first is None:
            first, reference = row, _comparable(found, row.split)
            continue
        differing = list(settings.differences(reference, _comparable(found, row.split)))
        if differing:
            raise UserError(
                f"{_who(first)} and {_who(row)} were not measured alike:"
                f" {row.evaluator} {row.metric} of {row.perturbation} has another"
                f" {_listed(f'{n} ({a}, {b})' for n, a, b in differing)}. {_ADVICE}"
            )


def _comparable(found: Mapping[str, Any], split: str) -> dict[str, Any]:
    """Those settings that are to be the same in all runs of a column."""
    kept = {name: value for name, value in found.items() if name not in _FREE}
    data = kept.get("dataset")
    if isinstance(data, dict) and split in data.get("splits", {}):
        kept["dataset"] = data | {"splits": {split: data["splits"][split]}}
    return kept


def _check_trained(run: pd.DataFrame) -> None:
    first = None
    for row in run.drop_duplicates("run_dir").itertuples():
        text = _trained_by(row)
        if text is None:
            continue
        if first is None:
            first, reference = row, text
            continue
        differing = config.differences(reference, text)
        if differing:
            raise UserError(
                f"{_who(first)} and {_who(row)} have one name and were not trained"
                f" alike: {_listed(differing)}. {_ADVICE}"
            )


def _trained_by(row: Any) -> str | None:
    """The configuration of a training without its seed; None if there is none.

    A seed may start from the model of that seed, whose path names it.
    """
    try:
        text = Path(row.run_dir, "config.gin").read_text(encoding="utf-8")
    except OSError:  # A model from elsewhere, or a table.
        return None
    text = re.sub(r"^SEED = .*$", "", config.joined(text), flags=re.MULTILINE)
    own = re.compile(rf"(?<!\d){row.seed}(?!\d)")
    return re.sub(
        r"^PRETRAINED = .*$",
        lambda line: own.sub("<seed>", line[0]),
        text,
        flags=re.MULTILINE,
    )


def _who(row: Any) -> str:
    return f"run {row.run}, seed {row.seed} ({row.run_dir})"


def _listed(differences: Iterable[str]) -> str:
    shown = list(differences)
    more = f" and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else ""
    return "; ".join(shown[:_SHOWN]) + more


_ADVICE = (
    "Report them apart, or name them differently, or, with --allow_unlike, together all"
    " the same"
)
