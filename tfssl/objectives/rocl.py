"""RoCL (Kim et al. 2020, https://arxiv.org/abs/2006.07589)."""

from __future__ import annotations

import gin
import tensorflow as tf

from tfssl import types
from tfssl.losses import contrastive
from tfssl.objectives.simclr import SimCLR


@gin.register(module="tfssl.objectives")
class RoCL(SimCLR):
    """Contrasts two views and an attacked first view of each image.

    Eq. 4: NT-Xent over {t1, t2, adversarial t1}, plus `regularisation` times NT-Xent of
    the adversarial view and t2. The attack maximises the latter (eq. 3). To be used in
    a term with an example and perturb='views'.

    Args:
      hidden, out, temperature: As for SimCLR.
      regularisation: lambda of eq. 4. (The authors' code: 1/256.)
    """

    name = "rocl"

    def __init__(
        self,
        hidden: int = 2048,
        out: int = 128,
        temperature: float = 0.5,
        regularisation: str | float = "1/256",
    ):
        super().__init__(hidden, out, temperature)
        self.regularisation = types.fraction(regularisation)

    def views(self, image: tf.Tensor, batch: types.Batch) -> tf.Tensor:
        """t1 [b, h, w, c], which is what is attacked."""
        return super().views(image, batch)[:, 0]

    def before_attack(
        self, forward: types.Forward, views: tf.Tensor, batch: types.Batch
    ) -> types.Batch:
        return {**batch, "rocl": self._embed(forward, batch["views"][:, 1])}

    def attack_loss(
        self, forward: types.Forward, views: tf.Tensor, batch: types.Batch
    ) -> tf.Tensor:
        attacked = self._embed(forward, views)
        return contrastive.nt_xent(attacked, batch["rocl"], self.temperature)

    def loss(
        self, forward: types.Forward, views: tf.Tensor, batch: types.Batch
    ) -> tf.Tensor:
        """Of the attacked first views [b, h, w, c]."""
        three = tf.concat([batch["views"], views[:, None]], axis=1)
        z = self.together(forward, three)
        _, second, attacked = tf.unstack(z, axis=1)
        # The authors' code adds the two positives of a view; this is their mean.
        return 2 * contrastive.nt_xent_of_views(z, self.temperature) + (
            self.regularisation
            * contrastive.nt_xent(attacked, second, self.temperature)
        )

    def _embed(self, forward: types.Forward, view: tf.Tensor) -> tf.Tensor:
        return self.head(forward.features(view), training=forward.training)
