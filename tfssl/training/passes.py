"""Passes through the network that remember what they have computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import keras
import tensorflow as tf


class Passes:
    """The `types.Forward` of one step: each tensor goes through the network once.

    Args:
      backbone: `backbone(image, training)`, [..., h, w, c] to features [..., d].
      classifier: Features [n, d] to logits [n, k], or None.
      training: Mode of BatchNorm.
      updates: Whether the step's update is computed, and not its attack.
    """

    def __init__(
        self,
        backbone: Callable[..., tf.Tensor],
        classifier: keras.Model | None,
        training: bool,
        updates: bool = False,
    ):
        self.training = training
        self.updates = updates
        self.notes: dict[str, tf.Tensor] = {}
        self._backbone = backbone
        self._classifier = classifier
        self._features: dict[int, tuple[tf.Tensor, tf.Tensor]] = {}
        self._logits: dict[int, tuple[tf.Tensor, tf.Tensor]] = {}

    def features(self, image: tf.Tensor) -> tf.Tensor:
        """Images [..., h, w, c] to features [..., d]."""
        # The tensor is kept beside its result, so that its id is not given to another.
        if id(image) not in self._features:
            features = self._backbone(image, training=self.training)
            self._features[id(image)] = (image, features)
        return self._features[id(image)][1]

    def logits(self, image: tf.Tensor) -> tf.Tensor:
        """Images [..., h, w, c] to logits [..., k]."""
        if id(image) not in self._logits:
            features = self.features(image)
            flat = tf.reshape(features, [-1, features.shape[-1]])
            logits = self._classifier(flat, training=self.training)
            logits = unflatten(logits, image)
            self._logits[id(image)] = (image, logits)
        return self._logits[id(image)][1]

    def together(self, images: Sequence[tf.Tensor]) -> None:
        """Sends several tensors through the backbone as one batch.

        BatchNorm then normalises all of them by common statistics, as in code that
        concatenates clean, attacked and turned images (Hendrycks 2019).
        """
        images = list({id(image): image for image in images}.values())
        flat = [tf.reshape(image, [-1, *image.shape[-3:]]) for image in images]
        sizes = [tf.shape(part)[0] for part in flat]
        features = self._backbone(tf.concat(flat, 0), training=self.training)
        parts = tf.split(features, sizes, num=len(sizes))
        for image, part in zip(images, parts, strict=True):
            self._features[id(image)] = (image, unflatten(part, image))


class Detached:
    """A `types.Forward` whose features carry no gradient to the backbone."""

    def __init__(self, passes: Passes):
        self.training = passes.training
        self.updates = passes.updates
        self.notes: dict[str, tf.Tensor] = {}
        self._passes = passes

    def features(self, image: tf.Tensor) -> tf.Tensor:
        """Images [..., h, w, c] to features [..., d], as constants."""
        return tf.stop_gradient(self._passes.features(image))

    def logits(self, image: tf.Tensor) -> tf.Tensor:
        """Images [..., h, w, c] to logits [..., k], as constants."""
        return tf.stop_gradient(self._passes.logits(image))


def unflatten(result: tf.Tensor, image: tf.Tensor) -> tf.Tensor:
    """[n, d] to [..., d], n being the product of the leading axes of `image`."""
    leading = tf.shape(image)[:-3]
    shaped = tf.reshape(result, tf.concat([leading, tf.shape(result)[1:]], 0))
    shaped.set_shape([*image.shape[:-3], *result.shape[1:]])
    return shaped
