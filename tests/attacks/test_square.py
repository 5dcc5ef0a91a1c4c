"""Square against slow numpy, a closed form on a linear model, and its promises."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from tfssl import randomness
from tfssl.attacks import square
from tfssl.attacks.balls import L2, Linf
from tfssl.attacks.goals import misclassified
from tfssl.attacks.square import Square
from tfssl.types import UserError

N, H, W, C, K = 6, 11, 14, 3, 4
BALLS = [(Linf(), 0.05), (L2(), 0.5)]


@pytest.fixture(scope="module")
def network():
    rng = np.random.default_rng(0)
    kernel = rng.normal(0, 0.4, (3, 3, C, 6)).astype(np.float32)
    weights = rng.normal(0, 0.1, (9 * 12 * 6, K)).astype(np.float32)

    @tf.function(input_signature=[tf.TensorSpec([None, H, W, C])])
    def logits_fn(x):
        hidden = tf.tanh(tf.nn.conv2d(x - 0.5, kernel, 1, "VALID"))
        return tf.reshape(hidden, [-1, 9 * 12 * 6]) @ weights

    return logits_fn


@pytest.fixture(scope="module")
def data(network):
    """The first image is misclassified, the others are not."""
    rng = np.random.default_rng(0)
    image = rng.uniform(size=(N, H, W, C)).astype(np.float32)
    label = np.argmax(network(image), -1).astype(np.int32)
    label[0] = (label[0] + 1) % K
    seed = rng.integers(0, 2**31 - 1, (N, 2)).astype(np.int32)
    return tf.constant(image), tf.constant(label), tf.constant(seed)


def slow_side(proposal, h, w, p=0.8):
    """Section 5: p is halved after these numbers of proposals."""
    for halving in (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000):
        if proposal > halving:
            p /= 2
    return round(np.sqrt(p * h * w))


@functools.cache
def slow_eta(h):
    """Equation 2, with row and column numbers from 1 as in the paper."""
    eta = np.zeros((h, h))
    for first, rows, sign in ((0, h // 2, 1), (h // 2, h - h // 2, -1)):
        n = max(rows, h) // 2
        bump = np.zeros((rows, h))
        for r in range(1, rows + 1):
            for s in range(1, h + 1):
                m = n - max(abs(r - rows // 2 - 1), abs(s - h // 2 - 1))
                bump[r - 1, s - 1] = sum(1 / (n + 1 - k) ** 2 for k in range(m + 1))
        if rows:
            eta[first : first + rows] = sign * bump / np.sqrt((bump**2).sum())
    return eta / np.sqrt((eta**2).sum())


def sign(draw):
    return -1 if draw < 0.5 else 1


def slow_start(ball, x, draws, epsilon):
    draws, (h, w, c) = iter(draws), x.shape
    delta = np.zeros_like(x)
    if ball == "linf":
        for column in range(w):
            for i in range(c):
                delta[:, column, i] = epsilon * sign(next(draws))
    else:
        s = min(h, w) // 5
        for row in range(h % s // 2, h - s + 1, s):
            for column in range(w % s // 2, w - s + 1, s):
                eta = slow_eta(s).T if next(draws) < 0.5 else slow_eta(s)
                for i in range(c):
                    tile = sign(next(draws)) * eta
                    delta[row : row + s, column : column + s, i] = tile
        delta *= epsilon / np.sqrt((delta**2).sum())
    return np.clip(x + delta, 0, 1)


def slow_linf(x, best, draws, side, epsilon):
    """Algorithm 2, then the projection of algorithm 1."""
    h, w, c = x.shape
    side = min(max(side, 1), h, w)
    r, s = (int(u * (n - side + 1)) for u, n in zip(draws, (h, w), strict=False))
    delta = np.zeros_like(x)
    for i in range(c):
        delta[r : r + side, s : s + side, i] = 2 * epsilon * sign(draws[2 + i])
    return np.clip(np.clip(best + delta, x - epsilon, x + epsilon), 0, 1)


def slow_l2(x, best, draws, side, epsilon):
    """Algorithm 3, then the projection of algorithm 1."""
    h, w, c = x.shape
    side = max(side, 3)
    side = min(side + 1 - side % 2, h, w)
    corners = [
        int(u * (n - side + 1)) for u, n in zip(draws, (h, w, h, w), strict=False)
    ]
    w1 = np.s_[corners[0] : corners[0] + side, corners[1] : corners[1] + side]
    w2 = np.s_[corners[2] : corners[2] + side, corners[3] : corners[3] + side]
    either = np.zeros((h, w), bool)
    either[w1] = either[w2] = True
    eta = slow_eta(side).T if draws[4] < 0.5 else slow_eta(side)
    nu = best - x
    unused = max(epsilon**2 - (nu**2).sum(), 0)
    for i in range(c):
        available = np.sqrt((nu[..., i][either] ** 2).sum() + unused / c)
        temp = sign(draws[5 + i]) * eta
        old = np.sqrt((nu[..., i][w1] ** 2).sum())
        if old > 0:
            temp = temp + nu[..., i][w1] / old
        nu[..., i][w2] = 0
        nu[..., i][w1] = temp / np.sqrt((temp**2).sum()) * available
    nu *= epsilon / np.sqrt((nu**2).sum())
    return np.clip(x + nu, 0, 1)


def slow_square(ball, logits_fn, image, label, seed, epsilon, queries):
    """Algorithm 1, image by image but for the logits."""

    def margin(x):
        z = logits_fn(tf.constant(x, tf.float32)).numpy()
        return [z[i, y] - np.delete(z[i], y).max() for i, y in enumerate(label)]

    propose = {"linf": slow_linf, "l2": slow_l2}[ball]
    h, w, c = image.shape[1:]
    stream = randomness.fold(seed, "square")
    uniforms = tf.function(randomness.uniforms)
    draws = uniforms(stream, 0, 1000).numpy()
    best = [
        slow_start(ball, x, u, epsilon)
        for x, u in zip(image.astype(float), draws, strict=True)
    ]
    done, lowest = [m < 0 for m in margin(image)], margin(best)
    best = [x if d else b for x, b, d in zip(image, best, done, strict=True)]
    done = [d or m < 0 for d, m in zip(done, lowest, strict=True)]
    for query in range(1, queries):
        draws = uniforms(stream, tf.constant(query), 5 + c).numpy()
        side = slow_side(query - 1, h, w)
        new = [
            propose(x.astype(float), b, u, side, epsilon)
            for x, b, u in zip(image, best, draws, strict=True)
        ]
        for i, found in enumerate(margin(new)):
            if not done[i] and found < lowest[i]:
                best[i], lowest[i], done[i] = new[i], found, found < 0
    return np.stack(best), np.array(done)


@pytest.mark.parametrize(("ball", "epsilon"), BALLS)
def test_equals_slow_numpy(network, data, ball, epsilon):
    image, label, seed = data
    attack = Square(ball, epsilon, queries=120)
    found = tf.function(attack.perturb)(network, image, label, seed)
    want, done = slow_square(
        ball.name, network, image.numpy(), label.numpy(), seed, epsilon, 120
    )
    np.testing.assert_allclose(found, want, atol=2e-6)
    assert 1 < done.sum() < N, "some are to be broken, and some not"
    won = np.argmax(network(found), -1) != label
    np.testing.assert_array_equal(won, done)


@pytest.mark.parametrize(("ball", "epsilon"), BALLS)
def test_every_query_is_in_the_ball_and_the_box(data, ball, epsilon):
    image, label, seed = data
    image = tf.round(image * 1.2 - 0.1)  # Most pixels are at a bound.
    asked = []

    def logits_fn(x):
        asked.append(x)
        return tf.stack([tf.ones(N), tf.reduce_mean(x, [1, 2, 3]) / 9], 1)

    Square(ball, queries=30).perturb(
        logits_fn, image, tf.zeros_like(label), seed, tf.constant(epsilon)
    )
    assert len(asked) == 1 + 30, "the clean image, and the queries"
    for x in asked:
        assert tf.reduce_max(ball.norm(x - image)) <= epsilon + 1e-6
        assert tf.reduce_min(x) >= 0
        assert tf.reduce_max(x) <= 1
    moved = [np.abs(x - image).sum((1, 2, 3)) for x in asked[1:]]
    assert np.min(moved) > 0


@pytest.mark.parametrize(
    ("ball", "start", "share"), [(Linf(), 0.5, 0.99999), (L2(), 0.5, 0.5)]
)
def test_linear_model_nears_the_closed_form(ball, start, share):
    """The margin of <w, x> can rise by epsilon times the dual norm of w."""
    w = np.random.default_rng(1).normal(size=(6, 5, 2)).astype(np.float32)
    dual = np.abs(w).sum() if ball.name == "linf" else np.sqrt((w**2).sum())
    image, label = tf.fill([3, 6, 5, 2], start), tf.zeros(3, tf.int32)
    seed = tf.constant([[1, 2], [3, 4], [5, 6]])

    def score(x):
        return tf.reduce_sum(x * w, [1, 2, 3])

    def logits_fn(x):
        return tf.stack([100.0 + 0 * score(x), score(x)], 1)

    attack = Square(ball, queries=2500)
    found = tf.function(attack.perturb)(logits_fn, image, label, seed, 0.1)
    rise = score(found) - score(image)
    np.testing.assert_array_less(share * 0.1 * dual, rise)
    np.testing.assert_array_less(rise, 0.1 * dual + 1e-4)


def test_sides_follow_the_published_schedule():
    """On CIFAR: p = 0.8, 0.4, 0.2 ... of 1024 pixels, by the number of proposals."""
    sides = square._sides(32, 32, 0.8, 1)
    proposals = [0, 10, 11, 50, 51, 200, 201, 500, 501, 1001, 2001, 4001, 6001, 8001]
    level = square._level(tf.constant(proposals) + 1).numpy()
    assert sides[level].tolist() == [29, 29, 20, 20, 14, 14, 10, 10, 7, 5, 4, 3, 2, 1]


@pytest.mark.parametrize("side", [1, 2, 3, 4, 7, 29])
def test_bumps_are_equation_2(side):
    np.testing.assert_allclose(square._bumps(side), slow_eta(side), atol=1e-6)


@pytest.mark.parametrize(("ball", "epsilon"), BALLS)
def test_example_does_not_depend_on_its_batch(network, data, ball, epsilon):
    image, label, seed = data
    attack = tf.function(
        Square(ball, epsilon, queries=40).perturb, reduce_retracing=True
    )
    whole = attack(network, image, label, seed)
    for i in (0, 1, 4):
        rows = slice(i, i + 1)
        part = attack(network, image[rows], label[rows], seed[rows])
        np.testing.assert_allclose(whole[rows], part, atol=1e-6)


@pytest.mark.parametrize(("ball", "epsilon"), BALLS)
def test_nothing_to_do(network, data, ball, epsilon):
    image, label, seed = data
    attack = Square(ball, queries=20)
    still = attack.perturb(network, image, label, seed, 0.0)
    np.testing.assert_array_equal(still, image)
    found = attack.perturb(network, image, label, seed, epsilon)
    np.testing.assert_array_equal(found[0], image[0])


@pytest.mark.parametrize(("ball", "epsilon"), BALLS)
def test_the_smallest_images(ball, epsilon):
    image = tf.fill([2, 2, 4, 1], 0.5)
    seed, label = tf.constant([[1, 2], [3, 4]]), tf.zeros(2, tf.int32)

    def logits_fn(x):
        value = tf.reduce_mean(x, [1, 2, 3])
        return tf.stack([tf.ones_like(value), value], 1)

    attack = tf.function(Square(ball, queries=100).perturb)
    found = attack(logits_fn, image, label, seed, epsilon)
    norm = ball.norm(found - image)
    np.testing.assert_allclose(norm, tf.fill([2, 1, 1, 1], epsilon), rtol=1e-4)


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_logits_that_are_not_finite_are_a_win(bad):
    """The brighter the better, beyond a mean of 0.55 without limits."""

    def logits_fn(x):
        value = tf.reduce_mean(x, [1, 2, 3])
        other = tf.where(value < 0.55, value, bad)
        return tf.stack([tf.ones_like(value), other], 1)

    image, label = tf.fill([4, 8, 8, 1], 0.5), tf.zeros(4, tf.int32)
    seed = tf.reshape(tf.range(8), [4, 2])
    attack = tf.function(Square(Linf(), 0.1, queries=60).perturb)
    found = logits_fn(attack(logits_fn, image, label, seed))
    assert misclassified(label, found).numpy().all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"queries": 0}, "positive integer"),
        ({"queries": "many"}, "positive integer"),
        ({"p_init": 0}, "p_init"),
        ({"p_init": 2}, "p_init"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(UserError, match=message):
        Square(**{"ball": Linf(), **settings})


def test_other_balls_are_refused_kindly():
    ball = Linf()
    ball.name = "l1"
    with pytest.raises(UserError, match="linf and l2"):
        Square(ball)
