"""Views: each operation against its definition, and who draws what."""

import colorsys
import itertools
import math

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from PIL import Image

import tfssl.data.digits  # noqa: F401  Makes 'digits' known to TFDS.
from tfssl import randomness
from tfssl.data import prepared
from tfssl.data.augmentation import Flip
from tfssl.data.dataset import Dataset
from tfssl.data.fading import Fading
from tfssl.data.view_color import ColorJitter, Grayscale, Solarize
from tfssl.data.view_geometry import GaussianBlur, HorizontalFlip, RandomResizedCrop
from tfssl.data.views import ViewRecipe, Views
from tfssl.types import UserError

SEEDS = tf.random.stateless_uniform([4096, 2], [1, 2], minval=None, dtype=tf.int32)
GREY = np.array([0.2989, 0.587, 0.114])
OPS = [
    RandomResizedCrop(6),
    HorizontalFlip(),
    ColorJitter(0.4, 0.4, 0.4, 0.1),
    Grayscale(0.3),
    GaussianBlur(0.5),
    Solarize(0.3),
]


def images(n, height=7, width=9, channels=3):
    rng = np.random.default_rng(0)
    return rng.random((n, height, width, channels), np.float32)


def draws(tag, count):
    return randomness.uniforms(randomness.fold(SEEDS, tag), 0, count).numpy()


def apply(op, batch):
    """Of the first seeds, one for each image, in a graph as in the pipeline."""
    return tf.function(op, autograph=False)(batch, SEEDS[: len(batch)]).numpy()


def assert_uniform(values, low, high):
    """Kolmogorov and Smirnov's test, which one sample of 10,000 fails."""
    expected = np.linspace(low, high, len(values))
    distance = np.abs(np.sort(values) - expected).max() / (high - low)
    assert distance < 2.2 / math.sqrt(len(values))


def assert_share(on, p):
    """Of coins, up to four standard deviations."""
    assert abs(np.mean(on) - p) < 4 * math.sqrt(p * (1 - p) / len(on))


def slow_box(draws, height, width, scale, ratio):
    """RandomResizedCrop.get_params as torchvision's documentation tells it."""
    for attempt in range(10):
        area = (scale[0] + (scale[1] - scale[0]) * draws[attempt]) * height * width
        low, high = np.log(ratio)
        shape = math.exp(low + (high - low) * draws[10 + attempt])
        w, h = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
        if 0 < w <= width and 0 < h <= height:
            places = draws[20:] * [height - h + 1, width - w + 1]
            return *places.astype(int), h, w
    h, w = height, width
    if width / height < ratio[0]:
        h = round(width / ratio[0])
    elif width / height > ratio[1]:
        w = round(height * ratio[1])
    return (height - h) // 2, (width - w) // 2, h, w


@pytest.mark.parametrize(
    ("height", "width", "scale", "ratio"),
    [
        (32, 32, (0.08, 1), (3 / 4, 4 / 3)),
        (3, 5, (0.01, 1), (0.2, 2)),
        (40, 9, (0.5, 1), (3 / 4, 4 / 3)),  # Many draws do not fit into these.
        (9, 40, (0.5, 1), (3 / 4, 4 / 3)),
        (9, 10, (1, 1), (1, 1)),
    ],
)
def test_crops_are_torchvisions(height, width, scale, ratio):
    op = RandomResizedCrop(scale=scale, ratio=ratio)
    boxes = op.boxes(height, width, SEEDS[:500]).numpy()
    drawn = draws("random_resized_crop", 22)[:500].astype(np.float64)
    slow = [slow_box(d, height, width, scale, ratio) for d in drawn]
    np.testing.assert_array_equal(boxes, slow)


def test_crops_have_the_asked_for_areas_shapes_and_places():
    # Of these parts each fits, so that none is drawn again.
    boxes = RandomResizedCrop(scale=(0.1, 0.5)).boxes(1000, 1000, SEEDS).numpy()
    top, left, height, width = boxes.T
    assert_uniform(height * width / 1e6, 0.1, 0.5)
    assert_uniform(np.log(width / height), math.log(3 / 4), math.log(4 / 3))
    assert_uniform(top / (1000 - height), 0, 1)
    assert_uniform(left / (1000 - width), 0, 1)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [None, 5, 20])
