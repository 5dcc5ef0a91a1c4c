"""Shared by all tests: two logical CPU devices, and gin cleared around each test."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # As in tfssl.cli.app.
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import importlib.util  # noqa: F401  gin 0.5.0 uses it without importing it

import gin
import pytest
import tensorflow as tf

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0],
    [tf.config.LogicalDeviceConfiguration()] * 2,
)


def pytest_addoption(parser):
    parser.addoption("--run_slow", action="store_true", help="Also run the slow tests.")
    parser.addoption(
        "--run_torch", action="store_true", help="Also run the tests with PyTorch."
    )
    parser.addoption(
        "--run_ray", action="store_true", help="Also run the tests with Ray."
    )
    parser.addoption(
        "--run_browser", action="store_true", help="Also run the tests with Chromium."
    )


def pytest_collection_modifyitems(config, items):
    for kind in ("slow", "torch", "ray", "browser"):
        if config.getoption(f"--run_{kind}"):
            continue
        skip = pytest.mark.skip(reason=f"{kind}: use --run_{kind}")
        for item in items:
            if kind in item.keywords:
                item.add_marker(skip)


@pytest.fixture(autouse=True)
def _clear_gin():
    gin.clear_config()
    yield
    gin.clear_config()


@pytest.fixture(scope="session")
def two_replicas():
    """One for all tests: TensorFlow confuses the reductions of several strategies that
    one process makes on the same devices."""
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
