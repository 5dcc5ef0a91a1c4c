"""Views that fade: strong at the start of a run, nearly the images at its end."""

from __future__ import annotations

import gin
import numpy as np
import tensorflow as tf

from tfssl.types import UserError


@gin.register(module="tfssl.data")
class Fading:
    """A strength that falls from 1 by equal steps (Luo et al. 2023, DynACL).

    https://arxiv.org/abs/2303.01289. The run is cut into stages of one length, and a
    stage that starts after a share t of the run has strength 1 - t. So the last has
    1 / stages: 0 is never reached.

    Args:
      stages: Their number. (Authors' code: 1000 epochs, a new strength every 50.)

    Raises:
      UserError: `stages` is no whole number, or less than 1.
    """

    def __init__(self, stages: int = 20):
        if not isinstance(stages, int) or stages < 1:
            raise UserError(
                f"Fading.stages must be a whole number, at least 1, not {stages!r}"
            )
        # Rounded as a progress is, which is a quotient as well: a stage starts at the
        # very step it should.
        self._starts = np.arange(stages) / stages

    def __call__(self, progress: tf.Tensor | float) -> tf.Tensor:
        """The share of the run that is done to the strength, both float64 in [0, 1]."""
        progress = tf.convert_to_tensor(progress, tf.float64)[..., None]
        begun = tf.where(progress >= self._starts, self._starts, 0)
        return 1 - tf.reduce_max(begun, axis=-1)
