"""Losses of self-supervised methods, against the papers' formulas as slow loops.

Each case takes three views of each image [b, 3, d], and what else its loss needs from
constants. Most of the losses read the whole batch, so each is computed on two replicas
as well.
"""

import numpy as np
import pytest
import tensorflow as tf

from tfssl import distribute
from tfssl.losses import clustering, contrastive, distillation, redundancy, similarity

B, V, D = 8, 3, 5
GENERATOR = np.random.default_rng(0)
# Views of an image are alike, and dimensions differ in mean and spread, so that the
# hinge of VICReg is active in some of them only.
SPREAD = np.array([0.1, 0.4, 0.8, 1.5, 3.0])
VIEWS = GENERATOR.normal(0, 1, (B, 1, D)) + GENERATOR.normal(0, 0.5, (B, V, D))
VIEWS = VIEWS * SPREAD + [0.3, -0.2, 1.0, 0.0, -2.0]
QUEUE = GENERATOR.normal(0, 1, (6, D))
CENTRE = GENERATOR.normal(0, 0.3, D)
T = 0.3


def unit(x):
    return x / np.sqrt(sum(a * a for a in x))


def softmax(z):
    return np.exp(z) / sum(np.exp(z))


def slow_nt_xent(x):
    """SimCLR, Algorithm 1, of the first two views."""
    z = [unit(x[i, v]) for i in range(len(x)) for v in range(2)]
    n = len(z)

    def pair(i, j):
        all_but_i = sum(np.exp(z[i] @ z[k] / T) for k in range(n) if k != i)
        return -np.log(np.exp(z[i] @ z[j] / T) / all_but_i)

    return [
        (pair(2 * k, 2 * k + 1) + pair(2 * k + 1, 2 * k)) / 2 for k in range(n // 2)
    ]


def slow_nt_xent_of_views(x):
    """Supervised contrastive loss, eq. 2, with the image as the class."""
    z = [(i, unit(x[i, v])) for i in range(len(x)) for v in range(x.shape[1])]
    loss = np.zeros(len(x))
    for a, (image, anchor) in enumerate(z):
        others = [(j, other) for k, (j, other) in enumerate(z) if k != a]
        total = sum(np.exp(anchor @ other / T) for _, other in others)
        positives = [other for j, other in others if j == image]
        for other in positives:
            term = -np.log(np.exp(anchor @ other / T) / total)
            loss[image] += term / len(positives) / x.shape[1]
    return loss


def slow_info_nce(x):
    """MoCo, eq. 1."""
    loss = []
    for query, key in x[:, :2]:
        keys = [unit(key), *map(unit, QUEUE)]
        p = [np.exp(unit(query) @ k / T) for k in keys]
        loss.append(-np.log(p[0] / sum(p)))
    return loss


def slow_moco_v3(x):
    """MoCo v3, ctr of Algorithm 1."""
    loss = []
    for i in range(len(x)):
        p = [np.exp(unit(x[i, 0]) @ unit(key) / T) for key in x[:, 1]]
        loss.append(2 * T * -np.log(p[i] / sum(p)))
    return loss


def slow_barlow_twins(x):
    """Barlow Twins, eq. 1 and 2, with 1e-5 added to the variances."""
    first, second = x[:, 0] - x[:, 0].mean(0), x[:, 1] - x[:, 1].mean(0)
    loss = 0
    for i in range(D):
        for j in range(D):
            a, b = first[:, i], second[:, j]
            c = np.mean(a * b) / np.sqrt(np.mean(a**2) + 1e-5)
            c /= np.sqrt(np.mean(b**2) + 1e-5)
            loss += (1 - c) ** 2 if i == j else 0.1 * c**2
    return [loss] * len(x)


def slow_vicreg(x):
    """VICReg, Algorithm 1, the invariance of each example."""
    loss = np.array([25 * np.mean((a - b) ** 2) for a, b in x[:, :2]])
    for z in (x[:, 0], x[:, 1]):
        std = [np.sqrt(z[:, j].var(ddof=1) + 1e-4) for j in range(D)]
        loss += 25 * np.mean([max(0, 1 - s) for s in std])
        covariance = np.cov(z.T, ddof=1)
        off = [covariance[i, j] ** 2 for i in range(D) for j in range(D) if i != j]
        loss += sum(off) / D
    return loss


def slow_sinkhorn(scores, epsilon=0.05, iterations=3):
    """SwAV, the pseudo-code of appendix A.1."""
    q = np.exp(scores / epsilon).T
    q /= q.sum()
    k, b = q.shape
    for _ in range(iterations):
        q *= (1 / k / q.sum(1))[:, None]
        q *= (1 / b / q.sum(0))[None, :]
    return (q / q.sum(0)).T


def slow_pairs(targets, scores, t):
    """Eq. 6 of SwAV and eq. 3 of DINO, as a mean: [b, i, k] and [b, v, k] to [b]."""
    loss = []
    for q, z in zip(targets, scores, strict=True):
        terms = [
            -sum(q[i] * np.log(softmax(z[v] / t)))
            for i in range(q.shape[0])
            for v in range(z.shape[0])
            if v != i
        ]
        loss.append(np.mean(terms))
    return loss


def slow_swav(x):
    # The codes are constants, also where the views are varied.
    codes = [slow_sinkhorn(VIEWS[:, v]) for v in range(2)]
    return slow_pairs(np.stack(codes, 1), x, T)


def slow_dino(x):
    targets = [[softmax((t - CENTRE) / 0.2) for t in views[:2]] for views in x]
    return slow_pairs(np.array(targets), x, T)


def swav(x):
    codes = [clustering.sinkhorn(x[:, v]) for v in range(2)]
    return clustering.swapped_prediction(tf.unstack(x, axis=1), codes, T)


def dino(x):
    views = tf.unstack(x, axis=1)
    return distillation.dino(views, views[:2], tf.cast(CENTRE, x.dtype), T, 0.2)


def cosine(a, b):
    return unit(a) @ unit(b)


CASES = {
    "nt_xent": (lambda x: contrastive.nt_xent(x[:, 0], x[:, 1], T), slow_nt_xent),
    "nt_xent_of_views": (
        lambda x: contrastive.nt_xent_of_views(x, T),
        slow_nt_xent_of_views,
    ),
    "info_nce": (
        lambda x: contrastive.info_nce(x[:, 0], x[:, 1], tf.cast(QUEUE, x.dtype), T),
        slow_info_nce,
    ),
    "moco_v3": (lambda x: contrastive.moco_v3(x[:, 0], x[:, 1], T), slow_moco_v3),
    "negative_cosine": (
        lambda x: similarity.negative_cosine(x[:, 0], x[:, 1]),
        lambda x: [-cosine(a, b) for a, b in x[:, :2]],
    ),
    "byol": (
        lambda x: similarity.byol(x[:, 0], x[:, 1]),
        lambda x: [sum((unit(a) - unit(b)) ** 2) for a, b in x[:, :2]],
    ),
    "barlow_twins": (
        lambda x: redundancy.barlow_twins(x[:, 0], x[:, 1], 0.1),
        slow_barlow_twins,
    ),
    "vicreg": (lambda x: redundancy.vicreg(x[:, 0], x[:, 1]), slow_vicreg),
    "swav": (swav, slow_swav),
    "dino": (dino, slow_dino),
    "cosine_distillation": (
        lambda x: distillation.cosine_distillation(*tf.unstack(x, axis=1)),
        lambda x: [-cosine(s, t) - 2 * cosine(a, s) for s, a, t in x],
    ),
}
each_loss = pytest.mark.parametrize("name", CASES)


def gradient(loss, x):
    """The loss of each example, and the gradient of their mean."""
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = loss(x)
        mean = distribute.mean(value)
    return value.numpy(), tape.gradient(mean, x).numpy()


@each_loss
def test_value_and_gradient_are_those_of_the_paper(name):
    loss, slow = CASES[name]
    value, grad = gradient(loss, VIEWS)
    assert value.shape == (B,)
    np.testing.assert_allclose(value, slow(VIEWS), rtol=1e-9)
    for _ in range(3):
        step = 1e-5 * GENERATOR.normal(size=VIEWS.shape)
        rise = np.mean(slow(VIEWS + step)) - np.mean(slow(VIEWS - step))
        np.testing.assert_allclose(np.sum(grad * 2 * step), rise, rtol=1e-4, atol=1e-10)


@each_loss
def test_two_replicas_equal_one(name, two_replicas):
    """The loss of each example, its gradient, and that of weights, as a trainer does
    it: `distribute.mean`, and the gradient summed over replicas."""
    loss, _ = CASES[name]
    weights = tf.constant(np.eye(D) + GENERATOR.normal(0, 0.1, (D, D)))

    def update(x):
        b = B // distribute.replicas()
        own = tf.reshape(x, [-1, b, V, D])[distribute.replica()]
        with tf.GradientTape() as tape:
            tape.watch([own, weights])
            value = loss(tf.einsum("bvd,de->bve", own, weights))
            mean = distribute.mean(value)
        return mean, *tape.gradient(mean, [weights, own]), value

    expected = update(tf.constant(VIEWS))
    results = two_replicas.run(tf.function(update), args=(tf.constant(VIEWS),))
    got = distribute.add(two_replicas, results[:2])
    got += distribute.concatenate(two_replicas, results[2:])
    for one, two in zip(expected, got, strict=True):
        np.testing.assert_allclose(two, one, rtol=1e-9, atol=1e-12)


@each_loss
@pytest.mark.parametrize("scale", [0, 1e-12, 1, 1e6])
def test_gradients_are_finite(name, scale):
    loss, _ = CASES[name]
    for views in (VIEWS, np.ones_like(VIEWS)):
        value, grad = gradient(loss, np.float32(scale * views))
        assert value.dtype == np.float32
        assert np.isfinite(value).all()
        assert np.isfinite(grad).all()


def test_collapsed_embeddings_are_chance():
    x = np.ones([B, V, D])
    for name, classes, factor in [
        ("nt_xent", 2 * B - 1, 1),
        ("nt_xent_of_views", V * B - 1, 1),
        ("moco_v3", B, 2 * T),
    ]:
        value, _ = gradient(CASES[name][0], x)
        np.testing.assert_allclose(value, factor * np.log(classes), err_msg=name)
    value = contrastive.info_nce(x[:, 0], x[:, 1], np.ones([6, D]), T)
    np.testing.assert_allclose(value, np.log(7))


def test_orthogonal_images_of_identical_views():
    # Of all 2B - 1 comparisons one has the cosine 1, the others 0.
    x = 7 * np.eye(B)
    value = contrastive.nt_xent(x, x, T)
    np.testing.assert_allclose(value, np.log(1 + (2 * B - 2) * np.exp(-1 / T)))
    value = contrastive.moco_v3(x, x, T)
    np.testing.assert_allclose(value, 2 * T * np.log(1 + (B - 1) * np.exp(-1 / T)))


def test_directions_of_embeddings_are_all_that_counts():
    x = np.stack([VIEWS[:, 0], 100 * VIEWS[:, 0], -VIEWS[:, 0]])
    np.testing.assert_allclose(similarity.negative_cosine(x[0], x[1]), -1)
    np.testing.assert_allclose(similarity.byol(x[0], x[1]), 0, atol=1e-12)
    np.testing.assert_allclose(similarity.byol(x[0], x[2]), 4)
    np.testing.assert_allclose(distillation.cosine_distillation(*x[[0, 0, 1]]), -3)
    np.testing.assert_allclose(distillation.cosine_distillation(*x[[0, 2, 1]]), 1)
    np.testing.assert_allclose(distillation.cosine_distillation(*x, 5.0), 1 - 5)


def test_redundancy_of_decorrelated_views():
    # Rows of a Hadamard matrix: dimensions of mean 0 and variance 1, uncorrelated.
    h = np.array([[1.0, 1.0], [1.0, -1.0]])
    x = np.kron(np.kron(h, h), h)[:, 1:]
    np.testing.assert_allclose(redundancy.barlow_twins(x, x, 1.0), 0, atol=1e-8)
    np.testing.assert_allclose(redundancy.barlow_twins(x, -x, 1.0), 7 * 4, rtol=1e-4)
    np.testing.assert_allclose(redundancy.vicreg(x, x), 0, atol=1e-12)
    # A shift of one view costs its square and nothing else.
    np.testing.assert_allclose(redundancy.vicreg(x, x + 2), 25 * 4)
    # All dimensions the same: each of the 42 pairs has the correlation 1.
    same = np.repeat(x[:, :1], 7, axis=1)
    np.testing.assert_allclose(redundancy.barlow_twins(same, same, 0.5), 21, rtol=1e-4)
    np.testing.assert_allclose(
        redundancy.vicreg(same, same), 2 * 42 / 7 * (8 / 7) ** 2, rtol=1e-12
    )


def test_redundancy_of_constants():
    x = np.full([B, D], 3.0)
    np.testing.assert_allclose(redundancy.barlow_twins(x, x, 1.0), D)
    np.testing.assert_allclose(redundancy.vicreg(x, x), 2 * 25 * (1 - 0.01))
    np.testing.assert_allclose(redundancy.vicreg(x, x + 1, 3.0, 0.0, 9.0), 3)


def test_sinkhorn_shares_the_batch():
    scores = tf.constant(GENERATOR.uniform(-1, 1, (12, 4)))
    np.testing.assert_allclose(clustering.sinkhorn(scores), slow_sinkhorn(scores))
    codes = clustering.sinkhorn(scores, 0.5, iterations=50)
    np.testing.assert_allclose(tf.reduce_sum(codes, 1), 1)
    np.testing.assert_allclose(tf.reduce_sum(codes, 0), 12 / 4, rtol=1e-6)
    # Without iterations it is a softmax; scores that no exp could take are no trouble.
    plain = clustering.sinkhorn(scores, 0.5, iterations=0)
    np.testing.assert_allclose(plain, [softmax(z / 0.5) for z in scores.numpy()])
    crowded = clustering.sinkhorn(1e4 * tf.eye(4, dtype=tf.float32))
    np.testing.assert_allclose(crowded, np.eye(4), atol=1e-6)


def test_sinkhorn_with_known_scores(two_replicas):
    scores, known = GENERATOR.uniform(-1, 1, (8, 4)), GENERATOR.uniform(-1, 1, (5, 4))
    expected = slow_sinkhorn(np.concatenate([scores, known]))[:8]

    @tf.function
    def codes():
        own = tf.reshape(tf.constant(scores), [distribute.replicas(), -1, 4])
        return clustering.sinkhorn(own[distribute.replica()], known=tf.constant(known))

    np.testing.assert_allclose(codes(), expected)
    of_replicas = distribute.concatenate(two_replicas, two_replicas.run(codes))
    np.testing.assert_allclose(of_replicas, expected)


def test_codes_have_no_gradient():
    scores, known = tf.constant(VIEWS[:, 0]), tf.constant(VIEWS[:, 1])
    with tf.GradientTape() as tape:
        tape.watch([scores, known])
        codes = clustering.sinkhorn(scores, known=known)
    assert tape.gradient(codes, [scores, known]) == [None, None]


def test_cross_entropy_of_crops():
    even, certain = np.zeros([B, D]), np.tile(1e3 * np.eye(D)[0], [B, 1])
    centre = np.zeros(D)
    value = distillation.dino([even] * 4, [even] * 2, centre, 0.1, 0.04)
    np.testing.assert_allclose(value, np.log(D))
    # Each teacher is compared with the other crops, never with its own student.
    value = distillation.dino([certain, even], [even, certain], centre, 0.1, 0.04)
    np.testing.assert_allclose(value, (0 + np.log(D)) / 2, atol=1e-9)
    # The centre is taken off the teacher, so that a shared output is even.
    value = distillation.dino([certain, even], [certain], certain[0], 0.1, 0.04)
    np.testing.assert_allclose(value, np.log(D))
    value = clustering.swapped_prediction(
        [certain, certain, even, even], [np.eye(D)[[0] * B]] * 2, 0.1
    )
    np.testing.assert_allclose(value, np.log(D) * 2 / 3)
