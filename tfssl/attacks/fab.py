"""FAB, the fast adaptive boundary attack (Croce and Hein 2020)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gin
import tensorflow as tf

from tfssl import randomness
from tfssl.attacks import hyperplane, lanes
from tfssl.attacks.attack import Attack
from tfssl.attacks.goals import misclassified
from tfssl.types import UserError

_PROJECTIONS = {"linf": hyperplane.project_linf, "l2": hyperplane.project_l2}
# Of the authors' code.
_RADIUS = {"linf": 0.3, "l2": 1.0}


@gin.register(module="tfssl.attacks")
class FAB(Attack):
    """Looks for the nearest misclassified image, by walking along the boundary.

    Algorithm 1 of Croce and Hein 2020 (https://arxiv.org/abs/1907.02044). With z the
    logits, y the label, x_0 the clean image and s the class whose linearised boundary
    is nearest, min_s |z_s - z_y| / ||grad(z_s - z_y)||_dual at x:

        d, d_0 = the projections of x and x_0 on that boundary, within [0, 1]
        a      = min(||d|| / (||d|| + ||d_0||), alpha_max)
        x      = clip((1 - a) (x + eta d) + a (x_0 + eta d_0))
        if x is misclassified: remember it if it is the nearest so far, and
        x      = x_0 + beta (x - x_0)

    As in the authors' code within AutoAttack, the final search on the segment between
    x_0 and the nearest image is left out.

    `perturb` returns the first misclassified image found within epsilon, with which an
    example ends: whether there is one is all that an accuracy at epsilon asks for. If
    there is none, it returns the clean image.

    Args:
      ball: `Linf` or `L2` of `tfssl.attacks.balls`.
      epsilon: Radius for `perturb`, where the caller gives none, and the bound on the
        starts of restarts in `closest`; '8/255' or a number in [0, 1] units. `closest`
        takes 0.3 for linf and 1 for l2 if it is None.
      steps: Iterations of a run. Each takes a forward pass, another one for the
        gradients, and as many backward passes as there are boundaries to look at: all
        of the k - 1 classes, or 1 with `targets`.
      targets: None, or the number of runs that look at one other class each: those
        with the largest logits at the clean image, k - 1 at most.
      restarts: Number of runs (for each target). The first starts at the image, others
        at random at half the distance of the nearest found so far, epsilon at most.
      alpha_max: Largest share a of the clean image's projection, in [0, 1].
      eta: Overshooting of the boundary, at least 1.
      beta: What a step back to the clean image keeps of the perturbation, in (0, 1).

    Raises:
      UserError: A setting is out of range.
    """

    def __init__(
        self,
        ball: Any,
        epsilon: str | float | None = None,
        steps: int = 100,
        targets: int | None = None,
        restarts: int = 1,
        alpha_max: float = 0.1,
        eta: float = 1.05,
        beta: float = 0.9,
    ):
        super().__init__(ball, epsilon)
        self.steps = steps
        self.targets = targets
        self.restarts = restarts
        self.alpha_max = alpha_max
        self.eta = eta
        self.beta = beta
        self._check()

    def _check(self) -> None:
        if self.ball.name not in _PROJECTIONS:
            raise UserError(f"FAB knows the balls linf and l2, not {self.ball.name!r}")
        self._check_counts("steps", "restarts")
        if self.targets is not None:
            self._check_counts("targets")
        if not 0 <= self.alpha_max <= 1:
            raise UserError(f"FAB.alpha_max must be in [0, 1], not {self.alpha_max!r}")
        if not self.eta >= 1:
            raise UserError(f"FAB.eta must be at least 1, not {self.eta!r}")
        if not 0 < self.beta < 1:
            raise UserError(f"FAB.beta must be between 0 and 1, not {self.beta!r}")

    def _perturb(self, logits_fn, image, label, seed, epsilon):
        epsilon = tf.cast(epsilon, tf.float64)
        found, distance = self._search(logits_fn, image, label, seed, epsilon, epsilon)
        return lanes.select(distance <= epsilon, found, image)

    def closest(
        self, logits_fn: Callable, image: tf.Tensor, label: tf.Tensor, seed: tf.Tensor
    ) -> tf.Tensor:
        """The nearest misclassified image that all runs together find.

        Arguments as of `perturb`. Returns [b, h, w, c] in [0, 1]: the clean image where
        it is misclassified itself, and also where nothing was found.
        """
        radius = _RADIUS[self.ball.name] if self.epsilon is None else self.epsilon
        radius = tf.constant(radius, tf.float64)
        nothing = tf.constant(-1.0, tf.float64)
        return self._search(logits_fn, image, label, seed, radius, nothing)[0]

    def _search(self, logits_fn, image, label, seed, radius, enough):
        """The nearest found, [b, h, w, c], and its distance [b] float64, or infinity.

        Restarts begin within `radius`; an example ends when one is `enough` or nearer.
        """
        logits = logits_fn(image)
        rivals = self._rivals(logits, label)
        total = self.steps * self.restarts * rivals.shape[1]
        state = {
            "image": image,
            "label": label,
            "seed": randomness.fold(seed, "start"),
            "rivals": rivals,
            "x": image,
            "found": image,
            "distance": tf.fill(tf.shape(label), tf.constant(float("inf"), tf.float64)),
            "done": tf.zeros_like(label),
            "active": ~misclassified(label, logits),
        }

        def step(state: lanes.State) -> lanes.State:
            image, label = state["image"], state["label"]
            x = self._start(state, radius)
            run = state["done"] // self.steps
            rivals = tf.gather(state["rivals"], run // self.restarts, batch_dims=1)
            x = self._move(x, image, *self._boundary(logits_fn, x, label, rivals))
            won = misclassified(label, logits_fn(x))
            distance = self._distance(x, image)
            nearer = won & (distance < state["distance"])
            nearest = tf.where(nearer, distance, state["distance"])
            done = state["done"] + 1
            return {
                **state,
                "x": lanes.select(won, image + self.beta * (x - image), x),
                "found": lanes.select(nearer, x, state["found"]),
                "distance": nearest,
                "done": done,
                "active": (done < total) & (nearest > enough),
            }

        results = lanes.run(step, state, ["found", "distance"])
        return results["found"], results["distance"]

    def _rivals(self, logits, label):
        """The classes each run looks at: [b, targets, 1] or [b, 1, k - 1] int32."""
        k = logits.shape[-1]
        others = tf.where(tf.math.is_finite(logits), logits, logits.dtype.min)
        mine = tf.one_hot(label, k, on_value=True, off_value=False)
        others = tf.where(mine, -float("inf"), others)
        if self.targets is None:
            return tf.math.top_k(others, k - 1).indices[:, None, :]
        return tf.math.top_k(others, min(self.targets, k - 1)).indices[:, :, None]

    def _start(self, state, radius):
        """Where the step begins: x, or where a run begins, its first image."""
        image, run = state["image"], state["done"] // self.steps
        begins = state["done"] % self.steps == 0
        x = lanes.select(begins, image, state["x"])
        if self.restarts == 1:
            return x
        begins &= run % self.restarts > 0

        def draw():
            seed = state["seed"] + run[:, None] * tf.constant([0, 1])
            delta = self.ball.random(seed, image.shape[1:], 1.0)
            size = tf.cast(tf.minimum(state["distance"], radius) / 2, tf.float32)
            delta *= size[:, None, None, None] / self.ball.norm(delta)
            return lanes.select(begins, tf.clip_by_value(image + delta, 0.0, 1.0), x)

        return tf.cond(tf.reduce_any(begins), draw, lambda: x)

    def _boundary(self, logits_fn, x, label, rivals):
        """The nearest of the linearised boundaries with the classes `rivals` [b, n].

        Returns:
          Gradient [b, h, w, c] and value [b] at x of that class's logit minus the
          label's. Both are 0 if no gradient is left.
        """
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
            tape.watch(x)
            logits = logits_fn(x)
        k = logits.shape[-1]

        # One class after the other: memory for one gradient, however many there are.
        def compare(i, best, normal, value):
            mask = tf.one_hot(rivals[:, i], k) - tf.one_hot(label, k)
            gradient = tape.gradient(
                logits,
                x,
                output_gradients=mask,
                unconnected_gradients=tf.UnconnectedGradients.ZERO,
            )
            gradient = tf.where(tf.math.is_finite(gradient), gradient, 0.0)
            difference = tf.gather(logits, rivals[:, i], batch_dims=1) - tf.gather(
                logits, label, batch_dims=1
            )
            slope = self._dual_norm(gradient)
            distance = tf.where(slope > 0, tf.abs(difference) / slope, float("inf"))
            nearer = distance < best
            return (
                i + 1,
                tf.where(nearer, distance, best),
                lanes.select(nearer, gradient, normal),
                tf.where(nearer, difference, value),
            )

        nothing = tf.zeros_like(label, tf.float32)
        _, _, normal, value = tf.while_loop(
            lambda i, *_: i < rivals.shape[1],
            compare,
            (0, nothing + float("inf"), tf.zeros_like(x), nothing),
            parallel_iterations=1,
        )
        return normal, value

    def _move(self, x, image, normal, value):
        """One step, from x to the next image, for a boundary <normal, .> = offset."""
        offset = tf.reduce_sum(normal * x, [1, 2, 3]) - value
        entries = image.shape[1:].num_elements()

        def project(point):
            delta = _PROJECTIONS[self.ball.name](
                tf.reshape(point, [-1, entries]),
                tf.reshape(normal, [-1, entries]),
                offset,
            )
            delta = tf.reshape(delta, tf.shape(point))
            return self.eta * delta, tf.maximum(self.ball.norm(delta), 1e-8)

        (delta, size_x), (delta_image, size_image) = project(x), project(image)
        share = tf.minimum(size_x / (size_x + size_image), self.alpha_max)
        x = (1 - share) * (x + delta) + share * (image + delta_image)
        return tf.clip_by_value(x, 0.0, 1.0)

    def _distance(self, x, image):
        """[b] float64: epsilon is a promise, and float32 norms are off by 1e-6."""
        delta = tf.cast(x, tf.float64) - tf.cast(image, tf.float64)
        return self.ball.norm(delta)[:, 0, 0, 0]

    def _dual_norm(self, gradient):
        if self.ball.name == "linf":
            return tf.reduce_sum(tf.abs(gradient), [1, 2, 3])
        return self.ball.norm(gradient)[:, 0, 0, 0]
