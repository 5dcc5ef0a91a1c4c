"""The training step: replicas, numpy references, and what attacks must not touch."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from methods import (
    METHODS,
    SHAPE,
    B,
    K,
    acl,
    assert_equal,
    attack,
    build,
    classify,
    one_batch,
    trained,
)

from tfssl.models.resnet import resnet
from tfssl.objectives.byol import BYOL
from tfssl.objectives.classification import Classification
from tfssl.objectives.kl import KL
from tfssl.objectives.moco_v2 import MoCoV2
from tfssl.objectives.rotation import Rotation
from tfssl.objectives.simclr import SimCLR
from tfssl.objectives.swav import SwAV
from tfssl.training.term import Term
from tfssl.training.trainer import Trainer
from tfssl.types import UserError


@pytest.mark.parametrize("method", METHODS)
def test_two_replicas_equal_one(method, two_replicas):
    """Logged values, weights, BatchNorm statistics, momentum and averages."""
    one = tf.distribute.get_strategy()
    results = [trained(method, strategy, 3) for strategy in (one, two_replicas)]
    assert_equal(*results)


def test_update_is_the_gradient_of_the_weighted_sum():
    """Against the formula, written out: cross-entropy plus lambda times rotation."""
    trainer = build([Term(Classification()), Term(Rotation(copies=4), 0.7)])
    twin = build([Term(Classification()), Term(Rotation(copies=4), 0.7)])
    batch = one_batch()
    ce = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    turned = np.concatenate([np.rot90(batch["image"], k, (1, 2)) for k in range(4)])
    with tf.GradientTape() as tape:
        features = twin.backbone(batch["image"], training=True)
        loss = ce(batch["label"], twin.classifier(features))
        features = twin.backbone(turned, training=True)
        rotation = ce(np.repeat(np.arange(4), B), twin.heads[0](features))
        total = loss + 0.7 * rotation
    variables = twin.trainable_variables
    gradients = tape.gradient(total, variables)
    logs = trainer.train_step(batch)
    np.testing.assert_allclose(logs["loss"], total, rtol=1e-5)
    np.testing.assert_allclose(logs["loss/rotation"], rotation, rtol=1e-5)
    pairs = zip(variables, gradients, trainer.trainable_variables, strict=True)
    for old, gradient, new in pairs:
        decay = 0.01 * old.numpy() if old.path.endswith("kernel") else 0.0
        want = old.numpy() - 0.1 * (gradient.numpy() + decay)
        np.testing.assert_allclose(new, want, atol=2e-6, err_msg=old.path)


def test_joint_example_maximises_the_sum():
    """A shared example has a larger sum of losses than either example alone."""
    batch = one_batch()

    def losses(classify_weight, rotation_weight):
        terms = [
            Term(Classification(), 1.0, "adv", classify_weight),
            Term(Rotation(), 1.0, "adv", rotation_weight),
        ]
        finder = attack(steps=10, random_start=False, epsilon="4/255")
        trainer = build(terms, attack=finder)
        logs = trainer.train_step(batch)
        return logs["loss/classification"], logs["loss/rotation"]

    both, first, second = losses(1, 1), losses(1, 0), losses(0, 1)
    assert sum(both) > sum(first)
    assert sum(both) > sum(second)
    assert first[0] > both[0] > second[0]
    assert second[1] > both[1] > first[1]


def test_separate_copies_are_attacked_apart():
    """Hendrycks 2019: the SSL term has no say in the classifier's example."""
    batch = one_batch()
    alone = build([classify()])
    separate = build([classify(), Term(Rotation(copies=4), 0.5, "ssl", 1.0, "views")])
    np.testing.assert_allclose(
        separate.train_step(batch)["loss/classification"],
        alone.train_step(batch)["loss/classification"],
        rtol=1e-5,
    )


def test_trades_without_attack_is_standard_training():
    """At epsilon 0 the divergence of a deterministic network is 0."""
    batch = one_batch()
    terms = [Term(Classification()), Term(KL(), 6.0, "adv", 1.0)]
    logs = build(terms, attack=attack(epsilon=0.0)).train_step(batch)
    np.testing.assert_allclose(logs["loss/kl"], 0, atol=1e-6)
    logs = build(METHODS["trades"]()[0]).train_step(batch)
    assert logs["loss/kl"] > 1e-4


def test_attack_only_term_trains_its_head_and_nothing_else():
    batch = one_batch()

    def both():
        return [Term(Rotation(), 0.0, "adv", 1.0), classify(attack_weight=0.0)]

    trainer, twin = build(both()), build(both())
    head = trainer.heads[0].get_weights()[0]
    trainer.train_step(batch)
    assert not np.allclose(head, trainer.heads[0].get_weights()[0])
    # The backbone moves as it does for the classification term on the same example.
    images = twin._examples(batch)["adv"]["image"]
    plain = build([Term(Classification())], attack=None)
    plain.train_step({**batch, "image": images})
    for got, want in zip(trainer.backbone.weights, plain.backbone.weights, strict=True):
        np.testing.assert_allclose(got, want, atol=1e-5, err_msg=got.path)


def test_attack_leaves_batch_norm_alone():
    """One training pass moves the statistics; the attack's passes do not."""
    batch = one_batch()
    trainer = build([classify()])
    examples = trainer._examples(batch)
    twin = build([classify()])
    for got, start in zip(
        trainer.non_trainable_weights, twin.non_trainable_weights, strict=True
    ):
        np.testing.assert_array_equal(got, start)
    trainer.train_step(batch)
    twin.backbone(examples["adv"]["image"], training=True)
    for got, want in zip(
        trainer.non_trainable_weights, twin.non_trainable_weights, strict=True
    ):
        np.testing.assert_allclose(got, want, atol=1e-6)


