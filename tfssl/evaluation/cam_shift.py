"""How far the place that a classifier looks at moves when an image is corrupted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gin
import numpy as np
import tensorflow as tf

from tfssl.evaluation import cam, map_similarity
from tfssl.evaluation.classifier import Classifier
from tfssl.evaluation.corrupted import OverCorruptions
from tfssl.evaluation.evaluators import Cell, Outcome, check_examples, mean_value
from tfssl.evaluation.subject import Subject
from tfssl.types import Batch


@gin.register(module="tfssl.evaluation")
class CamShift(OverCorruptions):
    """Likeness of Grad-CAM's maps of the clean and of the corrupted image.

    Both maps are for the image's label. Two numbers of each cell, in [0, 1], 1 where
    nothing moves: the cosine of the maps, and the intersection over union of the fifth
    of the pixels where each is highest ('cam overlap'). A map in which nothing speaks
    for the label is 0 everywhere: it is like another such map (1) and like no other
    (0).

    Args:
      corruptions, name, severities: See `OverCorruptions`.
      examples: Look at the first so many images only; at all that are measured if None.

    Raises:
      UserError: A setting is out of range; when measured, if the model has no layer
        `features_map`.
    """

    def __init__(
        self,
        corruptions: Sequence[Any],
        name: str,
        severities: Sequence[int] = (1, 2, 3, 4, 5),
        examples: int | None = None,
    ):
        super().__init__(corruptions, name, severities)
        if examples is not None:
            check_examples(name, examples)
        self.examples = examples
        self._clean: tuple[Subject, tf.Tensor, tf.Tensor] | None = None

    def cells(self) -> list[Cell]:
        return [
            Cell(
                f"{name}_{severity}{ending}",
                name,
                float(severity),
                {"corruption": settings},
                metric,
                self.examples,
                number=mean_value,
                unit="",
            )
            for name, severity, settings in self._grid()
            for ending, metric in (("", "cam cosine"), (".overlap", "cam overlap"))
        ]

    def measure(
        self, cell: Cell, subject: Subject, outcomes: Mapping[str, Outcome]
    ) -> Outcome:
        stem, _, part = cell.name.partition(".")
        if part:
            return {"value": outcomes[stem][part]}
        if not outcomes:  # The weights may be others than at the last evaluation.
            self._clean = None
        corrupt = self._corrupt(cell, subject)

        def measured(
            classifier: Classifier, batch: Batch, ids: tf.Tensor, clean: tf.Tensor
        ) -> dict[str, tf.Tensor]:
            place = tf.searchsorted(ids, tf.maximum(batch["id"], ids[0]))
            return self._likeness(
                classifier, tf.gather(clean, place), corrupt(batch), batch["label"]
            )

        label = f"{self.name} {cell.name}"
        ids, clean = self._clean_maps(subject)
        return subject.map(measured, ids, clean, eager=True, label=label)

    def _clean_maps(self, subject: Subject) -> tuple[tf.Tensor, tf.Tensor]:
        """Ids [n], ascending, and the maps [n, h', w'] of these images as they are.

        For all cells they are computed once.
        """
        known = self._clean
        if (
            known is None
            or known[0].classifier is not subject.classifier
            or not np.array_equal(known[0].ids, subject.ids)
        ):

            def mapped(classifier: Classifier, batch: Batch) -> dict[str, tf.Tensor]:
                return {"map": self._map(classifier, batch["image"], batch["label"])}

            maps = subject.map(mapped, eager=True, label=f"{self.name} clean")["map"]
            order = np.argsort(subject.ids)
            ids = tf.constant(subject.ids[order], tf.int64)
            self._clean = known = (subject, ids, tf.constant(maps[order]))
        return known[1:]

    # AutoGraph would hide a UserError.
    @tf.function(reduce_retracing=True, autograph=False)
    def _map(
        self, classifier: Classifier, image: tf.Tensor, label: tf.Tensor
    ) -> tf.Tensor:
        return cam.maps(classifier.model, image, label)

    @tf.function(reduce_retracing=True, autograph=False)
    def _likeness(
        self,
        classifier: Classifier,
        one: tf.Tensor,
        image: tf.Tensor,
        label: tf.Tensor,
    ) -> dict[str, tf.Tensor]:
        other = cam.maps(classifier.model, image, label)
        empty = [~tf.reduce_any(m > 0, axis=[1, 2]) for m in (one, other)]
        # Only where both are empty is neither number defined.
        alike = tf.cast(empty[0] == empty[1], tf.float32)
        return {
            name: tf.where(empty[0] | empty[1], alike, likeness)
            for name, likeness in (
                ("value", map_similarity.cosine(one, other)),
                ("overlap", map_similarity.top_overlap(one, other)),
            )
        }
