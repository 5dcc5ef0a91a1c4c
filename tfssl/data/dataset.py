"""Any TFDS data set for image classification, cut and ordered so that runs repeat."""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence

import gin
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from tfssl import randomness
from tfssl.data import prepared
from tfssl.data.splits import Splits
from tfssl.types import UserError

Augment = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
MakeViews = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], Mapping[str, tf.Tensor]]

_FOREVER = np.iinfo(np.int64).max
# Numbers in the images whose views are made at once: enough for TensorFlow's
# operations to be worth their start, few enough for the cache, also at 224 x 224.
_AT_ONCE = 2**19


@gin.register(module="tfssl.data")
class Dataset:
    """A data set with a training, a validation and a test split.

    In memory, each example is decoded once and kept as uint8. Else undecoded examples
    are read from disk in the order of the files and shuffled in blocks.

    An example's id is the number at the end of its 'id' in TFDS ('train_00042' is 42)
    where the split has one for each example, else its place in the order of reading.
    Which examples are held out, and which a smaller data set keeps, is decided by a
    hash of the id: the same on each machine and for each seed of a run, and smaller
    data sets are parts of larger ones.

    Args:
      name: TFDS name and version, 'cifar10:3.0.2'. See `tfssl.data.prepared.builder`
        for where the data are looked for.
      train_split, test_split: TFDS splits, such as 'train' or 'train[:50%]'. With no
        `train_split` there is a test split alone, and nothing else is read.
      validation: Number of training examples held out.
      num_examples: Number of training examples kept of the others; all if not given.
      num_test_examples: Number of test examples kept; all if not given.
      image_size: For images that vary in size: the shorter side is resized to 8/7 of
        this, then the centre is cropped (224 is ImageNet's usual 256 and 224). Views
        are made of the whole pictures where the data are not in memory.
      label_map: From labels to labels 0 .. k - 1; examples with other labels are
        dropped.
      in_memory: False if the decoded images do not fit into memory.
      shuffle_block: Number of undecoded examples shuffled at a time where the data are
        not in memory; two such blocks are held.
      numbered: Whether the data set's author numbered the examples 0, 1, .. when TFDS
        wrote them. Then these are their ids: TFDS keeps them only as the order of the
        examples.

    Raises:
      UserError: The data cannot be had or are not what is asked for. Found when the
        object is made, or when a split is first looked at.
    """

    def __init__(
        self,
        name: str,
        train_split: str | None = "train",
        test_split: str = "test",
        validation: int = 5000,
        num_examples: int | None = None,
        num_test_examples: int | None = None,
        image_size: int | None = None,
        label_map: Mapping[int, int] | None = None,
        in_memory: bool = True,
        shuffle_block: int = 8192,
        numbered: bool = False,
    ):
        self.name = name
        self._builder = prepared.builder(name)
        self._image_size = image_size
        self._in_memory = in_memory
        self._shuffle_block = shuffle_block
        # Nothing is read before it is needed, and nothing twice.
        self._images = functools.cache(self._images)

        features = self._builder.info.features
        for key, kind in {
            "image": tfds.features.Image,
            "label": tfds.features.ClassLabel,
        }.items():
            if key not in features or not isinstance(features[key], kind):
                raise UserError(
                    f"{name} has no feature {key!r} of type {kind.__name__}: only data"
                    " sets for image classification can be used"
                )
        self._image_feature = features["image"]
        self.num_classes: int = features["label"].num_classes
        self.class_names: list[str] | None = features["label"].names
        if label_map is not None:
            self.num_classes = len(set(label_map.values()))
            self.class_names = None
            if set(label_map.values()) != set(range(self.num_classes)):
                raise UserError("label_map must map to labels 0, 1, .. without a gap")
        shape = self._image_feature.shape
        if image_size is not None:
            shape = (image_size, image_size, shape[-1])
        if None in shape:
            raise UserError(
                f"The images of {name} vary in size: set Dataset.image_size, for"
                " instance to 224"
            )
        self.image_shape: tuple[int, int, int] = tuple(shape)
        dtype = np.dtype(self._image_feature.np_dtype)
        if dtype != np.uint8 and not (dtype == np.float32 and in_memory):
            raise UserError(
                f"The images of {name} are {dtype}:"
                " they must be uint8, or float32 in [0, 1] with in_memory=True"
            )
        splits = {"test": test_split}
        if train_split is not None:
            splits = {"train": train_split, "validation": train_split} | splits
        self._splits = Splits(
            name,
            self._builder,
            splits,
            {
                "validation": validation,
                "num_examples": num_examples,
                "num_test_examples": num_test_examples,
            },
            label_map,
            keep_index=not in_memory,
            numbered=numbered,
        )

    def size(self, split: str) -> int:
        """Number of examples of 'train', 'validation' or 'test'."""
        return self._splits.size(split)

    def ids(self, split: str) -> np.ndarray:
        """[n] int64, the ids in the order of `eval_batches`."""
        return self._splits.ids(split)

    def labels(self, split: str) -> np.ndarray:
        """[n] int32, in that order."""
        return self._splits.labels(split)

    @functools.cached_property
    def fingerprint(self) -> dict:
        """Identifies the examples themselves: names, counts and SHA-256 digests.

        Of each split, 'labels' is the digest of ids and labels and, in memory,
        'images' that of the decoded pixels.
        """
        splits = {}
        for split, tfds_split in self._splits.tfds_splits.items():
            digest = hashlib.sha256(self.ids(split).astype("<i8").tobytes())
            digest.update(self._splits.labels(split).astype("<i4").tobytes())
            splits[split] = {
                "tfds": tfds_split,
                "examples": self.size(split),
                "labels": digest.hexdigest(),
            }
            if self._in_memory:
                pixels = self._images(split).numpy()
                splits[split]["images"] = hashlib.sha256(pixels).hexdigest()
        return {
            "name": self._builder.info.full_name,
            "image_shape": list(self.image_shape),
            "num_classes": self.num_classes,
            "splits": splits,
        }

    def train_batches(
        self,
        batch_size: int,
        seed: int,
        start_step: int = 0,
        augment: Sequence[Augment] = (),
        views: MakeViews | None = None,
        last_step: float = math.inf,
        part: tuple[int, int] = (0, 1),
    ) -> tf.data.Dataset:
        """Endless batches; each epoch is another permutation of the split.

        Example number i of the run is in epoch i // n, so a batch may hold the end of
        one epoch and the start of the next, and none is left out. The batch at a step
        is a function of (seed, step), and of `last_step` if the views are.

        Args:
          batch_size: Examples in a batch.
          seed: The run's seed.
          start_step: Number of batches to leave out.
          augment: Callables `augment(image, seed) -> image`, applied in this order to
            each example, with the example's own seed.
          views: Makes more entries of the batch, `views(image, seed, progress) ->
            dict`, of the images [b, h, w, c] as they are before `augment`, their seeds
            [b, 2] and the share of the run that is done before their step; see
            `tfssl.data.views.Views`. Where the data are not in memory, images are the
            whole pictures, before `image_size` cuts them; b is 1 if they vary in size.
            It runs in a graph, without AutoGraph.
          last_step: Length of the run in steps; of an endless one no share is done.
          part: (p, n), for the p-th of n equal parts of each batch alone.
        """
        size = self.size("train")
        if size == 0:
            raise UserError(f"{self.name} has no training example left")
        start = start_step * batch_size
        share = batch_size // part[1]
        first = part[0] * share
        finish = self._finish("train", seed)

        def example(epoch, j, image, picture=None):
            result = finish(epoch, j, image)
            if views is not None:  # Made below, of these.
                whole = result["image"] if picture is None else _scaled(picture)
                result["views"] = whole
            for fn in augment:
                result["image"] = fn(result["image"], result["seed"])
            return result

        if self._in_memory:
            images = self._images("train")

            def nth(own):
                i = own // share * batch_size + first + own % share
                epoch = i // size
                j = tf.random.experimental.index_shuffle(
                    i % size, seed=_epoch_seed(seed, epoch), max_index=size - 1
                )
                return example(epoch, j, images[j])

            dataset = tf.data.Dataset.range(start_step * share, _FOREVER)
            dataset = dataset.map(nth, num_parallel_calls=tf.data.AUTOTUNE)
        else:
            dataset = tf.data.Dataset.range(start // size, _FOREVER)
            dataset = dataset.flat_map(functools.partial(self._shuffled, seed=seed))
            dataset = dataset.skip(start % size)
            if share < batch_size:
                dataset = _part(dataset, batch_size, first, share)

            def read(epoch, j, raw):
                picture = self._image_feature.decode_example(raw)
                return example(epoch, j, self._cut(picture), picture)

            dataset = dataset.map(read, num_parallel_calls=tf.data.AUTOTUNE)
        if views is None:
            return _ordered(dataset.batch(share, drop_remainder=True))

        # Parts of one batch, the same ones wherever the run starts: among others in the
        # batch an image may differ in its last bit.
        shape = dataset.element_spec["views"].shape
        most = max(1, _AT_ONCE // shape.num_elements()) if None not in shape else 1
        at_once = max(n for n in range(1, min(most, share) + 1) if not share % n)

        @tf.autograph.experimental.do_not_convert  # It would hide a UserError.
        def with_views(number, batch):
            step = start_step + number * at_once // share
            progress = tf.cast(step, tf.float64) / last_step
            return {**batch, **views(batch["views"], batch["seed"], progress)}

        dataset = dataset.batch(at_once, drop_remainder=True).enumerate()
        dataset = dataset.map(with_views, num_parallel_calls=tf.data.AUTOTUNE)
        return _ordered(dataset.rebatch(share, drop_remainder=True))

    def eval_batches(
        self,
        split: str,
        batch_size: int,
        seed: int,
        keep: np.ndarray | None = None,
    ) -> tf.data.Dataset:
        """One pass in a fixed order, with the seeds of epoch 0 and no augmentation.

        Args:
          split: 'train', 'validation' or 'test'.
          batch_size: Examples in a batch. The last one is filled up with black images
            of label 0 and id -1.
          seed: The run's seed.
          keep: [n] bool, the places in `ids(split)` to take; all if not given.

        Raises:
          UserError: The split is empty, or `keep` has another length.
        """
        size = self.size(split)
        if size == 0:
            raise UserError(
                f"The {split} split of {self.name} is empty: set Dataset.validation to"
                " the number of examples to hold out"
            )
        keep = np.ones(size, bool) if keep is None else np.asarray(keep, bool)
        if keep.shape != (size,):
            raise UserError(f"keep has shape {keep.shape}, {split} has {size} examples")
        finish = self._finish(split, seed)
        epoch = tf.constant(0, tf.int64)
        if self._in_memory:
            images = self._images(split)
            dataset = tf.data.Dataset.from_tensor_slices(np.flatnonzero(keep)).map(
                lambda j: finish(epoch, j, images[j]),
                num_parallel_calls=tf.data.AUTOTUNE,
            )
        else:
            dataset = self._raw(split, keep).map(
                lambda j, raw: finish(epoch, j, self._decode(raw)),
                num_parallel_calls=tf.data.AUTOTUNE,
            )
        padding = tf.data.Dataset.from_tensors(
            {
                "image": tf.zeros(self.image_shape),
                "label": tf.constant(0),
                "id": tf.constant(-1, tf.int64),
                "seed": randomness.example_seeds(seed, 0, -1),
            }
        ).repeat(-int(keep.sum()) % batch_size)
        dataset = dataset.concatenate(padding)
        return _ordered(dataset.batch(batch_size, drop_remainder=True))

    def _images(self, split: str) -> tf.Tensor:
        """The decoded images [n, h, w, c], in main memory."""
        dtype = self._image_feature.np_dtype
        images = np.empty((self.size(split), *self.image_shape), dtype)
        dataset = self._raw(split, np.ones(len(images), bool)).map(
            lambda j, raw: (j, self._decode(raw)), num_parallel_calls=tf.data.AUTOTUNE
        )
        for j, image in dataset.batch(256).as_numpy_iterator():
            images[j] = image
        if dtype == np.float32 and not np.all((images >= 0) & (images <= 1)):
            raise UserError(f"{self.name} has float images outside of [0, 1]")
        with tf.device("CPU:0"):
            return tf.constant(images)

    def _raw(self, split: str, keep: np.ndarray) -> tf.data.Dataset:
        """Undecoded examples (place in the split, bytes), of the places in `keep`."""
        places = tf.constant(self._splits.places(split, keep))
        tfds_split = self._splits.tfds_splits[split]
        dataset = prepared.undecoded(self._builder, tfds_split).enumerate()
        dataset = dataset.map(lambda i, x: (places[i], x["image"]))
        return dataset.filter(lambda j, raw: j >= 0)

    def _shuffled(self, epoch: tf.Tensor, seed: int) -> tf.data.Dataset:
        """Undecoded examples (epoch, place, bytes) of one epoch, shuffled in blocks.

        Not by `Dataset.shuffle`, whose order depends on TensorFlow's global seed too.
        The length of the first block is drawn, so that the borders move.
        """
        raw = self._raw("train", np.ones(self.size("train"), bool))
        base = _epoch_seed(seed, epoch)
        first = tf.random.stateless_uniform(
            [], base, 1, self._shuffle_block + 1, tf.int64
        )
        size = self._shuffle_block
        blocks = raw.take(first).batch(size).concatenate(raw.skip(first).batch(size))

        def shuffle(number, block):
            order = tf.random.experimental.stateless_shuffle(
                tf.range(tf.size(block[0])),
                tf.random.experimental.stateless_fold_in(base, number),
            )
            return tuple(tf.gather(x, order) for x in block)

        shuffled = blocks.enumerate().map(shuffle).prefetch(1).unbatch()
        return shuffled.map(lambda j, raw: (epoch, j, raw))

    def _decode(self, raw: tf.Tensor) -> tf.Tensor:
        """Bytes to an image of `image_shape`, still in the data set's dtype."""
        return self._cut(self._image_feature.decode_example(raw))

    def _cut(self, image: tf.Tensor) -> tf.Tensor:
        if self._image_size is not None:
            image = _resize(image, self._image_size)
        return tf.ensure_shape(image, self.image_shape)

    def _finish(self, split: str, seed: int):
        """Makes the function (epoch, place, image) -> example, as in `types.Batch`."""
        ids = tf.constant(self.ids(split))
        labels = tf.constant(self._splits.labels(split))

        def finish(epoch, j, image):
            return {
                "image": _scaled(image),
                "label": labels[j],
                "id": ids[j],
                "seed": randomness.example_seeds(seed, epoch, ids[j]),
            }

        return finish


def _scaled(image: tf.Tensor) -> tf.Tensor:
    """uint8, or float32 in [0, 1], to the latter."""
    return tf.cast(image, tf.float32) / 255 if image.dtype == tf.uint8 else image


def _epoch_seed(seed: int, epoch: tf.Tensor) -> tf.Tensor:
    """[2] int32, for what is drawn once in an epoch."""
    return tf.stack([seed & 0x7FFFFFFF, tf.cast(epoch & 0x7FFFFFFF, tf.int32)])


def _resize(image: tf.Tensor, size: int) -> tf.Tensor:
    """[h, w, c] to [size, size, c]: shorter side to 8/7 of that, then the centre."""
    shape = tf.cast(tf.shape(image)[:2], tf.float32)
    scale = round(size * 8 / 7) / tf.reduce_min(shape)
    shape = tf.cast(tf.round(shape * scale), tf.int32)
    resized = tf.image.resize(image, shape, "bilinear", antialias=True)
    if image.dtype == tf.uint8:
        resized = tf.cast(tf.clip_by_value(tf.round(resized), 0, 255), tf.uint8)
    return tf.image.resize_with_crop_or_pad(resized, size, size)


def _part(
    dataset: tf.data.Dataset, batch_size: int, first: int, share: int
) -> tf.data.Dataset:
    """Of each `batch_size` elements, `share` ones from number `first` on."""
    dataset = dataset.enumerate().filter(
        lambda i, x: (i % batch_size) // share == first // share
    )
    return dataset.map(lambda i, x: x)


def _ordered(dataset: tf.data.Dataset) -> tf.data.Dataset:
    options = tf.data.Options()
    options.deterministic = True
    # Examples are drawn by number, so there are no files to share out among workers.
    options.experimental_distribute.auto_shard_policy = (
        tf.data.experimental.AutoShardPolicy.DATA
    )
    return dataset.with_options(options).prefetch(tf.data.AUTOTUNE)
