"""FAB against slow numpy, the exact distances of linear models, and its promises."""

import numpy as np
import pytest
import tensorflow as tf
from scipy.optimize import linprog, minimize

from tfssl import randomness
from tfssl.attacks.balls import L2, Linf
from tfssl.attacks.fab import FAB
from tfssl.attacks.goals import misclassified
from tfssl.types import UserError

SHAPE, D, K = (4, 4, 1), 16, 5
BALLS = pytest.mark.parametrize("ball", [Linf(), L2()], ids=lambda ball: ball.name)


class Network:
    """tanh in the middle, in TensorFlow and with its Jacobian in numpy."""

    def __init__(self):
        rng = np.random.default_rng(3)
        self.a = rng.normal(size=(D, 12)).astype(np.float32)
        self.b = rng.normal(size=(12, K)).astype(np.float32)

    def __call__(self, image):
        x = tf.reshape(image, [-1, D])
        return tf.tanh((x - 0.5) @ self.a) @ self.b

    def slow(self, x):
        hidden = np.tanh((x - 0.5) @ self.a)
        return hidden @ self.b, (self.b.T * (1 - hidden**2)) @ self.a.T


class Affine:
    """Logits w x + c."""

    def __init__(self, w, c):
        self.w, self.c = w.astype(np.float32), c.astype(np.float32)

    def __call__(self, image):
        return tf.reshape(image, [-1, D]) @ self.w + self.c

    def distances(self, image, label, order):
        """To the boundary with each other class, ignoring the box."""
        z = image.reshape(D) @ self.w + self.c
        others = [j for j in range(len(z)) if j != label]
        normal = self.w[:, others] - self.w[:, [label]]
        return (z[label] - z[others]) / np.linalg.norm(normal, order, axis=0)


@pytest.fixture(scope="module")
def network():
    return Network()


@pytest.fixture(scope="module")
def data(network):
    """Eight images, all but the last classified as labelled."""
    rng = np.random.default_rng(0)
    image = rng.uniform(size=(8, *SHAPE)).astype(np.float32)
    image[::2] = np.clip(image[::2] * 3 - 1, 0, 1)
    label = np.argmax(network(image), 1).astype(np.int32)
    label[-1] = (label[-1] + 1) % K
    seed = rng.integers(0, 2**31 - 1, (8, 2)).astype(np.int32)
    return tf.constant(image), tf.constant(label), tf.constant(seed)


def any_size(attack, model, data):
    """`closest` as a graph that knows nothing of the batch's size."""
    types = [tf.TensorSpec([None, *v.shape[1:]], v.dtype) for v in data]
    return tf.function(
        lambda *data: attack.closest(model, *data), types, autograph=False
    )


def closest(attack, model, *data):
    return any_size(attack, model, data)(*data).numpy()


def lengths(ball, delta):
    delta = np.asarray(delta, np.float64).reshape(len(delta), -1)
    return np.linalg.norm(delta, np.inf if ball.name == "linf" else 2, axis=1)


def slow_projection(name, point, w, b):
    """Moves along sign(w) or w, entries stopping at their bounds, until it is there."""
    gap = b - w @ point
    way = np.sign(gap) * (np.sign(w) if name == "linf" else w)
    low, high = 0.0, 1e6
    for _ in range(100):
        t = (low + high) / 2
        delta = np.clip(t * way, -point, 1 - point)
        low, high = (low, t) if abs(w @ delta) > abs(gap) else (t, high)
    return delta


