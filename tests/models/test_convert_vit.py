"""ViTs from PyTorch: the same function as written slowly by its definitions."""

import math

import fake_states
import keras
import numpy as np
import pytest

from tfssl.models.checkpoints.convert import convert
from tfssl.models.vit import last_attention
from tfssl.types import UserError

HEADS = 2


def save(path, tensors):
    np.savez(path, **tensors)
    return path


def norm(x, state, name):
    """torch.nn.LayerNorm with eps 1e-6."""
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return x * state[f"{name}.weight"] + state[f"{name}.bias"]


def linear(x, state, name):
    return x @ state[f"{name}.weight"].T.astype(float) + state[f"{name}.bias"]


def gelu(x):
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def attention(x, state, name, heads):
    """timm's: qkv [n, 3 width] read as [n, 3, heads, width / heads], and weights."""
    n, width = x.shape
    qkv = linear(x, state, f"{name}.qkv").reshape(n, 3, heads, width // heads)
    q, k, v = qkv.transpose(1, 2, 0, 3)
    weights = np.exp(q @ k.transpose(0, 2, 1) / math.sqrt(width // heads))
    weights /= weights.sum(-1, keepdims=True)
    out = (weights @ v).transpose(1, 0, 2).reshape(n, width)
    return linear(out, state, f"{name}.proj"), weights


def slow(state, image, heads=HEADS, last=1):
    """Class tokens of the last blocks, and the last attention, of one [h, w, c]."""
    kernel = state["patch_embed.proj.weight"]
    patch = kernel.shape[-1]
    rows, columns = (n // patch for n in image.shape[:2])
    x = ((image - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]).transpose(2, 0, 1)
    tokens = [state["cls_token"][0, 0]]
    for i in range(rows):
        for j in range(columns):
            square = x[:, i * patch : (i + 1) * patch, j * patch : (j + 1) * patch]
            token = np.tensordot(kernel, square, 3) + state["patch_embed.proj.bias"]
            tokens.append(token)
    x = np.array(tokens) + positions(state["pos_embed"][0], rows, columns)
    outputs = []
    depth = sum(name.endswith("qkv.bias") for name in state)
    for i in range(depth):
        name = f"blocks.{i}"
        y, weights = attention(
            norm(x, state, f"{name}.norm1"), state, f"{name}.attn", heads
        )
        x = x + y
        y = gelu(linear(norm(x, state, f"{name}.norm2"), state, f"{name}.mlp.fc1"))
        x = x + linear(y, state, f"{name}.mlp.fc2")
        outputs.append(norm(x, state, "norm")[0])
    return np.concatenate(outputs[-last:]), weights[:, 0, 1:].reshape(-1, rows, columns)


def positions(embedding, rows, columns):
    """DINO's `interpolate_pos_encoding`, by PyTorch's bicubic, one number at a time."""
    side = math.isqrt(len(embedding) - 1)
    if (rows, columns) == (side, side):
        return embedding
    grid = embedding[1:].reshape(side, side, -1).astype(float)

    def weight(x):
        x, a = abs(x), -0.75
        if x <= 1:
            return (a + 2) * x**3 - (a + 3) * x**2 + 1
        return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0

    def along(line, size):
        out = []
        for i in range(size):
            place = (i + 0.5) * side / (size + 0.1) - 0.5
            first = math.floor(place) - 1
            out.append(
                sum(
                    weight(place - n) * line[min(max(n, 0), side - 1)]
                    for n in range(first, first + 4)
                )
            )
        return np.array(out)

    grid = along(grid, rows)
    grid = along(grid.transpose(1, 0, 2), columns).transpose(1, 0, 2)
    return np.concatenate([embedding[:1], grid.reshape(rows * columns, -1)])


@pytest.mark.parametrize(("last", "size"), [(1, 8), (4, 8), (4, 16)])
def test_same_function(tmp_path, last, size):
    state = fake_states.vit()
    head = fake_states.head(128 * last, name="module.linear")
    # As DINO's files are nested.
    path = save(
        tmp_path / "a.npz", fake_states.below("teacher.module.backbone.", state)
    )
    head_path = save(tmp_path / "b.npz", fake_states.below("state_dict.", head))
    model, report = convert(path, head_path, image_size=None if size == 8 else size)
    image = fake_states.images(size, size)
    features = model.get_layer("features").output
    got = keras.Model(model.input, features)(image)
    maps = last_attention(model)(image)
    for i in range(2):
        want, weights = slow(state, image[i], last=last)
        np.testing.assert_allclose(got[i], want, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(maps[i], weights, rtol=1e-3, atol=1e-5)
        logits = head["module.linear.weight"] @ want + head["module.linear.bias"]
        np.testing.assert_allclose(model(image)[i], logits, rtol=1e-3, atol=1e-4)
    assert f"5 blocks, {HEADS} heads" in report
    assert f"used      {len(state)} of {len(state)}" in report
    assert "left out  nothing" in report


def test_heads_may_be_told(tmp_path):
    """They are in no tensor: other numbers of them give another function."""
    state = fake_states.vit(depth=2)
    model, _ = convert(save(tmp_path / "a.npz", state), heads=8, last_blocks=2)
    image = fake_states.images(8, 8)
    want = slow(state, image[0], heads=8, last=2)[0]
    np.testing.assert_allclose(model(image)[0], want, rtol=1e-3, atol=1e-4)


def test_saved_file_is_the_same_function(tmp_path):
    state = fake_states.vit(depth=2)
    model, _ = convert(save(tmp_path / "a.npz", state), last_blocks=2)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    image = fake_states.images(8, 8)
    np.testing.assert_array_equal(loaded(image), model(image))


def test_dino_vit_small_has_the_published_size(tmp_path):
    state = fake_states.vit(384, 12, 8, 28, mlp_ratio=4)
    assert sum(x.size for x in state.values()) == 21_670_272
    head = save(tmp_path / "b.npz", fake_states.head(1536, 1000, "linear"))
    model, report = convert(save(tmp_path / "a.npz", state), head)
    assert model.count_params() == 21_670_272 + 1_537_000
    assert model.input_shape == (None, 224, 224, 3)
    assert "12 blocks, 6 heads" in report
    assert model.get_layer("features_map").output.shape == (None, 28, 28, 384)


@pytest.mark.parametrize(
    ("state", "head", "settings", "message"),
    [
        (fake_states.vit(width=12), None, {}, "give --heads"),
        (fake_states.vit(), 256, {}, "256 features, the tokens have 128"),
        (fake_states.vit(), 256, {"last_blocks": 4}, "but the encoder has 512"),
        (fake_states.vit(depth=2), 512, {}, "last_blocks is 4, but there are 2"),
        (fake_states.vit() | {"pos_embed": np.zeros([1, 6, 128])}, None, {}, "6 posi"),
        (fake_states.vit() | {"pos_embed": np.zeros([6, 128])}, None, {}, "3 axes"),
        (
            fake_states.vit() | {"blocks.4.attn.qkv.weight": np.zeros([384, 127])},
            None,
            {},
            r"shape .* qkv.weight \[384, 127\]".replace(" qkv", ".*qkv"),
        ),
        (
            fake_states.vit() | {"blocks.0.ls1.gamma": np.zeros(128)},
            None,
            {},
            "unexpected: blocks.0.ls1.gamma",
        ),
        (
            {k: v for k, v in fake_states.vit().items() if k != "norm.bias"},
            None,
            {},
            "missing: norm.bias",
        ),
        (fake_states.vit(), None, {"image_size": 10}, "do not divide into patches"),
        (fake_states.vit(), None, {"heads": 3}, "does not divide by the 3 heads"),
    ],
)
def test_what_does_not_fit_is_told(tmp_path, state, head, settings, message):
    path = save(tmp_path / "a.npz", state)
    if head:
        head = save(tmp_path / "b.npz", fake_states.head(head, name="linear"))
    with pytest.raises(UserError, match=message) as error:
        convert(path, head, **settings)
    assert "\n" not in str(error.value)
