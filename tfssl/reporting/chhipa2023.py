"""The six questions of Chhipa et al. 2023, answered from the runs at hand.

Can self-supervised representation learning methods withstand distribution shifts and
corruptions? (https://arxiv.org/abs/2308.02525, the questions as its poster has them.)
An answer says what the numbers say, of whichever runs there are.
"""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
from scipy import stats

from tfssl.reporting import corruption_scores as scores
from tfssl.reporting import corruption_tables, corruptions, page, panels, tables
from tfssl.reporting.corruptions import Group
from tfssl.reporting.tables import Table
from tfssl.types import UserError

TITLE = "Self-supervised representations under corruptions"


def write(rows: pd.DataFrame, path: Path) -> None:
    """Writes the page.

    Args:
      rows: As from `rows.read`.
      path: The .html file.

    Raises:
      UserError: No run was measured under all 19 corruptions.
    """
    found = corruptions.groups(rows)
    groups = [whole for whole in map(corruptions.of_all, found) if whole]
    if not groups:
        raise UserError(
            "no run was measured under all 19 corruptions at five severities: evaluate"
            " with a file of gin/evaluation/ that does, such as corruptions_cifar.gin"
        )
    made = page.Page(TITLE)
    made.paragraph(
        "Questions of Chhipa et al. 2023 (arXiv 2308.02525). Errors are top-1, in"
        " percent; 'mean of 19' is what the paper calls mCE. Intervals are over the"
        " images where there is one seed, deviations over seeds where there are more."
    )
    there = {run for group in groups for run in group.runs}
    some = rows[(rows["metric"] == "accuracy") & rows["perturbation"].isin(scores.ALL)]
    absent = [run for run in some["run"].unique() if run not in there]
    if absent:
        made.paragraph(f"Not measured under all 19: {', '.join(absent)}.")
    for group in groups:
        _group(made, group, rows)
    made.write(path)


def _group(made: page.Page, group: Group, rows: pd.DataFrame) -> None:
    made.heading(group.title)
    found = corruption_tables.summaries(group)
    overall, by_severity = found[0], found[1]
    made.table(tables.table(overall))
    for summary in corruption_tables.relative(group):
        made.table(tables.table(summary))

    made.heading("Q1. Does the error rise with severity, for all?")
    made.plot(page.curves(by_severity))
    made.table(tables.table(by_severity))
    for run in group.runs:
        made.paragraph(_rises(group, run))

    made.heading("Q2. Robust at low severities, and not at high ones?")
    made.table(_lost(group))

    made.heading("Q3. Which group of corruptions is the worst?")
    made.table(_worst(group))
    for summary in corruption_tables.by_group(group):
        made.plot(page.curves(summary))

    made.heading("Q4. Where does the error not rise with severity?")
    made.table(_falls(group))
    _ssim(made, group, rows)

    made.heading("Q5. Does the classifier look elsewhere as severity grows?")
    _cam(made, group, rows)

    _panels(made, group, rows)

    made.heading("Q6. Are transformers more robust than convolutional networks?")
    made.paragraph(_transformers(group))

    made.heading("As the paper's code has it")
    for summary in found:
        if "Chhipa" in summary.metric:
            made.table(tables.table(summary))


def _errors(group: Group, run: str) -> dict[tuple[str, int], float]:
    """The means over the seeds of a run, by cell."""
    seeds = list(group.runs[run].values())
    return {
        (c, s): sum(seed.errors[c, s] for seed in seeds) / len(seeds)
        for c in scores.ALL
        for s in scores.SEVERITIES
    }


def _clean(group: Group, run: str) -> float:
    seeds = list(group.runs[run].values())
    return sum(seed.clean for seed in seeds) / len(seeds)


def _rises(group: Group, run: str) -> str:
    errors = _errors(group, run)
    means = [scores.mean_error(errors, severities=[s]) for s in scores.SEVERITIES]
    steps = [f"{100 * mean:.1f}" for mean in means]
    if means != sorted(means):
        return f"{run}: no, {', '.join(steps)}."
    return f"{run}: yes, in the mean over the 19 corruptions: {' < '.join(steps)}."


