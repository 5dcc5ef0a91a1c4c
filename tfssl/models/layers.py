"""Pieces that the backbones share: stock Keras layers, set as PyTorch sets them.

The networks of this field were published in PyTorch. With its padding, momentum and
epsilon here, these compute the same function given the same weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np

from tfssl import distribute
from tfssl.types import UserError


def image_input(
    image_shape: Sequence[int],
    stride: int,
    mean: float | Sequence[float],
    std: float | Sequence[float],
    any_size: bool = False,
) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """Starts a network: images [b, h, w, c] in [0, 1], and the same, normalised.

    Args:
      image_shape: (h, w, c).
      stride: The network's total stride, by which it divides h and w.
      mean: Subtracted from the image, one number or one per channel, in [0, 1] units.
      std: Divides it afterwards; as `mean`, positive.
      any_size: Take images of other heights and widths, too, as multi-crop needs.

    Raises:
      UserError: The image is smaller than the stride, or the numbers do not fit.
    """
    if len(image_shape) != 3:
        raise UserError(f"image_shape is (h, w, c), three numbers, not {image_shape}")
    height, width, channels = image_shape
    if min(height, width) < stride:
        raise UserError(
            f"images of {height}x{width} are too small for this network, which strides"
            f" by {stride}: take larger images, fewer stages or stem='cifar'"
        )
    for name, value in (("mean", mean), ("std", std)):
        if np.size(value) not in (1, channels):
            raise UserError(
                f"{name} has {np.size(value)} numbers, but the images have {channels}"
                " channels: give one number, or one per channel"
            )
    if np.min(std) <= 0:
        raise UserError(f"std must be positive, not {std}")
    size = (None, None) if any_size else (height, width)
    image = keras.Input((*size, channels), name="image")
    normalized = keras.layers.Normalization(
        mean=mean, variance=np.square(std).tolist(), name="normalization"
    )(image)
    return image, normalized


def pad(x: keras.KerasTensor, size: int, name: str) -> keras.KerasTensor:
    """`size` zeros on every side of [b, h, w, c]."""
    return keras.layers.ZeroPadding2D(size, name=f"{name}_pad")(x)


def conv(
    x: keras.KerasTensor, filters: int, kernel_size: int, stride: int, name: str
) -> keras.KerasTensor:
    """Convolution without bias, padded by `kernel_size // 2` on every side.

    Keras' own 'same' pads only below and to the right where it strides over an even
    size, which shifts the image against PyTorch; at stride 1 the two agree.

    Initialised as N(0, 2 / (kernel_size^2 * filters)), He et al. 2015
    (arXiv:1502.01852), eq. 14, as torchvision and Zagoruyko and Komodakis do.
    """
    if stride > 1 and kernel_size > 1:
        x = pad(x, kernel_size // 2, name)
    elif stride > 1 and x.shape[-1] < 8:
        # The same function. The gradient of a strided 1x1 kernel with so few inputs is
        # written past its end by oneDNN on CPUs without AVX-512 (TensorFlow 2.21).
        x = keras.layers.MaxPooling2D(1, stride, name=f"{name}_stride")(x)
        stride = 1
    return keras.layers.Conv2D(
        filters,
        kernel_size,
        strides=stride,
        padding="same" if stride == 1 else "valid",
        use_bias=False,
        # An initializer of its own: a shared one draws the same kernel again.
        kernel_initializer=keras.initializers.VarianceScaling(
            2.0, mode="fan_out", distribution="untruncated_normal"
        ),
        name=name,
    )(x)


def batch_norm(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    """Batch normalisation over the global batch.

    Without synchronisation each replica would keep moving statistics of its own, and
    the saved model would hold those of the first. On a single device it only costs.
    """
    return keras.layers.BatchNormalization(
        momentum=0.9,
        epsilon=1e-5,
        synchronized=distribute.replicas() > 1,
        name=name,
    )(x)


def relu(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    return keras.layers.ReLU(name=name)(x)


def backbone(
    image: keras.KerasTensor, features_map: keras.KerasTensor, name: str
) -> keras.Model:
    """Ends a network: averages `features_map` [b, h, w, d] to features [b, d]."""
    features = keras.layers.GlobalAveragePooling2D(name="features")(features_map)
    return keras.Model(image, features, name=name)


def check_size(name: str, size: int) -> None:
    """Raises a UserError unless `size` is a positive integer."""
    if not isinstance(size, int) or size < 1:
        raise UserError(f"{name} must be a positive integer, not {size!r}")


def check_blocks(blocks: Sequence[int]) -> None:
    """Raises a UserError unless `blocks` has a positive integer for each stage."""
    if (
        not isinstance(blocks, Sequence)
        or not blocks
        or any(not isinstance(n, int) or n < 1 for n in blocks)
    ):
        raise UserError(
            "blocks must be positive integers, one for each stage, such as"
            f" (2, 2, 2, 2), not {blocks!r}"
        )
