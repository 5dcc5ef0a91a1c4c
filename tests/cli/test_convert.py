"""bin/convert as its users start it."""

import subprocess
import sys
from pathlib import Path

import keras
import numpy as np

ROOT = Path(__file__).parents[2]


def convert(*arguments):
    return subprocess.run(
        [sys.executable, "bin/convert", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def resnet10():
    """The smallest network that there is: a stage of one block, width 2."""
    norm = dict.fromkeys(("weight", "bias", "running_mean", "running_var"), np.ones(2))
    tensors = {"conv1.weight": np.ones([2, 3, 7, 7]), "fc.weight": np.ones([3, 2])}
    tensors["fc.bias"] = np.arange(3.0)
    for name in ("conv1", "conv2"):
        tensors[f"layer1.0.{name}.weight"] = np.ones([2, 2, 3, 3])
    for name in ("bn1", "layer1.0.bn1", "layer1.0.bn2"):
        tensors |= {f"{name}.{kind}": x for kind, x in norm.items()}
    return tensors


def test_a_file_becomes_a_keras_model(tmp_path):
    np.savez(tmp_path / "a.npz", **resnet10())
    out = tmp_path / "models" / "a.keras"
    done = convert(
        *("--checkpoint", tmp_path / "a.npz", "--out", out, "--normalise=none"),
        "--any_size",
    )
    assert done.stderr == ""
    assert done.returncode == 0
    assert "layout plain" in done.stdout
    assert f"written to {out}" in done.stdout
    model = keras.saving.load_model(out, safe_mode=True)
    logits = model(np.zeros([1, 9, 11, 3], np.float32)).numpy()
    np.testing.assert_allclose(logits[0] - logits[0, 0], [0, 1, 2], rtol=1e-5)


def test_errors_are_one_line_and_write_nothing(tmp_path):
    np.savez(tmp_path / "a.npz", **resnet10() | {"layer1.0.se.bias": np.ones(2)})
    for arguments, message in (
        ([], "--checkpoint is missing"),
        (["--checkpoint=a.npz"], "--out is missing or no .keras file"),
        (["--checkpoint=a.npz", "--out=a.h5"], "--out is missing or no .keras file"),
        (
            [f"--checkpoint={tmp_path / 'a.npz'}", f"--out={tmp_path / 'a.keras'}"],
            "unexpected: layer1.0.se.bias",
        ),
    ):
        done = convert(*arguments)
        assert done.returncode == 1
        assert message in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]