def slow_fab(ball, network, image, label, directions, radius, targets, restarts, steps):
    """Algorithm 1 of Croce & Hein 2020 for one image, without the final search."""
    order = np.inf if ball.name == "linf" else 2
    dual = 1 if ball.name == "linf" else 2
    z, _ = network.slow(image)
    classes = [s for s in np.argsort(-z) if s != label]
    groups = [classes] if targets is None else [[s] for s in classes[:targets]]
    out, u = image, np.inf
    for run in range(len(groups) * restarts):
        x = image
        if run % restarts:
            x = np.clip(image + min(u, radius) / 2 * directions[run], 0, 1)
        for _ in range(steps):
            z, jacobian = network.slow(x)
            group = groups[run // restarts]
            s = min(
                group,
                key=lambda s: (
                    abs(z[s] - z[label])
                    / np.linalg.norm(jacobian[s] - jacobian[label], dual)
                ),
            )
            w = jacobian[s] - jacobian[label]
            b = w @ x - (z[s] - z[label])
            delta = slow_projection(ball.name, x, w, b)
            delta_orig = slow_projection(ball.name, image, w, b)
            size = np.linalg.norm(delta, order)
            alpha = min(size / (size + np.linalg.norm(delta_orig, order)), 0.1)
            x = (1 - alpha) * (x + 1.05 * delta) + alpha * (image + 1.05 * delta_orig)
            x = np.clip(x, 0, 1)
            if np.argmax(network.slow(x)[0]) != label:
                if np.linalg.norm(x - image, order) < u:
                    out, u = x, np.linalg.norm(x - image, order)
                x = 0.1 * image + 0.9 * x
    return out


@BALLS
@pytest.mark.parametrize(("targets", "restarts"), [(None, 1), (None, 3), (3, 2)])
def test_equals_slow_numpy(network, data, ball, targets, restarts):
    image, label, seed = data
    radius = {"linf": 0.2, "l2": 0.6}[ball.name]
    attack = FAB(ball, radius, steps=7, targets=targets, restarts=restarts)
    got = closest(attack, network, image, label, seed)

    stream = randomness.fold(seed, "start")
    directions = []
    for run in range((targets or 1) * restarts):
        delta = ball.random(stream + [0, run], SHAPE, 1.0)
        directions.append(np.reshape(delta / ball.norm(delta), (-1, D)))
    directions = np.stack(directions, 1)
    for i in range(7):
        x = image[i].numpy().astype(np.float64).reshape(D)
        expected = slow_fab(
            ball, network, x, label[i], directions[i], radius, targets, restarts, 7
        )
        assert np.any(expected != x)
        np.testing.assert_allclose(got[i].reshape(D), expected, atol=1e-4)
    np.testing.assert_array_equal(got[-1], image[-1])


def affine(image_low, image_high):
    rng = np.random.default_rng(1)
    w, image = rng.normal(size=(D, K)), rng.uniform(image_low, image_high, (6, *SHAPE))
    image = np.clip(image, 0, 1).astype(np.float32)
    model = Affine(w, -0.5 * w.sum(0))
    label = np.argmax(model(image), 1).astype(np.int32)
    return model, tf.constant(image), tf.constant(label), tf.zeros([6, 2], tf.int32)


@BALLS
@pytest.mark.parametrize(
    ("targets", "eta", "at_most"), [(None, 1.0005, 1.001), (K, 1.05, 1.006)]
)
def test_distance_of_linear_model(ball, targets, eta, at_most):
    model, image, label, seed = affine(0.4, 0.6)
    dual = 1 if ball.name == "linf" else 2
    exact = [
        model.distances(x, y, dual).min()
        for x, y in zip(image.numpy(), label.numpy(), strict=True)
    ]
    attack = FAB(ball, steps=5, targets=targets, eta=eta)
    found = closest(attack, model, image, label, seed)
    assert np.all(np.argmax(model(found), 1) != label)
    ratio = lengths(ball, found - image) / exact
    assert 0.9999 < ratio.min() <= ratio.max() < at_most


def smallest(ball, x, normal, value):
    """min ||delta|| with value + <normal, delta> >= 0 in the box, by scipy."""
    if ball.name == "l2":
        found = minimize(
            lambda delta: delta @ delta,
            np.clip(normal, -x, 1 - x),
            jac=lambda delta: 2 * delta,
            bounds=[*zip(-x, 1 - x, strict=True)],
            constraints={
                "type": "ineq",
                "fun": lambda delta: value + normal @ delta,
                "jac": lambda delta: normal,
            },
            method="SLSQP",
            options={"ftol": 1e-12, "maxiter": 500},
        )
        return np.sqrt(found.fun) if found.success else np.inf
    eye, one = np.eye(D), np.ones((D, 1))
    found = linprog(
        np.r_[np.zeros(D), 1],
        A_ub=np.vstack([np.c_[eye, -one], np.c_[-eye, -one], [np.r_[-normal, 0]]]),
        b_ub=np.r_[np.zeros(2 * D), value],
        bounds=[*zip(-x, 1 - x, strict=True), (0, None)],
    )
    return found.fun if found.success else np.inf


@BALLS
def test_distance_of_linear_model_in_the_box(ball):
    model, image, label, seed = affine(-0.6, 1.6)
    attack = FAB(ball, steps=5, targets=K - 1, eta=1.0005)
    found = closest(attack, model, image, label, seed)
    got = lengths(ball, found - image)
    binding = 0
    for i in range(6):
        x, y = image[i].numpy().astype(np.float64).reshape(D), int(label[i])
        z = x @ model.w + model.c
        exact = min(
            smallest(ball, x, model.w[:, j] - model.w[:, y], z[j] - z[y])
            for j in range(K)
            if j != y
        )
        dual = 1 if ball.name == "linf" else 2
        binding += exact > 1.01 * model.distances(x, y, dual).min()
        assert exact * 0.9999 < got[i] < exact * 1.001
    assert binding >= 4


def test_targets_are_the_runners_up():
    """The second class is far, for its logit hardly moves; the third is near."""
    w = np.zeros((D, 3))
    w[0, 1], w[1, 2] = 1.0, 100.0
    model = Affine(w, np.array([1.0, 0.3, -50.0]))
    image = tf.fill([1, *SHAPE], 0.5)
    assert np.argsort(-model(image))[0].tolist() == [0, 1, 2]
    for targets, distance in [(1, 0.2), (2, 0.01), (9, 0.01), (None, 0.01)]:
        found = FAB(Linf(), steps=5, targets=targets).closest(
            model, image, tf.constant([0]), tf.constant([[0, 0]])
        )
        got = lengths(Linf(), found - image)[0]
        assert got == pytest.approx(distance, rel=0.01)


@pytest.mark.parametrize(("ball", "targets"), [(Linf(), None), (L2(), 2)])
def test_perturb_finds_what_closest_finds(network, data, ball, targets):
    image, label, seed = data
    attack = FAB(ball, steps=10, targets=targets)
    distance = lengths(ball, closest(attack, network, image, label, seed) - image)
    perturb = tf.function(lambda e: attack.perturb(network, image, label, seed, e))
    ordered = np.sort(distance[:-1])
    for epsilon in [*(ordered[:-1] + ordered[1:]) / 2, 0.0, 2 * ordered[-1]]:
        got = perturb(tf.constant(epsilon, tf.float32)).numpy()
        broken = (distance <= epsilon) & (distance > 0)
        np.testing.assert_array_equal(
            np.argmax(network(got), 1)[:-1] != label[:-1], broken[:-1]
        )
        np.testing.assert_array_equal(got[~broken], image[~broken])
        assert (
            lengths(ball, got - image.numpy().astype(np.float64)).max() < epsilon + 1e-6
        )
        assert 0 <= got.min() <= got.max() <= 1


@BALLS
def test_examples_do_not_depend_on_each_other(network, data, ball):
    attack = FAB(ball, 0.3, steps=5, restarts=3)
    run = any_size(attack, network, data)
    together = run(*data).numpy()
    backwards = run(*(v[::-1] for v in data)).numpy()
    alone = [run(*(v[i : i + 1] for v in data))[0] for i in (0, 5)]
    np.testing.assert_allclose(backwards[::-1], together, atol=1e-5)
    np.testing.assert_allclose(alone, together[[0, 5]], atol=1e-5)


def test_cost(network, data):
    """A look at the clean images, then two passes a step for as long as needed."""
    image, label, seed = data
    sizes = []

    def logits_fn(x):
        sizes.append(len(x))
        return network(x)

    attack = FAB(Linf(), steps=4)
    attack.perturb(logits_fn, image[-1:], label[-1:], seed[-1:], 0.1)
    assert sizes == [1]
    sizes.clear()
    attack.closest(logits_fn, image, label, seed)
    assert sizes == [8] + [8] * 8
    sizes.clear()
    attack.perturb(logits_fn, image, label, seed, 1.0)
    assert sizes[0] == 8
    assert sum(sizes) < 8 + 8 * 4


def test_size_of_graph_does_not_depend_on_the_number_of_classes():
    def operations(k):
        weights = tf.random.stateless_normal([D, k], [0, 0])

        # A function of its own, as loaded models are.
        @tf.function
        def logits_fn(x):
            x = tf.cond(tf.reduce_all(x >= 0), lambda: tf.square(x), lambda: x)
            return tf.reshape(x, [-1, D]) @ weights

        @tf.function
        def closest(image, label, seed):
            return FAB(L2(), steps=2).closest(logits_fn, image, label, seed)

        arguments = (
            tf.fill([2, *SHAPE], 0.5),
            tf.constant([1, 2]),
            tf.zeros([2, 2], tf.int32),
        )
        if k < 100:
            label = tf.argmax(logits_fn(arguments[0]), 1, tf.int32)
            assert np.all(closest(arguments[0], label, arguments[2]) != arguments[0])
        graph = closest.get_concrete_function(*arguments).graph.as_graph_def()
        return len(graph.node) + sum(len(f.node_def) for f in graph.library.function)

    assert operations(1000) < operations(10) + 10


@BALLS
def test_nan(network, data, ball):
    """NaN logits are a success, and a pixel without a gradient is left alone."""
    image, label, seed = data

    def logits_fn(x):
        # The gradient of the root is infinite at 0, and 0 * infinity is NaN.
        poisoned = tf.sqrt(x[:, 0, 0] * 0) * 0
        logits = network(tf.concat([x[:, :1] * 0, x[:, 1:]], 1)) + poisoned
        moved = tf.reduce_mean(x, [1, 2, 3])[:, None] > 0.55
        return tf.where(moved, tf.constant(np.nan), logits)

    label = tf.argmax(logits_fn(image), 1, tf.int32)
    found = FAB(ball, steps=10).closest(logits_fn, image, label, seed)
    changed = np.any(found != image, axis=(1, 2, 3))
    assert changed.any()
    np.testing.assert_allclose(found[:, 0, 0], image[:, 0, 0], atol=1e-6)
    assert misclassified(label, logits_fn(found)).numpy()[changed].all()


def test_no_gradient_finds_nothing(data):
    image, label, seed = data
    constant = tf.one_hot(label, K)
    found = FAB(L2(), steps=3).closest(lambda x: constant[: len(x)], image, label, seed)
    np.testing.assert_array_equal(found, image)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "FAB.steps must be a positive integer"),
        ({"restarts": 1.5}, "FAB.restarts must be a positive integer"),
        ({"targets": 0}, "FAB.targets must be a positive integer"),
        ({"alpha_max": 2}, "alpha_max"),
        ({"eta": 0.9}, "eta"),
        ({"beta": 1}, "beta"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(UserError, match=message):
        FAB(**{"ball": Linf(), **settings})
