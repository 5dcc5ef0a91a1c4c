"""Square Attack (Andriushchenko et al. 2020, https://arxiv.org/abs/1912.00049)."""

from __future__ import annotations

import math
from typing import Any

import gin
import numpy as np
import tensorflow as tf

from tfssl import randomness
from tfssl.attacks import lanes
from tfssl.attacks.attack import Attack
from tfssl.attacks.goals import misclassified
from tfssl.losses import classification
from tfssl.types import UserError, fraction

# Proposals after which the windows' share of the image is halved (section 5).
_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


@gin.register(module="tfssl.attacks")
class Square(Attack):
    """Random search without gradients: changes square windows, keeps what helps.

    Algorithm 1 with the proposals of algorithm 2 (linf) or 3 (l2): a proposal replaces
    the best image if the margin of the label falls. Two things of the authors' code
    that the paper leaves open are taken from there: the schedule counts proposals and
    is not rescaled to the number of queries (so in AutoAttack), and the halves of the
    l2 window have equal norms. The windows are drawn per image as in the paper; the
    code shares them in a batch and never reaches the last row and column.

    Returned is the first misclassified image, with which an example ends, or else the
    one with the smallest margin; the clean image where that is misclassified already.

    Args:
      ball: A ball of `tfssl.attacks.balls`, linf or l2.
      epsilon: Its radius, '8/255' or a number in [0, 1] units; may be left out where
        the caller gives one.
      queries: Number of images whose logits are asked for, the first one included.
      p_init: Share of the image that the first windows cover, in (0, 1].

    Raises:
      UserError: A setting is out of range.
    """

    gradient_free = True

    def __init__(
        self,
        ball: Any,
        epsilon: str | float | None = None,
        queries: int = 5000,
        p_init: str | float = 0.8,
    ):
        super().__init__(ball, epsilon)
        self.queries = queries
        self.p_init = fraction(p_init)
        if ball.name not in _PROPOSALS:
            raise UserError(f"Square knows the balls linf and l2, not {ball.name!r}")
        self._check_counts("queries")
        if not 0 < self.p_init <= 1:
            raise UserError(f"Square.p_init must be in (0, 1], not {p_init!r}")

    def _perturb(self, logits_fn, image, label, seed, epsilon):
        proposals = _PROPOSALS[self.ball.name](image.shape[1:], self.p_init)
        seed = randomness.fold(seed, "square")

        start = proposals.start(image, seed, epsilon)
        wrong = misclassified(label, logits_fn(image))
        loss, won = _judge(label, logits_fn(start))
        state = {
            "clean": image,
            "image": start,
            "loss": loss,
            "label": label,
            "seed": seed,
            "asked": tf.ones_like(label),
            "active": ~(wrong | won) & (self.queries > 1),
        }

        def step(state: lanes.State) -> lanes.State:
            asked, image = state["asked"], state["image"]
            proposal = proposals.next(
                state["clean"], image, state["seed"], asked, epsilon
            )
            loss, won = _judge(state["label"], logits_fn(proposal))
            keep = won | (loss > state["loss"])
            return {
                **state,
                "image": lanes.select(keep, proposal, image),
                "loss": lanes.select(keep, loss, state["loss"]),
                "asked": asked + 1,
                "active": ~won & (asked + 1 < self.queries),
            }

        found = lanes.run(step, state, ["image"])["image"]
        return lanes.select(wrong, image, found)


