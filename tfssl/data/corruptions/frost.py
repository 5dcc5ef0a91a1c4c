"""Frost: corruption 9 of 15."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import gin
import numpy as np
import tensorflow as tf

from tfssl.data.corruptions import draws
from tfssl.data.corruptions.corruption import Corruption
from tfssl.data.corruptions.ice import ice
from tfssl.types import UserError

# The benchmark's sixth is never chosen: its scripts draw from 0 to 4.
_FILES = ("frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg")
_PACKAGE = "imagecorruptions"


@gin.register(module="tfssl.data.corruptions")
class Frost(Corruption):
    """Adds a picture of frost to a darkened image.

    The settings are the weights of the image and of the frost. The frost is a random
    part of one of the benchmark's five pictures if there are any: in `pictures`, or in
    the package imagecorruptions if that is installed. Those of 'cifar' are shrunk to a
    fifth; one that is too small for the image is enlarged. Otherwise the frost is
    procedural (`ice.py`), similar in colour and contrast: another benchmark.

    Args:
      constants: 'cifar' or 'imagenet'.
      pictures: A folder with frost1.png, frost2.png, frost3.png, frost4.jpg and
        frost5.jpg of https://github.com/hendrycks/robustness.

    Attributes:
      texture: 'benchmark' or 'procedural'.

    Raises:
      UserError: A picture is not in `pictures`, or not readable.
    """

    name = "frost"
    cifar = ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))
    imagenet = ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))
    needs_color = True

    def __init__(self, constants: str, pictures: str | None = None):
        super().__init__(constants)
        folder = Path(pictures) if pictures is not None else _installed()
        self._pictures = [_read(folder / file) for file in _FILES] if folder else []
        if constants == "cifar":
            self._pictures = [
                cv2.resize(x, (0, 0), fx=0.2, fy=0.2) for x in self._pictures
            ]
        self.texture = "benchmark" if self._pictures else "procedural"

    def _corrupt(
        self, levels: tf.Tensor, seed: tf.Tensor, setting: tuple[float, float]
    ) -> tf.Tensor:
        height, width = levels.shape[1:3]
        if self._pictures:
            u = draws.uniform(self._stream(seed, "part"), [3])
            pictures = [_enlarged(x, height, width) for x in self._pictures]
            frost = _parts(pictures, u, height, width)
        else:
            frost = ice(self._stream(seed, "ice"), height, width)
        # In float64: tenths of levels often add up to whole ones.
        levels, frost = tf.cast(levels, tf.float64), tf.cast(frost, tf.float64)
        return setting[0] * levels + setting[1] * frost


def _installed() -> Path | None:
    """The folder of the package that has the pictures, which is not imported."""
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(spec.submodule_search_locations[0], "frost")
    return folder if all((folder / file).is_file() for file in _FILES) else None


def _read(file: Path) -> np.ndarray:
    """[h, w, 3] uint8, red first."""
    picture = cv2.imread(str(file)) if file.is_file() else None
    if picture is None:
        raise UserError(f"Frost.pictures: there is no picture {file}")
    return np.ascontiguousarray(picture[..., ::-1])


def _enlarged(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """As it is, if there is more than one place for parts of h x w pixels."""
    rows, columns = picture.shape[:2]
    if rows > height and columns > width:
        return picture
    factor = 1.1 * max(height / rows, width / columns)
    size = math.ceil(factor * columns), math.ceil(factor * rows)
    return cv2.resize(picture, size, interpolation=cv2.INTER_CUBIC)


def _parts(
    pictures: Sequence[np.ndarray], u: tf.Tensor, height: int, width: int
) -> tf.Tensor:
    """Parts of random pictures at random places.

    Args:
      pictures: Each [rows, columns, 3] uint8, larger than the parts.
      u: [b, 3], uniform in [0, 1): which, and where.
      height, width: Of the parts.

    Returns:
      [b, height, width, 3] uint8.
    """
    sizes = np.array([x.shape[:2] for x in pictures], np.int32)
    starts = np.cumsum([0, *sizes.prod(axis=1)[:-1]], dtype=np.int32)
    pixels = np.concatenate([x.reshape(-1, 3) for x in pictures])
    which = tf.cast(u[:, 0] * len(pictures), tf.int32)
    size = tf.gather(sizes, which)
    room = tf.cast(size - [height, width], tf.float32)
    corner = tf.cast(u[:, 1:] * room, tf.int32)
    columns = size[:, 1, None, None]
    y = corner[:, 0, None, None] + np.arange(height, dtype=np.int32)[:, None]
    x = corner[:, 1, None, None] + np.arange(width, dtype=np.int32)
    place = tf.gather(starts, which)[:, None, None] + y * columns + x
    return tf.gather(pixels, place)
