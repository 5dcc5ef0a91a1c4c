"""Accuracy under corruptions, and what else can be said of corrupted images."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import gin
import tensorflow as tf

from tfssl.evaluation import calibration
from tfssl.evaluation.classifier import Classifier
from tfssl.evaluation.evaluators import Cell, Outcome, check_name, mean_value
from tfssl.evaluation.results import describe
from tfssl.evaluation.subject import Subject
from tfssl.evaluation.trial import correct
from tfssl.types import Batch, UserError

_UNITS = {"nll": "nats", "brier": "", "ssim": "", "ece": "%"}


class OverCorruptions:
    """What evaluators share that look at the same images under many corruptions.

    Args:
      corruptions: Each with a `name`, and `of(batch, severity)` that returns images
        [b, h, w, c] in [0, 1]. If it has a method `check(sample)`, some examples are
        shown to it first. `Corrupted` also takes those that have, instead of `of`,
        `dataset(severity)`: a data set of these images, for `Cell.dataset`.
      name: Of the evaluator and its folder of results: it says which benchmark this
        is, as corruptions made on the fly are not the released images.
      severities: Ascending, from 1 to 5.

    Raises:
      UserError: A setting is out of range.
    """

    def __init__(
        self,
        corruptions: Sequence[Any],
        name: str,
        severities: Sequence[int] = (1, 2, 3, 4, 5),
    ):
        check_name(name)
        names = [corruption.name for corruption in corruptions]
        if not names or len(set(names)) < len(names):
            raise UserError(f"{name}: corruptions need distinct names, got {names}")
        if not severities or list(severities) != sorted(
            set(severities) & {1, 2, 3, 4, 5}
        ):
            raise UserError(
                f"{name}: severities ascend, from 1 to 5, and are not {severities!r}"
            )
        self.name = name
        self._corruptions = {corruption.name: corruption for corruption in corruptions}
        self._severities = list(severities)

    def _grid(self) -> Iterator[tuple[str, int, Any]]:
        """Corruptions' names, severities and the corruptions' settings."""
        for name, corruption in self._corruptions.items():
            for severity in self._severities:
                yield name, severity, describe(corruption)

    def _corrupt(self, cell: Cell, subject: Subject) -> Callable[[Batch], tf.Tensor]:
        """From a batch to its images as a cell corrupts them, in a graph of its own.

        So that the classifier's graph, which is dear, need not be made for each cell.
        """
        corruption = self._corruptions[cell.perturbation]
        if not hasattr(corruption, "of"):
            raise UserError(
                f"{self.name} looks at clean and corrupted images side by side, and"
                f" {corruption.name} is read from a data set of its own"
            )
        if hasattr(corruption, "check"):
            corruption.check(subject.sample(500))
        of = functools.partial(corruption.of, severity=int(cell.strength))
        return tf.function(of, autograph=False)


@gin.register(module="tfssl.evaluation")
class Corrupted(OverCorruptions):
    """Accuracy on clean images and under each corruption at each severity.

    The same images each time, so that cells can be compared image by image.

    Args:
      corruptions, name, severities: See `OverCorruptions`.
      also: Further numbers of each cell, of 'nll', 'brier' and 'ece', see
        `calibration`, and 'ssim', the structural similarity of the corrupted to the
        clean image (Wang et al. 2004), by `tf.image.ssim` as it is by default: windows
        of 11 x 11, the mean over pixels and channels, in [-1, 1].

    Raises:
      UserError: A setting is out of range.
    """

    def __init__(
        self,
        corruptions: Sequence[Any],
        name: str,
        severities: Sequence[int] = (1, 2, 3, 4, 5),
        also: Sequence[str] = (),
    ):
        super().__init__(corruptions, name, severities)
        unknown = set(also) - set(_UNITS) if not isinstance(also, str) else {also}
        if unknown:
            raise UserError(
                f"{name}: also may list {', '.join(_UNITS)}, not {', '.join(unknown)}"
            )
        self.also = list(also)
        sets = [c.name for c in corruptions if hasattr(c, "dataset")]
        if sets and "ssim" in self.also:
            raise UserError(
                f"{name}: there is no ssim of {sets[0]}, as it is read from a data set"
                " of its own"
            )

    def cells(self) -> list[Cell]:
        found = self._cells("none", 0, None)
        for name, severity, settings in self._grid():
            found += self._cells(name, severity, settings)
        return found

    def _cells(self, name: str, severity: int, corruption: Any) -> list[Cell]:
        stem = f"{name}_{severity}" if severity else "clean"
        settings = {"corruption": corruption, "also": self.also}
        source = getattr(self._corruptions.get(name), "dataset", None)
        where = {"dataset": source(severity), "paired": True} if source else {}
        accuracy = Cell(stem, name, float(severity), settings, **where)
        others = [
            Cell(
                f"{stem}.{metric}",
                name,
                float(severity),
                settings,
                metric,
                number=_ece if metric == "ece" else mean_value,
                unit=_UNITS[metric],
                **where,
            )
            for metric in self.also
            if severity or metric != "ssim"
        ]
        return [accuracy, *others]

    def measure(
        self, cell: Cell, subject: Subject, outcomes: Mapping[str, Outcome]
    ) -> Outcome:
        stem, _, metric = cell.name.partition(".")
        if metric == "ece":
            return {k: outcomes[stem][k] for k in ("correct", "confidence")}
        if metric:
            return {"value": outcomes[stem][metric]}
        made = cell.strength and cell.dataset is None
        corrupt = self._corrupt(cell, subject) if made else None

        def measured(classifier: Classifier, batch: Batch) -> dict[str, tf.Tensor]:
            image = corrupt(batch) if corrupt else batch["image"]
            return self._scores(classifier, batch["image"], image, batch["label"])

        found = subject.map(measured, eager=True, label=f"{self.name} {cell.name}")
        if not cell.strength:
            found.pop("ssim", None)
        return found

    @tf.function(reduce_retracing=True)
    def _scores(
        self,
        classifier: Classifier,
        clean: tf.Tensor,
        image: tf.Tensor,
        label: tf.Tensor,
    ) -> dict[str, tf.Tensor]:
        logits = classifier.logits(image)
        found = {"correct": correct(logits, label)}
        if {"nll", "brier", "ece"} & set(self.also):
            found |= calibration.scores(logits, label)
        if "ssim" in self.also:
            found["ssim"] = tf.image.ssim(clean, image, max_val=1.0)
        return found


def _ece(outcome: Outcome) -> tuple[float, float, float]:
    """ECE, without an interval: it is no mean over examples."""
    value = calibration.expected_calibration_error(
        outcome["confidence"], outcome["correct"]
    )
    return value, math.nan, math.nan
