"""Residual networks (He et al. 2016, arXiv:1512.03385)."""

from __future__ import annotations

from collections.abc import Sequence

import gin
import keras

from tfssl.models import layers
from tfssl.types import UserError


@gin.register(module="tfssl.models")
def resnet(
    image_shape: Sequence[int],
    blocks: Sequence[int],
    bottleneck: bool = False,
    width: int = 64,
    stem: str = "cifar",
    mean: float | Sequence[float] = 0.5,
    std: float | Sequence[float] = 0.25,
    any_size: bool = False,
) -> keras.Model:
    """A residual network of any depth: images [b, h, w, c] to features [b, d].

    Each stage after the first halves the resolution and doubles the channels.
    d = width * 2^(stages - 1), four times that with bottlenecks.

    Args:
      image_shape: (h, w, c).
      blocks: Number of blocks in each stage.
      bottleneck: Blocks of 1x1, 3x3, 1x1 convolutions instead of two 3x3. The 3x3
        strides ("v1.5", as in torchvision; in the paper it is the first 1x1).
      width: Channels of the first stage. 64 in the paper, 16 is a slim network.
      stem: 'cifar', 3x3 at full resolution, or 'imagenet', 7x7 with stride 2 and 3x3
        max-pooling with stride 2.
      mean: Subtracted from the image, one number or one per channel. The defaults
        roughly standardise natural images of any number of channels.
      std: Divides the image afterwards.
      any_size: Take images of other heights and widths, too, as multi-crop needs.

    Raises:
      UserError: A size or the stem is invalid, or the image is too small.
    """
    if stem not in ("cifar", "imagenet"):
        raise UserError(f"stem is 'cifar' or 'imagenet', not {stem!r}")
    layers.check_blocks(blocks)
    layers.check_size("width", width)

    total_stride = 2 ** (len(blocks) - 1) * (4 if stem == "imagenet" else 1)
    image, x = layers.image_input(image_shape, total_stride, mean, std, any_size)
    kernel_size, stride = (7, 2) if stem == "imagenet" else (3, 1)
    x = layers.conv(x, width, kernel_size, stride, "stem_conv")
    x = layers.relu(layers.batch_norm(x, "stem_bn"), "stem_relu")
    if stem == "imagenet":
        # Nothing is below 0 after the ReLU, so zeros are as good as PyTorch's -inf.
        x = layers.pad(x, 1, "stem_pool")
        x = keras.layers.MaxPooling2D(3, 2, name="stem_pool")(x)

    for stage, count in enumerate(blocks, 1):
        for i in range(1, count + 1):
            name = f"stage{stage}_block{i}"
            stride = 2 if stage > 1 and i == 1 else 1
            x = _block(x, width * 2 ** (stage - 1), stride, bottleneck, name)
            last = stage == len(blocks) and i == count
            x = layers.relu(x, "features_map" if last else f"{name}_relu")
    return layers.backbone(image, x, "resnet")


def _block(
    x: keras.KerasTensor, filters: int, stride: int, bottleneck: bool, name: str
) -> keras.KerasTensor:
    """A residual block but for its last ReLU: shortcut(x) + branch(x)."""
    if bottleneck:
        convs = [(filters, 1, 1), (filters, 3, stride), (4 * filters, 1, 1)]
    else:
        convs = [(filters, 3, stride), (filters, 3, 1)]
    out = x
    for i, (channels, kernel_size, conv_stride) in enumerate(convs, 1):
        if i > 1:
            out = layers.relu(out, f"{name}_relu{i - 1}")
        out = layers.conv(out, channels, kernel_size, conv_stride, f"{name}_conv{i}")
        out = layers.batch_norm(out, f"{name}_bn{i}")
    if stride > 1 or x.shape[-1] != channels:
        x = layers.conv(x, channels, 1, stride, f"{name}_shortcut_conv")
        x = layers.batch_norm(x, f"{name}_shortcut_bn")
    return keras.layers.Add(name=f"{name}_add")([x, out])


@gin.register(module="tfssl.models")
def resnet18(
    image_shape: Sequence[int],
    width: int = 64,
    stem: str = "cifar",
    mean: float | Sequence[float] = 0.5,
    std: float | Sequence[float] = 0.25,
    any_size: bool = False,
) -> keras.Model:
    """ResNet-18, d = 8 width; arguments as in `resnet`."""
    blocks = (2, 2, 2, 2)
    return resnet(image_shape, blocks, False, width, stem, mean, std, any_size)


@gin.register(module="tfssl.models")
def resnet34(
    image_shape: Sequence[int],
    width: int = 64,
    stem: str = "cifar",
    mean: float | Sequence[float] = 0.5,
    std: float | Sequence[float] = 0.25,
    any_size: bool = False,
) -> keras.Model:
    """ResNet-34, d = 8 width; arguments as in `resnet`."""
    blocks = (3, 4, 6, 3)
    return resnet(image_shape, blocks, False, width, stem, mean, std, any_size)


@gin.register(module="tfssl.models")
def resnet50(
    image_shape: Sequence[int],
    width: int = 64,
    stem: str = "cifar",
    mean: float | Sequence[float] = 0.5,
    std: float | Sequence[float] = 0.25,
    any_size: bool = False,
) -> keras.Model:
    """ResNet-50, d = 32 width; arguments as in `resnet`."""
    blocks = (3, 4, 6, 3)
    return resnet(image_shape, blocks, True, width, stem, mean, std, any_size)
