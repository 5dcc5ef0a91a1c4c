"""manifest.json: which code, machine and data made a run."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import tensorflow as tf

from tfssl import files
from tfssl.types import UserError

_PACKAGES = ("tfssl", "tensorflow", "keras", "tensorflow-datasets", "numpy")


def environment() -> dict[str, Any]:
    """Commit, versions and hardware of this process."""
    return {
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(_git("status", "--porcelain", "-uno")),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "hardware": {
            "machine": platform.machine(),
            "cores": os.cpu_count(),
            "gpus": [
                tf.config.experimental.get_device_details(gpu).get("device_name", "")
                for gpu in tf.config.list_physical_devices("GPU")
            ],
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


def _git(*arguments: str) -> str | None:
    """What git says of the folder this package lies in; None outside a checkout."""
    folder = Path(__file__).resolve().parent
    try:
        result = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return result.stdout.strip()
