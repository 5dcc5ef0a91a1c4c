"""Guards, on rows as metrics.csv has them."""

import numpy as np
import pytest

from tfssl.training import guards
from tfssl.training.guards import Guards, Watched
from tfssl.types import UserError


def rows_of(losses, every=50, **columns):
    rows = [
        {"step": str(every * (i + 1)), "loss": str(loss)}
        for i, loss in enumerate(losses)
    ]
    for name, values in columns.items():
        for row, value in zip(rows, values, strict=True):
            row[f"validation/{name}"] = "" if value is None else str(value)
    return rows


def judge(rows, last=None, select=None, explosion=100.0, overfitting=0.1):
    """Judges as a run does: after each row; `last` are the steps of the last one."""
    for n in range(1, len(rows) + 1):
        logs = [{"loss": float(rows[n - 1]["loss"])}]
        if last is not None and n == len(rows):
            logs = [{"loss": loss} for loss in last]
        Guards(None, None, explosion, overfitting).check(rows[:n], logs, 10**6, select)


@pytest.mark.parametrize(
    "losses",
    [
        [2.3, 2.0, 1.0, 0.01, 0.001, 2.2, 2.2, 2.2],  # Back where it began.
        [2.3, 1.0, 1e5, 1.0, 1.0],  # A peak of 50 steps.
        [-0.9, -0.95, -0.1, 0.1, 0.0],  # Of either sign.
        [0, 0, 0],
        [1e5, 1e3, 10, 1e4, 1e4],
    ],
)
def test_no_false_alarm_of_explosion(losses):
    judge(rows_of(losses))


def test_explosion():
    rows = rows_of([2.3, 1.0, 0.5, 1e4, 1e5])
    with pytest.raises(UserError, match=r"from step 151 to 250 it was .* 1e\+04"):
        judge(rows)
    judge(rows, explosion=None)
    # If a few steps alone are large, the mean of their row is none of its size.
    judge(rows, last=[*[1.0] * 40, *[1e6] * 10])
    long = rows_of([2.3, 1.0, 1e5], every=390)
    judge(long, last=[*[1.0] * 380, *[4e6] * 10])
    with pytest.raises(UserError, match="exploded"):
        judge(long, last=[*[1.0] * 190, *[2e5] * 200])


@pytest.mark.parametrize(
    "values",
    [
        [0.3, 0.4, 0.0, 0.35, 0.0, 0.3],  # It comes back.
        [0.08, 0.05, 0.0, 0.0],  # It never was robust.
        [0.4, 0.3, 0.2, 0.1, 0.05, 0.05],  # Robust overfitting, not the sudden one.
        [0.4, None, 0.0, None],
    ],
)
def test_no_false_alarm_of_overfitting(values):
    judge(rows_of([1.0] * len(values), pgd10=values, clean=[0.8] * len(values)))


def test_overfitting(caplog):
    values = [0.3, 0.41, None, 0.01, None, 0.02]
    rows = rows_of([1.0] * 6, clean=[0.8, 0.8, None, 0.9, None, 0.9], pgd10=values)
    with pytest.raises(UserError, match=r"pgd10 has fallen to 0.02, after 0.41 at st"):
        judge(rows)
    with pytest.raises(UserError, match="catastrophic overfitting"):
        judge(rows, select="clean")
    judge(rows, overfitting=None)
    with caplog.at_level("WARNING", logger="absl"):
        judge(rows, select="pgd10")
    assert "The weights of step 100 are kept" in caplog.text


def test_examples_whose_inputs_are_not_finite_are_named(tmp_path):
    image = np.zeros((4, 2, 2, 1), np.float32)
    views = np.zeros((4, 2, 2, 2, 1), np.float32)
    image[1, 0, 0] = np.nan
    views[3, 1, 1, 1] = np.inf
    batch = {"id": np.arange(10, 14), "image": image, "views": views, "done": 0.5}
    logs = [{"loss": 1.0, "loss/a": 1.0}] * 2 + [{"loss": np.nan, "loss/a": np.nan}] * 2
    asked = []

    def batch_of(step):
        asked.append(step)
        return batch

    guards.check_finite(logs[:2], 8, 0, batch_of, tmp_path)
    with pytest.raises(UserError, match=r"at step 9; the inputs .* 11, 13 are not"):
        guards.check_finite(logs, 10, 0, batch_of, tmp_path)
    assert asked == [9]


def test_a_slow_pipeline_is_said(monkeypatch, caplog):
    """Waits of 100, 1, 40, 40 and 40 s, and 1 s of work after each."""
    clock = 0.0
    monkeypatch.setattr(guards.time, "monotonic", lambda: clock)

    def slow():
        nonlocal clock
        for seconds in (100, 1, 40, 40, 40):
            clock += seconds
            yield seconds

    batches = Watched(slow(), 30.0)
    with caplog.at_level("WARNING", logger="absl"):
        for _ in range(5):
            next(batches)
            clock += 1
    (record,) = caplog.records
    assert "waited 40 s for its data; waiting is 95 % of" in record.getMessage()


@pytest.mark.parametrize("name", ["collapse_rank", "explosion", "overfitting"])
def test_limits_are_positive(name):
    limits = dict.fromkeys(("collapse", "collapse_rank", "explosion", "overfitting"))
    with pytest.raises(UserError, match=f"train.{name} must be positive"):
        Guards(**limits | {name: 0})
