"""Wide residual networks (Zagoruyko and Komodakis 2016, arXiv:1605.07146)."""

from __future__ import annotations

from collections.abc import Sequence

import gin
import keras

from tfssl.models import layers
from tfssl.models.preact_resnet import preactivated
from tfssl.types import UserError


@gin.register(module="tfssl.models")
def wide_resnet(
    image_shape: Sequence[int],
    depth: int,
    widen_factor: int,
    width: int = 16,
    mean: float | Sequence[float] = 0.5,
    std: float | Sequence[float] = 0.25,
) -> keras.Model:
    """WRN-depth-widen_factor without dropout: images [b, h, w, c] to features [b, d].

    Three stages of pre-activation blocks; d = 4 widen_factor width.

    Args:
      image_shape: (h, w, c).
      depth: Number of convolutions, 6n + 4 for n blocks in each stage.
      widen_factor: Multiplies the channels of all stages, but not of the stem.
      width: Channels of the stem, 16 in the paper.
      mean: Subtracted from the image, one number or one per channel. The defaults
        roughly standardise natural images of any number of channels.
      std: Divides the image afterwards.

    Raises:
      UserError: A size is invalid, or the image is too small.
    """
    layers.check_size("depth", depth)
    layers.check_size("widen_factor", widen_factor)
    layers.check_size("width", width)
    if depth < 10 or depth % 6 != 4:
        raise UserError(f"depth must be 6n + 4, such as 10, 16, 28 or 34, not {depth}")
    n = (depth - 4) // 6
    return preactivated(
        image_shape, (n, n, n), width, widen_factor * width, mean, std, "wide_resnet"
    )


@gin.register(module="tfssl.models")
def wrn_28_10(
    image_shape: Sequence[int],
    mean: float | Sequence[float] = 0.5,
    std: float | Sequence[float] = 0.25,
) -> keras.Model:
    """WRN-28-10, d = 640; arguments as in `wide_resnet`."""
    return wide_resnet(image_shape, 28, 10, mean=mean, std=std)


@gin.register(module="tfssl.models")
def wrn_34_10(
    image_shape: Sequence[int],
    mean: float | Sequence[float] = 0.5,
    std: float | Sequence[float] = 0.25,
) -> keras.Model:
    """WRN-34-10, d = 640, as in TRADES; arguments as in `wide_resnet`.

    46,160,474 parameters with a classifier of 10 classes. The code of TRADES
    (arXiv:1901.08573) counts more: it also makes a second first stage, never used.
    """
    return wide_resnet(image_shape, 34, 10, mean=mean, std=std)


@gin.register(module="tfssl.models")
def wrn_40_2(
    image_shape: Sequence[int],
    mean: float | Sequence[float] = 0.5,
    std: float | Sequence[float] = 0.25,
) -> keras.Model:
    """WRN-40-2, d = 128; arguments as in `wide_resnet`."""
    return wide_resnet(image_shape, 40, 2, mean=mean, std=std)
