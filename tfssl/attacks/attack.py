"""What all attacks are asked for, and what their constructors check alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfssl.types import UserError, fraction


class Attack:
    """Looks for perturbations that a classifier gets wrong.

    An attack writes `_perturb`; `perturb` gives it the radius. Public attributes are
    settings: they go into the key of results.

    Args:
      ball: A ball of `tfssl.attacks.balls`.
      epsilon: Its radius, '8/255' or a number in [0, 1] units; None where the caller of
        `perturb` gives one.

    Raises:
      UserError: Epsilon is no size, or larger than any image is apart from another.
    """

    def __init__(self, ball: Any, epsilon: str | float | None):
        self.ball = ball
        self.epsilon = None if epsilon is None else fraction(epsilon)
        if self.epsilon is not None and ball.name == "linf" and self.epsilon > 1:
            raise UserError(
                f"epsilon {self.epsilon:g} is out of range: images are in [0, 1], so"
                " write '8/255' rather than 8"
            )

    def perturb(
        self,
        logits_fn: Callable,
        image: tf.Tensor,
        label: tf.Tensor,
        seed: tf.Tensor,
        epsilon: Any = None,
    ) -> tf.Tensor:
        """Attacks a classifier; the attack's class says what it returns of each image.

        Args:
          logits_fn: Images [b, h, w, c] to logits [b, k] float32.
          image: [b, h, w, c] in [0, 1].
          label: [b] int32.
          seed: [b, 2] int32; the example's stream of random draws.
          epsilon: Radius, a scalar tensor or number in [0, 1] units, in place of the
            constructor's; that one if None.

        Returns:
          [b, h, w, c] in [0, 1].

        Raises:
          UserError: There is no epsilon, neither here nor there.
        """
        return self._perturb(logits_fn, image, label, seed, self._given(epsilon))

    def _perturb(
        self,
        logits_fn: Callable,
        image: tf.Tensor,
        label: tf.Tensor,
        seed: tf.Tensor,
        epsilon: Any,
    ) -> tf.Tensor:
        """See `perturb`; here `epsilon` is never None."""
        raise NotImplementedError

    def _given(self, epsilon: Any) -> Any:
        """The radius that a caller gives, or else the attack's own.

        Raises:
          UserError: There is neither.
        """
        epsilon = self.epsilon if epsilon is None else epsilon
        if epsilon is None:
            raise UserError(f"{type(self).__name__}.epsilon is not set")
        return epsilon

    def _check_counts(self, *names: str) -> None:
        """Raises UserError unless these attributes are positive integers."""
        for name in names:
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UserError(
                    f"{type(self).__name__}.{name} must be a positive integer, not"
                    f" {value!r}"
                )
