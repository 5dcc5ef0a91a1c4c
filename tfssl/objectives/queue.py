"""A queue of embeddings: first in, first out."""

from __future__ import annotations

import tensorflow as tf

from tfssl import distribute, types


class Queue:
    """The newest embeddings of earlier batches.

    It starts with random directions, as that of MoCo does.

    Attributes:
      variables: For checkpoints. Equal on all replicas.
      full: Whether none of the first ones is left.

    Args:
      size: Number of embeddings, m.
      width: Dimensions of each, d.
      name: Prefix of the variables' names.

    Raises:
      UserError: The size is no positive integer.
    """

    def __init__(self, size: int, width: int, name: str):
        if not isinstance(size, int) or size < 1:
            raise types.UserError(f"{name}: the queue's size must be positive")
        self._size = size
        start = tf.random.stateless_normal([size, width], [0, 0])
        start = tf.math.l2_normalize(start, axis=-1)
        self._rows = distribute.state(start, f"{name}/queue")
        self._next = distribute.state(tf.zeros([], tf.int64), f"{name}/queue_next")
        self.variables = [self._rows, self._next]

    def read(self) -> tf.Tensor:
        """[m, d], in no particular order."""
        return tf.convert_to_tensor(self._rows)

    @property
    def full(self) -> tf.Tensor:
        return tf.convert_to_tensor(self._next) >= self._size

    def push(self, new: tf.Tensor) -> None:
        """Replaces the oldest by these, [n, d], the same on all replicas."""
        new = new[-self._size :]
        count = tf.shape(new, tf.int64)[0]
        rows = (tf.convert_to_tensor(self._next) + tf.range(count)) % self._size
        self._rows.assign(tf.tensor_scatter_nd_update(self.read(), rows[:, None], new))
        self._next.assign_add(count)
