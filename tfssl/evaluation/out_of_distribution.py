"""Whether a network can tell images of another data set from its own."""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import gin
import numpy as np
import tensorflow as tf

from tfssl.evaluation import detection
from tfssl.evaluation.classifier import Classifier
from tfssl.evaluation.evaluators import Cell, Outcome, check_name
from tfssl.evaluation.knn import kth_distance
from tfssl.evaluation.other_images import NOISES, OtherImages, fitted
from tfssl.evaluation.results import describe
from tfssl.evaluation.subject import Subject
from tfssl.types import Batch, UserError, whole


def _msp(classifier: Classifier, batch: Batch) -> dict[str, tf.Tensor]:
    logits = classifier.logits(batch["image"])
    top, best = tf.reduce_max(logits, 1, keepdims=True), tf.argmax(logits, 1)
    # p_max = 1 / (1 + sum of these): it is 1 in float32 long before they are 0.
    others = tf.exp(logits - top) * (1 - tf.one_hot(best, logits.shape[1]))
    return {"score": tf.math.log1p(tf.reduce_sum(others, 1))}


def _energy(classifier: Classifier, batch: Batch) -> dict[str, tf.Tensor]:
    return {"score": -tf.reduce_logsumexp(classifier.logits(batch["image"]), 1)}


_OF_LOGITS = {"msp": _msp, "energy": _energy}
_SCORES = (*_OF_LOGITS, "knn")
_METRICS = {
    "auroc": detection.auroc,
    "aupr": detection.aupr,
    "fpr95": detection.fpr95,
}


