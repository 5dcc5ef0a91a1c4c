"""Linear classifiers of features, from checkpoints or files of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import keras
import numpy as np

from tfssl.models.checkpoints.assignment import assign, linear
from tfssl.types import UserError

NAMES = (
    "",  # A bare torch.nn.Linear.
    "fc",
    "linear",
    "head",
    "classifier",
    "head.fc",
    "head.fc_cls",
    "heads.0.clf.0",
)
"""Names, without wrappers, that linear evaluations give their classifier."""


def find(tensors: Mapping[str, np.ndarray], names: Sequence[str] = NAMES) -> list[str]:
    """Those of the names that are a linear layer: `<name>.weight` is a matrix."""
    return [
        name
        for name in names
        if getattr(tensors.get(_dotted(name, "weight")), "ndim", 0) == 2
    ]


def named(tensors: Mapping[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """`weight` [classes, d] and `bias` [classes] of a linear layer.

    Raises:
      UserError: There is no bias.
    """
    if _dotted(name, "bias") not in tensors:
        raise UserError(f"the head has no tensor {_dotted(name, 'bias')}")
    return {kind: tensors[_dotted(name, kind)] for kind in ("weight", "bias")}


def of_file(tensors: Mapping[str, np.ndarray], path: str) -> dict[str, np.ndarray]:
    """The linear layer in a file of its own, or of a whole network's; see `named`.

    Raises:
      UserError: There is none, or several.
    """
    found = find(tensors)
    if len(found) != 1:
        raise UserError(
            f"{path} has {'several linear heads' if found else 'no linear head'}: one"
            f" of {', '.join(_dotted(name, 'weight') for name in NAMES)} was expected"
        )
    return named(tensors, found[0])


def classifier(
    encoder: keras.Model, weights: Mapping[str, np.ndarray], path: str
) -> keras.Model:
    """Puts the head on an encoder: images [b, h, w, c] to logits [b, classes].

    Args:
      encoder: Images to features [b, d].
      weights: As `named` gives them.
      path: What the message calls the head.

    Raises:
      UserError: It is a head for other features.
    """
    classes, size = weights["weight"].shape
    if size != encoder.output_shape[-1]:
        raise UserError(
            f"the head of {path} reads {size} features, but the encoder has"
            f" {encoder.output_shape[-1]}"
        )
    layer = keras.layers.Dense(classes, name="logits")
    model = keras.Model(encoder.input, layer(encoder.output), name=encoder.name)
    assign(linear(layer, "head"), {f"head.{k}": v for k, v in weights.items()})
    return model


def _dotted(name: str, kind: str) -> str:
    return f"{name}.{kind}" if name else kind
