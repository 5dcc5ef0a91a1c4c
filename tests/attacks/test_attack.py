"""What all attacks have in common: where their epsilon comes from."""

import pytest

from tfssl.attacks.apgd import APGD
from tfssl.attacks.attack import Attack
from tfssl.attacks.balls import L2, Linf
from tfssl.attacks.fab import FAB
from tfssl.attacks.fmn import FMN
from tfssl.attacks.noise import Noise
from tfssl.attacks.pgd import PGD
from tfssl.attacks.square import Square
from tfssl.types import UserError

WITH_EPSILON = [APGD, FAB, Noise, PGD, Square]


class Echo(Attack):
    def _perturb(self, logits_fn, image, label, seed, epsilon):
        return logits_fn, image, label, seed, epsilon


def test_the_callers_epsilon_comes_first():
    attack = Echo(Linf(), "8/255")
    assert attack.perturb(1, 2, 3, 4) == (1, 2, 3, 4, 8 / 255)
    assert attack.perturb(1, 2, 3, 4, 0.0) == (1, 2, 3, 4, 0.0)


@pytest.mark.parametrize("kind", [*WITH_EPSILON, FMN])
def test_epsilon_must_come_from_somewhere(kind):
    with pytest.raises(UserError, match=f"{kind.__name__}.epsilon is not set"):
        kind(Linf()).perturb(None, None, None, None)


@pytest.mark.parametrize("kind", WITH_EPSILON)
def test_epsilon_is_read(kind):
    assert kind(Linf(), epsilon="8/255").epsilon == 8 / 255
    assert kind(L2(), epsilon=8).epsilon == 8
    with pytest.raises(UserError, match="write '8/255' rather than 8"):
        kind(Linf(), epsilon=8)
    with pytest.raises(UserError, match="non-negative"):
        kind(L2(), epsilon="-1/255")


def test_what_no_one_can_set_is_no_setting():
    """Results of FMN have keys without it."""
    assert set(vars(FMN(L2()))) == {"ball", "steps", "step_size", "gamma"}
