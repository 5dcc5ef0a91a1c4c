"""Checkpoints: everything a run needs to go on, and nothing that cannot be checked."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf
from absl import logging

from tfssl import distribute, files
from tfssl.types import UserError


class Checkpoints:
    """The checkpoints of a run: variables by their path, the step, and a note.

    The note is what the loop itself must know to go on (JSON). It is one of the
    variables, so that no kill can come between it and them. TensorFlow keeps a checksum
    of each variable and compares it when it restores.

    Args:
      folder: Where they lie.
      variables: Every variable that training changes, by a name of its own.
      keep: How many of the newest are kept.

    Raises:
      UserError: The folder cannot be written.
    """

    def __init__(
        self, folder: Path, variables: Mapping[str, tf.Variable], keep: int = 2
    ):
        self._folder = folder
        self.step = tf.Variable(0, dtype=tf.int64, trainable=False, name="step")
        with tf.device("CPU:0"):  # Where strings live.
            self._note = tf.Variable("{}", trainable=False, name="note")
        self._checkpoint = tf.train.Checkpoint(
            step=self.step, note=self._note, variables=dict(variables)
        )
        try:
            if not files.dropped():
                folder.mkdir(parents=True, exist_ok=True)
                _list_anew(folder)
        except (OSError, tf.errors.OpError) as error:
            raise UserError(f"cannot write to {folder}: {_reason(error)}") from None
        self._manager = tf.train.CheckpointManager(
            self._checkpoint, str(folder), max_to_keep=keep, step_counter=self.step
        )

    def save(self, step: int, note: Mapping[str, Any]) -> None:
        """Writes a checkpoint; a crash meanwhile leaves the ones before intact.

        Raises:
          UserError: It cannot be written.
        """
        before = int(self.step.numpy())
        self.step.assign(step)
        self._note.assign(json.dumps(note))
        if files.dropped():
            return
        try:
            self._manager.save(checkpoint_number=step)
            for path in self._folder.glob(f"ckpt-{step}.*"):
                files.sync(path)
            files.sync(self._folder)
        except (OSError, tf.errors.OpError) as error:
            kept = f"that of step {before} is kept" if before else "there is none yet"
            _delete(self._folder.glob(f"ckpt-{step}[._]*"))  # It may fill the disk.
            raise UserError(
                f"cannot write the checkpoint of step {step} to {self._folder}:"
                f" {_reason(error)}; {kept}. Once this is mended, the same command"
                " goes on from there"
            ) from None
        listed = {Path(path).name for path in self._manager.checkpoints}
        _delete(  # What a process that was killed has left half-written.
            path
            for path in self._folder.glob("ckpt-*")
            if re.match(r"ckpt-\d+", path.name).group() not in listed
        )

    def restore(self) -> tuple[int, dict[str, Any]]:
        """Restores the newest checkpoint that can be read.

        Returns:
          Its step and its note; 0 and an empty one if there is no checkpoint.

        Raises:
          UserError: There are checkpoints, and none can be read.
        """
        paths = list(reversed(_paths(self._folder)))
        for path in paths:
            try:
                status = self._checkpoint.restore(path)
                status.assert_consumed()
            except (tf.errors.OpError, IndexError, ValueError, AssertionError) as error:
                if distribute.is_loss(error):  # The checkpoint may be whole.
                    raise
                logging.warning(
                    "checkpoint %s cannot be read (%s); trying the one before",
                    path,
                    _reason(error),
                )
            else:
                return int(self.step.numpy()), json.loads(self._note.numpy())
        if paths:
            raise UserError(
                f"none of the checkpoints in {self._manager.directory} can be read;"
                " delete the folder to start anew"
            )
        return 0, {}


def _paths(folder: Path) -> list[str]:
    """The checkpoints that lie in a folder, the newest last."""
    paths = [str(path.with_suffix("")) for path in folder.glob("ckpt-*.index")]
    return sorted(paths, key=lambda path: int(path.rpartition("-")[2]))


def _list_anew(folder: Path) -> None:
    """Writes TensorFlow's list of the checkpoints from what lies in the folder.

    Without it the manager would not know them, and the next one written would be the
    only one to stay.
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


def _delete(paths) -> None:
    for path in list(paths):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _reason(error: Exception) -> str:
    """The first line of what an error says."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
