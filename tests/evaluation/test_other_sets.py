"""Cells on other data sets than one's own: released corruptions, natural shifts."""

import json

import keras
import numpy as np
import pytest
from prepared_sets import prepare

from tfssl.data.corrupted_sets import corrupted_sets
from tfssl.data.dataset import Dataset
from tfssl.data.lazy_dataset import LazyDataset
from tfssl.evaluation.corrupted import Corrupted
from tfssl.evaluation.evaluate import evaluate
from tfssl.evaluation.shifts import Shifts
from tfssl.types import UserError

N = 23
GENERATOR = np.random.default_rng(0)
IMAGES = GENERATOR.integers(0, 256, (N, 32, 32, 3), np.uint8)
LABELS = GENERATOR.integers(0, 10, N)
OTHERS = {
    config: GENERATOR.integers(0, 256, (N, 32, 32, 3), np.uint8)
    for config in ("fog_4", "frosted_glass_blur_4")
}
CALLED = {"glass_blur": "frosted_glass_blur"}
RELEASED = "cifar10_corrupted:1.0.0"


@pytest.fixture(scope="module")
def patch():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def place(tmp_path_factory, patch):
    place = tmp_path_factory.mktemp("tfds")
    patch.setenv("TFDS_DATA_DIR", str(place))
    patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    own = {
        split: [
            (f"{split}_{i:05d}", {"id": f"{split}_{i:05d}", "image": x, "label": y})
            for i, (x, y) in enumerate(zip(IMAGES, LABELS, strict=True))
        ]
        for split in ("train", "test")
    }
    prepare("cifar10:3.0.2", place, own, patch)
    for config, images in OTHERS.items():
        prepare(
            f"cifar10_corrupted/{config}:1.0.0",
            place,
            {"test": pairs(images, LABELS)},
            patch,
        )
    prepare(
        "cifar10_corrupted/snow_1:1.0.0",
        place,
        {"test": pairs(IMAGES, np.roll(LABELS, 1))},
        patch,
    )
    prepare("cifar10_1/v4:1.1.0", place, {"test": pairs(IMAGES[:9], LABELS[3:])}, patch)
    prepare("cifar10_1/v6:1.1.0", place, {"test": pairs(IMAGES[9:], LABELS)}, patch)
    return place


def pairs(images, labels):
    """As the builders give them, with numbers for keys."""
    return [
        (i, {"image": x, "label": int(y)})
        for i, (x, y) in enumerate(zip(images, labels, strict=False))
    ]


@pytest.fixture(scope="module")
def model():
    image = keras.Input((32, 32, 3))
    keras.utils.set_random_seed(0)
    logits = keras.layers.Dense(10)(keras.layers.Flatten()(image))
    return keras.Model(image, logits)


@pytest.fixture
def run(place, model, tmp_path):
    path = tmp_path / "model.keras"
    model.save(path)
    dataset = Dataset("cifar10:3.0.2", validation=0)

    def run(evaluator, folder="a", **settings):
        arguments = {"batch_size": 8} | settings
        return evaluate(tmp_path / folder, path, dataset, [evaluator], **arguments)

    return run


def logits(model, images):
    kernel, bias = model.layers[-1].get_weights()
    return images.reshape(len(images), -1) / 255.0 @ kernel.astype(float) + bias


def released(corruptions=("fog", "glass_blur"), severities=(4,), name=RELEASED):
    sets = corrupted_sets(name, corruptions, numbered=True, called=CALLED)
    return Corrupted(sets, "cifar10_corrupted", severities, also=["nll"])


