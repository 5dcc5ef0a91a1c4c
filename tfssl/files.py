"""Files that are there wholly or not at all, whenever the machine stops."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

_drop = False


def drop_all() -> None:
    """From now on this process changes no file: another one does the same work."""
    global _drop
    _drop = True


def dropped() -> bool:
    """Whether what this process writes is dropped."""
    return _drop


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a temporary path, with the suffix of `path`, whose file then replaces it.

    Makes the folder if need be. On an error `path` stays as it was.
    """
    if _drop:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder) / path.name
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
