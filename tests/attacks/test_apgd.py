"""APGD against algorithm 1 in slow numpy, and against closed forms on linear models."""

import numpy as np
import pytest
import tensorflow as tf

from tfssl import randomness
from tfssl.attacks.apgd import APGD, few_rises
from tfssl.attacks.balls import L2, Linf
from tfssl.attacks.goals import misclassified
from tfssl.types import UserError

SHAPE = (3, 3, 2)
INPUTS = 18
LOSSES = ["cross_entropy", "dlr", "targeted_dlr"]
BALLS = {"linf": Linf(), "l2": L2()}


class TanhNetwork:
    """W2 tanh(W1 x): in TensorFlow, and with its gradient in numpy.

    Its weights are large: in a ball it is far from linear.
    """

    def __init__(self, classes, hidden=12, seed=0):
        rng = np.random.default_rng(seed)
        self.w1 = rng.normal(0, 3, (INPUTS, hidden))
        self.w2 = rng.normal(0, 0.5, (hidden, classes))
        self.seen = []

    def __call__(self, image):
        if tf.executing_eagerly():
            self.seen.append(np.array(image))
        flat = tf.reshape(image, [-1, INPUTS])
        w1, w2 = tf.constant(self.w1, tf.float32), tf.constant(self.w2, tf.float32)
        return tf.tanh(flat @ w1) @ w2

    def logits(self, x):
        return np.tanh(x.ravel() @ self.w1) @ self.w2

    def gradient(self, x, by_logits):
        hidden = np.tanh(x.ravel() @ self.w1)
        return (self.w1 @ ((1 - hidden**2) * (self.w2 @ by_logits))).reshape(x.shape)


def slow_loss(loss, y, t, z):
    """Value, and gradient by the logits, from the definitions."""
    one = np.eye(len(z))
    if loss == "cross_entropy":
        p = np.exp(z) / np.exp(z).sum()
        return -np.log(p[y]), p - one[y]
    order = np.argsort(-z)
    if loss == "dlr":
        t = order[0] if order[0] != y else order[1]
    lower = order[2:3] if loss == "dlr" else order[2:4]
    if len(z) < (3 if loss == "dlr" else 4):
        return z[t] - z[y], one[t] - one[y]
    scale = z[order[0]] - z[lower].mean()
    by_scale = one[order[0]] - one[lower].mean(0)
    value = (z[t] - z[y]) / scale
    return value, (one[t] - one[y]) / scale - value * by_scale / scale


def margin(network, x, y):
    logits = network.logits(x)
    return np.delete(logits, y).max() - logits[y]


def slow_apgd(network, loss, ball, x0, y, t, start, epsilon, steps, rho=0.75):
    """Algorithm 1 for one image; yields every iterate that is evaluated.

    With each: whether rounding to float32 can have turned no decision on the way there.
    Ends after the first that is misclassified.
    """

    def project(z):
        d = z - x0
        if ball == "linf":
            d = np.clip(d, -epsilon, epsilon)
        else:
            d = d * min(1, epsilon / max(np.sqrt((d**2).sum()), 1e-12))
        return np.clip(x0 + d, 0, 1)

    def evaluate(x):
        value, by_logits = slow_loss(loss, y, t, network.logits(x))
        return value, network.gradient(x, by_logits)

    checkpoints, p, width = [], 0, max(int(0.22 * steps), 1)
    while p <= steps:
        p += width
        checkpoints.append(p)
        width = max(width - max(int(0.03 * steps), 1), max(int(0.06 * steps), 1))

    def unclear(a, b):
        return 0 < abs(a - b) < 3e-6

    x, before, eta, clear = start, start, 2 * epsilon, True
    f, g = evaluate(x)
    yield x, clear
    best, best_f, best_g = x, f, g
    history, last_checkpoint, last_best, halved = [f], 0, f, True
    for k in range(steps):
        if margin(network, x, y) > 0:
            return
        direction = np.sign(g) if ball == "linf" else g / np.sqrt((g**2).sum())
        clear &= ball == "l2" or np.abs(g).min() > 1e-5 * np.abs(g).max()
        z = project(x + eta * direction)
        a = 0.75 if k else 1
        x, before = project(x + a * (z - x) + (1 - a) * (x - before)), x
        f, g = evaluate(x)
        yield x, clear
        clear &= not unclear(f, history[-1]) and not unclear(f, best_f)
        history.append(f)
        if f > best_f:
            best, best_f, best_g = x, f, g
        if k + 1 in checkpoints:
            window = range(last_checkpoint, k + 1)
            rises = sum(history[i + 1] > history[i] for i in window)
            condition1 = rises <= rho * len(window)
            condition2 = not halved and best_f == last_best
            halved = condition1 or condition2
            if halved:
                eta, x, g = eta / 2, best, best_g
            last_checkpoint, last_best = k + 1, best_f


