"""Any TFDS data set for image classification, cut and ordered so that runs repeat."""

from __future__ import annotations

import functools
import hashlib
import math
import re
from collections.abc import Callable, Mapping, Sequence

import gin
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from tfssl import files, randomness
from tfssl.data import prepared
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
      train_split, test_split: TFDS splits, such as 'train' or 'train[:50%]'.
      validation: Number of training examples held out.
      num_examples: Number of training examples kept of the others; all if not given.
      num_test_examples: Number of test examples kept; all if not given.
      image_size: For images that vary in size: the shorter side is resized to 8/7 of
        this, then the centre is cropped (224 is ImageNet's usual 256 and 224).
      label_map: From labels to labels 0 .. k - 1; examples with other labels are
        dropped.
      in_memory: False if the decoded images do not fit into memory.
      shuffle_block: Number of undecoded examples shuffled at a time where the data are
        not in memory; two such blocks are held.

    Raises:
      UserError: The data cannot be had or are not what is asked for. Found when the
        object is made, or when a split is first looked at.
    """

    def __init__(
        self,
        name: str,
        train_split: str = "train",
        test_split: str = "test",
        validation: int = 5000,
        num_examples: int | None = None,
        num_test_examples: int | None = None,
        image_size: int | None = None,
        label_map: Mapping[int, int] | None = None,
        in_memory: bool = True,
        shuffle_block: int = 8192,
    ):
        self.name = name
        self._builder = prepared.builder(name)
        self._splits = {
            "train": train_split,
            "validation": train_split,
            "test": test_split,
        }
        self._validation = validation
        self._num_examples = num_examples
        self._num_test_examples = num_test_examples
        self._image_size = image_size
        self._label_map = label_map
        self._in_memory = in_memory
        self._shuffle_block = shuffle_block
        # Nothing is read before it is needed, and nothing twice.
        self._index = functools.cache(self._index)
        self._positions = functools.cache(self._positions)
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
        self._num_labels = features["label"].num_classes
        self.num_classes: int = self._num_labels
        if label_map is not None:
            self.num_classes = len(set(label_map.values()))
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

    def size(self, split: str) -> int:
        """Number of examples of 'train', 'validation' or 'test'."""
        return len(self._positions(split))

    def ids(self, split: str) -> np.ndarray:
        """[n] int64, the ids in the order of `eval_batches`."""
        positions = self._positions(split)
        return self._index(self._splits[split])[0][positions]

    @functools.cached_property
    def fingerprint(self) -> dict:
        """Identifies the examples themselves: names, counts and SHA-256 digests.

        Of each split, 'labels' is the digest of ids and labels and, in memory,
        'images' that of the decoded pixels.
        """
        splits = {}
        for split in self._splits:
            digest = hashlib.sha256(self.ids(split).astype("<i8").tobytes())
            digest.update(self._labels(split).astype("<i4").tobytes())
            splits[split] = {
                "tfds": self._splits[split],
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
            `tfssl.data.views.Views`.
          last_step: Length of the run in steps; of an endless one no share is done.
        """
        size = self.size("train")
        if size == 0:
            raise UserError(f"{self.name} has no training example left")
        start = start_step * batch_size
        finish = self._finish("train", seed)

        def example(epoch, j, image):
            result = finish(epoch, j, image)
            if views is not None:
                result["views"] = result["image"]  # Of which they are made, below.
            for fn in augment:
                result["image"] = fn(result["image"], result["seed"])
            return result

        if self._in_memory:
            images = self._images("train")

            def nth(i):
                epoch = i // size
                j = tf.random.experimental.index_shuffle(
                    i % size, seed=_epoch_seed(seed, epoch), max_index=size - 1
                )
                return example(epoch, j, images[j])

            dataset = tf.data.Dataset.range(start, _FOREVER)
            dataset = dataset.map(nth, num_parallel_calls=tf.data.AUTOTUNE)
        else:
            dataset = tf.data.Dataset.range(start // size, _FOREVER)
            dataset = dataset.flat_map(functools.partial(self._shuffled, seed=seed))
            dataset = dataset.skip(start % size)
            dataset = dataset.map(
                lambda epoch, j, raw: example(epoch, j, self._decode(raw)),
                num_parallel_calls=tf.data.AUTOTUNE,
            )
        if views is None:
            return _ordered(dataset.batch(batch_size, drop_remainder=True))

        # Parts of one batch, the same ones wherever the run starts: among others in the
        # batch an image may differ in its last bit.
        most = max(1, _AT_ONCE // math.prod(self.image_shape))
        at_once = max(
            n for n in range(1, min(most, batch_size) + 1) if not batch_size % n
        )

        def with_views(number, batch):
            step = start_step + number * at_once // batch_size
            progress = tf.cast(step, tf.float64) / last_step
            return {**batch, **views(batch["views"], batch["seed"], progress)}

        dataset = dataset.batch(at_once, drop_remainder=True).enumerate()
        dataset = dataset.map(with_views, num_parallel_calls=tf.data.AUTOTUNE)
        return _ordered(dataset.rebatch(batch_size, drop_remainder=True))

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

    def _index(self, tfds_split: str) -> tuple[np.ndarray, np.ndarray]:
        """Ids [n] int64 and labels [n] int64 of a TFDS split, in the order of reading.

        Where the images do not fit into memory, reading them all for this takes
        minutes, so the result is kept on disk.
        """
        if self._in_memory:
            return self._read_index(tfds_split)
        key = f"{self._builder.data_path} {self._builder.info.as_json} {tfds_split}"
        digest = hashlib.sha256(key.encode()).hexdigest()
        path = prepared.cache_dir() / "index" / f"{digest}.npz"
        if not path.exists():
            ids, labels = self._read_index(tfds_split)
            with files.replacing(path) as temporary:
                np.savez(temporary, ids=ids, labels=labels)
        with np.load(path) as file:
            return file["ids"], file["labels"]

    def _read_index(self, tfds_split: str) -> tuple[np.ndarray, np.ndarray]:
        features = self._builder.info.features
        has_id = "id" in features and isinstance(features["id"], tfds.features.Text)
        dataset = self._read(tfds_split).map(
            lambda x: (x["label"], x["id"] if has_id else "")
        )
        labels, names = [], []
        for label, name in dataset.batch(4096).as_numpy_iterator():
            labels.extend(label.tolist())
            names.extend(name.tolist())
        numbers = [re.search(rb"\d+$", name) for name in names]
        ids = np.arange(len(names))
        if all(numbers):
            in_names = np.array([int(number[0]) for number in numbers], np.int64)
            if len(np.unique(in_names)) == len(in_names):
                ids = in_names
        labels = np.array(labels, np.int64)
        wrong = labels[(labels < 0) | (labels >= self._num_labels)]
        if len(wrong):
            raise UserError(
                f"Split {tfds_split!r} of {self.name} has label {wrong[0]}, outside of"
                f" 0 .. {self._num_labels - 1}: a split without labels cannot be used"
            )
        return ids, labels

    def _labels(self, split: str) -> np.ndarray:
        """[n] int32, after the label map."""
        labels = self._index(self._splits[split])[1][self._positions(split)]
        if self._label_map is not None:
            labels = np.array([self._label_map[label] for label in labels.tolist()])
        return labels.astype(np.int32)

    def _positions(self, split: str) -> np.ndarray:
        """[n] int64, ascending: where the split's examples are in the TFDS split."""
        if split not in self._splits:
            raise UserError(
                f"There is no split {split!r}: use 'train', 'validation' or 'test'"
            )
        ids, labels = self._index(self._splits[split])
        positions = np.arange(len(ids))
        if self._label_map is not None:
            positions = positions[np.isin(labels, list(self._label_map))]
        if split == "test":
            return self._subset(
                positions, ids, self._num_test_examples, "num_test_examples"
            )
        held_out = self._subset(positions, ids, self._validation, "validation")
        if split == "validation":
            return held_out
        return self._subset(
            np.setdiff1d(positions, held_out), ids, self._num_examples, "num_examples"
        )

    def _subset(
        self, positions: np.ndarray, ids: np.ndarray, count: int | None, purpose: str
    ) -> np.ndarray:
        """The `count` of `positions` whose ids have the smallest hashes."""
        if count is None:
            return positions
        if not 0 <= count <= len(positions):
            raise UserError(
                f"Dataset.{purpose} = {count}, but {self.name} has {len(positions)}"
                " examples to take them from"
            )
        if count == 0:
            return positions[:0]
        hashes = [
            hashlib.sha256(f"{purpose} {number}".encode()).digest()
            for number in ids[positions].tolist()
        ]
        order = sorted(range(len(positions)), key=hashes.__getitem__)
        return np.sort(positions[order[:count]])

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

    def _read(self, tfds_split: str) -> tf.data.Dataset:
        """All undecoded examples of a TFDS split, always in the same order."""
        try:
            return self._builder.as_dataset(
                split=tfds_split,
                shuffle_files=False,
                decoders={"image": tfds.decode.SkipDecoding()},
                read_config=tfds.ReadConfig(interleave_cycle_length=1),
            )
        except (ValueError, AssertionError) as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"{self.name} has no split {tfds_split!r}: set Dataset.train_split and"
                f" Dataset.test_split ({reason:.200})"
            ) from None

    def _raw(self, split: str, keep: np.ndarray) -> tf.data.Dataset:
        """Undecoded examples (place in the split, bytes), of the places in `keep`."""
        places = np.full(len(self._index(self._splits[split])[0]), -1)
        places[self._positions(split)[keep]] = np.flatnonzero(keep)
        places = tf.constant(places)
        dataset = self._read(self._splits[split]).enumerate()
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
        image = self._image_feature.decode_example(raw)
        if self._image_size is not None:
            image = _resize(image, self._image_size)
        return tf.ensure_shape(image, self.image_shape)

    def _finish(self, split: str, seed: int):
        """Makes the function (epoch, place, image) -> example, as in `types.Batch`."""
        ids = tf.constant(self.ids(split))
        labels = tf.constant(self._labels(split))

        def finish(epoch, j, image):
            if image.dtype == tf.uint8:
                image = tf.cast(image, tf.float32) / 255
            return {
                "image": image,
                "label": labels[j],
                "id": ids[j],
                "seed": randomness.example_seeds(seed, epoch, ids[j]),
            }

        return finish


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


def _ordered(dataset: tf.data.Dataset) -> tf.data.Dataset:
    options = tf.data.Options()
    options.deterministic = True
    # Examples are drawn by number, so there are no files to share out among workers.
    options.experimental_distribute.auto_shard_policy = (
        tf.data.experimental.AutoShardPolicy.DATA
    )
    return dataset.with_options(options).prefetch(tf.data.AUTOTUNE)
