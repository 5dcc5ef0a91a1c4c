"""The only module that knows replicas.

Optimizers sum gradients over replicas, so every loss is divided by the *global* batch,
once, here. A scalar mean in a `train_step` would silently be multiplied by the number
of replicas.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gin
import tensorflow as tf
from absl import logging

from tfssl import files
from tfssl.types import Stopped, UserError, positive

# What TensorFlow raises when another worker is gone.
_LOSSES = (
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.InternalError,
    tf.errors.UnavailableError,
)

_cluster: tf.distribute.MultiWorkerMirroredStrategy | None = None


@gin.configurable(module="tfssl")
def join_cluster(kind: str = "auto", port: int = 8888, timeout: float = 600.0) -> None:
    """Joins the other workers of this run, if there are any.

    Call it before TensorFlow does anything, once. All workers run the same program with
    the same arguments and see the same files; the first one is the chief, and what the
    others would write to files is dropped.

    Args:
      kind: 'tf_config' reads the environment variable TF_CONFIG: {"cluster": {"worker":
        ["host:port", ..]}, "task": {"type": "worker", "index": 0}}. 'slurm' reads what
        srun sets, where each task is a worker. 'none' joins nobody. 'auto' is the first
        of these that the environment speaks of.
      port: Under SLURM the n-th task of a host listens at this port + n.
      timeout: Seconds until all have come; then the process ends, with exit code 1.

    Raises:
      UserError: The environment does not describe a cluster of that kind, or another
        worker came and went.
    """
    global _cluster
    kinds = ("auto", "none", "slurm", "tf_config")
    if kind not in kinds:
        raise UserError(f"join_cluster.kind is one of {', '.join(kinds)}, not {kind!r}")
    positive("join_cluster.timeout", timeout)
    if kind == "auto":
        kind = "none"
        if os.environ.get("TF_CONFIG"):
            kind = "tf_config"
        elif int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
            kind = "slurm"
    if kind == "none":
        return
    try:
        resolver = _tf_config() if kind == "tf_config" else _slurm(port)
        hosts = resolver.cluster_spec().as_dict().get("worker", [])
        if len(hosts) < 2:
            return
    except (KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"the environment describes no cluster: {reason}") from error
    logging.info("waiting for %s, at most %g s", ", ".join(hosts), timeout)
    with _ends_at_once(timeout):
        try:
            _cluster = tf.distribute.MultiWorkerMirroredStrategy(
                cluster_resolver=resolver
            )
        except tf.errors.OpError as error:
            raise _gone(error) from error
    if not is_chief():
        files.drop_all()


@contextlib.contextmanager
def _ends_at_once(timeout: float) -> Iterator[None]:
    """Lets signals end the process, and does so itself after so many seconds.

    TensorFlow waits for other workers for an hour, and holds Python's lock all the
    time: no handler is called, no other thread runs. It takes SIGTERM for itself, too,
    which then has no effect, so that the handlers must be set again once it is there.
    """
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    handlers = {n: signal.signal(n, signal.SIG_DFL) for n in numbers}
    faulthandler.dump_traceback_later(timeout, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        for number, handler in handlers.items():
            signal.signal(number, handler or signal.SIG_DFL)


def _tf_config() -> tf.distribute.cluster_resolver.ClusterResolver:
    config = json.loads(os.environ["TF_CONFIG"])
    others = set(config["cluster"]) - {"worker"}
    if others:
        raise ValueError(f"TF_CONFIG may list workers alone, not {', '.join(others)}")
    return tf.distribute.cluster_resolver.TFConfigClusterResolver()


def _slurm(port: int) -> tf.distribute.cluster_resolver.ClusterResolver:
    tasks = int(os.environ["SLURM_STEP_NUM_TASKS"])
    return tf.distribute.cluster_resolver.SlurmClusterResolver(
        {"worker": tasks},
        port_base=port,
        # Which GPUs a task sees is for srun to say. The resolver divides these numbers
        # to find out how many tasks a host can have, and fails where there is no GPU.
        gpus_per_node=tasks,
        gpus_per_task=1,
        auto_set_gpu=False,
    )


@gin.register(module="tfssl")
def strategy(devices: Sequence[str] | None = None) -> tf.distribute.Strategy:
    """The strategy for this machine, or for those of the cluster it has joined.

    Args:
      devices: Devices by name, such as ['GPU:0', 'GPU:1']; all GPUs if not given.

    Returns:
      MultiWorkerMirroredStrategy over all GPUs of all workers in a cluster;
      MirroredStrategy over several devices, else the default one of a single device.

    Raises:
      UserError: Devices are chosen, and this is a cluster.
    """
    if _cluster is not None:
        if devices is not None:
            raise UserError(
                "strategy.devices is for one machine: on several, CUDA_VISIBLE_DEVICES"
                " says which GPUs a worker uses"
            )
        return _cluster
    if devices is None:
        devices = [
            gpu.name.split(":", 1)[1] for gpu in tf.config.list_physical_devices("GPU")
        ]
    if len(devices) > 1:
        return tf.distribute.MirroredStrategy(list(devices))
    if devices:
        return tf.distribute.OneDeviceStrategy(devices[0])
    return tf.distribute.get_strategy()


def workers() -> int:
    """Number of processes that share the run."""
    if _cluster is None:
        return 1
    return len(_cluster.cluster_resolver.cluster_spec().as_dict()["worker"])


def is_chief() -> bool:
    """Whether this is the worker that writes files."""
    return _cluster is None or _cluster.cluster_resolver.task_id == 0


@contextlib.contextmanager
def in_one_line(stop: Any = None) -> Iterator[None]:
    """Says in one line that another worker is gone, which stops all of them.

    Args:
      stop: Of this worker (`signals.Stop`).

    Raises:
      UserError: That was it.
      Stopped: It was, after this worker had been asked to end as well.
    """
    try:
        yield
    except (tf.errors.OpError, UserError) as error:
        if not is_loss(error):
            raise
        if stop is not None and stop.asked:
            raise Stopped(f"stopped by {stop.asked}") from error
        raise _gone(error) from error


def is_loss(error: BaseException | None) -> bool:
    """Whether an error, or one that it came of, says that another worker is gone.

    What reads a file ends with these as well: its variables are copied to all workers.
    """
    if _cluster is None or error is None:
        return False
    return isinstance(error, _LOSSES) or is_loss(error.__context__)


def _gone(error: Exception) -> UserError:
    reason = str(error).splitlines()[0][:200]
    # Keras' first line says nothing.
    shown = "" if reason.startswith("Graph execution error") else f" ({reason})"
    return UserError(
        "another worker is gone, or cannot be reached: start all of them again with"
        f" the same command{shown}"
    )


def same_everywhere(name: str, number: int) -> None:
    """Waits for all workers, and makes sure that they agree on a number.

    Raises:
      UserError: They do not.
    """
    if _cluster is None:
        return
    context = _cluster.run(lambda: tf.constant([number], tf.int64))
    numbers = sorted(set(_cluster.gather(context, axis=0).numpy().tolist()))
    if len(numbers) > 1:
        raise UserError(
            f"workers see different files: {name} is {' and '.join(map(str, numbers))}."
            " All need the same --run_dir on a disk that they share"
        )


def share_out(
    strategy_: tf.distribute.Strategy,
    batches: Callable[[int, int], tf.data.Dataset],
) -> tf.distribute.DistributedDataset:
    """Global batches, shared out among the replicas in their order.

    Args:
      strategy_: Of this process.
      batches: From (part, parts) to the data set of that part of each global batch;
        (0, 1) is all of it.
    """
    if workers() == 1:
        return strategy_.experimental_distribute_dataset(batches(0, 1))

    def of_worker(context):
        parts = context.num_input_pipelines
        part = batches(context.input_pipeline_id, parts)
        return part.rebatch(
            context.get_per_replica_batch_size(_batch_size(part) * parts),
            drop_remainder=True,
        )

    return strategy_.distribute_datasets_from_function(of_worker)


def sliced(batches: tf.data.Dataset, part: int, parts: int) -> tf.data.Dataset:
    """The p-th of n equal parts of each batch, for `share_out` of what is cheap."""
    if parts == 1:
        return batches
    share = _batch_size(batches) // parts
    return batches.map(
        lambda batch: tf.nest.map_structure(
            lambda x: x[part * share : (part + 1) * share], batch
        )
    )


def _batch_size(dataset: tf.data.Dataset) -> int:
    return tf.nest.flatten(dataset.element_spec)[0].shape[0]


def replicas() -> int:
    """Number of replicas of the strategy in whose scope the caller is."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def mean(per_example: tf.Tensor) -> tf.Tensor:
    """This replica's share of the mean over the global batch; [b, ...] to a scalar.

    The sum of the shares over replicas is the mean. All replicas hold equally many
    examples (the pipeline drops or pads a remainder).
    """
    return tf.reduce_mean(per_example) / replicas()


