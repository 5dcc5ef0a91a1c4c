"""The attacks of other libraries, set to the budget that tfssl's get.

A function for each library and framework: from a network and a budget to a dict, from
an attack's name to a function that makes it. What is made takes images and labels in
the framework's own format, and gives images back. Libraries are imported inside, so
that one which is not there is missed alone. What a library lacks is not in its dict.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
import torch

CPU = "/CPU:0"


@dataclasses.dataclass(frozen=True)
class Budget:
    """What an attack may do and spend.

    Attributes:
      ball: 'linf' or 'l2'.
      epsilon: Its radius, images being in [0, 1].
      pgd_steps: Gradients of PGD.
      apgd_steps: Steps of APGD on its own; AutoAttack's is the standard one.
      queries: Of Square on its own, likewise; its schedule is that of AutoAttack where
        the library leaves a choice.
    """

    ball: str
    epsilon: float
    pgd_steps: int
    apgd_steps: int
    queries: int

    @property
    def step_size(self) -> float:
        """Of PGD: those of gin/evaluation/pgd20_linf.gin and pgd20_l2.gin."""
        return self.epsilon * {"linf": 0.25, "l2": 0.125}[self.ball]

    @property
    def order(self) -> float:
        """Of the norm, as numpy has it."""
        return {"linf": np.inf, "l2": 2}[self.ball]

    @property
    def norm(self) -> str:
        """The norm's name in the authors' code and its kin."""
        return {"linf": "Linf", "l2": "L2"}[self.ball]


Attacks = dict[str, Callable[[], Callable[[Any, Any], Any]]]


def torchattacks(network: torch.nn.Module, budget: Budget) -> Attacks:
    import torchattacks as library

    epsilon = budget.epsilon
    common = {"norm": budget.norm, "eps": epsilon, "seed": 0}

    def square(queries):
        return library.Square(network, n_queries=queries, resc_schedule=False, **common)

    def pgd(steps, step_size, random_start):
        kind = library.PGD if budget.ball == "linf" else library.PGDL2
        return kind(network, epsilon, step_size, steps, random_start)

    def autoattack():
        # Its AutoAttack(version='standard') takes 10 steps where the authors take 100,
        # and has another schedule for Square: the same four with the authors' settings.
        return library.MultiAttack(
            [
                library.APGD(network, steps=100, **common),
                library.APGDT(network, steps=100, **common),
                library.FAB(network, steps=100, multi_targeted=True, **common),
                square(5000),
            ]
        )

    return {
        "FGSM": lambda: pgd(1, epsilon, False),
        "PGD": lambda: pgd(budget.pgd_steps, budget.step_size, True),
        "APGD-CE": lambda: library.APGD(network, steps=budget.apgd_steps, **common),
        "Square": lambda: square(budget.queries),
        "AutoAttack": autoattack,
    }


def pyautoattack(network: torch.nn.Module, budget: Budget) -> Attacks:
    """The authors' own code, under the name it has on PyPI."""
    import pyautoattack as library
    from pyautoattack.autopgd_base import APGDAttack
    from pyautoattack.square import SquareAttack

    common = {"norm": budget.norm, "eps": budget.epsilon, "seed": 0}

    def apgd():
        logger = logging.getLogger("auto-attack")
        attack = APGDAttack(network, n_iter=budget.apgd_steps, logger=logger, **common)
        return attack.perturb

    def square():
        attack = SquareAttack(
            network, n_queries=budget.queries, resc_schedule=False, **common
        )
        return attack.perturb

    def autoattack():
        attack = library.AutoAttack(network, version="standard", **common)
        return lambda image, label: attack.run_standard_evaluation(
            image, label, batch_size=len(image)
        )[0]

    return {"APGD-CE": apgd, "Square": square, "AutoAttack": autoattack}


def foolbox_pytorch(network: torch.nn.Module, budget: Budget) -> Attacks:
    import foolbox

    return _foolbox(foolbox.PyTorchModel(network, (0, 1), "cpu"), budget)


def foolbox_tensorflow(network: Callable, budget: Budget) -> Attacks:
    import foolbox

    model = foolbox.TensorFlowModel(tf.function(network), (0, 1), CPU)
    return _foolbox(model, budget)


def _foolbox(model: Any, budget: Budget) -> Attacks:
    from foolbox import attacks

    if budget.ball == "linf":
        fast, iterative = attacks.LinfFastGradientAttack, attacks.LinfPGD
    else:
        fast, iterative = attacks.L2FastGradientAttack, attacks.L2PGD

    def bind(attack):
        # Without the pass that tells foolbox itself what came of it.
        return lambda image, label: attack.run(
            model, image, label, epsilon=budget.epsilon
        )

    return {
        "FGSM": lambda: bind(fast()),
        "PGD": lambda: bind(
            iterative(abs_stepsize=budget.step_size, steps=budget.pgd_steps)
        ),
    }


