"""Corrupted images as their authors released them: CIFAR-10-C and CIFAR-100-C.

https://zenodo.org/records/2535967 and /3555552: a folder with, for each corruption, a
file `<corruption>.npy` of the test images at severities 1 to 5, one after the other,
[5 * n, h, w, 3] uint8, in the original order of the test images, and `labels.npy`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import gin
import numpy as np
import tensorflow as tf

from tfssl.types import Batch, UserError

_SEVERITIES = 5


class Released:
    """The released images of one corruption, found by the examples' ids.

    The id of an example is its number in the original test set, as TFDS has it for
    CIFAR-10 and CIFAR-100.

    Attributes:
      name: The corruption's.
      sha256: Of the images.
    """

    def __init__(self, path: Path):
        self.name = path.stem
        try:
            self._images = np.load(path, mmap_mode="r", allow_pickle=False)
            labels = np.load(path.with_name("labels.npy"), allow_pickle=False)
            self.sha256 = hashlib.sha256(np.asarray(self._images)).hexdigest()
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"{path} or labels.npy cannot be read: {error}") from None
        shape, dtype = self._images.shape, self._images.dtype
        if dtype != np.uint8 or len(shape) != 4 or shape[0] % _SEVERITIES:
            raise UserError(
                f"{path} holds {dtype} of shape {shape}, not uint8 [5 * n, h, w, 3]"
            )
        self._count = shape[0] // _SEVERITIES
        if len(labels) not in (self._count, shape[0]):
            raise UserError(
                f"{path} has {self._count} images per severity, labels.npy"
                f" {len(labels)}"
            )
        self._labels = labels[: self._count]
        self._path = path

    def check(self, sample: Mapping[str, np.ndarray]) -> None:
        """Compares some examples, numpy arrays as in a batch, with the folder's labels.

        Raises:
          UserError: They are of another data set, or their ids are other numbers.
        """
        ids = sample["id"]
        if (
            ids.max() >= self._count
            or sample["image"].shape[1:] != self._images.shape[1:]
            or (self._labels[ids] != sample["label"]).any()
        ):
            raise UserError(
                f"{self._path} is not made of the images that are evaluated: their"
                " numbers, sizes or labels differ"
            )

    def of(self, batch: Batch, severity: int) -> tf.Tensor:
        """The corrupted images of a batch, [b, h, w, 3] float32 in [0, 1].

        Args:
          batch: Of it only the ids are read; padding gets some image.
          severity: 1 to 5.
        """
        first = (severity - 1) * self._count

        def look_up(ids: np.ndarray) -> np.ndarray:
            # In the order of the file: it may lie on a disk.
            order = np.argsort(ids)
            images = np.empty((len(ids), *self._images.shape[1:]), np.uint8)
            images[order] = self._images[first + ids[order]]
            return images

        ids = tf.maximum(batch["id"], 0)
        images = tf.numpy_function(look_up, [ids], tf.uint8, stateful=False)
        images = tf.ensure_shape(images, batch["image"].shape)
        return tf.cast(images, tf.float32) / 255


@gin.register(module="tfssl.data")
def released(
    folder: str | os.PathLike, corruptions: Sequence[str] | None = None
) -> list[Released]:
    """The corruptions in a folder, for `Corrupted.corruptions`.

    Args:
      folder: Of CIFAR-10-C or CIFAR-100-C, unpacked.
      corruptions: Which; all that are there if None.

    Raises:
      UserError: Files are missing, or hold something else.
    """
    folder = Path(folder)
    names = corruptions or sorted(
        path.stem for path in folder.glob("*.npy") if path.stem != "labels"
    )
    if not names:
        raise UserError(f"{folder} holds no .npy files: unpack CIFAR-10-C there")
    return [Released(folder / f"{name}.npy") for name in names]
