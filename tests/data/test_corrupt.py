"""What bin/corrupt writes is what an evaluation on the fly sees."""

import functools
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

import tfssl.data.digits  # noqa: F401  Makes 'digits' known to TFDS.
from tfssl.data import corrupt as module
from tfssl.data.corrupt import corrupt
from tfssl.data.corrupted_sets import corrupted_sets
from tfssl.data.corruptions.contrast import Contrast
from tfssl.data.corruptions.fog import Fog
from tfssl.data.corruptions.gaussian_noise import GaussianNoise
from tfssl.data.dataset import Dataset
from tfssl.evaluation.corrupted import Corrupted
from tfssl.evaluation.evaluate import evaluate
from tfssl.types import UserError

N = 30


@pytest.fixture
def place(tmp_path, monkeypatch, tmp_path_factory):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "data"))
    cache = tmp_path_factory.getbasetemp() / "cache_of_corrupt"
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    return tmp_path / "data"


@pytest.fixture
def digits(place):
    return Dataset(
        "digits:1.0.0", validation=0, num_test_examples=N, image_size=32, num_examples=9
    )


def corruptions():
    return [Fog("cifar"), GaussianNoise("cifar")]


def test_they_are_the_images_on_the_fly(digits, place, tmp_path):
    settings = {"severities": [2], "seed": 7, "batch_size": 13}
    names = corrupt(place, digits, corruptions(), **settings)
    assert names == ["digits_c/fog_2:1.0.0", "digits_c/gaussian_noise_2:1.0.0"]
    (batch,) = digits.eval_batches("test", N, 7)
    for corruption, name in zip(corruptions(), names, strict=True):
        builder = tfds.builder(name, data_dir=place)
        assert builder.info.metadata["corruption"] == {
            "name": corruption.name,
            "constants": "cifar",
        }
        assert builder.info.metadata["seed"] == 7
        assert builder.info.metadata["source"] == "digits:1.0.0"
        on_the_fly = tf.function(functools.partial(corruption.of, severity=2))(batch)
        expected = {
            f"test_{number:05d}": (np.rint(255 * image).astype(np.uint8), label)
            for number, image, label in zip(
                *(x.numpy() for x in (batch["id"], on_the_fly, batch["label"])),
                strict=True,
            )
        }
        found = {
            x["id"].decode(): (x["image"], x["label"])
            for x in tfds.as_numpy(builder.as_dataset("test"))
        }
        assert found.keys() == expected.keys()
        for key, (image, label) in found.items():
            np.testing.assert_array_equal(image, expected[key][0])
            assert label == expected[key][1]
    folder = place / "digits_c/fog_2/1.0.0"
    assert len(tfds.builder_from_directory(folder).as_dataset("test")) == N

    # Measured, they are as good as on the fly.
    image = keras.Input((32, 32, 1))
    keras.utils.set_random_seed(1)
    layer = keras.layers.Dense(10)(keras.layers.Flatten()(image))
    keras.Model(image, layer).save(tmp_path / "model.keras")
    sets = corrupted_sets("digits_c:1.0.0", ["fog", "gaussian_noise"])
    rows = evaluate(
        *(tmp_path / "run", tmp_path / "model.keras", digits),
        [Corrupted(sets, "written", [2]), Corrupted(corruptions(), "fly", [2])],
        batch_size=N,
        seed=7,
    )
    assert [row.value for row in rows[:3]] == [row.value for row in rows[3:]]
    for cell in ("fog_2", "gaussian_noise_2"):
        one, other = (
            np.load(tmp_path / "run/results" / name / f"{cell}.npz")
            for name in ("written", "fly")
        )
        for array in ("ids", "correct"):
            np.testing.assert_array_equal(one[array], other[array])
        assert 0 < one["correct"].sum() < N


def test_it_goes_on_where_it_was_killed(digits, place, monkeypatch):
    """In the middle of the second of two data sets."""

    def files():
        return {p: p.stat().st_mtime_ns for p in place.rglob("1.0.0/*")}

    class Killed(BaseException):
        pass

    def kill(*arguments, **settings):
        bar = whole(*arguments, **settings)
        monkeypatch.setattr(bar, "update", update)
        return bar

    def update(n):
        done.append(n)
        if sum(done) > N:
            raise Killed

    done, whole = [], module.tqdm.tqdm
    settings = {"severities": [1, 3], "only": ["fog"], "batch_size": 10}
    with monkeypatch.context() as patch:
        patch.setattr(module.tqdm, "tqdm", kill)
        with pytest.raises(Killed):
            corrupt(place, digits, corruptions(), **settings)
    assert {path.parent.parent.name for path in files()} == {"fog_1"}
    before = files()
    names = corrupt(place, digits, corruptions(), **settings)
    assert before.items() <= files().items()
    for name in names:
        assert len(tfds.builder(name, data_dir=place).as_dataset("test")) == N
    monkeypatch.setattr(module, "_write", None)
    assert corrupt(place, digits, corruptions(), **settings) == names

    for change, what in (
        ({"seed": 1}, "seed"),
        ({"corruptions": [Fog("imagenet")]}, "corruption"),
    ):
        arguments = {"corruptions": corruptions(), **settings} | change
        with pytest.raises(
            UserError, match=rf"fog_1/1\.0\.0 was made with another {what}"
        ):
            corrupt(place, digits, **arguments)
    path = place / "digits_c/fog_1/1.0.0/metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"examples": 29}))
    with pytest.raises(UserError, match="another examples: choose"):
        corrupt(place, digits, corruptions(), **settings)


def test_what_the_user_gets_wrong(digits, place):
    small = Dataset("digits:1.0.0", validation=0)
    for dataset, settings, message in (
        (small, {}, r"at least 32 x 32 pixels"),
        (digits, {"only": ["snow"]}, "no corruption 'snow' among contrast"),
        (digits, {"severities": [0]}, "severities are from 1 to 5"),
        (digits, {"name": "My set"}, "small letters"),
    ):
        with pytest.raises(UserError, match=message):
            corrupt(place, dataset, [Contrast("cifar")], **settings)
    assert not place.exists()
