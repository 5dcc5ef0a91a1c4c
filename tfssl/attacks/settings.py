"""What the attacks' constructors check alike."""

from __future__ import annotations

from typing import Any

from tfssl.types import UserError, fraction


def radius(ball: Any, epsilon: str | float | None) -> float | None:
    """Reads a radius, '8/255' or a number in [0, 1] units; None stays None.

    Raises:
      UserError: It is no size, or larger than any image is apart from another.
    """
    if epsilon is None:
        return None
    number = fraction(epsilon)
    if ball.name == "linf" and number > 1:
        raise UserError(
            f"epsilon {number:g} is out of range: images are in [0, 1], so write"
            " '8/255' rather than 8"
        )
    return number


def given(attack: Any, epsilon: Any) -> Any:
    """The radius that a caller gives, or else the attack's own.

    Raises:
      UserError: There is neither.
    """
    epsilon = attack.epsilon if epsilon is None else epsilon
    if epsilon is None:
        raise UserError(f"{type(attack).__name__}.epsilon is not set")
    return epsilon


def check_counts(attack: Any, *names: str) -> None:
    """Raises UserError unless these attributes are positive integers."""
    for name in names:
        value = getattr(attack, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UserError(
                f"{type(attack).__name__}.{name} must be a positive integer, not"
                f" {value!r}"
            )
