"""A few images under corruptions, and where a classifier looks: to be shown."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gin
import keras
import tensorflow as tf

from tfssl.evaluation import cam
from tfssl.evaluation.classifier import Classifier
from tfssl.evaluation.corrupted import OverCorruptions
from tfssl.evaluation.evaluators import Cell, Outcome, check_examples
from tfssl.evaluation.results import describe
from tfssl.evaluation.subject import Subject
from tfssl.evaluation.trial import correct
from tfssl.types import PANEL, Batch, UserError


@gin.register(module="tfssl.evaluation")
class Panels(OverCorruptions):
    """Keeps the first images, clean and corrupted, with maps of what speaks for them.

    They are pictures for a report, and no sample to measure anything on. Of each cell
    are kept, of k examples,

      image      [k, h, w, c] uint8
      map        [k, h, w] uint8, Grad-CAM's for the image's label
      attention  [k, h, w] uint8, that of a ViT's class token, if `attention` is given
      ssim       [k], see `Corrupted`
      correct    [k]

    Args:
      corruptions, name, severities: See `OverCorruptions`.
      examples: k.
      attention: From a model to that of its attention maps [b, heads, h', w'], such as
        `tfssl.models.vit.last_attention`. Models for which it raises a UserError have
        none.

    Raises:
      UserError: A setting is out of range; when measured, if the model has no layer
        `features_map`.
    """

    def __init__(
        self,
        corruptions: Sequence[Any],
        name: str,
        severities: Sequence[int] = (1, 2, 3, 4, 5),
        examples: int = 3,
        attention: Callable[[keras.Model], keras.Model] | None = None,
    ):
        super().__init__(corruptions, name, severities)
        check_examples(name, examples)
        self.examples = examples
        self._attention = attention
        self._attention_of = functools.cache(self._attention_of)

    def cells(self) -> list[Cell]:
        settings = {"attention": describe(self._attention)}
        grid = [("none", 0, None), *self._grid()]
        return [
            Cell(
                f"{name}_{severity}" if severity else "clean",
                name,
                float(severity),
                settings | {"corruption": corruption},
                PANEL,
                self.examples,
            )
            for name, severity, corruption in grid
        ]

    def measure(
        self, cell: Cell, subject: Subject, outcomes: Mapping[str, Outcome]
    ) -> Outcome:
        corrupt = self._corrupt(cell, subject) if cell.strength else None
        attention = self._attention_of(subject.classifier.model)

        def kept(classifier: Classifier, batch: Batch) -> dict[str, tf.Tensor]:
            image = corrupt(batch) if corrupt else batch["image"]
            return self._kept(
                classifier, attention, batch["image"], image, batch["label"]
            )

        return subject.map(kept, eager=True)

    def _attention_of(self, model: keras.Model) -> keras.Model | None:
        if self._attention is None:
            return None
        try:
            return self._attention(model)
        except UserError:  # No model of that kind.
            return None

    # AutoGraph would hide a UserError.
    @tf.function(reduce_retracing=True, autograph=False)
    def _kept(
        self,
        classifier: Classifier,
        attention: keras.Model | None,
        clean: tf.Tensor,
        image: tf.Tensor,
        label: tf.Tensor,
    ) -> dict[str, tf.Tensor]:
        heat = {"map": cam.maps(classifier.model, image, label)}
        if attention is not None:
            heat["attention"] = cam.attention_maps(attention, image)
        size = image.shape[1:3]
        return {
            "correct": correct(classifier.logits(image), label),
            "ssim": tf.image.ssim(clean, image, max_val=1.0),
            "image": _levels(image),
            **{name: _levels(cam.resize(map_, size)) for name, map_ in heat.items()},
        }


def _levels(values: tf.Tensor) -> tf.Tensor:
    """[0, 1] to uint8."""
    return tf.cast(tf.round(255 * values), tf.uint8)
