"""The transfer attack: whose gradients it follows, what it refuses, on replicas."""

import hashlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfssl.attacks.balls import L2, Linf
from tfssl.attacks.cleverhans_attacks import CleverhansFGM
from tfssl.attacks.fmn import FMN
from tfssl.attacks.pgd import PGD
from tfssl.attacks.transfer import Transfer
from tfssl.types import UserError

N, K, SHAPE = 8, 4, (6, 6, 3)
EPSILON = tf.constant(0.05)


def make(seed, classes=K):
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input(SHAPE),
            keras.layers.Conv2D(5, 3, activation="tanh"),
            keras.layers.BatchNormalization(),
            keras.layers.Flatten(),
            keras.layers.Dense(classes),
        ]
    )


@pytest.fixture(scope="module")
def victim():
    return make(0)


@pytest.fixture(scope="module")
def substitute():
    return make(1)


@pytest.fixture(scope="module")
def path(substitute, tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "substitute.keras"
    substitute.save(path)
    return path


@pytest.fixture(scope="module")
def data(substitute):
    rng = np.random.default_rng(0)
    image = tf.constant(rng.uniform(size=(N, *SHAPE)).astype(np.float32))
    label = tf.argmax(substitute(image), axis=1, output_type=tf.int32)
    seed = tf.constant(rng.integers(0, 2**31 - 1, (N, 2)), tf.int32)
    return image, label, seed


@pytest.mark.parametrize("attack", [PGD(Linf(), steps=3), FMN(L2(), steps=10)])
def test_is_the_attack_on_the_substitute(victim, substitute, path, data, attack):
    transfer = Transfer(path, attack)
    got = tf.function(lambda: transfer.perturb(victim, *data, EPSILON))()
    want = tf.function(lambda: attack.perturb(substitute, *data, EPSILON))()
    np.testing.assert_allclose(got, want, atol=1e-6)
    white_box = attack.perturb(victim, *data, EPSILON)
    assert np.abs(got - white_box).max() > 0.01


def test_an_eager_attack_stays_one(victim, substitute, path, data):
    attack = CleverhansFGM(Linf())
    transfer = Transfer(path, attack)
    assert transfer.eager
    assert not Transfer(path, PGD(Linf())).eager
    got = transfer.perturb(victim, *data, 0.05)
    np.testing.assert_allclose(got, attack.perturb(substitute, *data, 0.05), atol=1e-6)


def test_its_settings_tell_files_apart(path):
    attack = PGD(Linf())
    transfer = Transfer(path, attack)
    public = {k: v for k, v in vars(transfer).items() if not k.startswith("_")}
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert public == {"model": str(path), "attack": attack, "sha256": digest}
    assert transfer.ball is attack.ball


@pytest.mark.parametrize("attack", [PGD(Linf(), steps=3), FMN(Linf(), steps=10)])
def test_two_replicas_equal_one(victim, path, data, attack, two_replicas):
    transfer = Transfer(path, attack)
    want = transfer.perturb(victim, *data, EPSILON)
    with two_replicas.scope():
        mirrored = keras.models.clone_model(victim)
        mirrored.set_weights(victim.get_weights())

    @tf.function
    def run(batch):
        return two_replicas.run(
            lambda *batch: transfer.perturb(mirrored, *batch, EPSILON), batch
        )

    batches = tf.data.Dataset.from_tensors(data).unbatch().batch(N)
    (batch,) = two_replicas.experimental_distribute_dataset(batches)
    parts = two_replicas.experimental_local_results(run(batch))
    assert [len(part) for part in parts] == [N // 2, N // 2]
    np.testing.assert_allclose(np.concatenate(parts), want, atol=1e-6)


def test_a_file_that_cannot_be_used(tmp_path):
    def refuses(path, message):
        with pytest.raises(UserError, match=message) as info:
            Transfer(path, PGD(Linf()))
        assert "\n" not in str(info.value)

    refuses(tmp_path / "none.keras", "no model file")
    (tmp_path / "text.keras").write_text("no\nmodel")
    refuses(tmp_path / "text.keras", "no Keras model that loads")
    inputs = [keras.Input(SHAPE), keras.Input(SHAPE)]
    output = keras.layers.Flatten()(keras.layers.add(inputs))
    keras.Model(inputs, output).save(tmp_path / "two.keras")
    refuses(tmp_path / "two.keras", "from one image to its logits")
    image = keras.Input(SHAPE)
    keras.Model(image, keras.layers.ReLU()(image)).save(tmp_path / "map.keras")
    refuses(tmp_path / "map.keras", "from one image to its logits")


def test_a_victim_that_does_not_fit(path, data):
    transfer = Transfer(path, PGD(Linf(), steps=1))
    with pytest.raises(UserError, match="4 classes, but the attacked model has 7"):
        transfer.perturb(make(2, classes=7), *data, EPSILON)
    image, label, seed = data
    with pytest.raises(UserError, match=r"images of shape \(6, 6, 3\), but these are"):
        transfer.perturb(make(0), image[:, 1:], label, seed, EPSILON)
