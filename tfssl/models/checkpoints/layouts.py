"""Where in a checkpoint the encoder is: a table of who names what how."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from tfssl.types import UserError

WRAPPERS = {"base_model", "classy_state_dict", "model", "module", "state_dict"}
"""Parts of names that say how a model was kept or run in parallel, not what it is."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """How the tensors of one kind of checkpoint are called, without wrappers.

    Attributes:
      name: For --layout.
      prefix: What stands before the names of the encoder's tensors.
      heads: Names that a linear classifier of the encoder's features may have.
    """

    name: str
    prefix: str
    heads: tuple[str, ...] = ()


# The first that a checkpoint has is taken: the network that the authors evaluate.
LAYOUTS = (
    # torchvision and timm; the encoders that Barlow Twins, VICReg and DINO publish;
    # SwAV; linear evaluations of MoCo and SimSiam.
    Layout("plain", "", ("fc", "head")),
    # DINO's full checkpoints.
    Layout("teacher", "teacher.backbone."),
    Layout("student", "student.backbone."),
    # mmpretrain and mmselfsup; full checkpoints of Barlow Twins and VICReg.
    Layout("backbone", "backbone.", ("head.fc", "head.fc_cls")),
    # MoCo v1 and v2.
    Layout("encoder_q", "encoder_q."),
    Layout("encoder_k", "encoder_k."),
    # MoCo v3.
    Layout("base_encoder", "base_encoder."),
    Layout("momentum_encoder", "momentum_encoder."),
    # SimSiam.
    Layout("encoder", "encoder."),
    # VISSL.
    Layout("trunk", "trunk._feature_blocks.", ("heads.0.clf.0",)),
)

ANCHORS = {"resnet": "layer1.0.conv1.weight", "vit": "blocks.0.attn.qkv.weight"}
"""By network, the name of a tensor that it has and no other network."""


def unwrapped(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors of a file, with `WRAPPERS` taken out of their names.

    Raises:
      UserError: Two tensors then have one name.
    """
    origin: dict[str, str] = {}
    for name in tensors:
        plain = _unwrapped(name)
        if plain in origin:
            raise UserError(
                f"the checkpoint holds both {origin[plain]} and {name}: give a file"
                " with one of them"
            )
        origin[plain] = name
    return {plain: tensors[name] for plain, name in origin.items()}


def find(
    tensors: Mapping[str, np.ndarray],
    layout: str | None = None,
    prefix: str | None = None,
) -> tuple[Layout, str, list[str]]:
    """Finds the encoder.

    Args:
      tensors: By name, without wrappers.
      layout: Name of a layout; if None, the first of the table that there is.
      prefix: What stands before the encoder's tensors, for checkpoints of a layout that
        is not in the table.

    Returns:
      Its layout, its network, a key of `ANCHORS`, and the names of other layouts that
      the checkpoint has, too.

    Raises:
      UserError: There is none, or the layout is unknown.
    """
    known = {x.name: x for x in LAYOUTS}
    if prefix is not None:
        chosen = Layout("prefix", _unwrapped(prefix))
        found = {chosen: _network(tensors, chosen)}
    else:
        found = {x: _network(tensors, x) for x in LAYOUTS}
        found = {x: network for x, network in found.items() if network}
        if layout is not None and layout not in known:
            raise UserError(f"no layout {layout}: there is {', '.join(known)}")
        chosen = known[layout] if layout else next(iter(found), None)
    if not found.get(chosen):
        raise UserError(_not_found(tensors, layout, found))
    others = [x.name for x in found if x != chosen]
    return chosen, found[chosen], others


def _network(tensors: Mapping[str, np.ndarray], layout: Layout) -> str | None:
    for network, anchor in ANCHORS.items():
        if layout.prefix + anchor in tensors:
            return network
    return None


def _not_found(tensors: Mapping[str, np.ndarray], layout, found) -> str:
    if layout and found:
        there = ", ".join(x.name for x in found)
        return f"the checkpoint has no encoder of layout {layout}, but of {there}"
    prefixes = sorted(
        {
            name.removesuffix(anchor)
            for anchor in ANCHORS.values()
            for name in tensors
            if name.endswith(f".{anchor}")
        }
    )
    if prefixes:
        return (
            "the checkpoint has no encoder where one was expected, but seems to have"
            f" one with --prefix {' or '.join(prefixes)}"
        )
    return (
        "the checkpoint has neither a ResNet as torchvision names it nor a ViT as timm"
        f" does, but tensors such as {', '.join(list(tensors)[:3])}"
    )


def _unwrapped(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)
