"""Memory and speed of a training step, by precision and number of micro-batches.

  python benchmarks/step_memory.py
  python benchmarks/step_memory.py --method adversarial --batch_size 256

ResNet-18 of some width on random images of 32x32x3: SimCLR on two views, whose loss
compares all of a batch, or adversarial training with PGD. Each setting has a process of
its own; what it had at most while it ran, less what it had before the first step, is
the memory of the step.
"""

from __future__ import annotations

import itertools
import os
import resource
import statistics
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # As tfssl's programs.

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

from tfssl import randomness
from tfssl.attacks.balls import Linf
from tfssl.attacks.pgd import PGD
from tfssl.models.resnet import resnet18
from tfssl.objectives.classification import Classification
from tfssl.objectives.simclr import SimCLR
from tfssl.training.optimizers import sgd
from tfssl.training.term import Term
from tfssl.training.trainer import Trainer

METHOD = flags.DEFINE_enum("method", "simclr", ["simclr", "adversarial"], "Which one.")
WIDTH = flags.DEFINE_integer("width", 16, "Channels of the first stage.", 1)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 512, "Images per step.", 1)
ATTACK_STEPS = flags.DEFINE_integer("attack_steps", 3, "Gradients per attack.", 1)
STEPS = flags.DEFINE_integer("steps", 3, "Timed steps, after two others.", 1)
PRECISIONS = flags.DEFINE_list("precisions", ["float32"], "Which ones.")
MICRO_BATCHES = flags.DEFINE_list("micro_batches", ["1", "2", "4", "8"], "How many.")
JIT = flags.DEFINE_bool("jit_attack", False, "Compile the attack with XLA.")
ALONE = flags.DEFINE_bool("alone", False, "One setting, in this process.")


def trainer() -> Trainer:
    terms = [Term(SimCLR())]
    if METHOD.value == "adversarial":
        terms = [Term(Classification(), example="adv", attack_weight=1.0)]
    keras.utils.set_random_seed(0)
    made = Trainer(
        resnet18((32, 32, 3), WIDTH.value),
        10,
        terms,
        PGD(Linf(), "8/255", ATTACK_STEPS.value),
        precision=PRECISIONS.value[0],
        micro_batches=int(MICRO_BATCHES.value[0]),
        jit_attack=JIT.value,
    )
    made.compile(optimizer=sgd(0.01))
    made.optimizer.build(made.trainable_variables)
    return made


def measure() -> tuple[float, float]:
    """(MiB of the step, images per second)."""
    size = BATCH_SIZE.value
    rng = np.random.default_rng(0)
    batch = {
        "image": tf.constant(rng.random((size, 32, 32, 3), np.float32)),
        "views": tf.constant(rng.random((size, 2, 32, 32, 3), np.float32)),
        "label": tf.constant(rng.integers(0, 10, size), tf.int32),
        "id": tf.range(size, dtype=tf.int64),
        "seed": randomness.example_seeds(0, 0, tf.range(size)),
    }
    step = tf.function(trainer().train_step, autograph=False)
    step.get_concrete_function(batch)
    before = peak()
    seconds = []
    for _ in range(2 + STEPS.value):
        since = time.perf_counter()
        float(step(batch)["loss"])
        seconds.append(time.perf_counter() - since)
    return peak() - before, size / statistics.median(seconds[2:])


def peak() -> float:
    """MiB that this process has had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def main(_: list[str]) -> None:
    """Measures all settings, or one."""
    if ALONE.value:
        memory, speed = measure()
        print(f"{memory:.0f} | {speed:.1f}")
        return
    print("| precision | micro-batches | MiB | images/s |\n|---|---:|---:|---:|")
    for precision, parts in itertools.product(PRECISIONS.value, MICRO_BATCHES.value):
        setting = [f"--precisions={precision}", f"--micro_batches={parts}", "--alone"]
        command = [sys.executable, *sys.argv, *setting]
        found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        print(f"| {precision} | {parts} | {found.stdout.strip()} |", flush=True)


if __name__ == "__main__":
    app.run(main)
