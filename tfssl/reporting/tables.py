"""Tables of summaries, as CSV, Markdown, LaTeX and plain text.

No value is set in bold: which of two numbers is larger says little without their
spread, and that stands beside each. A number in doubt has a letter, a superscript or,
in plain text, in parentheses, and the notes say why. The CSV has a column for the names
of the marks instead, as programs read its cells.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import re
import string
from collections.abc import Callable

from tfssl.reporting import marks
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
      marks: Names of the reasons to doubt a cell, by its row and column.
      reasons: Lines that explain each name, in the order of their letters.
    """

    title: str
    header: list[str]
    rows: list[list[str]]
    notes: list[str]
    marks: dict[tuple[int, int], list[str]] = dataclasses.field(default_factory=dict)
    reasons: dict[str, list[str]] = dataclasses.field(default_factory=dict)

    def letters(self, row: int, column: int) -> str:
        """Those of a cell: 'a,c', or nothing."""
        names = list(self.reasons)
        found = sorted(map(names.index, self.marks.get((row, column), [])))
        return ",".join(map(_letter, found))

    def explained(self) -> list[tuple[str, str]]:
        """Pairs of a letter and a line that explains it."""
        return [
            (_letter(index), line)
            for index, lines in enumerate(self.reasons.values())
            for line in lines
        ]


