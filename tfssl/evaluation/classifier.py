"""A Keras classifier, of whatever origin, as evaluators see it."""

from __future__ import annotations

import os
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from tfssl.evaluation.intervals import wilson
from tfssl.types import UserError


class Classifier:
    """Images [b, h, w, c] in [0, 1] to logits [b, k], in inference mode.

    Args:
      model: A functional or sequential model with one input and one output.
      name: What error messages call it.
    """

    def __init__(self, model: keras.Model, name: str = "the model"):
        self.model = model
        self.name = name

    @classmethod
    def load(cls, path: str | os.PathLike) -> Classifier:
        """Reads a `.keras` file.

        Raises:
          UserError: There is no such file, or Keras cannot read it.
        """
        path = os.fspath(path)
        if not os.path.isfile(path):
            raise UserError(f"no model file {path}")
        try:
            model = keras.saving.load_model(path, compile=False, safe_mode=True)
        except Exception as error:  # A foreign file can fail in any way.
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UserError(f"{path} is no Keras model that loads: {reason}") from error
        return cls(model, path)

    def logits(self, image: tf.Tensor) -> tf.Tensor:
        """[b, h, w, c] in [0, 1] to [b, k] float32."""
        return tf.cast(self.model(image, training=False), tf.float32)

    def check_fit(self, dataset: Any) -> None:
        """Compares shapes with a data set's.

        Raises:
          UserError: The model is not made for such images or so many classes.
        """
        inputs = getattr(self.model, "inputs", None) or []
        outputs = getattr(self.model, "outputs", None) or []
        if len(inputs) != 1 or len(outputs) != 1:
            raise UserError(
                f"{self.name} has {len(inputs)} inputs and {len(outputs)} outputs:"
                " give a functional model from one image to its logits"
            )
        shape = tuple(inputs[0].shape[1:])
        if not _fits(shape, dataset.image_shape):
            raise UserError(
                f"{self.name} takes images of shape {shape}, but those of"
                f" {dataset.name} are {tuple(dataset.image_shape)}"
            )
        shape = tuple(outputs[0].shape[1:])
        if shape != (dataset.num_classes,):
            raise UserError(
                f"{self.name} has outputs of shape {shape}, but {dataset.name} has"
                f" {dataset.num_classes} classes"
            )

    def check_outputs(self, image: np.ndarray, label: np.ndarray) -> None:
        """Looks at the outputs for a few hundred images, [n, h, w, c] and [n].

        A model that guesses is only worth a warning: somebody may want to know.

        Raises:
          UserError: The outputs or their gradients are not finite, there are no
            gradients, or the outputs are probabilities.
        """
        image = tf.constant(image)
        with tf.GradientTape() as tape:
            tape.watch(image)
            logits = self.logits(image)
            loss = tf.nn.sparse_softmax_cross_entropy_with_logits(label, logits)
        gradient = tape.gradient(loss, image)
        logits = logits.numpy()
        if not np.isfinite(logits).all():
            raise UserError(f"{self.name} has outputs that are not finite")
        if gradient is None:
            raise UserError(
                f"{self.name} has no gradient with respect to its input: attacks that"
                " follow it would find nothing, which is no robustness"
            )
        if not np.isfinite(gradient.numpy()).all():
            raise UserError(
                f"{self.name} has gradients that are not finite (a square root or norm"
                " at 0?): attacks that follow them would find nothing, which is no"
                " robustness"
            )
        if (logits >= 0).all() and np.allclose(logits.sum(axis=1), 1, atol=1e-3):
            raise UserError(
                f"{self.name} has probabilities as outputs: remove its softmax, in"
                " which gradients vanish and attacks get stuck"
            )
        right = int((logits.argmax(axis=1) == label).sum())
        if wilson(right, len(label))[0] <= 1 / logits.shape[1]:
            logging.warning(
                "%s is right on %d of %d clean images, no better than guessing. Does"
                " it expect images in another range? Here they are in [0, 1]; scaling"
                " to [0, 255] or normalising must be layers of the model.",
                self.name,
                right,
                len(label),
            )


def _fits(shape: tuple, image_shape: tuple) -> bool:
    """Whether an input shape, None being any size, takes images of a shape."""
    return len(shape) == len(image_shape) and all(
        size in (None, given) for size, given in zip(shape, image_shape, strict=True)
    )
