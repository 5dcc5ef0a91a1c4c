"""Jigsaw against patches moved one by one, and properties of its permutations."""

import hashlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfssl import types
from tfssl.objectives.jigsaw import Jigsaw, permutation_set

SHAPE = (8, 12, 3)


def shuffled(image, order, grid):
    """[h, w, c] with patch order[i] at place i, one patch after the other."""
    h, w = image.shape[0] // grid, image.shape[1] // grid
    places = [
        (slice(r * h, (r + 1) * h), slice(c * w, (c + 1) * w))
        for r in range(grid)
        for c in range(grid)
    ]
    result = np.empty_like(image)
    for place, patch in zip(places, order, strict=True):
        result[place] = image[places[patch]]
    return result


@pytest.mark.parametrize("grid", [2, 4])
def test_views_loss_and_way_back(grid, make_forward, make_batch):
    keras.utils.set_random_seed(1)
    objective, forward = Jigsaw(grid, 23), make_forward(SHAPE)
    objective.build(6, 10)
    batch = make_batch(30, SHAPE)
    images, labels = batch["image"].numpy(), objective.labels(batch).numpy()
    assert len(set(labels)) > 10
    orders = objective.permutations[labels]

    with tf.GradientTape() as tape:
        tape.watch(batch["image"])
        views = objective.views(batch["image"], batch)
    expected = [shuffled(*pair, grid) for pair in zip(images, orders, strict=True)]
    np.testing.assert_array_equal(views, expected)
    back = [
        shuffled(view, np.argsort(order), grid)
        for view, order in zip(views.numpy(), orders, strict=True)
    ]
    np.testing.assert_array_equal(back, images)
    # The gradient of a permutation moves the upstream gradient back in the same way.
    gradient = tape.gradient(views, batch["image"], views)
    np.testing.assert_array_equal(gradient, images)

    kernel, bias = objective.head.get_weights()
    logits = (forward.features(views).numpy() @ kernel + bias).astype(np.float64)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    loss = objective.loss(forward, views, batch)
    np.testing.assert_allclose(loss, -log_p[np.arange(30), labels], rtol=1e-5)
    np.testing.assert_array_equal(
        objective.accuracy(forward, views, batch), logits.argmax(1) == labels
    )


@pytest.mark.parametrize("gap", [1, 2, 3])
def test_gaps_are_grey_around_a_part_of_each_patch(gap, make_batch):
    keras.utils.set_random_seed(1)
    batch = make_batch(300, (8, 16, 3))
    # No pixel is like another, and none is grey.
    batch["image"] = 1 + tf.reshape(tf.range(300 * 8 * 16 * 3.0), [300, 8, 16, 3])
    with tf.GradientTape() as tape:
        tape.watch(batch["image"])
        views = Jigsaw(2, 23, gap).views(batch["image"], batch)
    whole = Jigsaw(2, 23).views(batch["image"], batch).numpy()

    offsets = []
    shown = np.zeros_like(whole)
    lead = gap // 2
    for view, uncut, is_shown in zip(views.numpy(), whole, shown, strict=True):
        for top in (0, 4):
            for left in (0, 8):
                place = (slice(top, top + 4), slice(left, left + 8))
                patch, uncut_patch = view[place], uncut[place]
                part = patch[lead : lead + 4 - gap, lead : lead + 8 - gap]
                dy, dx = np.argwhere((uncut_patch == part[0, 0]).all(-1))[0]
                offsets.append((dy, dx))
                cut = (slice(dy, dy + 4 - gap), slice(dx, dx + 8 - gap))
                expected = np.full_like(patch, 0.5)
                expected[lead : lead + 4 - gap, lead : lead + 8 - gap] = uncut_patch[
                    cut
                ]
                np.testing.assert_array_equal(patch, expected)
                is_shown[place][cut] = 1
    # Each of the (gap + 1)^2 places as often, within four standard errors.
    counts = np.zeros([gap + 1, gap + 1])
    np.add.at(counts, tuple(np.array(offsets).T), 1)
    share = 1 / (gap + 1) ** 2
    error = np.sqrt(share * (1 - share) / len(offsets))
    assert np.abs(counts / len(offsets) - share).max() < 4 * error
    # What is not shown has no gradient.
    gradient = tape.gradient(views, batch["image"])
    labels = Jigsaw(2, 23).labels(batch).numpy()
    orders = Jigsaw(2, 23).permutations[labels]
    back = [
        shuffled(one, np.argsort(order), 2)
        for one, order in zip(shown, orders, strict=True)
    ]
    np.testing.assert_array_equal(gradient, back)


def test_permutations_are_distinct_far_apart_and_fixed():
    permutations = Jigsaw().permutations
    assert permutations.shape == (31, 16)
    np.testing.assert_array_equal(permutations[0], np.arange(16))
    np.testing.assert_array_equal(np.sort(permutations), [np.arange(16)] * 31)
    distances = (permutations[:, None] != permutations[None]).sum(-1)
    assert distances[~np.eye(31, dtype=bool)].min() >= 13
    # Golden: a saved model's classes keep their meaning.
    digest = hashlib.sha256(permutations.astype("<i4").tobytes()).hexdigest()
    assert digest[:16] == "0dadb1fb3d781b4f"
    np.testing.assert_array_equal(permutation_set(16, 5), permutations[:6])


def test_all_permutations_of_a_small_grid():
    permutations = Jigsaw(2, 23).permutations
    assert len({tuple(order) for order in permutations}) == 24


def test_share_of_the_identity(make_batch):
    # 10 % forced, and one in 31 of the others; 4000 draws, four standard errors.
    objective = Jigsaw()
    labels = tf.function(objective.labels)({"seed": make_batch(4000, ())["seed"]})
    counts = np.bincount(labels, minlength=31) / 4000
    share = 0.1 + 0.9 / 31
    assert abs(counts[0] - share) < 4 * np.sqrt(share * (1 - share) / 4000)
    assert np.abs(counts[1:] - 0.9 / 31).max() < 4 * np.sqrt(0.9 / 31 / 4000)


def test_order_depends_on_the_example_alone(make_forward, make_batch):
    objective, batch = Jigsaw(), make_batch(12, SHAPE)
    labels = objective.labels(batch).numpy()
    picked = [7, 2, 2, 9]
    part = {key: tf.gather(value, picked) for key, value in batch.items()}
    np.testing.assert_array_equal(objective.labels(part), labels[picked])
    held = objective.before_attack(make_forward(SHAPE), batch["image"], batch)
    np.testing.assert_array_equal(
        objective.views(batch["image"], held), objective.views(batch["image"], batch)
    )


def test_head_is_one_named_dense_layer():
    objective = Jigsaw()
    objective.build(6, 10)
    assert objective.head.output_shape == (None, 31)
    assert objective.head.weights[0].path == "jigsaw_head/kernel"


def test_user_errors(make_batch):
    with pytest.raises(types.UserError, match="grid is 1"):
        Jigsaw(grid=1)
    with pytest.raises(types.UserError, match="1 to 23"):
        Jigsaw(grid=2)
    batch = make_batch(2, (8, 10, 3))
    with pytest.raises(types.UserError, match="8 x 10"):
        Jigsaw().views(batch["image"], batch)
    with pytest.raises(types.UserError, match="gap = 4 leaves nothing"):
        Jigsaw(grid=2, permutations=3, gap=4).views(batch["image"], batch)
