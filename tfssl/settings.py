"""Settings of measurements as they are described in JSON: where two of them differ."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def differences(
    first: Any, second: Any, name: str = ""
) -> Iterator[tuple[str, str, str]]:
    """Where described settings differ: ('attack.steps', '20', '50').

    Args:
      first, second: JSON.
      name: Of both, which begins the names that are yielded.

    Yields:
      A name, and what is there, shortened if need be.
    """
    if isinstance(first, list) and isinstance(second, list):
        first, second = (dict(enumerate(each)) for each in (first, second))
    if isinstance(first, dict) and isinstance(second, dict):
        for part in sorted(first.keys() | second.keys()):
            inside = f"{name}.{part}" if name else str(part)
            yield from differences(first.get(part), second.get(part), inside)
    elif first != second:
        yield name, _short(first), _short(second)


def _short(value: Any) -> str:
    """Enough of a hash to tell it from another."""
    text = str(value)
    return text if len(text) <= 50 else f"{text[:12]}..."
