"""Schedules at the steps that matter; the first update is step 0."""

import math

import pytest

from tfssl.training import schedules


def values(schedule, steps):
    return [float(schedule(step)) for step in steps]


def test_constant():
    schedule = schedules.constant_rate(0.3, 10, 5)
    assert values(schedule, [0, 1, 9]) == pytest.approx([0.3] * 3)


def test_piecewise_drops_at_shares_of_the_run():
    """Rice 2020: 200 epochs, a tenth from the epochs 100 and 150 on."""
    schedule = schedules.piecewise(0.1, 2000, 10)
    got = values(schedule, [0, 999, 1000, 1499, 1500, 1999])
    assert got == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])


def test_cosine():
    schedule = schedules.cosine(0.2, 100, 10, final=0.02)
    for step in (0, 25, 50, 100):
        half = 0.5 * (1 + math.cos(math.pi * step / 100))
        assert values(schedule, [step]) == pytest.approx([0.02 + 0.18 * half])


def test_cosine_with_warmup():
    schedule = schedules.cosine(0.2, 100, 10, warmup_epochs=2)
    got = values(schedule, [0, 10, 20, 60, 100])
    assert got == pytest.approx([0.0, 0.1, 0.2, 0.1, 0.0], abs=1e-7)


def test_one_cycle():
    schedule = schedules.one_cycle(0.2, 100, 10, peak=0.4)
    got = values(schedule, [0, 20, 40, 70, 100])
    assert got == pytest.approx([0.0, 0.1, 0.2, 0.1, 0.0], abs=1e-7)
