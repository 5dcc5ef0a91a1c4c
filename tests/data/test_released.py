"""Released corruptions are found by the numbers of the images."""

import numpy as np
import pytest
import tensorflow as tf

from tfssl.data.released import released
from tfssl.types import UserError

N = 6


@pytest.fixture
def folder(tmp_path):
    generator = np.random.default_rng(0)
    for name in ("fog", "snow"):
        images = generator.integers(0, 256, (5 * N, 4, 5, 3), np.uint8)
        np.save(tmp_path / f"{name}.npy", images)
    np.save(tmp_path / "labels.npy", np.tile(np.arange(N), 5))
    return tmp_path


def test_each_example_has_its_own_image(folder):
    fog, snow = released(folder)
    assert (fog.name, snow.name) == ("fog", "snow")
    ids = np.array([4, 0, 5, 0, -1])
    batch = {"id": ids, "image": tf.zeros([5, 4, 5, 3])}
    for corruption in (fog, snow):
        images = np.load(folder / f"{corruption.name}.npy").reshape(5, N, 4, 5, 3)
        for severity in (1, 3, 5):
            found = tf.function(lambda b, s=severity, c=corruption: c.of(b, s))(batch)
            assert found.shape == (5, 4, 5, 3)
            expected = images[severity - 1][ids[:4]].astype(np.float32) / 255
            np.testing.assert_allclose(found[:4], expected, rtol=1e-6)
    assert fog.sha256 != snow.sha256
    assert [c.name for c in released(folder, ["snow"])] == ["snow"]


def test_other_data_sets_are_refused(folder):
    (fog, _) = released(folder)
    ids = np.array([3, 1])
    sample = {"id": ids, "label": ids, "image": np.zeros([2, 4, 5, 3], np.float32)}
    fog.check(sample)
    for change in (
        {"label": np.array([3, 2])},
        {"id": np.array([3, 6])},
        {"image": np.zeros([2, 4, 4, 3], np.float32)},
    ):
        with pytest.raises(UserError, match=r"fog\.npy is not made of the images"):
            fog.check(sample | change)


def test_files_that_do_not_fit(folder, tmp_path):
    with pytest.raises(UserError, match=r"no \.npy files"):
        released(tmp_path / "nowhere")
    with pytest.raises(UserError, match="cannot be read"):
        released(folder, ["frost"])
    np.save(folder / "fog.npy", np.zeros([5 * N, 4, 5, 3], np.float32))
    with pytest.raises(UserError, match="float32"):
        released(folder, ["fog"])
    # What would run code when read is not read.
    np.save(folder / "fog.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(UserError, match="cannot be read"):
        released(folder, ["fog"])
    np.save(folder / "labels.npy", np.arange(N + 1))
    with pytest.raises(UserError, match=r"labels\.npy"):
        released(folder, ["snow"])
