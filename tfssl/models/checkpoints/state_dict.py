"""Reads PyTorch's state dicts from files, without running code that is in them."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from tfssl.models.checkpoints import safetensors
from tfssl.types import UserError

_INSTALL = "pip install 'tfssl[torch]'"


def read(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """All tensors in a file, by name.

    Dictionaries in dictionaries become names with dots:
    `{'state_dict': {'fc.bias': x}}` gives `state_dict.fc.bias`. What is no tensor, such
    as the number of the epoch, is not read.

    Args:
      path: `.npz` as numpy and `.safetensors` as Hugging Face write them; anything else
        is taken for a file of `torch.save`, which needs PyTorch.

    Raises:
      UserError: There is no such file, it is damaged, holds no tensors or other things
        than data, or PyTorch is missing.
    """
    path = os.fspath(path)
    if not os.path.isfile(path):
        raise UserError(f"no checkpoint file {path}")
    if path.endswith(".npz"):
        tensors = _read_npz(path)
    elif path.endswith(".safetensors"):
        tensors = safetensors.read(path)
    else:
        tensors = _read_torch(path)
    if not tensors:
        raise UserError(f"{path} holds no tensors by name: give a state dict")
    return tensors


def _read_npz(path: str) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except Exception as error:  # A damaged file can fail in any way.
        raise UserError(
            f"{path} is no .npz file of arrays: {_first_line(error)}"
        ) from error


def _read_torch(path: str) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError:
        raise UserError(
            f"reading {path} needs PyTorch, which is not installed: {_INSTALL}, or save"
            " the tensors as .npz or .safetensors where there is PyTorch"
        ) from None
    if tuple(int(x) for x in re.findall(r"\d+", torch.__version__)[:2]) < (2, 6):
        # CVE-2025-32434: before, files could run code in spite of `weights_only`.
        raise UserError(f"PyTorch {torch.__version__} reads no file safely: {_INSTALL}")
    try:
        # DINO's checkpoints hold their command line. A Namespace only holds attributes.
        with torch.serialization.safe_globals([argparse.Namespace]):
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # A damaged file can fail in any way.
        refused = re.search(r"GLOBAL ([\w.]+)", str(error))
        if refused:
            raise UserError(
                f"{path} holds not only tensors but an object, {refused[1]}, and making"
                " objects can run code. If you trust the file, save only its state"
                " dict: torch.save(torch.load(path, weights_only=False)['state_dict'],"
                " path)"
            ) from None
        raise UserError(
            f"{path} is no file of torch.save, or damaged: {_first_line(error)}"
        ) from error
    return {
        name: _array(tensor)
        for name, tensor in _leaves(found)
        if isinstance(tensor, torch.Tensor)
    }


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """What is in dictionaries at any depth, with their keys joined by dots."""
    if not isinstance(value, Mapping):
        yield name, value
        return
    for key, inside in value.items():
        yield from _leaves(inside, f"{name}.{key}" if name else str(key))


def _array(tensor: Any) -> np.ndarray:
    """A tensor's numbers; floats that numpy does not know become float32."""
    tensor = tensor.detach()
    if tensor.is_floating_point() and tensor.element_size() < 4:
        tensor = tensor.float()
    return tensor.numpy()


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
