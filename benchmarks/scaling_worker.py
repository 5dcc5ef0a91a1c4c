"""One of the workers that scaling.py starts: times a training step and its parts.

  python benchmarks/scaling_worker.py '{"files": [..], "params": [..], ..}'

Alone, or with TF_CONFIG as one of several. All of them do the same things equally
often, and begin each at the same time; the first one writes down what it found.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gin
import keras
import tensorflow as tf

from tfssl import config, distribute

# Batches in a measurement of the input alone, and before it, while buffers are empty.
BATCHES, BATCHES_BEFORE = 20, 3


@gin.configurable(module="benchmarks")
def load(**parts: Any) -> dict[str, Any]:
    """What a gin file sets the macros to, as `tfssl.training.loop.train` takes it."""
    return parts


NAMES = (
    *("dataset", "augment", "views", "backbone", "terms", "attack", "optimizer"),
    *("schedule", "learning_rate", "epochs", "batch_size", "seed"),
)


class Training:
    """A run as `tfssl.training.loop.train` builds it, taken apart.

    Attributes:
      trainer: Its Trainer.
      batch: One batch, for what is timed without the input.
      said: What replicas tell one another in a step, as `recorded` has it, but of the
        tensors (shape, dtype).
      numbers: How many are logged in a step: each is summed over replicas, too.
    """

    def __init__(self):
        parts = load()
        self._parts = parts
        self._strategy = distribute.strategy()
        dataset, rate = parts["dataset"], parts["learning_rate"]
        steps_per_epoch = dataset.size("train") // parts["batch_size"]
        self._last_step = parts["epochs"] * steps_per_epoch
        keras.utils.set_random_seed(parts["seed"])
        with self._strategy.scope():
            self.trainer = parts["trainer"](
                parts["backbone"](dataset.image_shape),
                *(dataset.num_classes, parts["terms"], parts["attack"]),
            )
            self.trainer.last_step = self._last_step
            rate = parts["schedule"](rate, self._last_step, steps_per_epoch)
            self.trainer.compile(optimizer=parts["optimizer"](learning_rate=rate))
            self.trainer.optimizer.build(self.trainer.trainable_variables)
        self.batches = self._data()
        self._iterator = iter(self.batches)
        self.batch = next(self._iterator)
        self.waited = 0.0
        self._step = tf.function(self._a_step, autograph=False)
        self._attack = tf.function(self._an_attack, autograph=False)
        self.said = self._what_is_said()
        self.numbers = len(
            self._step.get_concrete_function(self.batch).structured_outputs
        )
        self._communicate = tf.function(self._communication, autograph=False)
        self._barrier = tf.function(self._nothing, autograph=False)

    def _data(self) -> tf.data.Dataset:
        parts = self._parts

        def batches_of(part: int, count: int) -> tf.data.Dataset:
            return parts["dataset"].train_batches(
                *(parts["batch_size"], parts["seed"], 0, parts["augment"]),
                *(parts["views"], self._last_step),
                part=(part, count),
            )

        return distribute.share_out(self._strategy, batches_of)

    def _a_step(self, batch: Any) -> dict[str, tf.Tensor]:
        logs = self._strategy.run(self.trainer.train_step, (batch,))
        return distribute.add(self._strategy, logs)

    def _an_attack(self, batch: Any) -> Any:
        def examples(batch):
            progress = self.trainer._progress()
            return self.trainer._examples({**batch, "progress": progress})

        return self._strategy.run(examples, (batch,))

    def _what_is_said(self) -> list[tuple[str, list[tuple[list[int], tf.DType]]]]:
        types = []

        @tf.function(autograph=False)
        def shapes(batch):
            with recorded() as said:
                self._strategy.run(self.trainer.train_step, (batch,))
            types[:] = [(kind, [x.dtype for x in values]) for kind, values in said]
            # Those of gradients are known only when they are there.
            return [[tf.shape(x) for x in values] for _, values in said]

        said = []
        for (kind, dtypes), sizes in zip(types, shapes(self.batch), strict=True):
            found = [size.numpy().tolist() for size in sizes]
            said.append((kind, list(zip(found, dtypes, strict=True))))
        return said

    def _communication(self) -> None:
        def on_replica():
            context = tf.distribute.get_replica_context()
            for kind, tensors in self.said:  # In this order: TensorFlow keeps to it.
                zeros = [tf.zeros(shape, dtype) for shape, dtype in tensors]
                if kind == "reduce":
                    context.all_reduce(tf.distribute.ReduceOp.SUM, zeros)
                else:
                    context.all_gather(zeros, axis=0)
            return [tf.constant(0.0) for _ in range(self.numbers)]

        distribute.add(self._strategy, self._strategy.run(on_replica))

    def _nothing(self) -> tf.Tensor:
        value = self._strategy.run(lambda: tf.constant(1))
        return distribute.add(self._strategy, value)

    def calls(self) -> dict[str, Callable[[int], float]]:
        """What is timed: from a number of runs to the seconds that one takes."""
        calls = {
            "loop": self._loop,
            "making": self._making,
            "step": functools.partial(timed, lambda: self._step(self.batch)),
            "communication": functools.partial(timed, self._communicate),
        }
        if any(term.example for term in self.trainer.terms.values()):
            calls["attack"] = functools.partial(timed, lambda: self._attack(self.batch))
        return calls

    def _loop(self, count: int) -> float:
        """As users run it; `waited` is the part of it spent waiting for batches."""
        waited = 0.0

        def turn():
            nonlocal waited
            since = time.perf_counter()
            batch = next(self._iterator)
            waited += time.perf_counter() - since
            self._step(batch)

        seconds = timed(turn, count)
        self.waited = waited / count
        return seconds

    def _making(self, count: int) -> float:
        """Batches alone. The iterator is a new one: its buffers are empty."""
        batches = iter(self.batches)
        timed(lambda: next(batches), BATCHES_BEFORE)
        return timed(lambda: next(batches), BATCHES)

    def together(self) -> None:
        """Waits for this worker's own pipeline to be idle, and then for the others."""
        for _ in range(100):
            before = time.process_time()
            time.sleep(0.1)
            if time.process_time() - before < 0.01:
                break
        self._barrier()


