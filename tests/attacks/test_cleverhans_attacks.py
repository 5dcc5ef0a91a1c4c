"""Where cleverhans defines the same thing, the two agree."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfssl.attacks.balls import L2, Linf
from tfssl.attacks.cleverhans_attacks import CleverhansFGM, CleverhansMIM, CleverhansPGD
from tfssl.attacks.pgd import PGD


@pytest.fixture(scope="module")
def setting():
    keras.utils.set_random_seed(1)
    network = keras.Sequential(
        [
            keras.Input((6, 6, 3)),
            keras.layers.Conv2D(8, 3, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(4),
        ]
    )
    rng = np.random.default_rng(0)
    image = tf.constant(rng.uniform(size=(16, 6, 6, 3)), tf.float32)
    label = tf.constant(rng.integers(0, 4, 16), tf.int32)
    return network, image, label, tf.zeros([16, 2], tf.int32)


@pytest.mark.parametrize(("ball", "epsilon"), [(Linf(), 0.05), (L2(), 0.5)])
def test_same_attack_same_images(setting, ball, epsilon):
    network, image, *rest = setting
    if ball.name == "l2":
        # cleverhans also clips to [0, 1] before it projects: stay off the bounds.
        setting = (network, 0.4 + 0.2 * image, *rest)
    ours = {
        "fgm": PGD(ball, steps=1, relative_step_size=1.0, random_start=False),
        "pgd": PGD(ball, steps=7, relative_step_size=0.2, random_start=False),
    }
    theirs = {
        "fgm": CleverhansFGM(ball),
        "pgd": CleverhansPGD(ball, steps=7, relative_step_size=0.2),
    }
    for name, attack in ours.items():
        got = attack.perturb(*setting, epsilon)
        want = theirs[name].perturb(*setting, epsilon)
        np.testing.assert_allclose(got, want, atol=3e-5)


@pytest.mark.parametrize(("ball", "epsilon"), [(Linf(), 0.05), (L2(), 0.5)])
def test_momentum_raises_the_loss_inside_the_ball(setting, ball, epsilon):
    network, image, label, _ = setting
    attacked = CleverhansMIM(ball, steps=5).perturb(*setting, epsilon)
    assert float(tf.reduce_max(ball.norm(attacked - image))) <= epsilon + 1e-6
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=None)
    assert np.all(loss(label, network(attacked)) > loss(label, network(image)))


def test_epsilon_zero_is_clean(setting):
    for attack in (CleverhansFGM(Linf()), CleverhansPGD(L2()), CleverhansMIM(L2())):
        np.testing.assert_array_equal(attack.perturb(*setting, 0.0), setting[1])
