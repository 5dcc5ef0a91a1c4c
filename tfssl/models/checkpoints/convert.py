"""From checkpoints of PyTorch to Keras models."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np

from tfssl.models.checkpoints import head as linear_head
from tfssl.models.checkpoints import layouts, resnet, state_dict, vit
from tfssl.types import UserError

NORMALISATIONS: dict[str, dict[str, Any]] = {
    "imagenet": {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)},
    "none": {"mean": 0.0, "std": 1.0},
}
"""What is subtracted from images in [0, 1] and divides them afterwards."""

# Which heads of a ViT there are, by the ratio of their inputs to the width of a token:
# timm's, and DINO's of a ViT-S. Those of its ViT-B read twice the width, but of that
# half is the mean of the patches.
_HEADS_OF_A_VIT = (1, 4)


def convert(
    checkpoint: str | os.PathLike,
    head: str | os.PathLike | None = None,
    layout: str | None = None,
    prefix: str | None = None,
    normalise: str = "imagenet",
    image_size: int | None = None,
    any_size: bool = False,
    heads: int | None = None,
    last_blocks: int | None = None,
) -> tuple[keras.Model, str]:
    """Reads an encoder and its linear head, if there is one.

    Args:
      checkpoint: A file for `state_dict.read`.
      head: Another, with the head. If None, that of the checkpoint, if it has one.
      layout, prefix: See `layouts.find`.
      normalise: A key of `NORMALISATIONS`.
      image_size: Height and width of the images. If None, what a ViT was trained with,
        or 224.
      any_size: Take images of other heights and widths, too.
      heads: See `vit.convert`.
      last_blocks: The features of a ViT are the class tokens after so many last blocks.
        If None, as many as the head reads, 1 without one.

    Returns:
      The model, images [b, h, w, c] in [0, 1] to logits [b, k] or, without a head, to
      features [b, d]; and a text that says what was found and what was left out.

    Raises:
      UserError: A file cannot be read, or what is in it does not fit.
    """
    tensors = layouts.unwrapped(state_dict.read(checkpoint))
    chosen, network, others = layouts.find(tensors, layout, prefix)
    inside = {
        name.removeprefix(chosen.prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(chosen.prefix)
    }
    weights, own = None, []
    if head is not None:
        found = layouts.unwrapped(state_dict.read(head))
        weights = linear_head.of_file(found, os.fspath(head))
    elif own := linear_head.find(tensors, chosen.heads)[:1]:
        weights = linear_head.named(tensors, own[0])

    settings = {**NORMALISATIONS[normalise], "any_size": any_size}
    if network == "vit":
        settings["heads"] = heads
        settings["last_blocks"] = _last_blocks(inside, weights, last_blocks)
        size = image_size or vit.image_size(inside)
        encoder, left = vit.convert(inside, _shape(size, inside), **settings)
    elif heads or last_blocks:
        raise UserError("heads and last_blocks are for a ViT; this is a ResNet")
    else:
        size = image_size or 224
        encoder, left = resnet.convert(inside, _shape(size, inside), **settings)
    model = encoder
    if weights is not None:
        path = os.fspath(checkpoint if head is None else head)
        model = linear_head.classifier(encoder, weights, path)

    used = {f"{own[0]}.weight", f"{own[0]}.bias"} if own else set()
    left = [chosen.prefix + name for name in left]
    left += [name for name in tensors if not name.startswith(chosen.prefix)]
    left = [name for name in left if name not in used]
    return model, _report(model, chosen, others, normalise, len(tensors), left)


def _shape(size: int, tensors: Mapping[str, np.ndarray]) -> tuple[int, int, int]:
    """(h, w, c) of the images, the channels being those of the first convolution."""
    for name in ("conv1.weight", "patch_embed.proj.weight"):
        if getattr(tensors.get(name), "ndim", 0) == 4:
            return size, size, tensors[name].shape[1]
    return size, size, 3  # What is wrong with the convolution others will say.


def _last_blocks(
    tensors: Mapping[str, np.ndarray],
    weights: Mapping[str, np.ndarray] | None,
    wanted: int | None,
) -> int:
    """Of how many blocks of a ViT a head reads the class token."""
    if weights is None or wanted:
        return wanted or 1
    width = tensors["cls_token"].shape[-1] if "cls_token" in tensors else 1
    size = weights["weight"].shape[1]
    for blocks in _HEADS_OF_A_VIT:
        if size == blocks * width:
            return blocks
    raise UserError(
        f"the head reads {size} features, the tokens have {width}: known are heads that"
        " read the class token of 1 or 4 last blocks; for others give --last_blocks."
        " DINO's for ViT-B, which read the mean of the patches, too, are not supported"
    )


def _report(
    model: keras.Model,
    layout: layouts.Layout,
    others: list[str],
    normalise: str,
    total: int,
    left: list[str],
) -> str:
    encoder = f"layout {layout.name}"
    if layout.prefix:
        encoder += f", tensors below {layout.prefix}"
    if others:
        encoder += f"; there is also {', '.join(others)} (--layout)"
    attention = [
        layer.num_heads
        for layer in model.layers
        if isinstance(layer, keras.layers.MultiHeadAttention)
    ]
    heads = f", {len(attention)} blocks, {attention[0]} heads" if attention else ""
    lines = [
        ("encoder", encoder),
        ("network", f"{model.name}, {model.count_params():,} numbers{heads}"),
        ("input", f"images {_shown(model.input_shape)} in [0, 1], mean: {normalise}"),
        ("output", f"{model.output_names[0]} {_shown(model.output_shape)}"),
        ("used", f"{total - len(left)} of {total} tensors of the checkpoint"),
        ("left out", ", ".join(_groups(left)) or "nothing"),
    ]
    return "\n".join(f"{title:9} {text}" for title, text in lines)


def _shown(shape: tuple[int | None, ...]) -> str:
    return " x ".join("any" if n is None else str(n) for n in shape[1:])


def _groups(names: Iterable[str]) -> list[str]:
    """Names by what they begin with, counted; counters of BatchNorm are one group."""
    counts = Counter(
        "num_batches_tracked"
        if name.endswith(".num_batches_tracked")
        else name.split(".")[0]
        for name in names
    )
    return [f"{name} ({count})" for name, count in counts.items()]
