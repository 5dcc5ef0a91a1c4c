"""The backbones: known sizes, PyTorch's arithmetic, stable names, saving, replicas."""

import functools
from pathlib import Path

import gin
import keras
import numpy as np
import pytest
import tensorflow as tf

from tfssl.models.preact_resnet import preact_resnet18
from tfssl.models.resnet import resnet, resnet18, resnet50
from tfssl.models.wide_resnet import wide_resnet, wrn_40_2
from tfssl.types import UserError

GIN = Path(__file__).parents[2] / "gin" / "models"
CIFAR = (32, 32, 3)
IMAGENET = (224, 224, 3)


def _images(shape, seed=0):
    return np.random.default_rng(seed).random(shape, np.float32)


def _trainable(model):
    return sum(int(np.prod(v.shape)) for v in model.trainable_variables)


def _randomize(model):
    """Gives batch normalisation statistics and weights that matter."""
    rng = np.random.default_rng(1)
    for variable in model.variables:
        if "bn" in variable.path:
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))


def _bindings(file):
    """Builds from a gin file as the programs do: through the macro BACKBONE."""
    gin.parse_config_file(str(GIN / file))
    return gin.query_parameter("BACKBONE/macro.value").scoped_configurable_fn


# Published to the digit for torchvision, the usual CIFAR ResNets and WRN-28-10, as 46.2
# and 2.2 million for WRN-34-10 and WRN-40-2. The slim ResNets are sums over layers.
@pytest.mark.parametrize(
    ("file", "image_shape", "classes", "parameters", "features_map"),
    [
        ("resnet18.gin", CIFAR, 10, 11_173_962, (4, 4, 512)),
        ("resnet34.gin", CIFAR, 10, 21_282_122, (4, 4, 512)),
        ("resnet50.gin", CIFAR, 10, 23_520_842, (4, 4, 2048)),
        ("resnet50_imagenet.gin", IMAGENET, 1000, 25_557_032, (7, 7, 2048)),
        # 11,171,146 and the last batch normalisation, 2 * 512.
        ("preact_resnet18.gin", CIFAR, 10, 11_172_170, (4, 4, 512)),
        ("wrn_28_10.gin", CIFAR, 10, 36_479_194, (8, 8, 640)),
        ("wrn_34_10.gin", CIFAR, 10, 46_160_474, (8, 8, 640)),
        ("wrn_40_2.gin", CIFAR, 10, 2_243_546, (8, 8, 128)),
        ("resnet18_w16.gin", CIFAR, 10, 701_466, (4, 4, 128)),
        ("tiny.gin", (8, 8, 1), 10, 19_706, (4, 4, 32)),
        ("resnet18_any_size.gin", CIFAR, 10, 11_173_962, (None, None, 512)),
        # Published for images of 224 x 224; else 12 (12 d^2 + 13 d) of the blocks, 2 d
        # of the last norm, d of each token and of the class, (3 patch^2 + 1) d.
        ("vit_tiny_p4.gin", CIFAR, 10, 5_362_762, (8, 8, 192)),
        ("vit_small_p4.gin", CIFAR, 10, 21_342_346, (8, 8, 384)),
        ("vit_small_p8.gin", IMAGENET, 1000, 22_055_272, (28, 28, 384)),
        ("vit_small_p16.gin", IMAGENET, 1000, 22_050_664, (14, 14, 384)),
    ],
)
def test_gin_files_give_the_known_networks(
    file, image_shape, classes, parameters, features_map
):
    model = _bindings(file)(image_shape)
    d = features_map[-1]
    assert _trainable(model) + (d + 1) * classes == parameters
    size = image_shape[:2] if features_map[0] else (None, None)
    assert model.input_shape == (None, *size, image_shape[2])
    assert model.get_layer("features_map").output.shape == (None, *features_map)
    assert model.layers[-1].name == "features"
    assert model.output_shape == (None, d)
    assert isinstance(model.layers[1], keras.layers.Normalization)


def test_every_gin_file_is_tested():
    (mark,) = test_gin_files_give_the_known_networks.pytestmark
    tested = {row[0] for row in mark.args[1]} | {"pretrained.gin"}
    assert {p.name for p in GIN.glob("*.gin")} == tested


def test_resnet18_imagenet_has_torchvisions_size():
    assert _trainable(resnet18(IMAGENET, stem="imagenet")) + 513_000 == 11_689_512


@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
def test_any_size_is_the_network_of_each_size(stem):
    build = functools.partial(resnet, blocks=(1, 1), width=4, stem=stem)
    model = build((16, 16, 3), any_size=True)
    _randomize(model)
    for size in ((16, 16), (9, 22)):
        fixed = build((*size, 3))
        fixed.set_weights(model.get_weights())
        image = _images((2, *size, 3))
        np.testing.assert_allclose(model(image), fixed(image), rtol=1e-5)


