"""Speed of an adversarial training step: against its parts, and against PyTorch.

  python benchmarks/train_step.py --output_dir benchmarks/results

The step is Madry's (2018): PGD-K inside a linf ball of 8/255 against the network in
inference mode, then an update of SGD with momentum and coupled weight decay on what was
found. The network is ResNet-18 with the CIFAR stem, on random images of 32x32x3.

Two questions, answered for each width and precision:

  - Is there overhead? The step over K input gradients and one update, each a plain
    function of its own.
  - Is it fast? The step against a plain PyTorch loop that does the same work from the
    same weights, in both memory layouts. That it is the same work is checked: the
    losses of the first two steps must agree.

All are run in turn, round after round, in one process on equally many threads, and
the medians over rounds are compared: a machine that slows down slows all of them.
"""

from __future__ import annotations

import csv
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import machine
import numpy as np
import tensorflow as tf
import torch
from absl import app, flags
from pytorch_resnet import TorchResNet18, to_torch

from tfssl import randomness
from tfssl.attacks.balls import Linf
from tfssl.attacks.pgd import PGD
from tfssl.losses import classification
from tfssl.models.resnet import resnet18
from tfssl.objectives.classification import Classification
from tfssl.training.network import Network
from tfssl.training.optimizers import sgd
from tfssl.training.term import Term
from tfssl.training.trainer import Trainer

WIDTHS = flags.DEFINE_list("widths", ["16", "64"], "Channels of the first stage.")
DTYPES = flags.DEFINE_list(
    "dtypes", ["float32", "bfloat16"], "float32, or bfloat16 (mixed precision)."
)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 128, "Images per step.", 1)
ATTACK_STEPS = flags.DEFINE_integer("attack_steps", 10, "K, gradients per attack.", 1)
ROUNDS = flags.DEFINE_integer("rounds", 7, "Timed runs of everything.", 1)
OUTPUT_DIR = flags.DEFINE_string(
    "output_dir", None, "Where train_step.csv and train_step.json go.", required=True
)

EPSILON = 8 / 255
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 0.01, 0.9, 5e-4
# Of the loss. Rounding differs, and the signs of tiny gradients amplify it.
TOLERANCE = {"float32": 1e-3, "bfloat16": 2e-2}


def torch_step(
    model: keras.Model,
    batch: dict[str, tf.Tensor],
    width: int,
    dtype: str,
    memory_format: torch.memory_format,
) -> Callable[[torch.Tensor | None], float]:
    """The step in PyTorch: a function that takes random starts and returns the loss."""
    network = TorchResNet18(width)
    network.port(model)
    network.to(memory_format=memory_format)
    kernels = [p for p in network.parameters() if p.dim() > 1]
    others = [p for p in network.parameters() if p.dim() == 1]
    optimizer = torch.optim.SGD(
        [{"params": kernels, "weight_decay": WEIGHT_DECAY}, {"params": others}],
        lr=LEARNING_RATE,
        momentum=MOMENTUM,
    )
    image = to_torch(batch["image"]).contiguous(memory_format=memory_format)
    label = torch.from_numpy(batch["label"].numpy()).long()
    step_size = 2.5 / ATTACK_STEPS.value * EPSILON

    def loss_of(x, reduction):
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            logits = network(x)
        return torch.nn.functional.cross_entropy(
            logits.float(), label, reduction=reduction
        )

    def step(start=None):
        network.eval()
        if start is None:
            delta = torch.empty_like(image).uniform_(-EPSILON, EPSILON)
            x = (image + delta).clamp(0, 1)
        else:
            x = start.contiguous(memory_format=memory_format)
        for _ in range(ATTACK_STEPS.value):
            x.requires_grad_()
            (gradient,) = torch.autograd.grad(loss_of(x, "sum"), x)
            with torch.no_grad():
                x = x + step_size * gradient.sign()
                x = (image + (x - image).clamp(-EPSILON, EPSILON)).clamp(0, 1)
        network.train()
        optimizer.zero_grad()
        loss = loss_of(x, "mean")
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def random_batch(size: int) -> dict[str, tf.Tensor]:
    rng = np.random.default_rng(0)
    return {
        "image": tf.constant(rng.random((size, 32, 32, 3), np.float32)),
        "label": tf.constant(rng.integers(0, 10, size), tf.int32),
        "id": tf.range(size, dtype=tf.int64),
        "seed": randomness.example_seeds(0, 0, tf.range(size)),
    }


