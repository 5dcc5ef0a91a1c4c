"""Keeps what a long measurement has found so far: a kill costs half a minute."""

from __future__ import annotations

import time
import zipfile
from pathlib import Path

import numpy as np
from absl import logging

from tfssl import files

SECONDS = 30.0
"""How often a journal is written."""


class Journal:
    """The results of some examples, in a file.

    Args:
      path: Of the file, `<cell>.<step>.part.npz`; it need not exist.
      key: Of all that determines the results; a file with another key is ignored.
    """

    def __init__(self, path: Path, key: str):
        self._path = path
        self._key = key
        self._written = time.monotonic()

    def read(self) -> dict[str, np.ndarray]:
        """Arrays [m, ...], among them "id"; empty if there is nothing to go on from."""
        try:
            with np.load(self._path, allow_pickle=False) as arrays:
                found = dict(arrays)
        except FileNotFoundError:
            return {}
        # A damaged header can ask for a compression that does not exist, or a password.
        except (OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile):
            logging.warning("%s is damaged; starting again", self._path)
            return {}
        if str(found.pop("key", "")) != self._key or "id" not in found:
            return {}
        logging.info("going on after %d examples of %s", len(found["id"]), self._path)
        return found

    @property
    def due(self) -> bool:
        """Whether it is time to write it."""
        return time.monotonic() - self._written >= SECONDS

    def write(self, arrays: dict[str, np.ndarray]) -> None:
        """Replaces the file."""
        with files.replacing(self._path) as path:
            np.savez(path, key=np.array(self._key), **arrays)
        self._written = time.monotonic()
