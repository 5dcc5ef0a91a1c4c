"""Accuracy on other data sets of the same classes: natural distribution shifts."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import gin
import numpy as np
import tensorflow as tf

from tfssl.evaluation.classifier import Classifier
from tfssl.evaluation.evaluators import Cell, Outcome, check_name, clean
from tfssl.evaluation.results import describe
from tfssl.evaluation.subject import Subject
from tfssl.evaluation.trial import correct
from tfssl.types import Batch, UserError


@gin.register(module="tfssl.evaluation")
class Shifts:
    """Accuracy on one's own test images, and on those of other data sets.

    Where a data set has examples of a part of the classes alone, as ImageNet-R and
    ImageNet-A have, the protocol of its authors is followed: the answer is the largest
    logit of these classes (Hendrycks et al. 2021, https://arxiv.org/abs/2006.16241 and
    https://arxiv.org/abs/1907.07174). For comparison the same is measured on one's own
    test images of these classes. Both numbers are called 'accuracy in the classes of
    <data set>'.

    Args:
      datasets: Of distinct names, with labels as one's own; see `Cell.dataset`. Their
        attribute `classes` is the number of classes that they have examples of, None if
        that is all.
      name: Of the evaluator and its folder of results.

    Raises:
      UserError: Two have one name; when measured: a data set has examples of another
        number of classes than is said.
    """

    def __init__(self, datasets: Sequence[Any], name: str):
        check_name(name)
        names = [dataset.name for dataset in datasets]
        if not names or len(set(names)) < len(names):
            raise UserError(f"{name}: data sets need distinct names, got {names}")
        self.name = name
        self._datasets = {dataset.name: dataset for dataset in datasets}

    def cells(self) -> list[Cell]:
        found = [Cell("clean", "none", 0.0, {"classes": None})]
        for name, dataset in self._datasets.items():
            stem = re.sub(r"[^\w.-]+", "_", name)
            if dataset.classes is None:
                settings = {"classes": None}
                found.append(Cell(stem, "none", 0.0, settings, dataset=dataset))
                continue
            settings = {"classes": describe(dataset)}
            metric = f"accuracy in the classes of {name.partition(':')[0]}"
            inside = functools.partial(_inside, dataset)
            found += [
                Cell(f"clean.{stem}", "none", 0.0, settings, metric, keep=inside),
                Cell(stem, "none", 0.0, settings, metric, dataset=dataset),
            ]
        return found

    def measure(
        self, cell: Cell, subject: Subject, outcomes: Mapping[str, Outcome]
    ) -> Outcome:
        label = f"{self.name} {cell.name}"
        if cell.settings["classes"] is None:
            return clean(subject, label)
        source = self._datasets[cell.settings["classes"]["name"]]
        return subject.map(_restricted, tf.constant(_classes(source)), label=label)


def _classes(dataset: Any) -> np.ndarray:
    """The labels of a data set's examples, [m] int32, ascending."""
    found = np.unique(dataset.open().labels("test"))
    if len(found) != dataset.classes:
        raise UserError(
            f"{dataset.name} has examples of {len(found)} classes, not of"
            f" {dataset.classes}: not all of it is there, or it is another data set"
        )
    return found


def _inside(dataset: Any, labels: np.ndarray) -> np.ndarray:
    """Which labels [n] are those of some example of a data set: [n] bool."""
    return np.isin(labels, _classes(dataset))


def _restricted(
    classifier: Classifier, batch: Batch, classes: tf.Tensor
) -> dict[str, tf.Tensor]:
    logits = tf.gather(classifier.logits(batch["image"]), classes, axis=-1)
    return {"correct": correct(logits, tf.searchsorted(classes, batch["label"]))}
