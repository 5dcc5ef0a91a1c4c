"""What must hold of a measurement; if it does not, there is no number."""

from __future__ import annotations

from collections.abc import Sequence

from tfssl.types import BALLS, Row, UserError


class GateError(UserError):
    """A number was about to be reported that cannot be right."""


def check_monotone(rows: Sequence[Row]) -> None:
    """A larger ball holds the smaller one, and all of its perturbations.

    Of the stages of an ensemble this is not asked: what another attack has broken at a
    larger epsilon may count at a smaller one or not. Nor is it of corruptions, or of
    one data set after another.

    Raises:
      GateError: An accuracy rises with epsilon.
    """
    last: dict[tuple[str, str, str], Row] = {}
    accuracies = [
        row
        for row in rows
        if row.metric == "accuracy" and row.perturbation in ("none", *BALLS)
    ]
    for row in sorted(accuracies, key=lambda row: row.strength):
        name = row.dataset, row.evaluator, row.perturbation
        smaller = last.setdefault(name, row)
        if row.value > smaller.value:
            raise GateError(
                f"{row.evaluator}: {row.metric} rises from {smaller.value:.4f} at"
                f" epsilon {smaller.strength:.4g} to {row.value:.4f} at"
                f" {row.strength:.4g}: the results in its folder do not fit together"
            )
        last[name] = row
