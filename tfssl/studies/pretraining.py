"""Does adversarial training gain by SSL pre-training, and by an SSL loss after it?

Two claims of Kucer, Oyen and Kenyon, When does self-supervision improve robustness?
(https://arxiv.org/abs/2112.04367, 2021): that adversarial training from SSL weights is
more robust than from random ones, and that after such a start an SSL loss in
adversarial training adds nothing. Three starts (random, SimCLR, adversarial SimCLR),
each with and without rotation prediction in the update. The abstract alone is at hand:
methods and settings are OUR CHOICE.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from tfssl.studies import kucer2021, ssl_methods
from tfssl.studies.study import Scale, Study, Variant

# Contrastive learning on attacked views beside clean ones (Jiang et al. 2020).
ADVERSARIAL = "papers/jiang2020/acl_cifar10.gin"


def _start(variant: Variant) -> Variant:
    return dataclasses.replace(variant, evaluation="evaluation/probes.gin")


def _from(start: str, variant: Variant) -> Variant:
    return dataclasses.replace(
        variant,
        name=f"{start}_{variant.name}",
        files=[*variant.files, "models/pretrained.gin"],
        start=start,
    )


def _variants(
    last: Sequence[str], start_last: Sequence[str], acl: Sequence[str]
) -> list[Variant]:
    """All rows.

    Args:
      last: Gin files that the adversarial trainings read last.
      start_last: Those that the pre-trainings read last.
      acl: Gin bindings of the adversarial pre-training.
    """
    baseline = ssl_methods.BASELINE
    trainings = [
        kucer2021.adversarial("linf", "8/255", last),
        kucer2021.with_ssl("linf", "8/255", "rotation", "update_clean", last=last),
    ]
    return [
        _start(ssl_methods.untrained(start_last)),
        _start(ssl_methods.pretrained("simclr", start_last)),
        _start(Variant("acl", baseline, [ADVERSARIAL, *start_last], acl)),
        *trainings,
        *(_from("simclr", variant) for variant in trainings),
        *(_from("acl", variant) for variant in trainings),
    ]


STUDY = Study(
    summary="adversarial training from SSL weights, with and without SSL (2112.04367)",
    scales={
        "small": Scale(
            # Half the epochs and 3 steps of the attack: an epoch of it is dear.
            variants=_variants(
                kucer2021.SMALL,
                ssl_methods.SMALL,
                ["EPOCHS=4", "STEPS=3", "LEARNING_RATE=1.25"],
            ),
            evaluation="evaluation/autoattack_linf.gin",
            evaluation_params=["evaluate.examples=1000"],
        ),
        "full": Scale(
            # One network for all, as the starts must fit.
            variants=_variants(["models/resnet18.gin"], ["models/resnet18.gin"], ()),
            evaluation="evaluation/autoattack_linf.gin",
            seeds=3,
        ),
    },
)
