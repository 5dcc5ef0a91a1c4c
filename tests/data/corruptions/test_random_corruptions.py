"""Corruptions with draws: against their recipes in numpy, from the same draws."""

import math

import cv2
import numpy as np
import pytest
import tensorflow as tf
from scipy import ndimage, stats

from tfssl import randomness
from tfssl.data.corruptions import draws
from tfssl.data.corruptions.elastic_transform import ElasticTransform
from tfssl.data.corruptions.fog import Fog
from tfssl.data.corruptions.frost import Frost
from tfssl.data.corruptions.gaussian_noise import GaussianNoise
from tfssl.data.corruptions.glass_blur import GlassBlur
from tfssl.data.corruptions.ice import ice
from tfssl.data.corruptions.impulse_noise import ImpulseNoise
from tfssl.data.corruptions.motion_blur import MotionBlur
from tfssl.data.corruptions.shot_noise import ShotNoise
from tfssl.data.corruptions.snow import Snow
from tfssl.data.corruptions.spatter import Spatter
from tfssl.data.corruptions.speckle_noise import SpeckleNoise

SEEDS = tf.random.stateless_uniform([64, 2], [1, 2], minval=None, dtype=tf.int32)
SIZES = [("cifar", 32, 32), ("imagenet", 64, 48)]


def images(height, width, n=3):
    """[n, h, w, 3] uint8, smooth as photographs are."""
    coarse = np.random.default_rng(0).uniform(-0.3, 1.3, (n, 6, 6, 3))
    smooth = tf.image.resize(coarse, (height, width), "bicubic").numpy()
    return np.uint8(255 * smooth.clip(0, 1))


def drawn(kind, tag, shape, draw=draws.uniform):
    """[3, *shape]: of the first images."""
    return draw(randomness.fold(SEEDS[:3], f"{kind.name}/{tag}"), shape).numpy()


def cast(image):
    return np.uint8(np.clip(image, 0, 1) * 255)


def assert_recipe(kind, constants, clean, slow, few=0.005, most=1, **arguments):
    """That few levels differ from `slow(number, image, setting)`, and by how much."""
    corruption = kind(constants, **arguments)
    for severity in (1, 2, 3, 4, 5):
        found = corruption(clean.astype(np.float32) / 255, SEEDS[:3], severity)
        setting = getattr(kind, constants)[severity - 1]
        expected = np.stack([slow(*x, setting) for x in enumerate(clean)])
        distance = np.abs(np.round(255 * found.numpy()) - expected)
        assert distance.max() <= most, severity
        assert np.mean(distance > 0) <= few, severity


def gaussian(image, sigma, mode="nearest", truncate=4.0):
    sigma = (sigma, sigma, 0)[: image.ndim]
    return ndimage.gaussian_filter(image, sigma, mode=mode, truncate=truncate)


