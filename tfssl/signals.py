"""What asks a program to end, and may be back later: schedulers' signals."""

from __future__ import annotations

import signal

from tfssl.types import Stopped


class Stop:
    """Whether the program was asked to end.

    SIGTERM does so, and SIGUSR1, which SLURM sends before the end of a job's time
    (`sbatch --signal`). Made without `listen`, it is never asked.

    Attributes:
      asked: The signal's name; None as long as none came.
      patient: Whether the program looks at `asked` by itself. Otherwise the signal
        raises `Stopped` wherever the program is.
    """

    def __init__(self):
        self.asked: str | None = None
        self.patient = False

    def listen(self) -> Stop:
        """Takes the signals from now on. For the main thread of a program."""
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self._take)
        return self

    def _take(self, number, frame) -> None:
        self.asked = signal.Signals(number).name
        if not self.patient:
            raise Stopped(f"stopped by {self.asked}")
