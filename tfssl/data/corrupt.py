"""The door of bin/corrupt: corrupted test images as TFDS data sets."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import io
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gin
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
import tqdm

from tfssl.types import UserError

_VERSION = "1.0.0"


@gin.configurable(module="tfssl.data", denylist=["out"])
def corrupt(
    out: str | os.PathLike,
    dataset: Any,
    corruptions: Sequence[Any],
    severities: Sequence[int] = (1, 2, 3, 4, 5),
    only: Sequence[str] | None = None,
    name: str | None = None,
    batch_size: int = 500,
    seed: int = 0,
) -> list[str]:
    """Writes `<out>/<name>/<corruption>_<severity>/1.0.0`, each a data set for TFDS.

    The images are those that an evaluation of the same `seed` corrupts on the fly, as
    PNG, without loss. Each example has its 'label', and an 'id' that ends with its
    number in the original data set. `info.metadata` says how it was made.

    What is there is not written again. One is there wholly or not at all.

    Args:
      out: What TFDS calls a data_dir.
      dataset: A `Dataset`, whose test split is corrupted.
      corruptions: `Corruption`s.
      severities: From 1 to 5.
      only: Names of the corruptions to write; all if None.
      name: Of the data set; by default the original's name and '_c'.
      batch_size: Images at a time. The result does not depend on it.
      seed: Of the random draws.

    Returns:
      The names of all that are there now, for TFDS: 'cifar10_c/fog_3:1.0.0'.

    Raises:
      UserError: A setting is out of range, the images do not suit a corruption, or what
        is there was made with other settings.
    """
    name = name or re.sub(r"\W+", "_", dataset.name.partition(":")[0]) + "_c"
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise UserError(
            f"corrupt.name = {name!r} must be of small letters, digits and underscores"
        )
    if not severities or not set(severities) <= {1, 2, 3, 4, 5}:
        raise UserError(f"corrupt.severities are from 1 to 5, not {severities!r}")
    only = [only] if isinstance(only, str) else only
    known = {corruption.name: corruption for corruption in corruptions}
    unknown = [c for c in only or () if c not in known]
    if unknown:
        raise UserError(
            f"corrupt.only: no corruption {unknown[0]!r} among {', '.join(known)}"
        )
    chosen = [known[c] for c in only or known]
    for corruption in chosen:
        corruption.check_shape((None, *dataset.image_shape))

    source = _source(dataset, seed)
    sets = [
        _Set(Path(out), name, corruption, severity, source)
        for corruption in chosen
        for severity in severities
    ]
    # All are looked at before any is written: what is refused is refused at once.
    missing = [each for each in sets if not each.exists()]
    bar = tqdm.tqdm(
        total=len(missing) * dataset.size("test"),
        unit="image",
        disable=None,  # Shown on a terminal only.
    )
    with bar:
        for each in missing:
            bar.set_description(each.config)
            batches = dataset.eval_batches("test", batch_size, seed)
            _write(each, dataset, batches, bar.update)
    return [each.full_name for each in sets]


@dataclasses.dataclass(frozen=True)
class _Set:
    """One data set of corrupted images, there or to be written."""

    out: Path
    name: str
    corruption: Any
    severity: int
    source: dict[str, Any]

    @property
    def config(self) -> str:
        return f"{self.corruption.name}_{self.severity}"

    @property
    def full_name(self) -> str:
        return f"{self.name}/{self.config}:{_VERSION}"

    @property
    def metadata(self) -> dict[str, Any]:
        """All that determines the images, as JSON."""
        public = {k: v for k, v in vars(self.corruption).items() if k[0] != "_"}
        corruption = {"name": self.corruption.name, **public}
        made = {"corruption": corruption, "severity": self.severity}
        return json.loads(json.dumps(self.source | made))

    def exists(self) -> bool:
        """Whether it is there.

        Raises:
          UserError: One of that name is there that was made with other settings.
        """
        folder = self.out / self.name / self.config / _VERSION
        if not folder.exists():
            return False
        try:
            found = json.loads((folder / "metadata.json").read_text())
        except (OSError, ValueError):
            found = {}
        wanted = self.metadata
        differ = [k for k in wanted if found.get(k) != wanted[k]]
        if differ:
            raise UserError(
                f"{folder} was made with another {', '.join(differ)}: choose another"
                " corrupt.name or --out, or delete it to write it anew"
            )
        return True


def _source(dataset: Any, seed: int) -> dict[str, Any]:
    """The examples, and what is drawn for them."""
    ids, labels = dataset.ids("test"), dataset.labels("test")
    digest = hashlib.sha256(ids.astype("<i8").tobytes())
    digest.update(labels.astype("<i4").tobytes())
    return {
        "source": dataset.name,
        "image_shape": list(dataset.image_shape),
        "examples": len(ids),
        "labels": digest.hexdigest(),
        "seed": seed,
    }


def _write(
    each: _Set,
    dataset: Any,
    batches: tf.data.Dataset,
    done: Callable[[int], Any],
) -> None:
    """Writes one data set. TFDS does so in a folder of another name, and renames it."""
    # In a graph, as evaluators do it.
    of = functools.partial(each.corruption.of, severity=each.severity)
    of = tf.function(of, autograph=False)

    def examples() -> Iterator[tuple[str, dict[str, Any]]]:
        for batch in batches:
            levels = np.rint(255 * of(batch).numpy()).astype(np.uint8)
            columns = levels, batch["label"].numpy(), batch["id"].numpy()
            real = [x for x in zip(*columns, strict=True) if x[2] >= 0]
            for image, label, number in real:
                key = f"test_{number:05d}"
                yield key, {"id": key, "image": image, "label": label}
            done(len(real))

    tfds.disable_progress_bar()
    builder = _builder(each, dataset, examples)
    # TFDS makes the folder of downloads, and tells of each data set.
    silence = contextlib.redirect_stdout(io.StringIO())
    with tempfile.TemporaryDirectory() as downloads, silence:
        builder.download_and_prepare(download_dir=downloads)


def _builder(
    each: _Set, dataset: Any, examples: Callable[[], Iterator]
) -> tfds.core.DatasetBuilder:
    """Writes examples, in TFDS's own way."""
    names, count = dataset.class_names, dataset.num_classes
    labels = {"names": names} if names else {"num_classes": count}
    features = {
        "id": tfds.features.Text(),
        "image": tfds.features.Image(shape=dataset.image_shape, encoding_format="png"),
        "label": tfds.features.ClassLabel(**labels),
    }

    # TFDS wants a class to know its configurations.
    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = each.name
        VERSION = tfds.core.Version(_VERSION)
        BUILDER_CONFIGS = (tfds.core.BuilderConfig(name=each.config, version=_VERSION),)

        def _info(self) -> tfds.core.DatasetInfo:
            return tfds.core.DatasetInfo(
                builder=self,
                description=(
                    f"The test images of {dataset.name}, corrupted by tfssl. Not the"
                    " released images of CIFAR-10-C, CIFAR-100-C or ImageNet-C."
                ),
                features=tfds.features.FeaturesDict(features),
                supervised_keys=("image", "label"),
                homepage="https://arxiv.org/abs/1903.12261",
                metadata=tfds.core.MetadataDict(each.metadata),
            )

        def _split_generators(self, dl_manager: tfds.download.DownloadManager):
            return {"test": examples()}

        def _generate_examples(self):
            raise NotImplementedError("`_split_generators` has them.")

    return Builder(data_dir=each.out, config=each.config)