def _lost(group: Group) -> Table:
    """How many points more are wrong than of clean images, by severity."""
    rows, doubts = [], {}
    for run, seeds in group.runs.items():
        for seed in seeds.values():
            if "clean" in seed.rows:
                marks = seed.rows["clean"].marks
                doubts |= dict.fromkeys(sorted(mark.sentence for mark in marks))
        errors, clean = _errors(group, run), _clean(group, run)
        lost = [
            scores.mean_error(errors, severities=[s]) - clean for s in scores.SEVERITIES
        ]
        known = not math.isnan(clean)
        rows.append([run, *(f"{100 * x:+.1f}" if known else tables.GAP for x in lost)])
    return Table(
        f"{group.title}: error, mean of 19, minus clean error (percentage points)",
        ["run", *map(str, scores.SEVERITIES)],
        rows,
        ["Means over seeds.", *(f"In doubt: {doubt}." for doubt in doubts)],
    )


def _worst(group: Group) -> Table:
    header = ["run"]
    rows = [[run] for run in group.runs]
    for name, grouping in scores.GROUPINGS.items():
        header += [f"worst ({name})", "its error", "second", "its error"]
        for row, run in zip(rows, group.runs, strict=True):
            means = scores.group_means(_errors(group, run), grouping)
            means.pop("extra", None)
            first, second, *_ = sorted(means, key=means.get, reverse=True)
            for one in (first, second):
                row += [one, f"{100 * means[one]:.1f}"]
    return Table(
        f"{group.title}: groups of the largest mean error (%)",
        header,
        rows,
        [
            "folders: as the benchmark groups them, without the four extra corruptions;"
            " notebook: as the figures of Chhipa et al. 2023 do, where brightness is"
            " digital and not weather."
        ],
    )


def _falls(group: Group) -> Table:
    rows = []
    for run in group.runs:
        falls = scores.not_monotone(_errors(group, run))
        text = "; ".join(
            f"{name} at {', '.join(map(str, at))}" for name, at in falls.items()
        )
        rows.append([run, text or "nowhere"])
    return Table(
        f"{group.title}: severities at which the error is lower than one before",
        ["run", "corruptions and severities"],
        rows,
        ["Means over seeds; differences may be within the noise of the sample."],
    )


def _here(rows: pd.DataFrame, group: Group) -> pd.DataFrame:
    """Those on the group's images."""
    return rows[(rows["dataset"] == group.dataset) & (rows["split"] == group.split)]


def _cells(
    rows: pd.DataFrame, group: Group, metric: str
) -> dict[str, dict[tuple[str, int], float]]:
    """A metric of the cells on the group's images, mean over seeds, by run."""
    here = _here(rows, group)
    here = here[(here["metric"] == metric) & here["perturbation"].isin(scores.ALL)]
    found: dict[str, dict[tuple[str, int], float]] = {}
    keys = ["run", "perturbation", "strength"]
    for (run, name, severity), value in here.groupby(keys)["value"].mean().items():
        found.setdefault(run, {})[name, int(severity)] = value
    return found


