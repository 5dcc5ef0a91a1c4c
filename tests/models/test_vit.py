"""The vision transformers: the formulas in numpy, sizes, saving, what shows inside."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfssl.models.resnet import resnet
from tfssl.models.vit import last_attention, vit, vit_tiny
from tfssl.types import UserError

SHAPE = (8, 12, 2)


def build(image_shape=SHAPE, **settings):
    model = vit(image_shape, patch=4, width=6, depth=2, heads=3, **settings)
    rng = np.random.default_rng(0)
    # Large enough for the attention to be far from even.
    model.set_weights([rng.normal(0, 0.7, w.shape) for w in model.get_weights()])
    return model


def images(height=8, width=12, channels=2):
    rng = np.random.default_rng(1)
    return rng.random((2, height, width, channels), np.float32)


def slow(model, image, heads):
    """The forward pass of one image [h, w, c], a token and a head at a time.

    Dosovitskiy et al. 2021, eq. 1 to 4; attention as in their appendix A.
    """
    weights = {v.path: v.numpy().astype(float) for v in model.variables}
    patch = len(weights["patches/kernel"])
    rows, columns = image.shape[0] // patch, image.shape[1] // patch

    def norm(x, name):
        x = (x - x.mean()) / math.sqrt(x.var() + 1e-6)
        return x * weights[f"{name}/gamma"] + weights[f"{name}/beta"]

    def linear(x, name):
        return x @ weights[f"{name}/kernel"] + weights[f"{name}/bias"]

    def gelu(x):
        return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))

    def project(x, name, head):
        kernel, bias = weights[f"{name}/kernel"], weights[f"{name}/bias"]
        return x @ kernel[:, head] + bias[head]

    tokens = [weights["tokens/class_token"][0, 0]]
    for i in range(rows):
        for j in range(columns):
            square = image[i * patch : (i + 1) * patch, j * patch : (j + 1) * patch]
            square = (square - 0.5) / 0.25
            kernel = weights["patches/kernel"]
            tokens.append(np.tensordot(square, kernel, 3) + weights["patches/bias"])
    tokens = np.array(tokens) + weights["tokens/position"][0]
    for block in ("block1", "block2"):
        inside = np.array([norm(token, f"{block}_norm1") for token in tokens])
        name = f"{block}_attention"
        maps, out = [], np.zeros_like(tokens)
        for head in range(heads):
            q, k, v = (
                project(inside, f"{name}/{kind}", head)
                for kind in ("query", "key", "value")
            )
            scores = np.exp(q @ k.T / math.sqrt(q.shape[1]))
            scores /= scores.sum(1, keepdims=True)
            maps.append(scores[0, 1:].reshape(rows, columns))
            out += scores @ v @ weights[f"{name}/attention_output/kernel"][head]
        tokens = tokens + out + weights[f"{name}/attention_output/bias"]
        y = np.array([norm(token, f"{block}_norm2") for token in tokens])
        y = linear(gelu(linear(y, f"{block}_mlp1")), f"{block}_mlp2")
        tokens = tokens + y
    final = np.array([norm(token, "final_norm") for token in tokens])
    return {
        "features": final[0],
        "final_norm": final,
        "features_map": inside[1:].reshape(rows, columns, -1),
        "attention": np.array(maps),
    }


def test_forward_in_numpy():
    model = build()
    names = ["features", "final_norm", "features_map"]
    outputs = [model.get_layer(name).output for name in names]
    got = dict(zip(names, keras.Model(model.input, outputs)(images()), strict=True))
    got["attention"] = last_attention(model)(images())
    for i, image in enumerate(images()):
        for name, want in slow(model, image, heads=3).items():
            assert got[name][i].shape == want.shape
            np.testing.assert_allclose(
                got[name][i], want, rtol=1e-3, atol=1e-4, err_msg=name
            )
    assert model.layers[-1].name == "features"


def test_vit_tiny_16_has_the_published_size():
    model = vit_tiny((224, 224, 3), 16)
    assert model.count_params() == 5_717_416 - 193_000  # Less a classifier of 1000.


def test_any_size_changes_nothing_at_its_own_size():
    np.testing.assert_array_equal(build()(images()), build(any_size=True)(images()))


def test_positions_are_interpolated_as_by_pytorch():
    """Twice as many places: its bicubic weights at 1/4 and 3/4, edges repeated."""
    model = build((8, 20, 2), any_size=True)
    tokens = model.get_layer("tokens")
    position = tokens.position.numpy()[0, 1:].reshape(2, 5, 6)
    quarter = [-0.03515625, 0.26171875, 0.87890625, -0.10546875]

    def doubled(x):
        padded = np.concatenate([x[:1], x[:1], x, x[-1:], x[-1:]])
        out = []
        for i in range(len(x)):
            out.append(np.tensordot(quarter, padded[i : i + 4], 1))
            out.append(np.tensordot(quarter[::-1], padded[i + 1 : i + 5], 1))
        return np.array(out)

    want = doubled(doubled(position).transpose(1, 0, 2)).transpose(1, 0, 2)
    got = tokens(tf.zeros([2, 4, 10, 6]))
    np.testing.assert_allclose(got[1, 1:], want.reshape(40, 6), rtol=1e-4, atol=1e-5)
    class_token = tokens.class_token[0, 0] + tokens.position[0, 0]
    np.testing.assert_allclose(got[1, 0], class_token, rtol=1e-6)
    # A crop of 14 x 11 pixels has 3 x 2 patches.
    assert model(images(14, 11)).shape == (2, 6)
    assert last_attention(model)(images(14, 11)).shape == (2, 3, 3, 2)


def test_gradient_reaches_the_features_map_and_no_later_patch():
    model = build()
    names = ["features_map", "final_norm", "features"]
    outputs = [model.get_layer(name).output for name in names]
    with tf.GradientTape() as tape:
        features_map, final, features = keras.Model(model.input, outputs)(images())
        score = tf.reduce_sum(features[:, 0])
    before, after = tape.gradient(score, [features_map, final])
    assert np.abs(before).min(axis=(0, 3)).max() > 1e-6
    assert np.abs(after[:, 0]).max() > 0
    assert np.abs(after[:, 1:]).max() == 0


def test_saved_model_loads_with_all_that_shows_inside(tmp_path):
    backbone = build(any_size=True)
    logits = keras.layers.Dense(3, name="logits")(backbone.output)
    model = keras.Model(backbone.input, logits)
    before = last_attention(model)(images(16, 8))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    np.testing.assert_array_equal(loaded(images(16, 8)), model(images(16, 8)))
    np.testing.assert_array_equal(last_attention(loaded)(images(16, 8)), before)


def test_weights_may_be_handed_over():
    """As a teacher does: all of them, those of the own layers too."""
    model, values = build(), [0.9 * v.numpy() for v in build().trainable_variables]
    got, _ = model.stateless_call(values, [], images())
    model.set_weights(values)
    np.testing.assert_allclose(got, model(images()), rtol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: vit(SHAPE, 5, 6, 1, 3), "8x12 do not divide into patches of 5"),
        (lambda: vit(SHAPE, 16, 6, 1, 3), "8x12 are too small"),
        (lambda: vit(SHAPE, 4, 6, 1, 4), "width 6 does not divide by the 4 heads"),
        (lambda: vit(SHAPE, 4, 6, 0, 3), "depth must be a positive integer"),
        (lambda: last_attention(resnet(SHAPE, (1,), width=4)), "resnet is no ViT"),
    ],
)
def test_wrong_arguments_are_told(call, message):
    with pytest.raises(UserError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
