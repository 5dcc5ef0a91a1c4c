"""A summary as a picture: one curve over the strength per run."""

from __future__ import annotations

import math
import textwrap
from itertools import pairwise
from pathlib import Path

from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tfssl.reporting.summaries import Summary

# Okabe and Ito's palette for all kinds of colour vision, without its yellow, which is
# too light for a line. Markers and dashes tell the curves apart in grey.
COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9"]
MARKERS = ["o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "h"]
DASHES = ["-", "--", "-.", (0, (1, 1)), (0, (5, 1, 1, 1, 1, 1))]


def save(summary: Summary, path: Path) -> None:
    """Writes a PNG of 5.5 inches width; the same summary gives the same bytes."""
    # No pyplot: it keeps global state, and looks for a screen.
    columns = 2 if max(len(_name(summary, run)) for run in summary.listed) < 28 else 1
    height = 3.6 + 0.18 * math.ceil(len(summary.listed) / columns)
    figure = Figure(figsize=(5.5, height), dpi=200, layout="constrained")
    axes = figure.add_subplot()
    unit = 255 if summary.in_255ths else 1
    for index, run in enumerate(summary.runs):
        if run in summary.listed:
            _curve(axes, summary, run, index, unit)
    for epsilon in summary.epsilons_train:
        axes.axvline(epsilon * unit, color="0.35", linestyle="--", linewidth=1)
        axes.annotate(
            "epsilon in training",
            (epsilon * unit, 1),
            xycoords=("data", "axes fraction"),
            xytext=(2, -2),
            textcoords="offset points",
            rotation=90,
            va="top",
            fontsize=8,
            color="0.35",
        )
    _dress(axes, summary, unit)
    figure.legend(
        loc="outside lower center",
        ncols=columns,
        handlelength=3.2,
        fontsize=9,
        frameon=False,
    )
    # Without the name of the program, which carries matplotlib's version.
    figure.savefig(path, metadata={"Software": None})


def _curve(axes: Axes, summary: Summary, run: str, index: int, unit: int) -> None:
    """One run; a gap in the numbers is a gap in the line, doubts are hollow markers."""
    estimates = [summary.estimates.get((run, s)) for s in summary.strengths]
    scale = summary.scale
    means = [scale * e.mean if e else math.nan for e in estimates]
    bars = [
        [scale * (e.mean - e.low) if e else math.nan for e in estimates],
        [scale * (e.high - e.mean) if e else math.nan for e in estimates],
    ]
    color = COLORS[index % len(COLORS)]
    doubtful = summary.doubtful(run)
    axes.errorbar(
        [strength * unit for strength in summary.strengths],
        means,
        yerr=bars,
        label=_name(summary, run),
        color=color,
        marker=MARKERS[index % len(MARKERS)],
        linestyle=DASHES[index % len(DASHES)],
        markersize=5.5,
        markerfacecolor="white" if doubtful else color,
        markeredgecolor=color if doubtful else "white",
        markeredgewidth=1 if doubtful else 0.5,
        linewidth=1.4,
        elinewidth=1,
        capsize=2.5,
    )


def _name(summary: Summary, run: str) -> str:
    return f"{run} (in doubt: see the table)" if summary.doubtful(run) else run


def _dress(axes: Axes, summary: Summary, unit: int) -> None:
    """Title, axes and grid."""
    kinds = {estimate.seeds > 1 for estimate in summary.estimates.values()}
    bars = ["± standard deviation over seeds"] * (True in kinds)
    bars += ["95 % interval over examples (one seed)"] * (False in kinds)
    axes.figure.suptitle(textwrap.fill(summary.title, 66), fontsize=10)
    axes.set_title(f"bars: {'; '.join(bars) or 'none'}", fontsize=8)
    if summary.perturbation in ("linf", "l2"):
        axes.set_xlabel(f"epsilon ({summary.perturbation}{', in 1/255' * (unit > 1)})")
        axes.set_xlim(left=min(0, *axes.get_xlim()))
    else:
        axes.set_xlabel("severity")
    what = "difference" if summary.baseline else summary.metric
    axes.set_ylabel(what + summary.shown_unit)
    if summary.baseline:
        axes.axhline(0, color="0", linewidth=0.8)
    ticks = [strength * unit for strength in summary.strengths]
    # Only where the labels do not run into each other.
    if min(b - a for a, b in pairwise(ticks)) > 0.05 * (ticks[-1] - ticks[0]):
        axes.set_xticks(ticks)
    axes.xaxis.set_major_formatter(ticker.FormatStrFormatter("%.4g"))
    axes.grid(color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
