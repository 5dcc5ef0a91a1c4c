"""Tables of errors under corruptions: what 95 cells and a clean one come to.

They are made of the rows of each evaluator that has measured all 15 corruptions of the
benchmark at all five severities, whichever images it had: its name says which.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tfssl.reporting import corruption_scores as scores
from tfssl.reporting import marks
from tfssl.reporting.rows import differing_settings
from tfssl.reporting.summaries import Estimate, GapError

Score = Callable[[scores.Errors, scores.Number], scores.Number]
"""From errors by cell and the clean error to a number, linear in them."""


@dataclasses.dataclass(frozen=True)
class Seed:
    """What one run, of one seed, got wrong.

    Attributes:
      errors: Shares, by (corruption, severity).
      clean: Error on the images as they are; NaN if not measured.
      rows: The lines of `rows.read` behind it, by the same keys and 'clean'.
      n: Number of examples.
    """

    errors: dict[tuple[str, int], float]
    clean: float
    rows: dict[Any, Any]
    n: int

    @functools.cached_property
    def outcomes(self) -> dict[Any, np.ndarray] | None:
        """Errors [n] of each example, by cell; None if some were not kept."""
        found = {}
        ids = None
        for cell, row in self.rows.items():
            path = Path(row.run_dir, row.cell).with_suffix(".npz")
            if not path.is_file():
                return None
            with np.load(path, allow_pickle=False) as file:
                order = np.argsort(file["ids"])
                here = file["ids"][order]
                if ids is not None and not np.array_equal(ids, here):
                    return None
                ids = here
                found[cell] = 1.0 - file["correct"][order]
        return found | {"ids": ids}

    def score(self, score: Score) -> float:
        return float(score(self.errors, self.clean))

    def doubts(self, score: Score) -> frozenset[marks.Mark]:
        """Reasons to doubt the cells, and, where a score depends on it, the clean one.

        Of the cells all are named, whichever the score is made of.
        """
        needs_clean = math.isnan(score(self.errors, math.nan))
        return frozenset().union(
            *(
                row.marks
                for cell, row in self.rows.items()
                if needs_clean or cell != "clean"
            )
        )

    def by_example(self, score: Score) -> np.ndarray | None:
        """[n]: what each example contributes to a score, which is their mean."""
        if self.outcomes is None:
            return None
        clean = self.outcomes.get("clean", math.nan)
        return score(self.outcomes, clean) + np.zeros(self.n)


@dataclasses.dataclass(frozen=True)
class Group:
    """The rows of one evaluator on one split.

    Attributes:
      dataset, split, evaluator: What was measured, on what.
      runs: By name, and then by seed.
      corruptions: All 19, or the 15 of the benchmark if a run lacks an extra one.
    """

    dataset: str
    split: str
    evaluator: str
    runs: dict[str, dict[int, Seed]]
    corruptions: tuple[str, ...]

    @property
    def title(self) -> str:
        return f"{self.dataset} {self.split}, {self.evaluator}"

    @functools.cached_property
    def unlike(self) -> list[str]:
        """The settings, the model aside, that differ between the rows of a cell."""
        texts: dict[Any, set[str]] = {}
        for seeds in self.runs.values():
            for seed in seeds.values():
                for cell, row in seed.rows.items():
                    texts.setdefault(cell, set()).add(row.settings)
        names = set().union(*map(differing_settings, texts.values()))
        return sorted(names - {"model"})

    @property
    def on_imagenet(self) -> bool:
        """Whether the classes are ImageNet's 1000: not those of Imagenette, say."""
        data = [
            json.loads(next(iter(seed.rows.values())).settings).get("dataset", {})
            for seeds in self.runs.values()
            for seed in seeds.values()
        ]
        # Of published numbers it is not known.
        classes = {each.get("num_classes", 1000) for each in data}
        return self.dataset.partition(":")[0] == "imagenet2012" and classes == {1000}

    def estimate(
        self, run: str, score: Score, baseline: str | None = None
    ) -> Estimate | None:
        """A score of a run, or how much larger it is than the baseline's.

        Over several seeds mean and standard deviation; for one a 95 % interval over the
        examples, each with its own score: an example is in all cells, so that these are
        no independent samples. None if something was not measured.

        Raises:
          GapError: There is no honest number, though all was measured.
        """
        seeds = self.runs[run]
        pairs = [(seed, None) for seed in seeds.values()]
        if baseline:
            others = self.runs.get(baseline, {})
            pairs = [(seeds[k], others[k]) for k in sorted(seeds.keys() & others)]
            if not pairs:
                raise GapError(f"no seed in common with {baseline}")
        if len({seed.n for pair in pairs for seed in pair if seed}) > 1:
            raise GapError("measured on different numbers of examples")
        try:
            values = [
                own.score(score) - (other.score(score) if other else 0)
                for own, other in pairs
            ]
        except ZeroDivisionError:
            raise GapError("the reference has or loses nothing to divide by") from None
        if not values or any(map(math.isnan, values)):
            return None
        n = pairs[0][0].n
        reasons = frozenset().union(
            *(seed.doubts(score) for pair in pairs for seed in pair if seed)
        )
        if len(values) > 1:
            mean, sd = float(np.mean(values)), float(np.std(values, ddof=1))
            return Estimate(mean, mean - sd, mean + sd, len(values), n, reasons)
        low, high = _interval(values[0], *pairs[0], score)
        return Estimate(values[0], low, high, 1, n, reasons)