class _Linf:
    """Algorithm 2: a window of one colour from a corner of the ball."""

    def __init__(self, shape: tf.TensorShape, p_init: float):
        self._height, self._width, self._channels = shape.as_list()
        self._sides = _sides(self._height, self._width, p_init, 1)

    def start(self, clean: tf.Tensor, seed: tf.Tensor, epsilon) -> tf.Tensor:
        """Vertical stripes, one pixel wide."""
        draws = randomness.uniforms(seed, 0, self._width * self._channels)
        signs = tf.reshape(_signs(draws), [-1, 1, self._width, self._channels])
        return tf.clip_by_value(clean + epsilon * signs, 0.0, 1.0)

    def next(self, clean, image, seed, asked, epsilon) -> tf.Tensor:
        """Images [b, h, w, c] after `asked` [b] queries to what to ask for next."""
        draws = randomness.uniforms(seed, asked, 2 + self._channels)
        side = tf.gather(self._sides, _level(asked))
        _, _, inside = _place(draws[:, :2], side, self._height, self._width)
        signs = _signs(draws[:, None, None, 2:])
        # From anywhere in the ball a step of 2 epsilon, projected, ends on its border.
        corner = tf.clip_by_value(clean + epsilon * signs, 0.0, 1.0)
        return tf.where(inside[..., None], corner, image)


