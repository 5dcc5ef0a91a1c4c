"""FMN against slow numpy, closed forms on linear models, and its promises."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfssl.attacks.balls import L2, Linf
from tfssl.attacks.fmn import FMN
from tfssl.types import UserError

N, K, SHAPE = 12, 5, (8, 8, 3)
NORMS = {
    "linf": lambda x: np.abs(x).max(),
    "l2": lambda x: np.sqrt(np.square(x).sum()),
}
DUAL_NORMS = {"linf": lambda x: np.abs(x).sum(), "l2": NORMS["l2"]}


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input(SHAPE),
            keras.layers.Conv2D(6, 3, activation="tanh"),
            keras.layers.Flatten(),
            keras.layers.Dense(K),
        ]
    )


@pytest.fixture(scope="module")
def data(network):
    """Images, labels that are right but for the first four, seeds."""
    rng = np.random.default_rng(0)
    image = rng.uniform(size=(N, *SHAPE)).astype(np.float32)
    label = network(image).numpy().argmax(1).astype(np.int32)
    label[:4] = (label[:4] + 1) % K
    return tf.constant(image), tf.constant(label), tf.zeros([N, 2], tf.int32)


def norms(ball, found, image):
    delta = found.numpy().astype(np.float64) - image.numpy()
    return np.array([NORMS[ball.name](one) for one in delta])


def closest(attack, network, data):
    return tf.function(lambda: attack.closest(network, *data))()


def margin_and_gradient(network):
    """A function of one image and its label: largest other logit minus the label's."""

    @tf.function
    def run(image, label):
        with tf.GradientTape() as tape:
            tape.watch(image)
            logits = network(image[None])[0]
            others = tf.where(tf.range(K) == label, -np.inf, logits)
            margin = tf.reduce_max(others) - logits[label]
        return margin, tape.gradient(margin, image)

    return run


def slow_fmn(norm, margin_of, image, label, steps, alpha, gamma):
    """Algorithm 1 of Pintor 2021 for one image [h, w, c].

    But for the radius, which only grows until an image has been found.

    Returns:
      The nearest adversarial image or None, how many steps were adversarial, and how
      many of them farther away than one before.
    """
    size, dual_size = NORMS[norm], DUAL_NORMS[norm]
    delta, epsilon, best, wins, farther = np.zeros(SHAPE), 0.0, None, 0, 0
    for k in range(steps):
        h = (1 + np.cos(np.pi * k / steps)) / 2
        alpha_k = alpha / 100 + (alpha - alpha / 100) * h
        gamma_k = 0.001 + (gamma - 0.001) * h
        loss, gradient = margin_of(tf.constant(image + delta, tf.float32), label)
        gradient = gradient.numpy().astype(np.float64)
        if loss > 0:
            wins += 1
            if best is None or size(delta) < size(best):
                best = delta
            else:
                farther += 1
            epsilon = min(epsilon * (1 - gamma_k), size(best))
        elif best is not None:
            epsilon = epsilon * (1 + gamma_k)
        else:
            estimate = size(delta) + abs(float(loss)) / dual_size(gradient)
            epsilon = max(epsilon * (1 + gamma_k), estimate)
        delta = delta + alpha_k * gradient / np.sqrt((gradient**2).sum())
        if norm == "linf":
            delta = np.clip(delta, -epsilon, epsilon)
        else:
            delta = delta * min(1.0, epsilon / size(delta))
        delta = np.clip(image + delta, 0, 1) - image
    return (None if best is None else image + best), wins, farther


@pytest.mark.parametrize("ball", [Linf(), L2()])
def test_equals_slow_numpy(network, data, ball):
    image, label, _ = data
    steps, alpha, gamma = 15, 0.7, 0.4
    got = closest(FMN(ball, steps, alpha, gamma), network, data)
    margin_of, wins, farther = margin_and_gradient(network), 0, 0
    for i in range(N):
        one = image[i].numpy().astype(np.float64)
        want, *counts = slow_fmn(
            ball.name, margin_of, one, label[i], steps, alpha, gamma
        )
        np.testing.assert_allclose(got[i], one if want is None else want, atol=2e-5)
        if i >= 4:
            wins, farther = wins + counts[0], farther + counts[1]
    # All branches were taken.
    assert 0.2 * steps * (N - 4) < wins < 0.8 * steps * (N - 4)
    assert farther > 0


