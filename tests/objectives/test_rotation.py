"""Rotation against np.rot90 and a linear head written in numpy."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfssl import types
from tfssl.objectives.rotation import Rotation

SHAPE = (6, 6, 3)


def built(copies):
    keras.utils.set_random_seed(1)
    objective = Rotation(copies)
    objective.build(6, 10)
    return objective


def expected_views(objective, batch):
    """[b, copies, 6, 6, 3] and [b, copies]."""
    turns = np.reshape(objective.labels(batch), [-1, objective.copies])
    images = batch["image"].numpy()
    views = [
        [np.rot90(image, k) for k in row]
        for image, row in zip(images, turns, strict=True)
    ]
    return np.array(views), turns


@pytest.mark.parametrize("copies", [1, 4])
def test_views_and_loss(copies, make_forward, make_batch):
    objective, forward = built(copies), make_forward(SHAPE)
    batch = make_batch(12, SHAPE)
    expected, turns = expected_views(objective, batch)
    if copies == 1:
        assert set(turns.ravel()) == {0, 1, 2, 3}
    else:
        assert (turns == [0, 1, 2, 3]).all()

    views = objective.views(batch["image"], batch)
    assert views.shape == ((12, *SHAPE) if copies == 1 else (12, 4, *SHAPE))
    np.testing.assert_array_equal(np.reshape(views, expected.shape), expected)

    kernel, bias = objective.head.get_weights()
    features = forward.features(expected.reshape(-1, *SHAPE)).numpy()
    logits = (features @ kernel + bias).astype(np.float64)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    losses = -log_p[np.arange(12 * copies), turns.ravel()].reshape(12, copies)
    loss = objective.loss(forward, views, batch)
    np.testing.assert_allclose(loss, losses.mean(1), rtol=1e-5)
    right = (logits.argmax(1) == turns.ravel()).reshape(12, copies).mean(1)
    np.testing.assert_allclose(objective.accuracy(forward, views, batch), right)


@pytest.mark.parametrize("copies", [1, 4])
def test_gradient_turns_back(copies, make_batch):
    objective, batch = built(copies), make_batch(12, SHAPE)
    expected, turns = expected_views(objective, batch)
    upstream = np.random.default_rng(2).normal(size=expected.shape).astype(np.float32)
    with tf.GradientTape() as tape:
        tape.watch(batch["image"])
        views = objective.views(batch["image"], batch)
    gradient = tape.gradient(
        views, batch["image"], tf.reshape(upstream, tf.shape(views))
    )
    back = [
        sum(np.rot90(g, -k) for g, k in zip(*rows, strict=True))
        for rows in zip(upstream, turns, strict=True)
    ]
    np.testing.assert_allclose(gradient, back, atol=1e-6)


def test_turn_depends_on_the_example_alone(make_forward, make_batch):
    objective, batch = built(1), make_batch(12, SHAPE)
    turns = objective.labels(batch).numpy()
    picked = [7, 2, 2, 9]
    part = {key: tf.gather(value, picked) for key, value in batch.items()}
    np.testing.assert_array_equal(objective.labels(part), turns[picked])
    held = objective.before_attack(make_forward(SHAPE), batch["image"], batch)
    np.testing.assert_array_equal(objective.labels(held), turns)
    np.testing.assert_array_equal(
        objective.views(batch["image"], held), objective.views(batch["image"], batch)
    )


def test_head_is_one_named_dense_layer():
    head = built(1).head
    assert head.output_shape == (None, 4)
    assert [w.path for w in head.weights] == [
        "rotation_head/kernel",
        "rotation_head/bias",
    ]


def test_user_errors(make_batch):
    with pytest.raises(types.UserError, match="copies is 2"):
        Rotation(2)
    batch = make_batch(2, (4, 6, 3))
    for copies in (1, 4):
        with pytest.raises(types.UserError, match="4 x 6"):
            Rotation(copies).views(batch["image"], batch)
