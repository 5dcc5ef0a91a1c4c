"""Vision transformers as timm and DINO name their tensors, as `tfssl.models.vit`."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tfssl.models.checkpoints.assignment import Assignment, assign, conv_kernel, linear
from tfssl.models.tokens import interpolate
from tfssl.models.vit import vit
from tfssl.types import UserError

# DINO enlarges the size by it before it interpolates the positions.
_DINO_EXTRA = 0.1


def image_size(tensors: Mapping[str, np.ndarray]) -> int:
    """Side of the square images in pixels that the positions were learned for.

    Raises:
      UserError: The tensors are not those of a ViT with positions on a square.
    """
    return _grid(tensors) * _of(tensors, "patch_embed.proj.weight", 4)[3]


def convert(
    tensors: Mapping[str, np.ndarray],
    image_shape: Sequence[int],
    heads: int | None = None,
    last_blocks: int = 1,
    **settings: Any,
) -> tuple[keras.Model, list[str]]:
    """The network that the tensors make, and the names of those left out.

    All but the number of heads is read off the tensors.

    Args:
      tensors: By timm's names.
      image_shape: (h, w, c). For another size than that of the checkpoint the positions
        are interpolated once, as DINO does.
      heads: Number of attention heads; if None, one for each 64 numbers of a token, as
        in DeiT and DINO. MoCo v3's ViT-S has 12.
      last_blocks: See `vit`.
      **settings: `mean`, `std` and `any_size` of `vit`.

    Returns:
      Images [b, h, w, c] to features [b, d]; of heads the names.

    Raises:
      UserError: The tensors are not those of such a ViT.
    """
    width, _, patch, _ = _of(tensors, "patch_embed.proj.weight", 4)
    hidden, _ = _of(tensors, "blocks.0.mlp.fc1.weight", 2)
    depth = 1 + max(
        int(match[1]) for name in tensors if (match := re.match(r"blocks\.(\d+)", name))
    )
    if heads is None and width % 64:
        raise UserError(
            f"how many attention heads share the {width} numbers of a token cannot be"
            " read off the tensors: give --heads"
        )
    model = vit(
        image_shape,
        patch,
        width,
        depth,
        heads or width // 64,
        hidden // width,
        last_blocks=last_blocks,
        **settings,
    )
    size = (image_shape[0] // patch, image_shape[1] // patch)
    positions = functools.partial(_positions, old=_grid(tensors), new=size)
    left = assign(_assignments(model, depth, positions), tensors)
    return model, left


def _of(tensors: Mapping[str, np.ndarray], name: str, axes: int) -> tuple[int, ...]:
    """A tensor's shape."""
    shape = tensors[name].shape if name in tensors else ()
    if len(shape) != axes:
        raise UserError(
            f"a ViT has a tensor {name} with {axes} axes; here it has shape"
            f" {list(shape)}"
        )
    return shape


def _grid(tensors: Mapping[str, np.ndarray]) -> int:
    """Patches along a side of the square that the positions were learned for."""
    count = _of(tensors, "pos_embed", 3)[1] - 1
    side = math.isqrt(max(count, 0))
    if side**2 != count or not side:
        raise UserError(
            f"pos_embed has {count + 1} positions: one for the class token and those of"
            " a square were expected"
        )
    return side


def _positions(tensor: np.ndarray, old: int, new: tuple[int, int]) -> np.ndarray:
    """Position embeddings [1, 1 + old^2, d] to [1, 1 + h w, d]."""
    if new == (old, old):
        return tensor
    width = tensor.shape[-1]
    patches = tensor[:, 1:].reshape(1, old, old, width)
    patches = interpolate(patches, *new, _DINO_EXTRA).numpy()
    return np.concatenate([tensor[:, :1], patches.reshape(1, -1, width)], 1)


def _assignments(
    model: keras.Model, depth: int, positions: functools.partial
) -> Iterator[Assignment]:
    tokens, patches = model.get_layer("tokens"), model.get_layer("patches")
    yield Assignment(tokens.class_token, "cls_token")
    yield Assignment(tokens.position, "pos_embed", positions)
    yield Assignment(patches.kernel, "patch_embed.proj.weight", conv_kernel)
    yield Assignment(patches.bias, "patch_embed.proj.bias")
    for i in range(depth):
        for kind in ("norm1", "norm2"):
            yield from _norm(
                model.get_layer(f"block{i + 1}_{kind}"), f"blocks.{i}.{kind}"
            )
        attention = model.get_layer(f"block{i + 1}_attention")
        yield from _attention(attention, f"blocks.{i}.attn")
        for kind in ("1", "2"):
            layer = model.get_layer(f"block{i + 1}_mlp{kind}")
            yield from linear(layer, f"blocks.{i}.mlp.fc{kind}")
    yield from _norm(model.get_layer("final_norm"), "norm")


def _norm(layer: keras.layers.LayerNormalization, name: str) -> list[Assignment]:
    return [
        Assignment(layer.gamma, f"{name}.weight"),
        Assignment(layer.beta, f"{name}.bias"),
    ]


def _attention(
    layer: keras.layers.MultiHeadAttention, name: str
) -> Iterator[Assignment]:
    """timm's `qkv` has 3 width outputs, ordered by (query, key, value), head, number.

    Keras has a kernel [width, heads, size] for each, and one back
    [heads, size, width].
    """
    width, heads, size = layer.query_dense.kernel.shape

    def kernel(tensor, part):
        return tensor.reshape(3, heads, size, width)[part].transpose(2, 0, 1)

    def bias(tensor, part):
        return tensor.reshape(3, heads, size)[part]

    def back(tensor):
        return tensor.reshape(width, heads, size).transpose(1, 2, 0)

    for part, dense in enumerate(
        (layer.query_dense, layer.key_dense, layer.value_dense)
    ):
        for variable, change, end in (
            (dense.kernel, kernel, "weight"),
            (dense.bias, bias, "bias"),
        ):
            change = functools.partial(change, part=part)
            yield Assignment(variable, f"{name}.qkv.{end}", change)
    yield Assignment(layer.output_dense.kernel, f"{name}.proj.weight", back)
    yield Assignment(layer.output_dense.bias, f"{name}.proj.bias")