@gin.register(module="tfssl.evaluation")
class OutOfDistribution:
    """AUROC, AUPR and FPR95 of scores that should be high for foreign images.

    The own images are those that are evaluated, the foreign ones the test split of
    another data set, or noise, in the own images' shape (`other_images.py`). There is a
    cell for each data set, score and metric; `n` of its row counts the own images. What
    a metric takes for the positive class is in `detection.py`.

    Scores, of logits f and features z:

      msp     -log max_k softmax(f)_k, which orders as -max_k softmax(f)_k does, but
              saturates later (Hendrycks and Gimpel 2017, arXiv:1610.02136)
      energy  -log sum_k exp(f_k) (Liu et al. 2020, arXiv:2010.03759, T = 1)
      knn     distance of z / |z| from the k-th nearest among those of the training
              split (Sun et al. 2022, arXiv:2204.06507); z is what the layer
              `features` gives, or the output if there is none. With this score
              alone encoders can be measured.

    Args:
      out_sets: Data sets of which only the test split is looked at, with `name`,
        `fingerprint`, `image_shape`, `ids` and `eval_batches`.
      noises: Of 'gaussian' and 'uniform': as many images as there are own ones.
      scores: Of 'msp', 'energy' and 'knn'.
      k: In the paper 50 for CIFAR-10, 200 for CIFAR-100.
      train_examples: Compare with the first so many training examples; all if None.
      out_examples: Take the first so many of each data set; all if None.
      name: Of the evaluator and its folder of results.

    Raises:
      UserError: A setting is out of range; when measured, if there are fewer than k
        training examples, outputs are not finite or channels do not fit.
    """

    def __init__(
        self,
        out_sets: Sequence[Any] = (),
        noises: Sequence[str] = ("gaussian", "uniform"),
        scores: Sequence[str] = ("msp", "energy", "knn"),
        k: int = 50,
        train_examples: int | None = None,
        out_examples: int | None = None,
        name: str = "out_of_distribution",
    ):
        check_name(name)
        self.name = name
        self.scores = _some(f"{name}: scores", scores, _SCORES)
        noises = _some(f"{name}: noises", noises, NOISES)
        self._out = {out.name: out for out in out_sets} | dict.fromkeys(noises)
        files = {_file_name(out) for out in self._out}
        if len(files) < len(out_sets) + len(noises):
            raise UserError(f"{name}: the names of out_sets must be distinct")
        if not self.scores or not files:
            raise UserError(f"{name}: give a score, and a data set or a noise")
        self.k = whole(f"{name}: k", k, 1)
        self.train_examples = train_examples
        self.out_examples = out_examples
        for setting in ("train_examples", "out_examples"):
            if getattr(self, setting) is not None:
                whole(f"{name}: {setting}", getattr(self, setting), 1)
        self._known: tuple[Classifier, np.ndarray] | None = None

    @property
    def on_features(self) -> bool:
        """Whether encoders can be measured."""
        return self.scores == ["knn"]

    def cells(self) -> list[Cell]:
        return [
            Cell(
                f"{_file_name(out)}.{score}.{metric}",
                out,
                0.0,
                self._settings(out, score),
                f"{metric} of {score}",
                number=functools.partial(_number, metric),
            )
            for out in self._out
            for score in self.scores
            for metric in _METRICS
        ]

    def _settings(self, out: str, score: str) -> dict[str, Any]:
        """What determines a number, besides the own data and the seed."""
        dataset = self._out[out]
        settings = {"score": score}
        if dataset is None:
            settings["noise"] = describe(NOISES[out])
        else:
            settings["out"] = describe(dataset.fingerprint)
            settings["out_examples"] = self.out_examples
        if score == "knn":
            settings |= {"k": self.k, "train_examples": self.train_examples}
        return settings

    def measure(
        self, cell: Cell, subject: Subject, outcomes: Mapping[str, Outcome]
    ) -> Outcome:
        if not outcomes:  # The weights may be others than at the last evaluation.
            self._known = None
        stem, score, metric = cell.name.rsplit(".", 2)
        if metric != "auroc":
            return outcomes[f"{stem}.{score}.auroc"]
        before = [o for name, o in outcomes.items() if name.split(".")[-2] == score]
        if before:
            own = before[0]["value"]
        else:
            own = self._score(score, subject, f"{self.name} {score}")
        other = self._other(cell.perturbation, subject)
        label = f"{self.name} {score} {cell.perturbation}"
        return {"value": own, "out": self._score(score, other, label)}

    def _other(self, out: str, subject: Subject) -> Subject:
        """The same classifier on foreign images."""
        dataset, shape = self._out[out], subject.dataset.image_shape
        if dataset is None:
            noise = OtherImages(subject.dataset, shape, NOISES[out])
            return subject.over(noise, subject.split).first(len(subject.ids))
        return subject.over(fitted(dataset, shape), "test").first(self.out_examples)

    def _score(self, score: str, subject: Subject, label: str) -> np.ndarray:
        """[n] float32."""
        if score == "knn":
            known = self._train_features(subject)
            return kth_distance(known, subject.features(label)[0], self.k)
        found = subject.map(_OF_LOGITS[score], label=label)["score"]
        if not np.isfinite(found).all():
            raise UserError(
                f"{subject.classifier.name} has outputs that are not finite"
            )
        return found

    def _train_features(self, subject: Subject) -> np.ndarray:
        """[n, d], of one classifier computed once."""
        if self._known is None or self._known[0] is not subject.classifier:
            train = subject.on("train").first(self.train_examples)
            if len(train.ids) < self.k:
                raise UserError(
                    f"{self.name} asks {self.k} neighbours of {len(train.ids)} training"
                    " examples: lower OutOfDistribution.k"
                )
            features, _ = train.features(f"{self.name} train")
            self._known = subject.classifier, features
        return self._known[1]


def _number(metric: str, outcome: Outcome) -> tuple[float, float, float]:
    return _METRICS[metric](outcome["value"], outcome["out"])


def _some(what: str, chosen: Sequence[str], known: Collection[str]) -> list[str]:
    """The names, if each is a known one and there once.

    Raises:
      UserError: They are not.
    """
    names = [chosen] if isinstance(chosen, str) else list(chosen)
    if len(set(names) & set(known)) < len(names):
        raise UserError(f"{what} may list {', '.join(known)}, each once, not {names}")
    return names


def _file_name(out: str) -> str:
    """'svhn_cropped_3.1.0' for 'svhn_cropped:3.1.0'."""
    return re.sub(r"[^\w.-]+", "_", out)
