"""Checkpoints: everything a run needs to go on, and nothing that cannot be checked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import tensorflow as tf
from absl import logging

from tfssl import files
from tfssl.types import UserError


class Checkpoints:
    """The checkpoints of a run: variables by their path, and the step.

    Args:
      folder: Where they lie.
      variables: Every variable that training changes, by a name of its own.
      keep: How many of the newest are kept.
    """

    def __init__(
        self, folder: Path, variables: Mapping[str, tf.Variable], keep: int = 2
    ):
        self._folder = folder
        self.step = tf.Variable(0, dtype=tf.int64, trainable=False, name="step")
        self._checkpoint = tf.train.Checkpoint(
            step=self.step, variables=dict(variables)
        )
        if not files.dropped():
            folder.mkdir(parents=True, exist_ok=True)
            _list_anew(folder)
        self._manager = tf.train.CheckpointManager(
            self._checkpoint, str(folder), max_to_keep=keep, step_counter=self.step
        )

    def save(self, step: int) -> None:
        """Writes a checkpoint; a crash meanwhile leaves the ones before intact."""
        self.step.assign(step)
        if not files.dropped():
            self._manager.save(checkpoint_number=step)

    def restore(self) -> int:
        """Restores the newest checkpoint that can be read.

        Returns:
          Its step; 0 if there is no checkpoint.

        Raises:
          UserError: There are checkpoints, and none can be read.
        """
        paths = list(reversed(_paths(self._folder)))
        for path in paths:
            try:
                status = self._checkpoint.restore(path)
                status.assert_consumed()
            except (tf.errors.OpError, IndexError, ValueError, AssertionError) as error:
                reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
                logging.warning(
                    "checkpoint %s cannot be read (%s); trying the one before",
                    path,
                    reason,
                )
            else:
                return int(self.step.numpy())
        if paths:
            raise UserError(
                f"none of the checkpoints in {self._manager.directory} can be read;"
                " delete the folder to start anew"
            )
        return 0


def _paths(folder: Path) -> list[str]:
    """The checkpoints that lie in a folder, the newest last."""
    paths = [str(path.with_suffix("")) for path in folder.glob("ckpt-*.index")]
    return sorted(paths, key=lambda path: int(path.rpartition("-")[2]))


def _list_anew(folder: Path) -> None:
    """Writes TensorFlow's list of the checkpoints from what lies in the folder.

    Were the list lost or empty, they would be passed over in silence.
    """
    paths = _paths(folder)
    if paths:
        tf.compat.v1.train.update_checkpoint_state(
            str(folder),
            paths[-1],
            paths,
            # Any times above 0: the manager overlooks what has none.
            all_model_checkpoint_timestamps=[i + 1.0 for i in range(len(paths))],
        )
