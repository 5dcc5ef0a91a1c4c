"""The only module that knows replicas.

Optimizers sum gradients over replicas, so every loss is divided by the *global* batch,
once, here. A scalar mean in a `train_step` would silently be multiplied by the number
of replicas.
"""

from __future__ import annotations

from collections.abc import Sequence

import gin
import tensorflow as tf


@gin.register(module="tfssl")
def strategy(devices: Sequence[str] | None = None) -> tf.distribute.Strategy:
    """The strategy for this machine.

    Args:
      devices: Devices by name, such as ['GPU:0', 'GPU:1']; all GPUs if not given.

    Returns:
      MirroredStrategy over several devices, else the default one of a single device.
    """
    if devices is None:
        devices = [
            gpu.name.split(":", 1)[1] for gpu in tf.config.list_physical_devices("GPU")
        ]
    if len(devices) > 1:
        return tf.distribute.MirroredStrategy(list(devices))
    if devices:
        return tf.distribute.OneDeviceStrategy(devices[0])
    return tf.distribute.get_strategy()


def replicas() -> int:
    """Number of replicas of the strategy in whose scope the caller is."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def mean(per_example: tf.Tensor) -> tf.Tensor:
    """This replica's share of the mean over the global batch; [b, ...] to a scalar.

    The sum of the shares over replicas is the mean. All replicas hold equally many
    examples (the pipeline drops or pads a remainder).
    """
    return tf.reduce_mean(per_example) / replicas()


def add(strategy_: tf.distribute.Strategy, value):
    """Sums a per-replica result (a nest of scalars) over replicas, outside of them."""
    return tf.nest.map_structure(
        lambda v: strategy_.reduce(tf.distribute.ReduceOp.SUM, v, axis=None), value
    )


def concatenate(strategy_: tf.distribute.Strategy, value):
    """Puts the replicas' [b/r, ...] results behind one another: a nest of [b, ...]."""
    return tf.nest.map_structure(
        lambda v: tf.concat(strategy_.experimental_local_results(v), axis=0), value
    )
