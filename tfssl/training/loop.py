"""The door of bin/train: builds everything, runs the steps, keeps what must be kept."""

from __future__ import annotations

import collections
import functools
import math
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gin
import keras
import numpy as np
import tensorflow as tf
from absl import logging
from tqdm import tqdm

from tfssl import distribute, manifest
from tfssl.signals import Stop
from tfssl.training.checkpoints import Checkpoints
from tfssl.training.frozen import Frozen
from tfssl.training.guards import Guards, Watched, check_finite, check_overflow
from tfssl.training.metrics import MetricsFile
from tfssl.training.selection import Selection
from tfssl.training.trainer import Trainer
from tfssl.types import Stopped, UserError, positive

# Where there is no progress bar, the longest time without a line in the log.
_QUIET_SECONDS = 60


@gin.configurable(module="tfssl", denylist=["run_dir", "stop", "record"])
def train(
    run_dir: str | os.PathLike,
    stop: Stop | None = None,
    record: Callable[[], None] = lambda: None,
    *,
    name: str,
    dataset: Any,
    augment: Sequence[Callable],
    backbone: Callable[[tuple[int, int, int]], keras.Model],
    terms: Sequence[Any],
    optimizer: Callable[..., keras.optimizers.Optimizer],
    schedule: Callable[..., Any],
    learning_rate: float,
    epochs: int,
    batch_size: int,
    seed: int = 0,
    learning_rate_batch: int | None = None,
    attack: Any = None,
    views: Any = None,
    head: Callable[[keras.Model, Any], None] | None = None,
    trainer: Callable[..., Trainer] = Trainer,
    strategy: Callable[[], tf.distribute.Strategy] = distribute.strategy,
    validation: Callable[[keras.Model, Any], Mapping[str, float]] | None = None,
    validate_every: int = 1,
    select: str | None = None,
    patience: int | None = None,
    log_every: int | None = None,
    checkpoint_seconds: float | None = 600.0,
    collapse: float | None = 0.02,
    collapse_rank: float | None = 1.1,
    explosion: float | None = 100.0,
    overfitting: float | None = 0.1,
    stall: float | None = 30.0,
    deterministic: bool = False,
    tensorboard: bool = False,
) -> bool:
    """Trains one run; the same call again resumes it, or does nothing if it is done.

    Writes manifest.json, metrics.csv, checkpoints/ and, at the end, model.keras.

    Args:
      run_dir: The run's folder.
      stop: Asked after each step whether to keep a checkpoint and end.
      record: Called when all is there, before the run counts as finished.
      name: The run's name in tables. Runs that differ only in their seed share it.
      dataset: A data set (`docs/design.md`, Contracts).
      augment: `augment(image, seed) -> image` functions, applied in turn.
      backbone: Makes the network; called after the seed is set.
      terms: What is minimised, see `Term`.
      optimizer: `optimizer(learning_rate=schedule)`.
      schedule: `schedule(learning_rate, steps, steps_per_epoch)`.
      learning_rate: Peak learning rate.
      learning_rate_batch: The batch that `learning_rate` is for: it is multiplied by
        batch_size over this (Goyal 2017, "Accurate, large minibatch SGD", and all
        recipes of self-supervised learning); None: it is for any batch.
      epochs: Passes over the training split; 0 exports the weights as initialised.
      batch_size: Examples per step, over all replicas.
      seed: Determines weights, order, augmentation and attacks.
      attack: Finds the adversarial examples that terms name.
      views: Makes the views that a method compares, see `tfssl.data.views.Views`.
      head: `head(model, dataset)` sets the head of a classifier before the first step,
        see `tfssl.evaluation.logistic_head`.
      trainer: Makes the `Trainer`; gin may bind its other settings.
      strategy: Where the replicas live.
      validation: `validation.prepare(model, dataset)` gives names, and
        `validation(model, dataset)` numbers by name, larger is better.
      validate_every: Epochs between validations; there is one after the last as well.
      select: Which of these numbers decides which weights are exported (for instance
        robust accuracy: early stopping against robust overfitting, Rice 2020); None:
        the last weights.
      patience: Stop after so many epochs without a better `select`.
      log_every: Steps between rows of metrics.csv and checkpoints; None: an epoch.
      checkpoint_seconds: Longest time without a checkpoint, but for a step and a
        validation; None: only those with a row. Between rows it keeps the numbers of
        the steps since the last one, so that no row depends on when it is written.
      collapse: Stop, with an error, if after a tenth of the run the spread of an
        objective's embeddings is below this (`tfssl.training.collapse`); None: never.
      collapse_rank: The same, of their effective rank, from 100 steps on: at 1 all lie
        on one line.
      explosion: The same, if for 100 steps the loss is above this many times its usual
        size, see `tfssl.training.guards`.
      overfitting: The same, if in two validations running a number is below this share
        of its best; of the one that is `select`ed a warning is given.
      stall: Warn if a step waits so many seconds for its batch; None: never.
      deterministic: Bit-equal repetition, at some cost in speed.
      tensorboard: Also write events for TensorBoard.

    Returns:
      Whether there was anything left to do.

    Raises:
      UserError: Settings contradict one another, a loss became infinite or NaN, a
        guard found the run gone wrong, a frozen backbone has moved, or a file cannot
        be written.
      Stopped: `stop` was asked to.
    """
    run_dir = Path(run_dir)
    if manifest.read(run_dir).get("finished"):
        logging.info("%s is finished already", run_dir)
        return False
    _check(name, learning_rate, validation, validate_every, select, patience)
    for key, value, low in (
        ("seed", seed, 0),
        ("epochs", epochs, 0),
        ("batch_size", batch_size, 1),
        ("validate_every", validate_every, 1),
        ("log_every", log_every or 1, 1),
        ("learning_rate_batch", learning_rate_batch or 1, 1),
    ):
        if not isinstance(value, int) or not low <= value < 2**31:
            raise UserError(
                f"{key} must be a whole number, at least {low}, not {value!r}"
            )

    guards = Guards(collapse, collapse_rank, explosion, overfitting)
    for key, value in (("checkpoint_seconds", checkpoint_seconds), ("stall", stall)):
        if value is not None:
            positive(f"train.{key}", value)

    if deterministic:
        tf.config.experimental.enable_op_determinism()
    keras.utils.set_random_seed(seed)
    strategy = strategy()
    replicas = strategy.num_replicas_in_sync
    if batch_size % replicas:
        raise UserError(
            f"batch_size {batch_size} does not divide by the {replicas} replicas"
        )
    steps_per_epoch = dataset.size("train") // batch_size
    if not steps_per_epoch:
        raise UserError(
            f"batch_size {batch_size} is larger than the training split"
            f" ({dataset.size('train')} examples)"
        )
    alone = [term.objective.name for term in terms if term.objective.gathers]
    if batch_size == 1 and alone:
        raise UserError(
            f"{alone[0]} compares the images of a batch, or normalises by them:"
            " batch_size must be at least 2"
        )
    last_step = epochs * steps_per_epoch
    if learning_rate_batch:
        learning_rate *= batch_size / learning_rate_batch

    with strategy.scope():
        model = trainer(
            backbone(dataset.image_shape), dataset.num_classes, terms, attack
        )
        rate = learning_rate
        if epochs:
            rate = schedule(learning_rate, last_step, steps_per_epoch)
        if batch_size % (replicas * model.micro_batches):
            raise UserError(
                f"batch_size {batch_size} does not divide by {replicas} replicas x"
                f" {model.micro_batches} micro-batches"
            )
        model.last_step = last_step
        model.compile(optimizer=optimizer(learning_rate=rate))
        model.optimizer.build(model.trainable_variables)
        exported = model.exported()
        labels = validation.prepare(exported, dataset) if validation else []
    if select and select not in labels:
        raise UserError(
            f"train.select is {select!r}, but validation measures {', '.join(labels)}"
        )

    frozen = Frozen(model.backbone)  # Before a checkpoint puts its values there.
    checkpoints = Checkpoints(run_dir / "checkpoints", _variables(model))
    first_step, note = checkpoints.restore()
    distribute.same_everywhere("the newest step", first_step)
    frozen.check()
    if head is not None and not first_step:
        with strategy.scope():
            head(exported, dataset)
            model.restart_averages()
    if first_step:
        logging.info("resuming %s at step %d of %d", run_dir, first_step, last_step)
    metrics = MetricsFile(run_dir / "metrics.csv", first_step)
    selection = Selection(run_dir / "checkpoints", select, note.get("selection", ()))
    manifest.write(
        run_dir,
        {
            "name": name,
            "seed": seed,
            "dataset": dataset.fingerprint,
            "epsilon": getattr(attack, "epsilon", None),
            "norm": getattr(getattr(attack, "ball", None), "name", None),
            "parameters": model.backbone.count_params(),
            "backbone_frozen": frozen.holds,
            "started": manifest.read(run_dir).get("started", time.time()),
            **manifest.environment(),
        },
    )

    callbacks = keras.callbacks.CallbackList(
        [_tensorboard(run_dir)] if tensorboard else [], model=model
    )

    def batches_from(step: int, part: int = 0, parts: int = 1) -> tf.data.Dataset:
        return dataset.train_batches(
            *(batch_size, seed, step, augment, views, last_step), part=(part, parts)
        )

    batches = distribute.share_out(
        strategy, functools.partial(batches_from, first_step)
    )
    batches = Watched(iter(batches), stall)

    @tf.function(autograph=False)  # Nothing here needs rewriting; Keras has it off too.
    def train_step(batch):
        return distribute.add(strategy, strategy.run(model.train_step, (batch,)))

    def is_tick(step: int) -> bool:
        """Whether to log and keep a checkpoint after this step."""
        every = log_every or steps_per_epoch
        return not step % every or not step % steps_per_epoch or step == last_step

    def is_validated(step: int) -> bool:
        every = validate_every * steps_per_epoch
        return validation is not None and (not step % every or step == last_step)

    def is_due() -> bool:
        """Whether to keep a checkpoint here, between rows.

        Of several workers the chief alone does, which needs none of the others.
        """
        late = time.perf_counter() - kept > (checkpoint_seconds or math.inf)
        return late or stop.asked is not None

    def fetched(step: int) -> list[dict[str, float]]:
        """The numbers of the steps since the last row; waits for the device.

        Raises:
          UserError: Something was infinite or NaN. The checkpoints are older than that.
        """
        found = [{key: float(v) for key, v in entry.items()} for entry in logs]
        check_finite(
            *(found, step, int(checkpoints.step.numpy())),
            lambda step: next(iter(batches_from(step - 1))),
            run_dir,
        )
        return found

    def keep(step: int) -> None:
        """Writes a checkpoint and, if so asked, ends."""
        checkpoints.save(step, {"logs": logs, "selection": selection.note})
        if stop.asked and step < last_step:
            raise Stopped(f"stopped by {stop.asked} at step {step} of {last_step}")

    # Those of steps before are from a checkpoint between two rows.
    logs: list[Mapping[str, Any]] = note.get("logs", [])
    begun = first_step
    since = said = kept = time.perf_counter()
    stop = stop or Stop()
    stop.patient = True
    if not distribute.is_chief():  # The chief stops, and with it the others.
        stop = Stop()
    bar = tqdm(
        total=last_step,
        initial=first_step,
        desc=name,
        unit="step",
        disable=not sys.stderr.isatty(),
    )
    callbacks.on_train_begin()
    for step in range(first_step + 1, last_step + 1):
        # Before the step, so that a run that resumes where it stopped stops again.
        idle = step - 1 - selection.step if selection.step else 0
        if patience and idle >= patience * steps_per_epoch:
            logging.info("stopped: no better %s for %d epochs", select, patience)
            break
        batch = next(batches)
        try:
            logs.append(train_step(batch))
        except tf.errors.InvalidArgumentError as error:
            check_overflow(error, step)
            raise
        bar.update()
        if not is_tick(step):
            if is_due():
                logs, kept = fetched(step), time.perf_counter()
                keep(step)
            if bar.disable and time.perf_counter() - said > _QUIET_SECONDS:
                said = time.perf_counter()
                logging.info("%s step %d/%d", name, step, last_step)
            continue

        row = {"step": step, "epoch": step / steps_per_epoch}
        logs = fetched(step)
        row |= _means(logs)
        updates = int(model.optimizer.iterations.numpy())
        row["learning_rate"] = float(rate(max(updates - 1, 0)))  # Of the last one.
        seconds = time.perf_counter() - since
        row["images_per_second"] = (step - begun) * batch_size / seconds
        if is_validated(step):
            with strategy.scope(), model.averaged():
                measured = validation(exported, dataset)
                row |= {f"validation/{key}": value for key, value in measured.items()}
                selection.offer(step, measured, exported)
        metrics.append(row)
        guards.check(metrics.rows, logs, last_step, select)
        logs, begun = [], step
        keep(step)
        callbacks.on_epoch_end(step, row)
        bar.set_postfix(loss=f"{row['loss']:.3f}")
        if bar.disable:
            logging.info("%s", _line(name, row, last_step))
        since = kept = time.perf_counter()
    stop.patient = False
    bar.close()
    callbacks.on_train_end()

    with model.averaged():
        frozen.check()
        selection.export(run_dir / "model.keras", exported)
    selected_step = selection.step if select else int(checkpoints.step.numpy())
    record()
    manifest.write(run_dir, {"finished": time.time(), "selected_step": selected_step})
    logging.info(
        "%s has the weights of step %d", run_dir / "model.keras", selected_step
    )
    return True


