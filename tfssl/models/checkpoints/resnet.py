"""ResNets as torchvision names their tensors, as `tfssl.models.resnet`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tfssl.models.checkpoints.assignment import Assignment, assign, conv_kernel
from tfssl.models.resnet import resnet
from tfssl.types import UserError


def convert(
    tensors: Mapping[str, np.ndarray], image_shape: Sequence[int], **settings: Any
) -> tuple[keras.Model, list[str]]:
    """The network that the tensors make, and the names of those left out.

    Depth, width and kind of the blocks are read off the tensors. Which of a
    bottleneck's convolutions strides cannot be: it is taken to be the 3x3, as in
    torchvision and unlike in the paper and what was made of Caffe's models.

    Args:
      tensors: By torchvision's names.
      image_shape: (h, w, c).
      **settings: `mean`, `std` and `any_size` of `resnet`.

    Returns:
      Images [b, h, w, c] to features [b, d]; of heads and of what pre-training needed
      besides the names.

    Raises:
      UserError: The tensors are not those of a ResNet for large images.
    """
    stem = tensors.get("conv1.weight", np.empty([0])).shape
    if len(stem) != 4 or stem[2:] != (7, 7):
        raise UserError(
            "of ResNets those for large images are converted, whose conv1.weight is"
            f" [width, channels, 7, 7]; here it is {list(stem)}"
        )
    model = resnet(
        image_shape,
        _blocks(tensors),
        bottleneck="layer1.0.conv3.weight" in tensors,
        width=stem[0],
        stem="imagenet",
        **settings,
    )
    left = assign(_assignments(model), tensors)
    return model, left


def _blocks(tensors: Mapping[str, np.ndarray]) -> tuple[int, ...]:
    """Number of blocks in each stage; 1 where there is none, which is noticed later."""
    numbers: dict[int, int] = {}
    for name in tensors:
        if match := re.match(r"layer(\d)\.(\d+)\.", name):
            stage, block = map(int, match.groups())
            numbers[stage] = max(numbers.get(stage, 0), block + 1)
    return tuple(numbers.get(stage, 1) for stage in range(1, max(numbers) + 1))


def _assignments(model: keras.Model) -> Iterator[Assignment]:
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D):
            yield Assignment(layer.kernel, f"{_name(layer)}.weight", conv_kernel)
        elif isinstance(layer, keras.layers.BatchNormalization):
            for variable, kind in (
                (layer.gamma, "weight"),
                (layer.beta, "bias"),
                (layer.moving_mean, "running_mean"),
                (layer.moving_variance, "running_var"),
            ):
                yield Assignment(variable, f"{_name(layer)}.{kind}")


def _name(layer: keras.Layer) -> str:
    """stage2_block1_conv3 to layer2.0.conv3, ..._shortcut_bn to ....downsample.1."""
    match = re.fullmatch(r"stage(\d)_block(\d+)_(\w+)", layer.name)
    if not match:
        return {"stem_conv": "conv1", "stem_bn": "bn1"}[layer.name]
    stage, block, part = match.groups()
    part = {"shortcut_conv": "downsample.0", "shortcut_bn": "downsample.1"}.get(
        part, part
    )
    return f"layer{stage}.{int(block) - 1}.{part}"
