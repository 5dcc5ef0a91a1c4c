"""The handwritten digits that come with scikit-learn, as a TFDS data set.

1797 grey images of 8 x 8 pixels in ten classes: small, and there without network. They
are the test part of "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak
1998, UCI Machine Learning Repository, CC BY 4.0).
"""

from __future__ import annotations

import numpy as np
import tensorflow_datasets as tfds

_TEST = 500


class Digits(tfds.core.GeneratorBasedBuilder):
    """1297 images to train on and 500 to test, drawn once and for all.

    Pixels are 0 .. 255; the original's 0 .. 16 are stretched. The number in 'id' is the
    place in scikit-learn's array, so no two examples of either split share one.
    """

    VERSION = tfds.core.Version("1.0.0")
    embedded = True  # See `prepared.builder`.

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            description="Handwritten digits, 8 x 8 pixels, from scikit-learn.",
            features=tfds.features.FeaturesDict(
                {
                    "id": tfds.features.Text(),
                    "image": tfds.features.Image(shape=(8, 8, 1)),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://archive.ics.uci.edu/dataset/80",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager):
        # The stream of RandomState is frozen for good, unlike that of default_rng.
        order = np.random.RandomState(0).permutation(1797)
        return {
            "train": self._generate_examples("train", order[_TEST:]),
            "test": self._generate_examples("test", order[:_TEST]),
        }

    def _generate_examples(self, split: str, numbers: np.ndarray):
        from sklearn import datasets  # Takes a second, and only preparing needs it.

        digits = datasets.load_digits()
        images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., np.newaxis]
        for i in numbers.tolist():
            yield (
                i,
                {
                    "id": f"{split}_{i:05d}",
                    "image": images[i],
                    "label": int(digits.target[i]),
                },
            )
