"""Corruptions without draws: against their recipes, told slowly in numpy and SciPy."""

import colorsys
import io

import cv2
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from scipy import ndimage

from tfssl.data.corruptions.brightness import Brightness
from tfssl.data.corruptions.contrast import Contrast
from tfssl.data.corruptions.defocus_blur import DefocusBlur
from tfssl.data.corruptions.gaussian_blur import GaussianBlur
from tfssl.data.corruptions.jpeg_compression import JpegCompression
from tfssl.data.corruptions.pixelate import Pixelate
from tfssl.data.corruptions.saturate import Saturate
from tfssl.data.corruptions.zoom_blur import ZoomBlur

SEEDS = tf.zeros([3, 2], tf.int32)


def images(height, width):
    """[3, h, w, 3] uint8: clouds, noise, and areas of one colour with sharp edges."""
    rng = np.random.default_rng(0)
    clouds = tf.image.resize(rng.random((5, 6, 3)), (height, width), "bicubic").numpy()
    noise = rng.random((height, width, 3))
    areas = rng.integers(0, 3, (4, 3, 3)).repeat(height // 4, 0).repeat(width // 3, 1)
    areas = np.pad(
        areas / 2, [(0, height % 4), (0, width % 3), (0, 0)], constant_values=0.7
    )
    return np.uint8(255 * np.stack([clouds.clip(0, 1), noise, areas]))


def cast(image):
    """What the scripts save."""
    return np.uint8(np.clip(image, 0, 1) * 255)


def defocus(image, setting):
    radius, sigma = setting
    x = np.arange(-max(8, radius), max(8, radius) + 1)
    disk = np.array(x**2 + x[:, None] ** 2 <= radius**2, np.float32)
    side = (3, 3) if radius <= 8 else (5, 5)
    disk = cv2.GaussianBlur(disk / disk.sum(), side, sigmaX=sigma)
    planes = [ndimage.correlate(x, disk, mode="mirror") for x in to_planes(image)]
    return cast(np.stack(planes, axis=-1))


def to_planes(image):
    return np.moveaxis(image / 255, -1, 0)


def gaussian(image, sigma):
    return cast(ndimage.gaussian_filter(image / 255, (sigma, sigma, 0), mode="nearest"))


def zoom(image, setting):
    image = image / 255
    factors = np.arange(1, *setting)
    total = image.copy()
    for factor in factors:
        part = image
        for axis in (0, 1):
            n = image.shape[axis]
            seen = int(np.ceil(n / factor))
            start = (n - seen) // 2
            part = part.take(range(start, start + seen), axis)
        large = ndimage.zoom(part, (factor, factor, 1), order=1)
        for axis in (0, 1):
            n = image.shape[axis]
            start = (large.shape[axis] - n) // 2
            large = large.take(range(start, start + n), axis)
        total += large
    return cast(total / (len(factors) + 1))


def in_hsv(image, change):
    result = np.empty(image.shape)
    for place in np.ndindex(image.shape[:2]):
        hsv = change(*colorsys.rgb_to_hsv(*(image[place] / 255)))
        result[place] = colorsys.hsv_to_rgb(*hsv)
    return cast(result)


def brightness(image, more):
    return in_hsv(image, lambda h, s, v: (h, s, min(v + more, 1)))


def saturate(image, setting):
    factor, more = setting
    return in_hsv(image, lambda h, s, v: (h, min(s * factor + more, 1), v))


def contrast(image, share):
    mean = np.mean(image / 255, axis=(0, 1))
    return cast((image / 255 - mean) * share + mean)


def pixelate(image, share):
    height, width = image.shape[:2]
    small = Image.fromarray(image).resize(
        (int(width * share), int(height * share)), Image.Resampling.BOX
    )
    return np.array(small.resize((width, height), Image.Resampling.BOX))


def jpeg(image, quality):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.array(Image.open(file))


# How many levels may be one off, where a fraction is next to a whole number. Areas of
# one colour are: the sum of a Gaussian's weights is 1, or just below. Python's HSV is
# the original's up to the last bits, and TensorFlow and Pillow may have other versions
# of libjpeg.
@pytest.mark.parametrize(
    ("kind", "slow", "few"),
    [
        (DefocusBlur, defocus, 0.005),
        (ZoomBlur, zoom, 0.01),
        (Brightness, brightness, 0.01),
        (Contrast, contrast, 0.005),
        (Pixelate, pixelate, 0),
        (JpegCompression, jpeg, 0.005),
        (GaussianBlur, gaussian, 0.05),
        (Saturate, saturate, 0.01),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
@pytest.mark.parametrize(
    ("constants", "height", "width"), [("cifar", 32, 32), ("imagenet", 64, 48)]
)
def test_recipes(kind, slow, few, constants, height, width):
    corruption, clean = kind(constants), images(height, width)
    for severity in (1, 2, 3, 4, 5):
        found = corruption(clean.astype(np.float32) / 255, SEEDS, severity)
        setting = getattr(kind, constants)[severity - 1]
        expected = np.stack([slow(image, setting) for image in clean])
        distance = np.abs(np.round(255 * found.numpy()) - expected)
        assert distance.max() <= 1
        assert np.mean(distance) <= few, severity
