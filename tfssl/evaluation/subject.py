"""What an evaluator measures: one classifier on the examples of one split."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf
import tqdm

from tfssl import distribute
from tfssl.evaluation.classifier import Classifier
from tfssl.evaluation.journal import Journal
from tfssl.types import Batch, UserError

if TYPE_CHECKING:
    from tfssl.evaluation.evaluators import Cell


class Subject:
    """A classifier and a split, on the replicas of the strategy in scope.

    Attributes:
      ids: [n] int64, the examples.
      classifier, dataset, split: As given.
      journals: If set, from a step's label to the journal that it keeps.
      randomised: Whether the classifier is known to answer differently each time.

    Args:
      classifier: Its variables live under that strategy.
      dataset: A data set, see the design page.
      split: 'train', 'validation' or 'test'.
      batch_size: Examples at a time, over all replicas. Results do not depend on it.
      seed: All random draws of an example are a function of it and the example's id.
      logits: Whether its logits will be asked for; if not, it may be an encoder.

    Raises:
      UserError: The classifier does not fit the data set, the split is empty, or the
        batch cannot be shared equally by the replicas.
    """

    def __init__(
        self,
        classifier: Classifier,
        dataset: Any,
        split: str,
        batch_size: int,
        seed: int,
        logits: bool = True,
    ):
        classifier.check_fit(dataset, logits)
        self.classifier = classifier
        self.journals: Callable[[str], Journal] | None = None
        self.randomised = False
        if (
            not isinstance(batch_size, int)
            or batch_size < 1
            or batch_size % distribute.replicas()
        ):
            raise UserError(
                f"batch_size {batch_size} must be a positive multiple of the number"
                f" of devices, {distribute.replicas()}"
            )
        self._batch_size = batch_size
        self._seed = seed
        self._logits = logits
        self._take(dataset, split)
        self._strategy = tf.distribute.get_strategy()
        self._graphs = {}

    def first(self, n: int | None) -> Subject:
        """The same with the first n examples of the split alone; with all if None."""
        return self._at(np.arange(len(self.ids))[:n])

    def of_cell(self, cell: Cell, examples: int | None = None) -> Subject:
        """The same classifier on the examples that a cell measures.

        Args:
          cell: See there.
          examples: If it is measured on another data set: on how many of the first
            examples of that; on all if None.

        Raises:
          UserError: Its data set cannot be had, does not fit the classifier or, if it
            is paired with this one, is not of the same examples; or none are left.
        """
        part = self
        if cell.dataset is not None:
            dataset = cell.dataset.open()
            if cell.paired:
                part = self._paired(dataset)
            else:
                part = self._of(dataset).first(examples)
        part = part.first(cell.examples)
        if cell.keep is None:
            return part
        kept = np.flatnonzero(cell.keep(part.labels))
        if not len(kept):
            raise UserError(f"{part.dataset.name} has no examples for {cell.name}")
        return part._at(kept)

    def _of(self, dataset: Any) -> Subject:
        """The same classifier on the test split of another data set."""
        self.classifier.check_fit(dataset, self._logits)
        return self.over(dataset, "test")

    def _paired(self, dataset: Any) -> Subject:
        """The same examples in another data set."""
        other = self._of(dataset)
        order = np.argsort(other.ids)
        place = np.searchsorted(other.ids, self.ids, sorter=order)
        other = other._at(order[place.clip(max=len(order) - 1)])
        differ = (other.ids != self.ids) | (other.labels != self.labels)
        if differ.any():
            raise UserError(
                f"{dataset.name} is not made of the images of {self.dataset.name}:"
                f" ids or labels of {differ.sum()} of {len(differ)} examples differ"
            )
        return other

    def _at(self, positions: np.ndarray) -> Subject:
        part = copy.copy(self)
        part.ids = self.ids[positions]
        part._places = self._places[positions]
        return part

    def on(self, split: str) -> Subject:
        """The same classifier on all examples of a split; it keeps no journals.

        Raises:
          UserError: The split is empty.
        """
        other = copy.copy(self)
        other.journals = None
        other._take(self.dataset, split)
        return other

    def over(self, dataset: Any, split: str) -> Subject:
        """The same classifier on all examples of a split of another data set.

        It keeps the same journals: labels say which data set a step is about. Its
        labels may be others than those of the classifier.

        Raises:
          UserError: Its images do not fit the classifier, or the split is empty.
        """
        self.classifier.check_fit(dataset, logits=False)
        other = copy.copy(self)
        other._take(dataset, split)
        return other

    def _take(self, dataset: Any, split: str) -> None:
        self.dataset = dataset
        self.split = split
        self.ids = np.asarray(dataset.ids(split))
        self._size = len(self.ids)
        self._places = np.arange(self._size)  # In the split, of the examples.
        if not self._size:
            raise UserError(f"{dataset.name} has no examples in split {split!r}")

    @property
    def num_classes(self) -> int:
        """k, of the data set."""
        return self.dataset.num_classes

    @property
    def labels(self) -> np.ndarray:
        """[n] int32."""
        return self.dataset.labels(self.split)[self._places]

    @property
    def complete(self) -> bool:
        """Whether it is all of the split."""
        return len(self.ids) == self._size

    def map(
        self,
        function: Callable,
        *arguments: Any,
        keep: np.ndarray | None = None,
        eager: bool = False,
        label: str | None = None,
    ) -> dict[str, np.ndarray]:
        """Calls `function(classifier, batch, *arguments)` on all or some examples.

        The examples are packed into full batches. A graph is traced at the first call
        with a function and kept; pass it the same function again, and tensors.

        Args:
          function: Runs on each replica; from a batch to a dict of tensors [b, ...].
          *arguments: Further arguments, the same for each batch.
          keep: [n] bool, the positions to visit; all if None. At least one.
          eager: Call the function outside of graphs.
          label: Of the progress bar, which is shown on a terminal, and of the journal,
            if there are any; neither if None.

        Returns:
          The function's results for the visited examples, in the split's order.
        """
        ids = self.ids if keep is None else self.ids[keep]
        journal = self.journals(label) if self.journals and label else None
        found = journal.read() if journal else {}
        if found:  # Should what is asked for have changed.
            known = np.isin(found["id"], ids)
            found = {k: v[known] for k, v in found.items()}
        left = ids if not found else ids[~np.isin(ids, found["id"])]
        if (
            journal
        ):  # A worker with nothing left is not to end the cell before all know.
            distribute.same_everywhere("the number of examples to measure", len(left))
        bar = tqdm.tqdm(
            self._batches(np.isin(self.ids, left)) if len(left) else (),
            desc=label,
            total=-(-len(left) // self._examples_at_once),
            leave=False,
            disable=None if label else True,  # None: on a terminal only.
        )
        run = self._graph(function, eager)
        parts = [found] if found else []
        for batch in bar:
            part = {k: v.numpy() for k, v in run(batch, *arguments).items()}
            real = part["id"] >= 0
            parts.append({k: v[real] for k, v in part.items()})
            if journal and journal.due:
                journal.write(_joined(parts))
        found = _joined(parts)
        order = np.argsort(found["id"])
        place = np.searchsorted(found["id"], ids, sorter=order)
        if (
            len(found["id"]) != len(ids)
            or (found["id"][order[place.clip(max=len(ids) - 1)]] != ids).any()
        ):
            raise RuntimeError(
                f"{self.dataset.name} gave other examples than it has listed"
            )
        return {k: v[order[place]] for k, v in found.items() if k != "id"}

    def features(self, label: str) -> tuple[np.ndarray, np.ndarray]:
        """Features of the examples as they are, in inference mode, and their labels.

        Args:
          label: Of the progress bar. There is no journal: it would be large.

        Returns:
          [n, d] float32 and [n] int32, in the split's order.

        Raises:
          UserError: The model has no features, or some are not finite.
        """
        part = copy.copy(self)
        part.journals = None
        part.classifier.encoder  # noqa: B018  Made here, not while a graph is traced.
        found = part.map(_features, label=label)
        if not np.isfinite(found["features"]).all():
            raise UserError(f"{self.classifier.name} has features that are not finite")
        return found["features"], found["label"]

    def sample(self, n: int) -> dict[str, np.ndarray]:
        """The first n examples, or all if there are fewer."""
        batches = self.dataset.eval_batches(
            self.split, n, self._seed, keep=self._whole(None)
        )
        batch = next(batches.as_numpy_iterator())
        return {name: value[batch["id"] >= 0] for name, value in batch.items()}

    @property
    def _examples_at_once(self) -> int:
        """Few examples need no batch that is filled up with padding."""
        devices = distribute.replicas()
        return min(self._batch_size, -(-len(self.ids) // devices) * devices)

    def _batches(self, keep: np.ndarray) -> Any:
        batches = self.dataset.eval_batches(
            self.split, self._examples_at_once, self._seed, keep=self._whole(keep)
        )
        return distribute.share_out(
            self._strategy, functools.partial(distribute.sliced, batches)
        )

    def _whole(self, keep: np.ndarray | None) -> np.ndarray | None:
        """Positions of the whole split, of positions among the examples."""
        if keep is None and self.complete:
            return None
        whole = np.zeros(self._size, bool)
        whole[self._places if keep is None else self._places[keep]] = True
        return whole

    def _graph(self, function: Callable, eager: bool) -> Callable:
        if function not in self._graphs:
            run = functools.partial(self._run, function)
            self._graphs[function] = run if eager else tf.function(run)
        return self._graphs[function]

    def _run(self, function: Callable, batch: Any, *arguments: Any) -> Any:
        def on_replica(batch, *arguments):
            return {"id": batch["id"], **function(self.classifier, batch, *arguments)}

        return distribute.collect(self._strategy, on_replica, (batch, *arguments))


def _features(classifier: Classifier, batch: Batch) -> dict[str, tf.Tensor]:
    return {"features": classifier.features(batch["image"]), "label": batch["label"]}


def _joined(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
