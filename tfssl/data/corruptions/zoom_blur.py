"""Zoom blur: corruption 7 of 15."""

from __future__ import annotations

import gin
import numpy as np
import tensorflow as tf

from tfssl.data.corruptions.corruption import Corruption
from tfssl.data.corruptions.filters import linear
from tfssl.data.corruptions.zoom import zoom_matrix


@gin.register(module="tfssl.data.corruptions")
class ZoomBlur(Corruption):
    """Averages enlarged images: a camera that nears its object.

    The settings are the end of the factors, which begin at 1, and their step, as
    numpy's `arange` understands them: some ends are themselves among the factors. The
    image itself counts once more.
    """

    name = "zoom_blur"
    cifar = ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01))
    imagenet = (
        (1.11, 0.01),
        (1.16, 0.01),
        (1.21, 0.02),
        (1.26, 0.02),
        (1.31, 0.03),
    )

    def _corrupt(
        self, levels: tf.Tensor, seed: tf.Tensor, setting: tuple[float, float]
    ) -> tf.Tensor:
        _, *factors = np.arange(1, *setting).tolist()
        total = 2 * levels  # The image itself, and by the factor one.
        for factor in factors:
            rows, columns = (zoom_matrix(n, factor) for n in levels.shape[1:3])
            total += linear(levels, rows, columns)
        return total / (len(factors) + 2)
