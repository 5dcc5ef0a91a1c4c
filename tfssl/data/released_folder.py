"""Corrupted images as their authors released them, in folders: ImageNet-C.

https://zenodo.org/records/2235448, five archives of `<corruption>/<severity>/<wnid>/`
with a file for each image of ImageNet's validation set, 224 x 224, JPEG.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import gin
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from tfssl.data.written_order import written_order
from tfssl.types import Batch, UserError

_SEVERITIES = (1, 2, 3, 4, 5)
_AT_ONCE = 32  # Files read and decoded at a time.


class ReleasedFolder:
    """The released images of one corruption, found by the examples' ids.

    The id of an example is its place among all in the order of TFDS's split
    'validation' of imagenet2012, which is one of file names.

    That the images are the released ones is believed: they are too many for a digest.

    Attributes:
      name: The corruption's.
    """

    def __init__(self, folder: Path):
        self.name = folder.name
        self._folder = folder

    @functools.cached_property
    def _files(self) -> np.ndarray:
        """[n] 'wnid/file', by id."""
        found = [_listed(self._folder / str(severity)) for severity in _SEVERITIES]
        for severity, files in zip(_SEVERITIES, found, strict=True):
            if files != found[0]:
                raise UserError(
                    f"{self._folder} has other files in {severity} than in 1, such as"
                    f" {min(files ^ found[0])}: unpack it again"
                )
        files = sorted(found[0], key=os.path.basename)
        names = [os.path.basename(file) for file in files]
        return np.array(files)[written_order(names, "validation")]

    @functools.cached_property
    def _labels(self) -> np.ndarray:
        """[n] int64, by id: places among ImageNet's classes."""
        wnids = tfds.core.tfds_path("datasets/imagenet2012/labels.txt").read_text()
        labels = {wnid: label for label, wnid in enumerate(wnids.split())}
        return np.array([labels.get(f.partition("/")[0], -1) for f in self._files])

    def check(self, sample: Mapping[str, np.ndarray]) -> None:
        """Compares some examples, numpy arrays as in a batch, with the folders' names.

        Raises:
          UserError: Files are missing, or the examples are of another data set, or
            their ids are other numbers.
        """
        ids = sample["id"]
        image = tf.io.read_file(str(self._folder / "1" / self._files[0]))
        if (
            ids.max() >= len(self._files)
            or (self._labels[ids] != sample["label"]).any()
            or sample["image"].shape[1:] != _decoded(image).shape
        ):
            raise UserError(
                f"{self._folder} is not made of the images that are evaluated, all"
                " 50,000 of imagenet2012: their numbers, sizes or labels differ"
            )

    def of(self, batch: Batch, severity: int) -> tf.Tensor:
        """The corrupted images of a batch, [b, h, w, 3] float32 in [0, 1].

        Args:
          batch: Of it only the ids are read; padding gets some image.
          severity: 1 to 5.
        """

        def look_up(ids: np.ndarray) -> np.ndarray:
            folder = self._folder / str(severity)
            return np.array([f"{folder}/{f}".encode() for f in self._files[ids]])

        ids = tf.maximum(batch["id"], 0)
        paths = tf.numpy_function(look_up, [ids], tf.string, stateful=False)
        images = tf.map_fn(
            lambda path: _decoded(tf.io.read_file(path)),
            tf.ensure_shape(paths, ids.shape),
            parallel_iterations=_AT_ONCE,
            fn_output_signature=tf.TensorSpec(batch["image"].shape[1:], tf.uint8),
        )
        return tf.cast(images, tf.float32) / 255


def _decoded(file: tf.Tensor) -> tf.Tensor:
    # As other readers of the benchmark decode it, to the last bit.
    return tf.image.decode_jpeg(file, channels=3, dct_method="INTEGER_ACCURATE")


def _listed(folder: Path) -> set[str]:
    """'wnid/file' of each image."""
    try:
        classes = [entry for entry in os.scandir(folder) if entry.is_dir()]
    except OSError as error:
        raise UserError(f"{folder} cannot be read: {error.strerror}") from None
    files = {
        f"{each.name}/{file.name}"
        for each in classes
        for file in os.scandir(each)
        if file.name.endswith(".JPEG")
    }
    if not files:
        raise UserError(f"{folder} holds no folders with .JPEG files")
    return files


@gin.register(module="tfssl.data")
def released_folders(
    folder: str | os.PathLike, corruptions: Sequence[str] | None = None
) -> list[ReleasedFolder]:
    """The corruptions in a folder, for `Corrupted.corruptions`.

    Args:
      folder: Where ImageNet-C is unpacked: it holds the folders of the corruptions, or
        those of the archives (noise, blur, weather, digital, extra) with these inside.
      corruptions: Which; all that are there if None.

    Raises:
      UserError: A corruption is not there.
    """
    there = {
        path.parent.name: path.parent
        for pattern in ("*/1", "*/*/1")
        for path in sorted(Path(folder).glob(pattern))
    }
    names = corruptions or sorted(there)
    missing = [name for name in names if name not in there]
    if missing or not names:
        raise UserError(
            f"{folder} holds no folder {missing[0] if missing else 'of a corruption'}"
            " with the folders 1 to 5: unpack ImageNet-C there"
        )
    return [ReleasedFolder(there[name]) for name in names]
