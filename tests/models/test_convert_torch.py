"""Checkpoints that PyTorch writes, against what PyTorch computes."""

import argparse

import numpy as np
import pytest

from tfssl.models.checkpoints import state_dict
from tfssl.models.checkpoints.convert import convert
from tfssl.types import UserError

pytestmark = pytest.mark.torch

MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)


@pytest.fixture
def torch():
    import torch

    torch.manual_seed(0)
    return torch


def compare(torch, record_property, model, module, size):
    """Largest difference of a Keras model and a module, over the largest output."""
    image = np.random.default_rng(0).random((2, size, size, 3), np.float32)
    normalised = ((image - MEAN) / STD).transpose(0, 3, 1, 2)
    with torch.no_grad():
        want = module.eval()(torch.from_numpy(np.ascontiguousarray(normalised))).numpy()
    difference = np.abs(model(image).numpy() - want).max() / np.abs(want).max()
    record_property("difference", float(difference))
    print(f"largest difference over largest output: {difference:.1e}")
    assert want.std() > 0
    return difference


def randomise(torch, module):
    """Statistics and biases that matter."""
    with torch.no_grad():
        for name, x in [*module.named_parameters(), *module.named_buffers()]:
            if x.ndim == 1 and name.endswith(("running_var", "weight")):
                x.uniform_(0.5, 1.5)
            elif x.ndim == 1:
                x.normal_(0, 0.2)
    return module


@pytest.mark.parametrize("name", ["resnet50", "resnet18"])
def test_torchvision(torch, tmp_path, record_property, name):
    import torchvision

    module = randomise(torch, getattr(torchvision.models, name)(weights=None))
    torch.save(module.state_dict(), tmp_path / "a.pth")
    model, _ = convert(tmp_path / "a.pth")
    assert model.output_shape == (None, 1000)
    assert compare(torch, record_property, model, module, 224) < 1e-4