def replica() -> tf.Tensor:
    """This replica's position in the global batch: int32 in [0, replicas()).

    Replica r holds the examples r * b to (r + 1) * b - 1 of what `gather` returns. 0
    outside of replicas, where a tensor is all there is.
    """
    context = tf.distribute.get_replica_context()
    index = 0 if context is None else context.replica_id_in_sync_group
    return tf.convert_to_tensor(index, tf.int32)


def gather(x: tf.Tensor) -> tf.Tensor:
    """The global batch: each replica's [b, ...] behind one another, in their order.

    All replicas get the same [global b, ...]. With one replica, and outside of
    replicas, it is `x` itself. All replicas must call it, equally often.

    Its gradient is that of the sum of the replicas' losses: what reaches the result is
    summed over replicas, and each takes the part of its own examples. So losses that
    read the global batch and are averaged by `mean` have, after the sum over replicas,
    the gradient they would have on one replica with the global batch.

    MirroredStrategy cannot do this within tf.while_loop or tf.cond.
    """
    context = tf.distribute.get_replica_context()
    if context is None or replicas() == 1:
        return x
    return tf.ensure_shape(context.all_gather(x, axis=0), [None, *x.shape[1:]])


def state(value: tf.Tensor, name: str) -> tf.Variable:
    """A variable that no optimizer trains, and that replicas may assign.

    They must assign equal values: that of the first counts.
    """
    return tf.Variable(
        value,
        trainable=False,
        name=name,
        # Without this no replica may assign it.
        aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
    )


