"""Attacks another model, in the hope that what fools it fools the one in question."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gin
import keras
import tensorflow as tf

from tfssl import saved
from tfssl.types import UserError


@gin.register(module="tfssl.attacks")
class Transfer:
    """Runs a white-box attack on another model (Papernot et al. 2016).

    https://arxiv.org/abs/1605.07277: the attacker has a substitute and sees neither
    weights nor outputs of the model in question. An attack that stops as soon as it has
    won has won against the substitute only, and hardly so: PGD with keep='last' goes on
    and transfers better.

    Args:
      model: The substitute, a `.keras` file from one image in [0, 1] to logits.
      attack: An attack of this room.

    Attributes:
      sha256: Of the file, so that results of two substitutes are told apart.

    Raises:
      UserError: The file is missing, does not load, or holds another kind of model.
    """

    def __init__(self, model: str | os.PathLike, attack: Any):
        self.model = os.fspath(model)
        self.attack = attack
        # Here rather than at the first attack, which is traced on a replica, where no
        # variables can be made. Replicas read variables from outside of their scope.
        self._substitute = _load(self.model)
        self.sha256 = hashlib.sha256(Path(self.model).read_bytes()).hexdigest()

        def logits(image: tf.Tensor) -> tf.Tensor:
            return tf.cast(self._substitute(image, training=False), tf.float32)

        # One callable for good: cleverhans keeps a graph per callable.
        self._logits = logits

    @property
    def ball(self) -> Any:
        """The attack's."""
        return self.attack.ball

    @property
    def eager(self) -> bool:
        """Whether the attack is to be called outside of graphs."""
        return getattr(self.attack, "eager", False)

    def perturb(
        self,
        logits_fn: Callable,
        image: tf.Tensor,
        label: tf.Tensor,
        seed: tf.Tensor,
        epsilon: Any,
    ) -> tf.Tensor:
        """What the attack makes of the images against the substitute.

        Arguments as of `Attack.perturb`; `logits_fn` is the model in question, of which
        only k is used.

        Raises:
          UserError: The substitute is made for other images or another k.
        """
        takes = self._substitute.inputs[0].shape[1:]
        if not tf.TensorShape(takes).is_compatible_with(image.shape[1:]):
            raise UserError(
                f"{self.model} takes images of shape {tuple(takes)}, but these are"
                f" {tuple(image.shape[1:])}"
            )
        classes = self._substitute.outputs[0].shape[-1]
        attacked = logits_fn(image[:1]).shape[-1]
        if classes != attacked:
            raise UserError(
                f"{self.model} has {classes} classes, but the attacked model has"
                f" {attacked}"
            )
        return self.attack.perturb(self._logits, image, label, seed, epsilon)


def _load(path: str) -> keras.Model:
    model = saved.load(path)
    inputs = getattr(model, "inputs", None) or []
    outputs = getattr(model, "outputs", None) or []
    if len(inputs) != 1 or len(outputs) != 1 or len(outputs[0].shape) != 2:
        raise UserError(
            f"{path} is not a functional model from one image to its logits, as an"
            " attack needs it"
        )
    return model
