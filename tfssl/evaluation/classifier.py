"""A Keras classifier, of whatever origin, as evaluators see it."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from tfssl.folding import Folded
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
        self._folded = _folded(model)
        # One bound method for good: cleverhans keeps a graph per callable.
        self._logits = self.logits

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

    def search(self) -> Callable[[tf.Tensor], tf.Tensor]:
        """The same function, up to rounding, for attacks: it may be faster.

        Call it in the attack's own graph, once. What the attack finds is for `logits`
        to judge. Outside of graphs it is always the same callable.
        """
        if self._folded is None or tf.executing_eagerly():
            return self._logits
        network = self._folded.at_present()
        return lambda image: tf.cast(network(image), tf.float32)

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


def _folded(model: keras.Model) -> Folded | None:
    if not getattr(model, "inputs", None):  # Neither functional nor built.
        return None
    if type(model) is keras.Sequential:
        model = keras.Model(model.inputs, model.outputs)
    return Folded(model) if Folded.fits(model) else None


def _fits(shape: tuple, image_shape: tuple) -> bool:
    """Whether an input shape, None being any size, takes images of a shape."""
    return len(shape) == len(image_shape) and all(
        size in (None, given) for size, given in zip(shape, image_shape, strict=True)
    )