def test_draws_are_uniform_normal_and_independent():
    for count in (4, 40):
        u = draws.uniform(SEEDS, [count // 2, 2]).numpy()
        assert u.shape == (64, count // 2, 2)
        np.testing.assert_array_equal(
            u.reshape(64, -1), randomness.uniforms(SEEDS, 0, count)
        )
    normal = draws.normal(SEEDS, [50, 40]).numpy()
    assert normal.shape == (64, 50, 40)
    assert stats.kstest(normal.ravel(), "norm").pvalue > 1e-3
    assert abs(stats.kurtosis(normal.ravel())) < 0.06  # Four standard deviations.
    flat = normal.reshape(64, -1)
    for a, b in ((flat[:, 1:], flat[:, :-1]), (flat[1:], flat[:-1])):
        assert abs(np.mean(a * b)) < 4 / math.sqrt(a.size)


@pytest.mark.parametrize("constants", ["cifar", "imagenet"])
def test_noises(constants):
    clean = images(32, 32)
    normal = {
        kind: drawn(kind, "noise", clean.shape[1:], draws.normal)
        for kind in (GaussianNoise, SpeckleNoise)
    }

    def add(number, image, scale):
        return cast(image / 255 + scale * normal[GaussianNoise][number])

    def multiply(number, image, scale):
        return cast(image / 255 * (1 + scale * normal[SpeckleNoise][number]))

    assert_recipe(GaussianNoise, constants, clean, add)
    assert_recipe(SpeckleNoise, constants, clean, multiply)

    u = drawn(ImpulseNoise, "noise", clean.shape[1:])

    def salt_and_pepper(number, image, share):
        noisy = np.where(u[number] < share, 255, image)
        return np.where(u[number] < share / 2, 0, noisy)

    assert_recipe(ImpulseNoise, constants, clean, salt_and_pepper, few=0)


@pytest.mark.parametrize("constants", ["cifar", "imagenet"])
def test_shot_noise_counts_photons(constants):
    clean = images(32, 32)
    clean[0, :16, :8] = np.arange(128)[:, None].reshape(16, 8, 1)
    clean[0, 16:, :8] = np.arange(128, 256)[:, None].reshape(16, 8, 1)
    u = drawn(ShotNoise, "noise", clean.shape[1:]).astype(np.float64)

    def count(number, image, photons):
        counts = stats.poisson.ppf(u[number] + 1e-9, photons * (image / 255))
        return cast(counts / photons)

    # Few draws are next to a step of a distribution, where the table is rounded.
    assert_recipe(ShotNoise, constants, clean, count, few=0.001, most=255)


@pytest.mark.parametrize(("constants", "height", "width"), SIZES)
def test_glass_blur_moves_one_pixel_after_the_other(constants, height, width):
    # Not smooth: among pixels of one colour a Gaussian's weights add up to 1 or just
    # below, and the colour is a level lower.
    clean = np.random.default_rng(0).integers(0, 256, (3, height, width, 3), np.uint8)
    u = drawn(GlassBlur, "moves", [3, height * width])

    def blur(number, image, setting):
        sigma, distance, rounds = setting
        image = cast(gaussian(image / 255, sigma))
        for moves in u[number][:rounds].reshape(rounds, height, width):
            for y in range(height - distance, distance, -1):
                for x in range(width - distance, distance, -1):
                    move = int(moves[y, x] * (2 * distance) ** 2)
                    dy, dx = np.array(divmod(move, 2 * distance)) - distance
                    a, b = image[y, x], image[y + dy, x + dx]
                    # The original's line, in which numpy's views make a copy of a swap.
                    image[y, x], image[y + dy, x + dx] = b, a
        return cast(gaussian(image / 255, sigma))

    assert_recipe(GlassBlur, constants, clean, blur, few=0.01)


def slow_motion(image, radius, sigma, angle):
    """ImageMagick's, of whole levels, up to the rounding of its 16 bits."""
    angle, total, weight = math.radians(angle), 0.0, 0.0
    padded = np.pad(image, [(40, 40), (40, 40), (0, 0)], "edge").astype(np.float64)
    height, width = image.shape[:2]
    for i in range(2 * radius + 1):
        y = 40 + math.ceil(i * math.sin(angle) - 0.5)
        x = 40 + math.ceil(i * math.cos(angle) - 0.5)
        k = math.exp(-(i**2) / (2 * sigma**2))
        total += k * padded[y : y + height, x : x + width]
        weight += k
    return np.floor(np.floor(257 * total / weight + 0.5) / 257)


@pytest.mark.parametrize(("constants", "height", "width"), SIZES)
def test_motion_blur(constants, height, width):
    angle = -45 + 90 * drawn(MotionBlur, "angle", [])

    def blur(number, image, setting):
        return slow_motion(image, *setting, angle[number])

    assert_recipe(MotionBlur, constants, images(height, width), blur)


@pytest.mark.parametrize(("constants", "size"), [("cifar", 32), ("imagenet", 64)])
def test_snow(constants, size):
    normal = drawn(Snow, "flakes", [size, size], draws.normal).astype(np.float64)
    angle = -135 + 90 * drawn(Snow, "angle", [])

    def snow(number, image, setting):
        mean, deviation, zoom, threshold, radius, sigma, clear = setting
        seen = math.ceil(size / zoom)
        top = (size - seen) // 2
        flakes = (mean + deviation * normal[number])[top : top + seen, top : top + seen]
        flakes = ndimage.zoom(flakes, zoom, order=1)
        top = (len(flakes) - size) // 2
        flakes = flakes[top : top + size, top : top + size]
        flakes = cast(np.where(flakes < threshold, 0, flakes))[..., None]
        flakes = slow_motion(flakes, radius, sigma, angle[number]) / 255
        image = image / 255
        grey = image @ [[0.299], [0.587], [0.114]]
        image = clear * image + (1 - clear) * np.maximum(image, 1.5 * grey + 0.5)
        return cast(image + flakes + np.rot90(flakes, 2))

    assert_recipe(Snow, constants, images(size, size), snow)


def slow_plasma(u, size, decay):
    """The diamond-square algorithm in place; u is used up in the order of rounds."""
    u, heights, step, wibble = iter(u), np.zeros((size, size)), size, 100.0
    while step >= 2:
        half, places = step // 2, range(0, size, step)

        def fill(offsets, neighbours, half=half, places=places, wibble=wibble):
            for y in places:
                for x in places:
                    y0, x0 = y + offsets[0], x + offsets[1]
                    around = [
                        heights[(y0 + half * dy) % size, (x0 + half * dx) % size]
                        for dy, dx in neighbours
                    ]
                    change = wibble**2 * (2 * next(u) - 1)
                    heights[y0, x0] = np.mean(around) + change

        fill((half, half), [(-1, -1), (-1, 1), (1, -1), (1, 1)])
        for offsets in ((0, half), (half, 0)):
            fill(offsets, [(-1, 0), (1, 0), (0, -1), (0, 1)])
        step, wibble = half, wibble / decay
    heights -= heights.min()
    return heights / heights.max()


@pytest.mark.parametrize(("constants", "height", "width"), SIZES)
def test_fog(constants, height, width):
    size = max(height, width)
    u = drawn(Fog, "clouds", [size * size]).astype(np.float64)

    def fog(number, image, setting):
        amount, decay = setting
        image = image / 255
        clouds = slow_plasma(u[number], size, decay)[:height, :width, None]
        return cast((image + amount * clouds) * image.max() / (image.max() + amount))

    assert_recipe(Fog, constants, images(height, width), fog)


@pytest.mark.parametrize(
    ("constants", "rows", "columns"), [("cifar", 250, 400), ("imagenet", 65, 71)]
)
def test_frost_of_the_benchmarks_pictures(constants, rows, columns, tmp_path):
    rng = np.random.default_rng(0)
    pictures = []
    for number in range(5):
        shape = rows + 10 * number, columns - 5 * number
        picture = cv2.resize(np.uint8(255 * rng.random((9, 9, 3))), shape[::-1])
        name = f"frost{number + 1}." + ("png" if number < 3 else "jpg")
        cv2.imwrite(str(tmp_path / name), picture)
        picture = cv2.imread(str(tmp_path / name))
        if constants == "cifar":
            picture = cv2.resize(picture, (0, 0), fx=0.2, fy=0.2)
        pictures.append(picture[..., [2, 1, 0]])
    size = 32 if constants == "cifar" else 48
    u = drawn(Frost, "part", [3])

    def frost(number, image, setting):
        picture = pictures[int(5 * u[number, 0])]
        y = int(u[number, 1] * (picture.shape[0] - size))
        x = int(u[number, 2] * (picture.shape[1] - size))
        part = picture[y : y + size, x : x + size]
        return np.uint8(np.clip(setting[0] * image + setting[1] * part, 0, 255))

    clean = images(size, size)
    assert_recipe(Frost, constants, clean, frost, pictures=str(tmp_path))
    large = Frost(constants, str(tmp_path))
    assert large.texture == "benchmark"
    assert large(images(300, 280) / np.float32(255), SEEDS[:3], 1).shape[1] == 300


def test_procedural_frost_has_the_colours_of_ice():
    frost = ice(SEEDS, 40, 50).numpy()
    assert frost.shape == (64, 40, 50, 3)
    assert frost.min() >= 0
    assert frost.max() <= 255
    red, _, blue = frost.mean(axis=(0, 1, 2))
    # Of the benchmark's pictures: 146 and 179; their contrast within a part is 22.
    assert 120 < red < blue < 200
    assert 15 < np.median(frost.mean(axis=-1).std(axis=(1, 2))) < 30


def look(image, y, x, mode):
    planes = [
        ndimage.map_coordinates(plane, [y, x], order=1, mode=mode)
        for plane in np.moveaxis(image, -1, 0)
    ]
    return np.stack(planes, axis=-1)


@pytest.mark.parametrize(("constants", "size"), [("cifar", 32), ("imagenet", 56)])
def test_elastic_transform(constants, size):
    side = size * (244 / 224 if constants == "imagenet" else 1)
    affine = 2 * drawn(ElasticTransform, "affine", [3, 2]) - 1
    shift = 2 * drawn(ElasticTransform, "shift", [size, size, 2]) - 1

    def stretch(number, image, setting):
        alpha, sigma, most = side * np.array(setting)
        middle, third = size // 2, size // 3
        before = middle + third * np.float32([[1, 1], [1, -1], [-1, -1]])
        after = before + np.float32(most) * affine[number]
        y, x = np.mgrid[:size, :size]
        # As warpAffine of OpenCV 5; before, it rounded places to 1/32 of a pixel.
        matrix = cv2.invertAffineTransform(cv2.getAffineTransform(before, after))
        at_x, at_y = np.tensordot(matrix, [x, y, np.ones_like(x)], axes=1)
        image = look(image / 255, at_y, at_x, "mirror")
        dx, dy = (
            alpha * gaussian(shift[number][..., i].astype(float), sigma, "reflect", 3)
            for i in (0, 1)
        )
        return cast(look(image, y + dy, x + dx, "reflect"))

    clean = images(size, size)
    assert_recipe(ElasticTransform, constants, clean, stretch, few=0.01)


@pytest.mark.parametrize(("constants", "height", "width"), SIZES)
def test_spatter(constants, height, width):
    normal = drawn(Spatter, "drops", [height, width], draws.normal).astype(np.float64)

    def spatter(number, image, setting):
        mean, deviation, sigma, threshold, strength, mud = setting
        liquid = gaussian(mean + deviation * normal[number], sigma)
        liquid[liquid < threshold] = 0
        image = image / 255
        if mud:
            share = gaussian((liquid > threshold).astype(float), strength)
            share = np.where(share < 0.8, 0, share)[..., None]
            return cast(image * (1 - share) + share * np.array([63, 42, 20]) / 255)
        liquid = (255 * liquid).astype(np.int64).astype(np.uint8)
        if not liquid.any():
            return cast(image)
        light = cv2.distanceTransform(255 - cv2.Canny(liquid, 50, 150), cv2.DIST_L2, 5)
        light = cv2.threshold(light, 20, 20, cv2.THRESH_TRUNC)[1]
        light = cv2.equalizeHist(cv2.blur(light, (3, 3)).astype(np.uint8))
        kernel = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])
        light = cv2.blur(cv2.filter2D(light, cv2.CV_8U, kernel), (3, 3))
        water = liquid.astype(np.float32) * light
        water *= strength / max(water.max(), 1e-6)
        return cast(image + water[..., None] * np.array([175, 238, 238]) / 255)

    assert_recipe(Spatter, constants, images(height, width), spatter)


def test_spatter_without_water_changes_nothing():
    class Dry(Spatter):
        cifar = (Spatter.cifar[0]._replace(mean=0.0),)

    clean = images(32, 32).astype(np.float32) / 255
    np.testing.assert_allclose(Dry("cifar")(clean, SEEDS[:3], 1), clean, atol=1e-6)
