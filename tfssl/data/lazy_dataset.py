"""A test split that is looked for when it is needed."""

from __future__ import annotations

import functools
from typing import Any

import gin
import tensorflow_datasets as tfds

from tfssl.data import prepared
from tfssl.data.dataset import Dataset


@gin.register(module="tfssl.data")
class LazyDataset:
    """A data set to measure on besides one's own, for a `Cell.dataset`.

    Nothing is looked for when it is made: numbers that are measured already can be read
    where the data are not.

    Args:
      name: TFDS name and version, 'cifar10_1/v4:1.1.0'; see `Dataset`.
      split: Its TFDS split.
      image_size, numbered: See `Dataset`.
      classes: If its examples are of a part of the classes alone: of how many.
    """

    def __init__(
        self,
        name: str,
        split: str = "test",
        image_size: int | None = None,
        numbered: bool = False,
        classes: int | None = None,
    ):
        self.name = name
        self.split = split
        self.image_size = image_size
        self.numbered = numbered
        self.classes = classes
        self._opened: Dataset | None = None

    def identity(self) -> dict[str, Any] | None:
        """What tells it from others of its name, found without reading an example.

        Returns:
          Its full name, number of examples and metadata; None if it is not there.
        """
        if self._found is None:
            return None
        info = self._found.info
        try:
            examples = info.splits[self.split].num_examples
        except (KeyError, ValueError):  # No such split: `open` says so.
            return None
        metadata = dict(info.metadata or {})
        return {"name": info.full_name, "examples": examples, "metadata": metadata}

    def open(self) -> Dataset:
        """The data set, of which only the split 'test' may be looked at.

        Raises:
          UserError: The data cannot be had, or are none for image classification.
        """
        if self._opened is None:
            self._opened = Dataset(
                self.name,
                test_split=self.split,
                validation=0,
                image_size=self.image_size,
                in_memory=False,
                numbered=self.numbered,
            )
            self.__dict__.pop("_found", None)  # It may have been prepared just now.
        return self._opened

    @functools.cached_property
    def _found(self) -> tfds.core.DatasetBuilder | None:
        return prepared.find(self.name)
