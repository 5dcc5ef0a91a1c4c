"""The corruptions of the package imagecorruptions, for `benchmarks/corruptions.py`."""

from __future__ import annotations

import sys
import types
import warnings
from collections.abc import Callable

import numpy as np


def load() -> Callable[[np.ndarray, str, int], np.ndarray]:
    """`corrupt(image, name, severity)`, images [h, w, 3] uint8.

    imagecorruptions 1.1.2 asks for names that NumPy 2, SciPy 1.15 and scikit-image 0.25
    no longer have. They are put back, and nothing else is changed.

    Raises:
      ImportError: It or scikit-image is not installed.
    """
    from scipy import ndimage
    from skimage import filters

    places = types.ModuleType("scipy.ndimage.interpolation")
    places.map_coordinates = ndimage.map_coordinates
    sys.modules.setdefault(places.__name__, places)
    np.float_ = np.float64

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import imagecorruptions
        from imagecorruptions import corruptions

    def gaussian(image, *args, multichannel=False, **kwargs):
        axis = -1 if multichannel else None
        return filters.gaussian(image, *args, channel_axis=axis, **kwargs)

    corruptions.gaussian = gaussian

    def corrupt(image, name, severity):
        return imagecorruptions.corrupt(image, severity, name)

    return corrupt
