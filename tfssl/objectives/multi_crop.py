"""What methods share that look at large and small crops of an image."""

from __future__ import annotations

import tensorflow as tf

from tfssl import types
from tfssl.objectives.views import ViewObjective


class MultiCropObjective(ViewObjective):
    """Two global views, and any number of local ones if the pipeline makes them.

    Attributes:
      num_views: Of the global views.
    """

    small_crops = True

    def views(self, image: tf.Tensor, batch: types.Batch) -> tuple[tf.Tensor, ...]:
        """(global [b, 2, h, w, c],) or (global, local [b, v, h', w', c]).

        Raises:
          UserError: There are no views, or another number of global ones.
        """
        views = super().views(image, batch)
        return (views, batch["local_views"]) if "local_views" in batch else (views,)

    def crops(self, forward: types.Forward, views: tuple[tf.Tensor, ...]) -> list:
        """The head's outputs [b, d] of each crop, the global ones first.

        The network takes the crops of one size as one batch, the head all crops, as in
        the authors' codes: there lies what BatchNorm normalises by.
        """
        outputs = self.together(forward, *views)
        return [
            tf.nest.map_structure(lambda x, i=i: x[:, i], outputs)
            for i in range(sum(group.shape[1] for group in views))
        ]