@contextlib.contextmanager
def recorded() -> Iterator[list[tuple[str, list[tf.Tensor]]]]:
    """Notes what replicas tell one another in the graphs that are made meanwhile.

    Yields:
      ('reduce' or 'gather', tensors of one call), in the order of the calls.
    """
    context = tf.distribute.ReplicaContext
    reduce, gather = context.all_reduce, context.all_gather
    said = []

    def all_reduce(self, reduce_op, value, *arguments, **more):
        said.append(("reduce", tf.nest.flatten(value)))
        return reduce(self, reduce_op, value, *arguments, **more)

    def all_gather(self, value, *arguments, **more):
        said.append(("gather", tf.nest.flatten(value)))
        return gather(self, value, *arguments, **more)

    context.all_reduce, context.all_gather = all_reduce, all_gather
    try:
        yield said
    finally:
        context.all_reduce, context.all_gather = reduce, gather


def timed(run: Callable[[], Any], count: int) -> float:
    """Seconds of one of `count` runs. On CPUs a call is over when it returns."""
    since = time.perf_counter()
    for _ in range(count):
        run()
    return (time.perf_counter() - since) / count


def measure(training: Training, steps: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of each part, by round."""
    calls = training.calls()
    seconds: dict[str, list[float]] = {name: [] for name in (*calls, "waited")}
    for i in range(rounds + 1):
        for name, call in calls.items():
            training.together()
            taken = call(steps if i else 1)
            if not i:  # The first one traces graphs.
                continue
            seconds[name].append(taken)
            if name == "loop":
                seconds["waited"].append(training.waited)
    return seconds


def main(
    files: list[str], params: list[str], steps: int, rounds: int, out: str
) -> None:
    """Measures one configuration; the chief writes what it found to `out`."""
    bindings = [f"load.{name} = %{name.upper()}" for name in NAMES]
    config.parse(files, [*bindings, "load.trainer = @Trainer", *params])
    distribute.join_cluster()
    training = Training()
    seconds = measure(training, steps, rounds)
    if not distribute.is_chief():
        return
    variables = training.trainer.trainable_variables
    tensors = [tensor for _, tensors in training.said for tensor in tensors]
    found = {
        "seconds": seconds,
        "gradient_bytes": sum(size(v.shape, tf.as_dtype(v.dtype)) for v in variables),
        "bytes": sum(size(*tensor) for tensor in tensors) + 4 * training.numbers,
        "calls": len(training.said) + training.numbers,
        "cores": sorted(os.sched_getaffinity(0)),
    }
    Path(out).write_text(json.dumps(found, indent=2) + "\n")


def size(shape: Sequence[int], dtype: tf.DType) -> int:
    """Bytes of a tensor."""
    return math.prod(shape) * dtype.size


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
