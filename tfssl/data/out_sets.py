"""Data sets that a network was not trained on, of which only a test split is read."""

from __future__ import annotations

from collections.abc import Mapping

import gin

from tfssl.data import prepared
from tfssl.data.dataset import Dataset


@gin.register(module="tfssl.data")
def out_sets(
    splits: Mapping[str, str], image_size: int, in_memory: bool = True
) -> list[Dataset]:
    """Makes data sets that have a test split alone.

    Args:
      splits: From names, 'dtd:3.0.1', to TFDS splits, 'train+test'.
      image_size: As in `Dataset`, for those whose images vary in size. The others keep
        their size.
      in_memory: As in `Dataset`.

    Raises:
      UserError: The data cannot be had.
    """
    found = []
    for name, split in splits.items():
        features = prepared.builder(name).info.features
        varies = "image" in features and None in features["image"].shape
        found.append(
            Dataset(
                name,
                train_split=None,
                test_split=split,
                image_size=image_size if varies else None,
                in_memory=in_memory,
            )
        )
    return found
