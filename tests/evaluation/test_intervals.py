import pytest
from scipy.stats import binomtest

from tfssl.evaluation.intervals import wilson


@pytest.mark.parametrize(("k", "n"), [(0, 10), (7, 10), (10, 10), (4321, 10000)])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_wilson_is_that_of_scipy(k, n, confidence):
    expected = binomtest(k, n).proportion_ci(confidence, method="wilson")
    assert wilson(k, n, confidence) == pytest.approx(tuple(expected), abs=1e-12)


def test_wilson_solves_its_equation():
    for q in wilson(81, 263):
        assert (81 / 263 - q) ** 2 == pytest.approx(1.959964**2 * q * (1 - q) / 263)


def test_share_is_inside_at_the_ends():
    assert wilson(0, 500)[0] == 0
    assert wilson(500, 500)[1] == 1


@pytest.mark.parametrize(("k", "n"), [(1, 0), (-1, 5), (6, 5)])
def test_nonsense_is_refused(k, n):
    with pytest.raises(ValueError, match="successes"):
        wilson(k, n)
