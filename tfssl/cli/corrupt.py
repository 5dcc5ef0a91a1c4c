r"""Writes corrupted test images as data sets that TFDS reads.

CIFAR-10 under 19 corruptions at five severities, 95 data sets of 10,000 images:

  bin/corrupt --gin_file data/cifar10.gin --out data

ImageNet, with the constants of ImageNet-C; some corruptions alone:

  bin/corrupt --gin_file data/imagenet2012.gin --gin_file corruptions/imagenet.gin \
    --gin_param "corrupt.only = ['fog', 'snow']" \
    --gin_param "corrupt.severities = [3]" --out data

To read one, in Python, and to measure a run on all of them:

  tfds.load('cifar10_c/fog_3', data_dir='data', split='test')

  TFDS_DATA_DIR=data bin/evaluate --run_dir runs/at \
    --gin_file evaluation/corruptions_written.gin \
    --gin_param "WRITTEN = 'cifar10_c:1.0.0'"

The images are those of the evaluation on the fly, evaluation/corruptions_cifar.gin, of
the same seed (corrupt.seed, 0). PNG keeps them as they are; the original's labels and
numbers are kept too. They are not the released images of CIFAR-10-C or ImageNet-C.

What is there already is not written again, so that the same command goes on where it
was interrupted. docs/corruptions.md says more.
"""

from __future__ import annotations

from pathlib import Path

from absl import flags

from tfssl import config
from tfssl.cli import app
from tfssl.types import UserError

OUT = flags.DEFINE_string("out", None, "The folder to write to: a data_dir of TFDS.")


def main() -> None:
    """Parses the configuration and writes."""
    if not OUT.value:
        raise UserError("--out is missing: the folder to write to")
    app.make_folder(Path(OUT.value))
    app.load_tensorflow()
    from tfssl.data.corrupt import corrupt

    gin_files = ["runs/corrupt.gin", *app.GIN_FILE.value]
    config.parse(gin_files, app.GIN_PARAM.value, app.ALLOW_IMPORT.value)
    names = corrupt(OUT.value)
    print(f"{len(names)} data sets in {OUT.value}, the last one {names[-1]}")


def run() -> None:
    """The console script."""
    app.run(main, __doc__)
