"""Where should an SSL loss sit in adversarial training, and how heavy should it be?

The questions of Kucer, Oyen and Kenyon, When does self-supervision improve robustness?
(https://arxiv.org/abs/2112.04367, 2021), as their abstract puts them: accuracy against
the test's epsilon, with the SSL loss in the update only or in update and attack, and
for several weights. Only the abstract is at hand: tasks, epsilons, weights and all else
are OUR CHOICE. docs/design.md says what the placements mean.
"""

from __future__ import annotations

from collections.abc import Sequence

from tfssl.studies.study import Scale, Study, Variant

BASE = "papers/kucer2021/base.gin"
EPSILONS = {
    "linf": ("4/255", "8/255"),
    "l2": ("0.25", "0.5", "1.0"),
}
TASKS = ("rotation", "jigsaw")
PLACEMENTS = ("update_clean", "update_attacked", "attack", "both", "separate")
WEIGHT = "0.5"  # That of Hendrycks et al. 2019.
OTHER_WEIGHTS = ("0.25", "1.0", "2.0", "4.0")


def adversarial(norm: str, epsilon: str, last: Sequence[str] = ()) -> Variant:
    """Adversarial training without SSL, the baseline.

    Args:
      norm: 'linf' or 'l2'.
      epsilon: Radius of the attack in training: '8/255', or a decimal fraction.
      last: Gin files read after all others.
    """
    name = f"at_{norm}" + (
        epsilon.removesuffix("/255") if "/" in epsilon else f"_{epsilon}"
    )
    return Variant(
        name=name,
        baseline=name,
        files=[BASE, f"attacks/pgd_{norm}.gin", "terms/adversarial.gin", *last],
        params=[f"EPSILON='{epsilon}'"],
    )


def with_ssl(
    norm: str,
    epsilon: str,
    task: str,
    placement: str,
    weight: str = WEIGHT,
    last: Sequence[str] = (),
    params: Sequence[str] = (),
) -> Variant:
    """Adversarial training with an SSL loss.

    Args:
      norm, epsilon, last: See `adversarial`.
      task: A file of gin/objectives/.
      placement: What follows 'adversarial_ssl_' in the name of a file of gin/terms/.
      weight: Of the SSL loss, wherever it sits.
      params: Gin bindings read after all files.
    """
    alone = adversarial(norm, epsilon)
    return Variant(
        name=f"{alone.name}_{task}_{placement}_{weight}",
        baseline=alone.name,
        files=[
            *(BASE, f"attacks/pgd_{norm}.gin"),
            *(f"terms/adversarial_ssl_{placement}.gin", f"objectives/{task}.gin"),
            *last,
        ],
        params=[*alone.params, f"SSL_WEIGHT={weight}", *params],
    )


def _full() -> list[Variant]:
    variants = []
    for norm, epsilons in EPSILONS.items():
        for epsilon in epsilons:
            variants.append(adversarial(norm, epsilon))
            variants += [
                with_ssl(norm, epsilon, task, placement)
                for task in TASKS
                for placement in PLACEMENTS
            ]
    variants += [
        with_ssl("linf", "8/255", task, placement, weight)
        for task in TASKS
        for placement in ("update_clean", "both")
        for weight in OTHER_WEIGHTS
    ]
    return variants


SMALL = ["papers/kucer2021/scale_small.gin"]
TINY = ["papers/kucer2021/scale_tiny.gin"]
# 8 x 8 pixels cut into 4 x 4 patches would leave nothing to recognise; 2 x 2 have 24
# orders.
TINY_JIGSAW = ["Jigsaw.grid=2", "Jigsaw.permutations=23"]

# Digits are coarse: what is lost at 8/255 on photographs is lost at about 32/255 here.
TINY_EPSILON = "32/255"
TINY_EVALUATION = [
    "pgd20_linf/AttackCurve.epsilons="
    "['0', '8/255', '16/255', '24/255', '32/255', '48/255', '64/255']"
]

STUDY = Study(
    summary="placement, weight and task of SSL in adversarial training (2112.04367)",
    scales={
        "tiny": Scale(
            variants=[
                adversarial("linf", TINY_EPSILON, TINY),
                with_ssl("linf", TINY_EPSILON, "rotation", "update_clean", last=TINY),
                with_ssl("linf", TINY_EPSILON, "rotation", "both", last=TINY),
                with_ssl(
                    *("linf", TINY_EPSILON, "jigsaw", "both"),
                    last=TINY,
                    params=TINY_JIGSAW,
                ),
            ],
            evaluation="evaluation/pgd20_linf.gin",
            evaluation_params=TINY_EVALUATION,
        ),
        "small": Scale(
            variants=[
                adversarial("linf", "8/255", SMALL),
                with_ssl("linf", "8/255", "rotation", "update_clean", last=SMALL),
                with_ssl("linf", "8/255", "rotation", "both", last=SMALL),
            ],
            evaluation="evaluation/pgd20_linf.gin",
        ),
        "full": Scale(variants=_full(), evaluation="evaluation/pgd20.gin", seeds=3),
    },
)
