"""Auto-PGD (Croce & Hein 2020): PGD with momentum that sets its own step size."""

from __future__ import annotations

from typing import Any

import gin
import numpy as np
import tensorflow as tf

from tfssl import randomness
from tfssl.attacks import lanes
from tfssl.attacks.attack import Attack
from tfssl.attacks.goals import misclassified
from tfssl.attacks.lanes import State
from tfssl.losses import classification
from tfssl.types import UserError

_LOSSES = ("cross_entropy", "dlr", "targeted_dlr")
_MOMENTUM = 0.75


@gin.register(module="tfssl.attacks")
class APGD(Attack):
    """Auto-PGD, algorithm 1 of Croce & Hein 2020 (https://arxiv.org/abs/2003.01690).

    Ascent with momentum from a random point of the ball's border. The first step is
    2 epsilon long. At checkpoints, ever closer to each other, the step of an example is
    halved, and the example goes back to its best iterate, if

      1. the loss rose in at most `rho` of the steps since the last checkpoint, or
      2. the step was not halved at the last checkpoint, and the largest loss has not
         grown since.

    Where paper and authors' code differ, this is the code: condition 1 has <=, not <,
    and linf starts are scaled so that one entry reaches the border. But the loss after
    the first step is compared with the start's, as in the paper; the code compares it
    with 0.

    Returned is the first iterate that is misclassified, with which an example ends; if
    there is none, or with `eot`, that of the largest margin (losses for different
    targets do not compare); an image that is misclassified already, as it is.

    Each run takes steps + 1 forward and backward passes, and what the clean image needs
    is one forward pass.

    Args:
      ball: `Linf` or `L2` of `tfssl.attacks.balls`.
      loss: What is maximised: 'cross_entropy', 'dlr' (eq. 6), or 'targeted_dlr'
        (eq. 7), which takes its targets one after another.
      epsilon: The ball's radius, '8/255' or a number in [0, 1] units; may be left out
        where the caller gives one.
      steps: Number of steps in a run.
      restarts: Number of runs, for each target if there are targets, from different
        starts.
      targets: Of 'targeted_dlr': how many classes to aim at, those with the largest
        logits at the clean image but for the label. All others if there are fewer.
      rho: Of condition 1, in [0, 1].
      eot: Passes per iterate, for networks that draw at random (expectation over
        transformation). If more than 1, gradient, loss and margin are means over the
        passes, and no example ends early: one lucky draw breaks nothing, so all
        iterates are made, and the one of the largest mean margin is returned. (The
        authors' code averages gradients alone, and returns the last iterate that one
        draw misclassified.)

    Raises:
      UserError: A setting is out of range.
    """

    def __init__(
        self,
        ball: Any,
        loss: str = "cross_entropy",
        epsilon: str | float | None = None,
        steps: int = 100,
        restarts: int = 1,
        targets: int = 9,
        rho: float = 0.75,
        eot: int = 1,
    ):
        super().__init__(ball, epsilon)
        self.loss = loss
        self.steps = steps
        self.restarts = restarts
        self.targets = targets
        self.rho = rho
        self.eot = eot
        self._check()
        self._few_rises = few_rises(steps, rho)

    def _check(self) -> None:
        if self.loss not in _LOSSES:
            raise UserError(
                f"APGD.loss must be one of {', '.join(_LOSSES)}, not {self.loss!r}"
            )
        self._check_counts("steps", "restarts", "targets", "eot")
        if not isinstance(self.rho, (int, float)) or not 0 <= self.rho <= 1:
            raise UserError(f"APGD.rho must be between 0 and 1, not {self.rho!r}")

    def _perturb(self, logits_fn, image, label, seed, epsilon):
        epsilon = tf.convert_to_tensor(epsilon, tf.float32)
        seed = randomness.fold(seed, self.loss)
        logits = logits_fn(image)
        targets = self._targets(label, logits)
        runs = self.restarts * targets.shape[1]

        none = tf.zeros_like(label, tf.int32)
        nothing = tf.zeros_like(label, tf.float32)
        state = {
            "clean": image,
            "label": label,
            "seed": seed,
            "targets": targets,
            "run": none,
            "step": none,
            "x": self._start(image, seed, none, epsilon),
            "before": image,
            "step_size": nothing,
            # Of the run, so far.
            "best": image,
            "best_gradient": tf.zeros_like(image),
            "best_loss": nothing,
            # Since the last checkpoint.
            "last_loss": nothing,
            "rises": none,
            "checked_loss": nothing,
            "halved": tf.zeros_like(label, tf.bool),
            # Of all runs.
            "found": image,
            "margin": nothing - np.inf,
            "active": ~misclassified(label, logits) & (epsilon > 0),
        }
        found = lanes.run(
            lambda state: self._step(logits_fn, state, epsilon, runs), state, ["found"]
        )
        return found["found"]

    def _targets(self, label, logits):
        """Classes to aim at, [b, t]; untargeted losses do not look at theirs, t = 1."""
        if self.loss != "targeted_dlr":
            return label[:, None]
        classes = logits.shape[-1]
        others = tf.where(tf.one_hot(label, classes) > 0, -np.inf, logits)
        return tf.math.top_k(others, min(self.targets, classes - 1)).indices

    def _start(self, clean, seed, run, epsilon):
        """Where run `run` [b] starts: on the border, then clipped to [0, 1]."""
        # Run 0 is the run that restarts=1 makes.
        seed += run[:, None] * tf.constant([0, 1])
        noise = self.ball.random(seed, clean.shape[1:], 1.0)
        unit = tf.math.divide_no_nan(noise, self.ball.norm(noise))
        return _clip(clean + epsilon * unit)

    def _step(self, logits_fn, state: State, epsilon, runs: int) -> State:
        """One iterate: its gradient, then the next iterate or the next run's start."""
        s, x, step = state, state["x"], state["step"]
        gradient, loss, margin, broken = self._gradient(logits_fn, s)

        keep = broken | (margin > s["margin"])
        found = lanes.select(keep, x, s["found"])

        # Nothing of the run before matters once a run begins.
        first = step == 0
        better = first | (loss > s["best_loss"])
        best = lanes.select(better, x, s["best"])
        best_gradient = lanes.select(better, gradient, s["best_gradient"])
        best_loss = tf.where(better, loss, s["best_loss"])
        rises = s["rises"] + tf.cast(loss > s["last_loss"], tf.int32)
        rises = tf.where(first, 0, rises)
        checked_loss = tf.where(first, loss, s["checked_loss"])
        halved = first | s["halved"]  # Condition 2 needs a checkpoint before.
        step_size = tf.where(first, 2 * epsilon, s["step_size"])

        few_rises = tf.gather(self._few_rises, step)
        check = few_rises >= 0
        halve = check & ((rises <= few_rises) | (~halved & (checked_loss >= best_loss)))
        step_size = tf.where(halve, step_size / 2, step_size)
        x = lanes.select(halve, best, x)
        gradient = lanes.select(halve, best_gradient, gradient)

        ends = step == self.steps
        over = ends & (s["run"] == runs - 1)
        active = ~broken & ~over
        # No run after the last: it would have no target.
        run = s["run"] + tf.cast(ends & ~over, tf.int32)
        following = self._ascend(s, x, gradient, step_size, epsilon)
        following = tf.cond(
            tf.reduce_any(ends & active),
            lambda: lanes.select(
                ends, self._start(s["clean"], s["seed"], run, epsilon), following
            ),
            lambda: following,
        )
        return {
            **s,
            "run": run,
            "step": tf.where(ends, 0, step + 1),
            "x": following,
            "before": x,
            "step_size": step_size,
            "best": best,
            "best_gradient": best_gradient,
            "best_loss": best_loss,
            "last_loss": loss,
            "rises": tf.where(check, 0, rises),
            "checked_loss": tf.where(check, best_loss, checked_loss),
            "halved": tf.where(check, halve, halved),
            "found": found,
            "margin": tf.where(keep, margin, s["margin"]),
            "active": active,
        }

    def _ascend(self, s: State, x, gradient, step_size, epsilon):
        """Algorithm 1, line 3 in the first step, else lines 7 and 8."""

        def project(point):
            delta = self.ball.project(point - s["clean"], epsilon)
            return _clip(s["clean"] + delta)

        step = _per_image(step_size) * self.ball.steepest(gradient)
        share = _per_image(tf.where(s["step"] == 0, 1.0, _MOMENTUM))
        ahead = share * (project(x + step) - x)
        return project(x + ahead + (1 - share) * (x - s["before"]))

    def _gradient(self, logits_fn, s: State) -> tuple:
        """Gradient [b, h, w, c], loss [b], margin [b] and whether x is broken [b]."""
        x, label = s["x"], s["label"]

        def forward_and_backward():
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(x)
                logits = logits_fn(x)
                loss = self._loss(s, logits)
            gradient = tape.gradient(
                loss, x, unconnected_gradients=tf.UnconnectedGradients.ZERO
            )
            # One NaN would make an example NaN for good.
            gradient = tf.where(tf.math.is_finite(gradient), gradient, 0.0)
            margin = classification.margin(label, logits)
            return (gradient, loss, margin), misclassified(label, logits)

        if self.eot == 1:
            found, broken = forward_and_backward()
            return *found, broken

        def add(*sums):
            found, _ = forward_and_backward()
            return [a + b / self.eot for a, b in zip(sums, found, strict=True)]

        nothing = tf.zeros_like(s["margin"])
        found = tf.while_loop(
            lambda *_: True,
            add,
            [tf.zeros_like(x), nothing, nothing],
            parallel_iterations=1,
            maximum_iterations=self.eot,
        )
        return *found, tf.zeros_like(label, tf.bool)

    def _loss(self, s: State, logits):
        label = s["label"]
        if self.loss == "targeted_dlr":
            # The restarts for one target follow each other.
            run = s["run"] // self.restarts
            target = tf.gather(s["targets"], run, batch_dims=1)
            return classification.targeted_dlr(label, target, logits)
        if self.loss == "dlr":
            return classification.dlr(label, logits)
        return classification.cross_entropy(label, logits)


def few_rises(steps: int, rho: float) -> np.ndarray:
    """[steps + 1] int32: with so many rises condition 1 holds; -1 if no checkpoint.

    The checkpoints of section 3, as the authors' code rounds them: windows of
    0.22 n steps, then each shorter by 0.03 n, down to 0.06 n.
    """
    most = np.full(steps + 1, -1, np.int32)
    window, checkpoint = max(int(0.22 * steps), 1), 0
    while (checkpoint := checkpoint + window) <= steps:
        most[checkpoint] = int(rho * window)
        window = max(window - max(int(0.03 * steps), 1), max(int(0.06 * steps), 1))
    return most


def _per_image(values: tf.Tensor) -> tf.Tensor:
    return values[:, None, None, None]


def _clip(image: tf.Tensor) -> tf.Tensor:
    return tf.clip_by_value(image, 0.0, 1.0)
