"""Restricted ImageNet: nine groups of ImageNet's classes that look alike."""

from __future__ import annotations

import gin

# First and last label, both included: RESTRICTED_IMAGNET_RANGES in the authors' library
# (robustness/tools/constants.py, https://github.com/MadryLab/robustness).
_GROUPS = {
    "dog": (151, 268),
    "cat": (281, 285),
    "frog": (30, 32),
    "turtle": (33, 37),
    "bird": (80, 100),
    "monkey": (365, 382),
    "fish": (389, 397),
    "crab": (118, 121),
    "insect": (300, 319),
}


@gin.register(module="tfssl.data")
def restricted_imagenet() -> dict[int, int]:
    """The label map of Tsipras et al. 2019, "Robustness May Be at Odds with Accuracy".

    https://arxiv.org/abs/1805.12152. The nine classes are not balanced.

    Returns:
      For each of 203 labels of ImageNet its group, 0 (dog) .. 8 (insect). The other
      labels are dropped.
    """
    return {
        label: group
        for group, (first, last) in enumerate(_GROUPS.values())
        for label in range(first, last + 1)
    }
