"""Puts PyTorch's tensors into Keras variables, and accounts for each of them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping

import keras
import numpy as np

from tfssl.types import UserError

LEFT_OUT = re.compile(
    r"(fc|head|heads|linear|projection_head|projector|predictor|prototypes|queue\w*"
    r"|optimizer\w*|scheduler|scaler)(\.|$)|.*\.num_batches_tracked$"
)
"""Names of what may be beside an encoder: heads, and what training needed."""

Change = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Assignment:
    """One variable and where its value comes from.

    Attributes:
      variable: Gets the value.
      name: Of the tensor.
      change: From PyTorch's order of axes to Keras'; fails on tensors of wrong shape.
    """

    variable: keras.Variable
    name: str
    change: Change = np.asarray


def conv_kernel(tensor: np.ndarray) -> np.ndarray:
    """[out, in, h, w] to [h, w, in, out]."""
    return tensor.transpose(2, 3, 1, 0)


def linear_kernel(tensor: np.ndarray) -> np.ndarray:
    """[out, in] to [in, out]."""
    return tensor.transpose(1, 0)


def linear(layer: keras.layers.Dense, name: str) -> list[Assignment]:
    """A dense layer from torch.nn.Linear."""
    return [
        Assignment(layer.kernel, f"{name}.weight", linear_kernel),
        Assignment(layer.bias, f"{name}.bias"),
    ]


def assign(
    assignments: Iterable[Assignment], tensors: Mapping[str, np.ndarray]
) -> list[str]:
    """Gives variables their values: all of them, or none.

    Args:
      assignments: Of one tensor there may be several.
      tensors: By name; cast to float32.

    Returns:
      The names of the tensors that no variable needs.

    Raises:
      UserError: A tensor is missing, has another shape or numbers that are not finite,
        or is neither used nor one of `LEFT_OUT`.
    """
    missing, wrong, infinite, values = [], [], [], []
    assignments = list(assignments)
    for x in assignments:
        if x.name not in tensors:
            missing.append(x.name)
            continue
        value = np.asarray(tensors[x.name], np.float32)
        if not np.isfinite(value).all():
            infinite.append(x.name)
        shape = value.shape
        try:
            value = x.change(value)
        except ValueError:
            value = None
        if value is None or value.shape != tuple(x.variable.shape):
            wrong.append(f"{x.name} {list(shape)}")
        values.append(value)
    used = {x.name for x in assignments}
    left = [name for name in tensors if name not in used]
    unexpected = [name for name in left if not LEFT_OUT.match(name)]
    problems = [
        f"{what}: {_listed(names)}"
        for what, names in (
            ("missing", missing),
            ("not of the shape that the others call for", wrong),
            ("not finite", infinite),
            ("unexpected", unexpected),
        )
        if names
    ]
    if problems:
        raise UserError(f"the tensors do not fit the network; {'; '.join(problems)}")
    for x, value in zip(assignments, values, strict=True):
        x.variable.assign(value)
    return left


def _listed(names: list[str], most: int = 6) -> str:
    names = list(dict.fromkeys(names))
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
