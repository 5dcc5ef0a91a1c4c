"""Computing a batch part by part, in the memory of one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf


def in_turn(function: Callable[[Any], Any], batch: Any, parts: int) -> Any:
    """Applies a function to equal parts of a batch, in the memory of one.

    Args:
      function: From a nest of tensors to another, example by example.
      batch: Tensors [b, ...], and scalars, which belong to each part.
      parts: How many.

    Returns:
      What it makes of the parts, joined: a nest of [b, ...].
    """
    if parts == 1:
        return function(batch)
    flat = [
        _split(x, parts) if x.shape.rank else [x] * parts
        for x in tf.nest.flatten(batch)
    ]
    found = []
    for part in zip(*flat, strict=True):
        part = [_after(x, tf.nest.flatten(found[-1:])) for x in part]
        found.append(function(tf.nest.pack_sequence_as(batch, part)))
    return tf.nest.map_structure(lambda *these: _join(these), *found)


def in_parts(
    call: Callable[..., tuple[tf.Tensor, Sequence[tf.Tensor]]],
    parts: int,
    image: tf.Tensor,
    weights: Sequence[tf.Tensor] = (),
    others: Sequence[tf.Tensor] = (),
) -> tuple[tf.Tensor, Sequence[tf.Tensor]]:
    """Calls a network part by part, in the memory of one.

    Args:
      call: From a part of the images, and weights, to its features and what `others`
        become. No variable may be read in it.
      parts: How many; they are equal.
      image: [b, ..., h, w, c].
      weights: What gradients are asked for, beside the images.
      others: Values of the variables that are not trained.

    Returns:
      Features [b, ..., d], and the means of what `others` become.
    """

    @tf.custom_gradient
    def run(image, *weights):
        images = _split(image, parts)
        features, states = [], []
        for part in images:
            found, state = call(_after(part, features[-1:]), *weights)
            features.append(found)
            states.append(state)

        def gradient(upstream, *_):
            image_gradients = []
            totals = [tf.zeros_like(weight) for weight in weights]
            done = [upstream]
            for part, share in zip(images, _split(upstream, parts), strict=True):
                part = _after(part, done)
                with tf.GradientTape(watch_accessed_variables=False) as tape:
                    tape.watch((part, weights))
                    found, _ = call(part, *weights)
                mine = tape.gradient(
                    found,
                    [part, *weights],
                    share,
                    unconnected_gradients=tf.UnconnectedGradients.ZERO,
                )
                image_gradients.append(mine[0])
                totals = [a + b for a, b in zip(totals, mine[1:], strict=True)]
                # All that is asked for, or the rest would wait, and keep its memory.
                done = totals or mine
            return _join(image_gradients), *totals

        moved = [_moved(*values) for values in zip(others, *states, strict=True)]
        return (_join(features), *moved), gradient

    features, *moved = run(image, *weights)
    return features, moved


def _after(x: tf.Tensor, these: Sequence[tf.Tensor]) -> tf.Tensor:
    """The same tensor, but only once these are there.

    Without it, parts would be computed side by side, and nothing be won.
    """
    with tf.control_dependencies(these):
        return tf.identity(x)


def _split(x: tf.Tensor, parts: int) -> list[tf.Tensor]:
    """[b, ...] to k of [b/k, ...], of which the i-th has the examples i, i + k, .."""
    return tf.unstack(tf.reshape(x, [-1, parts, *x.shape[1:]]), axis=1)


def _join(these: Sequence[tf.Tensor]) -> tf.Tensor:
    """Undoes `_split`."""
    stacked = tf.stack(these, axis=1)
    return tf.reshape(stacked, [-1, *stacked.shape[2:]])


def _moved(before: tf.Tensor, *after: tf.Tensor) -> tf.Tensor:
    """The mean of what a variable becomes; exactly as before if nothing moves it."""
    if not before.dtype.is_floating:
        return after[-1]
    return before + tf.add_n([value - before for value in after]) / len(after)
