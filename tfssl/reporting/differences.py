"""How runs differ from a baseline run, and at which strength the difference turns."""

from __future__ import annotations

import functools
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tfssl.reporting import summaries
from tfssl.types import UserError


def differences(rows: pd.DataFrame, baseline: str) -> list[summaries.Summary]:
    """Each run minus the baseline, as `summaries.summarise` without it.

    Raises:
      UserError: No row is of the baseline.
    """
    names = list(rows["run"].unique())
    if baseline not in names:
        raise UserError(f"no run is called {baseline}: there are {', '.join(names)}")
    estimate = functools.partial(_difference, baseline=baseline)
    return summaries.summarise(rows, estimate, baseline)


def crossings(strengths: list[float], values: list[float]) -> list[float]:
    """The strengths where a curve changes sign, by linear interpolation.

    A curve that only touches zero does not cross it. Where it is zero over a range, the
    middle of that range counts.

    Args:
      strengths: [n] ascending.
      values: [n] the curve there.
    """
    points = list(zip(strengths, values, strict=True))
    nonzero = [index for index, (_, value) in enumerate(points) if value]
    found = []
    for left, right in pairwise(nonzero):
        (x0, y0), (x1, y1) = points[left], points[right]
        if (y0 > 0) == (y1 > 0):
            continue
        if right == left + 1:
            found.append(x0 + (x1 - x0) * y0 / (y0 - y1))
        else:
            found.append((points[left + 1][0] + points[right - 1][0]) / 2)
    return found


def paired_interval(
    correct: np.ndarray, reference: np.ndarray
) -> tuple[float, float, float]:
    """The difference of two means over the same examples, and its 95 % interval.

    Of shares, with `b` examples that only the first has right, and `c` only the second,
    of `n`, this is

        (b - c) / n  -/+  1.96 sqrt(b + c - (b - c)^2 / n) / n

    the normal interval that goes with McNemar's test (Agresti, Categorical Data
    Analysis, 2nd edition, section 10.1).

    Args:
      correct, reference: [n] bool, or other numbers, for the same examples in the same
        order.

    Returns:
      Difference, low and high.
    """
    n = len(correct)
    difference = correct.astype(np.float64) - reference
    mean, half = float(difference.mean()), 1.959964 * float(difference.std()) / n**0.5
    return mean, mean - half, mean + half


def _difference(
    measured: summaries.Measured, run: str, column: summaries.Column, baseline: str
) -> summaries.Estimate:
    """Run minus baseline over the seeds they share.

    With one seed the interval is over examples, if the outcomes of each are there.

    Raises:
      GapError: Nothing to pair, or the two were measured on different examples.
    """
    seeds = sorted(measured[run].keys() & measured.get(baseline, {}).keys())
    if not seeds:
        raise summaries.GapError(f"no seed in common with {baseline}")
    ours = summaries.complete(measured, run, seeds, column)
    theirs = summaries.complete(measured, baseline, seeds, column)
    if len({row.n for row in ours + theirs}) > 1:
        raise summaries.GapError("measured on different numbers of examples")
    values = [our.value - their.value for our, their in zip(ours, theirs, strict=True)]
    n, marks = ours[0].n, summaries.marks_of(ours + theirs)
    if len(values) > 1:
        return summaries.spread(values, n, marks)
    low, high = _over_examples(ours[0], theirs[0])
    return summaries.Estimate(values[0], low, high, 1, n, marks)


def _over_examples(our: Any, their: Any) -> tuple[float, float]:
    """The paired interval of two rows.

    NaN if the outcomes of one are not there, or are not what its value is the mean of.

    Raises:
      GapError: The examples are not the same.
    """
    paths = [Path(row.run_dir, row.cell).with_suffix(".npz") for row in (our, their)]
    if not all(path.exists() for path in paths):
        return math.nan, math.nan
    ids, correct = [], []
    for path in paths:
        with np.load(path, allow_pickle=False) as outcomes:
            order = np.argsort(outcomes["ids"])
            ids.append(outcomes["ids"][order])
            values = "value" if "value" in outcomes else "correct"
            correct.append(outcomes[values][order].astype(np.float64))
    if not np.array_equal(*ids):
        raise summaries.GapError("measured on different examples")
    if not np.allclose([c.mean() for c in correct], [our.value, their.value]):
        return math.nan, math.nan
    return paired_interval(*correct)[1:]