class _L2:
    """Algorithm 3: the norm in two windows and what is left of the ball go to one."""

    def __init__(self, shape: tf.TensorShape, p_init: float):
        self._height, self._width, self._channels = shape.as_list()
        sides = _sides(self._height, self._width, p_init, 3)
        # Windows have a centre, unless they are as large as the image.
        sides = np.minimum(sides + (sides + 1) % 2, min(self._height, self._width))
        self._sides = sides.astype(np.float32)
        self._stride = int(sides.max())
        self._windows = np.zeros(
            [len(sides), self._stride, self._stride], dtype=np.float32
        )
        for window, side in zip(self._windows, sides.astype(int), strict=True):
            window[:side, :side] = _bumps(side)

    def start(self, clean: tf.Tensor, seed: tf.Tensor, epsilon) -> tf.Tensor:
        """A grid of windows, five along the shorter side of the image."""
        side = max(min(self._height, self._width) // 5, 1)
        rows, columns = self._height // side, self._width // side
        draws = randomness.uniforms(seed, 0, rows * columns * (1 + self._channels))
        draws = tf.reshape(draws, [-1, rows, columns, 1, 1, 1 + self._channels])
        window = _bumps(side)[..., None]
        tiles = _signs(draws[..., 1:]) * tf.where(
            draws[..., :1] < 0.5, window.swapaxes(0, 1), window
        )
        tiles = tf.transpose(tiles, [0, 1, 3, 2, 4, 5])
        shape = [-1, rows * side, columns * side, self._channels]
        margins = [
            (rest // 2, rest - rest // 2)
            for rest in (self._height - shape[1], self._width - shape[2])
        ]
        delta = tf.pad(tf.reshape(tiles, shape), [(0, 0), *margins, (0, 0)])
        return self._on_sphere(clean, delta, epsilon)

    def next(self, clean, image, seed, asked, epsilon) -> tf.Tensor:
        """Images [b, h, w, c] after `asked` [b] queries to what to ask for next."""
        draws = randomness.uniforms(seed, asked, 5 + self._channels)
        level = _level(asked)
        side = tf.gather(self._sides, level)
        size = self._height, self._width
        row, column, first = _place(draws[:, :2], side, *size)
        _, _, second = _place(draws[:, 2:4], side, *size)
        turned = draws[:, 4, None, None] < 0.5
        row, column = tf.where(turned, column, row), tf.where(turned, row, column)
        window = self._window(level, row, column, first)[..., None]
        first, second = first[..., None], second[..., None]

        delta = image - clean
        square = tf.square(delta)
        unused = tf.maximum(
            epsilon**2 - tf.reduce_sum(square, [1, 2, 3], keepdims=True), 0.0
        )
        available = unused / self._channels + _sum(square, first | second)
        old = tf.math.divide_no_nan(delta, tf.sqrt(_sum(square, first)))
        new = _signs(draws[:, None, None, 5:]) * window + old
        length = tf.sqrt(_sum(tf.square(new), first))
        new = tf.math.divide_no_nan(new, length) * tf.sqrt(available)
        delta = tf.where(first, new, tf.where(second, 0.0, delta))
        return self._on_sphere(clean, delta, epsilon)

    def _window(self, level, row, column, inside) -> tf.Tensor:
        """[b, h, w]: the window of side [b] where it lies, junk elsewhere."""
        level = tf.cast(level, tf.float32)[:, None, None]
        index = (level * self._stride + row) * self._stride + column
        index = tf.cast(tf.where(inside, index, 0.0), tf.int32)
        return tf.gather(self._windows.ravel(), index)

    def _on_sphere(self, clean, delta, epsilon) -> tf.Tensor:
        length = tf.sqrt(tf.reduce_sum(tf.square(delta), [1, 2, 3], keepdims=True))
        scale = tf.math.divide_no_nan(epsilon * tf.ones_like(length), length)
        return tf.clip_by_value(clean + scale * delta, 0.0, 1.0)


_PROPOSALS = {"linf": _Linf, "l2": _L2}


def _judge(label: tf.Tensor, logits: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """([b] loss, [b] bool won); logits that are not finite are worth nothing."""
    finite = tf.reduce_all(tf.math.is_finite(logits), -1)
    loss = tf.where(finite, classification.margin(label, logits), -float("inf"))
    return loss, misclassified(label, logits)


def _sides(height: int, width: int, p_init: float, smallest: int) -> np.ndarray:
    """Sides of the windows for each level of the schedule."""
    shares = [p_init / 2**level for level in range(len(_HALVINGS) + 1)]
    sides = [round(math.sqrt(share * height * width)) for share in shares]
    return np.clip(sides, smallest, min(height, width)).astype(np.float32)


def _level(asked: tf.Tensor) -> tf.Tensor:
    """How often the share is halved: [b] queries so far to [b] int32."""
    made = asked[:, None] - 1  # The start is no proposal.
    return tf.reduce_sum(tf.cast(made > np.array(_HALVINGS, np.int32), tf.int32), 1)


def _signs(draws: tf.Tensor) -> tf.Tensor:
    return tf.where(draws < 0.5, -1.0, 1.0)


def _sum(values: tf.Tensor, inside: tf.Tensor) -> tf.Tensor:
    """[b, h, w, c] and [b, h, w, 1] bool to [b, 1, 1, c]."""
    return tf.reduce_sum(tf.where(inside, values, 0.0), [1, 2], keepdims=True)


def _place(draws: tf.Tensor, side: tf.Tensor, height: int, width: int) -> tuple:
    """Puts a window anywhere in each image.

    In floats: integers would be compared on the host even where there is a GPU.

    Args:
      draws: [b, 2], uniform in [0, 1).
      side: [b] float32, of the window.
      height, width: Of the image.

    Returns:
      Each pixel's row [b, h, 1] and column [b, 1, w] in the window, and [b, h, w] bool,
      whether it is inside.
    """
    side = side[:, None, None]
    top = tf.floor(draws[:, :1, None] * (height - side + 1))
    left = tf.floor(draws[:, 1:, None] * (width - side + 1))
    row = np.arange(height, dtype=np.float32)[:, None] - top
    column = np.arange(width, dtype=np.float32) - left
    inside = (row >= 0) & (row < side) & (column >= 0) & (column < side)
    return row, column, inside


def _bumps(side: int) -> np.ndarray:
    """Two rectangular bumps of opposite signs, one above the other; norm 1, eq. 2.

    At distance m from its centre (in the larger of rows and columns) a bump is the sum
    of 1 / i^2 for i from m + 1 to n + 1, n being half its longer side.
    """
    half = side // 2
    halves = [sign * _bump(rows, side) for sign, rows in ((1, half), (-1, side - half))]
    window = np.concatenate(halves)
    return (window / np.linalg.norm(window)).astype(np.float32)


def _bump(rows: int, columns: int) -> np.ndarray:
    """One of them, of norm 1."""
    n = max(rows, columns) // 2
    terms = 1 / np.arange(1, n + 2) ** 2.0
    tails = np.cumsum(terms[::-1])[::-1]
    distance = np.maximum(
        np.abs(np.arange(rows) - rows // 2)[:, None],
        np.abs(np.arange(columns) - columns // 2),
    )
    bump = tails[distance]
    return bump / np.linalg.norm(bump) if rows else bump
