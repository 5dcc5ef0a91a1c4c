"""Confidence intervals of measured shares."""

from __future__ import annotations

import math
from statistics import NormalDist


def wilson(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """The score interval of a binomial share (Wilson 1927, J. Am. Stat. Assoc. 22).

    With p = successes / n and z the normal quantile of the confidence, its ends solve
    (p - q)^2 = z^2 q (1 - q) / n. Unlike p +- z sqrt(p (1 - p) / n) it stays in [0, 1]
    and does not shrink to a point at p = 0 or 1.

    Args:
      successes: 0 .. n.
      n: At least 1.
      confidence: In (0, 1).

    Returns:
      Lower and upper end.
    """
    if not 0 <= successes <= n or n < 1:
        raise ValueError(f"{successes} successes of {n}")
    z2 = NormalDist().inv_cdf((1 + confidence) / 2) ** 2
    p = successes / n
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (p * (1 - p) / n + z2 / (4 * n**2))) / (1 + z2 / n)
    # The share lies inside; rounding must not say otherwise at 0 and 1.
    return max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half))