def _ssim(made: page.Page, group: Group, rows: pd.DataFrame) -> None:
    measured = _cells(rows[rows["evaluator"] == group.evaluator], group, "ssim")
    if not measured:
        made.paragraph("Structural similarity was not measured.")
        return
    # It is the same for all runs of as many examples: the images are.
    first = next(measured[run] for run in [*group.runs, *measured] if run in measured)
    lines = {
        name: [first.get((name, s)) for s in scores.SEVERITIES] for name in scores.ALL
    }
    made.plot(
        page.lines_figure(
            scores.SEVERITIES, lines, "SSIM of corrupted and clean image", "severity"
        )
    )
    shown = next(
        filter(None, (panels.read(_here(rows, group), r) for r in group.runs)), {}
    )
    if shown:
        made.picture(panels.similarity(shown), "SSIM of one image, by severity.")
    result = []
    for run in group.runs:
        errors, ssim = _errors(group, run), measured.get(run, first)
        shared = [cell for cell in errors if cell in ssim]
        rank = math.nan
        if len({errors[cell] for cell in shared}) > 1:
            rank = stats.spearmanr(
                [ssim[cell] for cell in shared], [errors[cell] for cell in shared]
            ).statistic
        rho = tables.GAP if math.isnan(rank) else f"{rank:+.2f}"
        result.append([run, rho, str(len(shared))])
        labels = [f"{name}, {severity}" for name, severity in shared]
        made.plot(
            page.points(
                [ssim[cell] for cell in shared],
                [100 * errors[cell] for cell in shared],
                labels,
                f"Error of {run} against SSIM",
                ("SSIM", "error (%)"),
            )
        )
    made.table(
        Table(
            f"{group.title}: rank correlation of SSIM and error over the cells",
            ["run", "Spearman's rho", "cells"],
            result,
            ["-1: the less alike the image, the larger the error."],
        )
    )


def _cam(made: page.Page, group: Group, rows: pd.DataFrame) -> None:
    here = _here(rows, group)
    here = here[here["run"].isin(group.runs)]
    evaluators = sorted(here["evaluator"][here["metric"] == "cam cosine"].unique())
    if not evaluators:
        made.paragraph("Grad-CAM was not measured.")
    for evaluator in evaluators:
        its = here[here["evaluator"] == evaluator]
        _likeness(made, group, evaluator, _cells(its, group, "cam cosine"))


def _mean_at(cells: dict[tuple[str, int], float], severity: int) -> float | None:
    """The mean over the corruptions that were measured; None if none was."""
    values = [value for (_, s), value in cells.items() if s == severity]
    return sum(values) / len(values) if values else None


def _likeness(
    made: page.Page,
    group: Group,
    evaluator: str,
    measured: dict[str, dict[tuple[str, int], float]],
) -> None:
    """What one evaluator measured, whichever corruptions it had: its name says it."""
    lines = {
        run: [_mean_at(measured[run], s) for s in scores.SEVERITIES]
        for run in group.runs
        if run in measured
    }
    made.plot(
        page.lines_figure(
            scores.SEVERITIES,
            lines,
            f"{evaluator}: cosine of Grad-CAM's maps, mean over corruptions",
            "severity",
        )
    )
    made.table(
        Table(
            f"{group.dataset} {group.split}, {evaluator}: cosine of Grad-CAM's maps of"
            " clean and corrupted images",
            ["run", *map(str, scores.SEVERITIES)],
            [
                [run, *(tables.GAP if x is None else f"{x:.3f}" for x in line)]
                for run, line in lines.items()
            ],
            ["1: the classifier looks at the same place. Means over corruptions."],
        )
    )


def _panels(made: page.Page, group: Group, rows: pd.DataFrame) -> None:
    for run in group.runs:
        for name, cells in panels.read(_here(rows, group), run).items():
            drawn = "Grad-CAM for the image's label"
            if all("attention" in cell for cell in cells.values()):
                drawn += ", then the attention of the class token"
            made.picture(
                panels.maps(cells),
                f"{run}, {name}: images as they are, then at each severity; below each"
                f" its map, alone and on the image: {drawn}. A green border: classified"
                " right; red: wrong.",
            )


def _transformers(group: Group) -> str:
    """By their names: runs are told apart by 'vit' in them."""
    vits = [run for run in group.runs if "vit" in run.lower()]
    others = [run for run in group.runs if run not in vits]
    if not vits or not others:
        return "There are not both: runs with and without 'vit' in their names."
    means = {run: scores.mean_error(_errors(group, run)) for run in group.runs}
    best, best_other = (min(runs, key=means.get) for runs in (vits, others))
    verb = "lower" if means[best] < means[best_other] else "not lower"
    return (
        f"The best run with 'vit' in its name, {best}, has a mean error of"
        f" {100 * means[best]:.1f} %, {verb} than the best other, {best_other},"
        f" {100 * means[best_other]:.1f} %. They may differ in more than that."
    )
