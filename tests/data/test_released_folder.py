"""ImageNet-C as it was released: files are found by the numbers of the images."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from tfssl.data.released_folder import released_folders
from tfssl.types import UserError

NAMES = [f"ILSVRC2012_val_{i:08d}.JPEG" for i in range(1, 8)]
WNIDS = ["n01440764", "n01443537", "n01484850"]  # ImageNet's labels 0, 1 and 2.
LABELS = [2, 0, 1, 1, 0, 2, 0]


@pytest.fixture
def folder(tmp_path):
    generator = np.random.default_rng(0)
    for corruption in ("weather/fog", "extra/spatter"):
        for severity in range(1, 6):
            for name, label in zip(NAMES, LABELS, strict=True):
                image = generator.integers(0, 256, (16, 16, 3), np.uint8)
                path = tmp_path / corruption / str(severity) / WNIDS[label] / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(tf.io.encode_jpeg(image).numpy())
    return tmp_path


@pytest.fixture
def order(tmp_path_factory):
    """Where TFDS puts ImageNet's validation images, by their names: as it writes."""
    builder = tfds.dataset_builders.store_as_tfds_dataset(
        name="named",
        version="1.0.0",
        features=tfds.features.FeaturesDict({"number": np.int64}),
        split_datasets={
            "validation": [(name, {"number": i}) for i, name in enumerate(NAMES)]
        },
        data_dir=tmp_path_factory.mktemp("tfds"),
    )
    return [int(x["number"]) for x in tfds.as_numpy(builder.as_dataset("validation"))]


def test_each_example_has_its_own_image(folder, order):
    fog, spatter = released_folders(folder)
    assert (fog.name, spatter.name) == ("fog", "spatter")
    assert [c.name for c in released_folders(folder / "extra")] == ["spatter"]
    assert [c.name for c in released_folders(folder, ["fog"])] == ["fog"]
    ids = np.arange(7)
    sample = {"id": ids, "label": np.array(LABELS)[order]}
    sample["image"] = np.zeros([7, 16, 16, 3], np.float32)
    fog.check(sample)
    batch = {"id": tf.constant([4, 0, -1], tf.int64), "image": tf.zeros([3, 16, 16, 3])}
    for severity in (1, 4):
        found = tf.function(lambda b, s=severity: fog.of(b, s))(batch).numpy()
        for image, number in zip(found, ids[[4, 0, 0]], strict=True):
            place = order[number]
            path = folder / "weather/fog" / str(severity) / WNIDS[LABELS[place]]
            data = (path / NAMES[place]).read_bytes()
            expected = tf.image.decode_jpeg(data, dct_method="INTEGER_ACCURATE")
            np.testing.assert_allclose(255 * image, expected, atol=1e-4)

    for change in (
        {"label": np.roll(sample["label"], 1)},
        {"id": ids + 1},
        {"image": np.zeros([7, 15, 15, 3], np.float32)},
    ):
        with pytest.raises(UserError, match="fog is not made of the images"):
            fog.check(sample | change)


def test_folders_that_do_not_fit(folder):
    sample = {"id": np.arange(7)}
    with pytest.raises(UserError, match="no folder snow"):
        released_folders(folder, ["snow"])
    with pytest.raises(UserError, match="no folder of a corruption"):
        released_folders(folder / "weather" / "fog" / "1")
    fog, spatter = released_folders(folder)
    path = folder / "weather/fog/3" / WNIDS[2] / NAMES[0]
    path.rename(path.with_suffix(".part"))
    with pytest.raises(UserError, match="other files in 3 than in 1"):
        fog.check(sample)
    (folder / "extra/spatter/5").rename(folder / "five")
    with pytest.raises(UserError, match="5 cannot be read"):
        spatter.check(sample)
