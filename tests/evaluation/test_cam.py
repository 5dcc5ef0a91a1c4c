"""Grad-CAM: closed forms, finite differences, a place that is known."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfssl.evaluation import cam
from tfssl.models.resnet import resnet
from tfssl.models.vit import last_attention, vit
from tfssl.types import UserError


def images(*shape, seed=0):
    return tf.constant(np.random.default_rng(seed).random(shape, np.float32))


def randomised(model, scale=0.5):
    rng = np.random.default_rng(1)
    for v in model.weights:
        low = 0.5 if "variance" in v.path else -scale
        v.assign(rng.uniform(low, low + 2 * scale, v.shape))
    return model


def maps(model, *arguments):
    # In eager mode TensorFlow 2.21 corrupts memory in gradients of convolutions of so
    # few channels (oneDNN).
    return tf.function(lambda *x: cam.maps(model, *x))(*arguments)


def with_head(backbone, *hidden, classes=4):
    x = backbone.output
    for units in hidden:
        x = keras.layers.Dense(units, "tanh")(x)
    x = keras.layers.Dense(classes, name="logits")(x)
    return randomised(keras.Model(backbone.input, x))


def outputs(model, *names, image):
    layers = {name: model.get_layer(name).output for name in names}
    found = keras.Model(model.input, layers)(image)
    return [found[name].numpy() for name in names]


def expected(features, gradients):
    """Eq. 1 and 2, a pixel at a time."""
    height, width, channels = features.shape
    alpha = [gradients[..., k].sum() / (height * width) for k in range(channels)]
    heat = np.zeros([height, width])
    for i in range(height):
        for j in range(width):
            total = sum(alpha[k] * features[i, j, k] for k in range(channels))
            heat[i, j] = max(0, total)
    return heat / heat.max() if heat.max() > 0 else heat


def test_pooling_and_a_linear_head_give_the_class_activation_map():
    model = with_head(resnet((16, 16, 3), (1, 1), width=4))
    image, target = images(5, 16, 16, 3), tf.constant([0, 1, 2, 3, 0])
    (features,) = outputs(model, "features_map", image=image)
    kernel = model.get_layer("logits").kernel.numpy()
    got = maps(model, image, target)
    assert got.shape == (5, 8, 8)
    assert got.dtype == tf.float32
    for i in range(5):
        gradients = np.broadcast_to(kernel[:, target[i]] / 64, features[i].shape)
        np.testing.assert_allclose(
            got[i], expected(features[i], gradients), rtol=1e-4, atol=1e-5
        )
    assert 0 < np.mean(got == 0) < 1  # Both sides of the ReLU were seen.


def test_a_head_of_layers_against_finite_differences():
    model = with_head(resnet((8, 8, 1), (1,), width=3), 6)
    image, target = images(3, 8, 8, 1), [2, 0, 1]
    (features,) = outputs(model, "features_map", image=image)
    rest = keras.Model(model.get_layer("features_map").output, model.output)
    got = maps(model, image, tf.constant(target))
    for i in range(3):
        gradients = np.zeros_like(features[i])
        for place in np.ndindex(gradients.shape):
            step = np.zeros_like(features[i])
            step[place] = 0.3  # Pooling makes it 0.3 / 64.
            up, down = rest(np.stack([features[i] + step, features[i] - step])).numpy()
            gradients[place] = (up - down)[target[i]] / 0.6
        np.testing.assert_allclose(
            got[i], expected(features[i], gradients), rtol=1e-2, atol=1e-3
        )


def test_a_vit_against_finite_differences():
    """A step of what the last attention reads; the sum around it stays."""
    backbone = vit((8, 12, 2), patch=4, width=6, depth=2, heads=2, last_blocks=2)
    model = with_head(backbone)
    image, target = images(2, 8, 12, 2), [3, 1]
    names = ("block1_add2", "block2_norm1", "block1_class_token", "features_map")
    before, inside, earlier, features = outputs(model, *names, image=image)
    layer = model.get_layer

    def rest(i, tokens):
        x = before[i] + layer("block2_attention")(tokens, tokens)
        y = layer("block2_mlp1")(layer("block2_norm2")(x))
        x = layer("final_norm")(x + layer("block2_mlp2")(y))
        token = np.repeat(earlier[i], len(tokens), 0)
        return layer("logits")(tf.concat([token, x[:, 0]], 1)).numpy()

    np.testing.assert_allclose(rest(0, inside[:1]), model(image)[:1], rtol=1e-4)
    got = maps(model, image, tf.constant(target))
    assert got.shape == (2, 2, 3)
    for i in range(2):
        steps = np.zeros([6 * 6, 7, 6], np.float32)
        steps[:, 1:] = 1e-2 * np.eye(36).reshape(36, 6, 6)
        change = rest(i, inside[i] + steps) - rest(i, inside[i] - steps)
        gradients = change[:, target[i]].reshape(2, 3, 6) / 2e-2
        want = expected(features[i], gradients)
        np.testing.assert_allclose(got[i], want, rtol=1e-2, atol=1e-3)
    assert np.max(got) == 1


def detector(size=24):
    """Class 1 is a cross, of which there is a detector, class 0 all else."""
    cross = np.array([[1, -1, 1], [-1, 1, -1], [1, -1, 1]], np.float32)
    image = keras.Input((size, size, 1))
    x = keras.layers.Conv2D(
        1, 3, padding="same", activation="relu", name="features_map"
    )
    features = x(image)
    pooled = keras.layers.GlobalAveragePooling2D(name="features")(features)
    logits = keras.layers.Dense(2, name="logits")(pooled)
    model = keras.Model(image, logits)
    x.set_weights([cross[..., None, None], np.array([-4.5])])
    model.get_layer("logits").set_weights(
        [np.array([[-1.0, 1.0]]), np.array([1e-4, 0])]
    )
    return model


def test_what_is_seen_lies_where_it_is():
    model = detector()
    places = [(3, 5), (20, 11), (12, 12)]
    image = np.zeros([4, 24, 24, 1], np.float32)
    for i, (row, column) in enumerate(places):
        for di, dj in ((-1, -1), (-1, 1), (0, 0), (1, -1), (1, 1)):
            image[i, row + di, column + dj] = 1
    got = maps(model, tf.constant(image), tf.ones([4], tf.int32)).numpy()
    for i, place in enumerate(places):
        want = np.zeros([24, 24])
        want[place] = 1
        np.testing.assert_array_equal(got[i], want)
    # Nothing is there, and nothing speaks for class 0.
    np.testing.assert_array_equal(got[3], 0)
    other = maps(model, tf.constant(image), tf.zeros([4], tf.int32))
    np.testing.assert_array_equal(other, 0)
    # Without a target it is what the model sees: the cross, and no cross.
    np.testing.assert_array_equal(maps(model, tf.constant(image)), got)


@pytest.mark.parametrize("trainable", [True, False])
def test_frozen_and_one_at_a_time(trainable):
    model = with_head(resnet((16, 16, 3), (1, 1), width=4), 5)
    image, target = images(3, 16, 16, 3), tf.constant([1, 3, 2], tf.int64)
    want = maps(model, image, target)
    model.trainable = trainable
    before = model.get_weights()
    run = tf.function(lambda *x: cam.maps(model, *x))
    np.testing.assert_allclose(run(image, target), want, rtol=1e-4, atol=1e-5)
    for i in range(3):
        one = run(image[i : i + 1], target[i : i + 1])
        np.testing.assert_allclose(one[0], want[i], rtol=1e-3, atol=1e-4)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    predicted = tf.argmax(model(image), axis=1)
    np.testing.assert_array_equal(maps(model, image), maps(model, image, predicted))


def test_images_of_any_size():
    model = with_head(resnet((16, 16, 3), (1, 1), width=4, any_size=True))
    assert maps(model, images(2, 10, 20, 3)).shape == (2, 5, 10)


def test_attention_is_averaged_over_heads():
    model = randomised(vit((8, 12, 2), patch=4, width=6, depth=2, heads=3))
    attention = last_attention(model)
    image = images(2, 8, 12, 2)
    heads = attention(image).numpy().mean(1)
    want = heads / heads.max((1, 2), keepdims=True)
    np.testing.assert_allclose(cam.attention_maps(attention, image), want, rtol=1e-5)


def test_resizing_is_bilinear():
    heat = tf.constant([[[0.0, 1.0]]])
    got = cam.resize(heat, (2, 4))
    np.testing.assert_allclose(got, [2 * [[0, 0.25, 0.75, 1]]])
    np.testing.assert_array_equal(cam.resize(got, (2, 4)), got)


def test_models_without_a_map_or_logits_are_told(make_model):
    with pytest.raises(UserError, match="has no layer called features_map"):
        cam.maps(make_model(), images(1, 8, 8, 1))
    with pytest.raises(UserError, match="is an encoder"):
        cam.maps(resnet((8, 8, 1), (1,), width=2), images(1, 8, 8, 1))
    image = keras.Input((8, 8, 1))
    x = keras.ops.stop_gradient(keras.layers.ReLU(name="features_map")(image))
    cut = keras.Model(image, keras.layers.Dense(2)(keras.layers.Flatten()(x)))
    with pytest.raises(UserError, match="do not depend on features_map"):
        cam.maps(cut, images(1, 8, 8, 1))
