"""Looks at a classifier's outputs and gradients for what leads attacks astray.

The signs of Carlini et al. 2019 (On evaluating adversarial robustness), of AutoAttack's
flags (flags_doc.md) and of Pintor et al. 2022 (Indicators of attack failure).
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tfssl import randomness
from tfssl.evaluation.classifier import Classifier
from tfssl.evaluation.intervals import wilson
from tfssl.evaluation.trial import margin
from tfssl.types import UserError

EXAMPLES = 256
"""How many examples are looked at."""

_CHUNK = 32
_PASSES = 5
_UNSTEADY = 1e-4
_NUDGE = 0.25 / 255
_OTHER_COMPANY = 1e-3


def marks(
    classifier: Classifier, image: np.ndarray, label: np.ndarray
) -> dict[str, str]:
    """Reasons to doubt that attacks on a classifier do their work.

    Args:
      classifier: Images in [0, 1] to logits.
      image: [n, h, w, c], a few hundred clean images.
      label: [n].

    Returns:
      From a short name to a sentence; empty if nothing was found.

    Raises:
      UserError: The outputs are not finite.
    """
    logits = _logits(classifier, image)
    if not np.isfinite(logits).all():
        raise UserError(f"{classifier.name} has outputs that are not finite")
    right = logits.argmax(axis=1) == label
    found = {}
    if wilson(int(right.sum()), len(label))[0] <= 1 / logits.shape[1]:
        found["no_better_than_guessing"] = (
            f"right on {right.sum()} of {len(label)} clean images; does the model"
            " expect images in another range? Here they are in [0, 1]: scaling to"
            " [0, 255] or normalising must be layers of it"
        )
    if (logits >= 0).all() and np.allclose(logits.sum(axis=1), 1, atol=1e-3):
        found["probabilities"] = (
            "the outputs are probabilities, not logits: gradients can vanish in the"
            " softmax, and the number be too high; remove it and save again"
        )
    found |= _randomised(classifier, image, label)
    if "randomised" not in found:
        found |= _batch_dependent(classifier, image)
        found |= _quantised(classifier, image, logits)
    if right.any():
        found |= _gradients(classifier, image[right], label[right])
    return found


def _logits(classifier: Classifier, image: np.ndarray) -> np.ndarray:
    """Few at a time: networks for large images have little room for more."""
    parts = [image[i : i + _CHUNK] for i in range(0, len(image), _CHUNK)]
    return np.concatenate([classifier.logits(tf.constant(p)).numpy() for p in parts])


def _batch_dependent(classifier: Classifier, image: np.ndarray) -> dict[str, str]:
    """Outputs that change with the other images of the batch."""
    together = classifier.logits(tf.constant(image[:_CHUNK])).numpy()
    alone = np.concatenate(
        [classifier.logits(tf.constant(x[None])).numpy() for x in image[:4]]
    )
    apart = np.abs(together[: len(alone)] - alone).max()
    if apart <= _OTHER_COMPANY * (1 + np.abs(alone).max()):
        return {}
    return {
        "batch_dependent": "what the model says of an image depends on the others in"
        " the batch: numbers change with evaluate.batch_size, and attacks on one image"
        " move the others"
    }


def _randomised(
    classifier: Classifier, image: np.ndarray, label: np.ndarray
) -> dict[str, str]:
    """AutoAttack's flag: passes differ in accuracy, or in the logits' direction."""
    passes = [_logits(classifier, image) for _ in range(_PASSES)]
    accuracies = {int((logits.argmax(axis=1) == label).sum()) for logits in passes}
    unit = [p / (np.linalg.norm(p, axis=1, keepdims=True) + 1e-10) for p in passes]
    spread = max(np.linalg.norm(a - unit[0], axis=1).max() for a in unit[1:])
    if len(accuracies) == 1 and spread <= _UNSTEADY:
        return {}
    return {
        "randomised": "the same images get other outputs each time: attack the mean, as"
        " evaluation/autoattack_rand_linf.gin does; single numbers are draws"
    }


def _quantised(
    classifier: Classifier, image: np.ndarray, logits: np.ndarray
) -> dict[str, str]:
    """Outputs that do not move when each pixel does, by a quarter of a grey level."""
    seed = randomness.example_seeds(0, 0, np.arange(len(image)))
    sign = tf.sign(randomness.uniform(seed, image.shape[1:], -1.0, 1.0))
    # Inwards at the borders of the range, so that all pixels move.
    nudge = np.where(image < 0.01, 1, np.where(image > 0.99, -1, sign)) * _NUDGE
    moved = _logits(classifier, (image + nudge).astype("float32"))
    still = (moved == logits).all(axis=1).mean()
    if still == 0:
        return {}
    return {
        "quantised": f"the outputs for {100 * still:.0f} % of the images do not change"
        " when all pixels do, by 0.25/255: outputs or inputs are rounded, and gradients"
        " say little"
    }


def _gradients(
    classifier: Classifier, image: np.ndarray, label: np.ndarray
) -> dict[str, str]:
    """Gradients, at images that are classified right, of what attacks maximise."""
    found = {}
    parts = [
        _gradients_of(classifier, image[i : i + _CHUNK], label[i : i + _CHUNK])
        for i in range(0, len(image), _CHUNK)
    ]
    if parts[0] is None:
        return {
            "no_gradient": "the outputs have no gradient with respect to the image:"
            " attacks that follow it find nothing, which is no robustness"
        }
    gradients = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
    if not all(np.isfinite(gradient).all() for gradient in gradients.values()):
        found["gradients_not_finite"] = (
            "some gradients are not finite (a square root or norm at 0?): attacks take"
            " them for 0 and miss what they would have found"
        )
    zero = {
        name: float((np.abs(gradient).reshape(len(image), -1).max(axis=1) == 0).mean())
        for name, gradient in gradients.items()
    }
    if zero["margin"] > 0:
        found["zero_gradients"] = (
            f"the gradient of the margin is exactly 0 for {100 * zero['margin']:.1f} %"
            " of the images: attacks that follow it cannot leave them"
        )
    if zero["cross_entropy"] > zero["margin"]:
        found["saturated"] = (
            "the gradient of the cross-entropy is exactly 0 for"
            f" {100 * zero['cross_entropy']:.1f} % of the images: their logits are so"
            " large that the softmax is 1 in float32, and attacks on it are blind;"
            " those on the margin or the DLR loss, FAB and Square are not"
        )
    return found


def _gradients_of(
    classifier: Classifier, image: np.ndarray, label: np.ndarray
) -> dict[str, np.ndarray] | None:
    """[n, h, w, c] of margin and cross-entropy; None if there are none."""
    image = tf.constant(image)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(image)
        logits = classifier.logits(image)
        losses = {
            "margin": margin(logits, label),
            "cross_entropy": tf.nn.sparse_softmax_cross_entropy_with_logits(
                label, logits
            ),
        }
    gradients = {name: tape.gradient(loss, image) for name, loss in losses.items()}
    if gradients["margin"] is None:
        return None
    return {name: gradient.numpy() for name, gradient in gradients.items()}