@pytest.mark.parametrize("ball", [Linf(), L2()])
@pytest.mark.parametrize("lead", [0.0, 1.0])
def test_linear_model_reaches_the_closed_form(ball, lead):
    """The distance is min_j (z_y - z_j) / dual norm of (w_y - w_j).

    Images without a lead of their class are so near to the boundary that a search can
    get stuck just short of it.
    """
    n = 40
    rng = np.random.default_rng(1)
    # Columns of a Hadamard matrix: all w_y - w_j are of one norm, and the class of the
    # largest other logit, to which FMN goes, is the nearest.
    w = functools.reduce(np.kron, [[[1, 1], [1, -1]]] * 6)[:, 1 : K + 1]
    w = np.float32(np.repeat(w, 3, axis=0) / np.sqrt(np.prod(SHAPE)))
    noise = rng.uniform(-0.1, 0.1, size=(n, len(w)))
    label = (noise @ w).argmax(1).astype(np.int32)
    image = np.float32(0.5 + noise + lead * w.T[label]).reshape(n, *SHAPE)

    def network(x):
        return tf.reshape(x - 0.5, [-1, len(w)]) @ w

    z = network(tf.constant(image)).numpy()
    want = [
        min(
            (z[i, y] - z[i, j]) / DUAL_NORMS[ball.name](w[:, y] - w[:, j])
            for j in range(K)
            if j != y
        )
        for i, y in enumerate(label)
    ]
    data = (tf.constant(image), tf.constant(label), tf.zeros([n, 2], tf.int32))
    found = closest(FMN(ball), network, data)
    assert np.all(network(found).numpy().argmax(1) != label)
    # Interior, or the closed form would not hold.
    assert 0 < np.min(found) < np.max(found) < 1
    got = norms(ball, found, data[0])
    # Images are rounded to 6e-8 or less, of 192 pixels in l2.
    slack = 1e-6
    assert np.all(got >= np.multiply(want, 1 - 1e-4) - slack)
    assert np.all(got <= np.multiply(want, 1.02) + slack)


@pytest.mark.parametrize("ball", [Linf(), L2()])
def test_is_not_stopped_by_the_bounds(ball):
    """Two thirds of the pixels cannot move to where the gradient points."""
    image = tf.constant(np.float32(np.arange(192).reshape(1, *SHAPE) % 3 > 1))

    def network(x):
        return tf.stack([tf.reduce_sum(x, [1, 2, 3]), tf.fill([len(x)], 50.0)], 1)

    data = (image, tf.constant([0]), tf.zeros([1, 2], tf.int32))
    distance = norms(ball, FMN(ball).closest(network, *data), image)
    # 64 pixels are 1, and 14 are to be taken from their sum.
    want = 14 / 64 if ball.name == "linf" else 14 / 8
    np.testing.assert_allclose(distance, want, rtol=0.02)


def test_nan_gradient_of_a_pixel_stops_that_pixel_alone():
    def network(x):
        # A norm at 0 has the gradient 0 / 0.
        broken = tf.norm(x[:, 0, 0] - 0.5, axis=1, keepdims=True)
        return tf.concat([broken + 0.6 - x[:, 1, 1], x[:, 1, 1] * 0], axis=1)

    data = (tf.fill([1, 2, 2, 1], 0.5), tf.constant([0]), tf.constant([[0, 0]]))
    found = FMN(Linf()).closest(network, *data)[0, :, :, 0]
    np.testing.assert_allclose(found, [[0.5, 0.5], [0.5, 0.6]], atol=1e-3)


@pytest.mark.parametrize("ball", [Linf(), L2()])
def test_perturb_is_the_first_find_of_closest(network, data, ball):
    image, label, _ = data
    attack = FMN(ball, steps=30)
    distance = norms(ball, closest(attack, network, data), image)
    np.testing.assert_array_equal(distance[:4], 0)  # These were misclassified.
    assert np.all(distance[4:] > 0)
    epsilon = np.median(distance[4:])
    perturb = tf.function(lambda e: attack.perturb(network, *data, e))
    found = perturb(tf.constant(epsilon + 1e-6, tf.float32))
    moved = norms(ball, found, image)
    assert moved.max() <= epsilon + 2e-6
    np.testing.assert_array_equal(moved > 0, (distance > 0) & (distance <= epsilon))
    broken = network(found).numpy().argmax(1) != label
    np.testing.assert_array_equal(broken, distance <= epsilon)
    np.testing.assert_array_equal(perturb(tf.constant(0.0)), image)
    assert 0 <= np.min(found) <= np.max(found) <= 1


def test_a_larger_budget_costs_less(network, data):
    """Passes, counted in images."""
    costs = []
    for epsilon in (1e-4, 0.5):
        seen = []

        def counted(x, seen=seen):
            seen.append(len(x))
            return network(x)

        FMN(Linf(), steps=20).perturb(counted, *data, tf.constant(epsilon))
        costs.append(sum(seen))
    assert costs[1] < 5 * N
    # Misclassified images see one pass, the others all.
    assert (N - 4) * 20 + 4 <= costs[0] < N * 20


@pytest.mark.parametrize("ball", [Linf(), L2()])
def test_example_does_not_depend_on_its_batch(network, data, ball):
    attack = FMN(ball, steps=10)
    whole = attack.closest(network, *data)
    for part in (slice(7, 8), slice(9, 3, -2)):
        alone = attack.closest(network, *[value[part] for value in data])
        np.testing.assert_allclose(whole[part], alone, atol=1e-5)


@pytest.mark.parametrize("ball", [Linf(), L2()])
@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_without_a_gradient_the_image_stays(data, ball, value):
    image, _, seed = data
    label = tf.zeros([N], tf.int32)

    def network(x):
        return tf.reduce_sum(x, [1, 2, 3])[:, None] * value + tf.constant([[1.0, 0.0]])

    attack = FMN(ball, steps=3)
    np.testing.assert_array_equal(attack.closest(network, image, label, seed), image)
    attacked = attack.perturb(network, image, label, seed, tf.constant(0.1))
    np.testing.assert_array_equal(attacked, image)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "positive integer"),
        ({"steps": 1.5}, "positive integer"),
        ({"step_size": 0}, "positive"),
        ({"gamma": 1.0}, "between 0 and 1"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(UserError, match=message):
        FMN(Linf(), **settings)
