"""Shot noise: corruption 2 of 15."""

from __future__ import annotations

import functools

import gin
import numpy as np
import tensorflow as tf
from scipy import stats

from tfssl.data.corruptions import draws
from tfssl.data.corruptions.corruption import Corruption

_STEPS = 2**23  # Of the probabilities in the table; 256 times as many fit into int32.


@gin.register(module="tfssl.data.corruptions")
class ShotNoise(Corruption):
    """Counts photons: a value x becomes n / c with n from Poisson(c x).

    The settings are c, the photons that make a value of 1. As there are only 256
    values, counts are looked up in a table of all distributions, whose probabilities
    are exact to 2^-23.
    """

    name = "shot_noise"
    cifar = (500, 250, 100, 75, 50)
    imagenet = (60, 25, 12, 5, 3)

    def _corrupt(self, levels: tf.Tensor, seed: tf.Tensor, setting: int) -> tf.Tensor:
        keys, offsets = _table(setting)
        u = draws.uniform(self._stream(seed, "noise"), levels.shape[1:])
        level = tf.cast(levels, tf.int32)
        key = level * _STEPS + tf.cast(u * _STEPS, tf.int32)
        place = tf.searchsorted(keys, tf.reshape(key, [-1]), side="right")
        photons = tf.reshape(place, tf.shape(level)) + tf.gather(offsets, level)
        return tf.cast(photons, tf.float32) * (255 / setting)


@functools.cache
def _table(photons: int) -> tuple[np.ndarray, np.ndarray]:
    """The cumulative distributions of all levels, one after the other.

    Args:
      photons: Of level 255.

    Returns:
      keys [n] int32, ascending: level * 2^23 + 2^23 P(count <= k), for the k whose
        probability is neither 0 nor 1; and offsets [256] int32: the number of keys that
        are not above a key of a draw, plus the offset of its level, is the count.
    """
    levels = np.arange(256, dtype=np.int32)[:, None]
    counts = np.arange(stats.poisson.ppf(1 - 0.1 / _STEPS, photons) + 1)
    below = stats.poisson.cdf(counts, photons * levels / 255)
    below = np.round(_STEPS * below).astype(np.int32)
    kept = (below > 0) & (below < _STEPS)
    before = np.cumsum(kept.sum(axis=1)) - kept.sum(axis=1)
    offsets = (below == 0).sum(axis=1) - before
    # Those not kept are left out before they are added up: the last would overflow.
    keys = np.broadcast_to(levels, kept.shape)[kept] * _STEPS + below[kept]
    return keys, offsets.astype(np.int32)
