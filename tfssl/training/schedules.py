"""Learning-rate schedules: `schedule(learning_rate, steps, steps_per_epoch)`.

`learning_rate` is the highest value, `steps` the length of the whole run. They return
Keras schedules, functions of the step.
"""

from __future__ import annotations

from collections.abc import Sequence

import gin
import keras
import tensorflow as tf

from tfssl.types import UserError

Schedule = keras.optimizers.schedules.LearningRateSchedule


@gin.register(module="tfssl.training")
def constant_rate(learning_rate: float, steps: int, steps_per_epoch: int) -> Schedule:
    """The same learning rate throughout."""
    del steps, steps_per_epoch
    return _Linear([(0, learning_rate), (1, learning_rate)])


@gin.register(module="tfssl.training")
def piecewise(
    learning_rate: float,
    steps: int,
    steps_per_epoch: int,
    drops: Sequence[float] = (0.5, 0.75),
    factor: float = 0.1,
) -> Schedule:
    """Multiplied by `factor` at each of `drops`, given as shares of the run.

    Rice 2020 drops after 100 and 150 of 200 epochs, the default here.
    """
    del steps_per_epoch
    if list(drops) != sorted(set(drops)) or not all(0 < drop < 1 for drop in drops):
        raise UserError(f"piecewise.drops must ascend within 0 and 1, not be {drops}")
    return keras.optimizers.schedules.PiecewiseConstantDecay(
        # Keras keeps the old value at the boundary itself.
        boundaries=[round(drop * steps) - 1 for drop in drops],
        values=[learning_rate * factor**i for i in range(len(drops) + 1)],
    )


@gin.register(module="tfssl.training")
def cosine(
    learning_rate: float,
    steps: int,
    steps_per_epoch: int,
    warmup_epochs: float = 0.0,
    final: float = 0.0,
) -> Schedule:
    """Linear warm-up from 0, then half a cosine to `final` (Loshchilov & Hutter 2017).

    Args:
      learning_rate: Peak.
      steps: Length of the run, warm-up included.
      steps_per_epoch: Unit of `warmup_epochs`.
      warmup_epochs: Length of the warm-up.
      final: Learning rate at the end.
    """
    warmup = round(warmup_epochs * steps_per_epoch)
    if not 0 <= warmup < steps:
        raise UserError(
            f"cosine.warmup_epochs {warmup_epochs} does not fit into the run of"
            f" {steps / steps_per_epoch:g} epochs: lower it, or raise EPOCHS"
        )
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0 if warmup else learning_rate,
        decay_steps=max(1, steps - warmup),
        alpha=final / learning_rate,
        warmup_target=learning_rate if warmup else None,
        warmup_steps=warmup,
    )


@gin.register(module="tfssl.training")
def one_cycle(
    learning_rate: float, steps: int, steps_per_epoch: int, peak: float = 0.4
) -> Schedule:
    """Straight up from 0, straight down to 0 (Smith 2018; Wong 2020 for fast AT).

    Args:
      learning_rate: Value at the peak.
      steps: Length of the run.
      steps_per_epoch: Not used.
      peak: Where the peak lies, as a share of the run.
    """
    del steps_per_epoch
    if not 0 < peak < 1:
        raise UserError(f"one_cycle.peak must lie between 0 and 1, not at {peak}")
    return _Linear([(0, 0.0), (max(1, peak * steps), learning_rate), (steps, 0.0)])


class _Linear(Schedule):
    """Straight lines between (step, value) points."""

    def __init__(self, points: Sequence[tuple[float, float]]):
        self.points = [tuple(map(float, point)) for point in points]

    def __call__(self, step) -> tf.Tensor:
        step = tf.cast(step, tf.float32)
        value = tf.constant(self.points[-1][1])
        pairs = list(zip(self.points, self.points[1:], strict=False))
        for (x0, y0), (x1, y1) in reversed(pairs):
            line = y0 + (y1 - y0) * (step - x0) / (x1 - x0)
            value = tf.where(step < x1, line, value)
        return value

    def get_config(self) -> dict:
        return {"points": self.points}
