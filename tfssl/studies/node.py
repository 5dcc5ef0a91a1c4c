"""One process to run, whoever starts it."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path


@dataclasses.dataclass(frozen=True, eq=False)
class Node:
    """One process to run.

    Attributes:
      name: Unique in its graph.
      command: Program and arguments; no shell is involved.
      log: The file that its output is appended to.
      is_finished: Whether it was run to its end before, and need not run again.
      needs: Names of the nodes that must have ended well before it starts.
    """

    name: str
    command: Sequence[str]
    log: Path
    is_finished: Callable[[], bool]
    needs: Sequence[str] = ()


def command_line(command: Sequence[str]) -> str:
    """A command as one would type it into a shell."""

    def quoted(part: str) -> str:
        # Gin's strings stay readable.
        if "'" in part and not set(part) & set('"\\$`!'):
            return f'"{part}"'
        return shlex.quote(part)

    return " ".join(map(quoted, command))


def log_tail(node: Node, lines: int = 10) -> str:
    """The last lines of a node's log."""
    text = node.log.read_text(encoding="utf-8", errors="replace")
    return "\n".join(text.splitlines()[-lines:])
