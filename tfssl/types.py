"""The few things that every part of tfssl agrees on: shapes and units, said once.

Letters in shapes: `b` examples, `v` views of one example, `h`, `w`, `c` height, width
and channels, `d` features, `k` classes. Images are float32 in [0, 1] everywhere,
epsilons are in the same unit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import tensorflow as tf

Batch = Mapping[str, Any]
"""A batch of examples: a dict of tensors.

  image  [b, h, w, c] float32 in [0, 1], never attacked
  label  [b] int32 in [0, k)
  id     [b] int64, the example's own number, stable across machines; -1 marks the
         padding that fills the last batch of an evaluation
  seed   [b, 2] int32, made from (run seed, epoch, id): all later random draws of the
         example derive from it (`tfssl.randomness.fold`)
  views  [b, v, h, w, c], and local_views of another size, only where `train.views`
         makes them (`tfssl.data.views`)
  progress  scalar in [0, 1), in training: the share of the run that is done
"""

LossFn = Callable[[Any], Any]
"""`loss_fn(inputs)` returns [b], one number per example, to be maximised by an attack.

It may also return a pair ([b] loss, [b] bool won): then an iterate that has won beats
every iterate that has not, whatever their losses.
"""


BALLS = ("linf", "l2")
"""The perturbations that an attack searches, in a ball; other ones are given."""

PANEL = "panel"
"""The metric of cells that are pictures for a report, and no numbers."""


class UserError(ValueError):
    """Something the user can mend. Programs print its one line and exit with 1."""


class Stopped(KeyboardInterrupt):
    """The program was asked to end, and the same command goes on where it stopped.

    Programs print its one line and exit with 75, the EX_TEMPFAIL of sysexits.h.
    """


class Forward(Protocol):
    """Passes through the network, handed to objectives by whoever runs the step.

    The same tensor is never passed twice: results are remembered per tensor, so that
    terms that look at the same images share one pass.

    Attributes:
      training: Mode of BatchNorm.
      updates: Whether this is the update: what an attack computes moves no state.
      notes: What an objective sees on the way and is worth logging, by its name its
        embeddings [b, d]. Not kept on the objective, which replicas share.
    """

    training: bool
    updates: bool
    notes: dict[str, tf.Tensor]

    def features(self, image: tf.Tensor) -> tf.Tensor:
        """Images [..., h, w, c] to backbone features [..., d]."""

    def logits(self, image: tf.Tensor) -> tf.Tensor:
        """Images [..., h, w, c] to the classifier's logits [..., k]."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One measured number: the only currency of results. Every table is a pivot.

    Attributes:
      evaluator: Name of what measured it, for instance 'pgd20_linf'.
      perturbation: Kind of perturbation, 'none', 'linf', 'l2' or a corruption's name.
      strength: Its size: epsilon in [0, 1] units, or a severity. 0 where there is none.
      metric: For instance 'accuracy'.
      value: The number; shares are in [0, 1], not in percent.
      n: Number of examples behind it.
      low, high: 95 % interval of `value` over the examples (Wilson for shares); NaN
        where there is none.
      run, seed, dataset, split: Where it comes from.
      unit: '%' if it is a share, which tables show in percent; other numbers are shown
        as they are.
    """

    run: str
    seed: int
    dataset: str
    split: str
    evaluator: str
    perturbation: str
    strength: float
    metric: str
    value: float
    n: int
    low: float
    high: float
    unit: str = "%"


def fraction(value: str | float) -> float:
    """Reads a size written as people write it: '8/255', '0.5' or a number.

    Gin has no arithmetic, so sizes in gin files are strings.

    Raises:
      UserError: `value` is no finite, non-negative number.
    """
    try:
        if isinstance(value, bool):
            raise ValueError
        if isinstance(value, str):
            number = float(Fraction(value.replace(" ", "")))
        else:
            number = float(value)
        if not 0 <= number < float("inf"):
            raise ValueError
    except (ValueError, TypeError, ZeroDivisionError, OverflowError):
        raise UserError(
            f"{value!r} is not a size: write a non-negative number or a fraction such"
            " as '8/255'"
        ) from None
    return number


def positive(name: str, value: float) -> float:
    """The value of a setting, if it is a positive number.

    Raises:
      UserError: It is not.
    """
    return _within(name, value, 0 < _number(value) < float("inf"), "be positive")


def share(name: str, value: float) -> float:
    """The value of a setting, if it is a number in [0, 1].

    Raises:
      UserError: It is not.
    """
    return _within(name, value, 0 <= _number(value) <= 1, "lie in [0, 1]")


def whole(name: str, value: int, low: int) -> int:
    """The value of a setting, if it is a whole number, at least `low`.

    Raises:
      UserError: It is not.
    """
    fits = isinstance(value, int) and not isinstance(value, bool) and value >= low
    return int(_within(name, value, fits, f"be a whole number, at least {low}"))


def _number(value: float) -> float:
    """NaN if it is no number."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if number else float("nan")


def _within(name: str, value: float, fits: bool, what: str) -> float:
    if not fits:
        raise UserError(f"{name} must {what}, not {value!r}")
    return float(value)
