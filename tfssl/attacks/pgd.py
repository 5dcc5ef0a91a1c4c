"""Projected gradient descent (Madry 2018); FGSM and its kin are settings of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gin
import tensorflow as tf

from tfssl import randomness
from tfssl.attacks import lanes
from tfssl.attacks.attack import Attack
from tfssl.attacks.goals import CrossEntropy
from tfssl.types import LossFn, UserError, fraction


@gin.register(module="tfssl.attacks")
class PGD(Attack):
    """Steepest ascent of a loss inside a ball, projected after each step.

    Madry 2018, eq. 2: x_{t+1} = Proj(x_t + step_size * steepest(gradient)). The
    projection is on the ball first and then on [0, 1]; for linf that is the projection
    on their intersection, for l2 a point of it.

    | attack of the literature | setting |
    |---|---|
    | FGSM (Goodfellow 2015) | steps=1, relative_step_size=1, random_start=False |
    | FGSM with random start (Wong 2020) | steps=1, relative_step_size=1.25 |
    | BIM (Kurakin 2017) | random_start=False |
    | PGD-20 of the robustness literature | steps=20, step_size='2/255' |

    Args:
      ball: A ball of `tfssl.attacks.balls`.
      epsilon: Its radius, '8/255' or a number in [0, 1] units; may be left out where
        the caller gives one.
      steps: Number of gradients.
      step_size: Length of a step, in the ball's norm and in [0, 1] units.
      relative_step_size: Or the same as a multiple of epsilon. If neither is given it
        is 2.5 / steps (Madry 2018's rule: the border can be reached from anywhere).
      random_start: Start uniformly in the ball, not at its centre.
      restarts: Number of runs from different starts; needs keep='best'.
      keep: 'last' returns the last iterate, as in training; 'best' the one with the
        largest loss (one that has won before all that have not), which takes one more
        forward pass, and in `perturb` the first one that has won.
      batch_norm: Mode of BatchNorm while training attacks: 'inference', which leaves
        the moving statistics alone, or 'training', as the code of Hendrycks 2019 does.
      noisy_centre: Centre the ball on the random start instead of the clean image, so
        that perturbations reach 2 epsilon, as the code of Hendrycks 2019 does.
      goal: What `perturb` maximises, of `tfssl.attacks.goals`; cross-entropy if None.

    Raises:
      UserError: A setting is out of range.
    """

    def __init__(
        self,
        ball: Any,
        epsilon: str | float | None = None,
        steps: int = 10,
        step_size: str | float | None = None,
        relative_step_size: str | float | None = None,
        random_start: bool = True,
        restarts: int = 1,
        keep: str = "last",
        batch_norm: str = "inference",
        noisy_centre: bool = False,
        goal: Callable | None = None,
    ):
        super().__init__(ball, epsilon)
        self.steps = steps
        self.step_size = None if step_size is None else fraction(step_size)
        self.relative_step_size = (
            None if relative_step_size is None else fraction(relative_step_size)
        )
        self.random_start = random_start
        self.restarts = restarts
        self.keep = keep
        self.batch_norm = batch_norm
        self.noisy_centre = noisy_centre
        self.goal = goal or CrossEntropy()
        self._check()

    def _check(self) -> None:
        self._check_counts("steps", "restarts")
        if self.step_size is not None and self.relative_step_size is not None:
            raise UserError("give PGD.step_size or PGD.relative_step_size, not both")
        if self.keep not in ("last", "best"):
            raise UserError(f"PGD.keep must be 'last' or 'best', not {self.keep!r}")
        if self.batch_norm not in ("inference", "training"):
            raise UserError(
                "PGD.batch_norm must be 'inference' or 'training', not"
                f" {self.batch_norm!r}"
            )
        if self.restarts > 1 and not (self.keep == "best" and self.random_start):
            raise UserError("PGD.restarts needs keep='best' and random_start=True")
        if self.noisy_centre and not self.random_start:
            raise UserError("PGD.noisy_centre needs random_start=True")

    def __call__(
        self,
        loss_fn: LossFn,
        inputs: Any,
        seed: tf.Tensor,
        epsilon: Any = None,
        unrolled: bool = False,
    ) -> Any:
        """Perturbs images so that the loss rises.

        Args:
          loss_fn: See `types.LossFn`.
          inputs: A tensor [b, h, w, c] or a nest of [b, (v,) h, w, c], in [0, 1]. Each
            image has a ball of its own.
          seed: [b, 2] int32; the example's stream of random draws.
          epsilon: Radius, a scalar tensor or number, in place of the constructor's.
          unrolled: Write the steps one after another in the graph: a loss through which
            replicas talk to each other cannot be in a loop.

        Returns:
          Perturbed inputs, of the structure of `inputs`, in [0, 1], without gradient.
        """
        epsilon = tf.convert_to_tensor(self._given(epsilon), tf.float32)
        clean = tf.nest.map_structure(tf.stop_gradient, inputs)
        seed = randomness.fold(seed, "start")
        # Synchronised BatchNorm may not talk to other replicas in a while_loop either.
        unrolled |= self.batch_norm == "training"
        if self.restarts == 1:
            return self._run(loss_fn, clean, seed, epsilon, unrolled)[0]

        def restart(index, best, score):
            start = _restarted(seed, index)
            found, found_score = self._run(loss_fn, clean, start, epsilon, unrolled)
            return index + 1, *_better(found, found_score, best, score)

        state = (tf.constant(0), clean, _no_score(seed))
        _, best, _ = _repeat(restart, state, self.restarts, unrolled)
        return tf.nest.map_structure(tf.stop_gradient, best)

    def _perturb(self, logits_fn, image, label, seed, epsilon):
        if self.keep == "best":
            return self._search(logits_fn, image, label, seed, epsilon)
        return self(lambda x: self.goal(label, logits_fn(x)), image, seed, epsilon)

    def _search(self, logits_fn, image, label, seed, epsilon):
        """Like `__call__` with keep='best', but what has won leaves the batch."""
        epsilon = tf.convert_to_tensor(epsilon, tf.float32)
        seed = randomness.fold(seed, "start")
        none = tf.zeros_like(label, tf.int32)
        centre, start = self._start(image, seed, epsilon)
        state = {
            "clean": image,
            "label": label,
            "seed": seed,
            "run": none,
            "step": none,
            "centre": centre,
            "x": start,
            "best": start,
            "score": _no_score(seed),
            "active": tf.ones_like(label, tf.bool),
        }

        def step(s: lanes.State) -> lanes.State:
            x = s["x"]
            last = s["step"][0] == self.steps  # All are in the same step of a run.

            def goal(x):
                return self.goal(s["label"], logits_fn(x))

            def forward_and_backward():
                result, gradient = _gradient(goal, x)
                return _score(result), self._ascend(x, gradient, s["centre"], epsilon)

            score, following = tf.cond(
                last, lambda: (_score(goal(x)), x), forward_and_backward
            )
            best, score = _better(x, score, s["best"], s["score"])
            run = s["run"] + tf.cast(last, tf.int32)
            centre, following = tf.cond(
                last & (run[0] < self.restarts),
                lambda: self._start(s["clean"], _restarted(s["seed"], run), epsilon),
                lambda: (s["centre"], following),
            )
            return {
                **s,
                "run": run,
                "step": tf.where(last, 0, s["step"] + 1),
                "centre": centre,
                "x": following,
                "best": best,
                "score": score,
                "active": (score[:, 0] < 1) & (run < self.restarts),
            }

        return tf.stop_gradient(lanes.run(step, state, ["best"])["best"])

    def _start(self, clean, seed, epsilon):
        """The centre of the ball, and where a run starts."""
        if not self.random_start:
            return clean, clean
        parts = tf.nest.flatten(clean)
        starts = [
            _clip(x + self.ball.random(stream, x.shape[1:], epsilon))
            for i, x in enumerate(parts)
            for stream in [randomness.fold(seed, str(i))]
        ]
        start = tf.nest.pack_sequence_as(clean, starts)
        return (start if self.noisy_centre else clean), start

    def _ascend(self, x, gradient, centre, epsilon):
        """The next iterate."""
        if self.step_size is not None:
            step_size = self.step_size
        elif self.relative_step_size is not None:
            step_size = self.relative_step_size * epsilon
        else:
            step_size = 2.5 / self.steps * epsilon
        # One NaN would make an example NaN for good, and its start would be judged.
        gradient = tf.where(tf.math.is_finite(gradient), gradient, 0.0)
        x += step_size * self.ball.steepest(gradient)
        return _clip(centre + self.ball.project(x - centre, epsilon))

    def _run(self, loss_fn, clean, seed, epsilon, unrolled):
        """One run: (perturbed, score [b, 2]); the score is only kept for 'best'."""
        centre, start = self._start(clean, seed, epsilon)

        def step(x, best, score):
            result, gradient = _gradient(loss_fn, x)
            if self.keep == "best":
                best, score = _better(x, _score(result), best, score)
            following = tf.nest.map_structure(
                lambda *parts: self._ascend(*parts, epsilon), x, gradient, centre
            )
            return following, best, score

        state = (start, start, _no_score(seed))
        x, best, score = _repeat(step, state, self.steps, unrolled)
        if self.keep == "best":
            x, score = _better(x, _score(loss_fn(x)), best, score)
        return tf.nest.map_structure(tf.stop_gradient, x), score


def _gradient(loss_fn: LossFn, x):
    """What a loss function returns, and the gradient of the loss."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(x)
        result = loss_fn(x)
        loss = result[0] if isinstance(result, tuple) else result
    gradient = tape.gradient(
        loss, x, unconnected_gradients=tf.UnconnectedGradients.ZERO
    )
    return result, gradient


def _repeat(step: Callable, state: tuple, times: int, unrolled: bool) -> tuple:
    if unrolled:
        for _ in range(times):
            state = step(*state)
        return state
    # More than one gradient in flight would cost memory for nothing.
    return tf.while_loop(
        lambda *_: True,
        step,
        state,
        parallel_iterations=1,
        maximum_iterations=times,
    )


def _restarted(seed: tf.Tensor, run: tf.Tensor) -> tf.Tensor:
    """Seeds of run `run`, a scalar or [b]; run 0 is the run that restarts=1 makes."""
    return seed + tf.reshape(run, [-1, 1]) * tf.constant([[0, 1]])


def _clip(image: tf.Tensor) -> tf.Tensor:
    return tf.clip_by_value(image, 0.0, 1.0)


def _score(result) -> tf.Tensor:
    """(won, loss) as [b, 2], to be compared in that order; NaN losses lose."""
    loss, won = result if isinstance(result, tuple) else (result, None)
    won = tf.zeros_like(loss) if won is None else tf.cast(won, loss.dtype)
    loss = tf.where(tf.math.is_nan(loss), -float("inf"), loss)
    return tf.stack([won, loss], axis=1)


def _no_score(seed: tf.Tensor) -> tf.Tensor:
    """[b, 2], worse than any."""
    return tf.fill([tf.shape(seed)[0], 2], -float("inf"))


def _better(new, new_score, old, old_score):
    """Per example, whichever of two candidates has the higher score."""
    wins = new_score[:, 0] > old_score[:, 0]
    higher = (new_score[:, 0] == old_score[:, 0]) & (new_score[:, 1] > old_score[:, 1])
    take = wins | higher

    def select(a, b):
        return tf.where(tf.reshape(take, [-1] + [1] * (len(a.shape) - 1)), a, b)

    return tf.nest.map_structure(select, new, old), select(new_score, old_score)
