"""The door of bin/train: builds everything, runs the steps, keeps what must be kept."""

from __future__ import annotations

import collections
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
from tfssl.training.checkpoints import Checkpoints
from tfssl.training.frozen import Frozen
from tfssl.training.metrics import MetricsFile
from tfssl.training.selection import Selection
from tfssl.training.trainer import Trainer
from tfssl.types import UserError, positive

# Where there is no progress bar, the longest time without a line in the log.
_QUIET_SECONDS = 60
_STEADY = 100  # Steps, before which few embeddings of a small batch may be alike.


@gin.configurable(module="tfssl", denylist=["run_dir"])
def train(
    run_dir: str | os.PathLike,
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
    collapse: float | None = 0.02,
    collapse_rank: float | None = 1.1,
    deterministic: bool = False,
    tensorboard: bool = False,
) -> bool:
    """Trains one run; the same call again resumes it, or does nothing if it is done.

    Writes manifest.json, metrics.csv, checkpoints/ and, at the end, model.keras.

    Args:
      run_dir: The run's folder.
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
      collapse: Stop, with an error, if after a tenth of the run the spread of an
        objective's embeddings is below this (`tfssl.training.collapse`); None: never.
      collapse_rank: The same, of their effective rank, from 100 steps on: at 1 all lie
        on one line.
      deterministic: Bit-equal repetition, at some cost in speed.
      tensorboard: Also write events for TensorBoard.

    Returns:
      Whether there was anything left to do.

    Raises:
      UserError: Settings contradict one another, a loss became infinite or NaN, or a
        frozen backbone has moved.
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

    for key, value in (("collapse", collapse), ("collapse_rank", collapse_rank)):
        if value is not None:
            positive(f"train.{key}", value)

    if deterministic:
        tf.config.experimental.enable_op_determinism()
    keras.utils.set_random_seed(seed)
    strategy = strategy()
    if batch_size % strategy.num_replicas_in_sync:
        raise UserError(
            f"batch_size {batch_size} does not divide by the"
            f" {strategy.num_replicas_in_sync} replicas"
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
    first_step = checkpoints.restore()
    distribute.same_everywhere("the newest step", first_step)
    frozen.check()
    if head is not None and not first_step:
        with strategy.scope():
            head(exported, dataset)
            model.restart_averages()
    if first_step:
        logging.info("resuming %s at step %d of %d", run_dir, first_step, last_step)
    metrics = MetricsFile(run_dir / "metrics.csv", first_step)
    selection = Selection(run_dir / "checkpoints", select, first_step)
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

    def batches_of(part: int, parts: int) -> tf.data.Dataset:
        return dataset.train_batches(
            *(batch_size, seed, first_step, augment, views, last_step),
            part=(part, parts),
        )

    batches = iter(distribute.share_out(strategy, batches_of))

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

    logs: list[Mapping[str, tf.Tensor]] = []
    since = said = time.perf_counter()
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
        logs.append(train_step(next(batches)))
        bar.update()
        if not is_tick(step):
            if bar.disable and time.perf_counter() - said > _QUIET_SECONDS:
                said = time.perf_counter()
                logging.info("%s step %d/%d", name, step, last_step)
            continue

        row = {"step": step, "epoch": step / steps_per_epoch}
        row |= _means(logs, step, checkpoints)
        row["learning_rate"] = float(rate(step - 1))  # Updates count from 0.
        seconds = time.perf_counter() - since
        row["images_per_second"] = len(logs) * batch_size / seconds
        if is_validated(step):
            with strategy.scope(), model.averaged():
                measured = validation(exported, dataset)
                row |= {f"validation/{key}": value for key, value in measured.items()}
                selection.offer(step, measured, exported)
        metrics.append(row)
        if step > last_step / 10:
            rank = collapse_rank if step >= _STEADY else None
            _check_collapse(row, collapse, rank)
        checkpoints.save(step)
        callbacks.on_epoch_end(step, row)
        bar.set_postfix(loss=f"{row['loss']:.3f}")
        if bar.disable:
            logging.info("%s", _line(name, row, last_step))
        logs, since = [], time.perf_counter()
    bar.close()
    callbacks.on_train_end()

    with model.averaged():
        frozen.check()
        selection.export(run_dir / "model.keras", exported)
    selected_step = selection.step if select else int(checkpoints.step.numpy())
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


def _means(
    logs: Sequence[Mapping[str, tf.Tensor]], step: int, checkpoints: Checkpoints
) -> dict[str, float]:
    """Means over the steps since the last row.

    Raises:
      UserError: Something was infinite or NaN. The checkpoints are older than that.
    """
    steps = np.array([[float(v) for v in entry.values()] for entry in logs])
    names = list(logs[0])
    bad = np.argwhere(~np.isfinite(steps))
    if len(bad):
        first = bad[0][0]
        culprits = [names[j] for i, j in bad if i == first]
        # The sum over terms is no news if a term is named.
        culprits = [n for n in culprits if n != "loss"] or culprits
        good = int(checkpoints.step.numpy())
        kept = f"the checkpoint of step {good} is the last good one"
        raise UserError(
            f"{' and '.join(culprits)} became {steps[first, names.index(culprits[0])]}"
            f" at step {step - len(logs) + 1 + first};"
            f" {kept if good else 'there is no checkpoint'}. A smaller LEARNING_RATE"
            " usually helps"
        )
    return dict(zip(names, steps.mean(0), strict=True))


def _check_collapse(
    row: Mapping[str, float], spread: float | None, rank: float | None
) -> None:
    """Raises UserError if embeddings have collapsed to a point or to a line."""
    for key, value in row.items():
        watch, _, name = key.partition("/")
        if watch == "spread" and spread and value < spread:
            sign, setting = f"their spread is {value:.2g}, 0 being a point", "collapse"
        elif watch == "effective_rank" and rank and value < rank:
            sign = f"their effective rank is {value:.3g}, 1 being a line"
            setting = "collapse_rank"
        else:
            continue
        raise UserError(
            f"the embeddings of {name} have collapsed: at step {row['step']} {sign}."
            " Another LEARNING_RATE, a larger batch or other settings of the method may"
            f" help; with train.{setting} = None, in another --run_dir, it goes on"
        )


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
