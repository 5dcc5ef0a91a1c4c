"""A first look, within minutes on a CPU: the smallest version of Kucer et al. 2021."""

from __future__ import annotations

from tfssl.studies import kucer2021
from tfssl.studies.study import Scale, Study

_TINY = kucer2021.STUDY.scales["tiny"]

STUDY = Study(
    summary="a first look: SSL in the update or also in the attack, on digits",
    scales={
        "tiny": Scale(
            variants=_TINY.variants[:3],
            evaluation=_TINY.evaluation,
            evaluation_params=_TINY.evaluation_params,
            seeds=2,
        )
    },
)