def art_pytorch(network: torch.nn.Module, budget: Budget) -> Attacks:
    from art.estimators.classification import PyTorchClassifier

    def estimator():
        return PyTorchClassifier(
            network,
            loss=torch.nn.CrossEntropyLoss(),
            input_shape=(3, 32, 32),
            nb_classes=10,
            clip_values=(0.0, 1.0),
            device_type="cpu",
        )

    return _art(estimator, torch.from_numpy, budget)


def art_tensorflow(network: Callable, budget: Budget) -> Attacks:
    from art.estimators.classification import TensorFlowV2Classifier

    graph = tf.function(network)

    def estimator():
        return TensorFlowV2Classifier(
            lambda image, training: graph(image),
            loss_object=tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            input_shape=(32, 32, 3),
            nb_classes=10,
            clip_values=(0.0, 1.0),
        )

    attacks = _art(estimator, tf.constant, budget)
    # Without the long ones: they take longer than on PyTorch.
    return {name: attacks[name] for name in ("FGSM", "PGD", "APGD-CE")}


def _art(estimator: Callable, tensor: Callable, budget: Budget) -> Attacks:
    from art.attacks import evasion

    common = {"norm": budget.order, "eps": budget.epsilon}
    # No smaller batches than the others get.
    batch = {"batch_size": 10**9}
    quiet = {"verbose": False}

    def bind(attack):
        return lambda image, label: tensor(
            attack.generate(image.numpy(), label.numpy())
        )

    def fgsm():
        return bind(evasion.FastGradientMethod(estimator(), **common, **batch))

    def pgd():
        return bind(
            evasion.ProjectedGradientDescent(
                estimator(),
                eps_step=budget.step_size,
                max_iter=budget.pgd_steps,
                num_random_init=1,
                **(common | batch | quiet),
            )
        )

    def apgd(network, steps, loss):
        return evasion.AutoProjectedGradientDescent(
            network,
            eps_step=2 * budget.epsilon,
            max_iter=steps,
            nb_random_init=1,
            loss_type=loss,
            **(common | batch | quiet),
        )

    def square(network, queries):
        return evasion.SquareAttack(
            network, max_iter=queries, **(common | batch | quiet)
        )

    def autoattack():
        # Its own choice of attacks, which has neither targets nor FAB, each run once.
        network = estimator()
        attacks = [
            apgd(network, 100, "cross_entropy"),
            apgd(network, 100, "difference_logits_ratio"),
            evasion.DeepFool(network, epsilon=1e-3, **batch, **quiet),
            square(network, 5000),
        ]
        return bind(evasion.AutoAttack(network, attacks=attacks, **common, **batch))

    return {
        "FGSM": fgsm,
        "PGD": pgd,
        "APGD-CE": lambda: bind(apgd(estimator(), budget.apgd_steps, "cross_entropy")),
        "Square": lambda: bind(square(estimator(), budget.queries)),
        "AutoAttack": autoattack,
    }


def cleverhans_pytorch(network: torch.nn.Module, budget: Budget) -> Attacks:
    from cleverhans.torch.attacks.fast_gradient_method import fast_gradient_method
    from cleverhans.torch.attacks.projected_gradient_descent import (
        projected_gradient_descent,
    )

    return _cleverhans(
        fast_gradient_method, projected_gradient_descent, network, budget
    )


def cleverhans_tensorflow(network: Callable, budget: Budget) -> Attacks:
    from cleverhans.tf2.attacks.fast_gradient_method import fast_gradient_method
    from cleverhans.tf2.attacks.projected_gradient_descent import (
        projected_gradient_descent,
    )

    return _cleverhans(
        fast_gradient_method, projected_gradient_descent, network, budget
    )


def _cleverhans(fast: Callable, iterative: Callable, network: Any, budget: Budget):
    common = {
        "norm": budget.order,
        "eps": budget.epsilon,
        "clip_min": 0.0,
        "clip_max": 1.0,
    }

    def fgsm(image, label):
        return fast(network, image, y=label, **common)

    def pgd(image, label):
        return iterative(
            network,
            image,
            y=label,
            eps_iter=budget.step_size,
            nb_iter=budget.pgd_steps,
            rand_init=True,
            sanity_checks=False,
            **common,
        )

    return {"FGSM": lambda: fgsm, "PGD": lambda: pgd}


PEERS = (
    ("torchattacks", "PyTorch", torchattacks),
    ("pyautoattack", "PyTorch", pyautoattack),
    ("foolbox", "PyTorch", foolbox_pytorch),
    ("foolbox", "TensorFlow", foolbox_tensorflow),
    ("ART", "PyTorch", art_pytorch),
    ("ART", "TensorFlow", art_tensorflow),
    ("cleverhans", "PyTorch", cleverhans_pytorch),
    ("cleverhans", "TensorFlow", cleverhans_tensorflow),
)
