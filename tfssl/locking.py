"""One process at a time in a run directory."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from absl import logging

from tfssl.types import UserError

NAME = ".lock"

_PATIENCE = 0.5  # Seconds: who asks whether a run is at work holds it for an instant.


@contextlib.contextmanager
def only_here(run_dir: Path) -> Iterator[None]:
    """Holds the lock of a run directory, which must exist.

    It is the kernel's (flock), and goes with the process, however that ends: there is
    no stale lock to find out about. NFS from version 4 and Lustre mounted with
    `flock` pass it on to other hosts. The file stays; its text only says who holds it.

    Where several processes make one run, the chief alone takes it.

    Raises:
      UserError: Another process holds it, or the folder cannot be written.
    """
    path = run_dir / NAME
    try:
        # Open to write: NFS wants that of an exclusive lock.
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+")
    except OSError as error:
        raise UserError(f"cannot write to {run_dir}: {error.strerror}") from None
    with file:
        try:
            if not _taken(file):
                raise UserError(
                    f"{run_dir} is in use by {_holder(file)}: wait for its end or stop"
                    " it, or choose another --run_dir"
                )
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                raise
            logging.warning(
                "the file system of %s has no locks: see to it that no other process"
                " works there",
                run_dir,
            )
        holder = {"host": socket.gethostname(), "pid": os.getpid()}
        _write(file, json.dumps({**holder, "since": time.strftime("%F %T %z")}))
        try:
            yield
        finally:
            _write(file, "")


def _taken(file: TextIO) -> bool:
    """Takes the lock, unless somebody else keeps it."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)


def _write(file: TextIO, text: str) -> None:
    """Replaces the text. A full disk is none of its concern: it is for reading only."""
    with contextlib.suppress(OSError):
        os.ftruncate(file.fileno(), 0)
        os.pwrite(file.fileno(), text.encode(), 0)


def _holder(file: TextIO) -> str:
    try:
        holder = json.loads(file.read())
        return "process {pid} on {host} since {since}".format_map(holder)
    except (OSError, ValueError, TypeError, KeyError):  # It has only just begun.
        return "another process"
