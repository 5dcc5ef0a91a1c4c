"""The weighted vote of the nearest neighbours among the training split's features."""

from __future__ import annotations

import gin
import numpy as np
import tensorflow as tf

from tfssl.evaluation.evaluators import Outcome
from tfssl.evaluation.probe import Probe
from tfssl.evaluation.subject import Subject
from tfssl.types import UserError, positive

# Numbers in the largest tensor: 256 MiB.
_ENTRIES = 2**26


@gin.register(module="tfssl.evaluation")
class KNN(Probe):
    """Accuracy of k nearest neighbours (Wu et al. 2018, arXiv:1805.01978, 3.4).

    Args:
      k: Number of neighbours, 200 in the paper.
      temperature: tau, 0.07 in the paper.
      name: Of the evaluator and its folder of results.

    Raises:
      UserError: A setting is out of range; when measured, if there are fewer than k
        training examples.
    """

    def __init__(self, k: int = 200, temperature: float = 0.07, name: str = "knn"):
        super().__init__(name)
        if not isinstance(k, int) or k < 1:
            raise UserError(f"{name}: k must be a positive integer, not {k!r}")
        self.k = k
        self.temperature = positive(f"{name}: temperature", temperature)

    def predict(
        self, known: tuple[np.ndarray, np.ndarray], asked: np.ndarray, subject: Subject
    ) -> tuple[np.ndarray, Outcome]:
        if len(known[1]) < self.k:
            raise UserError(
                f"{self.name} asks {self.k} neighbours, but the split 'train' has"
                f" {len(known[1])} examples: lower KNN.k"
            )
        classes = vote(*known, asked, subject.num_classes, self.k, self.temperature)
        return classes, {}


def vote(
    features: np.ndarray,
    labels: np.ndarray,
    asked: np.ndarray,
    num_classes: int,
    k: int,
    temperature: float,
) -> np.ndarray:
    """Class of the largest sum of exp(s_i / tau) over the k most similar examples i.

    s_i is the cosine of the angle between the features. No approximation: each example
    is compared with all. Of equal sums the lower class wins.

    Args:
      features: [n, d], of examples whose labels are known.
      labels: [n] in [0, num_classes).
      asked: [m, d].
      num_classes: Number of classes.
      k: At most n.
      temperature: tau.

    Returns:
      [m].
    """
    features, asked = (_normalised(x) for x in (features, asked))
    classes = []
    rows = max(1, _ENTRIES // max(len(labels), k * num_classes))
    for i in range(0, asked.shape[0], rows):
        cosine = tf.matmul(asked[i : i + rows], features, transpose_b=True)
        cosine, nearest = tf.math.top_k(cosine, k)
        # A factor that all share, lest the exponential overflow.
        weight = tf.exp((cosine - cosine[:, :1]) / temperature)
        of_class = tf.one_hot(tf.gather(labels, nearest), num_classes)
        votes = tf.einsum("mk,mkc->mc", weight, of_class)
        classes.append(tf.argmax(votes, axis=1).numpy())
    return np.concatenate(classes)


def kth_distance(features: np.ndarray, asked: np.ndarray, k: int) -> np.ndarray:
    """Euclidean distance of each example from its k-th nearest, lengths aside.

    All features are scaled to length 1 first.

    Args:
      features: [n, d], of the examples to be near to.
      asked: [m, d].
      k: At most n.

    Returns:
      [m] float32 in [0, 2].
    """
    features, asked = (_normalised(x) for x in (features, asked))
    found = []
    rows = max(1, _ENTRIES // len(features))
    for i in range(0, len(asked), rows):
        cosine = tf.matmul(asked[i : i + rows], features, transpose_b=True)
        kth = tf.math.top_k(cosine, k).values[:, -1]
        # |x - y|^2 = 2 - 2 x y of lengths 1; rounding may make it negative.
        found.append(tf.sqrt(tf.maximum(2 - 2 * kth, 0)).numpy())
    return np.concatenate(found)


def _normalised(features: np.ndarray) -> np.ndarray:
    """Rows of length 1, of whatever length they were; rows of zeros stay."""
    features = features.astype(np.float64)
    norm = np.linalg.norm(features, axis=1, keepdims=True)
    return (features / np.where(norm > 0, norm, 1)).astype(np.float32)