def test_training_mode_attack_moves_the_statistics():
    """And finds another example than the attack in inference mode."""
    batch = one_batch()
    trainers = [build([classify()], attack=attack(batch_norm=m)) for m in MODES]
    images = [trainer._examples(batch)["adv"]["image"] for trainer in trainers]
    moving = [trainer.non_trainable_weights[-1].numpy() for trainer in trainers]
    assert not np.allclose(images[0], images[1])
    assert not np.allclose(moving[0], moving[1])


MODES = ("inference", "training")


def test_the_attack_moves_no_queue():
    objective = MoCoV2(8, 4, queue=20)
    build(
        [Term(objective, 1.0, "adv", 1.0, "views")],
        attack=attack(batch_norm="training"),
    ).train_step(one_batch())
    old = MoCoV2(8, 4, queue=20)
    build([Term(old)])
    moved = np.any(objective.keys.read() != old.keys.read(), axis=1)
    assert moved.sum() == B


def test_dual_batch_norm_starts_from_a_trained_network():
    backbone = resnet(SHAPE, blocks=(1,), width=4)
    backbone.set_weights([w + 0.5 for w in backbone.get_weights()])
    trainer = Trainer(backbone, K, acl(SimCLR(8, 4)), attack(), dual_batch_norm=True)
    image = one_batch()["image"]
    np.testing.assert_allclose(
        trainer.clean_backbone(image), backbone(image), rtol=1e-5
    )
    own = {id(v) for v in backbone.weights}
    shared = [id(v) in own for v in trainer.clean_backbone.weights]
    assert 0 < sum(shared) < len(shared)


def test_crops_of_a_size_that_the_network_does_not_take():
    trainer = build([Term(SwAV(8, 4, 6, queue=0))])
    batch = one_batch()
    batch["local_views"] = batch["views"][:, :, :5, :5]
    with pytest.raises(UserError, match=r"local_views are \(5, 5\) pixels"):
        trainer.train_step(batch)


def test_one_pass_normalises_all_inputs_together():
    """Hendrycks 2019: clean images and their four turns are one batch of 5 b."""
    terms = [Term(Classification()), Term(Rotation(copies=4), 0.5)]
    trainer = build(terms, attack=None, one_pass=True)
    twin = build([Term(Classification()), Term(Rotation(copies=4), 0.5)], attack=None)
    batch = one_batch()
    turned = np.stack([np.rot90(batch["image"], k, (1, 2)) for k in range(4)], 1)
    everything = np.concatenate([batch["image"], turned.reshape(-1, *SHAPE)])
    features = twin.backbone(everything, training=True)
    ce = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    want = ce(batch["label"], twin.classifier(features[:B]))
    want_rotation = ce(np.tile(np.arange(4), B), twin.heads[0](features[B:]))
    logs = trainer.train_step(batch)
    np.testing.assert_allclose(logs["loss/classification"], want, rtol=1e-5)
    np.testing.assert_allclose(logs["loss/rotation"], want_rotation, rtol=1e-5)
    for got, moved in zip(
        trainer.non_trainable_weights, twin.non_trainable_weights, strict=True
    ):
        np.testing.assert_allclose(got, moved, atol=1e-6)


def test_average_of_weights():
    trainer = build([Term(Classification())], ema_decay=0.9)
    kernel = trainer.backbone.weights[0]
    start = kernel.numpy()
    trainer.train_step(one_batch())
    end = kernel.numpy()
    average = 0.9 * start + 0.1 * end
    np.testing.assert_allclose(trainer.averages[0], average, atol=1e-7)
    with trainer.averaged():
        np.testing.assert_allclose(kernel, average, atol=1e-7)
    np.testing.assert_array_equal(kernel, end)


def test_exported_model_is_plain_keras(tmp_path):
    trainer = build(METHODS["rotation_both"]()[0])
    exported = trainer.exported()
    exported.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    image = one_batch()["image"]
    want = trainer.classifier(trainer.backbone(image))
    np.testing.assert_allclose(loaded(image), want, rtol=1e-6, atol=1e-6)
    features = keras.Model(loaded.input, loaded.get_layer("features").output)
    np.testing.assert_allclose(features(image), trainer.backbone(image), rtol=1e-6)
    assert all(layer.__module__.startswith("keras.") for layer in loaded.layers)


def test_pre_training_exports_the_encoder():
    exported = build([Term(Rotation())], attack=None).exported()
    assert exported.output_shape == (None, 8)


@pytest.mark.parametrize(
    ("terms", "settings", "message"),
    [
        (lambda: [], {}, "no term has a weight"),
        (lambda: [classify(), classify()], {}, "two terms"),
        (lambda: [classify()], {"attack": None}, "set ATTACK"),
        (lambda: [classify(attack_weight=0.0)], {}, "no term with an attack_weight"),
        (lambda: [Term(Classification(), weight=-1)], {}, ">= 0"),
        (lambda: [Term(Classification(), 1.0, None, 1.0)], {}, "names no example"),
        (lambda: [Term(Classification(), 0.0)], {}, "does nothing"),
        (lambda: [classify(perturb="pixels")], {}, "'image' or 'views'"),
        (lambda: acl(BYOL(8, 4)), {}, "byol has a teacher.* one term only"),
        (lambda: [Term(SimCLR(8, 4))], {"one_pass": True}, "passes of their own"),
    ],
)
def test_bad_terms(terms, settings, message):
    with pytest.raises(UserError, match=message):
        build(terms(), **settings)
