"""From rows to what a table or a plot shows: one estimate per run and column."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable
from typing import Any

import pandas as pd

from tfssl.reporting.marks import Mark
from tfssl.reporting.pages import Page, grouped
from tfssl.reporting.rows import differing_settings

Column = float | str
"""A strength, or the name of a part, see `pages`."""

Measured = dict[str, dict[int, dict[Column, Any]]]
"""The rows of one page: measured[run][seed][column]."""


class GapError(Exception):
    """There is no honest estimate; its message says why."""


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A number, or a difference of two, and how far it is to be trusted.

    Attributes:
      mean: Over the seeds; of shares in [-1, 1].
      low, high: Mean -/+ one sample standard deviation over the seeds; with one seed
        a 95 % interval over the examples, NaN where there is none.
      seeds: Number of seeds.
      n: Number of examples, the same for each seed.
      marks: Reasons to doubt any of the numbers it is made of.
    """

    mean: float
    low: float
    high: float
    seeds: int
    n: int
    marks: frozenset[Mark] = frozenset()


@dataclasses.dataclass(frozen=True)
class Summary:
    """The content of one table, and, if the columns are strengths, of one plot.

    Attributes:
      dataset, split, evaluator, perturbation, metric: What was measured.
      runs: Names, in order: all that have any number on the data set's split, so that
        a run's place, and with it its colour, is that of the other summaries.
      columns: Strengths, ascending, or names of parts, in order.
      estimates: By (run, column). What is missing is not there ...
      gaps: ... and this says why: {(run, reason): columns}. Of runs that were not
        measured in any column there is nothing to say.
      epsilons_train: The epsilons that the runs were trained with, ascending.
      unlike: Settings, the model aside, that differ within a column: the numbers were
        not measured alike.
      strength: If the columns are parts, their strength.
      baseline: If this is about differences, the run that was subtracted.
      unit: Of the numbers, see `types.Row`.
    """

    dataset: str
    split: str
    evaluator: str
    perturbation: str
    metric: str
    runs: list[str]
    columns: list[float] | list[str]
    estimates: dict[tuple[str, Column], Estimate]
    gaps: dict[tuple[str, str], list[Column]]
    epsilons_train: list[float]
    unlike: list[str]
    strength: float | None = None
    baseline: str | None = None
    unit: str = "%"

    @property
    def listed(self) -> list[str]:
        """The runs that have an estimate: the rows of the table, in order."""
        return [run for run in self.runs if self._known(run)]

    @property
    def title(self) -> str:
        """For instance 'digits test, pgd20_linf: accuracy'."""
        known = self.perturbation == "none" or self.perturbation in self.evaluator
        kind = "" if known else f" ({self.perturbation})"
        minus = f" minus that of {self.baseline}" if self.baseline else ""
        plain = not self.strength or self.perturbation == "none"
        at = "" if plain else f" at {self.label(self.strength)}"
        what = f"{self.evaluator}{kind}{at}: {self.metric}{minus}"
        return f"{self.dataset} {self.split}, {what}"

    @property
    def scale(self) -> int:
        """What numbers are multiplied by to be shown."""
        return 100 if self.unit == "%" else 1

    @property
    def shown_unit(self) -> str:
        """' (%)', ' (percentage points)', ' (nats)' or nothing."""
        points = self.unit == "%" and self.baseline
        unit = "percentage points" if points else self.unit
        return f" ({unit})" if unit else ""

    @property
    def strengths(self) -> list[float]:
        """Those of the columns, ascending."""
        return self.columns if self.strength is None else [self.strength]

    @property
    def in_255ths(self) -> bool:
        """Whether all strengths are linf sizes k/255 with whole k."""
        return self.perturbation == "linf" and all(
            math.isclose(s * 255, round(s * 255), abs_tol=1e-6) for s in self.strengths
        )

    def label(self, strength: Column) -> str:
        """A strength as people write it: '8/255', '0.5' or, unperturbed, 'clean'.

        Names of parts stay as they are.
        """
        if isinstance(strength, str):
            return strength
        if self.perturbation == "none":
            return "clean"
        if strength and self.in_255ths:
            return f"{strength * 255:.3g}/255"
        return f"{strength:.4g}"

    def seeds(self, run: str) -> int:
        """Number of seeds behind the estimates of a run, one of `listed`."""
        return max(estimate.seeds for estimate in self._known(run))

    def doubtful(self, run: str) -> bool:
        """Whether any estimate of a run has a mark."""
        return any(estimate.marks for estimate in self._known(run))

    def _known(self, run: str) -> list[Estimate]:
        estimates = (self.estimates.get((run, column)) for column in self.columns)
        return [estimate for estimate in estimates if estimate]