def slow_start(ball, loss, x0, seed, epsilon, run):
    """The start of a run, by the same draws; the border is reached."""
    seed = randomness.fold(tf.constant(seed[None]), loss) + [[0, run]]
    noise = ball.random(seed, SHAPE, 1.0).numpy()[0].astype(np.float64)
    size = np.abs(noise).max() if ball.name == "linf" else np.sqrt((noise**2).sum())
    return np.clip(x0 + epsilon * noise / size, 0, 1)


def examples(n, low=0.0, high=1.0, seed=1):
    rng = np.random.default_rng(seed)
    image = rng.uniform(low, high, (n, *SHAPE)).astype(np.float32)
    return image, rng.integers(-(2**31), 2**31 - 1, (n, 2)).astype(np.int32)


@pytest.mark.parametrize(
    ("name", "loss", "classes", "targets", "restarts"),
    [
        ("linf", "cross_entropy", 5, 1, 1),
        ("l2", "cross_entropy", 5, 1, 1),
        ("linf", "dlr", 5, 1, 2),
        ("l2", "dlr", 5, 1, 1),
        ("l2", "dlr", 2, 1, 1),
        ("linf", "targeted_dlr", 5, 2, 2),
        ("l2", "targeted_dlr", 5, 1, 1),
        ("linf", "targeted_dlr", 3, 2, 1),
    ],
)
def test_every_iterate_is_that_of_algorithm_1(name, loss, classes, targets, restarts):
    """In all runs (restarts within targets), of examples that nothing breaks."""
    network, ball, steps = TanhNetwork(classes), BALLS[name], 20
    epsilon = {"linf": 0.04, "l2": 0.24}[name]

    image, seed, label, paths = *examples(30), [], []
    for x0, own in zip(image.astype(np.float64), seed, strict=True):
        order = np.argsort(-network.logits(x0))
        label.append(order[0])
        paths.append([])
        for run in range(targets * restarts):
            start = slow_start(ball, loss, x0, own, epsilon, run)
            target = order[1 + run // restarts]
            paths[-1] += slow_apgd(
                network, loss, name, x0, order[0], target, start, epsilon, steps
            )
    best = [
        max(margin(network, x, y) for x, _ in path)
        for path, y in zip(paths, label, strict=True)
    ]
    rows = np.flatnonzero(np.array(best) < -0.01)[:5]
    assert len(rows) == 5

    attack = APGD(ball, loss, epsilon, steps=steps, restarts=restarts, targets=targets)
    inputs = image[rows], np.array(label, np.int32)[rows], seed[rows]
    found = attack.perturb(network, *map(tf.constant, inputs)).numpy()
    assert len(network.seen) == 1 + targets * restarts * (steps + 1)
    compared = []
    for i, row in enumerate(rows):
        want, clear = map(np.array, zip(*paths[row], strict=True))
        got = np.stack([x[i] for x in network.seen[1:]])
        np.testing.assert_allclose(got[clear], want[clear], atol=1e-5)
        compared += [*clear]
        highest = max(margin(network, x, label[row]) for x in got)
        np.testing.assert_allclose(
            margin(network, found[i], label[row]), highest, atol=1e-5
        )
    assert np.mean(compared) > 0.6


def test_checkpoints():
    most = few_rises(100, 0.75)
    checkpoints = np.flatnonzero(most >= 0)
    assert checkpoints.tolist() == [22, 41, 57, 70, 80, 87, 93, 99]
    windows = np.diff([0, *checkpoints])
    np.testing.assert_array_equal(most[checkpoints], np.floor(0.75 * windows))
    assert few_rises(1, 0.75).tolist() == [-1, 0]


def linear(n, classes, seed=2):
    """A linear model, images far from 0 and 1, and each image's robust radii."""
    rng = np.random.default_rng(seed)
    w = rng.normal(size=(INPUTS, classes)).astype(np.float32)
    image, seeds = examples(n, 0.4, 0.6)
    # Biases that make up for the part of the logits that all images share.
    b = -0.5 * w.sum(0)

    def logits_fn(x):
        return tf.reshape(x, [-1, INPUTS]) @ w + b

    z = logits_fn(image).numpy().astype(np.float64)
    label = z.argmax(1).astype(np.int32)
    radii = {"linf": np.full(n, np.inf), "l2": np.full(n, np.inf)}
    for i, y in enumerate(label):
        for t in set(range(classes)) - {y}:
            d = w[:, y] - w[:, t]
            dual = {"linf": np.abs(d).sum(), "l2": np.sqrt((d**2).sum())}
            for name in radii:
                radii[name][i] = min(radii[name][i], (z[i, y] - z[i, t]) / dual[name])
    return logits_fn, image, label, seeds, radii


@pytest.mark.parametrize("name", ["linf", "l2"])
@pytest.mark.parametrize(
    ("loss", "classes"), [("cross_entropy", 2), ("targeted_dlr", 4)]
)
def test_breaks_what_can_be_broken_and_nothing_else(name, loss, classes):
    logits_fn, image, label, seed, radii = linear(60, classes)
    radius = radii[name]
    run = tf.function(
        APGD(BALLS[name], loss, steps=40).perturb,
    )
    for i in (10, 30, 50):
        target = np.sort(radius)[i]
        for epsilon in (target * 0.999, target * 1.001):
            assert epsilon < 0.4
            got = run(logits_fn, image, label, seed, tf.constant(epsilon, tf.float32))
            broken = logits_fn(got).numpy().argmax(1) != label
            np.testing.assert_array_equal(broken, radius < epsilon)


def test_only_the_third_target_breaks():
    """Each class has a pixel of its own; that of the last moves its logit furthest."""
    gain = tf.constant([0.0, 1.0, 1.0, 10.2])
    bias = tf.constant([1.0, 0.8, 0.7, 0.5])

    def logits_fn(x):
        return (tf.reshape(x, [-1, 4]) - 0.5) * gain + bias

    image, label = tf.fill([20, 2, 2, 1], 0.5), tf.zeros([20], tf.int32)
    seed = tf.constant(examples(20)[1])
    broken = {}
    for targets in (2, 3):
        attack = APGD(Linf(), "targeted_dlr", 0.05, steps=10, targets=targets)
        got = attack.perturb(logits_fn, image, label, seed)
        broken[targets] = np.mean(tf.argmax(logits_fn(got), 1) == 3)
    # A start can be as good as the target.
    assert broken[2] < 0.5
    assert broken[3] == 1


@pytest.mark.parametrize(("ball", "epsilon"), [(Linf(), 0.05), (L2(), 0.2)])
def test_ball_misclassified_images_and_independence_of_the_batch(ball, epsilon):
    network = TanhNetwork(5)
    image, seed = map(tf.constant, examples(32))
    label = tf.argmax(network(image), 1, tf.int32)
    label = tf.where(tf.range(32) < 3, (label + 1) % 5, label)
    attack = APGD(ball, "targeted_dlr", steps=12, restarts=2, targets=3)

    def run(rows, epsilon):
        parts = (tf.gather(x, rows) for x in (image, label, seed))
        return attack.perturb(network, *parts, epsilon)

    run = tf.function(
        run, [tf.TensorSpec([None], tf.int32), tf.TensorSpec([], tf.float32)]
    )
    got = run(tf.range(32), tf.constant(epsilon)).numpy()
    won = (tf.argmax(network(got), 1, tf.int32) != label).numpy()
    assert won[:3].all()
    assert 5 < won[3:].sum() < 24, "some are broken, some are not"
    np.testing.assert_array_equal(got[:3], image[:3])
    delta = got.astype(np.float64) - image.numpy()
    size = np.abs(delta).max((1, 2, 3))
    if ball.name == "l2":
        size = np.sqrt((delta**2).sum((1, 2, 3)))
    assert 0.9 * epsilon < size.max() <= epsilon + 1e-7
    assert 0 <= got.min() <= got.max() <= 1

    for rows in ([7], [30, 2, 11, 19, 4]):
        alone = run(tf.constant(rows), tf.constant(epsilon))
        np.testing.assert_allclose(alone, got[rows], atol=1e-5)
    same = run(tf.range(32), tf.constant(0.0))
    np.testing.assert_array_equal(same, image)


def test_ends_with_the_first_misclassified_iterate():
    seen = []

    def logits_fn(x):
        seen.append(x.numpy())
        value = tf.reduce_mean(x, [1, 2, 3])
        return tf.stack([0.5 - value, tf.zeros_like(value)], 1)

    attack, seed = APGD(Linf(), epsilon=0.1, restarts=2), tf.constant([[0, 1]])
    for brightness, passes in ((0.6, 1), (0.45, 3)):
        seen.clear()
        image = tf.fill([1, *SHAPE], brightness)
        got = attack.perturb(logits_fn, image, tf.constant([0]), seed)
        assert len(seen) == passes
        np.testing.assert_array_equal(got, seen[-1])


def test_eot_follows_the_mean_gradient():
    """Three linear models in turn; steps = 1, so two iterates of three passes each."""
    rng = np.random.default_rng(0)
    w = rng.normal(size=(3, INPUTS, 2)).astype(np.float32)
    turn, seen = tf.Variable(-2), []

    def logits_fn(x):
        seen.append(x.numpy())
        logits = tf.reshape(x - 0.5, [-1, INPUTS]) @ tf.gather(
            w, turn.assign_add(1) % 3
        )
        # Two of three passes are lost: nothing may end for it.
        return logits + (tf.constant([50.0, 0]) if turn % 3 == 2 else [0, 50.0])

    image, seed = examples(1, 0.4, 0.6)
    attack = APGD(L2(), "dlr", 0.1, steps=1, eot=3)
    inputs = image, np.array([0], np.int32), seed
    attack.perturb(logits_fn, *map(tf.constant, inputs))
    assert len(seen) == 1 + 2 * 3
    start, following = seen[1], seen[4]
    np.testing.assert_array_equal(start, seen[3])
    gradient = (w[..., 1] - w[..., 0]).mean(0).reshape(SHAPE)
    want = start - image + 0.2 * gradient / np.sqrt((gradient**2).sum())
    want *= 0.1 / np.sqrt((want**2).sum())
    np.testing.assert_allclose(following - image, want, atol=1e-6)


@pytest.mark.parametrize(("ball", "epsilon"), [(Linf(), 0.2), (L2(), 0.3)])
def test_nan_is_a_win_and_stops_nothing(ball, epsilon):
    """Bright images have NaN logits, and one pixel has a NaN gradient everywhere."""

    factor = np.ones(SHAPE, np.float32)
    factor[0, 0, 0] = np.nan

    @tf.custom_gradient
    def spoilt(x):
        return tf.identity(x), lambda gradient: gradient * factor

    def logits_fn(x):
        value = tf.reduce_mean(spoilt(x), [1, 2, 3])
        value = tf.where(value > 0.58, np.nan, value)
        return tf.stack([0.53 - value, tf.zeros_like(value)], 1)

    image, seed = tf.fill([4, *SHAPE], 0.5), tf.constant(examples(4)[1])
    label = tf.zeros([4], tf.int32)
    got = APGD(ball, epsilon=epsilon, steps=30).perturb(logits_fn, image, label, seed)
    assert np.isfinite(got).all()
    assert misclassified(label, logits_fn(got)).numpy().all()

    got = APGD(ball, epsilon=epsilon, steps=3).perturb(
        lambda x: logits_fn(x) * np.nan, image, label, seed
    )
    np.testing.assert_array_equal(got, image)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": "margin"}, "cross_entropy, dlr, targeted_dlr"),
        ({"steps": 0}, "positive integer"),
        ({"restarts": 1.5}, "positive integer"),
        ({"targets": True}, "positive integer"),
        ({"eot": "two"}, "positive integer"),
        ({"rho": 75}, "between 0 and 1"),
        ({"rho": "0.75"}, "between 0 and 1"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(UserError, match=message):
        APGD(**{"ball": Linf(), **settings})


def test_eot_beats_one_draw():
    """A linear model under noise: single draws end runs that have hardly begun."""
    w = np.random.default_rng(0).normal(size=(INPUTS, 2)).astype(np.float32)

    def logits_fn(x):
        noisy = x - 0.5 + 0.2 * tf.random.normal(tf.shape(x))
        return 5 * tf.reshape(noisy, [-1, INPUTS]) @ w

    def accuracy(x, label):
        draws = [tf.argmax(logits_fn(x), 1, tf.int32) == label for _ in range(50)]
        return np.mean(draws)

    image, seed = examples(64, 0.4, 0.6)
    image, seed = tf.constant(image), tf.constant(seed)
    label = tf.argmax(tf.reshape(image - 0.5, [-1, INPUTS]) @ w, 1, tf.int32)
    found = {
        eot: APGD(L2(), epsilon=0.2, steps=10, eot=eot).perturb(
            logits_fn, image, label, seed
        )
        for eot in (1, 10)
    }
    assert accuracy(found[10], label) < accuracy(found[1], label) - 0.03
