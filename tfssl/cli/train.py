"""Trains one configuration.

  bin/train --gin_file papers/madry2018/cifar10.gin --run_dir runs/madry
  bin/train --gin_file papers/madry2018/cifar10.gin --run_dir runs/madry_1 \\
      --gin_param SEED=1 --gin_param EPOCHS=20

The same command again resumes an interrupted run, whatever interrupted it: SIGTERM and
SIGUSR1 keep a checkpoint and end with exit code 75 (docs/running.md). Files are looked
up as given, then below gin/; what may be set with --gin_param is listed in
gin/runs/train.gin.

Writes to --run_dir:
  model.keras      the trained classifier, inputs in [0, 1]; plain Keras loads it
  metrics.csv      losses and validation accuracy, a row per epoch
  config.gin       every binding (what bin/evaluate reads back)
  operative.gin    the same with all defaults that were in force
  manifest.json    commit, versions, hardware, data, times
  checkpoints/     what resuming needs
"""

from __future__ import annotations

import functools
from pathlib import Path

from tfssl import config, files, signals
from tfssl.cli import app
from tfssl.types import UserError


def main() -> None:
    """Parses the configuration, guards the run directory, trains."""
    if not app.GIN_FILE.value:
        raise UserError("--gin_file is missing: which configuration to train")
    run_dir = Path(app.required_run_dir())
    stop = signals.Stop().listen()
    app.load_tensorflow()
    from tfssl import distribute
    from tfssl.training.loop import train

    config.parse(app.GIN_FILE.value, app.GIN_PARAM.value, app.ALLOW_IMPORT.value)
    app.join_cluster()
    with app.alone_in(run_dir), distribute.in_one_line(stop):
        _write_config(run_dir)
        train(run_dir, stop, functools.partial(_write_operative, run_dir))
        stop.patient = True  # There is nothing left to stop.


def _write_config(run_dir: Path) -> None:
    """Writes config.gin.

    Raises:
      UserError: There is another, and a run that has learnt something by it.
    """
    config_file = run_dir / "config.gin"
    if config_file.exists():
        changes = config.differences(config_file.read_text(), config.text())
        # Of a run that never got so far as to learn anything, nothing is lost.
        begun = any((run_dir / "checkpoints").glob("*.index"))
        if changes and (begun or (run_dir / "model.keras").exists()):
            more = f"; and {len(changes) - 8} more" if len(changes) > 8 else ""
            raise UserError(
                f"{run_dir} holds a run of another configuration"
                f" ({'; '.join(changes[:8])}{more}); choose another --run_dir"
            )
    with files.replacing(config_file) as path:
        path.write_text(config.text())


def _write_operative(run_dir: Path) -> None:
    with files.replacing(run_dir / "operative.gin") as path:
        path.write_text(config.operative_text())


def run() -> None:
    """The console script."""
    app.run(main, __doc__)


if __name__ == "__main__":  # As `bin/study` starts it.
    run()
