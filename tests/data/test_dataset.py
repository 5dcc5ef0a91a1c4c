"""Data sets: who is in which split, in which order, and what resuming repeats."""

import os
import pathlib
import subprocess
import sys

import gin
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

import tfssl.data.digits  # noqa: F401  Makes 'digits' known to TFDS.
from tfssl import config, randomness
from tfssl.data import prepared
from tfssl.data.augmentation import Flip, PadCrop
from tfssl.data.dataset import Dataset
from tfssl.data.restricted_imagenet import restricted_imagenet
from tfssl.types import UserError

SPLITS = ("train", "validation", "test")
ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def _data_dir(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFDS_DATA_DIR", str(tmp_path_factory.mktemp("tfds")))
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def digits(**kwargs):
    return Dataset(**{"name": "digits:1.0.0", "validation": 297, **kwargs})


@pytest.fixture(params=[True, False], ids=["memory", "disk"])
def dataset(request):
    return digits(num_examples=90, in_memory=request.param, shuffle_block=20)


def take(batches, n):
    return [
        {key: value.numpy() for key, value in batch.items()}
        for batch in batches.take(n)
    ]


def assert_equal(a, b):
    tf.nest.map_structure(np.testing.assert_array_equal, a, b)


def original():
    from sklearn import datasets

    digits_ = datasets.load_digits()
    return np.round(digits_.images * 255 / 16) / 255, digits_.target


def test_digits_are_scikit_learns():
    data = digits()
    assert (data.num_classes, data.image_shape) == (10, (8, 8, 1))
    assert [data.size(split) for split in SPLITS] == [1000, 297, 500]
    images, labels = original()
    seen = []
    for split in SPLITS:
        for batch in take(data.eval_batches(split, 100, 0), -1):
            real = batch["id"] >= 0
            ids = batch["id"][real]
            np.testing.assert_allclose(
                batch["image"][real][..., 0], images[ids], atol=1e-6
            )
            np.testing.assert_array_equal(batch["label"][real], labels[ids])
            seen.extend(ids)
    assert sorted(seen) == list(range(1797))


def test_batches_are_what_types_say(dataset):
    for batches in (
        dataset.train_batches(8, seed=1, augment=[PadCrop(1), Flip()]),
        dataset.eval_batches("test", 8, seed=1),
    ):
        spec = batches.element_spec
        assert spec["image"] == tf.TensorSpec([8, 8, 8, 1], tf.float32)
        assert spec["label"] == tf.TensorSpec([8], tf.int32)
        assert spec["id"] == tf.TensorSpec([8], tf.int64)
        assert spec["seed"] == tf.TensorSpec([8, 2], tf.int32)
        (batch,) = take(batches, 1)
        assert 0 <= batch["image"].min() < batch["image"].max() <= 1
        np.testing.assert_array_equal(
            batch["seed"], randomness.example_seeds(1, 0, batch["id"])
        )


def test_each_epoch_is_another_permutation(dataset):
    # 16 does not divide 90, so batches cross the borders of epochs.
    batches = take(dataset.train_batches(16, seed=1), 17)
    ids = np.concatenate([batch["id"] for batch in batches])[: 3 * 90].reshape(3, 90)
    for epoch in ids:
        assert sorted(epoch) == sorted(dataset.ids("train"))
    assert all(
        (a != b).mean() > 0.8 for a, b in zip(ids, np.roll(ids, 1, 0), strict=True)
    )
    seeds = np.concatenate([batch["seed"] for batch in batches])[: 3 * 90]
    assert len(np.unique(seeds, axis=0)) == 3 * 90


def test_resuming_is_starting_at_a_step(dataset):
    augment = [PadCrop(1), Flip()]
    whole = take(dataset.train_batches(16, 1, 0, augment), 14)
    tf.random.set_seed(7)  # The global seed has no say.
    for step in (1, 5, 6, 12):
        part = take(dataset.train_batches(16, 1, step, augment), 2)
        assert_equal(part, whole[step : step + 2])
    other = take(dataset.train_batches(16, 2, 0, augment), 14)
    assert any((a["id"] != b["id"]).any() for a, b in zip(whole, other, strict=True))


def test_disk_equals_memory():
    memory, disk = digits(), digits(in_memory=False)
    for split in SPLITS:
        np.testing.assert_array_equal(memory.ids(split), disk.ids(split))
        assert_equal(
            take(memory.eval_batches(split, 64, 5), -1),
            take(disk.eval_batches(split, 64, 5), -1),
        )
        assert (
            memory.fingerprint["splits"][split]["labels"]
            == disk.fingerprint["splits"][split]["labels"]
        )
    # A second look reads the index that the first has written.
    np.testing.assert_array_equal(
        digits(in_memory=False).ids("train"), disk.ids("train")
    )


def test_augmentation_is_per_example_and_drawn_from_its_seed():
    data = digits(num_examples=1)
    batches = data.train_batches(64, seed=0, augment=[PadCrop(4), Flip()])
    (batch,) = take(batches, 1)
    assert set(batch["id"]) == set(data.ids("train"))
    assert len(np.unique(batch["image"], axis=0)) > 32
    (plain,) = take(data.eval_batches("train", 1, 0), 1)
    for image, seed in zip(batch["image"], batch["seed"], strict=True):
        expected = Flip()(PadCrop(4)(tf.constant(plain["image"][0]), seed), seed)
        np.testing.assert_array_equal(image, expected)


def test_two_replicas_get_the_batch_in_two_halves(two_replicas):
    data = digits(num_examples=90)
    batches = data.train_batches(16, seed=1)
    shares = two_replicas.experimental_distribute_dataset(batches)
    for batch, share in zip(take(batches, 7), shares, strict=False):
        halves = two_replicas.experimental_local_results(share["id"])
        np.testing.assert_array_equal(batch["id"], np.concatenate(halves))


@pytest.mark.parametrize("step", [0, 4])
def test_parts_of_a_batch_make_the_batch(dataset, step):
    augment = [PadCrop(1), Flip()]
    whole = take(dataset.train_batches(16, 1, step, augment), 9)  # Over an epoch's end.
    parts = [
        take(dataset.train_batches(16, 1, step, augment, part=(p, 2)), 9)
        for p in range(2)
    ]
    for batch, *halves in zip(whole, *parts, strict=True):
        assert_equal(
            batch, {k: np.concatenate([half[k] for half in halves]) for k in batch}
        )


def test_keep_and_padding(dataset):
    ids = dataset.ids("test")
    keep = np.random.default_rng(0).random(len(ids)) < 0.1
    batches = take(dataset.eval_batches("test", 16, 3, keep), -1)
    flat = {key: np.concatenate([b[key] for b in batches]) for key in batches[0]}
    n = keep.sum()
    assert len(batches) == -(-n // 16)
    np.testing.assert_array_equal(flat["id"][:n], ids[keep])
    assert n % 16  # Else there is no padding to look at.
    assert (flat["id"][n:] == -1).all()
    assert (flat["label"][n:] == 0).all()
    assert (flat["image"][n:] == 0).all()
    everything = take(dataset.eval_batches("test", len(ids), 3), -1)[0]
    assert_equal(
        {key: value[:n] for key, value in flat.items()},
        {key: value[keep] for key, value in everything.items()},
    )
    assert take(dataset.eval_batches("test", 16, 3, np.zeros_like(keep)), -1) == []


def test_smaller_data_sets_are_parts_of_larger_ones():
    ids = {n: set(digits(num_examples=n).ids("train")) for n in (10, 100, 900)}
    assert [len(part) for part in ids.values()] == [10, 100, 900]
    assert ids[10] < ids[100] < ids[900] < set(digits().ids("train"))
    tests = {n: set(digits(num_test_examples=n).ids("test")) for n in (5, 50)}
    assert tests[5] < tests[50] < set(digits().ids("test"))
    held_out = set(digits().ids("validation"))
    assert set(digits(validation=100).ids("validation")) < held_out
    assert set(digits(num_examples=10).ids("validation")) == held_out
    # Written down, so that no change of code can move examples between splits.
    assert sorted(held_out)[:5] == [3, 13, 21, 28, 33]


def test_label_map_merges_and_drops():
    odd = {1: 0, 3: 0, 5: 0, 7: 1}
    data = digits(label_map=odd)
    assert data.num_classes == 2
    _, labels = original()
    batches = take(data.eval_batches("train", data.size("train"), 0), 1)
    for number, label in zip(batches[0]["id"], batches[0]["label"], strict=True):
        assert label == odd[labels[number]]
    ids = np.concatenate([data.ids(split) for split in SPLITS])
    assert sorted(ids) == np.flatnonzero(np.isin(labels, list(odd))).tolist()


def test_fingerprint_tells_data_apart():
    one = digits().fingerprint
    assert one["splits"]["train"]["examples"] == 1000
    assert digits().fingerprint == one
    for change in (
        {"num_examples": 999},
        {"label_map": {i: (i + 1) % 10 for i in range(10)}},
        {"image_size": 7},
    ):
        other = digits(**change).fingerprint
        assert other["splits"]["train"] != one["splits"]["train"]
    # The last change is one of the pixels alone.
    assert other["splits"]["train"]["labels"] == one["splits"]["train"]["labels"]


def test_images_of_all_sizes_are_resized_and_cropped():
    with tfds.testing.mock_data(num_examples=6):
        kwargs = {"name": "imagenette/160px-v2:1.0.0", "test_split": "validation"}
        with pytest.raises(UserError, match=r"vary in size: set Dataset\.image_size"):
            Dataset(**kwargs, validation=2)
        data = [
            Dataset(**kwargs, validation=2, image_size=21, in_memory=in_memory)
            for in_memory in (True, False)
        ]
        memory, disk = (take(d.eval_batches("train", 4, 0), -1) for d in data)
        sources = [
            tf.io.decode_image(example["image"]).numpy()
            for example in prepared.undecoded(data[0]._builder, "train")
        ]
    assert_equal(memory, disk)
    assert memory[0]["image"].shape == (4, 21, 21, 3)
    for number, image in zip(memory[0]["id"], memory[0]["image"], strict=True):
        source = sources[number]
        h, w = (round(side * 24 / min(source.shape[:2])) for side in source.shape[:2])
        resized = tf.image.resize(source, (h, w), antialias=True).numpy()
        y, x = (h - 21) // 2, (w - 21) // 2
        expected = resized[y : y + 21, x : x + 21] / 255
        np.testing.assert_allclose(image, expected, atol=0.51 / 255)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"name": "digits"}, "has no version.*'digits:1.0.0'"),
        ({"name": "digits:9.9.9"}, "cannot be loaded at version 9.9.9"),
        ({"name": "no_such_set:1.0.0"}, "check the spelling, or import the module"),
        ({"validation": 2000}, "validation = 2000, but .* has 1297 examples"),
        ({"num_examples": 1001}, "num_examples = 1001, but .* has 1000 examples"),
        ({"num_test_examples": -1}, "num_test_examples = -1"),
        ({"validation": 0.1}, "validation = 0.1"),
        ({"train_split": "dev"}, "no split 'dev'"),
        ({"label_map": {0: 0, 1: 2}}, "without a gap"),
    ],
)
def test_what_the_user_gets_wrong_is_one_line(kwargs, message):
    with pytest.raises(UserError, match=message) as error:
        digits(**kwargs).fingerprint  # noqa: B018
    assert "\n" not in str(error.value)


