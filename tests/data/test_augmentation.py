"""Augmentation: equal to numpy's crop and flip, another one for each example."""

import numpy as np
import pytest
import tensorflow as tf

from tfssl import randomness
from tfssl.data.augmentation import Flip, PadCrop
from tfssl.types import UserError

SEEDS = randomness.example_seeds(3, 1, tf.range(64, dtype=tf.int64))


def image(height=7, width=9):
    return np.random.default_rng(0).random((height, width, 3), np.float32)


@pytest.mark.parametrize("mode", ["constant", "reflect"])
@pytest.mark.parametrize("padding", [0, 1, 4])
def test_pad_crop_is_numpys_crop_at_the_drawn_place(padding, mode):
    places = randomness.integers(
        randomness.fold(SEEDS, "pad_crop"), [2], 2 * padding + 1
    ).numpy()
    assert places.min() == 0
    assert places.max() == 2 * padding
    padded = np.pad(image(), [(padding, padding), (padding, padding), (0, 0)], mode)
    for seed, (y, x) in zip(SEEDS, places, strict=True):
        cropped = PadCrop(padding, mode)(tf.constant(image()), seed)
        np.testing.assert_array_equal(cropped, padded[y : y + 7, x : x + 9])


def test_flip_mirrors_width_in_half_of_the_cases():
    flipped = []
    for seed in SEEDS:
        result = Flip()(tf.constant(image()), seed).numpy()
        flipped.append(np.array_equal(result, image()[:, ::-1]))
        assert flipped[-1] or np.array_equal(result, image())
    assert 20 <= sum(flipped) <= 44  # 64 coins: 3 standard deviations.


def test_bad_settings():
    with pytest.raises(UserError, match="must not be negative"):
        PadCrop(-1)
    with pytest.raises(UserError, match="mode = 'edge' is not"):
        PadCrop(mode="edge")