def add(strategy_: tf.distribute.Strategy, value):
    """Sums a per-replica result (a nest of scalars) over replicas, outside of them."""
    return tf.nest.map_structure(
        lambda v: strategy_.reduce(tf.distribute.ReduceOp.SUM, v, axis=None), value
    )


def concatenate(strategy_: tf.distribute.Strategy, value):
    """Puts the replicas' [b/r, ...] results behind one another: a nest of [b, ...].

    All workers get the results of all replicas. They can send one another no bool and
    no uint8: `collect` sees to that.
    """
    if workers() == 1:
        return tf.nest.map_structure(
            lambda v: tf.concat(strategy_.experimental_local_results(v), axis=0), value
        )
    return tf.nest.map_structure(lambda v: strategy_.gather(v, axis=0), value)


def collect(
    strategy_: tf.distribute.Strategy,
    function: Callable[..., dict[str, tf.Tensor]],
    arguments: Sequence,
) -> dict[str, tf.Tensor]:
    """Calls a function on all replicas and puts their results behind one another.

    Args:
      strategy_: Whose replicas.
      function: From its replica's share of the arguments to results [b/r, ...] by name.
      arguments: Per-replica values, or what is the same for all.

    Returns:
      Tensors [b, ...] by name, of any type, for all workers.
    """
    dtypes = {}

    def sendable(*arguments):
        results = function(*arguments)
        dtypes.update({name: value.dtype for name, value in results.items()})
        return {name: _sendable(value) for name, value in results.items()}

    found = concatenate(strategy_, strategy_.run(sendable, arguments))
    return {name: tf.cast(value, dtypes[name]) for name, value in found.items()}


def _sendable(x: tf.Tensor) -> tf.Tensor:
    """The same numbers in a type that workers can send one another."""
    if workers() > 1 and x.dtype in (tf.bool, tf.uint8):
        return tf.cast(x, tf.int32)
    return x
