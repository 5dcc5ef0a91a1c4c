"""What methods share that compare views of an image, made by the data pipeline."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfssl import types
from tfssl.objectives.objective import Objective


class ViewObjective(Objective):
    """An objective that looks at `batch['views']` [b, v, h, w, c].

    The views were made of the clean image, so an attack can only change themselves: a
    term with an example needs perturb='views'.

    Attributes:
      num_views: v.
      small_crops: Whether it looks at `batch['local_views']` too.
    """

    pipeline_views = True
    small_crops = False
    gathers = True
    num_views: int = 2

    def views(self, image: tf.Tensor, batch: types.Batch) -> tf.Tensor:
        """[b, v, h, w, c], whatever the image.

        Raises:
          UserError: There are no views, or another number of them, or small crops that
            it would not look at.
        """
        views = batch.get("views")
        found = 0 if views is None else views.shape[1]
        if found != self.num_views:
            raise types.UserError(
                f"{self.name} compares {self.num_views} views of each image, and the"
                f" pipeline makes {found}: set VIEWS (gin/views/)"
            )
        if "local_views" in batch and not self.small_crops:
            raise types.UserError(
                f"{self.name} looks at no small crops, and the pipeline makes some: set"
                " another VIEWS (gin/views/)"
            )
        return views

    def together(self, forward: types.Forward, *views: tf.Tensor) -> Any:
        """The head's outputs [b, v, d] for views that pass it as one batch.

        Args:
          forward: The network; each of `views` passes it as one batch.
          *views: [b, v_i, h_i, w_i, c]; v is the sum of v_i.
        """
        features = tf.concat([forward.features(group) for group in views], axis=1)
        flat = tf.reshape(features, [-1, features.shape[-1]])
        count = sum(group.shape[1] for group in views)
        outputs = tf.nest.map_structure(
            lambda x: tf.reshape(x, [-1, count, x.shape[-1]]),
            self.head(flat, training=forward.training),
        )
        forward.notes[self.name] = tf.nest.flatten(outputs)[0][:, 0]
        return outputs

    def apart(self, forward: types.Forward, views: tf.Tensor) -> list:
        """The head's outputs [b, d] for each view, each in a pass of its own.

        BatchNorm, in the network and in the head, then normalises each view by itself.
        """
        outputs = [
            self.head(forward.features(view), training=forward.training)
            for view in tf.unstack(views, axis=1)
        ]
        forward.notes[self.name] = tf.nest.flatten(outputs)[0]
        return outputs
