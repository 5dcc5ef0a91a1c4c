"""PGD against slow numpy, closed forms on linear models, and its promises."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfssl import randomness
from tfssl.attacks.balls import L2, Linf
from tfssl.attacks.goals import CrossEntropy, Margin
from tfssl.attacks.pgd import PGD
from tfssl.types import UserError

N, K = 8, 5


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.Conv2D(6, 3, activation="tanh"),
            keras.layers.BatchNormalization(),
            keras.layers.Flatten(),
            keras.layers.Dense(K),
        ]
    )


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    image = rng.uniform(size=(N, 8, 8, 3)).astype(np.float32)
    label = rng.integers(0, K, N).astype(np.int32)
    seed = rng.integers(0, 2**31 - 1, (N, 2)).astype(np.int32)
    return tf.constant(image), tf.constant(label), tf.constant(seed)


def loss_of(network, label):
    return lambda x: keras.losses.sparse_categorical_crossentropy(
        label, network(x, training=False), from_logits=True
    )


def slow_pgd(ball, loss_fn, image, start, epsilon, step_size, steps):
    """Madry 2018, eq. 2, in numpy and image by image but for the gradient."""
    x = start.copy()
    for _ in range(steps):
        with tf.GradientTape() as tape:
            inputs = tf.constant(x)
            tape.watch(inputs)
            loss = loss_fn(inputs)
        gradient = tape.gradient(loss, inputs).numpy().astype(np.float64)
        for i in range(len(x)):
            g = gradient[i]
            step = np.sign(g) if ball == "linf" else g / np.sqrt((g**2).sum())
            delta = x[i] + step_size * step - image[i]
            if ball == "linf":
                delta = np.clip(delta, -epsilon, epsilon)
            else:
                delta *= min(1.0, epsilon / np.sqrt((delta**2).sum()))
            x[i] = np.clip(image[i] + delta, 0, 1)
    return x


@pytest.mark.parametrize(("ball", "epsilon"), [(Linf(), 0.05), (L2(), 0.8)])
@pytest.mark.parametrize("random_start", [False, True])
def test_equals_slow_numpy(network, data, ball, epsilon, random_start):
    image, label, seed = data
    loss_fn = loss_of(network, label)
    attack = PGD(ball, epsilon, steps=4, random_start=random_start)
    got = tf.function(lambda: attack(loss_fn, image, seed))().numpy()
    start = image.numpy()
    if random_start:
        stream = randomness.fold(randomness.fold(seed, "start"), "0")
        start = start + ball.random(stream, (8, 8, 3), epsilon).numpy()
        start = np.clip(start, 0, 1)
    want = slow_pgd(
        ball.name, loss_fn, image.numpy(), start, epsilon, 2.5 * epsilon / 4, 4
    )
    np.testing.assert_allclose(got, want, atol=2e-6)


@pytest.mark.parametrize(("ball", "epsilon"), [(Linf(), 0.1), (L2(), 1.5)])
@pytest.mark.parametrize("keep", ["last", "best"])
def test_stays_in_ball_and_bounds(network, data, ball, epsilon, keep):
    image, label, seed = data
    attack = PGD(ball, epsilon, steps=5, step_size=epsilon, keep=keep)
    got = attack(loss_of(network, label), image, seed)
    assert float(tf.reduce_max(ball.norm(got - image))) <= epsilon + 1e-6
    assert 0 <= float(tf.reduce_min(got)) <= float(tf.reduce_max(got)) <= 1


@pytest.mark.parametrize("ball", [Linf(), L2()])
def test_epsilon_zero_is_clean(network, data, ball):
    image, label, seed = data
    got = PGD(ball, 0.0, steps=3)(loss_of(network, label), image, seed)
    np.testing.assert_array_equal(got, image)


def test_linear_model_reaches_the_closed_form():
    """max <w, x + d> over the ball is <w, x> + epsilon * dual norm of w."""
    rng = np.random.default_rng(1)
    w = rng.normal(size=(8, 8, 3)).astype(np.float32)
    image = tf.fill([2, 8, 8, 3], 0.5)  # Far from the bounds.
    seed = tf.constant([[1, 2], [3, 4]])

    def loss_fn(x):
        return tf.reduce_sum(x * w, [1, 2, 3])

    rise = {
        Linf(): 0.1 * np.abs(w).sum(),
        L2(): 0.1 * np.sqrt(np.square(w).sum()),
    }
    for ball, want in rise.items():
        attack = PGD(ball, 0.1, steps=20, relative_step_size=1.0)
        attacked = attack(loss_fn, image, seed)
        got = loss_fn(attacked) - loss_fn(image)
        np.testing.assert_allclose(got, want, rtol=1e-3)


def test_fgsm_is_a_setting(network, data):
    image, label, seed = data
    loss_fn = loss_of(network, label)
    fgsm = PGD(Linf(), 0.03, steps=1, relative_step_size=1.0, random_start=False)
    with tf.GradientTape() as tape:
        tape.watch(image)
        loss = loss_fn(image)
    want = np.clip(image + 0.03 * np.sign(tape.gradient(loss, image)), 0, 1)
    np.testing.assert_allclose(fgsm(loss_fn, image, seed), want, atol=1e-7)


def test_best_is_the_best_iterate_seen(data):
    """The loss peaks at a mean of 0.6, and steps of 0.09 walk past it."""
    image, _, seed = data
    seen = []

    def loss_fn(x):
        loss = -tf.abs(tf.reduce_mean(x, [1, 2, 3]) - 0.6)
        seen.append(loss.numpy())
        return loss

    kept = PGD(Linf(), 1.0, steps=6, step_size=0.09, keep="best")
    best = kept(loss_fn, image, seed)
    losses = np.stack(seen)
    assert losses.shape == (7, N)
    np.testing.assert_allclose(loss_fn(best), losses.max(0), rtol=1e-6)
    assert np.any(losses.argmax(0) < 6)


def test_a_won_iterate_beats_a_higher_loss():
    """Loss rises with x, but only 0.5 < x < 0.6 has won."""

    def loss_fn(x):
        value = tf.reduce_mean(x, [1, 2, 3])
        return value, (value > 0.5) & (value < 0.6)

    image = tf.fill([1, 2, 2, 1], 0.35)
    attack = PGD(Linf(), 0.5, steps=4, step_size=0.1, random_start=False, keep="best")
    got = attack(loss_fn, image, tf.constant([[0, 0]]))
    np.testing.assert_allclose(tf.reduce_mean(got), 0.55, atol=1e-6)


def test_restarts_never_lose_and_start_with_the_single_run(network, data):
    image, _, seed = data
    label = tf.argmax(network(image), -1, tf.int32)
    goal, runs = Margin(), {}
    for restarts in (1, 4):
        attack = PGD(Linf(), 0.02, steps=2, restarts=restarts, keep="best", goal=goal)
        attacked = attack.perturb(network, image, label, seed)
        runs[restarts] = goal(label, network(attacked))[0].numpy()
    assert np.all(runs[4] >= runs[1])
    assert np.any(runs[4] > runs[1])


@pytest.mark.parametrize("noisy_centre", [False, True])
@pytest.mark.parametrize("restarts", [1, 3])
def test_on_a_classifier_it_stops_at_the_first_success(
    network, data, restarts, noisy_centre
):
    """The first iterate that has won, of all runs in order; else the best of them."""
    image, _, seed = data
    label = tf.argmax(network(image), -1, tf.int32)
    seen = []

    def goal(label, logits):
        loss, won = Margin()(label, logits)
        seen.append((loss.numpy(), won.numpy()))
        return loss, won

    attack = PGD(
        *(Linf(), 0.02, 3),
        restarts=restarts,
        noisy_centre=noisy_centre,
        keep="best",
        goal=Margin(),
    )
    # As a plain loss function, it makes all iterates.
    attack(lambda x: goal(label, network(x)), image, seed)
    losses, won = (np.stack(values) for values in zip(*seen, strict=True))
    assert losses.shape == (4 * restarts, N)
    assert 0 < won.any(0).sum() < N
    want = np.where(won.any(0), losses[won.argmax(0), np.arange(N)], losses.max(0))
    run = tf.function(lambda: attack.perturb(network, image, label, seed))
    np.testing.assert_allclose(Margin()(label, network(run()))[0], want, atol=1e-5)


def test_example_does_not_depend_on_its_batch(network, data):
    image, label, seed = data
    attack = PGD(Linf(), 0.05, steps=3, restarts=2, keep="best")
    whole = attack.perturb(network, image, label, seed)
    part = attack.perturb(network, image[3:5], label[3:5], seed[3:5])
    np.testing.assert_allclose(whole[3:5], part, atol=1e-6)


def test_nest_of_images_and_views(data):
    """Each image of a nest, and each view, has a ball of its own."""
    image, _, seed = data
    inputs = {"image": image, "views": tf.stack([image, image[::-1]], 1)}

    def loss_fn(x):
        return -tf.reduce_sum(x["image"] ** 2, [1, 2, 3]) - tf.reduce_sum(
            x["views"] ** 2, [1, 2, 3, 4]
        )

    got = PGD(L2(), 0.5, steps=5)(loss_fn, inputs, seed)
    for key, dim in (("image", 1), ("views", 2)):
        norm = np.sqrt(
            np.square(got[key] - inputs[key]).sum(tuple(range(dim, dim + 3)))
        )
        assert norm.shape == got[key].shape[:dim]
        np.testing.assert_allclose(norm, 0.5, rtol=0.02)


def test_noisy_centre_reaches_beyond_the_ball(data):
    image, _, seed = data
    image = image * 0.2 + 0.4
    attack = PGD(Linf(), 0.1, steps=10, noisy_centre=True)
    got = attack(lambda x: tf.reduce_sum(x, [1, 2, 3]), image, seed)
    reach = np.abs(got - image).max()
    assert 0.15 < reach <= 0.2 + 1e-6


def test_batch_norm_statistics_stay(network, data):
    image, label, seed = data
    before = [w.numpy() for w in network.non_trainable_weights]
    PGD(Linf(), 0.05, steps=2).perturb(network, image, label, seed)
    for old, new in zip(before, network.non_trainable_weights, strict=True):
        np.testing.assert_array_equal(old, new)


def test_nothing_is_traced_twice(network, data):
    image, label, seed = data
    attack = PGD(Linf(), steps=2)
    traces = []

    @tf.function
    def run(epsilon):
        traces.append(1)
        return attack.perturb(network, image, label, seed, epsilon)

    for epsilon in (0.0, 0.1, 0.2):
        run(tf.constant(epsilon))
    assert len(traces) == 1


def test_nan_gradient_of_a_pixel_stops_that_pixel_alone():
    factor = np.float32([[np.nan, 0], [0, 1]])[None, :, :, None]

    @tf.custom_gradient
    def spoilt(x):
        return tf.identity(x), lambda gradient: gradient * factor

    def loss_fn(x):
        return tf.reduce_sum(spoilt(x), [1, 2, 3])

    image = tf.fill([1, 2, 2, 1], 0.5)
    attack = PGD(Linf(), 0.1, steps=2, random_start=False, keep="best")
    got = attack(loss_fn, image, tf.constant([[0, 0]])).numpy()[0, :, :, 0]
    np.testing.assert_allclose(got, [[0.5, 0.5], [0.5, 0.6]], atol=1e-6)


def test_nan_is_never_kept():
    def loss_fn(x):
        value = tf.reduce_mean(x, [1, 2, 3])
        return tf.where(value > 0.6, tf.constant(np.nan), value)

    image = tf.fill([1, 2, 2, 1], 0.5)
    attack = PGD(Linf(), 0.5, steps=8, step_size=0.05, random_start=False, keep="best")
    got = attack(loss_fn, image, tf.constant([[0, 0]]))
    np.testing.assert_allclose(got, 0.6, atol=1e-6)


@pytest.mark.parametrize("goal", [CrossEntropy(), Margin()])
def test_goals_know_when_they_have_won(goal):
    logits = tf.constant([[2.0, 1.0], [1.0, 2.0], [np.nan, 0.0]])
    _, won = goal(tf.constant([0, 0, 0]), logits)
    assert won.numpy().tolist() == [False, True, True]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "positive integer"),
        ({"steps": "ten"}, "positive integer"),
        ({"restarts": 2}, "keep='best'"),
        ({"step_size": 0.1, "relative_step_size": 0.1}, "not both"),
        ({"relative_step_size": -1.0}, "non-negative"),
        ({"keep": "first"}, "'last' or 'best'"),
        ({"batch_norm": "train"}, "'inference' or 'training'"),
        ({"noisy_centre": True, "random_start": False}, "random_start"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(UserError, match=message):
        PGD(**{"ball": Linf(), **settings})