def test_splits_that_are_empty_or_unknown():
    data = digits(validation=0)
    assert data.size("validation") == 0
    with pytest.raises(UserError, match=r"set Dataset\.validation"):
        data.eval_batches("validation", 8, 0)
    with pytest.raises(UserError, match="it has train, validation, test"):
        data.ids("dev")
    with pytest.raises(UserError, match="keep has shape"):
        data.eval_batches("test", 8, 0, keep=[True])


def test_missing_data_say_how_to_get_them(monkeypatch, tmp_path):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(UserError, match=r"ILSVRC2012_img_train\.tar") as error:
        Dataset("imagenet2012:5.1.0", image_size=224)
    assert str(tmp_path) in str(error.value)
    assert "TFDS_DATA_DIR" in str(error.value)
    assert "\n" not in str(error.value)


def test_the_cache_stands_in_for_a_data_dir_that_cannot_be_written(
    monkeypatch, tmp_path
):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(
        os, "access", lambda path, mode: pathlib.Path(path) != tmp_path / "data"
    )
    (tmp_path / "data").mkdir()
    assert digits().size("test") == 500
    assert list((tmp_path / "data").iterdir()) == []
    assert (tmp_path / "cache/tfssl/data/digits/1.0.0").is_dir()
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(UserError, match="set TFDS_DATA_DIR"):
        prepared.builder("mnist:3.0.1")


