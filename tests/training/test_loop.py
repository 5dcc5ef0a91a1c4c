"""The loop: resuming, guards, selection, on the digits."""

import csv
import functools
import json
import resource

import gin
import keras
import numpy as np
import pytest
import tensorflow as tf

from tfssl.attacks.balls import Linf
from tfssl.attacks.pgd import PGD
from tfssl.data import digits  # noqa: F401  registers the data set
from tfssl.data.augmentation import PadCrop
from tfssl.data.dataset import Dataset
from tfssl.models.resnet import resnet
from tfssl.objectives.classification import Classification
from tfssl.objectives.rotation import Rotation
from tfssl.signals import Stop
from tfssl.training import guards, loop, optimizers, schedules
from tfssl.training.term import Term
from tfssl.training.trainer import Trainer
from tfssl.types import Stopped, UserError

STEPS_PER_EPOCH = 4


@pytest.fixture(scope="module")
def dataset():
    return Dataset("digits:1.0.0", validation=100, num_examples=130)


@pytest.fixture
def train(dataset):
    def run(run_dir, **settings):
        terms = [
            Term(Classification(), 1.0, "adv", 1.0),
            Term(Rotation(), 0.5, "adv", 0.5),
        ]
        defaults = {
            "name": "test",
            "dataset": dataset,
            "augment": [PadCrop(1)],
            "backbone": functools.partial(resnet, blocks=(1,), width=4),
            "terms": terms,
            "attack": PGD(Linf(), 0.1, steps=2),
            "optimizer": optimizers.sgd,
            "schedule": schedules.one_cycle,
            "learning_rate": 0.05,
            "epochs": 2,
            "batch_size": 32,
            "trainer": functools.partial(Trainer, ema_decay=0.9),
        }
        loop.train(run_dir, **{**defaults, **settings})

    return run


@pytest.fixture
def train_plainly(train):
    """For what has nothing to do with terms and attacks: its graphs are soon made."""

    def run(run_dir, **settings):
        train(
            run_dir,
            **{"terms": [Term(Classification())], "attack": None, **settings},
        )

    return run


def weights(run_dir):
    return keras.saving.load_model(run_dir / "model.keras").get_weights()


