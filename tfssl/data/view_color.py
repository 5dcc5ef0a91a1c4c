"""Colour changes for views, by torchvision's definitions."""

from __future__ import annotations

import gin
import numpy as np
import tensorflow as tf

from tfssl import randomness
from tfssl.data.view_op import (
    ViewOp,
    change,
    coins,
    column,
    luma,
    probability,
    select,
)
from tfssl.types import UserError


@gin.register(module="tfssl.data")
class ColorJitter(ViewOp):
    """Changes brightness, contrast, saturation and hue, each image in its own order.

    With a factor f uniform in [max(0, 1 - x), 1 + x], an image becomes f * image +
    (1 - f) * other, clipped to [0, 1]. The other is black for brightness, the mean of
    the grey image for contrast, and the grey image for saturation. The hue (of HSV, a
    turn is 1) moves by a shift uniform in [-hue, hue]. All 24 orders of the four are
    equally likely. A grey image of one channel keeps its saturation and hue. The
    strength multiplies x, hue and p.

    Args:
      brightness, contrast, saturation: x, not negative.
      hue: In [0, 0.5].
      p: Share of the images that are changed at all.

    Raises:
      UserError: An argument is outside of its range.
    """

    def __init__(
        self,
        brightness: float,
        contrast: float,
        saturation: float,
        hue: float,
        p: float = 0.8,
    ):
        self.strengths = (brightness, contrast, saturation)
        if min(self.strengths) < 0 or not 0 <= hue <= 0.5:
            raise UserError(
                f"ColorJitter of {self.strengths} and hue {hue}: none may be negative,"
                " nor hue above 0.5"
            )
        self.hue = hue
        self.p = probability("ColorJitter.p", p)

    def draw(
        self, seed: tf.Tensor, strength: tf.Tensor | float = 1.0
    ) -> dict[str, tf.Tensor]:
        """What happens to each image.

        Args:
          seed: [b, 2] int32.
          strength: In [0, 1], one for all or [b].

        Returns:
          'factors' [b, 3] of brightness, contrast and saturation, 1 where the image
          stays as it is; 'places' [b, 3] int32, a permutation of 0, 1 and 2, the order
          of these three; 'shift' [b] of the hue; 'before' [b] int32, how many of the
          three come before it, -1 where the image stays as it is.
        """
        draws = randomness.uniforms(randomness.fold(seed, "color_jitter"), 0, 9)
        strength = column(strength)
        on = draws[:, :1] < tf.cast(self.p * strength, tf.float32)
        most = strength * np.array(self.strengths)
        low = tf.cast(tf.maximum(1 - most, 0), tf.float32)
        high = tf.cast(1 + most, tf.float32)
        hue = tf.cast(self.hue * strength, tf.float32)[:, 0]
        return {
            "factors": tf.where(on, low + (high - low) * draws[:, 1:4], 1.0),
            "places": tf.argsort(tf.argsort(draws[:, 4:7])),
            "shift": hue * (2 * draws[:, 7] - 1),
            "before": tf.where(on[:, 0], tf.cast(4 * draws[:, 8], tf.int32), -1),
        }

    def planes(
        self, image: tf.Tensor, seed: tf.Tensor, strength: tf.Tensor | float
    ) -> tf.Tensor:
        drawn = self.draw(seed, strength)
        for place in range(3):
            image = self._move_hue(image, drawn, place)
            image = _blend(image, drawn["factors"], drawn["places"] == place)
        return self._move_hue(image, drawn, 3)

    def _move_hue(
        self, image: tf.Tensor, drawn: dict[str, tf.Tensor], place: int
    ) -> tf.Tensor:
        if not self.hue or image.shape[1] == 1:
            return image
        return change(drawn["before"] == place, _shift_hue, image, drawn["shift"])


def _blend(image: tf.Tensor, factors: tf.Tensor, here: tf.Tensor) -> tf.Tensor:
    """Brightness, contrast or saturation: [b, c, h, w], [b, 3] and the one, [b, 3].

    As a matrix for the colours of each pixel and a constant, so that it is one pass for
    all images whichever of the three they are at.
    """
    _, channels, height, width = image.shape
    grey = tf.constant([luma(channels)])
    here = tf.cast(here, tf.float32)[:, None]
    factor = tf.reduce_sum(here * factors[:, None], axis=2, keepdims=True)
    other = (1 - factor) * here
    # Each row of the second term makes grey of the colours.
    matrix = factor * tf.eye(channels) + other[:, :, 2:] * grey
    mean = tf.reduce_sum(grey * tf.reduce_mean(image, axis=[2, 3]), 1, keepdims=True)
    pixels = matrix @ tf.reshape(image, [-1, channels, height * width])
    pixels = tf.clip_by_value(pixels + other[:, :, 1:2] * mean[:, None], 0, 1)
    return tf.reshape(pixels, [-1, channels, height, width])


def _shift_hue(image: tf.Tensor, shift: tf.Tensor) -> tf.Tensor:
    """[b, 3, h, w] and [b], in turns: value and saturation of HSV stay as they are."""
    red, green, blue = tf.unstack(image, axis=1)
    value = tf.maximum(red, tf.maximum(green, blue))
    chroma = value - tf.minimum(red, tf.minimum(green, blue))
    # Grey has no hue, and no chroma to show it.
    scale = 1 / tf.maximum(chroma, 1e-12)
    hue = tf.where(
        value == red,
        (green - blue) * scale,
        tf.where(value == green, 2 + (blue - red) * scale, 4 + (red - green) * scale),
    )
    hue += 6 * shift[:, None, None]
    hue -= 6 * tf.floor(hue / 6)
    # How much of the chroma each lacks: red none around 0, green 2, blue 4, of 6.
    lacks = (2 - tf.abs(hue - 3), tf.abs(hue - 2) - 1, tf.abs(hue - 4) - 1)
    colors = [value - chroma * tf.clip_by_value(x, 0, 1) for x in lacks]
    return tf.stack(colors, axis=1)


@gin.register(module="tfssl.data")
class Grayscale(ViewOp):
    """Makes images grey, in as many equal channels as they have.

    Args:
      p: Share of the images that are made grey, times the strength.

    Raises:
      UserError: `p` is no probability.
    """

    def __init__(self, p: float = 0.2):
        self.p = probability("Grayscale.p", p)

    def planes(
        self, image: tf.Tensor, seed: tf.Tensor, strength: tf.Tensor | float
    ) -> tf.Tensor:
        weights = tf.constant(luma(image.shape[1]))[:, None, None]
        on = coins(seed, "grayscale", self.p, strength)

        def grey(image):
            mean = tf.reduce_sum(weights * image, axis=1, keepdims=True)
            return tf.broadcast_to(mean, tf.shape(image))

        return change(on, grey, image)


@gin.register(module="tfssl.data")
class Solarize(ViewOp):
    """Inverts the bright pixels, channel by channel (Grill et al. 2020, BYOL).

    https://arxiv.org/abs/2006.07733, appendix B.

    Args:
      p: Share of the images that are solarized, times the strength.
      threshold: From which value on, in [0, 1].

    Raises:
      UserError: `p` is no probability.
    """

    def __init__(self, p: float = 0.2, threshold: float = 0.5):
        self.p = probability("Solarize.p", p)
        self.threshold = threshold

    def planes(
        self, image: tf.Tensor, seed: tf.Tensor, strength: tf.Tensor | float
    ) -> tf.Tensor:
        on = coins(seed, "solarize", self.p, strength)
        solarized = tf.where(image >= self.threshold, 1 - image, image)
        return select(on, solarized, image)
