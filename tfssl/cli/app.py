"""What the programs share: their flags, and how they end."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from logging import WARNING
from pathlib import Path
from typing import Any

from absl import app, flags, logging

from tfssl import files, locking
from tfssl.types import Stopped, UserError

GIN_FILE = flags.DEFINE_multi_string(
    "gin_file", [], "A gin file, as a path or below gin/. Repeatable; later ones win."
)
GIN_PARAM = flags.DEFINE_multi_string(
    "gin_param", [], "A binding read last, such as EPOCHS=1. Repeatable."
)
ALLOW_IMPORT = flags.DEFINE_multi_string(
    "allow_import",
    [],
    "A package or module other than tfssl that gin files may import, which runs it."
    " Repeatable.",
)
RUN_DIR = flags.DEFINE_string("run_dir", None, "Where the run lives.")


def run(main: Callable[..., None], doc: str, arguments: bool = False) -> None:
    """Runs a program: its help is `doc`, a user's error is one line and exit code 1.

    Args:
      main: Called without arguments, or with the list of what is no flag.
      doc: What --help says.
      arguments: Whether the program takes arguments that are no flags.
    """

    def program(argv: list[str]) -> None:
        logging.set_verbosity(logging.INFO)
        logging.get_absl_handler().addFilter(_worth_saying)
        if arguments:
            main(argv[1:])
        elif len(argv) > 1:
            raise UserError(f"unexpected argument {argv[1]}; see --help")
        else:
            main()

    def help_text() -> None:
        print(doc)
        for module in (__name__, main.__module__):
            print(flags.FLAGS.module_help(module))

    if {"-h", "-help", "--help"} & set(sys.argv[1:]):
        # Absl's own names no flags and exits with 1.
        sys.exit(_exit_code(help_text))
    app.run(lambda argv: _exit_code(program, argv))


def _exit_code(program: Callable[..., None], *arguments: Any) -> int:
    """Calls a program and says in one line what went wrong, if anything."""
    try:
        program(*arguments)
        # Here, for what Python says of a pipe at its very end cannot be caught.
        sys.stdout.flush()
    except UserError as error:
        # Gin appends lines that say which call the error came from.
        print(f"error: {str(error).splitlines()[0]}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # The reader, such as `head`, has seen enough. What is still buffered must go
        # somewhere when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:  # A full disk, a folder that may not be written.
        print(f"error: {str(error).splitlines()[0]}", file=sys.stderr)
        return 1
    except Stopped as stopped:
        print(f"{stopped}; the same command goes on from here", file=sys.stderr)
        return os.EX_TEMPFAIL
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


def _worth_saying(record) -> bool:
    """Our own words, and others' warnings: TFDS narrates each file it opens."""
    return record.levelno >= WARNING or "tfssl" in Path(record.pathname).parts


def load_tensorflow() -> None:
    """Imports TensorFlow, which takes seconds, without its screen of notices.

    They come before any setting can silence them. What TensorFlow has to say about a
    GPU that it cannot use is passed on.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # TensorFlow itself leaves oneDNN out on a CPU that has AVX2 but not AVX-512, where
    # it trains a ResNet half as fast again (docs/results.md).
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as notices:
        os.dup2(notices.fileno(), 2)
        try:
            import tensorflow as tf

            gpus = tf.config.list_physical_devices("GPU")
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
        if not gpus and os.path.exists("/dev/nvidiactl"):
            notices.seek(0)
            sys.stderr.write(notices.read().decode(errors="replace"))


def join_cluster() -> None:
    """Joins the run's other workers, if there are any; all but the first are silent.

    Call it once the configuration is read, before anything is computed.
    """
    from tfssl import distribute

    distribute.join_cluster()
    if not distribute.is_chief():
        logging.set_verbosity(logging.WARNING)


@contextlib.contextmanager
def alone_in(run_dir: Path) -> Iterator[None]:
    """Keeps other processes out of a run directory, which is made if need be.

    Of several workers of one run the first one does.

    Raises:
      UserError: Another process is there, or the folder cannot be written.
    """
    if files.dropped():
        yield
        return
    new = not run_dir.exists()
    make_folder(run_dir)
    try:
        with locking.only_here(run_dir):
            files.sweep(run_dir)
            yield
    except UserError:
        lock = run_dir / locking.NAME
        if new and list(run_dir.iterdir()) == [lock]:  # Nothing has begun.
            lock.unlink()
            run_dir.rmdir()
        raise


def required_run_dir() -> str:
    """The --run_dir flag.

    Raises:
      UserError: It was not given.
    """
    if not RUN_DIR.value:
        raise UserError("--run_dir is missing: the folder where the run is kept")
    return RUN_DIR.value


def make_folder(path: Path) -> None:
    """Makes a folder and its parents.

    Raises:
      UserError: That is not possible.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {path}: {error.strerror}") from None
