"""Classification, TRADES and MART: terms of the classifier's logits, against numpy."""

import numpy as np
import pytest
import tensorflow as tf

from tfssl import types
from tfssl.objectives.classification import Classification
from tfssl.objectives.kl import KL
from tfssl.objectives.mart import BoostedCrossEntropy, WeightedKL

SHAPE = (4, 4, 3)


@pytest.fixture
def setting(make_forward, make_batch):
    """(forward, batch, attacked image), with predictions far from uniform."""
    forward, batch = make_forward(SHAPE), make_batch(8, SHAPE)
    forward.classifier.kernel.assign(4 * forward.classifier.kernel)
    noise = np.random.default_rng(1).uniform(-0.3, 0.3, (8, *SHAPE))
    return forward, batch, batch["image"] + noise.astype(np.float32)


def probabilities(forward, image):
    exp = np.exp(forward.logits(image).numpy().astype(np.float64))
    return exp / exp.sum(1, keepdims=True)


def expected(objective, forward, batch, views):
    """The formulas of the papers, one example after the other."""
    losses = []
    for clean, p, y in zip(
        probabilities(forward, batch["image"]),
        probabilities(forward, views),
        batch["label"].numpy(),
        strict=True,
    ):
        kl = sum(c * np.log(c / q) for c, q in zip(clean, p, strict=True))
        rivals = [p[k] for k in range(5) if k != y]
        losses.append(
            {
                Classification: -np.log(p[y]),
                KL: kl,
                BoostedCrossEntropy: -np.log(p[y]) - np.log(1 - max(rivals)),
                WeightedKL: kl * (1 - clean[y]),
            }[type(objective)]
        )
    return losses


ALL = [Classification(), KL(), BoostedCrossEntropy(), WeightedKL()]


@pytest.mark.parametrize("objective", ALL, ids=lambda objective: objective.name)
def test_loss_is_that_of_the_paper(objective, setting):
    forward, batch, attacked = setting
    objective.build(6, 5)
    assert objective.classifies
    assert objective.head is None

    views = objective.views(attacked, batch)
    loss = objective.loss(forward, views, batch)
    reference = expected(objective, forward, batch, attacked)
    assert np.std(reference) > 0.01
    np.testing.assert_allclose(loss, reference, rtol=1e-4)
    held = objective.before_attack(forward, views, batch)
    np.testing.assert_array_equal(objective.loss(forward, views, held), loss)


@pytest.mark.parametrize("objective", [ALL[0], ALL[2]], ids=lambda o: o.name)
def test_accuracy(objective, setting):
    forward, batch, attacked = setting
    right = probabilities(forward, attacked).argmax(1) == batch["label"].numpy()
    assert 0 < right.sum() < 8
    np.testing.assert_array_equal(objective.accuracy(forward, attacked, batch), right)


def test_label_smoothing(setting):
    forward, batch, attacked = setting
    log_p = np.log(probabilities(forward, attacked))
    target = 0.8 * np.eye(5)[batch["label"].numpy()] + 0.2 / 5
    loss = Classification(label_smoothing=0.2).loss(forward, attacked, batch)
    np.testing.assert_allclose(loss, -(target * log_p).sum(1), rtol=1e-4)
    with pytest.raises(types.UserError, match="label_smoothing"):
        Classification(label_smoothing=1.0)


@pytest.mark.parametrize("objective", [ALL[1], ALL[3]], ids=lambda o: o.name)
def test_no_divergence_from_the_clean_image(objective, setting):
    forward, batch, _ = setting
    loss = objective.loss(forward, tf.identity(batch["image"]), batch)
    np.testing.assert_allclose(loss, 0, atol=1e-6)


@pytest.mark.parametrize("objective", [ALL[1], ALL[3]], ids=lambda o: o.name)
def test_clean_prediction_is_constant_in_the_attack_and_learns_in_the_update(
    objective, setting
):
    forward, batch, attacked = setting

    def gradients(hold):
        clean = tf.Variable(batch["image"])
        with tf.GradientTape() as tape:
            tape.watch(attacked)
            given = {**batch, "image": tf.convert_to_tensor(clean)}
            if hold:
                given = objective.before_attack(forward, attacked, given)
            loss = tf.reduce_sum(objective.loss(forward, attacked, given))
        return tape.gradient(loss, [clean, attacked, *forward.variables])

    update_clean, update_views, *update_weights = gradients(hold=False)
    attack_clean, attack_views, *attack_weights = gradients(hold=True)
    assert np.abs(update_clean).max() > 1e-3
    assert attack_clean is None
    assert np.abs(attack_views).max() > 1e-3
    np.testing.assert_allclose(attack_views, update_views, atol=1e-6)
    assert np.abs(update_weights[0] - attack_weights[0]).max() > 1e-3
