"""Peak memory of the attacks on large images with many classes.

  python benchmarks/attack_memory.py --batch_size 8

ResNet-50 on 224 x 224 x 3 with 1000 classes and random weights, each attack for a few
steps in a process of its own; `gradient` is a forward and backward pass of the network.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import tensorflow as tf
from absl import app, flags

from tfssl.attacks.apgd import APGD
from tfssl.attacks.balls import Linf
from tfssl.attacks.fab import FAB
from tfssl.attacks.square import Square
from tfssl.losses import classification
from tfssl.models.resnet import resnet50

BATCH_SIZE = flags.DEFINE_integer("batch_size", 8, "Images at a time.", 1)
CLASSES = flags.DEFINE_integer("classes", 1000, "Of the network.", 2)
ATTACK = flags.DEFINE_string("attack", None, "One alone, in this process.")

SHAPE = (224, 224, 3)
EPSILON = 1e-4  # So small that nothing is broken, and nothing ends early.
ATTACKS = {
    "APGD-CE": lambda: APGD(Linf(), steps=2),
    "APGD-T": lambda: APGD(Linf(), loss="targeted_dlr", steps=2, targets=2),
    "FAB-T": lambda: FAB(Linf(), steps=2, targets=2),
    "Square": lambda: Square(Linf(), queries=4),
}


def peak(name: str) -> float:
    """MiB of memory that this process had at most, after one attack."""
    body = resnet50(SHAPE, stem="imagenet")
    image = keras.Input(SHAPE)
    model = keras.Model(image, keras.layers.Dense(CLASSES.value)(body(image)))

    def logits(images):
        return model(images, training=False)

    image = tf.random.stateless_uniform([BATCH_SIZE.value, *SHAPE], [0, 0])
    label = tf.concat([tf.argmax(logits(x[None]), 1, tf.int32) for x in image], 0)
    seed = tf.stack([tf.range(BATCH_SIZE.value)] * 2, axis=1)

    @tf.function
    def run():
        if name in ATTACKS:
            return ATTACKS[name]().perturb(logits, image, label, seed, EPSILON)
        with tf.GradientTape() as tape:
            tape.watch(image)
            loss = classification.cross_entropy(label, logits(image))
        return tape.gradient(loss, image)

    run()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def main(_: list[str]) -> None:
    """Measures all of them, or one."""
    if ATTACK.value:
        print(f"{ATTACK.value:10} {peak(ATTACK.value):8.0f} MiB", flush=True)
        return
    for name in ("gradient", *ATTACKS):
        subprocess.run([sys.executable, *sys.argv, f"--attack={name}"], check=True)


if __name__ == "__main__":
    app.run(main)
