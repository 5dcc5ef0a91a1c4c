"""Do self-supervised features withstand corruptions?

The questions of Chhipa et al. (https://arxiv.org/abs/2308.02525, ICCV-W 2023) about 19
corruptions at five severities, of the networks of `tfssl.studies.ssl_methods`: a linear
classifier on the frozen features of each of their six methods, beside one on features
as initialised, a network trained with labels and one trained adversarially. They
measure checkpoints for ImageNet: gin/papers/chhipa2023/evaluation_imagenet.gin.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from tfssl.studies import kucer2021, ssl_methods
from tfssl.studies.study import Scale, Study, Variant

BASELINE = "supervised"
METHODS = ("simclr", "simsiam", "byol", "barlow_twins", "swav", "dino")
LINEAR = "protocols/linear_logistic.gin"
EVALUATION = "papers/chhipa2023/evaluation_cifar10.gin"
TINY = ["papers/chhipa2023/scale_tiny.gin"]
TINY_LINEAR = ["Dataset.num_examples=500"]
SMALL_LINEAR = ["Dataset.num_examples=20000"]
VIT = ["models/vit_tiny_p4.gin", "optimizers/adamw.gin"]


def _linear(start: Variant, params: Sequence[str] = ()) -> list[Variant]:
    """Features, and a linear classifier on them."""
    start = dataclasses.replace(
        start, baseline=BASELINE, evaluation="evaluation/probes.gin"
    )
    name = f"{start.name}_linear"
    return [start, Variant(name, BASELINE, [LINEAR], params, start=start.name)]


def _supervised(
    name: str = BASELINE, last: Sequence[str] = (), params: Sequence[str] = ()
) -> Variant:
    return Variant(name, BASELINE, [*ssl_methods.SUPERVISED, *last], params)


def _adversarial(last: Sequence[str], params: Sequence[str] = ()) -> Variant:
    variant = kucer2021.adversarial("linf", "8/255", last)
    params = [*variant.params, *params]
    return dataclasses.replace(variant, baseline=BASELINE, params=params)


def _tiny() -> list[Variant]:
    starts = [
        ssl_methods.untrained(TINY),
        ssl_methods.pretrained("simclr", TINY),
        ssl_methods.pretrained("barlow_twins", TINY),
    ]
    return [
        _supervised(last=TINY),
        *(v for start in starts for v in _linear(start, TINY_LINEAR)),
    ]


def _small() -> list[Variant]:
    last = ssl_methods.SMALL
    starts = [ssl_methods.untrained(last), *map(ssl_methods.small, METHODS)]
    return [
        _supervised(last=last),
        _adversarial(
            kucer2021.SMALL, ["Dataset.num_examples=20000", "EPOCHS=5", "STEPS=2"]
        ),
        *(v for start in starts for v in _linear(start, SMALL_LINEAR)),
    ]


def _full() -> list[Variant]:
    starts = [
        ssl_methods.untrained(),
        *(ssl_methods.pretrained(method) for method in METHODS),
        dataclasses.replace(ssl_methods.pretrained("dino", VIT), name="dino_vit"),
    ]
    return [
        _supervised(params=["EPOCHS=200"]),
        _supervised("supervised_vit", VIT, ["EPOCHS=200"]),
        _adversarial(["models/resnet18.gin"]),
        *(v for start in starts for v in _linear(start)),
    ]


STUDY = Study(
    summary="SSL features under 19 corruptions and severities (2308.02525)",
    scales={
        "tiny": Scale(
            variants=_tiny(),
            evaluation=EVALUATION,
            evaluation_params=["evaluate.examples=200"],
        ),
        "small": Scale(
            variants=_small(),
            evaluation=EVALUATION,
            evaluation_params=["evaluate.examples=2000", "CamShift.examples=500"],
        ),
        "full": Scale(variants=_full(), evaluation=EVALUATION, seeds=3),
    },
    preset="chhipa2023",
)
