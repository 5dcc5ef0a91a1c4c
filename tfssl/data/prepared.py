"""Finds a TFDS data set on disk, or prepares it there, and reads it."""

from __future__ import annotations

import os
import pathlib

import tensorflow as tf
import tensorflow_datasets as tfds
from absl import logging

from tfssl.types import UserError


def cache_dir() -> pathlib.Path:
    """Where tfssl keeps what it can compute again."""
    home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(home) / "tfssl"


def find(name: str) -> tfds.core.DatasetBuilder | None:
    """The builder of a data set that is there, prepared; None if it is not.

    Args:
      name: See `builder`.

    Raises:
      UserError: TFDS knows the data set, and no such configuration or version.
    """
    for place in _places(name):
        found = _builder(name, place)
        if found is not None and found.data_path.exists():
            return found
    return None


def builder(name: str) -> tfds.core.DatasetBuilder:
    """The builder of a prepared data set.

    Looks in `$TFDS_DATA_DIR` (~/tensorflow_datasets if not set), then in the cache
    directory, which stands in where the first cannot be written. What is in neither is
    downloaded and prepared. Several processes may do so at the same time. Builders with
    `embedded = True` need no download and are kept in the cache directory alone.

    Args:
      name: Name and version as TFDS writes them, 'cifar10:3.0.2' or
        'imagenette/320px-v2:1.0.0'.

    Raises:
      UserError: TFDS does not know the name or version, or the data are neither there
        nor can be had; the message says what to do.
    """
    found = find(name)
    if found is not None:
        return found
    first, cache = _data_dir(), cache_dir() / "data"
    if _builder(name, cache) is None:
        raise UserError(
            f"TFDS knows no data set {name!r}, and {first} has none: check the"
            " spelling, or import the module that defines it"
        )
    place = next((p for p in _places(name) if _writable(p)), None)
    if place is None:
        raise UserError(
            f"{name} is not in {first} and neither that nor {cache} can be written:"
            " set TFDS_DATA_DIR to where the data are or may go"
        )
    logging.warning(
        "%s is not in %s: preparing it in %s (without network a download fails only"
        " after minutes; set TFDS_DATA_DIR if you have the data elsewhere)",
        *(name, first, place),
    )
    try:
        _builder(name, place).download_and_prepare()
    except Exception as error:
        # Another process may have been faster: TFDS prepares in a temporary directory
        # and the second to rename its own fails.
        if not _builder(name, place).data_path.exists():
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise UserError(
                f"{name} is not in {first} and preparing it in {place} failed; set"
                f" TFDS_DATA_DIR to where the data are, or run `tfds build {name}`"
                f" where there is network and copy the result ({reason:.500})"
            ) from error
    return _builder(name, place)  # Anew, for it reads the description when made.


def undecoded(builder: tfds.core.DatasetBuilder, tfds_split: str) -> tf.data.Dataset:
    """All examples of a TFDS split, always in the same order, 'image' undecoded.

    Raises:
      UserError: There is no such split.
    """
    try:
        return builder.as_dataset(
            split=tfds_split,
            shuffle_files=False,
            decoders={"image": tfds.decode.SkipDecoding()},
            read_config=tfds.ReadConfig(interleave_cycle_length=1),
        )
    except (ValueError, AssertionError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{builder.info.full_name} has no split {tfds_split!r}: set"
            f" Dataset.train_split and Dataset.test_split ({reason:.200})"
        ) from None


def _data_dir() -> pathlib.Path:
    place = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return pathlib.Path(place).expanduser()


def _places(name: str) -> list[pathlib.Path]:
    cache = cache_dir() / "data"
    embedded = getattr(_builder(name, cache), "embedded", False)
    return [cache] if embedded else [_data_dir(), cache]


def _builder(name: str, place: pathlib.Path) -> tfds.core.DatasetBuilder | None:
    """None if there is neither code nor data of that name."""
    try:
        found = tfds.builder(name, data_dir=place)
    except tfds.core.DatasetNotFoundError:
        return None
    except (AssertionError, ValueError) as error:  # Unknown version or config.
        reason = str(error).splitlines()[0]
        raise UserError(f"TFDS cannot make {name!r}: {reason}") from None
    if ":" not in name:
        raise UserError(
            f"The data set {name!r} has no version, and versions differ: write"
            f" '{name}:{found.version}'"
        )
    return found


def _writable(place: pathlib.Path) -> bool:
    existing = next(p for p in [place, *place.parents] if p.exists())
    return os.access(existing, os.W_OK)
