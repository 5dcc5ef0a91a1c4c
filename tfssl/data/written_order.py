"""In which order TFDS writes examples, to know them again when they are read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tensorflow_datasets.core import hashing


def written_order(keys: Sequence[int | str], tfds_split: str) -> np.ndarray:
    """Where the examples of a split have come from.

    TFDS sorts them by a hash of their keys. It has promised not to change the hash, as
    splits such as 'test[:50%]' would change with it.

    Args:
      keys: Of the examples, as the data set's builder gives them: numbers or names.
      tfds_split: The split that they are written to, such as 'test'.

    Returns:
      [n] int64: the place in `keys` of the first example that is read, the second, ...
    """
    hasher = hashing.Hasher(tfds_split)
    hashes = [hasher.hash_key(key) for key in keys]
    return np.array(sorted(range(len(hashes)), key=hashes.__getitem__), np.int64)