def mean_over_seeds(measured: Measured, run: str, column: Column) -> Estimate:
    """The mean of a run's seeds, and their spread; for one seed, its own interval.

    Raises:
      GapError: A seed was not measured in this column, though others or other
        columns were, or seeds were measured on unequal numbers of examples.
    """
    rows = complete(measured, run, sorted(measured[run]), column)
    if len({row.n for row in rows}) > 1:
        raise GapError("seeds were measured on different numbers of examples")
    if len(rows) == 1:
        (row,) = rows
        return Estimate(row.value, row.low, row.high, 1, row.n, row.marks)
    return spread([row.value for row in rows], rows[0].n, marks_of(rows))


def complete(
    measured: Measured, run: str, seeds: list[int], column: Column
) -> list[Any]:
    """The rows of a run in a column, one per seed.

    Raises:
      GapError: Some are missing.
    """
    rows = {seed: measured[run][seed].get(column) for seed in seeds}
    missing = [str(seed) for seed, row in rows.items() if row is None]
    if len(missing) == len(seeds):
        raise GapError("not measured")
    if missing:
        raise GapError(f"seed {', '.join(missing)} not measured")
    return list(rows.values())


def marks_of(rows: list[Any]) -> frozenset[Mark]:
    """The reasons to doubt any of some rows."""
    return frozenset().union(*(row.marks for row in rows))


def spread(values: list[float], n: int, marks: frozenset[Mark]) -> Estimate:
    """Mean and sample standard deviation (divided by seeds - 1) of two or more."""
    mean, sd = statistics.fmean(values), statistics.stdev(values)
    return Estimate(mean, mean - sd, mean + sd, len(values), n, marks)


def summarise(
    rows: pd.DataFrame,
    estimate: Callable[[Measured, str, Column], Estimate] = mean_over_seeds,
    baseline: str | None = None,
) -> list[Summary]:
    """The summaries of each (data set, split, evaluator, perturbation), by name.

    One per metric, except for metrics that are parts of one whole, see `pages`; none
    where only the baseline was measured.

    Args:
      rows: As from `rows.read`.
      estimate: `estimate(measured, run, column)`; raises GapError if there is none.
      baseline: A run that is not listed, since the others are compared with it.
    """
    summaries = []
    for name, its_pages in grouped(rows):
        here = (rows["dataset"] == name[0]) & (rows["split"] == name[1])
        runs = [run for run in rows[here]["run"].unique() if run != baseline]
        for page in its_pages:
            epsilons = page.rows["epsilon_train"].dropna().unique()
            summary = Summary(
                *name,
                metric=page.metric,
                runs=runs,
                columns=page.columns,
                estimates={},
                gaps={},
                epsilons_train=sorted(epsilons.tolist()),
                unlike=_unlike(page.rows),
                strength=page.strength,
                baseline=baseline,
                unit=page.rows["unit"].iloc[0],
            )
            measured = _measured(page)
            for run in filter(measured.__contains__, summary.runs):
                for column in summary.columns:
                    _enter(summary, measured, run, column, estimate)
            if summary.estimates or summary.gaps:
                summaries.append(summary)
    return summaries


def _measured(page: Page) -> Measured:
    """The rows of a page, by run, seed and column."""
    measured: Measured = {}
    for row in page.rows.itertuples():
        measured.setdefault(row.run, {}).setdefault(row.seed, {})[row.column] = row
    return measured


def _unlike(group: pd.DataFrame) -> list[str]:
    """The settings, the model aside, that differ between rows of one column."""
    names = set()
    for _, settings in group.groupby("column")["settings"]:
        names.update(differing_settings(settings.unique()))
    return sorted(names - {"model"})


def _enter(
    summary: Summary,
    measured: Measured,
    run: str,
    column: Column,
    estimate: Callable[[Measured, str, Column], Estimate],
) -> None:
    """Adds one estimate to a summary, or the reason why there is none."""
    try:
        summary.estimates[run, column] = estimate(measured, run, column)
    except GapError as gap:
        summary.gaps.setdefault((run, str(gap)), []).append(column)
