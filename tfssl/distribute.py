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


def replica() -> tf.Tensor:
    """This replica's position in the global batch: int32 in [0, replicas()).

    Replica r holds the examples r * b to (r + 1) * b - 1 of what `gather` returns. 0
    outside of replicas, where a tensor is all there is.
    """
    context = tf.distribute.get_replica_context()
    index = 0 if context is None else context.replica_id_in_sync_group
    return tf.convert_to_tensor(index, tf.int32)


def gather(x: tf.Tensor) -> tf.Tensor:
    """The global batch: each replica's [b, ...] behind one another, in their order.

    All replicas get the same [global b, ...]. With one replica, and outside of
    replicas, it is `x` itself. All replicas must call it, equally often.

    Its gradient is that of the sum of the replicas' losses: what reaches the result is
    summed over replicas, and each takes the part of its own examples. So losses that
    read the global batch and are averaged by `mean` have, after the sum over replicas,
    the gradient they would have on one replica with the global batch.

    MirroredStrategy cannot do this within tf.while_loop or tf.cond.
    """
    context = tf.distribute.get_replica_context()
    if context is None or replicas() == 1:
        return x
    return tf.ensure_shape(context.all_gather(x, axis=0), [None, *x.shape[1:]])


def state(value: tf.Tensor, name: str) -> tf.Variable:
    """A variable that no optimizer trains, and that replicas may assign.

    They must assign equal values: that of the first counts.
    """
    return tf.Variable(
        value,
        trainable=False,
        name=name,
        # Without this no replica may assign it.
        aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
    )


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
