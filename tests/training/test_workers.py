"""Two workers, two processes that talk over loopback, against one."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from loopback import tf_configs
from methods import assert_equal, trained
from on_worker import RATE, STEPS, run_with_files

from tfssl import distribute, files
from tfssl.models.resnet import resnet
from tfssl.signals import Stop
from tfssl.types import Stopped, UserError

HERE = Path(__file__).parent
SOME = ["rotation_both", "byol"]
OTHERS = ["adversarial", "trades", "simclr", "barlow_twins", "swav", "dino"]
OTHERS += ["acl_in_parts"]


def workers(out, arguments, count=2):
    """Starts on_worker.py as each of the workers of a cluster."""
    started = []
    for i, config in enumerate(tf_configs(count)):
        environment = {
            **os.environ,
            "TF_CONFIG": config,
            "TF_NUM_INTRAOP_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "-1",
        }
        with (out / f"worker{i}.log").open("wb") as log:
            started.append(
                subprocess.Popen(
                    [sys.executable, HERE / "on_worker.py", out, *arguments],
                    env=environment,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            )
    return started


def saved_model(path):
    keras.utils.set_random_seed(3)
    network = resnet((8, 8, 1), (1,), width=8)
    logits = keras.layers.Dense(10, name="logits")(network.output)
    keras.Model(network.input, logits).save(path)


def compare(tmp_path, methods):
    two, one = tmp_path / "two", tmp_path / "one"
    for folder in (two, one):
        folder.mkdir()
    saved_model(two / "model.keras")
    started = workers(two, methods)
    codes = [process.wait(600) for process in started]
    assert codes == [0, 0], (two / "worker0.log").read_text()[-2000:]

    default = tf.distribute.get_strategy()
    for method in methods:
        with np.load(two / f"{method}.npz") as arrays:
            values = dict(arrays)
        logs = json.loads(str(values.pop("logs")))
        assert_equal(trained(method, default, STEPS, RATE), (logs, values))

    rows = run_with_files(one, two / "model.keras")
    assert json.loads((two / "rows.json").read_text()) == rows
    assert rows[0][3] == 300
    found, expected = (
        list(csv.DictReader((folder / "run" / "metrics.csv").open()))
        for folder in (two, one)
    )
    for a, b in zip(found, expected, strict=True):
        del a["images_per_second"], b["images_per_second"]
        assert a.keys() == b.keys()
        for name, value in a.items():
            # Of 100 examples rounding may turn one.
            flip = 0.01 if name.startswith("accuracy") else 0.0
            np.testing.assert_allclose(
                float(value), float(b[name]), rtol=1e-3, atol=flip, err_msg=name
            )
    weights = [
        keras.saving.load_model(folder / "run" / "model.keras").get_weights()
        for folder in (two, one)
    ]
    for a, b in zip(*weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_two_workers_equal_one(tmp_path):
    """Weights, statistics, logs and files of training; tables of evaluation."""
    compare(tmp_path, SOME)


@pytest.mark.slow
def test_two_workers_equal_one_for_other_methods(tmp_path):
    compare(tmp_path, OTHERS)


@pytest.mark.parametrize(
    ("environment", "kind", "message"),
    [
        ({}, "slurm", "describes no cluster"),
        ({"TF_CONFIG": "{"}, "auto", "describes no cluster"),
        (
            {"TF_CONFIG": '{"cluster": {"ps": ["a:1"]}}'},
            "auto",
            "alone, not ps",
        ),
        ({}, "mpi", "is one of auto, none, slurm, tf_config"),
    ],
)
def test_no_cluster(monkeypatch, environment, kind, message):
    for name in ("TF_CONFIG", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message):
        distribute.join_cluster(kind)


def test_a_single_task_is_no_cluster(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", '{"cluster": {"worker": ["a:1"]}}')
    distribute.join_cluster()
    assert distribute.workers() == 1
    assert distribute.is_chief()


def test_slurm_names_the_workers(monkeypatch):
    """Two hosts of two tasks each: the resolver reads what srun sets."""
    for name, value in {
        "SLURM_STEP_NUM_TASKS": "4",
        "SLURM_STEP_NODELIST": "node[1-2]",
        "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
        "SLURM_PROCID": "3",
        "CUDA_VISIBLE_DEVICES": "",
    }.items():
        monkeypatch.setenv(name, value)
    resolver = distribute._slurm(9000)
    assert resolver.cluster_spec().as_dict() == {
        "worker": ["node1:9000", "node1:9001", "node2:9000", "node2:9001"]
    }
    assert resolver.task_id == 3


def lost(stop=None):
    with distribute.in_one_line(stop):
        raise tf.errors.UnavailableError(None, None, "Socket closed\nand more")


def lost_while_reading():
    with distribute.in_one_line():
        try:
            raise tf.errors.UnavailableError(None, None, "Socket closed")
        except tf.errors.OpError:
            raise UserError("cannot read a file") from None


def test_another_worker_is_gone(monkeypatch):
    """It is an error, and the end of a worker that had been asked to end as well."""
    with pytest.raises(tf.errors.UnavailableError):  # Of no cluster.
        lost()
    monkeypatch.setattr(distribute, "_cluster", object())
    stop = Stop()
    with pytest.raises(UserError, match=r"another worker is gone.*\(Socket closed\)"):
        lost(stop)
    with pytest.raises(UserError, match="another worker is gone"):
        lost_while_reading()
    with pytest.raises(UserError, match="a mistake"), distribute.in_one_line():
        raise UserError("a mistake")
    stop.asked = "SIGTERM"
    with pytest.raises(Stopped, match="stopped by SIGTERM"):
        lost(stop)


def test_who_waits_for_others_ends():
    """By itself, and at once if it is told to."""
    config = tf_configs(2)[0]
    program = (
        "from tfssl import distribute; import signal\n"
        "signal.signal(signal.SIGINT, lambda *_: None)\n"
        "print('ready', flush=True); distribute.join_cluster(timeout={})"
    )
    ends = []
    for timeout in (1, 100):
        process = subprocess.Popen(
            [sys.executable, "-c", program.format(timeout)],
            env={**os.environ, "TF_CONFIG": config, "CUDA_VISIBLE_DEVICES": "-1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        process.stdout.readline()
        while timeout == 100 and process.poll() is None:
            process.send_signal(signal.SIGINT)  # Once it waits, nothing takes that.
            time.sleep(0.1)
        ends.append((process.wait(60), process.stderr.read()))
    assert ends[0][0] == 1
    assert "Timeout (0:00:01)!" in ends[0][1]
    assert "in join_cluster" in ends[0][1]
    assert ends[1][0] == -signal.SIGINT, ends[1][1]


def test_what_is_dropped_changes_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_drop", True)
    kept = tmp_path / "kept.txt"
    kept.write_text("before")
    with files.replacing(kept) as path:
        path.write_text("after")
    with files.replacing(tmp_path / "folder" / "new.txt") as path:
        path.write_text("new")
    assert [p.name for p in tmp_path.iterdir()] == ["kept.txt"]
    assert kept.read_text() == "before"