def metrics(run_dir):
    with (run_dir / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        del row["images_per_second"]
    return rows


class Killed(Exception):
    pass


def killed(*arguments):
    raise Killed


def killed_at(step, monkeypatch):
    """Makes the loop die while it handles the batch of a step."""
    count = 0

    def progress(self):
        nonlocal count
        count += 1
        if count == step:
            raise Killed

    monkeypatch.setattr(loop.tqdm, "update", progress)


class Clock(Classification):
    """Its loss is how much the views' time is off from that of the step."""

    name = "clock"

    def loss(self, forward, views, batch):
        return tf.abs(tf.cast(batch["done"], tf.float32) - batch["progress"])


def test_views_know_the_time_also_once_resumed(train, tmp_path, monkeypatch):
    settings = {
        "terms": [Term(Classification()), Term(Clock())],
        "attack": None,
        "views": lambda image, seed, progress: {
            "done": tf.repeat(progress, tf.shape(image)[0])
        },
        "log_every": 1,
    }
    with monkeypatch.context() as patch:
        killed_at(6, patch)
        with pytest.raises(Killed):
            train(tmp_path, **settings)
    train(tmp_path, **settings)
    off = [float(row["loss/clock"]) for row in metrics(tmp_path)]
    assert off == pytest.approx([0] * 2 * STEPS_PER_EPOCH, abs=1e-6)


@pytest.mark.parametrize("step", [3, 5])
def test_resumed_run_equals_undisturbed_run(train, tmp_path, monkeypatch, step):
    train(tmp_path / "whole", log_every=2)
    with monkeypatch.context() as patch:
        killed_at(step, patch)
        with pytest.raises(Killed):
            train(tmp_path / "killed", log_every=2)
    assert not (tmp_path / "killed" / "model.keras").exists()
    train(tmp_path / "killed", log_every=2)
    for got, want in zip(
        weights(tmp_path / "killed"), weights(tmp_path / "whole"), strict=True
    ):
        np.testing.assert_allclose(got, want, atol=1e-6)
    assert len(metrics(tmp_path / "killed")) == 4
    for got, want in zip(
        metrics(tmp_path / "killed"), metrics(tmp_path / "whole"), strict=True
    ):
        assert got.keys() == want.keys()
        for name, value in want.items():
            assert float(got[name]) == pytest.approx(float(value), rel=1e-4), name


def test_seed_decides(train, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(tmp_path / name, seed=seed, epochs=1)
    a, b, c = (weights(tmp_path / name)[0] for name in "abc")
    np.testing.assert_allclose(a, b, atol=1e-6)
    assert not np.allclose(a, c, atol=1e-3)


def test_finished_run_is_not_trained_again(train, tmp_path):
    train(tmp_path, epochs=1)
    before = (tmp_path / "model.keras").stat().st_mtime_ns
    train(tmp_path, epochs=1)
    assert (tmp_path / "model.keras").stat().st_mtime_ns == before


def test_corrupt_checkpoint_falls_back_and_says_so(
    train, tmp_path, monkeypatch, caplog
):
    train(tmp_path / "whole")
    with monkeypatch.context() as patch:
        killed_at(2 * STEPS_PER_EPOCH, patch)
        with pytest.raises(Killed):
            train(tmp_path / "killed", log_every=2)
    data = sorted((tmp_path / "killed/checkpoints").glob("*-6.data*"))
    assert len(data) == 1
    data[0].write_bytes(data[0].read_bytes()[:100])
    with caplog.at_level("WARNING", logger="absl"):
        train(tmp_path / "killed", log_every=2)
    assert "cannot be read" in caplog.text
    for got, want in zip(
        weights(tmp_path / "killed"), weights(tmp_path / "whole"), strict=True
    ):
        np.testing.assert_allclose(got, want, atol=1e-6)


def test_a_flipped_byte_in_a_checkpoint_is_noticed(
    train_plainly, tmp_path, monkeypatch, caplog
):
    """By TensorFlow's own checksums, wherever it is: the one before is taken."""
    with monkeypatch.context() as patch:
        killed_at(6, patch)
        with pytest.raises(Killed):
            train_plainly(tmp_path, log_every=2)
    path = str(tmp_path / "checkpoints" / "ckpt-4")
    keys = [key for key, _ in tf.train.list_variables(path)]
    data = tmp_path / "checkpoints" / "ckpt-4.data-00000-of-00001"
    whole = data.read_bytes()
    for place in np.linspace(0, len(whole) - 1, 20, dtype=int):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        data.write_bytes(damaged)
        with pytest.raises(tf.errors.OpError, match=r"[Cc]hecksum"):
            [tf.train.load_variable(path, key) for key in keys]
    with caplog.at_level("INFO", logger="absl"):
        train_plainly(tmp_path, log_every=2)
    assert "ckpt-4 cannot be read" in caplog.text
    assert "at step 2 of 8" in caplog.text


def test_no_readable_checkpoint_is_an_error(train, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        killed_at(STEPS_PER_EPOCH + 1, patch)
        with pytest.raises(Killed):
            train(tmp_path)
    for data in (tmp_path / "checkpoints").glob("*.data*"):
        data.write_bytes(b"")
    with pytest.raises(UserError, match="none of the checkpoints"):
        train(tmp_path)


def test_nan_stops_and_keeps_the_last_good_checkpoint(train, dataset, tmp_path):
    """The loss of the rotation term is NaN from the step after the first epoch."""

    class Breaks(Rotation):
        def loss(self, forward, views, batch):
            loss = super().loss(forward, views, batch)
            # The counter moves once a step: the term is in the update alone.
            late = counter.assign_add(1) > STEPS_PER_EPOCH + 2
            return tf.where(late, tf.constant(np.nan), loss)

    counter = tf.Variable(0)
    with pytest.raises(UserError) as error:
        train(tmp_path, terms=[Term(Classification()), Term(Breaks())], attack=None)
    message = str(error.value).splitlines()[0]
    assert "loss/rotation became nan at step 7" in message
    assert "checkpoint of step 4" in message
    batch = next(iter(dataset.train_batches(32, 0, 6)))
    ids = batch["id"].numpy().tolist()
    assert f"has the examples {', '.join(map(str, ids[:8]))} and 24 more" in message
    record = json.loads((tmp_path / "nonfinite.json").read_text())
    assert record["ids"] == ids
    assert record["numbers"] == ["loss/rotation"]
    assert not (tmp_path / "model.keras").exists()


def test_stopped_between_rows(train_plainly, tmp_path):
    """Asked to stop, it keeps a checkpoint; rows are those of an undisturbed run."""
    train_plainly(tmp_path / "whole")
    stop = Stop()
    stop.asked = "SIGTERM"
    for step in (1, 2):
        with pytest.raises(Stopped, match=f"stopped by SIGTERM at step {step} of 8"):
            train_plainly(tmp_path / "stopped", stop=stop)
    train_plainly(tmp_path / "stopped")
    for got, want in zip(
        *(metrics(tmp_path / name) for name in ("stopped", "whole")), strict=True
    ):
        assert got.keys() == want.keys()
        for name, value in want.items():
            assert float(got[name]) == pytest.approx(float(value), rel=1e-4), name


def test_checkpoints_by_time_are_between_rows_and_never_of_a_nan(
    train_plainly, tmp_path, monkeypatch
):
    train_often = functools.partial(train_plainly, checkpoint_seconds=1e-9)
    with monkeypatch.context() as patch:
        killed_at(4, patch)
        with pytest.raises(Killed):
            train_often(tmp_path / "killed")
    assert not (tmp_path / "killed" / "metrics.csv").exists()
    names = {path.stem for path in (tmp_path / "killed/checkpoints").glob("*.index")}
    assert names == {"ckpt-2", "ckpt-3"}

    class Breaks(Classification):
        def loss(self, forward, views, batch):
            loss = super().loss(forward, views, batch)
            return tf.where(counter.assign_add(1) > 2, tf.constant(np.inf), loss)

    counter = tf.Variable(0)
    with pytest.raises(
        UserError, match=r"became inf at step 3;.*of step 2 is the last"
    ):
        train_often(tmp_path / "infinite", terms=[Term(Breaks())])


def test_a_full_disk_is_said_in_one_line_and_costs_nothing(train_plainly, tmp_path):
    """Files may grow to 6 kB, which is less than a checkpoint."""
    settings = {"validation": Scripted([0.1] * 4), "select": "robust"}
    for name, more, message in (
        ("a", {}, r"cannot write the checkpoint of step 4 .*there is none yet"),
        ("b", settings, r"best-4\.keras"),
    ):
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (6_000, hard))
        try:
            with pytest.raises((UserError, OSError), match=message):
                train_plainly(tmp_path / name, **more)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        left = [path.name for path in (tmp_path / name / "checkpoints").iterdir()]
        assert [name for name in left if name != "checkpoint"] == []
        train_plainly(tmp_path / name, **more)
        assert (tmp_path / name / "model.keras").exists()


class Scripted:
    """A validation that says what it was told to, and remembers the weights."""

    def __init__(self, values):
        self.values = list(values)
        self.seen = []

    def prepare(self, model, dataset):
        return ["robust"]

    def __call__(self, model, dataset):
        self.seen.append([w.copy() for w in model.get_weights()])
        return {"robust": self.values[len(self.seen) - 1]}


def test_best_weights_are_exported(train, tmp_path):
    validation = Scripted([0.1, 0.3, 0.2])
    train(tmp_path, epochs=3, validation=validation, select="robust")
    for got, want in zip(weights(tmp_path), validation.seen[1], strict=True):
        np.testing.assert_array_equal(got, want)
    assert [row["validation/robust"] for row in metrics(tmp_path)] == [
        *("0.1", "0.3", "0.2")
    ]
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["selected_step"] == 2 * STEPS_PER_EPOCH


def test_patience(train, tmp_path):
    validation = Scripted([0.3, 0.2, 0.1, 0.9])
    train(tmp_path, epochs=4, validation=validation, select="robust", patience=2)
    assert len(validation.seen) == 3


def test_run_that_stopped_stops_again(train, tmp_path, monkeypatch):
    """Killed between the early stop and the export, it exports the same weights."""
    settings = {"epochs": 6, "select": "robust", "patience": 2}
    values = [0.3, 0.2, 0.1, 0.9, 0.9, 0.9]
    with monkeypatch.context() as patch:
        patch.setattr(loop.Selection, "export", killed)
        with pytest.raises(Killed):
            train(tmp_path, validation=Scripted(values), **settings)
    train(tmp_path, validation=Scripted(values[3:]), **settings)
    assert [float(row["validation/robust"]) for row in metrics(tmp_path)] == values[:3]
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["selected_step"] == STEPS_PER_EPOCH


def test_patience_waits_for_a_validation(train, tmp_path):
    validation = Scripted([0.1, 0.2])
    settings = {"validate_every": 2, "patience": 2, "select": "robust"}
    train(tmp_path, epochs=3, validation=validation, **settings)
    steps = [int(row["step"]) for row in metrics(tmp_path) if row["validation/robust"]]
    assert steps == [2 * STEPS_PER_EPOCH, 3 * STEPS_PER_EPOCH]


def test_selected_weights_must_be_there(train, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(loop.Selection, "export", killed)
        with pytest.raises(Killed):
            train(tmp_path, validation=Scripted([0.1, 0.2]), select="robust")
    best = tmp_path / "checkpoints" / f"best-{2 * STEPS_PER_EPOCH}.keras"
    whole = bytearray(best.read_bytes())
    whole[len(whole) // 2] ^= 1
    for damaged in (whole, whole[:1000]):
        best.write_bytes(damaged)
        with pytest.raises(UserError, match=r"best-8\.keras.*cannot be read"):
            train(tmp_path, validation=Scripted([]), select="robust")


def test_validation_sees_the_averages(train, tmp_path):
    """What is selected by is what is exported: the averages, not the last weights."""
    validation = Scripted([0.1])
    train(tmp_path / "averaged", epochs=1, validation=validation)
    for got, want in zip(
        validation.seen[0], weights(tmp_path / "averaged"), strict=True
    ):
        np.testing.assert_array_equal(got, want)
    plain = Scripted([0.1])
    train(tmp_path / "plain", epochs=1, validation=plain, trainer=Trainer)
    assert not np.allclose(plain.seen[0][2], validation.seen[0][2])


@pytest.mark.parametrize("damage", ["missing", "empty"])
def test_checkpoints_are_found_without_their_list(train, tmp_path, monkeypatch, damage):
    with monkeypatch.context() as patch:
        killed_at(STEPS_PER_EPOCH + 1, patch)
        with pytest.raises(Killed):
            train(tmp_path)
    listed = tmp_path / "checkpoints" / "checkpoint"
    listed.unlink() if damage == "missing" else listed.write_text("")
    seen = []
    monkeypatch.setattr(loop.tqdm, "update", lambda self: seen.append(1))
    train(tmp_path)
    assert len(seen) == STEPS_PER_EPOCH


def test_log_has_the_learning_rate_of_its_step(train, tmp_path):
    train(tmp_path, epochs=1, log_every=1)
    rate = schedules.one_cycle(0.05, STEPS_PER_EPOCH, STEPS_PER_EPOCH)
    got = [float(row["learning_rate"]) for row in metrics(tmp_path)]
    assert got == pytest.approx([float(rate(s)) for s in range(STEPS_PER_EPOCH)])


class Collapsed(Rotation):
    """All its embeddings are the same, or on a line."""

    def __init__(self, line):
        super().__init__()
        self.line = line

    def loss(self, forward, views, batch):
        loss = super().loss(forward, views, batch)
        sign = tf.where(
            tf.range(tf.size(loss)) % 2 == 0, 1.0, -1.0 if self.line else 1.0
        )
        forward.notes[self.name] = sign[:, None] * [[1.0, 2.0, 3.0]]
        return loss


@pytest.mark.parametrize(
    ("line", "sign"),
    [(False, "spread is .*, 0 being a point"), (True, "rank is 1, 1 being a line")],
)
def test_a_collapse_stops_the_run_and_is_in_the_log(
    train, tmp_path, monkeypatch, line, sign
):
    monkeypatch.setattr(guards, "_STEADY", 1)
    kwargs = {"terms": [Term(Collapsed(line))], "attack": None}
    with pytest.raises(UserError, match=f"of rotation have collapsed: at .* {sign}"):
        train(tmp_path, **kwargs)
    assert (float(metrics(tmp_path)[-1]["spread/rotation"]) < 1e-3) == (not line)
    assert not (tmp_path / "model.keras").exists()
    train(tmp_path, **kwargs, collapse=None, collapse_rank=None, epochs=1)
    assert (tmp_path / "model.keras").exists()


def test_heads_of_one_name(train, tmp_path):
    terms = [Term(Rotation()), Term(Rotation(), 0.5, "adv", 1.0)]
    with pytest.raises(UserError, match="two heads have a variable rotation"):
        train(tmp_path, terms=terms)


def test_a_head_is_set_once_before_the_first_step(train, tmp_path, monkeypatch):
    """And the averages begin with it; a run that goes on keeps what it has learnt."""
    calls = []

    def head(model, data):
        calls.append(data)
        model.get_layer("logits").bias.assign(np.full(10, 3.0, "float32"))

    train(tmp_path / "none", epochs=0, head=head)
    np.testing.assert_array_equal(weights(tmp_path / "none")[-1], np.full(10, 3.0))
    # Steps of nothing: an average of decay 0.9 would be far from its first value.
    settings = {"head": head, "learning_rate": 1e-12, "log_every": 2}
    with monkeypatch.context() as patch:
        killed_at(5, patch)
        with pytest.raises(Killed):
            train(tmp_path / "killed", **settings)
    train(tmp_path / "killed", **settings)
    np.testing.assert_allclose(weights(tmp_path / "killed")[-1], 3.0, rtol=1e-5)
    assert len(calls) == 2


def test_no_epochs_export_the_weights_as_initialised(train, tmp_path):
    train(tmp_path / "none", epochs=0)
    train(tmp_path / "some", epochs=1, learning_rate=1e-12)
    assert not (tmp_path / "none" / "metrics.csv").exists()
    for got, want in zip(*map(weights, tmp_path.iterdir()), strict=True):
        if got.ndim > 1:  # BatchNorm's statistics have moved.
            np.testing.assert_allclose(got, want, atol=1e-7)


def test_two_replicas_train_as_one(train, tmp_path, two_replicas):
    train(tmp_path / "one", epochs=1)
    train(tmp_path / "two", epochs=1, strategy=lambda: two_replicas)
    for got, want in zip(
        weights(tmp_path / "two"), weights(tmp_path / "one"), strict=True
    ):
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-5)


def test_manifest_says_what_was_run(train, tmp_path, dataset):
    train(tmp_path, epochs=1)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["name"] == "test"
    assert manifest["epsilon"] == 0.1
    assert manifest["norm"] == "linf"
    assert manifest["dataset"] == dataset.fingerprint
    assert manifest["packages"]["keras"] == keras.__version__
    assert manifest["finished"] >= manifest["started"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 131}, "larger than the training split"),
        ({"select": "robust"}, "need a validation"),
        ({"patience": 3, "validation": Scripted([1.0])}, "patience needs"),
        (
            {"select": "x", "validation": Scripted([1.0])},
            "'x', but validation measures",
        ),
        (
            {
                "validation": Scripted([]),
                "select": "robust",
                "patience": 1,
                "validate_every": 2,
            },
            "at least validate_every",
        ),
        ({"epochs": -1}, "epochs must be"),
        ({"epochs": 1.5}, "epochs must be"),
        ({"batch_size": 0}, "batch_size must be"),
        ({"seed": "a"}, "seed must be"),
        ({"collapse": "0.02"}, "train.collapse must be positive"),
        ({"collapse_rank": 0}, "train.collapse_rank must be positive"),
        ({"learning_rate": 0}, "learning_rate must be"),
        ({"name": ""}, "set NAME"),
    ],
)
def test_bad_settings(train, tmp_path, settings, message):
    with pytest.raises(UserError, match=message):
        train(tmp_path, **settings)


def test_one_image_is_not_compared(train, tmp_path):
    class Compares(Rotation):
        gathers = True

    with pytest.raises(UserError, match="rotation compares the images of a batch"):
        train(tmp_path, batch_size=1, terms=[Term(Compares())], attack=None)


def test_batch_must_divide_by_replicas(train, tmp_path, two_replicas):
    with pytest.raises(UserError, match="2 replicas"):
        train(tmp_path, batch_size=33, strategy=lambda: two_replicas)


def test_checkpoints_are_pruned(train, tmp_path):
    train(tmp_path, log_every=1)
    assert len(list((tmp_path / "checkpoints").glob("*.index"))) == 2


def test_run_dir_is_never_a_gin_parameter():
    with pytest.raises(ValueError, match="run_dir"):
        gin.parse_config("train.run_dir = '/tmp'")
