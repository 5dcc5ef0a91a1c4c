"""A trained model as the backbone of another run."""

from __future__ import annotations

import random
from collections.abc import Sequence

import gin
import keras

from tfssl import distribute, saved
from tfssl.models import tokens  # noqa: F401  lets Keras read the layers of a ViT
from tfssl.types import UserError


@gin.register(module="tfssl.models")
def pretrained(
    image_shape: Sequence[int], path: str, frozen: bool = False
) -> keras.Model:
    """The features of a saved model: images [b, h, w, c] to features [b, d].

    Of a classifier the head is left out, see `saved.features`.

    Args:
      image_shape: (h, w, c).
      path: A `.keras` file, such as the `model.keras` of a run.
      frozen: Train none of it. BatchNorm then stays in inference mode throughout. If
        not, all of it is trained, what the file says was frozen included.

    Raises:
      UserError: There is no such file, it holds no model that Keras can read, or one
        for other images or without features.
    """
    state = random.getstate()
    try:
        model = saved.load(path)
    finally:
        # Reading a model draws seeds for weights that it then overwrites. Whatever is
        # made afterwards is to be the same for each file.
        random.setstate(state)
    saved.check_images(model, path, image_shape)
    model = saved.features(model, path)
    if any(layer.name == "logits" for layer in model.layers):
        raise UserError(
            f"{path} has a layer 'logits', as the head is called that classifies, but"
            " none called 'features' that would say what is before it"
        )
    # Twice: what the model is already said to be, Keras does not pass on to its layers.
    for trainable in (frozen, not frozen):
        model.trainable = trainable
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            # The file says what was right where it was written.
            layer.synchronized = distribute.replicas() > 1
    return model
