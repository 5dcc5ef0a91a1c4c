"""A tiny training of each method, for tests that compare replicas and workers."""

import functools

import keras
import numpy as np
import tensorflow as tf

from tfssl import distribute
from tfssl.attacks.balls import L2, Linf
from tfssl.attacks.pgd import PGD
from tfssl.models.resnet import resnet
from tfssl.objectives.barlow_twins import BarlowTwins
from tfssl.objectives.byol import BYOL
from tfssl.objectives.classification import Classification
from tfssl.objectives.dino import DINO
from tfssl.objectives.jigsaw import Jigsaw
from tfssl.objectives.kl import KL
from tfssl.objectives.mart import BoostedCrossEntropy, WeightedKL
from tfssl.objectives.moco_v2 import MoCoV2
from tfssl.objectives.moco_v3 import MoCoV3
from tfssl.objectives.rocl import RoCL
from tfssl.objectives.rotation import Rotation
from tfssl.objectives.simclr import SimCLR
from tfssl.objectives.simsiam import SimSiam
from tfssl.objectives.swav import SwAV
from tfssl.objectives.vicreg import VICReg
from tfssl.training import optimizers
from tfssl.training.term import Term
from tfssl.training.trainer import Trainer

SHAPE, K, B = (8, 8, 3), 5, 8


def attack(**settings):
    return PGD(**{"ball": Linf(), "epsilon": "8/255", "steps": 3, **settings})


def classify(**settings):
    return Term(
        Classification(), **{"example": "adv", "attack_weight": 1.0, **settings}
    )


def acl(shared):
    return [
        Term(shared, (1.0, 0.5)),
        Term(shared, (1.0, 1.5), "adv", 1.0, "views"),
    ]


METHODS = {
    "standard": lambda: ([Term(Classification())], {}),
    "adversarial": lambda: ([classify()], {}),
    "rotation_clean": lambda: ([classify(), Term(Rotation(), 0.5)], {}),
    "rotation_both": lambda: (
        [classify(), Term(Rotation(), 0.5, "adv", 0.5)],
        {"ema_decay": 0.9},
    ),
    "rotation_attack_only": lambda: ([classify(), Term(Rotation(), 0, "adv", 2.0)], {}),
    "rotation_separate": lambda: (
        [classify(), Term(Rotation(copies=4), 0.5, "ssl", 1.0, "views")],
        {"one_pass": True},
    ),
    "jigsaw_both_l2": lambda: (
        [classify(), Term(Jigsaw(grid=2, permutations=5), 1.0, "adv", 1.0)],
        {"attack": attack(ball=L2(), epsilon=0.5)},
    ),
    "trades": lambda: ([Term(Classification()), Term(KL(), 6.0, "adv", 1.0)], {}),
    "mart": lambda: (
        [
            Term(BoostedCrossEntropy(), 1.0, "adv"),
            Term(WeightedKL(), 5.0, "adv"),
            classify(weight=0.0),
        ],
        {},
    ),
    "simclr": lambda: ([Term(SimCLR(8, 4))], {}),
    "simsiam": lambda: ([Term(SimSiam((8, 8), 4))], {}),
    "byol": lambda: ([Term(BYOL(8, 4, 0.9))], {}),
    "barlow_twins": lambda: ([Term(BarlowTwins((8, 4)))], {}),
    "vicreg": lambda: ([Term(VICReg((8, 4)), 0.01)], {}),
    "moco_v2": lambda: ([Term(MoCoV2(8, 4, queue=20, symmetric=True))], {}),
    "moco_v3": lambda: ([Term(MoCoV3(8, 4), 0.1)], {}),
    "swav": lambda: ([Term(SwAV(8, 4, 6, queue=12, queue_from=0.5))], {}),
    "dino": lambda: ([Term(DINO(8, 4, 6, 0.4, 0.2, 0.1, batch_norm=True))], {}),
    "adversarial_simclr": lambda: (
        [Term(SimCLR(8, 4), 1.0, "adv", 1.0, "views")],
        {},
    ),
    "rocl": lambda: ([Term(RoCL(8, 4), 1.0, "adv", 1.0, "views")], {}),
    "acl": lambda: (acl(SimCLR(8, 4)), {"dual_batch_norm": True}),
    "simclr_in_parts": lambda: ([Term(SimCLR(8, 4))], {"micro_batches": 2}),
    "acl_in_parts": lambda: (
        acl(SimCLR(8, 4)),
        {"dual_batch_norm": True, "micro_batches": 2},
    ),
    "trades_in_parts": lambda: (
        [Term(Classification()), Term(KL(), 6.0, "adv", 1.0)],
        {"micro_batches": 4},
    ),
    "attack_in_training_mode": lambda: (
        [classify()],
        {"attack": attack(batch_norm="training")},
    ),
}


def build(terms, strategy=None, rate=0.1, **settings):
    with (strategy or tf.distribute.get_strategy()).scope():
        keras.utils.set_random_seed(0)
        trainer = Trainer(
            resnet(SHAPE, blocks=(1, 1), width=4),
            K,
            terms,
            **{"attack": attack(), **settings},
        )
        trainer.last_step = 4
        trainer.compile(optimizer=optimizers.sgd(rate, weight_decay=0.01))
        trainer.optimizer.build(trainer.trainable_variables)
    return trainer


def batches(count=1, seed=0):
    rng = np.random.default_rng(seed)
    n = count * B
    return tf.data.Dataset.from_tensor_slices(
        {
            "image": rng.uniform(size=(n, *SHAPE)).astype(np.float32),
            "views": rng.uniform(size=(n, 2, *SHAPE)).astype(np.float32),
            "label": rng.integers(0, K, n).astype(np.int32),
            "id": np.arange(n),
            "seed": rng.integers(0, 2**31 - 1, (n, 2)).astype(np.int32),
        }
    ).batch(B, drop_remainder=True)


def one_batch(seed=0):
    return next(iter(batches(seed=seed)))


def train(trainer, strategy, steps):
    @tf.function(autograph=False)
    def step(batch):
        return distribute.add(strategy, strategy.run(trainer.train_step, (batch,)))

    parts = functools.partial(distribute.sliced, batches(steps))
    data = distribute.share_out(strategy, parts)
    return [{k: float(v) for k, v in step(batch).items()} for batch in data]


def trained(method, strategy, steps, rate=0.1):
    """What a training logs, and all that it leaves behind, by name."""
    terms, settings = METHODS[method]()
    trainer = build(terms, strategy, rate, **settings)
    logs = train(trainer, strategy, steps)
    variables = [*trainer.weights, *trainer.optimizer.variables]
    values = {v.path: v.numpy() for v in variables}
    averages = getattr(trainer, "averages", [])
    values |= {v.name: v.numpy() for v in averages}
    for objective in trainer.objectives:
        values |= {v.name: v.numpy() for v in objective.state}
    return logs, values


def assert_equal(one, other):
    """Two results of `trained`, up to rounding."""
    (logs, values), (other_logs, other_values) = one, other
    for want, got in zip(logs, other_logs, strict=True):
        assert want.keys() == got.keys()
        for name, value in want.items():
            np.testing.assert_allclose(
                got[name], value, rtol=2e-4, atol=2e-5, err_msg=name
            )
    assert values.keys() == other_values.keys()
    for path, value in values.items():
        np.testing.assert_allclose(
            other_values[path], value, rtol=1e-3, atol=2e-5, err_msg=path
        )