class _Slow:
    """The networks once more, in numpy, with PyTorch's padding; weights by name."""

    def __init__(self, model):
        self.weights = {v.path: v.numpy() for v in model.variables}

    def conv(self, x, name, stride=1):
        kernel = self.weights[f"{name}/kernel"]
        size = len(kernel)
        p = size // 2
        x = np.pad(x, ((0, 0), (p, p), (p, p), (0, 0)))
        h, w = ((n - size) // stride + 1 for n in x.shape[1:3])
        out = np.zeros((len(x), h, w, kernel.shape[-1]))
        for i in range(h):
            for j in range(w):
                top, left = i * stride, j * stride
                patch = x[:, top : top + size, left : left + size]
                out[:, i, j] = np.tensordot(patch, kernel, 3)
        return out

    def bn(self, x, name):
        gamma, beta, mean, variance = (
            self.weights[f"{name}/{key}"]
            for key in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        return gamma * (x - mean) / np.sqrt(variance + 1e-5) + beta

    def max_pool(self, x):
        x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
        h, w = ((n - 3) // 2 + 1 for n in x.shape[1:3])
        out = np.empty((len(x), h, w, x.shape[-1]))
        for i in range(h):
            for j in range(w):
                patch = x[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
                out[:, i, j] = patch.max((1, 2))
        return out

    def resnet_block(self, x, name, strides):
        out = x
        for i, stride in enumerate(strides, 1):
            out = self.bn(self.conv(out, f"{name}_conv{i}", stride), f"{name}_bn{i}")
            if i < len(strides):
                out = np.maximum(out, 0)
        if f"{name}_shortcut_conv/kernel" in self.weights:
            x = self.conv(x, f"{name}_shortcut_conv", max(strides))
            x = self.bn(x, f"{name}_shortcut_bn")
        return np.maximum(out + x, 0)

    def preact_block(self, x, name, stride):
        out = np.maximum(self.bn(x, f"{name}_bn1"), 0)
        if f"{name}_shortcut_conv/kernel" in self.weights:
            x = self.conv(out, f"{name}_shortcut_conv", stride)
        out = self.conv(out, f"{name}_conv1", stride)
        out = self.conv(np.maximum(self.bn(out, f"{name}_bn2"), 0), f"{name}_conv2")
        return out + x


@pytest.mark.parametrize("size", [(10, 12), (9, 11)])
def test_resnet_of_basic_blocks_in_numpy(size):
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.1)
    model = resnet((*size, 3), (2, 1), width=4, mean=mean, std=std)
    _randomize(model)
    image = _images((2, *size, 3))
    slow = _Slow(model)
    x = slow.conv((image - mean) / std, "stem_conv")
    x = np.maximum(slow.bn(x, "stem_bn"), 0)
    x = slow.resnet_block(x, "stage1_block1", (1, 1))
    x = slow.resnet_block(x, "stage1_block2", (1, 1))
    x = slow.resnet_block(x, "stage2_block1", (2, 1))
    np.testing.assert_allclose(model(image), x.mean((1, 2)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [(24, 32), (19, 21)])
def test_resnet_of_bottlenecks_with_the_imagenet_stem_in_numpy(size):
    model = resnet((*size, 1), (1, 1), bottleneck=True, width=4, stem="imagenet")
    _randomize(model)
    image = _images((2, *size, 1))
    slow = _Slow(model)
    x = slow.conv((image - 0.5) / 0.25, "stem_conv", 2)
    x = slow.max_pool(np.maximum(slow.bn(x, "stem_bn"), 0))
    x = slow.resnet_block(x, "stage1_block1", (1, 1, 1))
    x = slow.resnet_block(x, "stage2_block1", (1, 2, 1))
    np.testing.assert_allclose(model(image), x.mean((1, 2)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [(10, 12), (9, 11)])
def test_wide_resnet_in_numpy(size):
    model = wide_resnet((*size, 1), depth=10, widen_factor=2, width=4)
    _randomize(model)
    image = _images((2, *size, 1))
    slow = _Slow(model)
    x = slow.conv((image - 0.5) / 0.25, "stem_conv")
    for stage, stride in ((1, 1), (2, 2), (3, 2)):
        x = slow.preact_block(x, f"stage{stage}_block1", stride)
    x = np.maximum(slow.bn(x, "final_bn"), 0)
    np.testing.assert_allclose(model(image), x.mean((1, 2)), rtol=1e-4, atol=1e-4)


def test_preact_resnet18_in_numpy():
    model = preact_resnet18((8, 8, 1), width=4)
    _randomize(model)
    image = _images((2, 8, 8, 1))
    slow = _Slow(model)
    x = slow.conv((image - 0.5) / 0.25, "stem_conv")
    for stage, stride in ((1, 1), (2, 2), (3, 2), (4, 2)):
        x = slow.preact_block(x, f"stage{stage}_block1", stride)
        x = slow.preact_block(x, f"stage{stage}_block2", 1)
    x = np.maximum(slow.bn(x, "final_bn"), 0)
    np.testing.assert_allclose(model(image), x.mean((1, 2)), rtol=1e-4, atol=1e-4)


def test_kernels_are_he_normal_and_unlike_one_another():
    keras.utils.set_random_seed(0)
    model = resnet(CIFAR, (2, 1), width=64)
    widening = model.get_layer("stage2_block1_conv1").kernel.numpy()
    assert widening.std() == pytest.approx(np.sqrt(2 / (9 * 128)), rel=0.02)
    first, second = (
        model.get_layer(f"stage1_block{i}_conv1").kernel.numpy() for i in (1, 2)
    )
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.05
    keras.utils.set_random_seed(0)
    again = resnet(CIFAR, (2, 1), width=64).get_layer("stage1_block1_conv1").kernel
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize(
    "build",
    [
        lambda: resnet((8, 8, 1), (1, 2), bottleneck=True, width=4),
        lambda: preact_resnet18((8, 8, 1), width=4),
        lambda: wide_resnet((8, 8, 1), 10, 1),
    ],
)
def test_names_are_the_same_on_each_build(build):
    first, second = build(), build()
    paths = [v.path for v in first.variables]
    assert paths == [v.path for v in second.variables]
    assert len(set(paths)) == len(paths)
    assert [x.name for x in first.layers] == [x.name for x in second.layers]


def test_saved_model_needs_only_keras(tmp_path):
    std = (0.2, 0.3, 0.4)
    model = resnet(
        CIFAR, (1, 1), width=4, stem="imagenet", mean=(0.4, 0.5, 0.6), std=std
    )
    _randomize(model)
    assert all(type(x).__module__.startswith("keras.") for x in model.layers)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    image = _images((2, *CIFAR))
    np.testing.assert_array_equal(model(image), loaded(image))


def test_two_replicas_normalise_over_the_global_batch(tmp_path, two_replicas):
    # The replicas' images differ in mean and contrast, so that local statistics would.
    image = np.concatenate([_images((4, 8, 8, 1)), 0.2 * _images((4, 8, 8, 1), 1)])
    one = resnet((8, 8, 1), (1, 1), width=4)
    strategy = two_replicas
    with strategy.scope():
        two = resnet((8, 8, 1), (1, 1), width=4)
    two.set_weights(one.get_weights())

    parts = strategy.experimental_distribute_values_from_function(
        lambda c: tf.constant(np.split(image, 2)[c.replica_id_in_sync_group])
    )
    run = tf.function(lambda x: strategy.run(two, (x,), {"training": True}))
    outputs = tf.concat(strategy.experimental_local_results(run(parts)), 0)

    np.testing.assert_allclose(outputs, one(image, training=True), rtol=1e-3, atol=1e-4)
    stem = keras.Model(one.input, one.get_layer("stem_conv").output)
    moved = 0.1 * np.mean(stem(image), (0, 1, 2))  # PyTorch's momentum, from 0.
    np.testing.assert_allclose(one.get_layer("stem_bn").moving_mean, moved, atol=1e-6)
    for v, w in zip(one.variables, two.variables, strict=True):
        copies = strategy.experimental_local_results(w.value)
        assert len(copies) == 2
        for copy in copies:
            np.testing.assert_allclose(copy, v, rtol=1e-4, atol=1e-5, err_msg=v.path)
    two.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded(image), one(image), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: resnet50((28, 28, 1), stem="imagenet"), "28x28 are too small"),
        (lambda: wrn_40_2((32, 3, 3)), "32x3 are too small"),
        (lambda: resnet18((32, 32)), "three numbers"),
        (lambda: resnet18(CIFAR, width=0), "width must be a positive integer, not 0"),
        (lambda: preact_resnet18(CIFAR, width=1.5), "width must be"),
        (lambda: resnet(CIFAR, 2), "one for each stage"),
        (lambda: resnet(CIFAR, (2, 0)), "one for each stage"),
        (lambda: resnet18(CIFAR, stem="large"), "not 'large'"),
        (lambda: wide_resnet(CIFAR, 30, 1), "6n \\+ 4"),
        (lambda: resnet18(CIFAR, mean=(0.5, 0.5)), "mean has 2 numbers"),
        (lambda: resnet18(CIFAR, std=0.0), "std must be positive"),
    ],
)
def test_wrong_arguments_are_told(build, message):
    with pytest.raises(UserError, match=message) as error:
        build()
    assert "\n" not in str(error.value)
