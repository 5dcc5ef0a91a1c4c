"""The report on some runs: a folder of tables and pictures."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from absl import logging

from tfssl.reporting import (
    alike,
    chhipa2023,
    corruption_tables,
    corruptions,
    differences,
    pages,
    panels,
    plots,
    rows,
    summaries,
    tables,
)
from tfssl.types import UserError

PRESETS = {"chhipa2023": chhipa2023.write}
"""Pages that answer the questions of a paper: `write(rows, path)`."""


def write(
    folders: Sequence[str | Path],
    out: str | Path,
    baseline: str | None = None,
    preset: str | None = None,
    allow_unlike: bool = False,
) -> str:
    """Writes the tables and curves of all finished cells; see `bin/report --help`.

    Args:
      folders: Run directories, or directories of such.
      out: Is made if needed. Files of the same names are replaced.
      baseline: Name of the run to subtract from the others.
      preset: Also write `<preset>.html`, one of `PRESETS`.
      allow_unlike: Whether to put together what was not measured or trained alike; the
        notes of the tables say what was not measured so.

    Returns:
      The tables as plain text.

    Raises:
      UserError: There is nothing to report, cells contradict each other, were not
        measured alike, or no run is called `baseline`.
    """
    measured = rows.read(folders)
    if not allow_unlike:
        alike.check(measured)
    corrupted = corruptions.groups(measured)
    others = panels.without(corruptions.without(measured, corrupted))
    others = corruptions.averaged(others)
    kinds = {"table": summaries.summarise(others)}
    if baseline:
        names = measured["run"].unique()
        if baseline not in names:
            raise UserError(
                f"no run is called {baseline}: there are {', '.join(names)}"
            )
        # It may have errors under corruptions and nothing else.
        beside = baseline in set(others["run"])
        kinds["differences"] = (
            differences.differences(others, baseline) if beside else []
        )
    if corrupted:
        kinds["corruptions"] = [
            summary
            for group in corrupted
            for summary in (
                *corruption_tables.summaries(group),
                *corruption_tables.relative(group, baseline),
            )
        ]
        if baseline:
            kinds["corruptions-differences"] = [
                summary
                for group in corrupted
                if baseline in group.runs
                for summary in corruption_tables.summaries(group, baseline)
            ]

    _name_left_out([summary for found in kinds.values() for summary in found])

    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    _write(out / "rows.csv", rows.to_csv(measured))
    text = []
    for kind, found in kinds.items():
        pages = [tables.table(summary) for summary in found]
        text.append(tables.to_text(pages))
        for ending, page in (
            ("csv", tables.to_csv(pages)),
            ("md", tables.to_markdown(pages)),
            ("tex", tables.to_latex(pages)),
        ):
            _write(out / f"{kind}.{ending}", page)
        for summary in found:
            # A single strength makes no curve.
            if len(summary.strengths) > 1 and summary.listed:
                plots.save(summary, out / _picture(kind, summary))
    if preset:
        PRESETS[preset](measured, out / f"{preset}.html")
    return "\n".join(text)


def _name_left_out(found: Sequence[summaries.Summary]) -> None:
    """Logs which runs have no number in how many of the tables."""
    counts = Counter(
        run for summary in found for run in summary.runs if run not in summary.listed
    )
    if counts:
        names = [f"{run} ({n} of {len(found)} tables)" for run, n in counts.items()]
        logging.info("left out where they have no number: %s", ", ".join(names))


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")


def _picture(kind: str, summary: summaries.Summary) -> str:
    """For instance 'curve-digits-test-pgd20-linf-accuracy.png'."""
    name = "curve" if kind == "table" else kind
    parts = [name] + [getattr(summary, part) for part in pages.GROUP]
    return re.sub(r"[^\w.-]+", "_", "-".join(parts)) + ".png"
