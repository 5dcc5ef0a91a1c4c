"""How well a score tells images of another data set from a network's own.

All take the scores of the own images [n] and of the foreign ones [m], higher where an
image looks foreign, and return a number in [0, 1] and the ends of its 95 %
interval. Scores that are equal count as such: no order is drawn.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import rankdata
from sklearn.metrics import average_precision_score


def auroc(own: np.ndarray, out: np.ndarray) -> tuple[float, float, float]:
    """The probability that a foreign image scores higher than an own one.

    The area under the ROC curve, whichever class is called positive. Ties count half:
    scores that say nothing give 0.5. The normal interval is by DeLong et al. 1988
    (Biometrics 44), with ranks as in Sun and Xu 2014 (IEEE Signal Processing Letters
    21): own and foreign images are both samples. It is NaN where it would have no
    width, as all pairs of an own and a foreign image say the same.
    """
    n, m = len(own), len(out)
    ranks = rankdata(np.concatenate([own, out]))
    # Of each image, the share of the other side that it is on the right side of.
    of_out = (ranks[n:] - rankdata(out)) / n
    of_own = 1 - (ranks[:n] - rankdata(own)) / m
    value = float(of_out.mean())
    variance = 0.0
    if min(n, m) > 1:
        variance = of_out.var(ddof=1) / m + of_own.var(ddof=1) / n
    if not variance:
        return value, math.nan, math.nan
    half = 1.959964 * math.sqrt(variance)
    return value, max(0.0, value - half), min(1.0, value + half)


def aupr(own: np.ndarray, out: np.ndarray) -> tuple[float, float, float]:
    """Area under precision over recall of the foreign images, as average precision.

    Foreign images are the positive class, as in Hendrycks et al. 2019
    (arXiv:1812.04606). Scores that say nothing give m / (n + m), so that numbers of
    different shares of foreign images are not to be compared. No interval.
    """
    foreign = np.repeat([False, True], [len(own), len(out)])
    found = average_precision_score(foreign, np.concatenate([own, out]))
    return float(found), math.nan, math.nan


def fpr95(own: np.ndarray, out: np.ndarray) -> tuple[float, float, float]:
    """The share of foreign images that pass where 95 % of the own do; 0 is best.

    Own images are the positive class, as in Liu et al. 2020 (arXiv:2010.03759):
    an image passes if its score is at most the threshold, the lowest at which at least
    95 % of the own images pass. With foreign images as the positive class, as in
    Hendrycks et al. 2019, it is another number. No interval.
    """
    passing = -(-95 * len(own) // 100)
    threshold = np.sort(own)[passing - 1]
    return float((out <= threshold).mean()), math.nan, math.nan
