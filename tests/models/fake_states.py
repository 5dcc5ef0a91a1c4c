"""Small networks as PyTorch keeps them: random tensors by the names of their makers."""

import numpy as np


def resnet(blocks=(1, 2), width=4, bottleneck=True, channels=3, seed=0):
    """torchvision's names, shapes and types."""
    rng = np.random.default_rng(seed)
    state = {}

    def conv(name, out, into, size):
        scale = np.sqrt(2 / (into * size**2))
        state[f"{name}.weight"] = rng.normal(0, scale, (out, into, size, size))

    def norm(name, size):
        state[f"{name}.weight"] = rng.uniform(0.5, 1.5, size)
        state[f"{name}.bias"] = rng.normal(0, 0.3, size)
        state[f"{name}.running_mean"] = rng.normal(0, 0.3, size)
        state[f"{name}.running_var"] = rng.uniform(0.5, 1.5, size)
        state[f"{name}.num_batches_tracked"] = np.array(7)

    conv("conv1", width, channels, 7)
    norm("bn1", width)
    into = width
    for stage, count in enumerate(blocks, 1):
        inner = width * 2 ** (stage - 1)
        sizes = [(inner, 1), (inner, 3), (4 * inner, 1)]
        if not bottleneck:
            sizes = [(inner, 3), (inner, 3)]
        for i in range(count):
            name = f"layer{stage}.{i}"
            start = into
            for j, (out, size) in enumerate(sizes, 1):
                conv(f"{name}.conv{j}", out, into, size)
                norm(f"{name}.bn{j}", out)
                into = out
            if i == 0 and (start != into or stage > 1):
                conv(f"{name}.downsample.0", into, start, 1)
                norm(f"{name}.downsample.1", into)
    return as_stored(state)


def vit(width=128, depth=5, patch=4, grid=2, channels=3, mlp_ratio=2, seed=0):
    """timm's and DINO's names and shapes."""
    rng = np.random.default_rng(seed)
    state = {
        "cls_token": rng.normal(0, 1, (1, 1, width)),
        "pos_embed": rng.normal(0, 1, (1, 1 + grid**2, width)),
    }

    def norm(name):
        state[f"{name}.weight"] = rng.uniform(0.5, 1.5, width)
        state[f"{name}.bias"] = rng.normal(0, 0.3, width)

    def linear(name, out, into):
        state[f"{name}.weight"] = rng.normal(0, 1.5 / np.sqrt(into), (out, into))
        state[f"{name}.bias"] = rng.normal(0, 0.3, out)

    shape = (width, channels, patch, patch)
    state["patch_embed.proj.weight"] = rng.normal(0, 0.3, shape)
    state["patch_embed.proj.bias"] = rng.normal(0, 0.3, width)
    for i in range(depth):
        norm(f"blocks.{i}.norm1")
        linear(f"blocks.{i}.attn.qkv", 3 * width, width)
        linear(f"blocks.{i}.attn.proj", width, width)
        norm(f"blocks.{i}.norm2")
        linear(f"blocks.{i}.mlp.fc1", mlp_ratio * width, width)
        linear(f"blocks.{i}.mlp.fc2", width, mlp_ratio * width)
    norm("norm")
    return as_stored(state)


def head(features, classes=5, name="fc", seed=1):
    rng = np.random.default_rng(seed)
    state = {
        f"{name}.weight": rng.normal(0, 1 / np.sqrt(features), (classes, features)),
        f"{name}.bias": rng.normal(0, 1, classes),
    }
    return as_stored(state)


def as_stored(state):
    return {
        name: np.asarray(x, None if x.dtype == int else np.float32)
        for name, x in state.items()
    }


def below(prefix, state):
    return {prefix + name: value for name, value in state.items()}


def images(height, width, channels=3, seed=2):
    rng = np.random.default_rng(seed)
    return rng.random((2, height, width, channels), np.float32)