def small_vit(torch, width, depth, heads, patch, grid, last_blocks):
    """timm's and DINO's ViT, with a linear head on the last class tokens."""
    nn = torch.nn

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv = nn.Linear(width, 3 * width)
            self.proj = nn.Linear(width, width)

        def forward(self, x):
            b, n, _ = x.shape
            qkv = self.qkv(x).reshape(b, n, 3, heads, width // heads)
            q, k, v = qkv.permute(2, 0, 3, 1, 4)
            x = nn.functional.scaled_dot_product_attention(q, k, v)
            return self.proj(x.transpose(1, 2).reshape(b, n, width))

    class Mlp(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1 = nn.Linear(width, 4 * width)
            self.fc2 = nn.Linear(4 * width, width)

        def forward(self, x):
            return self.fc2(nn.functional.gelu(self.fc1(x)))

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm1, self.norm2 = (nn.LayerNorm(width, eps=1e-6) for _ in "12")
            self.attn, self.mlp = Attention(), Mlp()

        def forward(self, x):
            x = x + self.attn(self.norm1(x))
            return x + self.mlp(self.norm2(x))

    class Patches(nn.Module):
        def __init__(self):
            super().__init__()
            self.proj = nn.Conv2d(3, width, patch, patch)

        def forward(self, x):
            return self.proj(x)

    class Vit(nn.Module):
        def __init__(self):
            super().__init__()
            self.cls_token = nn.Parameter(torch.randn(1, 1, width))
            self.pos_embed = nn.Parameter(torch.randn(1, 1 + grid**2, width))
            self.patch_embed = Patches()
            self.blocks = nn.ModuleList(Block() for _ in range(depth))
            self.norm = nn.LayerNorm(width, eps=1e-6)
            self.linear = nn.Linear(last_blocks * width, 10)

        def positions(self, rows, columns):
            if rows == columns == grid:
                return self.pos_embed
            maps = self.pos_embed[:, 1:].reshape(1, grid, grid, width)
            maps = nn.functional.interpolate(
                maps.permute(0, 3, 1, 2),
                scale_factor=((rows + 0.1) / grid, (columns + 0.1) / grid),
                mode="bicubic",
            )
            assert maps.shape[2:] == (rows, columns)
            patches = maps.permute(0, 2, 3, 1).reshape(1, -1, width)
            return torch.cat([self.pos_embed[:, :1], patches], 1)

        def forward(self, x):
            x = self.patch_embed(x)
            rows, columns = x.shape[2:]
            x = x.flatten(2).transpose(1, 2)
            x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1)
            x = x + self.positions(rows, columns)
            tokens = []
            for block in self.blocks:
                x = block(x)
                tokens.append(self.norm(x)[:, 0])
            return self.linear(torch.cat(tokens[-last_blocks:], 1))

    return randomise(torch, Vit())


@pytest.mark.parametrize("size", [32, 56])
def test_vit(torch, tmp_path, record_property, size):
    module = small_vit(torch, 192, 6, 3, 8, 4, last_blocks=4)
    state = {k: v for k, v in module.state_dict().items() if "linear" not in k}
    torch.save({"teacher": state}, tmp_path / "a.pth")
    torch.save({"state_dict": module.linear.state_dict()}, tmp_path / "b.pth")
    # Without `backbone.`, as in no layout of the table.
    model, _ = convert(
        tmp_path / "a.pth", tmp_path / "b.pth", prefix="teacher.", image_size=size
    )
    assert compare(torch, record_property, model, module, size) < 1e-4


def test_dino_vit_small_8(torch, tmp_path, record_property):
    """ViT-S/8 at 224 x 224, as large as it is published, with its head of 1000."""
    module = small_vit(torch, 384, 12, 6, 8, 28, last_blocks=4)
    state = {k: v for k, v in module.state_dict().items() if "linear" not in k}
    torch.save(state, tmp_path / "a.pth")
    head = {f"module.linear.{k}": v for k, v in module.linear.state_dict().items()}
    torch.save({"state_dict": head, "epoch": 100}, tmp_path / "b.pth")
    model, _ = convert(tmp_path / "a.pth", tmp_path / "b.pth")
    assert compare(torch, record_property, model, module, 224) < 1e-4


@pytest.mark.parametrize("legacy", [False, True])
def test_nested_tensors_are_read_and_the_rest_is_not(torch, tmp_path, legacy):
    content = {
        "epoch": 3,
        "args": argparse.Namespace(lr=0.1),  # As in DINO's.
        "state_dict": {"a": torch.ones(2, dtype=torch.bfloat16), "n": torch.tensor(4)},
        "optimizer": {"state": {0: {"m": torch.zeros(1)}}, "param_groups": [{"lr": 1}]},
    }
    torch.save(
        content, tmp_path / "a.pth.tar", _use_new_zipfile_serialization=not legacy
    )
    tensors = state_dict.read(tmp_path / "a.pth.tar")
    assert {k: v.tolist() for k, v in tensors.items()} == {
        "state_dict.a": [1, 1],
        "state_dict.n": 4,
        "optimizer.state.0.m": [0],
    }


class Malicious:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_objects_are_refused_and_not_made(torch, tmp_path):
    torch.save({"a": Malicious(tmp_path / "ran")}, tmp_path / "a.pth")
    with pytest.raises(
        UserError, match=r"an object, \w+.open, .*can run code"
    ) as error:
        state_dict.read(tmp_path / "a.pth")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("keep", [0, 10, 300])
def test_damaged_files_are_told(torch, tmp_path, keep):
    torch.save({"a": torch.zeros(100)}, tmp_path / "a.pth")
    (tmp_path / "a.pth").write_bytes((tmp_path / "a.pth").read_bytes()[:keep])
    with pytest.raises(UserError, match=r"a.pth is no file of torch.save, or damaged"):
        state_dict.read(tmp_path / "a.pth")


def test_safetensors_of_their_package(torch, tmp_path):
    from safetensors.torch import save_file

    tensors = {
        "a": torch.randn(3, 2),
        "b": torch.randn(4).to(torch.bfloat16),
        "c": torch.arange(3),
    }
    save_file(tensors, tmp_path / "a.safetensors")
    read = state_dict.read(tmp_path / "a.safetensors")
    assert {k: v.tolist() for k, v in read.items()} == {
        k: v.tolist() for k, v in tensors.items()
    }
