"""Which pixel is seen where there is none: rules for indices out of range.

For numpy arrays and tensors of whole numbers, by the length n of the side.
"""

from __future__ import annotations


def reflect(i, n: int):
    """... 2 1 0 | 0 1 2 ...: SciPy's 'reflect'."""
    last = 2 * n - 1
    return (last - abs(2 * (i % (2 * n)) - last)) // 2


def reflect_101(i, n: int):
    """... 2 1 | 0 1 2 ...: OpenCV's BORDER_REFLECT_101."""
    return n - 1 - abs(i % (2 * n - 2) - (n - 1))
