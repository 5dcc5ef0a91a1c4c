"""How far a graph of runs has come, while it runs."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable

from absl import logging
from tqdm import tqdm

from tfssl.studies.node import Node

_NAMED = 6  # Nodes; on a cluster there may be hundreds.


class Progress:
    """A bar on a terminal, lines in the log elsewhere."""

    def __init__(self, total: int, finished: int):
        self._bar = tqdm(
            total=total,
            initial=finished,
            bar_format="{n_fmt}/{total_fmt} {bar:20} {remaining} to go{postfix}",
            dynamic_ncols=True,
            leave=False,
            disable=not sys.stderr.isatty(),
        )
        self._left = total - finished
        self._ended = 0
        self._since = time.monotonic()
        logging.info("%d of %d finished before", finished, total)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exception) -> None:
        self._bar.close()

    def advance(self) -> None:
        """One more node has ended, well or not."""
        self._left -= 1
        self._ended += 1
        self._bar.update()

    def show(self, running: Iterable[Node]) -> None:
        """Says what runs, and how long it may take."""
        names = [node.name for node in running]
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        names = ", ".join(names[:_NAMED]) + more
        if not self._bar.disable:
            self._bar.set_postfix_str(names)
        elif self._ended:
            seconds = (time.monotonic() - self._since) / self._ended * self._left
            about = duration(seconds)
            logging.info("%d to go, %s; running: %s", self._left, about, names)
        else:
            logging.info("%d to go; running: %s", self._left, names)

    def say(self, text: str) -> None:
        """A line of its own, above the bar."""
        if self._bar.disable:
            logging.warning("%s", text)
        else:
            self._bar.write(text, file=sys.stderr)


def duration(seconds: float) -> str:
    """'about 40 s', 'about 12 min' or 'about 3.5 h'."""
    if seconds < 90:
        return f"about {seconds:.0f} s"
    if seconds < 90 * 60:
        return f"about {seconds / 60:.0f} min"
    return f"about {seconds / 3600:.1f} h"
