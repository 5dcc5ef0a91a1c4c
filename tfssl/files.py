"""Files that are there wholly or not at all, whenever the machine stops."""

from __future__ import annotations

import contextlib
import os
import re
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

    Raises:
      OSError: It cannot be written; the error names `path`.
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
    except OSError as error:
        # That a disk is full is said without a name.
        if error.filename not in (None, str(temporary)):
            raise
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None
    finally:
        temporary.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Deletes the temporary files that processes killed in `replacing` left below.

    No other process may be writing there.
    """
    for path in folder.rglob(".[0-9]*"):
        if re.match(r"\.\d+\.", path.name) and path.is_file():
            path.unlink()


def sync(path: Path) -> None:
    """Waits until a file, or what a folder lists, would survive a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