def _letter(index: int) -> str:
    """a to z, then aa to zz."""
    return string.ascii_lowercase[index % 26] * (index // 26 + 1)


def table(summary: Summary) -> Table:
    """One row per run, one column per strength or part; shares in percent.

    A summary of differences is in percentage points, with signs, and, if there are
    several strengths, has a column for where the difference crosses zero.
    """
    with_crossing = bool(summary.baseline) and len(summary.strengths) > 1
    rows, doubts, found = [], {}, []
    for row, run in enumerate(summary.listed):
        estimates = [summary.estimates.get((run, c)) for c in summary.columns]
        known = [estimate for estimate in estimates if estimate]
        found += [(estimate.marks, estimate.seeds) for estimate in known]
        marked = [estimate.marks if estimate else () for estimate in estimates]
        cells = [_cell(estimate, summary) for estimate in estimates]
        if with_crossing:
            cells.append(_crossing(summary, estimates))
            marked.append(() if None in estimates else frozenset().union(*marked))
        for column, reasons in enumerate(marked, start=2):
            if reasons:
                doubts[row, column] = sorted({mark.name for mark in reasons})
        rows.append([run, str(summary.seeds(run))] + cells)
    header = ["run", "seeds"] + [summary.label(c) for c in summary.columns]
    return Table(
        title=summary.title + summary.shown_unit,
        header=header + ["crossing"] * with_crossing,
        rows=rows,
        notes=_notes(summary, with_crossing),
        marks=doubts,
        reasons=marks.explain(found),
    )


def _cell(estimate: Estimate | None, summary: Summary) -> str:
    """'45.2 ± 0.3' over seeds, '45.2 [43.1, 47.3]' with one seed.

    Shares in percent have one digit after the point, other numbers three.
    """
    if estimate is None:
        return GAP
    sign = "+" if summary.baseline else ""
    digits = 1 if summary.unit == "%" else 3
    # Adding 0 makes a rounded -0.0 positive.
    mean, low, high = (
        f"{round(summary.scale * number, digits) + 0.0:{sign}.{digits}f}"
        for number in (estimate.mean, estimate.low, estimate.high)
    )
    if estimate.seeds > 1:
        half = summary.scale * (estimate.high - estimate.low) / 2
        return f"{mean} ± {half:.{digits}f}"
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
        kind = "Wilson " if summary.metric.startswith("accuracy") else ""
        kind = "paired normal " if summary.baseline else kind
        notes.append(f"One seed: [95 % {kind}interval over the examples].")
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
    for (run, reason), columns in summary.gaps.items():
        labels = ", ".join(map(summary.label, columns))
        notes.append(f"{GAP} {run} at {labels}: {reason}.")
    if any(estimate.marks for estimate in estimates):
        notes.append("Letters: reasons to doubt a number.")
    return notes


def to_csv(tables: list[Table]) -> str:
    """All tables below each other: a column for the title, then all their columns.

    If anything is in doubt, the last column says what: '0.5: name, name; 1: name'.
    """
    columns = list(dict.fromkeys(name for table in tables for name in table.header))
    columns += ["marks"] * any(table.marks for table in tables)
    out = io.StringIO()
    writer = csv.DictWriter(out, ["table"] + columns, restval="", lineterminator="\n")
    writer.writeheader()
    for table in tables:
        for index, row in enumerate(table.rows):
            cells = dict(zip(table.header, row, strict=True))
            doubts = [
                f"{name}: {', '.join(table.marks[index, column])}"
                for column, name in enumerate(table.header)
                if (index, column) in table.marks
            ]
            if doubts:
                cells["marks"] = "; ".join(doubts)
            writer.writerow({"table": table.title} | cells)
    return out.getvalue()


def to_markdown(tables: list[Table]) -> str:
    """Tables as GitHub shows them."""
    parts = []
    for table in tables:
        rule = ["---"] + ["---:"] * (len(table.header) - 1)
        rows = _marked(table, _markdown, "<sup>{}</sup>")
        lines = [list(map(_markdown, table.header)), rule, *rows]
        body = ["| " + " | ".join(line) + " |" for line in lines]
        notes = [_markdown(note) for note in table.notes]
        for letter, reason in table.explained():
            notes += ["", f"<sup>{letter}</sup> {_markdown(reason)}"]
        parts.append(
            "\n".join([f"### {_markdown(table.title)}", "", *body, "", *notes])
        )
    return "\n\n".join(parts) + "\n"


def _marked(table: Table, escape: Callable[[str], str], mark: str) -> list[list[str]]:
    """The escaped cells; those in doubt with `mark`, formatted with their letters."""
    return [
        [
            escape(text) + (mark.format(letters) if letters else "")
            for column, text in enumerate(line)
            for letters in [table.letters(row, column)]
        ]
        for row, line in enumerate(table.rows)
    ]


def _markdown(text: str) -> str:
    return re.sub(r"([\\|*_`<>\[\]])", r"\\\1", text)


def to_latex(tables: list[Table]) -> str:
    """Table environments for a paper that uses the package booktabs."""
    parts = []
    for table in tables:
        mark = r"\textsuperscript{{{}}}"
        reasons = [
            f"{mark.format(letter)} {_latex(reason)}"
            for letter, reason in table.explained()
        ]
        notes = list(map(_latex, table.notes))
        caption = " ".join([_latex(table.title + "."), *notes, *reasons])
        lines = [" & ".join(row) + r" \\" for row in _marked(table, _latex, mark)]
        head = " & ".join(map(_latex, table.header)) + r" \\"
        parts.append(
            "\n".join(
                [
                    r"\begin{table}",
                    r"  \centering",
                    f"  \\caption{{{caption}}}",
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
        # Letters stand to the right of the numbers' column.
        marks = [[""] * len(table.header), *_marked(table, lambda _: "", " ({})")]
        margins = [max(map(len, column)) for column in zip(*marks, strict=True)]
        body = [
            "  ".join(
                (cell.rjust(width) if column else cell.ljust(width))
                + mark.ljust(margin)
                for column, (cell, width, mark, margin) in enumerate(
                    zip(line, widths, letters, margins, strict=True)
                )
            ).rstrip()
            for line, letters in zip(lines, marks, strict=True)
        ]
        reasons = [f"({letter}) {reason}" for letter, reason in table.explained()]
        parts.append("\n".join([table.title, *body, *table.notes, *reasons]))
    return "\n\n".join(parts) + "\n"