def parts(
    trainer: Trainer, batch: dict[str, tf.Tensor]
) -> tuple[Callable[[], None], Callable[[], None]]:
    """What no step can do without: (K input gradients, an update), written plainly."""
    # As the step does: it is the same work that is compared.
    network = Network(trainer.backbone, trainer.precision)
    variables = trainer.trainable_variables
    optimizer = sgd(LEARNING_RATE, WEIGHT_DECAY, MOMENTUM)
    optimizer.build(variables)

    @tf.function(autograph=False)
    def gradient(image):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(image)
            features = network.for_attack(training=False, whole=True)(image, False)
            logits = trainer.classifier(features)
            loss = classification.cross_entropy(batch["label"], logits)
        return tape.gradient(loss, image)

    @tf.function(autograph=False)
    def update(image):
        with tf.GradientTape() as tape:
            logits = trainer.classifier(network(image, training=True))
            loss = classification.cross_entropy(batch["label"], logits)
            loss = tf.reduce_mean(loss)
        gradients = tape.gradient(loss, variables)
        optimizer.apply_gradients(zip(gradients, variables, strict=True))

    def gradients():
        for _ in range(ATTACK_STEPS.value):
            gradient(batch["image"])

    return gradients, lambda: update(batch["image"])


def measure(width: int, dtype: str) -> tuple[dict, dict[str, list[float]]]:
    """A row of the table, of medians, and the seconds of each contestant by round.

    Raises:
      AssertionError: PyTorch's loss is another: the work is not the same.
    """
    keras.utils.set_random_seed(0)
    batch = random_batch(BATCH_SIZE.value)
    attack = PGD(Linf(), EPSILON, ATTACK_STEPS.value)
    trainer = Trainer(
        resnet18((32, 32, 3), width),
        10,
        [Term(Classification(), example="adv", attack_weight=1.0)],
        attack,
        precision=dtype,
    )
    trainer.compile(optimizer=sgd(LEARNING_RATE, WEIGHT_DECAY, MOMENTUM))
    trainer.optimizer.build(trainer.trainable_variables)
    step = tf.function(trainer.train_step, autograph=False)
    model = trainer.exported()
    contestants = {
        "torch_contiguous": torch_step(
            model, batch, width, dtype, torch.contiguous_format
        ),
        "torch_channels_last": torch_step(
            model, batch, width, dtype, torch.channels_last
        ),
    }

    # A step of length 0 leaves the random start as it is.
    start = PGD(Linf(), EPSILON, steps=1, step_size=0)(
        lambda x: x, batch["image"], randomness.fold(batch["seed"], "attack/adv")
    )
    ours = float(step(batch)["loss"])
    for name, other in contestants.items():
        theirs = other(to_torch(start))
        if not abs(ours - theirs) <= TOLERANCE[dtype] * ours:
            raise AssertionError(
                f"not the same work: the loss is {ours} here and {theirs} in {name}"
            )

    gradients, update = parts(trainer, batch)
    contestants |= {
        "step": lambda: step(batch),
        "gradients": gradients,
        "update": update,
    }
    for warm_up in (gradients, update):
        warm_up()
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(ROUNDS.value):
        for name, run in contestants.items():
            since = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - since)

    median = {name: statistics.median(s) for name, s in seconds.items()}
    fastest = min(median["torch_contiguous"], median["torch_channels_last"])
    return {
        "width": width,
        "dtype": dtype,
        **{f"{name}_seconds": s for name, s in median.items()},
        "step_over_parts": median["step"] / (median["gradients"] + median["update"]),
        "images_per_second": BATCH_SIZE.value / median["step"],
        "torch_images_per_second": BATCH_SIZE.value / fastest,
        "speedup": fastest / median["step"],
    }, seconds


def main(argv: list[str]) -> None:
    machine.set_up()
    folder = Path(OUTPUT_DIR.value)
    folder.mkdir(parents=True, exist_ok=True)
    facts = machine.environment(("batch_size", "attack_steps", "rounds"))
    rows, rounds = [], []
    for width in WIDTHS.value:
        for dtype in DTYPES.value:
            row, seconds = measure(int(width), dtype)
            rows.append(row)
            rounds.append(seconds)
            shown = {
                k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items()
            }
            if len(rows) == 1:
                print("  ".join(shown))
            print("  ".join(f"{v:>{len(k)}}" for k, v in shown.items()), flush=True)
    facts["load_after"] = os.getloadavg()
    (folder / "train_step.json").write_text(
        json.dumps({"rows": rows, "rounds": rounds, **facts}, indent=2) + "\n"
    )
    with (folder / "train_step.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    app.run(main)
