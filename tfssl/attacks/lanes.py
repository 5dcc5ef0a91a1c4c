"""Runs an attack step by step, each example only for as long as it is needed.

An example that is broken, or whose budget is spent, leaves the batch, and the batch
shrinks: what is left costs less. As examples never look at each other, all results are
those of the full batch, up to the rounding of other kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf

State = dict[str, tf.Tensor]

# Sizes are powers of this share of the first one: a kernel is made ready for each size.
_SHRINK = 0.85


def run(
    step: Callable[[State], State], state: State, outputs: Sequence[str]
) -> dict[str, tf.Tensor]:
    """Steps until no example is active.

    Args:
      step: From a state to the next, of the same names and shapes. It treats each
        example on its own, and must set "active" to False after finitely many steps.
      state: Tensors [b, ...], among them "active" [b] bool: the examples to work on.
      outputs: Names of what is asked for.

    Returns:
      The outputs, [b, ...], each example's as of the step after which it was no longer
      active.
    """
    size = tf.shape(state["active"])[0]
    lanes = {**state, "lane": tf.range(size)}
    results = {name: state[name] for name in outputs}

    def body(lanes: State, results: State) -> tuple[State, State]:
        moved = step({k: v for k, v in lanes.items() if k != "lane"})
        moved = {**moved, "lane": lanes["lane"]}
        moved["active"] &= lanes["active"]
        for name in outputs:
            moved[name] = select(lanes["active"], moved[name], lanes[name])
        return _shrink(moved, results, size)

    lanes, results = tf.while_loop(
        lambda lanes, _: tf.reduce_any(lanes["active"]),
        body,
        _shrink(lanes, results, size),
        shape_invariants=(
            {k: tf.TensorShape([None, *v.shape[1:]]) for k, v in lanes.items()},
            {k: tf.TensorShape([None, *v.shape[1:]]) for k, v in results.items()},
        ),
        # More than one gradient in flight would cost memory for nothing.
        parallel_iterations=1,
    )
    results = _write(lanes, results)
    for name in outputs:
        results[name] = tf.ensure_shape(results[name], state[name].shape)
    return results


def select(condition: tf.Tensor, new: tf.Tensor, old: tf.Tensor) -> tf.Tensor:
    """Per example, [b] bool and twice [b, ...] to [b, ...]."""
    return tf.where(tf.reshape(condition, [-1] + [1] * (len(new.shape) - 1)), new, old)


def _shrink(lanes: State, results: State, size: tf.Tensor) -> tuple[State, State]:
    """Drops lanes that are not active once enough of them are not."""
    active = tf.math.count_nonzero(lanes["active"], dtype=tf.int32)
    share = tf.cast(active, tf.float32) / tf.cast(tf.maximum(size, 1), tf.float32)
    power = tf.floor(tf.math.log(tf.maximum(share, 1e-6)) / tf.math.log(_SHRINK))
    wanted = tf.cast(tf.math.ceil(tf.cast(size, tf.float32) * _SHRINK**power), tf.int32)
    wanted = tf.maximum(wanted, active)

    def drop():
        written = _write(lanes, results)
        order = tf.argsort(tf.cast(~lanes["active"], tf.int32), stable=True)[:wanted]
        return {k: tf.gather(v, order) for k, v in lanes.items()}, written

    return tf.cond(
        wanted < tf.shape(lanes["active"])[0], drop, lambda: (lanes, results)
    )


def _write(lanes: State, results: State) -> State:
    rows = lanes["lane"][:, None]
    return {
        name: tf.tensor_scatter_nd_update(value, rows, lanes[name])
        for name, value in results.items()
    }