def test_released_sets_are_the_same_examples(run, model, place, tmp_path, monkeypatch):
    rows = run(released())
    assert len(rows) == 6
    assert {(row.dataset, row.split, row.n) for row in rows} == {
        ("cifar10:3.0.2", "test", N)
    }
    for row in rows:
        config = f"{CALLED.get(row.perturbation, row.perturbation)}_{row.strength:.0f}"
        images = IMAGES if row.perturbation == "none" else OTHERS[config]
        outputs = logits(model, images)
        stem = "clean" if row.perturbation == "none" else config
        stem = stem.replace("frosted_", "")
        if row.metric == "accuracy":
            correct = outputs.argmax(1) == LABELS
            with np.load(tmp_path / f"a/results/cifar10_corrupted/{stem}.npz") as file:
                # Image by image, by the numbers of the original.
                np.testing.assert_array_equal(file["correct"], correct[file["ids"]])
        else:
            of_label = outputs[np.arange(N), LABELS]
            nll = np.log(np.exp(outputs).sum(1)) - of_label
            assert row.value == pytest.approx(nll.mean(), rel=1e-5)
    few = run(released(["fog"]), "b", examples=5)
    with np.load(tmp_path / "b/results/cifar10_corrupted/fog_4.npz") as file:
        own = Dataset("cifar10:3.0.2", validation=0).ids("test")
        np.testing.assert_array_equal(file["ids"], own[:5])
    assert {row.n for row in few} == {5}

    # What is measured is read again, where the data are no longer, too.
    monkeypatch.setattr(Corrupted, "measure", None)
    (place / "cifar10_corrupted").rename(place / "elsewhere")
    try:
        assert str(run(released())) == str(rows)
    finally:
        (place / "elsewhere").rename(place / "cifar10_corrupted")
    another = {"name": "cifar10_corrupted/fog_4/1.0.0", "examples": N + 1}
    with monkeypatch.context() as patch:
        patch.setattr(LazyDataset, "identity", lambda self: another)
        with pytest.raises(UserError, match=r"on\.identity\.examples \(23, now 24\)"):
            run(released())
    cell = json.loads((tmp_path / "a/results/cifar10_corrupted/fog_4.json").read_text())
    assert cell["settings"]["on"]["identity"] == {
        "name": "cifar10_corrupted/fog_4/1.0.0",
        "examples": N,
        "metadata": {},
    }


def test_what_does_not_belong_is_refused(run, tmp_path):
    with pytest.raises(
        UserError, match=r"snow_1.*is not made of the images of cifar10"
    ):
        run(released(["snow"], [1]))
    # Before anything is measured.
    with pytest.raises(UserError, match=r"no data set .mine_c/fog_1:1\.0\.0"):
        run(released(["fog"], [1], "mine_c:1.0.0"), "b")
    assert not list((tmp_path / "b").rglob("*.npz"))
    with pytest.raises(UserError, match="no version"):
        corrupted_sets("mine_c", ["fog"])
    sets = corrupted_sets(RELEASED, ["fog"])
    with pytest.raises(UserError, match="no ssim of fog"):
        Corrupted(sets, "released", also=["ssim"])


def test_shifts(run, model, place, tmp_path, monkeypatch):
    """Classes 1, 3 and 6 alone stand in for those of ImageNet-R."""
    few = np.array([1, 3, 6])
    labels = few[np.arange(N) % 3]
    prepare(
        "cifar10_corrupted/frost_1:1.0.0",
        place,
        {"test": pairs(OTHERS["fog_4"], labels)},
        monkeypatch,
    )
    part = "cifar10_corrupted/frost_1:1.0.0"
    whole = [LazyDataset(f"cifar10_1/{v}:1.1.0", numbered=True) for v in ("v4", "v6")]
    shifts = Shifts([*whole, LazyDataset(part, classes=3)], "shifts")
    rows = run(shifts)

    def accuracy(images, labels, classes=range(10)):
        right = []
        for output, label in zip(logits(model, images), labels, strict=False):
            right.append(max(classes, key=output.__getitem__) == label)
        return float(np.mean(right)), len(right)

    inside = np.isin(LABELS, few)
    assert 0 < inside.sum() < N
    metric = "accuracy in the classes of cifar10_corrupted/frost_1"
    assert [(row.dataset, row.metric, row.value, row.n) for row in rows] == [
        ("cifar10:3.0.2", "accuracy", *accuracy(IMAGES, LABELS)),
        ("cifar10_1/v4:1.1.0", "accuracy", *accuracy(IMAGES[:9], LABELS[3:])),
        ("cifar10_1/v6:1.1.0", "accuracy", *accuracy(IMAGES[9:], LABELS)),
        ("cifar10:3.0.2", metric, *accuracy(IMAGES[inside], LABELS[inside], few)),
        (part, metric, *accuracy(OTHERS["fog_4"], labels, few)),
    ]
    monkeypatch.setattr(Shifts, "measure", None)
    assert run(shifts) == rows
    # The first twelve are all of one data set, and not of the others.
    monkeypatch.undo()
    few_rows = run(Shifts(whole, "shifts"), "b", examples=12)
    assert [row.n for row in few_rows] == [12, 9, 12]
    with pytest.raises(UserError, match="of 3 classes, not of 4"):
        Shifts([LazyDataset(part, classes=4)], "shifts").cells()[1].keep(LABELS)
    with pytest.raises(UserError, match="distinct names"):
        Shifts([whole[0], whole[0]], "shifts")
