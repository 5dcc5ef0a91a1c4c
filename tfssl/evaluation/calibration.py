"""How well probabilities fit what happens: of predictions, and over a set of them."""

from __future__ import annotations

import numpy as np
import tensorflow as tf


def scores(logits: tf.Tensor, label: tf.Tensor) -> dict[str, tf.Tensor]:
    """Proper scores of each prediction, and what `expected_calibration_error` needs.

    Args:
      logits: [b, k].
      label: [b] in [0, k).

    Returns:
      nll [b], -log p_label, in nats; brier [b], sum_k (p_k - [k = label])^2 in [0, 2]
      (Brier 1950, as a sum over the classes); confidence [b], max_k p_k.
    """
    log_p = tf.nn.log_softmax(logits)
    p = tf.exp(log_p)
    is_label = tf.one_hot(label, tf.shape(logits)[-1])
    return {
        "nll": -tf.gather(log_p, label, batch_dims=1),
        "brier": tf.reduce_sum((p - is_label) ** 2, axis=-1),
        "confidence": tf.reduce_max(p, axis=-1),
    }


def expected_calibration_error(
    confidence: np.ndarray, correct: np.ndarray, bins: int = 15
) -> float:
    """ECE: sum over bins of (share of the examples) * |accuracy - mean confidence|.

    Guo et al. 2017 (https://arxiv.org/abs/1706.04599), eq. 3: bins of equal width,
    ((m - 1) / M, m / M]. It is biased upwards, the more the fewer examples there are.

    Args:
      confidence: [n] in [0, 1], of the predicted class.
      correct: [n] bool, whether that is the label.
      bins: M. The paper has 15.

    Returns:
      In [0, 1].
    """
    place = np.ceil(confidence.astype(np.float64) * bins).astype(int).clip(1, bins)
    gap = correct.astype(np.float64) - confidence
    return float(np.abs(np.bincount(place, gap)).sum() / len(gap))
