"""What tables and curves show of errors under corruptions."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

from tfssl.reporting import corruption_scores as scores
from tfssl.reporting.corruptions import Group, Score
from tfssl.reporting.summaries import Column, Estimate, GapError, Summary


def summaries(group: Group, baseline: str | None = None) -> list[Summary]:
    """All that is worth a table, or a curve over the severity.

    Args:
      group: The runs that an evaluator measured.
      baseline: Name of a run: then the differences from it, and of the others only
        those. mCE is always a ratio: to AlexNet's errors on ImageNet, elsewhere to the
        baseline's, and not there without one.
    """
    found = [
        _summary(group, "error", _overall(group), baseline),
        *_by_severity(group, baseline),
        *_by_corruption(group, baseline),
    ]
    if not baseline and group.corruptions == scores.ALL:
        found.append(
            _summary(
                group,
                "scores as Chhipa et al. 2023 coded them",
                {
                    "mCE": lambda e, _: scores.mean_error(e),
                    "RmCE": scores.relative_as_coded,
                    "digital": lambda e, _: scores.digital_as_coded(e),
                },
            )
        )
    return [summary for summary in found if summary.estimates or summary.gaps]


def relative(group: Group, baseline: str | None = None) -> list[Summary]:
    """mCE and relative mCE: errors divided by those of a reference.

    Args:
      group: The runs that an evaluator measured.
      baseline: The reference where the images are not ImageNet's, for which it is
        AlexNet.
    """
    if group.on_imagenet:
        reference, normaliser, clean = (
            "AlexNet's",
            scores.ALEXNET,
            scores.ALEXNET_CLEAN,
        )
    elif baseline in group.runs:
        seeds = list(group.runs[baseline].values())
        reference = f"that of {baseline}"
        each = [scores.means_over_severities(seed.errors) for seed in seeds]
        normaliser = {c: sum(e[c] for e in each) / len(each) for c in each[0]}
        clean = sum(seed.clean for seed in seeds) / len(seeds)
    else:
        return []
    columns = {
        "mCE": lambda e, _: scores.mce(e, normaliser),
        "relative mCE": lambda e, own: scores.relative_mce(e, own, normaliser, clean),
    }
    return [_summary(group, f"error relative to {reference}, mean of 15", columns)]


def _overall(group: Group) -> dict[str, Score]:
    columns = {
        "clean": lambda _, clean: clean,
        "mean of 15": lambda e, _: scores.mean_error(e, scores.BENCHMARK),
    }
    if group.corruptions == scores.ALL:
        columns["mean of 19"] = lambda e, _: scores.mean_error(e)
    return columns


def by_group(group: Group) -> list[Summary]:
    """Of a group of all 19: error by severity in the groups of both groupings."""
    parts = _groups(group, scores.FOLDERS) | {
        f"{name}, as in the figures of Chhipa et al. 2023": members
        for name, members in scores.NOTEBOOK.items()
    }
    return _curves(group, parts, None)


def _by_severity(group: Group, baseline: str | None) -> list[Summary]:
    parts = {f"mean of {len(group.corruptions)}": group.corruptions}
    parts |= _groups(group, scores.FOLDERS)
    return _curves(group, parts, baseline)


def _curves(
    group: Group, parts: Mapping[str, Sequence[str]], baseline: str | None
) -> list[Summary]:
    return [
        _summary(
            group,
            "error",
            {
                float(s): functools.partial(_mean, members, (s,))
                for s in scores.SEVERITIES
            },
            baseline,
            part,
        )
        for part, members in parts.items()
    ]


def _by_corruption(group: Group, baseline: str | None) -> list[Summary]:
    return [
        _summary(
            group,
            f"error, {name}, mean over severities",
            {
                **{
                    c: functools.partial(_mean, (c,), scores.SEVERITIES)
                    for c in members
                },
                "mean": functools.partial(_mean, members, scores.SEVERITIES),
            },
            baseline,
        )
        for name, members in _groups(group, scores.FOLDERS).items()
    ]


def _groups(
    group: Group, grouping: Mapping[str, Sequence[str]]
) -> dict[str, Sequence[str]]:
    """Those whose corruptions were all measured."""
    return {
        name: members
        for name, members in grouping.items()
        if set(members) <= set(group.corruptions)
    }


def _mean(
    corruptions: Sequence[str],
    severities: Sequence[int],
    errors: scores.Errors,
    clean: scores.Number,
) -> scores.Number:
    return scores.mean_error(errors, corruptions, severities)


def _summary(
    group: Group,
    metric: str,
    columns: Mapping[Column, Score],
    baseline: str | None = None,
    part: str | None = None,
) -> Summary:
    """A score per column; a curve over the severity if a `part` is named."""
    runs = [run for run in group.runs if run != baseline]
    estimates: dict[tuple[str, Column], Estimate] = {}
    gaps: dict[tuple[str, str], list[Column]] = {}
    for run in runs:
        for column, score in columns.items():
            try:
                found = group.estimate(run, score, baseline)
            except GapError as gap:
                gaps.setdefault((run, str(gap)), []).append(column)
                continue
            if found:
                estimates[run, column] = found
    return Summary(
        *(group.dataset, group.split, group.evaluator),
        perturbation=part or "none",
        metric=metric,
        runs=runs,
        columns=list(columns),
        estimates=estimates,
        gaps=gaps,
        epsilons_train=[],
        unlike=group.unlike,
        strength=None if part else 0.0,
        baseline=baseline,
    )
