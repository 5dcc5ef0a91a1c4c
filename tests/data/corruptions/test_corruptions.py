"""What all corruptions have in common."""

import importlib.util

import gin
import numpy as np
import pytest
import tensorflow as tf

from tfssl import config
from tfssl.data.corruptions.corruption import Corruption
from tfssl.data.corruptions.frost import Frost
from tfssl.data.corruptions.gaussian_noise import GaussianNoise
from tfssl.types import UserError

SEEDS = tf.random.stateless_uniform([7, 2], [1, 2], minval=None, dtype=tf.int32)
NAMES = [  # In the order of the paper's tables, and the four extra ones.
    *("gaussian_noise", "shot_noise", "impulse_noise"),
    *("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    *("snow", "frost", "fog", "brightness"),
    *("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
    *("speckle_noise", "gaussian_blur", "spatter", "saturate"),
]


@gin.configurable
def all_of(corruptions):
    return corruptions


def load(constants):
    file = {"cifar": "all19", "imagenet": "imagenet"}[constants]
    config.parse([f"corruptions/{file}.gin"], ["all_of.corruptions = %CORRUPTIONS"])
    return all_of()


def images(height, width, n=7):
    """[n, h, w, 3], smooth as photographs are, with all levels."""
    rng = np.random.default_rng(0)
    coarse = rng.uniform(-0.3, 1.3, (n, 6, 6, 3)).astype(np.float32)
    smooth = tf.image.resize(coarse, (height, width), "bicubic").numpy()
    return np.round(255 * smooth.clip(0, 1)) / np.float32(255)


@pytest.mark.parametrize("constants", ["cifar", "imagenet"])
def test_gin_files_name_all_in_the_benchmarks_order(constants):
    corruptions = load(constants)
    assert [x.name for x in corruptions] == NAMES
    for corruption in corruptions:
        assert corruption.constants == constants
        assert len(corruption.cifar) == len(corruption.imagenet) == 5


@pytest.mark.parametrize("number", range(19), ids=NAMES)
@pytest.mark.parametrize(
    ("constants", "height", "width", "severity"),
    [("cifar", 32, 32, 5), ("imagenet", 48, 41, 3)],
)
def test_image_and_seed_alone_decide(number, constants, height, width, severity):
    corruption, clean = load(constants)[number], images(height, width)
    signature = [
        tf.TensorSpec([None, height, width, 3]),
        tf.TensorSpec([None, 2], tf.int32),
    ]
    corrupt = tf.function(
        lambda *x: corruption(*x, severity), signature, autograph=False
    )
    whole = corrupt(clean, SEEDS)
    assert whole.dtype == tf.float32
    assert corrupt.get_concrete_function().output_shapes == [None, height, width, 3]
    levels = 255 * whole.numpy()
    assert levels.min() >= 0
    assert levels.max() <= 255
    np.testing.assert_allclose(levels, np.round(levels), atol=1e-4)
    assert np.all(np.any(levels != np.round(255 * clean), axis=(1, 2, 3)))

    for rows in ([0], [6], [3, 6, 5, 0, 4, 1, 2]):
        part = 255 * corrupt(clean[rows], tf.gather(SEEDS, rows)).numpy()
        # Where the last bit decides whether a level is cut off.
        different = np.abs(part - levels[rows]) > 0.5
        assert different.mean() < 1e-3
    np.testing.assert_array_equal(corrupt(clean, SEEDS), whole)


RANDOM = [
    *("gaussian_noise", "shot_noise", "impulse_noise", "glass_blur", "motion_blur"),
    *("snow", "frost", "fog", "elastic_transform", "speckle_noise", "spatter"),
]


def test_other_seeds_are_other_corruptions():
    clean = np.repeat(images(32, 32, 1), 2, axis=0)
    for corruption in load("cifar"):
        one, other = corruption(clean, SEEDS[:2], 4).numpy()
        assert np.any(one != other) == (corruption.name in RANDOM), corruption.name


# Of the others, some settings of the tables are milder at a higher severity.
RISING = {
    "cifar": {
        *("gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise"),
        *("gaussian_blur", "zoom_blur", "snow", "fog", "brightness", "contrast"),
        *("pixelate", "jpeg_compression"),
    },
    "imagenet": {
        *("gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise"),
        *("gaussian_blur", "defocus_blur", "motion_blur", "zoom_blur", "brightness"),
        *("contrast", "pixelate", "jpeg_compression"),
    },
}


@pytest.mark.parametrize("constants", ["cifar", "imagenet"])
def test_severity_raises_the_change(constants):
    clean = images(32, 32)
    for corruption in load(constants):
        if corruption.name in RISING[constants]:
            changes = [
                np.abs(corruption(clean, SEEDS, severity) - clean).mean()
                for severity in (1, 2, 3, 4, 5)
            ]
            assert np.all(np.diff(changes) > 0), (corruption.name, changes)


def test_grey_images_are_corrupted_unless_that_needs_colours():
    clean = images(32, 32)[..., :1]
    for corruption in load("cifar"):
        if corruption.needs_color:
            with pytest.raises(UserError, match="three channels"):
                corruption(clean, SEEDS, 1)
        else:
            assert corruption(clean, SEEDS, 1).shape == clean.shape


def test_corruptions_fit_into_pipelines():
    clean = images(32, 32)
    corruption = GaussianNoise("cifar")
    data = tf.data.Dataset.from_tensor_slices((clean, SEEDS)).batch(3)
    data = data.map(lambda *x: corruption(*x, 2), num_parallel_calls=2)
    found = np.concatenate([*data.as_numpy_iterator()])
    np.testing.assert_allclose(found, corruption(clean, SEEDS, 2), atol=1e-6)


def test_errors(tmp_path, monkeypatch):
    corruption, clean = GaussianNoise("cifar"), images(32, 32)
    with pytest.raises(UserError, match="'cifar' or 'imagenet'"):
        GaussianNoise("svhn")
    for severity in (0, 6, 1.5, "1", True):
        with pytest.raises(UserError, match="severity"):
            corruption(clean, SEEDS, severity)
    for wrong in (clean[0], clean[:, :31], clean[..., :2]):
        with pytest.raises(UserError, match="gaussian_noise needs"):
            corruption(wrong, SEEDS, 1)
    with pytest.raises(UserError, match=r"frost1\.png"):
        Frost("cifar", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert Frost("cifar").texture == "procedural"
    with pytest.raises(NotImplementedError):
        Corruption("cifar")._corrupt(clean, SEEDS, 1)
