"""Models from `.keras` files, whoever wrote them, and their features."""

from __future__ import annotations

import os
from collections.abc import Sequence

import keras

from tfssl.types import UserError


def load(path: str | os.PathLike) -> keras.Model:
    """Reads a `.keras` file; code in it is not run.

    Raises:
      UserError: There is no such file, or Keras cannot read it.
    """
    path = os.fspath(path)
    if not os.path.isfile(path):
        raise UserError(f"no model file {path}")
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # A foreign file can fail in any way.
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{path} is no Keras model that loads: {reason}") from error


def check_images(model: keras.Model, name: str, image_shape: Sequence[int]) -> None:
    """Compares a model's input with the images it is to be given.

    Args:
      model: Any.
      name: What the message calls it.
      image_shape: (h, w, c).

    Raises:
      UserError: It is not a functional model from one such image to one output.
    """
    inputs = getattr(model, "inputs", None) or []
    outputs = getattr(model, "outputs", None) or []
    if len(inputs) != 1 or len(outputs) != 1:
        raise UserError(
            f"{name} has {len(inputs)} inputs and {len(outputs)} outputs: give a"
            " functional model from one image to its logits or features"
        )
    shape = tuple(inputs[0].shape[1:])
    fits = len(shape) == len(image_shape) and all(
        size in (None, given) for size, given in zip(shape, image_shape, strict=True)
    )
    if not fits:
        raise UserError(
            f"{name} takes images of shape {shape}, but those of the data set are"
            f" {tuple(image_shape)}"
        )


def is_encoder(model: keras.Model) -> bool:
    """Whether the output of a model with one output is that of its layer `features`."""
    return getattr(model, "output_names", None) == ["features"]


def features(model: keras.Model, name: str) -> keras.Model:
    """What a model computes before its head; it shares its weights with the model.

    Args:
      model: From one image [b, h, w, c] to one output.
      name: What the message calls it.

    Returns:
      Images to features [b, d]: up to the layer called `features` or, in a model from
      elsewhere that has none, all of it.

    Raises:
      UserError: That is no vector for each image.
    """
    output = model.outputs[0]
    if any(layer.name == "features" for layer in model.layers):
        output = model.get_layer("features").output
    shape = tuple(output.shape[1:])
    if len(shape) != 1 or shape[0] is None:
        raise UserError(f"{name} has features of shape {shape}: they must be a vector")
    return keras.Model(model.inputs[0], output, name="encoder")