def _interval(
    value: float, own: Seed, other: Seed | None, score: Score
) -> tuple[float, float]:
    """Normal interval of a mean over examples; NaN if their outcomes are not there.

    Raises:
      GapError: The examples are not the same.
    """
    each = own.by_example(score)
    if each is not None and other:
        theirs = other.by_example(score)
        if theirs is not None and not np.array_equal(
            own.outcomes["ids"], other.outcomes["ids"]
        ):
            raise GapError("measured on different examples")
        each = each - theirs if theirs is not None else None
    if each is None or not math.isclose(each.mean(), value, abs_tol=1e-9):
        return math.nan, math.nan
    half = 1.959964 * float(np.std(each, ddof=1)) / math.sqrt(len(each))
    return value - half, value + half


def groups(rows: pd.DataFrame) -> list[Group]:
    """What of `rows.read` are accuracies under all corruptions, by evaluator."""
    found = []
    of_corruptions = rows[
        (rows["metric"] == "accuracy")
        & rows["perturbation"].isin((*scores.ALL, "none"))
    ]
    for name, group in of_corruptions.groupby(["dataset", "split", "evaluator"]):
        runs: dict[str, dict[int, Seed]] = {}
        for (run, seed), its in group.groupby(["run", "seed"], sort=False):
            whole = _seed(its)
            if whole:
                runs.setdefault(run, {})[seed] = whole
        if runs:
            every = [whole for seeds in runs.values() for whole in seeds.values()]
            extra = all((c, 1) in whole.errors for whole in every for c in scores.EXTRA)
            corruptions = scores.ALL if extra else scores.BENCHMARK
            found.append(Group(*name, runs, corruptions))
    return found


def _seed(group: pd.DataFrame) -> Seed | None:
    rows = {}
    for row in group.itertuples():
        plain = row.perturbation == "none"
        rows["clean" if plain else (row.perturbation, int(row.strength))] = row
    for corruption in scores.ALL:
        cells = [(corruption, severity) for severity in scores.SEVERITIES]
        if not all(cell in rows for cell in cells):
            if corruption in scores.BENCHMARK:
                return None
            for cell in cells:
                rows.pop(cell, None)
    errors = {cell: 1 - row.value for cell, row in rows.items()}
    clean = errors.pop("clean", math.nan)
    return Seed(errors, clean, rows, int(next(iter(rows.values())).n))


def of_all(group: Group) -> Group | None:
    """The runs that were measured under all 19, whatever others lack, if any were."""
    runs = {
        run: seeds
        for run, seeds in group.runs.items()
        if all((c, 1) in seed.errors for seed in seeds.values() for c in scores.EXTRA)
    }
    whole = dataclasses.replace(group, runs=runs, corruptions=scores.ALL)
    return whole if runs else None


def without(rows: pd.DataFrame, found: list[Group]) -> pd.DataFrame:
    """The rows but those whose numbers are in a group: it has their tables."""
    cells = ["dataset", "split", "evaluator", "run", "seed", "perturbation"]
    grouped = {
        (group.dataset, group.split, group.evaluator, run, seed, corruption)
        for group in found
        for run, seeds in group.runs.items()
        for seed in seeds
        for corruption in group.corruptions
    }
    there = pd.MultiIndex.from_frame(rows[cells]).isin(grouped)
    return rows[~(there & (rows["metric"] == "accuracy"))]


def averaged(rows: pd.DataFrame) -> pd.DataFrame:
    """With the means over corruptions in place of what they are means of.

    Of metrics other than accuracy, such as SSIM: a row for each severity, whose
    perturbation is called 'mean of 19', or 'mean of 15' where not all of the extra ones
    were measured. It has no interval. Other rows are left as they are.
    """
    keys = ["run", "seed", "dataset", "split", "evaluator", "strength", "metric"]
    of_corruptions = rows["perturbation"].isin(scores.ALL)
    of_corruptions &= rows["metric"] != "accuracy"
    means, gone = [], []
    for _, cells in rows[of_corruptions].groupby(keys, sort=False):
        there = set(cells["perturbation"])
        if not there.issuperset(scores.BENCHMARK):
            continue
        if there != set(scores.ALL):
            cells = cells[cells["perturbation"].isin(scores.BENCHMARK)]
        gone += cells.index.tolist()
        row = cells.iloc[0].to_dict()
        row |= {"perturbation": f"mean of {len(cells)}", "value": cells["value"].mean()}
        row |= {"low": math.nan, "high": math.nan, "cell": ""}
        row["settings"] = _common(cells["settings"])
        row["marks"] = frozenset().union(*cells["marks"])
        means.append(row)
    if not means:
        return rows
    return pd.concat([rows.drop(gone), pd.DataFrame(means)], ignore_index=True)


def _common(settings: pd.Series) -> str:
    """What is the same in all settings, as JSON."""
    first, *others = map(json.loads, settings)
    same = {k: v for k, v in first.items() if all(o.get(k) == v for o in others)}
    return json.dumps(same, sort_keys=True)
