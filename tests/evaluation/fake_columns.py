"""Images with a bright column each, and a corruption that moves it."""

import numpy as np
import tensorflow as tf


class Spots:
    """Images with one bright column of 4 x 4 pixels each, its number the label."""

    name, num_classes, image_shape = "spots", 4, (4, 4, 1)

    def ids(self, split):
        return np.array([9, 3, 4, 0, 8, 5, 7, 2])

    def eval_batches(self, split, batch_size, seed, keep=None):
        label = np.arange(8, dtype=np.int32) % 4
        image = np.tile(np.eye(4, dtype=np.float32)[label][:, None, :, None], [4, 1, 1])
        image = image.reshape(8, 4, 4, 1)
        seeds = np.zeros([8, 2], np.int32)
        examples = {
            "image": image,
            "label": label,
            "id": self.ids(split),
            "seed": seeds,
        }
        return tf.data.Dataset.from_tensor_slices(examples).batch(batch_size)


class Moved:
    """By `severity` columns to the right; at 4 nothing is left to see."""

    name = "moved"

    def of(self, batch, severity):
        if severity == 4:
            return tf.zeros_like(batch["image"])
        return tf.roll(batch["image"], severity - 1, axis=2)