def test_crops_are_resized_as_pillow_does(size, interpolation):
    batch = images(12, 16, 12)
    op = RandomResizedCrop(size, (0.05, 1), interpolation=interpolation)
    boxes = op.boxes(16, 12, SEEDS[:12]).numpy().astype(int)
    method = getattr(Image.Resampling, interpolation.upper())
    shape = (12, 16) if size is None else (size, size)
    for image, box, result in zip(batch, boxes, apply(op, batch), strict=True):
        top, left, height, width = box
        part = image[top : top + height, left : left + width]
        for channel in range(3):
            slow = Image.fromarray(part[..., channel]).resize(shape, method)
            slow = np.clip(np.array(slow), 0, 1)
            np.testing.assert_allclose(result[..., channel], slow, atol=1e-5)


def slow_jitter(image, factors, shift, order):
    for name in order:
        if name == "hue":
            for pixel in image.reshape(-1, 3):
                hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
                pixel[:] = colorsys.hsv_to_rgb((hue + shift) % 1, saturation, value)
            continue
        factor = factors[name]
        other = {
            "brightness": 0,
            "contrast": np.mean(image @ GREY),
            "saturation": (image @ GREY)[..., None],
        }[name]
        image = np.clip(factor * image + (1 - factor) * other, 0, 1)
    return image


def orders(drawn):
    """The names in the order in which they happen; none where nothing does."""
    for places, before in zip(drawn["places"].numpy(), drawn["before"], strict=True):
        names = np.array(["brightness", "contrast", "saturation"], object)
        order = [*names[np.argsort(places)]]
        order.insert(int(before), "hue")
        yield tuple(order) if before >= 0 else ()


@pytest.mark.parametrize("hue", [0.5, 0])
def test_jitter_is_torchvisions(hue):
    op = ColorJitter(0.8, 1.2, 0.6, hue)
    batch = images(48, 4, 5)
    batch[::5, 0] = 0.25  # Some have grey pixels, and black and white ones,
    batch[::5, 1, :2] = [[0, 0, 0], [1, 1, 1]]
    batch[1::5, 0, :, 1] = batch[1::5, 0, :, 0]  # some two channels that are equal.
    drawn = op.draw(SEEDS[:48])
    for image, result, factors, shift, order in zip(
        batch,
        apply(op, batch),
        drawn["factors"].numpy(),
        drawn["shift"].numpy(),
        orders(drawn),
        strict=True,
    ):
        names = ("brightness", "contrast", "saturation")
        factors = dict(zip(names, factors, strict=True))
        slow = slow_jitter(image.astype(np.float64), factors, shift, order)
        np.testing.assert_allclose(result, slow, atol=3e-6)
        if not order:
            np.testing.assert_array_equal(result, image)


def test_jitter_draws():
    drawn = ColorJitter(0.4, 1.5, 0.2, 0.1, p=0.7).draw(SEEDS)
    on = drawn["before"].numpy() >= 0
    assert_share(on, 0.7)
    factors = drawn["factors"].numpy()
    for column, (low, high) in enumerate([(0.6, 1.4), (0, 2.5), (0.8, 1.2)]):
        assert_uniform(factors[on, column], low, high)
    assert_uniform(drawn["shift"].numpy()[on], -0.1, 0.1)
    found = [order for order in orders(drawn) if order]
    names = ("brightness", "contrast", "saturation", "hue")
    for order in itertools.permutations(names):
        assert_share([other == order for other in found], 1 / 24)


def slow_blur(image, sigma, radius):
    offsets = range(-radius, radius + 1)
    kernel = np.array([math.exp(-(x**2) / (2 * sigma**2)) for x in offsets])
    kernel /= kernel.sum()
    padded = np.pad(image, [(radius, radius), (radius, radius), (0, 0)], "reflect")
    result = np.zeros(image.shape)
    for i, j in np.ndindex(2 * radius + 1, 2 * radius + 1):
        part = padded[i : i + image.shape[0], j : j + image.shape[1]]
        result += kernel[i] * kernel[j] * part
    return result


@pytest.mark.parametrize(("height", "width", "radius"), [(4, 3, 1), (41, 60, 2)])
def test_blur(height, width, radius):
    batch = images(20, height, width)
    drawn = draws("gaussian_blur", 2)
    op = GaussianBlur(0.5, (0.3, 2.0))
    for image, (coin, u), result in zip(batch, drawn, apply(op, batch), strict=False):
        if coin < 0.5:
            slow = slow_blur(image, 0.3 + 1.7 * u, radius)
            np.testing.assert_allclose(result, slow, atol=1e-6)
        else:
            np.testing.assert_array_equal(result, image)
    assert_share(drawn[:, 0] < 0.5, 0.5)
    assert_uniform(drawn[:, 1], 0, 1)


