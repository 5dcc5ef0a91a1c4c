"""Enlarging the middle of an image, by SciPy's linear interpolation."""

from __future__ import annotations

import functools
import math

import numpy as np
from scipy import ndimage


@functools.lru_cache(maxsize=256)
def zoom_matrix(n: int, factor: float) -> np.ndarray:
    """[n, n]: the side of the enlarged middle by that of the image.

    Its middle n / factor pixels, rounded up, are enlarged so that the first and the
    last are at the ends (corners are aligned). What is too long is cut off on both
    sides.

    Args:
      n: Pixels of the side.
      factor: At least 1.
    """
    seen = math.ceil(n / factor)
    start = (n - seen) // 2
    large = ndimage.zoom(np.eye(n)[start : start + seen], (factor, 1), order=1)
    cut = (len(large) - n) // 2
    return large[cut : cut + n]
