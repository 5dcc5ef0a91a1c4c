"""Reads `.safetensors` files.

Eight bytes, little-endian: the length of a JSON header. The header: for each name
dtype, shape and where in the rest of the file the numbers are
(https://github.com/huggingface/safetensors).
"""

from __future__ import annotations

import json
import math
import os

import numpy as np
import tensorflow as tf

from tfssl.types import UserError

_DTYPES = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(tf.bfloat16.as_numpy_dtype),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}


def read(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """All tensors in a file, by name.

    Raises:
      UserError: It is no such file, or damaged.
    """
    with open(path, "rb") as file:
        content = file.read()
    try:
        start = 8 + int.from_bytes(content[:8], "little")
        if start > len(content):
            raise ValueError("the header is cut off")
        header = json.loads(content[8:start])
        header.pop("__metadata__", None)
        data = memoryview(content)[start:]
        return {name: _tensor(data, **entry) for name, entry in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{os.fspath(path)} is no .safetensors file, or damaged"
        ) from error


def _tensor(
    data: memoryview, dtype: str, shape: list[int], data_offsets: list[int]
) -> np.ndarray:
    begin, end = data_offsets
    kind = _DTYPES[dtype]
    size = kind.itemsize * math.prod(shape)
    if not 0 <= begin <= end <= len(data) or end - begin != size:
        raise ValueError("numbers are missing")
    return np.frombuffer(data[begin:end], kind).reshape(shape)
