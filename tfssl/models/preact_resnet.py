"""Residual networks with pre-activation (He et al. 2016, arXiv:1603.05027)."""

from __future__ import annotations

from collections.abc import Sequence

import gin
import keras

from tfssl.models import layers


@gin.register(module="tfssl.models")
def preact_resnet18(
    image_shape: Sequence[int],
    width: int = 64,
    mean: float | Sequence[float] = 0.5,
    std: float | Sequence[float] = 0.25,
) -> keras.Model:
    """PreActResNet-18 for small images: images [b, h, w, c] to features [b, 8 width].

    The network of Wong et al. 2020 (arXiv:2001.03994) and Rice et al. 2020
    (arXiv:2002.11569), which ends with batch normalisation and ReLU as in the paper:
    11,172,170 parameters with a classifier of 10 classes. The widespread variant
    without them has 11,171,146.

    Args:
      image_shape: (h, w, c).
      width: Channels of the first stage.
      mean: Subtracted from the image, one number or one per channel. The defaults
        roughly standardise natural images of any number of channels.
      std: Divides the image afterwards.

    Raises:
      UserError: The width is invalid, or the image is too small.
    """
    layers.check_size("width", width)
    return preactivated(
        image_shape, (2, 2, 2, 2), width, width, mean, std, "preact_resnet"
    )


def preactivated(
    image_shape: Sequence[int],
    blocks: Sequence[int],
    stem_width: int,
    width: int,
    mean: float | Sequence[float],
    std: float | Sequence[float],
    name: str,
) -> keras.Model:
    """A network of pre-activation blocks: images [b, h, w, c] to features [b, d].

    Args:
      image_shape: (h, w, c).
      blocks: Number of blocks in each stage.
      stem_width: Channels of the first convolution.
      width: Channels of the first stage; each later stage doubles them, and halves
        the resolution.
      mean: Subtracted from the image, one number or one per channel.
      std: Divides the image afterwards.
      name: The model's name.
    """
    image, x = layers.image_input(image_shape, 2 ** (len(blocks) - 1), mean, std)
    x = layers.conv(x, stem_width, 3, 1, "stem_conv")
    for stage, count in enumerate(blocks, 1):
        for i in range(1, count + 1):
            stride = 2 if stage > 1 and i == 1 else 1
            x = _block(x, width * 2 ** (stage - 1), stride, f"stage{stage}_block{i}")
    x = layers.relu(layers.batch_norm(x, "final_bn"), "features_map")
    return layers.backbone(image, x, name)


def _block(
    x: keras.KerasTensor, filters: int, stride: int, name: str
) -> keras.KerasTensor:
    """shortcut + two of (batch normalisation, ReLU, convolution).

    Where the shape changes, the shortcut is a 1x1 convolution of the activated input.
    """
    out = layers.relu(layers.batch_norm(x, f"{name}_bn1"), f"{name}_relu1")
    if stride > 1 or x.shape[-1] != filters:
        x = layers.conv(out, filters, 1, stride, f"{name}_shortcut_conv")
    out = layers.conv(out, filters, 3, stride, f"{name}_conv1")
    out = layers.relu(layers.batch_norm(out, f"{name}_bn2"), f"{name}_relu2")
    out = layers.conv(out, filters, 3, 1, f"{name}_conv2")
    return keras.layers.Add(name=f"{name}_add")([x, out])
