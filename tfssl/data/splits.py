"""Which examples of a TFDS data set are in which split, the same on each machine."""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Mapping

import numpy as np
import tensorflow_datasets as tfds

from tfssl import files
from tfssl.data import prepared, written_order
from tfssl.types import UserError


class Splits:
    """The examples of 'train', 'validation' and 'test'.

    Args:
      name: Of the data set, for errors.
      builder: Of the data set.
      tfds_splits: For each of the three that there is, the TFDS split it is of.
      counts: The arguments 'validation', 'num_examples' and 'num_test_examples' of
        `tfssl.data.dataset.Dataset`.
      label_map: See there.
      keep_index: Whether ids and labels are kept on disk: where the images do not fit
        into memory, reading all files for them takes minutes.
      numbered: See there.
    """

    def __init__(
        self,
        name: str,
        builder: tfds.core.DatasetBuilder,
        tfds_splits: Mapping[str, str],
        counts: Mapping[str, int | None],
        label_map: Mapping[int, int] | None,
        keep_index: bool,
        numbered: bool = False,
    ):
        self.name = name
        self.tfds_splits = tfds_splits
        self._builder = builder
        self._num_labels = builder.info.features["label"].num_classes
        self._counts = counts
        self._label_map = label_map
        self._keep_index = keep_index
        self._numbered = numbered
        # Nothing is read before it is needed, and nothing twice.
        self._index = functools.cache(self._index)
        self._positions = functools.cache(self._positions)

    def size(self, split: str) -> int:
        """Number of examples."""
        return len(self._positions(split))

    def ids(self, split: str) -> np.ndarray:
        """[n] int64, in the order of reading."""
        positions = self._positions(split)
        return self._index(self.tfds_splits[split])[0][positions]

    def labels(self, split: str) -> np.ndarray:
        """[n] int32, after the label map."""
        labels = self._index(self.tfds_splits[split])[1][self._positions(split)]
        if self._label_map is not None:
            labels = np.array([self._label_map[label] for label in labels.tolist()])
        return labels.astype(np.int32)

    def places(self, split: str, keep: np.ndarray) -> np.ndarray:
        """[m] int64, for each example of the TFDS split: which of the split it is.

        Args:
          split: 'train', 'validation' or 'test'.
          keep: [n] bool. An example that is not in the split, or not kept, is -1.
        """
        places = np.full(len(self._index(self.tfds_splits[split])[0]), -1)
        places[self._positions(split)[keep]] = np.flatnonzero(keep)
        return places

    def _index(self, tfds_split: str) -> tuple[np.ndarray, np.ndarray]:
        """Ids and labels [n] int64 of a TFDS split, in the order of reading."""
        if not self._keep_index:
            return self._read_index(tfds_split)
        key = f"{self._builder.data_path} {self._builder.info.as_json} {tfds_split}"
        key += " numbered" if self._numbered else ""
        digest = hashlib.sha256(key.encode()).hexdigest()
        path = prepared.cache_dir() / "index" / f"{digest}.npz"
        if not path.exists():
            ids, labels = self._read_index(tfds_split)
            with files.replacing(path) as temporary:
                np.savez(temporary, ids=ids, labels=labels)
        with np.load(path, allow_pickle=False) as file:
            return file["ids"], file["labels"]

    def _read_index(self, tfds_split: str) -> tuple[np.ndarray, np.ndarray]:
        features = self._builder.info.features
        has_id = "id" in features and isinstance(features["id"], tfds.features.Text)
        dataset = prepared.undecoded(self._builder, tfds_split).map(
            lambda x: (x["label"], x["id"] if has_id else "")
        )
        labels, names = [], []
        for label, name in dataset.batch(4096).as_numpy_iterator():
            labels.extend(label.tolist())
            names.extend(name.tolist())
        numbers = [re.search(rb"\d+$", name) for name in names]
        ids = np.arange(len(names))
        if all(numbers):
            in_names = np.array([int(number[0]) for number in numbers], np.int64)
            if len(np.unique(in_names)) == len(in_names):
                ids = in_names
        if self._numbered:
            ids = self._numbers(tfds_split)
        labels = np.array(labels, np.int64)
        wrong = labels[(labels < 0) | (labels >= self._num_labels)]
        if len(wrong):
            raise UserError(
                f"Split {tfds_split!r} of {self.name} has label {wrong[0]}, outside of"
                f" 0 .. {self._num_labels - 1}: a split without labels cannot be used"
            )
        return ids, labels

    def _numbers(self, tfds_split: str) -> np.ndarray:
        """[n] int64, those that the examples were written with."""
        if tfds_split not in self._builder.info.splits:
            raise UserError(
                f"{self.name}: examples have numbers in whole TFDS splits alone, not in"
                f" {tfds_split!r}"
            )
        count = self._builder.info.splits[tfds_split].num_examples
        return written_order.written_order(range(count), tfds_split)

    def _positions(self, split: str) -> np.ndarray:
        """[n] int64, ascending: where the split's examples are in the TFDS split."""
        if split not in self.tfds_splits:
            raise UserError(
                f"{self.name} has no split {split!r}: it has"
                f" {', '.join(self.tfds_splits)}"
            )
        ids, labels = self._index(self.tfds_splits[split])
        positions = np.arange(len(ids))
        if self._label_map is not None:
            positions = positions[np.isin(labels, list(self._label_map))]
        if split == "test":
            return self._subset(positions, ids, "num_test_examples")
        held_out = self._subset(positions, ids, "validation")
        if split == "validation":
            return held_out
        return self._subset(np.setdiff1d(positions, held_out), ids, "num_examples")

    def _subset(
        self, positions: np.ndarray, ids: np.ndarray, purpose: str
    ) -> np.ndarray:
        """As many of `positions` as asked for, whose ids have the smallest hashes."""
        count = self._counts[purpose]
        if count is None:
            return positions
        if not isinstance(count, int) or not 0 <= count <= len(positions):
            raise UserError(
                f"Dataset.{purpose} = {count}, but {self.name} has {len(positions)}"
                " examples to take them from"
            )
        if count == 0:
            return positions[:0]
        hashes = [
            hashlib.sha256(f"{purpose} {number}".encode()).digest()
            for number in ids[positions].tolist()
        ]
        order = sorted(range(len(positions)), key=hashes.__getitem__)
        return np.sort(positions[order[:count]])
