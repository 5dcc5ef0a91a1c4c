"""How far the place that a classifier looks at moves when an image is corrupted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gin
import tensorflow as tf

from tfssl.evaluation import cam, map_similarity
from tfssl.evaluation.classifier import Classifier
from tfssl.evaluation.corrupted import OverCorruptions
from tfssl.evaluation.evaluators import Cell, Outcome, mean_value
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

    Raises:
      UserError: A setting is out of range; when measured, if the model has no layer
        `features_map`.
    """

    def __init__(
        self,
        corruptions: Sequence[Any],
        name: str,
        severities: Sequence[int] = (1, 2, 3, 4, 5),
    ):
        super().__init__(corruptions, name, severities)

    def cells(self) -> list[Cell]:
        return [
            Cell(
                f"{name}_{severity}{ending}",
                name,
                float(severity),
                {"corruption": settings},
                metric,
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
        corrupt = self._corrupt(cell, subject)

        def measured(classifier: Classifier, batch: Batch) -> dict[str, tf.Tensor]:
            return self._likeness(
                classifier, batch["image"], corrupt(batch), batch["label"]
            )

        return subject.map(measured, eager=True, label=f"{self.name} {cell.name}")

    @tf.function(reduce_retracing=True)
    def _likeness(
        self,
        classifier: Classifier,
        clean: tf.Tensor,
        image: tf.Tensor,
        label: tf.Tensor,
    ) -> dict[str, tf.Tensor]:
        both = tf.concat([clean, image], axis=0)
        maps = cam.maps(classifier.model, both, tf.concat([label, label], axis=0))
        one, other = tf.split(maps, 2)
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
