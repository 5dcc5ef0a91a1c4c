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

    def views(self, image: tf.Tensor, batch: types.Batch) -> tuple[tf.Tensor, ...]:
        """(global [b, 2, h, w, c],) or (global, local [b, v, h', w', c]).

        Raises:
          UserError: There are no views, or another number of global ones.
        """
        views = super().views(image, batch)
        return (views, batch["local_views"]) if "local_views" in batch else (views,)

    def crops(self, forward: types.Forward, views: tuple[tf.Tensor, ...]) -> list:
        """The head's outputs [b, d] of each crop, the global ones first.

        The crops of one size pass as one batch, as in the authors' code.
        """
        # The global ones last: it is they whose embeddings are noted.
        outputs = [self.together(forward, group) for group in reversed(views)][::-1]
        flat = [
            tf.nest.map_structure(lambda x, i=i: x[:, i], group)
            for group, crops in zip(outputs, views, strict=True)
            for i in range(crops.shape[1])
        ]
        return flat
