"""An attack on some examples, and what came of it.

An attack is not believed: its image must lie in the ball and in [0, 1], and goes
through the classifier twice more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tfssl.evaluation.classifier import Classifier
from tfssl.evaluation.gates import GateError
from tfssl.evaluation.subject import Subject
from tfssl.types import Batch, UserError

_BISECTIONS = 5
_TIE = 1e-4


class Trial:
    """One attack, on as many subjects and epsilons as needed; one graph for all.

    Args:
      attack: With `ball.name` 'linf' or 'l2', see the design page. If it has a true
        attribute `eager` it is called outside of graphs with a Python number.
      name: What messages call it.
      closer: After a success look for a smaller one on the way back to the image, by
        bisection.

    Raises:
      UserError: There is no check for that ball.
    """

    def __init__(self, attack: Any, name: str, closer: bool = False):
        if attack.ball.name not in _NORMS:
            raise UserError(
                f"{name}: no check for the ball {attack.ball.name!r}, only for"
                f" {' and '.join(_NORMS)}"
            )
        self.attack = attack
        self.name = name
        self._closer = closer

    def __call__(
        self, subject: Subject, epsilon: float, keep: np.ndarray, label: str
    ) -> dict[str, np.ndarray]:
        """Attacks the examples at the m positions where `keep` [n] is true.

        Args:
          subject: Classifier and examples.
          epsilon: Radius in [0, 1] units.
          keep: At least one is true.
          label: Of the progress bar and the journal.

        Returns:
          correct [m] bool, whether an example withstood;
          distance [m] float32, the norm of the perturbation, inf if it withstood;
          margin [m] float32, largest other logit minus the label's.

        Raises:
          GateError: An attacked image is not allowed, or is classified differently
            when it is seen again.
        """
        eager = getattr(self.attack, "eager", False)
        found = subject.map(
            self._attacked,
            epsilon if eager else tf.constant(epsilon, tf.float32),
            keep=keep,
            eager=eager,
            label=label,
        )
        self._check(found, epsilon, subject.randomised)
        return {name: found[name] for name in ("correct", "distance", "margin")}

    def _attacked(
        self, classifier: Classifier, batch: Batch, epsilon: tf.Tensor | float
    ) -> dict[str, tf.Tensor]:
        image, label, logits = batch["image"], batch["label"], classifier.logits
        attacked = perturb(self.attack, classifier, batch, epsilon)
        reach = self._norm(attacked, image)
        outputs = logits(attacked)
        right = correct(outputs, label)
        # In another order, so that it is another computation.
        again = tf.reverse(logits(tf.reverse(attacked, [0])), [0])
        nearest = attacked
        if self._closer:
            nearest = _closer(logits, image, attacked, label, ~right)
        infinite = tf.constant(float("inf"), tf.float64)
        distance = tf.where(right, infinite, self._norm(nearest, image))
        return {
            "correct": right,
            "distance": tf.cast(distance, tf.float32),
            "margin": margin(outputs, label),
            "reach": reach,
            "low": tf.reduce_min(attacked, [1, 2, 3]),
            "high": tf.reduce_max(attacked, [1, 2, 3]),
            "changed": (right != correct(again, label)) & ~_tie(outputs),
        }

    def _norm(self, attacked: tf.Tensor, image: tf.Tensor) -> tf.Tensor:
        # In double precision, so that only the attack's own rounding is left.
        delta = tf.cast(attacked, tf.float64) - tf.cast(image, tf.float64)
        return _NORMS[self.attack.ball.name](delta)

    def _check(
        self, found: dict[str, np.ndarray], epsilon: float, randomised: bool
    ) -> None:
        # `not <=` rather than `>`: NaN is not allowed either.
        reach = found["reach"].max()
        if not reach <= epsilon + 1e-6 * max(1.0, epsilon):
            raise GateError(
                f"{self.name}: the attack left its ball: {self.attack.ball.name}"
                f" distance {reach:.9g} at epsilon {epsilon:.9g}"
            )
        low, high = found["low"].min(), found["high"].max()
        if not (low >= 0 and high <= 1):
            raise GateError(
                f"{self.name}: the attack left [0, 1]: pixels from {low} to {high}"
            )
        if found["changed"].any() and not randomised:
            raise GateError(
                f"{self.name}: {found['changed'].sum()} attacked images are classified"
                " differently when they are passed a second time: the model's answer"
                " depends on the batch or on chance"
            )


def perturb(
    attack: Any, classifier: Classifier, batch: Batch, epsilon: tf.Tensor | float
) -> tf.Tensor:
    """What an attack makes of a batch's images, [b, h, w, c]."""
    image, label, seed = batch["image"], batch["label"], batch["seed"]
    attacked = attack.perturb(classifier.search(), image, label, seed, epsilon)
    return tf.ensure_shape(attacked, image.shape)


# Not the attacks' own norms: what is checked does not check itself.
_NORMS = {
    "linf": lambda delta: tf.reduce_max(tf.abs(delta), [1, 2, 3]),
    "l2": lambda delta: tf.sqrt(tf.reduce_sum(delta**2, [1, 2, 3])),
}


def correct(logits: tf.Tensor, label: tf.Tensor) -> tf.Tensor:
    """[b, k] and [b] to [b] bool. Logits that are not finite are no right answer."""
    finite = tf.reduce_all(tf.math.is_finite(logits), axis=-1)
    return finite & (tf.argmax(logits, axis=-1, output_type=label.dtype) == label)


def margin(logits: tf.Tensor, label: tf.Tensor) -> tf.Tensor:
    """Largest other logit minus the label's: [b, k] and [b] to [b], > 0 if wrong."""
    mine = tf.one_hot(label, logits.shape[-1], on_value=True, off_value=False)
    others = tf.reduce_max(tf.where(mine, -float("inf"), logits), axis=-1)
    return others - tf.gather(logits, label, batch_dims=1)


def _tie(logits: tf.Tensor) -> tf.Tensor:
    """Whether rounding may decide between the two largest of [b, k] logits: [b]."""
    first, second = tf.unstack(tf.math.top_k(logits, 2).values, axis=-1)
    return first - second <= _TIE * (1 + tf.reduce_max(tf.abs(logits), axis=-1))


def _closer(
    logits: Callable,
    image: tf.Tensor,
    attacked: tf.Tensor,
    label: tf.Tensor,
    broken: tf.Tensor,
) -> tf.Tensor:
    """For broken examples, the nearest wrong image that bisection finds."""
    low = tf.zeros_like(image[:, :1, :1, :1])
    high, nearest = tf.ones_like(low), attacked
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        candidate = image + middle * (attacked - image)
        wrong = broken & ~correct(logits(candidate), label)
        wrong = wrong[:, None, None, None]
        nearest = tf.where(wrong, candidate, nearest)
        low, high = tf.where(wrong, low, middle), tf.where(wrong, middle, high)
    return nearest
