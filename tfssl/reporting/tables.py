"""Tables of summaries, as CSV, Markdown, LaTeX and plain text.

No value is set in bold: which of two numbers is larger says little without their
spread, and that stands beside each.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import re

from tfssl.reporting.differences import crossings
from tfssl.reporting.summaries import Estimate, Summary

GAP = "\N{EN DASH}"

LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
    GAP: "--",
    **{char: "\\" + char for char in "&%$#_{}"},
}


@dataclasses.dataclass(frozen=True)
class Table:
    """What all the writers write: text.

    Attributes:
      title: One line.
      header: [columns]; the first column names the run.
      rows: Of as many columns each.
      notes: A sentence each: what the numbers are, and what is missing.
    """

    title: str
    header: list[str]
    rows: list[list[str]]
    notes: list[str]


def table(summary: Summary) -> Table:
    """One row per run, one column per strength, in percent.

    A summary of differences is in percentage points, with signs, and, if there are
    several strengths, has a column for where the difference crosses zero.
    """
    with_crossing = bool(summary.baseline) and len(summary.strengths) > 1
    rows = []
    for run in summary.runs:
        estimates = [summary.estimates.get((run, s)) for s in summary.strengths]
        cells = [_cell(estimate, bool(summary.baseline)) for estimate in estimates]
        if with_crossing:
            cells.append(_crossing(summary, estimates))
        rows.append([run, str(summary.seeds(run) or GAP)] + cells)
    header = ["run", "seeds"] + [summary.label(s) for s in summary.strengths]
    return Table(
        title=summary.title + (" (percentage points)" if summary.baseline else " (%)"),
        header=header + ["crossing"] * with_crossing,
        rows=rows,
        notes=_notes(summary, with_crossing),
    )


def _cell(estimate: Estimate | None, signed: bool) -> str:
    """'45.2 ± 0.3' over seeds, '45.2 [43.1, 47.3]' with one seed."""
    if estimate is None:
        return GAP
    sign = "+" if signed else ""
    # Adding 0 makes a rounded -0.0 positive.
    mean, low, high = (
        f"{round(100 * share, 1) + 0.0:{sign}.1f}"
        for share in (estimate.mean, estimate.low, estimate.high)
    )
    if estimate.seeds > 1:
        return f"{mean} ± {50 * (estimate.high - estimate.low):.1f}"
    return mean if math.isnan(estimate.low) else f"{mean} [{low}, {high}]"


def _crossing(summary: Summary, estimates: list[Estimate | None]) -> str:
    """'7.3/255', several joined by commas, or 'none'."""
    if None in estimates:
        return GAP
    found = crossings(summary.strengths, [estimate.mean for estimate in estimates])
    return ", ".join(summary.label(strength) for strength in found) or "none"


def _notes(summary: Summary, with_crossing: bool) -> list[str]:
    """Says what the numbers are, and what is missing why."""
    estimates = summary.estimates.values()
    n = sorted({estimate.n for estimate in estimates})
    notes = [f"n = {n[0]} examples."] if len(n) == 1 else []
    if len(n) > 1:
        notes.append(f"n = {n[0]} to {n[-1]} examples: not the same in all cells.")
    what = f"Difference from {summary.baseline}, paired" if summary.baseline else "Mean"
    if any(estimate.seeds > 1 for estimate in estimates):
        notes.append(f"{what} over seeds ± sample standard deviation over seeds.")
    if any(e.seeds == 1 and not math.isnan(e.low) for e in estimates):
        kind = "paired normal" if summary.baseline else "Wilson"
        notes.append(f"One seed: [95 % {kind} interval over the examples].")
    if summary.baseline:
        notes.append(f"Seeds: those that a run and {summary.baseline} both have.")
    if any(e.seeds == 1 and math.isnan(e.low) for e in estimates):
        notes.append("One seed and no outcomes per example: no interval.")
    if with_crossing:
        notes.append(
            "Crossing: where the mean difference changes sign, linearly interpolated;"
            " as uncertain as the differences beside it."
        )
    if summary.unlike:
        differing = ", ".join(summary.unlike)
        notes.append(f"Caution, settings differ between the cells: {differing}.")
    for (run, reason), strengths in summary.gaps.items():
        labels = ", ".join(summary.label(strength) for strength in strengths)
        notes.append(f"{GAP} {run} at {labels}: {reason}.")
    return notes


def to_csv(tables: list[Table]) -> str:
    """All tables below each other: a column for the title, then all their columns."""
    columns = list(dict.fromkeys(name for table in tables for name in table.header))
    out = io.StringIO()
    writer = csv.DictWriter(out, ["table"] + columns, restval="", lineterminator="\n")
    writer.writeheader()
    for table in tables:
        for row in table.rows:
            cells = dict(zip(table.header, row, strict=True))
            writer.writerow({"table": table.title} | cells)
    return out.getvalue()


def to_markdown(tables: list[Table]) -> str:
    """Tables as GitHub shows them."""
    parts = []
    for table in tables:
        rule = ["---"] + ["---:"] * (len(table.header) - 1)
        lines = [table.header, rule] + table.rows
        body = ["| " + " | ".join(map(_markdown, line)) + " |" for line in lines]
        notes = [_markdown(note) for note in table.notes]
        parts.append(
            "\n".join([f"### {_markdown(table.title)}", "", *body, "", *notes])
        )
    return "\n\n".join(parts) + "\n"


def _markdown(text: str) -> str:
    return re.sub(r"([\\|*_`<>\[\]])", r"\\\1", text)


def to_latex(tables: list[Table]) -> str:
    """Table environments for a paper that uses the package booktabs."""
    parts = []
    for table in tables:
        caption = " ".join([table.title + "."] + table.notes)
        lines = [" & ".join(map(_latex, row)) + r" \\" for row in table.rows]
        head = " & ".join(map(_latex, table.header)) + r" \\"
        parts.append(
            "\n".join(
                [
                    r"\begin{table}",
                    r"  \centering",
                    f"  \\caption{{{_latex(caption)}}}",
                    f"  \\begin{{tabular}}{{l{'r' * (len(table.header) - 1)}}}",
                    r"    \toprule",
                    f"    {head}",
                    r"    \midrule",
                    *(f"    {line}" for line in lines),
                    r"    \bottomrule",
                    r"  \end{tabular}",
                    r"\end{table}",
                ]
            )
        )
    return "% Needs \\usepackage{booktabs}.\n" + "\n\n".join(parts) + "\n"


def _latex(text: str) -> str:
    escaped = "".join(LATEX.get(char, char) for char in text)
    # A minus sign rather than a hyphen before a number.
    return re.sub(r"(^|[ \[])-(?=\d)", r"\1$-$", escaped)


def to_text(tables: list[Table]) -> str:
    """Aligned columns, for the terminal."""
    parts = []
    for table in tables:
        lines = [table.header] + table.rows
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        body = [
            "  ".join(
                [line[0].ljust(widths[0])]
                + [cell.rjust(w) for cell, w in zip(line[1:], widths[1:], strict=True)]
            )
            for line in lines
        ]
        parts.append("\n".join([table.title, *body, *table.notes]))
    return "\n\n".join(parts) + "\n"
