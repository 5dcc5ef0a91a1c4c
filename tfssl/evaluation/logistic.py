"""Multinomial logistic regression on features, to convergence."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from absl import logging
from scipy import optimize

from tfssl.evaluation.gates import GateError
from tfssl.evaluation.subject import Subject
from tfssl.types import UserError, positive

PENALTIES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
"""Weights of the penalty to choose from, if nobody says others."""

GRADIENT = 1e-6
"""Largest entry of the gradient at which the fit has converged."""

_STEPS = 10_000


class Logistic:
    """A linear classifier on features, as Kornblith et al. 2019 fit it.

    "Do better ImageNet models transfer better?" (arXiv:1805.08974): L-BFGS, no
    augmentation, the weight of the penalty chosen on held-out images. It has no random
    draws and nothing to tune, unlike SGD.

    Features are standardised, each by its mean and standard deviation over the training
    split: methods give features of very different scales, and what is penalised should
    not depend on their units. A linear classifier can undo it.

    Args:
      l2: Weights of the penalty to choose from, by accuracy on the split 'validation';
        of equals the largest. With a single one that split is not needed.
      name: What error messages call it.

    Raises:
      UserError: A setting is out of range.
    """

    def __init__(self, l2: Sequence[float], name: str):
        if isinstance(l2, str) or not isinstance(l2, Sequence) or not l2:
            raise UserError(f"{name}: l2 must be a list of numbers, not {l2!r}")
        self.l2 = sorted(positive(f"{name}: l2", value) for value in l2)
        self.name = name

    def weights(
        self, known: tuple[np.ndarray, np.ndarray], subject: Subject
    ) -> tuple[np.ndarray, float]:
        """Chooses the penalty and fits.

        Args:
          known: Features [n, d] and labels [n] of the training split.
          subject: Whose split 'validation' the penalty is chosen on.

        Returns:
          Weights [d + 1, k] for features as they are, the bias last, and the penalty
          that was chosen.

        Raises:
          UserError: There is something to choose but the data set holds out nothing.
          GateError: The fit does not converge.
        """
        held_out = self._held_out(subject) if len(self.l2) > 1 else None
        features, labels = known
        standard = _Standard(features)
        inputs = standard(features)
        weights = np.zeros((inputs.shape[1], subject.num_classes))
        best = -1.0
        # From the stiffest fit to the loosest, each a good start for the next.
        for l2 in reversed(self.l2):
            weights = fit(inputs, labels, l2, weights)
            accuracy = 0.0
            if held_out:
                found = classify(held_out[0], standard.undone(weights))
                accuracy = float((found == held_out[1]).mean())
                logging.info("%s: l2 %g, %.2f %%", self.name, l2, 100 * accuracy)
            if accuracy > best:
                best, chosen, kept = accuracy, l2, weights
        return standard.undone(kept), chosen

    def marks(self, chosen: float) -> dict[str, str]:
        """Whether the best penalty may lie outside of the grid."""
        if len(self.l2) < 2 or chosen not in (self.l2[0], self.l2[-1]):
            return {}
        return {
            "l2_at_the_end": f"{chosen:g} was chosen, at the end of the list l2: one"
            " beyond may be better"
        }

    def _held_out(self, subject: Subject) -> tuple[np.ndarray, np.ndarray]:
        try:
            subject = subject.on("validation")
        except UserError as error:
            raise UserError(
                f"{self.name} chooses among its l2, but {error}: hold some out"
                " (Dataset.validation), or give a single l2"
            ) from None
        return subject.features(f"{self.name} validation")


class _Standard:
    """Standardises by a split's features [n, d], and adds a column of ones."""

    def __init__(self, features: np.ndarray):
        self._mean = features.mean(axis=0, dtype=np.float64)
        deviation = features.std(axis=0, dtype=np.float64)
        self._scale = np.where(deviation > 0, deviation, 1)

    def __call__(self, features: np.ndarray) -> np.ndarray:
        scaled = (features - self._mean) / self._scale
        return np.concatenate([scaled, np.ones((len(scaled), 1))], axis=1)

    def undone(self, weights: np.ndarray) -> np.ndarray:
        """Weights [d + 1, k] of standardised features as those of features."""
        kernel = weights[:-1] / self._scale[:, None]
        return np.concatenate([kernel, weights[-1:] - self._mean @ kernel])


def fit(
    inputs: np.ndarray, labels: np.ndarray, l2: float, start: np.ndarray
) -> np.ndarray:
    """The minimum over W of mean_i CE(softmax(x_i W), y_i) + l2 / 2 |W|^2.

    By full-batch L-BFGS in float64. The last row of W, the bias, is not penalised.

    Args:
      inputs: x, [n, d + 1], ones in the last column.
      labels: y, [n] in [0, k).
      l2: Positive: it makes the problem strictly convex, up to a shift of the bias.
      start: [d + 1, k].

    Returns:
      W, [d + 1, k], where no entry of the gradient exceeds `GRADIENT`.

    Raises:
      GateError: It is not found.
    """
    inputs, labels = tf.constant(inputs, tf.float64), tf.constant(labels, tf.int32)
    penalty = tf.constant(l2, tf.float64)

    def function(flat):
        weights = tf.constant(flat.reshape(start.shape))
        loss, gradient = _loss_and_gradient(weights, inputs, labels, penalty)
        return float(loss), gradient.numpy().ravel()

    found = optimize.minimize(
        function,
        start.ravel(),
        jac=True,
        method="L-BFGS-B",
        options={
            "gtol": GRADIENT,
            "ftol": 0.0,
            "maxiter": _STEPS,
            "maxfun": 2 * _STEPS,
        },
    )
    if not np.abs(found.jac).max() <= GRADIENT:  # Not with > alone: it may be NaN.
        raise GateError(
            f"the linear probe with l2 {l2:g} did not converge in {found.nit} steps: an"
            f" entry of the gradient is {np.abs(found.jac).max():.1g}, not {GRADIENT:g}"
        )
    return found.x.reshape(start.shape)


def classify(features: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """[m], the class of the largest logit: of features [m, d], weights [d + 1, k]."""
    return (features @ weights[:-1] + weights[-1]).argmax(axis=1)


@tf.function(autograph=False)
def _loss_and_gradient(
    weights: tf.Tensor, inputs: tf.Tensor, labels: tf.Tensor, l2: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    with tf.GradientTape() as tape:
        tape.watch(weights)
        entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(
            labels, inputs @ weights
        )
        loss = tf.reduce_mean(entropy) + l2 / 2 * tf.reduce_sum(weights[:-1] ** 2)
    return loss, tape.gradient(loss, weights)
