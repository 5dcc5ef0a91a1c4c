"""Jigsaw puzzles: in which order were the image's patches put?

Noroozi and Favaro 2016 (https://arxiv.org/abs/1603.09246), in the form that Chen et al.
2020 (https://arxiv.org/abs/2003.12862) give it for robust pre-training: the patches are
put back into one image, so that any backbone can look at it. They have no gaps between
the patches, and edges that continue then solve the puzzle; Noroozi and Favaro have. A
black border, as padding with zeros leaves it, tells where its patch belongs and solves
the puzzle as well: pad by reflection.
"""

from __future__ import annotations

import math

import gin
import keras
import numpy as np
import tensorflow as tf

from tfssl import randomness, types
from tfssl.losses import classification
from tfssl.objectives.objective import Objective

# Chen et al. 2020, the authors' code: drawn uniformly among all classes, and then
# replaced by the identity with this probability.
_IDENTITY = 0.1


def permutation_set(patches: int, permutations: int) -> np.ndarray:
    """The fixed orders of the patches, which are the classes of the task.

    Noroozi and Favaro 2016 choose greedily, out of all permutations, the one of largest
    mean Hamming distance from those chosen before. 16 patches have 2e13 permutations,
    so each is chosen here out of 1000 random ones, and by its smallest distance, so
    that no two are alike. The result is the same on every machine, and a smaller set is
    the beginning of a larger one.

    Returns:
      [1 + permutations, patches] int32; row 0 is the identity.
    """
    generator = np.random.RandomState(0)  # The one generator that numpy keeps frozen.
    chosen = np.arange(patches)[None]
    while len(chosen) <= permutations:
        pool = np.stack([generator.permutation(patches) for _ in range(1000)])
        distances = (pool[:, None] != chosen[None]).sum(-1).min(-1)
        if distances.max() > 0:
            chosen = np.concatenate([chosen, pool[distances.argmax()][None]])
    return chosen.astype(np.int32)


@gin.register(module="tfssl.objectives")
class Jigsaw(Objective):
    """Classification of the permutation; class 0 is the identity. Linear head."""

    name = "jigsaw"

    def __init__(self, grid: int = 4, permutations: int = 30, gap: int = 0):
        """Makes the objective.

        Args:
          grid: n, at least 2: the image is cut into n x n patches.
          permutations: Number of classes besides the identity, in [1, (n * n)! - 1].
          gap: Pixels by which what is shown of a patch is less wide and less high. It
            is cut out of the patch at random, and stands in the middle of its place,
            on grey. (Noroozi and Favaro: 11 of 75, on average, and no grey, as each
            patch is an image.)
        """
        if grid < 2:
            raise types.UserError(f"grid is {grid}: a jigsaw needs at least 2 x 2")
        if not 1 <= permutations < math.factorial(grid**2):
            raise types.UserError(
                f"permutations is {permutations}: {grid} x {grid} patches have 1 to"
                f" {math.factorial(grid**2) - 1} besides the identity"
            )
        self.grid = grid
        self.gap = types.whole("Jigsaw.gap", gap, 0)
        self.permutations = permutation_set(grid**2, permutations)

    def build(self, features: int, num_classes: int) -> None:
        inputs = keras.Input([features])
        classes = len(self.permutations)
        dense = keras.layers.Dense(classes, dtype="float32", name="jigsaw_head")
        self.head = keras.Model(inputs, dense(inputs), name="jigsaw_head")

    def labels(self, batch: types.Batch) -> tf.Tensor:
        """Rows of `self.permutations`: [b] int32; 0 leaves the image as it is."""
        if "jigsaw" in batch:
            return batch["jigsaw"]
        seed = batch["seed"]
        row = randomness.integers(
            randomness.fold(seed, "jigsaw"), [], len(self.permutations)
        )
        whole = randomness.uniform(randomness.fold(seed, "jigsaw/identity"), [])
        return tf.where(whole < _IDENTITY, 0, row)

    def before_attack(
        self, forward: types.Forward, views: tf.Tensor, batch: types.Batch
    ) -> types.Batch:
        # Drawing is a loop over the examples: once per attack, not once per step.
        return {**batch, "jigsaw": self.labels(batch)}

    def views(self, image: tf.Tensor, batch: types.Batch) -> tf.Tensor:
        """Images [b, h, w, c] with their patches in another order, of the same shape.

        Place i, counted by rows, shows patch `self.permutations[label, i]`.

        Raises:
          UserError: `grid` does not divide height and width, or `gap` leaves nothing.
        """
        n, (h, w, c) = self.grid, image.shape[1:]
        if h % n or w % n:
            raise types.UserError(
                f"images of {h} x {w} pixels cannot be cut into {n} x {n} patches:"
                " choose a grid that divides both sides"
            )
        if self.gap >= min(h, w) // n:
            raise types.UserError(
                f"Jigsaw.gap = {self.gap} leaves nothing of patches of {h // n} x"
                f" {w // n} pixels"
            )
        labels = self.labels(batch)
        order = tf.gather(self.permutations, labels)
        inverse = tf.gather(np.argsort(self.permutations).astype(np.int32), labels)

        @tf.custom_gradient
        def permute(patches):
            # The gradient of a permutation is its inverse. TensorFlow does not know
            # that and would scatter, slowly and on a GPU not reproducibly.
            return (
                tf.gather(patches, order, batch_dims=1),
                lambda upstream: tf.gather(upstream, inverse, batch_dims=1),
            )

        patches = tf.reshape(image, [-1, n, h // n, n, w // n, c])
        patches = tf.transpose(patches, [0, 1, 3, 2, 4, 5])
        patches = tf.reshape(patches, [-1, n * n, h // n, w // n, c])
        patches = permute(patches)
        if self.gap:
            patches = self._cut(patches, batch["seed"])
        patches = tf.reshape(patches, [-1, n, n, h // n, w // n, c])
        patches = tf.transpose(patches, [0, 1, 3, 2, 4, 5])
        return tf.reshape(patches, [-1, h, w, c])

    def _cut(self, patches: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """[b, p, h, w, c] with `gap` pixels of grey around a part drawn at random."""
        count, height, width = patches.shape[1:4]
        draws = randomness.uniforms(randomness.fold(seed, "jigsaw/gap"), 0, 2 * count)
        offsets = tf.cast(draws * (self.gap + 1), tf.int32)
        # Products with ones and zeros, since the gradient of a gather is a scatter.
        rows = self._selection(offsets[:, :count], height)
        columns = self._selection(offsets[:, count:], width)
        grey = 0.5 * (
            1
            - tf.reduce_sum(rows, -1)[..., None]
            * tf.reduce_sum(columns, -1)[:, :, None]
        )
        part = tf.einsum("bpij,bpjkc,bplk->bpilc", rows, patches, columns)
        return part + grey[..., None]

    def _selection(self, offsets: tf.Tensor, size: int) -> tf.Tensor:
        """[b, p] to [b, p, size, size]: which pixel j, if any, stands at i."""
        place = tf.range(size) - self.gap // 2
        inside = (place >= 0) & (place < size - self.gap)
        pixel = tf.where(inside, place + offsets[..., None], -1)
        return tf.one_hot(pixel, size)

    def loss(
        self, forward: types.Forward, views: tf.Tensor, batch: types.Batch
    ) -> tf.Tensor:
        logits = self.head(forward.features(views))
        return classification.cross_entropy(self.labels(batch), logits)

    def accuracy(
        self, forward: types.Forward, views: tf.Tensor, batch: types.Batch
    ) -> tf.Tensor:
        logits = self.head(forward.features(views))
        return classification.correct(self.labels(batch), logits)
