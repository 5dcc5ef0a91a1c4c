r"""Turns a checkpoint of PyTorch into a Keras model.

A ResNet as torchvision names its tensors, or a ViT as timm and DINO do, and the linear
head that was trained on it:

  bin/convert --checkpoint resnet50.pth --out resnet50.keras
  bin/convert --checkpoint dino_resnet50_pretrain.pth \
    --head dino_resnet50_linearweights.pth --out dino.keras

The encoder is found by the names of its tensors, whether the file is of torchvision,
MoCo, SimSiam, SwAV, Barlow Twins, VICReg, DINO, VISSL or mmpretrain. Where there are
several, such as student and teacher, it is the one that the authors evaluate, unless
--layout says otherwise. docs/convert.md has the command for each method.

The model takes images in [0, 1] and normalises them itself. It returns logits, or
features if there is no head, and is read by bin/evaluate --model, and as PRETRAINED by
gin/protocols/. Printed is what was found, and what was left out, such as heads of
pre-training. What does not fit exactly is an error.

Files of torch.save need PyTorch (pip install 'tfssl[torch]'); .safetensors and .npz
need nothing. No code that is in a file is run.
"""

from __future__ import annotations

from pathlib import Path

from absl import flags

from tfssl import files
from tfssl.cli import app
from tfssl.types import UserError

CHECKPOINT = flags.DEFINE_string("checkpoint", None, "The file with the encoder.")
HEAD = flags.DEFINE_string(
    "head", None, "The file with the linear head, if it is not in the checkpoint."
)
OUT = flags.DEFINE_string("out", None, "The .keras file to write.")
LAYOUT = flags.DEFINE_string(
    "layout", None, "Which encoder of the checkpoint, such as student or encoder_k."
)
PREFIX = flags.DEFINE_string(
    "prefix", None, "What stands before the encoder's names, in an unknown layout."
)
NORMALISE = flags.DEFINE_enum(
    "normalise", "imagenet", ["imagenet", "none"], "Mean and deviation of the images."
)
IMAGE_SIZE = flags.DEFINE_integer(
    "image_size",
    None,
    "Height and width of the images; by default what a ViT was trained with, or 224.",
    lower_bound=1,
)
ANY_SIZE = flags.DEFINE_bool(
    "any_size", False, "Let the model take images of other heights and widths, too."
)
HEADS = flags.DEFINE_integer(
    "heads",
    None,
    "Attention heads of a ViT, one per 64 numbers by default; 12 in MoCo v3's ViT-S.",
    lower_bound=1,
)
LAST_BLOCKS = flags.DEFINE_integer(
    "last_blocks",
    None,
    "Of how many last blocks of a ViT the class tokens are the features; by default as"
    " many as the head reads.",
    lower_bound=1,
)


def main() -> None:
    """Reads, converts, writes."""
    if not CHECKPOINT.value:
        raise UserError("--checkpoint is missing: the file to convert")
    if not OUT.value or not OUT.value.endswith(".keras"):
        raise UserError("--out is missing or no .keras file: where to write the model")
    app.load_tensorflow()
    from tfssl.models.checkpoints.convert import convert

    model, report = convert(
        CHECKPOINT.value,
        HEAD.value,
        LAYOUT.value,
        PREFIX.value,
        NORMALISE.value,
        IMAGE_SIZE.value,
        ANY_SIZE.value,
        HEADS.value,
        LAST_BLOCKS.value,
    )
    with files.replacing(Path(OUT.value)) as path:
        model.save(path)
    print(report)
    print(f"written to {OUT.value}")


def run() -> None:
    """The console script."""
    app.run(main, __doc__)
