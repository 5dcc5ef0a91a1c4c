"""A frozen backbone: exported bit by bit as it came, or not at all."""

import functools
import json

import keras
import numpy as np
import pytest

from tfssl.attacks.balls import Linf
from tfssl.attacks.pgd import PGD
from tfssl.data import digits  # noqa: F401  registers the data set
from tfssl.data.dataset import Dataset
from tfssl.models.pretrained import pretrained
from tfssl.models.resnet import resnet
from tfssl.objectives.classification import Classification
from tfssl.objectives.kl import KL
from tfssl.training import loop, optimizers, schedules
from tfssl.training.term import Term
from tfssl.training.trainer import Trainer
from tfssl.types import UserError

SHAPE = (8, 8, 1)


@pytest.fixture(scope="module")
def dataset():
    return Dataset("digits:1.0.0", validation=0, num_examples=32, num_test_examples=0)


@pytest.fixture
def encoder(tmp_path):
    """A file with an encoder whose BatchNorm statistics matter, and are off."""
    keras.utils.set_random_seed(3)
    model = resnet(SHAPE, (1,), width=4)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.moving_mean.assign(np.linspace(-1, 1, 4))
    model.save(tmp_path / "encoder.keras")
    return tmp_path / "encoder.keras"


@pytest.fixture
def train(dataset):
    def train(run_dir, backbone, terms, **settings):
        defaults = {
            "optimizer": functools.partial(optimizers.sgd, weight_decay=0.1),
            "epochs": 1,
        }
        loop.train(
            run_dir,
            name="test",
            dataset=dataset,
            augment=[],
            backbone=backbone,
            terms=terms,
            schedule=schedules.constant_rate,
            learning_rate=0.1,
            batch_size=8,
            **{**defaults, **settings},
        )

    return train


@pytest.mark.parametrize(("example", "two"), [(None, True), ("adv", False)])
def test_head_alone_moves(train, encoder, tmp_path, two_replicas, example, two):
    """Under what else might move it: decay, averages, attacks through the network."""
    train(
        tmp_path / "run",
        functools.partial(pretrained, path=encoder, frozen=True),
        [Term(Classification(), 1.0, example, 1.0 if example else 0.0)],
        attack=PGD(Linf(), 0.1, steps=1) if example else None,
        trainer=functools.partial(Trainer, ema_decay=0.9),
        **({"strategy": lambda: two_replicas} if two else {}),
    )
    before = {w.path: w.numpy() for w in keras.saving.load_model(encoder).weights}
    model = keras.saving.load_model(tmp_path / "run/model.keras")
    after = {w.path: w.numpy() for w in model.weights}
    assert any("moving_mean" in path for path in before)
    for path, value in before.items():
        np.testing.assert_array_equal(after[path], value)
    assert after.keys() - before.keys() == {"logits/kernel", "logits/bias"}
    assert np.abs(after["logits/bias"]).max() > 1e-3
    assert json.loads((tmp_path / "run/manifest.json").read_text())["backbone_frozen"]


def test_without_freezing_all_moves(train, encoder, tmp_path):
    terms = [Term(Classification()), Term(KL(), 6.0, "adv", 1.0)]
    backbone = functools.partial(pretrained, path=encoder)
    train(tmp_path / "run", backbone, terms, attack=PGD(Linf(), 0.1, steps=1))
    model = keras.saving.load_model(tmp_path / "run/model.keras")
    for weight in keras.saving.load_model(encoder).weights:
        (moved,) = (w for w in model.weights if w.path == weight.path)
        assert np.abs(moved - weight.numpy()).max() > 0, weight.path
    manifest = json.loads((tmp_path / "run/manifest.json").read_text())
    assert not manifest["backbone_frozen"]


class _Counter(keras.layers.Layer):
    """Counts its calls, in a weight that is not trained."""

    def build(self, shape):
        self.calls = self.add_weight((), "zeros", trainable=False, name="calls")

    def call(self, x):
        self.calls.assign_add(1.0)
        return x


def test_a_layer_that_moves_is_found_before_the_export(train, tmp_path):
    def backbone(image_shape):
        image = keras.Input(image_shape)
        flat = keras.layers.Flatten()(image)
        features = _Counter(name="features")(flat)
        return keras.Model(image, features)

    with pytest.raises(UserError, match=r"frozen, but features/calls is not"):
        train(tmp_path, backbone, [Term(Classification())])
    assert not (tmp_path / "model.keras").exists()


class _Killed(Exception):
    pass


def test_resuming_sees_that_the_file_has_changed(train, encoder, tmp_path, monkeypatch):
    backbone = functools.partial(pretrained, path=encoder, frozen=True)
    terms = [Term(Classification())]

    def update(self):
        nonlocal steps
        steps += 1
        if steps == 3:
            raise _Killed

    for name in ("resumed", "replaced"):
        steps = 0
        with monkeypatch.context() as patch:
            patch.setattr(loop.tqdm, "update", update)
            with pytest.raises(_Killed):
                train(tmp_path / name, backbone, terms, log_every=1)
    train(tmp_path / "resumed", backbone, terms, log_every=1)
    assert (tmp_path / "resumed/model.keras").exists()

    resnet(SHAPE, (1,), width=4).save(encoder)
    with pytest.raises(UserError, match="its file has changed"):
        train(tmp_path / "replaced", backbone, terms, log_every=1)
