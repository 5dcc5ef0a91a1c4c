"""From rows to what a table or a plot shows: one estimate per run and strength."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable
from typing import Any

import pandas as pd

from tfssl.reporting.rows import differing_settings

GROUP = ["dataset", "split", "evaluator", "perturbation", "metric"]

Measured = dict[str, dict[int, dict[float, Any]]]
"""The rows of one group: measured[run][seed][strength]."""


class GapError(Exception):
    """There is no honest estimate; its message says why."""


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A share, or a difference of shares, and how far it is to be trusted.

    Attributes:
      mean: Over the seeds, in [-1, 1].
      low, high: Mean -/+ one sample standard deviation over the seeds; with one seed
        a 95 % interval over the examples, NaN where there is none.
      seeds: Number of seeds.
      n: Number of examples, the same for each seed.
    """

    mean: float
    low: float
    high: float
    seeds: int
    n: int


@dataclasses.dataclass(frozen=True)
class Summary:
    """The content of one table, and of one plot.

    Attributes:
      dataset, split, evaluator, perturbation, metric: What was measured.
      runs: Names, in the order of the rows.
      strengths: Ascending.
      estimates: By (run, strength). What is missing is not there ...
      gaps: ... and this says why: {(run, reason): strengths}.
      epsilons_train: The epsilons that the runs were trained with, ascending.
      unlike: Settings, the model aside, that differ within a strength: the numbers were
        not measured alike.
      baseline: If this is about differences, the run that was subtracted.
    """

    dataset: str
    split: str
    evaluator: str
    perturbation: str
    metric: str
    runs: list[str]
    strengths: list[float]
    estimates: dict[tuple[str, float], Estimate]
    gaps: dict[tuple[str, str], list[float]]
    epsilons_train: list[float]
    unlike: list[str]
    baseline: str | None = None

    @property
    def title(self) -> str:
        """For instance 'digits test, pgd20_linf: accuracy'."""
        known = self.perturbation == "none" or self.perturbation in self.evaluator
        kind = "" if known else f" ({self.perturbation})"
        minus = f" minus that of {self.baseline}" if self.baseline else ""
        what = f"{self.evaluator}{kind}: {self.metric}{minus}"
        return f"{self.dataset} {self.split}, {what}"

    @property
    def in_255ths(self) -> bool:
        """Whether all strengths are linf sizes k/255 with whole k."""
        return self.perturbation == "linf" and all(
            math.isclose(s * 255, round(s * 255), abs_tol=1e-6) for s in self.strengths
        )

    def label(self, strength: float) -> str:
        """A strength as people write it: '8/255', '0.5' or, unperturbed, 'clean'."""
        if self.perturbation == "none":
            return "clean"
        if strength and self.in_255ths:
            return f"{strength * 255:.3g}/255"
        return f"{strength:.4g}"

    def seeds(self, run: str) -> int:
        """Number of seeds behind the estimates of a run; 0 if it has none."""
        estimates = (self.estimates.get((run, s)) for s in self.strengths)
        return max((estimate.seeds for estimate in estimates if estimate), default=0)


def mean_over_seeds(measured: Measured, run: str, strength: float) -> Estimate:
    """The mean of a run's seeds, and their spread; for one seed, its own interval.

    Raises:
      GapError: A seed was not measured at this strength, though others or other
        strengths were, or seeds were measured on unequal numbers of examples.
    """
    rows = complete(measured, run, sorted(measured.get(run, {})), strength)
    if len({row.n for row in rows}) > 1:
        raise GapError("seeds were measured on different numbers of examples")
    if len(rows) == 1:
        return Estimate(rows[0].value, rows[0].low, rows[0].high, 1, rows[0].n)
    return spread([row.value for row in rows], rows[0].n)


def complete(
    measured: Measured, run: str, seeds: list[int], strength: float
) -> list[Any]:
    """The rows of a run at a strength, one per seed.

    Raises:
      GapError: Some are missing.
    """
    rows = {seed: measured[run][seed].get(strength) for seed in seeds}
    missing = [str(seed) for seed, row in rows.items() if row is None]
    if len(missing) == len(seeds):
        raise GapError("not measured")
    if missing:
        raise GapError(f"seed {', '.join(missing)} not measured")
    return list(rows.values())


def spread(values: list[float], n: int) -> Estimate:
    """Mean and sample standard deviation (divided by seeds - 1) of two or more."""
    mean, sd = statistics.fmean(values), statistics.stdev(values)
    return Estimate(mean, mean - sd, mean + sd, len(values), n)


def summarise(
    rows: pd.DataFrame,
    estimate: Callable[[Measured, str, float], Estimate] = mean_over_seeds,
    baseline: str | None = None,
) -> list[Summary]:
    """One summary per (data set, split, evaluator, perturbation, metric), by name.

    Every run that has any row on the data set's split is listed in all its summaries,
    so that what was not measured shows as a gap.

    Args:
      rows: As from `rows.read`.
      estimate: `estimate(measured, run, strength)`; raises GapError if there is none.
      baseline: A run that is not listed, since the others are compared with it.
    """
    summaries = []
    for name, group in rows.groupby(GROUP):
        here = (rows["dataset"] == name[0]) & (rows["split"] == name[1])
        epsilons = group["epsilon_train"].dropna().unique()
        measured: Measured = {}
        for row in group.itertuples():
            measured.setdefault(row.run, {}).setdefault(row.seed, {})
            measured[row.run][row.seed][row.strength] = row
        summary = Summary(
            *name,
            runs=[run for run in rows[here]["run"].unique() if run != baseline],
            strengths=sorted(group["strength"].unique().tolist()),
            estimates={},
            gaps={},
            epsilons_train=sorted(epsilons.tolist()),
            unlike=_unlike(group),
            baseline=baseline,
        )
        for run in summary.runs:
            for strength in summary.strengths:
                _enter(summary, measured, run, strength, estimate)
        summaries.append(summary)
    return summaries


def _unlike(group: pd.DataFrame) -> list[str]:
    """The settings, the model aside, that differ between rows of one strength."""
    names = set()
    for _, settings in group.groupby("strength")["settings"]:
        names.update(differing_settings(settings.unique()))
    return sorted(names - {"model"})


def _enter(
    summary: Summary,
    measured: Measured,
    run: str,
    strength: float,
    estimate: Callable[[Measured, str, float], Estimate],
) -> None:
    """Adds one estimate to a summary, or the reason why there is none."""
    try:
        summary.estimates[run, strength] = estimate(measured, run, strength)
    except GapError as gap:
        summary.gaps.setdefault((run, str(gap)), []).append(strength)