@pytest.mark.parametrize(
    ("op", "slow"),
    [
        (HorizontalFlip(0.4), lambda x: x[:, ::-1]),
        (Grayscale(0.4), lambda x: np.repeat(x @ GREY[:, None], 3, axis=-1)),
        (Solarize(0.4, 0.6), lambda x: np.where(x >= 0.6, 1 - x, x)),
        (ColorJitter(0.5, 0.5, 0.5, 0.1, 0.4), None),
        (GaussianBlur(0.4, (1.0, 2.0)), None),
    ],
)
def test_shares(op, slow):
    batch = images(1000, 3, 4)
    results = apply(op, batch)
    on = np.any(results != batch, axis=(1, 2, 3))
    assert_share(on, 0.4)
    if slow:
        expected = np.stack([slow(x) for x in batch[on]])
        np.testing.assert_allclose(results[on], expected, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_image_and_seed_alone_decide(channels):
    recipe = ViewRecipe(OPS)
    batch = images(40, channels=channels)
    batch[:4] = [[[[0.0]]], [[[1.0]]], [[[0.0]]], [[[1.0]]]]
    spec = [None, *batch.shape[1:]], [None, 2]
    signature = [tf.TensorSpec(*x) for x in zip(spec, ("float", "int32"), strict=True)]
    op = tf.function(recipe, signature, autograph=False)
    whole = op(batch, SEEDS[:40]).numpy()
    assert whole.dtype == np.float32
    assert whole.min() >= 0
    assert whole.max() <= 1
    np.testing.assert_array_equal(op(batch, SEEDS[:40]), whole)
    for rows in (slice(0, 1), slice(5, 14), slice(37, 40)):
        part = op(batch[rows], SEEDS[:40][rows])
        np.testing.assert_allclose(part, whole[rows], atol=1e-6)
    one = recipe(tf.constant(batch[6]), SEEDS[6])
    np.testing.assert_allclose(one, whole[6], atol=1e-6)


def test_views_differ_and_so_do_examples():
    ramp = np.arange(24, dtype=np.float32).reshape(1, 4, 6, 1) / 24
    mirror = ViewRecipe([HorizontalFlip()])
    views = Views([mirror] * 2, [mirror] * 2)(np.repeat(ramp, 4096, axis=0), SEEDS)
    assert set(views) == {"views", "local_views"}
    assert all(view.shape == (4096, 2, 4, 6, 1) for view in views.values())
    heads = np.concatenate(
        [np.any(view != ramp[0], axis=(2, 3, 4)) for view in views.values()], axis=1
    )
    for a, b in itertools.combinations(heads.T, 2):
        assert_share(a == b, 0.5)
    assert_share(heads[1:, 0] == heads[:-1, 0], 0.5)


def test_a_view_is_its_recipe_with_its_seed():
    batch, seeds = images(5), SEEDS[:5]
    recipes = [ViewRecipe(OPS), ViewRecipe(OPS[:2]), ViewRecipe([RandomResizedCrop(4)])]
    for image, seed in ((batch, seeds), (tf.constant(batch[2]), seeds[2])):
        views = Views(recipes[:2], recipes[2:])(image, seed)
        found = [
            *tf.unstack(views["views"], axis=-4),
            views["local_views"][..., 0, :, :, :],
        ]
        for number, (recipe, view) in enumerate(zip(recipes, found, strict=True)):
            expected = recipe(image, randomness.fold(seed, f"view/{number}"))
            np.testing.assert_array_equal(view, expected)
    assert set(Views(recipes[:1])(batch, seeds)) == {"views"}


def weaker(s):
    """The recipe of OPS at strength s, as DynACL's code makes one anew."""
    return ViewRecipe(
        [
            RandomResizedCrop(6, (1 - 0.92 * s, 1.0)),
            HorizontalFlip(),
            ColorJitter(0.4 * s, 0.4 * s, 0.4 * s, 0.1 * s, p=0.8 * s),
            Grayscale(0.3 * s),
            GaussianBlur(0.5 * s),
            Solarize(0.3 * s),
        ]
    )


def test_strength_weakens_each_image_by_its_own():
    batch, seeds = images(200), SEEDS[:200]
    strengths = np.resize([1, 0.95, 0.6, 0.35, 0.05], 200)
    result = ViewRecipe(OPS)(batch, seeds, strengths).numpy()
    for s in np.unique(strengths):
        rows = strengths == s
        slow = weaker(s)(batch[rows], seeds[rows])
        np.testing.assert_allclose(result[rows], slow, atol=1e-6)


@pytest.mark.parametrize("op", OPS)
def test_full_strength_changes_no_bit(op):
    batch = images(100)
    full = apply(lambda *x: op(*x, np.ones(100)), batch)
    np.testing.assert_array_equal(full, apply(op, batch))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_without_strength_images_are_only_mirrored(interpolation):
    crop = RandomResizedCrop(scale=(0.1, 0.5), interpolation=interpolation)
    batch = images(100, 8, 8)
    result = apply(lambda *x: ViewRecipe([crop, *OPS[2:]])(*x, 0.0), batch)
    np.testing.assert_array_equal(result, batch)
    mirrored = apply(lambda *x: OPS[1](*x, 0.0), batch)
    np.testing.assert_array_equal(mirrored, apply(OPS[1], batch))


def test_fading_is_that_of_dynacl():
    slow = []
    for epoch in range(1, 1001):
        if epoch % 50 == 1:  # As its code reloads the data.
            strength = 1 - (epoch - 1) / 1000
        slow.append([strength] * 3)
    epochs = np.arange(1000)[:, None] + [0, 0.5, 0.99]
    np.testing.assert_allclose(Fading()(epochs / 1000), slow, atol=1e-12)


@pytest.mark.parametrize(("stages", "last_step"), [(1, 5), (3, 87), (49, 490), (7, 3)])
def test_a_stage_starts_at_its_very_step(stages, last_step):
    steps = np.arange(last_step + 1)
    done = np.minimum(steps * stages // last_step, stages - 1)
    found = Fading(stages)(steps / last_step)
    np.testing.assert_allclose(found, 1 - done / stages, atol=1e-12)


def test_views_fade_only_if_they_are_told_to():
    batch, seeds, progress = images(30), SEEDS[:30], np.repeat([0, 0.3, 0.8], 10)
    steady = Views([ViewRecipe(OPS)])
    np.testing.assert_array_equal(
        steady(batch, seeds, progress)["views"], steady(batch, seeds)["views"]
    )
    fading = Views([weaker(1)] * 2, [weaker(1)], strength=Fading(2))
    whole = fading(batch, seeds, progress)
    for rows, s in ((slice(0, 20), 1), (slice(20, 30), 0.5)):
        slow = Views([weaker(s)] * 2, [weaker(s)])(batch[rows], seeds[rows])
        for name in ("views", "local_views"):
            np.testing.assert_allclose(whole[name][rows], slow[name], atol=1e-6)
    one = fading(tf.constant(batch[25]), seeds[25], 0.8)["views"]
    np.testing.assert_allclose(one, whole["views"][25], atol=1e-6)


@pytest.mark.parametrize("in_memory", [True, False])
def test_batches_have_views_of_the_images_before_augmentation(
    in_memory, tmp_path, monkeypatch
):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    # Pieces of 4 images, the largest equal ones of a batch of 12 that hold up to 5.
    monkeypatch.setattr("tfssl.data.dataset._AT_ONCE", 5 * 64)
    data = Dataset("digits:1.0.0", validation=297, in_memory=in_memory)
    views = Views([ViewRecipe([*OPS[:2], GaussianBlur(1.0)])] * 2)
    plain = [*data.train_batches(12, 3).take(3)]
    batches = [*data.train_batches(12, 3, 0, [Flip()], views).take(3)]
    resumed = [*data.train_batches(12, 3, 1, [Flip()], views).take(2)]
    flipped = [*data.train_batches(12, 3, 0, [Flip()]).take(3)]
    for clean, other, batch in zip(plain, flipped, batches, strict=True):
        assert set(batch) == {*clean, "views"}
        for key in clean:
            np.testing.assert_array_equal(batch[key], other[key])
        expected = views(clean["image"], clean["seed"])["views"]
        assert batch["views"].shape == (12, 2, 6, 6, 1)
        np.testing.assert_allclose(batch["views"], expected, atol=1e-6)
    for batch, other in zip(batches[1:], resumed, strict=True):
        np.testing.assert_array_equal(batch["id"], other["id"])
        np.testing.assert_array_equal(batch["views"], other["views"])


def test_views_of_pictures_on_disk_are_of_the_whole_pictures():
    kwargs = {"name": "imagenette/160px-v2:1.0.0", "test_split": "validation"}
    flip = HorizontalFlip(1.0)
    crop = RandomResizedCrop(16)
    views = Views([ViewRecipe([crop, flip]), ViewRecipe([crop])])
    with tfds.testing.mock_data(num_examples=6):
        data = Dataset(**kwargs, validation=2, image_size=21, in_memory=False)
        raw = prepared.undecoded(data._builder, "train")
        pictures = [tf.io.decode_image(example["image"]) for example in raw]
        batch = next(iter(data.train_batches(4, 0, views=views)))
        with pytest.raises(UserError, match=r"set RandomResizedCrop\.size"):
            data.train_batches(4, 0, views=Views([ViewRecipe([flip])]))
    assert batch["image"].shape == (4, 21, 21, 3)
    assert batch["views"].shape == (4, 2, 16, 16, 3)
    assert len({picture.shape for picture in pictures}) > 1
    for i, number in enumerate(batch["id"]):
        picture = tf.cast(pictures[number], tf.float32) / 255
        whole = views(picture, batch["seed"][i])
        np.testing.assert_allclose(batch["views"][i], whole["views"], atol=1e-5)


def test_batches_fade_with_the_run_wherever_it_starts(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    # Pieces of 4 images.
    monkeypatch.setattr("tfssl.data.dataset._AT_ONCE", 5 * 64)
    data = Dataset("digits:1.0.0", validation=297)
    crop = ViewRecipe([RandomResizedCrop(6)])
    views = Views([crop], strength=Fading(3))
    plain = [*data.train_batches(12, 3).take(6)]
    whole = [*data.train_batches(12, 3, 0, (), views, 6).take(6)]
    for step, (clean, batch) in enumerate(zip(plain, whole, strict=True)):
        slow = RandomResizedCrop(6, (1 - 0.92 * (1 - step // 2 / 3), 1.0))
        slow = Views([ViewRecipe([slow])])(clean["image"], clean["seed"])["views"]
        np.testing.assert_allclose(batch["views"], slow, atol=1e-6)
    resumed = data.train_batches(12, 3, 3, (), views, 6).take(3)
    for batch, other in zip(whole[3:], resumed, strict=True):
        np.testing.assert_array_equal(batch["id"], other["id"])
        np.testing.assert_array_equal(batch["views"], other["views"])
    endless = next(iter(data.train_batches(12, 3, 5, (), views)))
    full = Views([crop])(plain[5]["image"], plain[5]["seed"])["views"]
    np.testing.assert_allclose(endless["views"], full, atol=1e-6)


@pytest.mark.parametrize(
    "ops",
    [
        [RandomResizedCrop()],
        [GaussianBlur(), RandomResizedCrop(4)],
        [ColorJitter(0.4, 0.4, 0.4, 0.1), RandomResizedCrop(4)],
        [HorizontalFlip()],
    ],
)
def test_pictures_that_vary_in_size_need_a_crop_first(ops):
    views = Views([ViewRecipe(ops)] * 2)
    graph = tf.function(lambda image: views(image, SEEDS[:1]), autograph=False)
    with pytest.raises(
        UserError, match=r"begin it with .* set RandomResizedCrop\.size"
    ):
        graph.get_concrete_function(tf.TensorSpec([1, None, None, 3]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandomResizedCrop(scale=0.5), "scale = 0.5 must be two numbers"),
        (lambda: GaussianBlur("half"), "p = half is no probability"),
        (lambda: Views(ViewRecipe([])), "must be a list such as"),
        (lambda: ViewRecipe([GaussianBlur]), "ViewRecipe.ops must be a list"),
        (lambda: Views([ViewRecipe([])], strength=0.5), "such as @Fading"),
        (lambda: RandomResizedCrop(scale=(0.5, 1.5)), "must not exceed 1"),
        (lambda: RandomResizedCrop(ratio=(4 / 3, 3 / 4)), "low <= high"),
        (lambda: RandomResizedCrop(0), "size"),
        (lambda: RandomResizedCrop(interpolation="lanczos"), "bicubic"),
        (lambda: ColorJitter(0.4, -0.1, 0.4, 0.1), "none may be negative"),
        (lambda: ColorJitter(0.4, 0.4, 0.4, 0.6), "0.5"),
        (lambda: GaussianBlur(sigma=(0, 2)), "GaussianBlur.sigma"),
        (lambda: Grayscale(1.2), "Grayscale.p = 1.2 is no probability"),
        (lambda: Views([]), "needs a recipe"),
        (lambda: Fading(0), "Fading.stages must be a whole number, at least 1, not 0"),
        (lambda: Fading(2.5), "not 2.5"),
        (lambda: Grayscale()(images(1, channels=4), SEEDS[:1]), "not 4 channels"),
        (
            lambda: Views([RandomResizedCrop(4), RandomResizedCrop(5)])(
                images(1), SEEDS[:1]
            ),
            r"differ in size: \[\(4, 4\), \(5, 5\)\]",
        ),
    ],
)
def test_mistakes(make, message):
    with pytest.raises(UserError, match=message):
        make()
