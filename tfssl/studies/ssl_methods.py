"""How good are the features that each self-supervised method learns at one cost?

Every method pre-trains the same network on the same images for as many epochs, each
with its own recipe (gin/papers/; at small scale with changes), and is measured by
nearest neighbours and a linear classifier on the frozen features, beside the network as
initialised and one trained with labels.
"""

from __future__ import annotations

from collections.abc import Sequence

from tfssl.studies.study import Scale, Study, Variant

BASELINE = "random"
RECIPES = {
    "simclr": "papers/chen2020/simclr_cifar10.gin",
    "moco_v2": "papers/he2020/moco_v2_cifar10.gin",
    "moco_v3": "papers/chen2021/moco_v3_cifar10.gin",
    "byol": "papers/grill2020/byol_cifar10.gin",
    "simsiam": "papers/chen2021/simsiam_cifar10.gin",
    "barlow_twins": "papers/zbontar2021/barlow_twins_cifar10.gin",
    "vicreg": "papers/bardes2022/vicreg_cifar10.gin",
    "swav": "papers/caron2020/swav_cifar10.gin",
    "dino": "papers/caron2021/dino_cifar10.gin",
}
SUPERVISED = [
    "runs/train.gin",
    "data/cifar10.gin",
    "models/resnet18.gin",
    "terms/standard.gin",
]
PRETEXT = [*SUPERVISED[:3], "terms/ssl.gin"]
SMALL = ["scales/ssl_small.gin"]
# The recipes are made for runs a hundred times as long. Here a queue lasts a fifth of
# an epoch, the run is long enough for the teacher, and not all steps of LARS are cut to
# 2 % of a kernel until it is over. SwAV and DINO would end on the uniform prediction.
# SwAV's authors advise sharper codes and fewer prototypes then; it has no queue here,
# as embeddings change fast. The outputs of DINO's head as it is initialised are even
# (their standard deviation is 1 / sqrt(bottleneck)), and do not sharpen in time; with
# LARS it learns next to nothing even then.
SMALL_FILES = {"dino": ["optimizers/adamw.gin"]}
SMALL_PARAMS = {
    "moco_v2": ["MoCoV2.queue=4096"],
    "dino": [
        "DINO.momentum=0.99",
        "DINO.frozen=0.01",
        "DINO.batch_norm=True",
        "DINO.bottleneck=64",
        "DINO.out=1024",
        "DINO.teacher_temperature=0.04",
        "LEARNING_RATE=2e-3",
        "WEIGHT_DECAY=1e-4",
    ],
    "barlow_twins": ["LEARNING_RATE=0.01"],
    "swav": [
        "SwAV.prototypes=300",
        "SwAV.epsilon=0.015",
        "SwAV.queue=0",
        "LEARNING_RATE=0.05",
    ],
}
LONG = ("supervised", "rotation", "jigsaw")
FULL_PARAMS = {name: ["EPOCHS=1000"] for name in LONG}
# Black borders and edges that continue would solve jigsaws; large pieces and gaps leave
# the question of what is where.
TASKS = {
    "rotation": [],
    "jigsaw": [
        "PadCrop.mode='reflect'",
        "Jigsaw.grid=2",
        "Jigsaw.permutations=23",
        "Jigsaw.gap=4",
    ],
}


def pretrained(
    method: str, last: Sequence[str] = (), params: Sequence[str] = ()
) -> Variant:
    """SSL pre-training with the recipe of a method, a key of `RECIPES`.

    Args:
      method: Its name.
      last: Gin files read after all others.
      params: Gin bindings read after all files.
    """
    files = [RECIPES[method], *last]
    return Variant(name=method, baseline=BASELINE, files=files, params=params)


def small(method: str, params: Sequence[str] = ()) -> Variant:
    """`pretrained` at small scale, with the settings that a method needs there."""
    files = [*SMALL, *SMALL_FILES.get(method, ())]
    return pretrained(method, files, [*SMALL_PARAMS.get(method, ()), *params])


def untrained(last: Sequence[str] = ()) -> Variant:
    """The network as initialised, the baseline.

    Args:
      last: See `pretrained`.
    """
    return Variant(BASELINE, BASELINE, [*SUPERVISED, *last], ["EPOCHS=0"])


def _variants(
    last: Sequence[str], own: dict[str, list[str]], methods: Sequence[Variant]
) -> list[Variant]:
    """All rows.

    Args:
      last: Gin files that what is not one of `methods` reads last.
      own: Gin bindings of these, by name.
      methods: Those of `RECIPES`.
    """
    return [
        untrained(last),
        Variant(
            "supervised", BASELINE, [*SUPERVISED, *last], own.get("supervised", ())
        ),
        *(
            Variant(
                *(task, BASELINE, [*PRETEXT, f"objectives/{task}.gin", *last]),
                params=[*params, *own.get(task, ())],
            )
            for task, params in TASKS.items()
        ),
        *methods,
    ]


STUDY = Study(
    summary="features of each SSL method, by nearest neighbours and linearly",
    scales={
        "small": Scale(
            variants=_variants(SMALL, {}, [small(m) for m in RECIPES]),
            evaluation="evaluation/probes.gin",
        ),
        "full": Scale(
            variants=_variants((), FULL_PARAMS, [pretrained(m) for m in RECIPES]),
            evaluation="evaluation/probes.gin",
            seeds=3,
        ),
    },
)
