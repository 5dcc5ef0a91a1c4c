"""JPEG compression: corruption 15 of 15."""

from __future__ import annotations

import gin
import tensorflow as tf

from tfssl.data.corruptions.corruption import Corruption


@gin.register(module="tfssl.data.corruptions")
class JpegCompression(Corruption):
    """Compresses as JPEG, colours at half the resolution. Settings are qualities."""

    name = "jpeg_compression"
    cifar = (80, 65, 58, 50, 40)
    imagenet = (25, 18, 15, 10, 7)

    def _corrupt(self, levels: tf.Tensor, seed: tf.Tensor, setting: int) -> tf.Tensor:
        def compress(image):
            compressed = tf.io.encode_jpeg(
                image, quality=setting, chroma_downsampling=True
            )
            # By default TensorFlow takes a faster, less exact transform.
            return tf.io.decode_jpeg(
                compressed,
                channels=image.shape[-1],
                dct_method="INTEGER_ACCURATE",
            )

        image = tf.cast(levels, tf.uint8)
        spec = tf.TensorSpec(image.shape[1:], tf.uint8)
        return tf.cast(tf.map_fn(compress, image, fn_output_signature=spec), tf.float32)
