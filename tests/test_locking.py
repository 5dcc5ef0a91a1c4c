"""The lock of a run directory, and signals that ask a program to end."""

import errno
import fcntl
import os
import signal
import socket
import threading

import pytest

from tfssl import locking, signals
from tfssl.types import Stopped, UserError


def test_the_second_is_refused_and_told_by_whom(tmp_path):
    with locking.only_here(tmp_path):
        holder = f"process {os.getpid()} on {socket.gethostname()} since 20"
        with (
            pytest.raises(UserError, match=f"is in use by {holder}"),
            locking.only_here(tmp_path),
        ):
            pytest.fail("it has the lock")
    with locking.only_here(tmp_path):
        pass


@pytest.mark.parametrize("text", ["", "{", '{"host": "a"}', '{"host": "a", "pid": 1}'])
def test_what_is_in_the_file_decides_nothing(tmp_path, text):
    """Also not when the host went down and left it there."""
    (tmp_path / locking.NAME).write_text(text)
    with (tmp_path / locking.NAME).open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with (
            pytest.raises(UserError, match="is in use by another process"),
            locking.only_here(tmp_path),
        ):
            pytest.fail("it has the lock")
    with locking.only_here(tmp_path):
        assert f'"pid": {os.getpid()}' in (tmp_path / locking.NAME).read_text()


def test_who_only_asks_is_waited_for(tmp_path):
    """`bin/study status` holds the lock for an instant."""
    asked = (tmp_path / locking.NAME).open("w")
    fcntl.flock(asked, fcntl.LOCK_SH)
    threading.Timer(0.1, asked.close).start()
    with locking.only_here(tmp_path):
        assert asked.closed


def test_it_goes_with_a_process_that_is_killed(tmp_path):
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            with locking.only_here(tmp_path):
                os.write(writing, b"1")
                signal.pause()
        finally:
            os._exit(1)
    os.read(reading, 1)
    with (
        pytest.raises(UserError, match=f"process {pid} on"),
        locking.only_here(tmp_path),
    ):
        pytest.fail("it has the lock")
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    with locking.only_here(tmp_path):
        pass


def test_a_file_system_without_locks(tmp_path, monkeypatch, caplog):
    def flock(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with caplog.at_level("WARNING", logger="absl"), locking.only_here(tmp_path):
        assert "has no locks" in caplog.text


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(UserError, match=r"cannot write to .*file: Not a directory"),
        locking.only_here(tmp_path / "file"),
    ):
        pytest.fail("it has the lock")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_raises_unless_it_is_waited_for(number):
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        stop = signals.Stop().listen()
        with pytest.raises(Stopped, match=f"stopped by {number.name}"):
            signal.raise_signal(number)
        stop = signals.Stop().listen()
        stop.patient = True
        signal.raise_signal(number)
        assert stop.asked == number.name
    finally:
        for n, handler in before.items():
            signal.signal(n, handler)
