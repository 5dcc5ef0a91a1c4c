"""What the four programs share: their flags, and how they end."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

# Before TensorFlow is imported: it would greet every run with a screen of notices.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from absl import app, flags, logging

from tfssl.types import UserError

GIN_FILE = flags.DEFINE_multi_string(
    "gin_file", [], "A gin file, as a path or below gin/. Repeatable; later ones win."
)
GIN_PARAM = flags.DEFINE_multi_string(
    "gin_param", [], "A binding read last, such as EPOCHS=1. Repeatable."
)
RUN_DIR = flags.DEFINE_string("run_dir", None, "Where the run lives.")


def run(main: Callable[[], None], doc: str) -> None:
    """Runs a program: its help is `doc`, a user's error is one line and exit code 1."""

    def checked(argv: list[str]) -> int:
        logging.set_verbosity(logging.INFO)
        try:
            if len(argv) > 1:
                raise UserError(f"unexpected argument {argv[1]}; see --help")
            main()
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("interrupted; the same command goes on from here", file=sys.stderr)
            return 130
        return 0

    sys.modules["__main__"].__doc__ = doc  # What absl prints for --help.
    app.run(checked)


def required_run_dir() -> str:
    """The --run_dir flag.

    Raises:
      UserError: It was not given.
    """
    if not RUN_DIR.value:
        raise UserError("--run_dir is missing: the folder where the run is kept")
    return RUN_DIR.value
