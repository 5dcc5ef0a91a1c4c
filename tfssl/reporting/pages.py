"""Which numbers of an evaluator stand side by side, in the columns of one table.

Most metrics have a table each, with a column per strength. Three kinds of metrics are
parts of one whole, and share a table for each strength instead:

    accuracy after <attack>   what is left before the last attack of an ensemble, whose
                              accuracy has a table of its own too
    accuracy, <role>          with another attack in place of the one that is checked
    auroc of <score>          of one way to tell foreign images, and the others

Evaluators of unperturbed images (clean, knn, linear) are columns of one table as well.
'accuracy in the classes of <data set>' is no part, but has a table of its own.
"""

from __future__ import annotations

import dataclasses
import json
import re

import pandas as pd

GROUP = ["dataset", "split", "evaluator", "perturbation", "metric"]
PART = re.compile(r"(?P<whole>.+?)(?P<joint> after |, |(?<!classes) of )(?P<name>.+)")


@dataclasses.dataclass(frozen=True)
class Page:
    """The numbers of one table.

    Attributes:
      metric: What they are.
      rows: Lines of `rows.read`, with one more field, `column`.
      columns: The values of `column` in order: strengths, or names of parts.
      strength: If the columns are parts, their strength.
    """

    metric: str
    rows: pd.DataFrame
    columns: list[float] | list[str]
    strength: float | None = None


def grouped(rows: pd.DataFrame) -> list[tuple[tuple[str, str, str, str], list[Page]]]:
    """Distributes rows: to (data set, split, evaluator, perturbation), and its pages.

    Where several evaluators measured unperturbed images, they are one, 'knn, linear'.
    """
    found = []
    plain = rows["perturbation"] == "none"
    for name, group in rows[~plain].groupby(GROUP[:-1]):
        found.append((name, pages(group)))
    for (dataset, split), group in rows[plain].groupby(["dataset", "split"]):
        evaluators = sorted(group["evaluator"].unique())
        name = (dataset, split, ", ".join(evaluators), "none")
        if len(evaluators) == 1:
            found.append((name, pages(group)))
            continue
        together = []
        for metric, one in group.groupby("metric"):
            columns = sorted(one["evaluator"].unique())
            together.append(
                Page(metric, one.assign(column=one["evaluator"]), columns, 0.0)
            )
        found.append((name, together))
    return sorted(found, key=lambda pair: pair[0])


def pages(rows: pd.DataFrame) -> list[Page]:
    """Distributes the rows of one data set, split, evaluator and perturbation."""
    parts = {metric: PART.fullmatch(metric) for metric in sorted(set(rows["metric"]))}
    wholes = dict.fromkeys((p["whole"], p["joint"]) for p in parts.values() if p)
    found = []
    for metric, part in parts.items():
        # What is checked is no result beside the checks.
        if not part and (metric, ", ") not in wholes:
            group = rows[rows["metric"] == metric]
            columns = sorted(group["strength"].unique().tolist())
            found.append(Page(metric, group.assign(column=group["strength"]), columns))
    for whole, joint in wholes:
        members = {
            metric: part["name"]
            for metric, part in parts.items()
            if part and (part["whole"], part["joint"]) == (whole, joint)
        }
        strengths = rows[rows["metric"].isin(members.keys())]["strength"]
        found += [
            _parts(rows, whole, joint, members, strength)
            for strength in sorted(strengths.unique().tolist())
        ]
    return found


def _parts(
    rows: pd.DataFrame,
    whole: str,
    joint: str,
    members: dict[str, str],
    strength: float,
) -> Page:
    """The clean number, those of the parts at a strength, and that of the whole."""
    clean = rows[(rows["metric"] == whole) & (rows["strength"] == 0)]
    here = rows[
        rows["metric"].isin([whole, *members.keys()]) & (rows["strength"] == strength)
    ]
    if joint == ", ":
        labels = {whole: "attack"} | members
        what = f"{whole} under each attack"
    elif joint == " of ":
        labels = members
        what = f"{whole} of each score"
    else:
        order = _attacks(here)
        staged = sorted(members, key=lambda metric: order.get(members[metric], 0))
        labels = {metric: f"after {members[metric]}" for metric in staged}
        labels[whole] = "final"
        what = f"{whole} after each attack"
    here = here.assign(column=here["metric"].map(labels))
    group = pd.concat([clean.assign(column="clean"), here])
    measured = set(group["column"])
    columns = [name for name in ["clean", *labels.values()] if name in measured]
    return Page(what, group, columns, strength)


def _attacks(rows: pd.DataFrame) -> dict[str, int]:
    """The places of an ensemble's attacks in its order; the last, where runs differ.

    A cell's setting `attacks` is a list of pairs of name and settings.
    """
    places: dict[str, int] = {}
    for settings in rows["settings"].unique():
        for place, attack in enumerate(json.loads(settings).get("attacks", [])):
            places[attack[0]] = max(place, places.get(attack[0], 0))
    return places
