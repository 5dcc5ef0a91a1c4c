"""manifest.json: which code, machine and data made a run.

Not which machine by name: what of it matters to a number is said, and names of hosts
are nobody else's business.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import tensorflow as tf

from tfssl import files
from tfssl.types import UserError

_PACKAGES = (
    *("tfssl", "tensorflow", "keras", "tensorflow-datasets", "numpy", "scipy"),
    *("scikit-learn", "opencv-python-headless", "pillow", "gin-config", "absl-py"),
    *("cleverhans", "pandas", "ml_dtypes", "protobuf", "array_record"),
)
# Variables that choose other kernels, or another order of sums, if they are set.
_NUMERICS = re.compile(
    r"TF_ENABLE_ONEDNN_OPTS|TF_DETERMINISTIC_OPS|TF_CUDNN_\w+|TF_XLA_FLAGS|XLA_FLAGS"
    r"|NVIDIA_TF32_OVERRIDE|ONEDNN_\w+|DNNL_\w+|CUDNN_\w+|CUBLAS_\w+|CUDA_MODULE_LOADING"
    r"|TF_NUM_INTRAOP_THREADS|TF_NUM_INTEROP_THREADS|OMP_NUM_THREADS|OPENCV_\w+"
)


def environment() -> dict[str, Any]:
    """Code, versions and hardware of this process, and what else changes numbers."""
    gpus = [
        tf.config.experimental.get_device_details(gpu).get("device_name", "")
        for gpu in tf.config.list_physical_devices("GPU")
    ]
    build = tf.sysconfig.get_build_info()
    return {
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(_git("status", "--porcelain", "-uno")),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "hardware": {
            "machine": platform.machine(),
            "cpu": _cpu(),
            "cores": os.cpu_count(),
            "gpus": gpus,
            "driver": _driver() if gpus else None,
            # Of these TensorFlow was built with.
            "cuda": build.get("cuda_version") if gpus else None,
            "cudnn": build.get("cudnn_version") if gpus else None,
        },
        "variables": {
            name: value
            for name, value in sorted(os.environ.items())
            if _NUMERICS.fullmatch(name)
        },
        "command": sys.argv,
    }


def write(run_dir: Path, entries: dict[str, Any]) -> None:
    """Adds entries to <run_dir>/manifest.json, atomically."""
    text = json.dumps({**read(run_dir), **entries}, indent=2) + "\n"
    with files.replacing(run_dir / "manifest.json") as path:
        path.write_text(text)


def read(run_dir: Path) -> dict[str, Any]:
    """The entries of <run_dir>/manifest.json; none if there is no such file.

    Raises:
      UserError: The file cannot be read.
    """
    path = run_dir / "manifest.json"
    try:
        return dict(json.loads(path.read_text()))
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError):
        raise UserError(f"{path} is damaged: delete it, or the whole run") from None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu() -> str | None:
    """The model's name; None where it cannot be told."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or None
    found = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    return found[1].strip() if found else None


def _driver() -> str | None:
    """The version of NVIDIA's driver; None where it cannot be told."""
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    versions = (_output(query) or "").splitlines()
    return versions[0].strip() if versions else None


def _git(*arguments: str) -> str | None:
    """What git says of the folder this package lies in; None outside a checkout."""
    folder = Path(__file__).resolve().parent
    return _output(["git", "-C", str(folder), *arguments])


def _output(command: list[str]) -> str | None:
    """What a program prints; None if it is not there, fails or hangs."""
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=30
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()
