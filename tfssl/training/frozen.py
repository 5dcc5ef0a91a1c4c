"""Makes sure that a frozen backbone is exported as it came."""

from __future__ import annotations

import keras

from tfssl.types import UserError


class Frozen:
    """Remembers a backbone of which nothing is trained.

    Make it before a checkpoint is restored: then it also sees what an interrupted run
    has changed.

    Args:
      backbone: As its maker returned it. If it has variables to train it is not frozen,
        and there is nothing to check.

    Attributes:
      holds: Whether the backbone is frozen.
    """

    def __init__(self, backbone: keras.Model):
        self.holds = not backbone.trainable_variables
        self._weights = list(backbone.weights) if self.holds else []
        self._values = [weight.numpy() for weight in self._weights]

    def check(self) -> None:
        """Compares bit by bit.

        Raises:
          UserError: A weight has another value, BatchNorm's statistics included.
        """
        for weight, value in zip(self._weights, self._values, strict=True):
            if weight.numpy().tobytes() != value.tobytes():
                raise UserError(
                    f"the backbone is frozen, but {weight.path} is not what it was when"
                    " the run began: either its file has changed since, or a layer of"
                    " it changes its own weights"
                )
