"""Corrupted images that are TFDS data sets, one for each corruption and severity.

Such as `cifar10_corrupted`, the released images of CIFAR-10-C, and what `bin/corrupt`
writes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import gin

from tfssl.data.lazy_dataset import LazyDataset
from tfssl.types import UserError


class CorruptedSet:
    """The data sets of one corruption, for `Corrupted.corruptions`.

    Attributes:
      name: The corruption's, as the benchmark's files are called.

    Args:
      config: What TFDS calls it, before `_<severity>`.
      name, dataset, version, split, numbered: See `corrupted_sets`.
    """

    def __init__(
        self,
        name: str,
        config: str,
        dataset: str,
        version: str,
        split: str,
        numbered: bool,
    ):
        self.name = name
        self._stem = f"{dataset}/{config}"
        self._version = version
        self._settings = {"split": split, "numbered": numbered}

    def dataset(self, severity: int) -> LazyDataset:
        """The data set of a severity, 1 to 5."""
        return LazyDataset(f"{self._stem}_{severity}:{self._version}", **self._settings)


@gin.register(module="tfssl.data")
def corrupted_sets(
    dataset: str,
    corruptions: Sequence[str],
    split: str = "test",
    numbered: bool = False,
    called: Mapping[str, str] | None = None,
) -> list[CorruptedSet]:
    """The corruptions of a data set whose configurations are 'fog_1', 'fog_2', ..

    Args:
      dataset: TFDS name and version, 'cifar10_corrupted:1.0.0'.
      corruptions: Names as in the benchmark's files.
      split: The TFDS split of the images.
      numbered: See `Dataset`: whether ids are the numbers that examples were written
        with.
      called: From the names of corruptions to other ones that TFDS has for them.

    Raises:
      UserError: The data set's name has no version.
    """
    name, _, version = dataset.partition(":")
    if not version:
        raise UserError(
            f"the data set {dataset!r} has no version, as 'cifar10_corrupted:1.0.0' has"
        )
    called = called or {}
    return [
        CorruptedSet(
            *(corruption, called.get(corruption, corruption)),
            *(name, version, split, numbered),
        )
        for corruption in corruptions
    ]
