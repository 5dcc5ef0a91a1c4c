"""The machine that a benchmark runs on, and how many of its threads it gets."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Sequence
from pathlib import Path

import tensorflow as tf
import torch
from absl import flags

from tfssl import manifest

THREADS = flags.DEFINE_integer(
    "threads", os.cpu_count(), "Threads within an operation.", 1
)


def set_up() -> None:
    """Equally many threads for TensorFlow and PyTorch, and no GPU."""
    tf.config.set_visible_devices([], "GPU")
    tf.config.threading.set_intra_op_parallelism_threads(THREADS.value)
    tf.config.threading.set_inter_op_parallelism_threads(THREADS.value)
    torch.set_num_threads(THREADS.value)


def environment(names: Sequence[str], packages: Sequence[str] = ()) -> dict:
    """The machine, and what was measured on it.

    Args:
      names: Of the flags that say so.
      packages: Distributions whose versions matter, beside those of a manifest.
    """
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(line.split(":")[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        cpu = platform.processor()
    facts = manifest.environment()
    facts["packages"] |= {package: version(package) for package in ("torch", *packages)}
    return {
        **facts,
        "cpu": cpu,
        "load_before": os.getloadavg(),
        "flags": {name: flags.FLAGS[name].value for name in (*names, "threads")},
    }


def version(package: str) -> str | None:
    """None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