def _check(
    name: str,
    learning_rate: float,
    validation: Any,
    validate_every: int,
    select: str | None,
    patience: int | None,
) -> None:
    """Raises UserError if these arguments of `train` are of no use together."""
    if not name:
        raise UserError("the run needs a name: set NAME")
    if isinstance(learning_rate, str) or not 0 < learning_rate < float("inf"):
        raise UserError(f"learning_rate must be positive, not {learning_rate!r}")
    if (select or patience) and validation is None:
        raise UserError("select and patience need a validation: set train.validation")
    if patience and not select:
        raise UserError("patience needs train.select, the number that must improve")
    if patience and patience < validate_every:
        raise UserError("patience must be at least validate_every")


def _variables(model: Trainer) -> dict[str, tf.Variable]:
    """Everything that training changes, by path."""
    named = [*model.weights, *model.optimizer.variables]
    variables = {variable.path: variable.value for variable in named}
    if len(variables) != len(named):
        paths = collections.Counter(variable.path for variable in named)
        path = paths.most_common(1)[0][0]
        raise UserError(
            f"two heads have a variable {path}: terms of one method must share one"
            " objective, as gin.singleton makes them do in terms/acl.gin"
        )
    if model.ema_decay is not None:
        variables |= {variable.name: variable for variable in model.averages}
    for objective in model.objectives:
        variables |= {f"{objective.name}/{v.name}": v for v in objective.state}
    return variables


def _means(logs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Means over steps."""
    steps = np.array([list(entry.values()) for entry in logs])
    return dict(zip(logs[0], steps.mean(0), strict=True))


def _line(name: str, row: Mapping[str, float], last_step: int) -> str:
    kinds = ("loss", "spread", "validation")
    shown = [f"{k} {v:.3f}" for k, v in row.items() if k.startswith(kinds)]
    return (
        f"{name} step {row['step']}/{last_step} {' '.join(shown)}"
        f" {row['images_per_second']:.0f} images/s"
    )


def _tensorboard(run_dir: Path) -> keras.callbacks.Callback:
    try:
        import tensorboard  # noqa: F401
    except ImportError:
        raise UserError(
            "TensorBoard is not installed: pip install 'tfssl[tensorboard]'"
        ) from None
    return keras.callbacks.TensorBoard(str(run_dir / "tensorboard"), write_graph=False)
