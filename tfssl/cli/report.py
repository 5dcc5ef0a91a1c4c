"""Turns evaluated runs into tables and curves.

  bin/report RUN_DIR [RUN_DIR ...] --out DIR [--baseline NAME]

RUN_DIR is a run's directory, or one that holds runs at any depth, or a CSV file of
numbers such as the rows.csv of another report, or those published of a paper. Nothing
is measured here: what bin/evaluate has finished is put together, runs of the same name
as seeds of one row. In DIR are written

  rows.csv           every number and where it comes from, for plots of your own
  table.csv|md|tex   one row per run, one column per epsilon or severity, in percent;
                     AutoAttack's stages and checks of attacks are tables of their own
  curve-*.png        the same as curves
  corruptions.csv|md|tex, corruptions-*.png
                     of evaluators that measured all corruptions: errors by severity and
                     by corruption, means and mCE

and with --baseline NAME, the name of the run to compare with,

  differences.csv|md|tex   each run minus the baseline, and where that changes sign
  differences-*.png        the same as curves; and so for corruptions

With --preset chhipa2023, if all 19 corruptions were measured, chhipa2023.html answers
the six questions of that paper (arXiv 2308.02525) for the runs at hand, in one page
that needs no network, with plots that show their numbers.

Numbers of one column that were measured by other settings (an attack's steps, say, or
the examples), and seeds of one run that were trained by others, are refused; with
--allow_unlike the notes say which settings differ. Of numbers from CSV files without
the column "settings" nothing is known.

"45.2 ± 0.3" is mean and sample standard deviation over seeds, "45.2 [43.1, 47.3]" one
seed with its 95 % interval over the examples. A dash is what was not measured, or not
comparably; below the table stands why. A run that has no number at all in a table is
left out of it and of its curves. A letter at a number means that the evaluation found
reasons to doubt it: they stand below the table, in CSV files their names are in the
column "marks", and the run's curve has hollow markers. The same results give the same
files, byte for byte.

Examples:

  bin/report runs --out report
  bin/report runs/at runs/at_rotation --out report --baseline at
  bin/report published/chhipa2023.csv --out report --preset chhipa2023
"""

from __future__ import annotations

from absl import flags

from tfssl.cli import app
from tfssl.reporting import report
from tfssl.types import UserError

OUT = flags.DEFINE_string("out", None, "The folder to write to.")
BASELINE = flags.DEFINE_string("baseline", None, "Name of the run to compare with.")
PRESET = flags.DEFINE_enum(
    "preset", None, list(report.PRESETS), "Also write a page for a paper's questions."
)

ALLOW_UNLIKE = flags.DEFINE_bool(
    "allow_unlike",
    False,
    "Put together what was not measured or trained alike as well.",
)


def main(folders: list[str]) -> None:
    """The program, after its flags are parsed."""
    if not folders:
        raise UserError("no run directories given; see --help")
    if not OUT.value:
        raise UserError("--out is missing: the folder to write the report to")
    print(
        report.write(
            *(folders, OUT.value, BASELINE.value, PRESET.value, ALLOW_UNLIKE.value)
        )
    )
    print(f"written to {OUT.value}")


def run() -> None:
    """The console script."""
    app.run(main, __doc__, arguments=True)
