"""Where a classifier looks: Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391)."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import tensorflow as tf

from tfssl import saved
from tfssl.types import UserError


def maps(
    model: keras.Model, image: tf.Tensor, target: tf.Tensor | None = None
) -> tf.Tensor:
    """What in an image speaks for a class, by the layer `features_map`.

    Eq. 1 and 2, with A the features map [h', w', channels] and y the class's logit:

        alpha_k = mean_ij  d y / d A_ijk
        map_ij  = max(0, sum_k alpha_k A_ijk)

    and then divided by its maximum. With global average pooling and a linear head of
    weights w, alpha = w / (h' w'): the class activation map. In a ViT `features_map` is
    the patches as the last attention reads them, so that of a head on the class tokens
    of several blocks the map is that of the last.

    Call it in a `tf.function`, once: the way to the layer is found anew in each call,
    and outside of graphs TensorFlow goes back through all layers before it, too.

    Args:
      model: A functional classifier, whatever follows `features_map` in it.
      image: [b, h, w, c] in [0, 1].
      target: [b] int, the classes; if None those that the model predicts.

    Returns:
      [b, h', w'] float32 in [0, 1]. A map in which nothing speaks for the class is 0.

    Raises:
      UserError: The model has no layer `features_map`, or no logits that depend on it.
    """
    network = _network(model)
    image = tf.convert_to_tensor(image)
    with tf.GradientTape() as tape:
        # Of a frozen model nothing else would be recorded.
        tape.watch(image)
        features, logits = network(image, training=False)
        if target is None:
            target = tf.argmax(logits, axis=1)
        # No example looks at another, so that the sum has the gradients of each.
        score = tf.reduce_sum(tf.gather(logits, target, axis=1, batch_dims=1))
    gradient = tape.gradient(score, features)
    if gradient is None:
        raise UserError(f"the logits of {model.name} do not depend on features_map")
    # Half precision is too short for sums over so much.
    gradient, features = (tf.cast(x, tf.float32) for x in (gradient, features))
    alpha = tf.reduce_mean(gradient, [1, 2], keepdims=True)
    return _normalised(tf.nn.relu(tf.reduce_sum(alpha * features, axis=3)))


def attention_maps(attention: keras.Model, image: tf.Tensor) -> tf.Tensor:
    """Where the class token of a ViT looks, whatever class it is for.

    Args:
      attention: Images to [b, heads, h', w'], such as `tfssl.models.vit.last_attention`
        gives.
      image: [b, h, w, c] in [0, 1].

    Returns:
      [b, h', w'] float32 in [0, 1]: the mean of the heads, divided by its maximum.
    """
    return _normalised(tf.reduce_mean(attention(image, training=False), axis=1))


def resize(heat: tf.Tensor, size: Sequence[int]) -> tf.Tensor:
    """Maps [b, h', w'] to [b, h, w] by bilinear interpolation.

    Args:
      heat: The maps; those in [0, 1] stay there.
      size: (h, w).
    """
    return tf.image.resize(heat[..., None], size, "bilinear")[..., 0]


def _network(model: keras.Model) -> keras.Model:
    """Images to features map and logits."""
    if saved.is_encoder(model):
        raise UserError(f"{model.name} is an encoder, but maps are those of a class")
    try:
        features = model.get_layer("features_map").output
    except ValueError:
        raise UserError(f"{model.name} has no layer called features_map") from None
    return keras.Model(model.inputs[0], [features, model.outputs[0]])


def _normalised(heat: tf.Tensor) -> tf.Tensor:
    heat = tf.cast(heat, tf.float32)
    return tf.math.divide_no_nan(heat, tf.reduce_max(heat, [1, 2], keepdims=True))
