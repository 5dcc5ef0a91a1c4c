"""ResNets from PyTorch: the same function as written slowly by its definitions."""

import fake_states
import keras
import numpy as np
import pytest

from tfssl.models.checkpoints.convert import convert
from tfssl.types import UserError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def save(path, tensors):
    np.savez(path, **tensors)
    return path


def conv(x, kernel, stride, padding):
    """torch.nn.functional.conv2d: x [b, c, h, w], kernel [out, c, kh, kw]."""
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    size = kernel.shape[-1]
    height, width = ((n - size) // stride + 1 for n in x.shape[2:])
    out = np.zeros((len(x), len(kernel), height, width))
    for i in range(height):
        for j in range(width):
            top, left = i * stride, j * stride
            patch = x[:, :, top : top + size, left : left + size]
            out[:, :, i, j] = np.tensordot(patch, kernel, ((1, 2, 3), (1, 2, 3)))
    return out


def batch_norm(x, state, name):
    weight, bias, mean, var = (
        state[f"{name}.{kind}"][:, None, None].astype(float)
        for kind in ("weight", "bias", "running_mean", "running_var")
    )
    return (x - mean) / np.sqrt(var + 1e-5) * weight + bias


def max_pool(x):
    """Of 3 x 3 with stride 2 and padding 1."""
    x = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    height, width = ((n - 3) // 2 + 1 for n in x.shape[2:])
    return np.array(
        [
            [
                x[:, :, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max((2, 3))
                for j in range(width)
            ]
            for i in range(height)
        ]
    ).transpose(2, 3, 0, 1)


def slow(state, image, mean=MEAN, std=STD):
    """Features map and features of torchvision's ResNet in inference mode."""
    x = ((image - mean) / std).transpose(0, 3, 1, 2)
    x = batch_norm(conv(x, state["conv1.weight"], 2, 3), state, "bn1")
    x = max_pool(np.maximum(x, 0))
    blocks = dict.fromkeys(
        ".".join(name.split(".")[:2]) for name in state if name.startswith("layer")
    )
    for block in blocks:
        stride = 2 if block.endswith(".0") and block[5] > "1" else 1
        count = 3 if f"{block}.conv3.weight" in state else 2
        y = x
        for j in range(1, count + 1):
            kernel = state[f"{block}.conv{j}.weight"]
            # The first of 3 x 3 strides.
            at = stride if j == count - 1 else 1
            y = conv(y, kernel, at, kernel.shape[-1] // 2)
            y = batch_norm(y, state, f"{block}.bn{j}")
            y = np.maximum(y, 0) if j < count else y
        if f"{block}.downsample.0.weight" in state:
            x = conv(x, state[f"{block}.downsample.0.weight"], stride, 0)
            x = batch_norm(x, state, f"{block}.downsample.1")
        x = np.maximum(x + y, 0)
    return x.transpose(0, 2, 3, 1), x.mean((2, 3))


@pytest.mark.parametrize("bottleneck", [True, False])
def test_same_function(tmp_path, bottleneck):
    state = fake_states.resnet(bottleneck=bottleneck)
    d = 32 if bottleneck else 8
    state |= fake_states.head(d)
    model, report = convert(save(tmp_path / "a.npz", state), image_size=34)
    image = fake_states.images(34, 34)
    names = ["features_map", "features"]
    outputs = [model.get_layer(name).output for name in names]
    got = keras.Model(model.input, outputs)(image)
    for one, other in zip(got, slow(state, image), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    logits = slow(state, image)[1] @ state["fc.weight"].T + state["fc.bias"]
    np.testing.assert_allclose(model(image), logits, rtol=1e-4, atol=1e-5)
    assert model.output_names == ["logits"]
    counters = sum(name.endswith("tracked") for name in state)
    assert f"num_batches_tracked ({counters})" in report
    assert f"used      {len(state) - counters} of {len(state)}" in report


def test_images_of_any_size_and_as_they_are(tmp_path):
    state = fake_states.resnet()
    path = save(tmp_path / "a.npz", state)
    model, report = convert(path, normalise="none", any_size=True)
    image = fake_states.images(40, 33)
    np.testing.assert_allclose(
        model(image), slow(state, image, 0, 1)[1], rtol=1e-4, atol=1e-5
    )
    assert model.output_names == ["features"]
    assert "any x any x 3" in report


def test_other_floats_are_cast(tmp_path):
    state = fake_states.resnet()
    as_float64 = {name: x.astype(float) for name, x in state.items()}
    image = fake_states.images(32, 32)
    one, other = (
        convert(save(tmp_path / "a.npz", x), image_size=32)[0](image)
        for x in (state, as_float64)
    )
    np.testing.assert_array_equal(one, other)


def test_the_published_size(tmp_path):
    """23,508,032 parameters of torchvision's ResNet-50 without fc, and its 53 means
    and variances."""
    state = fake_states.resnet((3, 4, 6, 3), 64) | fake_states.head(2048, 1000)
    parameters = sum(
        x.size for name, x in state.items() if "running" not in name and x.ndim
    )
    assert parameters == 25_557_032
    assert len(state) == 320
    model, _ = convert(save(tmp_path / "a.npz", state))
    assert sum(w.numpy().size for w in model.trainable_weights) == parameters
    assert model.get_layer("features_map").output.shape == (None, 7, 7, 2048)


def without(*names):
    return lambda state: [state.pop(name) for name in names]


def put(name, value):
    return lambda state: state.update({name: value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("layer2.1.bn2.bias"), "missing: layer2.1.bn2.bias"),
        (
            without("layer2.0.conv1.weight", "bn1.bias"),
            "bn1.bias, layer2.0.conv1.weigh",
        ),
        (
            put("layer2.0.conv2.weight", np.zeros([8, 8, 1, 1])),
            r"not of the shape .*layer2.0.conv2.weight \[8, 8, 1, 1\]",
        ),
        (put("bn1.bias", np.zeros([4, 1])), r"bn1.bias \[4, 1\]"),
        (put("layer2.0.conv3.weight", np.zeros(3)), r"layer2.0.conv3.weight \[3\]"),
        (put("bn1.bias", np.full(4, np.nan)), "not finite: bn1.bias"),
        (put("layer2.0.se.weight", np.zeros(4)), "unexpected: layer2.0.se.weight"),
        (put("conv1.weight", np.zeros([4, 3, 3, 3])), r"it is \[4, 3, 3, 3\]"),
        (without("conv1.weight"), "conv1.weight"),
        (without("fc.bias"), "the head has no tensor fc.bias"),
        (put("fc.weight", np.zeros([5, 31])), "31 features, but the encoder has 32"),
        (put("fc.bias", np.zeros(4)), r"head.bias \[4\]"),
    ],
)
def test_what_does_not_fit_is_told(tmp_path, change, message):
    state = fake_states.resnet() | fake_states.head(32)
    change(state)
    with pytest.raises(UserError, match=message) as error:
        convert(save(tmp_path / "a.npz", state), image_size=32)
    assert "\n" not in str(error.value)


def test_settings_of_a_vit_are_refused(tmp_path):
    path = save(tmp_path / "a.npz", fake_states.resnet())
    with pytest.raises(UserError, match="are for a ViT"):
        convert(path, last_blocks=4)
