"""Losses of a student that imitates a teacher.

Both return [b]. No gradient is stopped here: where a paper stops it at the teacher, the
caller does.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from tfssl.losses.clustering import swapped_prediction
from tfssl.losses.similarity import negative_cosine


def dino(
    student: Sequence[tf.Tensor],
    teacher: Sequence[tf.Tensor],
    centre: tf.Tensor,
    student_temperature: float,
    teacher_temperature: float,
) -> tf.Tensor:
    """Mean over pairs of different views of H(P_t(x), P_s(x')), the cross-entropy.

    Eq. 1 to 3 and Algorithm 1 of DINO (Caron et al. 2021,
    https://arxiv.org/abs/2104.14294): P_s = softmax(student / t_s) and
    P_t = softmax((teacher - centre) / t_t). Each global crop's P_t is compared with the
    student's view of all crops but that one. Eq. 3 writes a sum over the pairs; the
    algorithm takes their mean, as here. In [0, inf); log(k) for an even student.

    Args:
      student: Outputs [b, k], one per crop, the global crops first.
      teacher: Outputs [b, k], one per global crop, in the same order.
      centre: [k], the running mean of the teacher's outputs (eq. 4).
      student_temperature: t_s > 0, in the paper 0.1.
      teacher_temperature: t_t > 0, in the paper warmed up from 0.04 to 0.07.
    """
    targets = [tf.nn.softmax((z - centre) / teacher_temperature) for z in teacher]
    return swapped_prediction(student, targets, student_temperature)


def cosine_distillation(
    clean: tf.Tensor, attacked: tf.Tensor, teacher: tf.Tensor, weight: float = 2.0
) -> tf.Tensor:
    """-cos(s(x), t(x)) - weight * cos(s(x_adv), s(x)), in [-1 - weight, 1 + weight].

    DeACL (Zhang et al. 2022, https://arxiv.org/abs/2207.10899), whose code has a weight
    of 2 and lets the gradient through both arguments of the second cosine.

    Args:
      clean: s(x), the student's embeddings of clean images, [b, d].
      attacked: s(x_adv), the student's embeddings of attacked images, [b, d].
      teacher: t(x), the teacher's embeddings of clean images, [b, d].
      weight: Of the second term.
    """
    return negative_cosine(clean, teacher) + weight * negative_cosine(attacked, clean)