def test_two_processes_may_prepare_at_once(tmp_path):
    code = (
        "import tfssl.data.digits; from tfssl.data.dataset import Dataset;"
        "print(Dataset('digits:1.0.0', validation=0).fingerprint)"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env={**os.environ, "TFDS_DATA_DIR": str(tmp_path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=ROOT,
        )
        for _ in range(2)
    ]
    outputs = [process.communicate()[0].splitlines()[-1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert outputs[0] == outputs[1]


def test_restricted_imagenet_has_nine_groups():
    groups = restricted_imagenet()
    counts = np.bincount(list(groups.values()))
    assert counts.tolist() == [118, 5, 3, 5, 21, 18, 9, 4, 20]
    names = tfds.builder("imagenet2012").info.features["label"].names
    # WordNet's numbers of the first and last label of dogs, cats, frogs and insects.
    for group, first, last in [
        (0, "n02085620", "n02113978"),  # Chihuahua .. Mexican hairless.
        (1, "n02123045", "n02124075"),  # Tabby .. Egyptian cat.
        (2, "n01641577", "n01644900"),  # Bullfrog .. tailed frog.
        (8, "n02165105", "n02268443"),  # Tiger beetle .. dragonfly.
    ]:
        members = [names[label] for label, g in groups.items() if g == group]
        assert (members[0], members[-1]) == (first, last)


@gin.configurable
def _parts(dataset, augment):
    return dataset, augment


@pytest.mark.parametrize(
    "path", sorted((ROOT / "gin/data").glob("*.gin")), ids=lambda path: path.stem
)
def test_gin_files_name_what_tfds_has(path):
    config.parse([path], ["_parts.dataset = %DATASET", "_parts.augment = %AUGMENT"])
    with tfds.testing.mock_data():
        data, augment = _parts()
    image = tf.zeros(data.image_shape)
    for fn in augment:
        image = fn(image, tf.constant([1, 2]))
    assert image.shape == data.image_shape


def cifar10_dir():
    for place in (os.environ.get("TFDS_DATA_DIR"), ROOT.parent / "shared/data"):
        if place and (pathlib.Path(place) / "cifar10/3.0.2").is_dir():
            return str(place)
    return None


CIFAR10_DIR = cifar10_dir()


@pytest.mark.skipif(CIFAR10_DIR is None, reason="CIFAR-10 is not in TFDS_DATA_DIR")
def test_cifar10(monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", CIFAR10_DIR)
    data = Dataset("cifar10:3.0.2", num_examples=1000)
    assert (data.num_classes, data.image_shape) == (10, (32, 32, 3))
    assert [data.size(split) for split in SPLITS] == [1000, 5000, 10000]
    assert sorted(data.ids("test")) == list(range(10000))
    assert np.bincount(data._splits.labels("test")).tolist() == [1000] * 10
    assert np.bincount(data._splits.labels("validation")).min() > 400
    (batch,) = take(data.train_batches(256, 0), 1)
    # The channels' means are known to be 0.49, 0.48 and 0.45.
    means = batch["image"].mean((0, 1, 2))
    np.testing.assert_allclose(means, [0.491, 0.482, 0.447], atol=0.05)
