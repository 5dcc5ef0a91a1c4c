"""Files of tensors: what is read, and what is refused without running anything."""

import json
import struct
import sys

import numpy as np
import pytest
import tensorflow as tf

from tfssl.models.checkpoints import state_dict
from tfssl.types import UserError


def safetensors(path, header, data=b""):
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def entry(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def test_safetensors(tmp_path):
    half = np.array([1.5, -2], np.float16)
    brain = tf.constant([[0.25], [3.0]], tf.bfloat16).numpy()
    number = np.array(7, np.int64)
    path = safetensors(
        tmp_path / "a.safetensors",
        {
            "__metadata__": {"format": "pt"},
            "half": entry("F16", [2], 0, 4),
            "brain": entry("BF16", [2, 1], 4, 8),
            "number": entry("I64", [], 8, 16),
        },
        half.tobytes() + brain.tobytes() + number.tobytes(),
    )
    tensors = state_dict.read(path)
    assert list(tensors) == ["half", "brain", "number"]
    np.testing.assert_array_equal(tensors["half"], half)
    np.testing.assert_array_equal(tensors["brain"].astype(float), [[0.25], [3.0]])
    assert tensors["number"] == 7


@pytest.mark.parametrize(
    "one",
    [
        entry("F32", [2], 0, 4),
        entry("F32", [2], 0, 8),
        entry("F33", [1], 0, 4),
        entry("F32", [1], -4, 0),
        {"dtype": "F32"},
        [1],
    ],
)
def test_damaged_safetensors_are_told(tmp_path, one):
    path = safetensors(tmp_path / "a.safetensors", {"one": one}, b"1234")
    with pytest.raises(UserError, match=r"a.safetensors is no .* damaged"):
        state_dict.read(path)


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
@pytest.mark.parametrize("content", [b"", b"PK\3\4", b"12345678{}", b"\0" * 100])
def test_files_of_something_else_are_told(tmp_path, suffix, content):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"a{suffix} is no {suffix} file") as error:
        state_dict.read(path)
    assert "\n" not in str(error.value)


def test_truncated_npz_is_told(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, a=np.zeros(1000))
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(UserError, match=r"is no .npz file"):
        state_dict.read(path)


class Malicious:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_npz_with_an_object_is_refused_and_not_run(tmp_path):
    array = np.empty(1, object)
    array[0] = Malicious(tmp_path / "ran")
    np.savez(tmp_path / "a.npz", a=array)
    with pytest.raises(UserError, match=r"is no .npz file"):
        state_dict.read(tmp_path / "a.npz")
    assert not (tmp_path / "ran").exists()


def test_no_file_and_no_tensors_are_told(tmp_path):
    with pytest.raises(UserError, match=r"no checkpoint file .*a.pth"):
        state_dict.read(tmp_path / "a.pth")
    np.savez(tmp_path / "a.npz")
    with pytest.raises(UserError, match="holds no tensors"):
        state_dict.read(tmp_path / "a.npz")


def test_without_pytorch_it_is_said_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "a.pth").write_bytes(b"1")
    with pytest.raises(UserError, match=r"pip install 'tfssl\[torch\]'"):
        state_dict.read(tmp_path / "a.pth")


def test_a_pytorch_that_is_not_safe_is_not_used(tmp_path, monkeypatch):
    class Old:
        __version__ = "2.5.1+cpu"

    monkeypatch.setitem(sys.modules, "torch", Old)
    (tmp_path / "a.pth").write_bytes(b"1")
    with pytest.raises(UserError, match=r"2.5.1.* reads no file safely"):
        state_dict.read(tmp_path / "a.pth")
