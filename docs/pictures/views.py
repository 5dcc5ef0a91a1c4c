"""Draws the views that a recipe makes of test images of CIFAR-10.

  python docs/pictures/views.py --recipe simclr

Writes docs/images/views_<recipe>.png: a row for each image, first the image itself,
then its views, as they are in several epochs. Smaller views stay smaller.
"""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import gin
import matplotlib.image
import numpy as np
import tensorflow as tf
from absl import app, flags

from tfssl import config, randomness
from tfssl.data.dataset import Dataset
from tfssl.data.views import Views

RECIPE = flags.DEFINE_string("recipe", None, "A file of gin/views/.", required=True)
IMAGES = flags.DEFINE_integer("images", 4, "Rows.", 1)
EPOCHS = flags.DEFINE_integer("epochs", 3, "How often the views are made.", 1)

ENLARGED, GAP = 3, 2
FOLDER = Path(__file__).resolve().parents[1] / "images"


@gin.configurable(module="docs")
def load(views: Views) -> Views:
    """What a gin file sets VIEWS to."""
    return views


def padded(image: np.ndarray, height: int) -> np.ndarray:
    """[h, w, 3] in the middle of a white column of the given height, with a gap."""
    top = (height - image.shape[0]) // 2
    bottom = height - image.shape[0] - top + GAP
    return np.pad(image, [(top, bottom), (0, GAP), (0, 0)], constant_values=1)


def main(argv: list[str]) -> None:
    config.parse([f"views/{RECIPE.value}.gin"], ["load.views = %VIEWS"])
    views = load()
    data = Dataset("cifar10:3.0.2", num_test_examples=IMAGES.value)
    batch = next(iter(data.eval_batches("test", IMAGES.value, 0)))
    columns = [batch["image"]]
    for epoch in range(EPOCHS.value):
        seed = randomness.example_seeds(0, epoch, batch["id"])
        for group in views(batch["image"], seed).values():
            columns += tf.unstack(group, axis=1)
    height = data.image_shape[0]
    picture = np.concatenate(
        [
            np.concatenate([padded(image, height) for image in column.numpy()], axis=0)
            for column in columns
        ],
        axis=1,
    )[:-GAP, :-GAP]
    picture = picture.repeat(ENLARGED, axis=0).repeat(ENLARGED, axis=1)
    matplotlib.image.imsave(FOLDER / f"views_{RECIPE.value}.png", picture)


if __name__ == "__main__":
    app.run(main)
