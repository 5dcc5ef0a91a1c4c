r"""Runs a whole study: trains, evaluates, reports.

  bin/study --list
  bin/study quickstart
  bin/study kucer2021 --scale small --run_dir runs/small
  bin/study kucer2021 --scale full --seeds 1 --dry_run

The same command goes on where it was interrupted: a run that has finished is not run
again, one that was trained halfway resumes. If a run fails, the others go on. How far
they are, which may be asked at any time, and from any machine that shares the disk:

  bin/study status quickstart

with the flags that it was started with. Runs are processes of this machine, or tasks
of Ray, which keeps to the number of GPUs, on this machine or on a cluster, or go into
the queue of SLURM (docs/running.md):

  bin/study kucer2021 --scale full --executor ray
  bin/study kucer2021 --scale full --executor ray --address auto
  bin/study kucer2021 --scale full --executor slurm --slurm_dir slurm

Other settings, for every training of the study, into a folder of their own:

  bin/study quickstart --run_dir runs/long --gin_param EPOCHS=100

In --run_dir:
  <variant>-seed<n>/   a run each, as bin/train and bin/evaluate make it, and their
                       output in train.log and evaluate.log
  report/              tables and curves, as bin/report writes them
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from absl import flags

from tfssl.cli import app
from tfssl.studies import engine, processes, ray_tasks, slurm, status, study
from tfssl.studies.node import Node, command_line, log_tail
from tfssl.types import UserError

SCALE = flags.DEFINE_string("scale", None, "At which cost; --list shows the choice.")
SEEDS = flags.DEFINE_integer(
    "seeds", None, "Number of seeds of each variant.", lower_bound=1
)
EXECUTOR = flags.DEFINE_enum(
    "executor", "local", ["local", "ray", "slurm"], "Where the runs are started."
)
SLOTS = flags.DEFINE_integer(
    "slots",
    None,
    "Runs at a time. By default, local: 1 on a GPU, up to 4 without, which share the"
    " cores; ray, slurm: as many as there is room for.",
    lower_bound=1,
)
CPUS = flags.DEFINE_integer(
    "cpus_per_run",
    None,
    "Cores of each run. By default, ray: those of a machine, shared by its GPUs or by"
    " four; slurm: 4.",
    lower_bound=1,
)
GPUS = flags.DEFINE_float(
    "gpus_per_run",
    None,
    "GPUs of each run, for ray also a part of one. By default, ray: 1 if there are any;"
    " slurm: 1.",
    lower_bound=0.0,
)
ADDRESS = flags.DEFINE_string(
    "address",
    None,
    "Of a running Ray cluster: 'auto' on one of its machines, or ray://host:10001. By"
    " default one of this machine alone, for as long as the study runs.",
)
RETRIES = flags.DEFINE_integer(
    "retries",
    0,
    "How often a run that failed is started again at once, local or by ray. Runs whose"
    " machine has died are anyhow.",
    lower_bound=0,
)
SLURM_DIR = flags.DEFINE_string(
    "slurm_dir", None, "Where the scripts for sbatch are written."
)
DRY_RUN = flags.DEFINE_bool("dry_run", False, "Only show what would be run.")
LIST = flags.DEFINE_bool("list", False, "Only show which studies there are.")


def main(arguments: Sequence[str]) -> None:
    """The program, after its flags are parsed."""
    known = study.all_studies()
    if LIST.value:
        for name, one in sorted(known.items()):
            print(f"{name:12}{one.summary}\n{'':12}--scale {' | '.join(one.scales)}")
        return
    ask = list(arguments[:1]) == ["status"]
    if ask:
        arguments = arguments[1:]
    if len(arguments) != 1:
        raise UserError(f"name one study: {', '.join(sorted(known))}; see --help")
    if app.GIN_FILE.value:
        raise UserError("a study chooses its gin files itself; see --gin_param")
    chosen = _choose(known, "study", arguments[0])
    scale_name = SCALE.value or next(iter(chosen.scales))
    scale = _choose(chosen.scales, f"scale of {arguments[0]}", scale_name)
    seeds = SEEDS.value or scale.seeds
    default = arguments[0] + (f"-{scale_name}" if len(chosen.scales) > 1 else "")
    root = Path(app.RUN_DIR.value or f"runs/{default}")
    nodes = study.nodes(scale, seeds, root, app.GIN_PARAM.value, app.ALLOW_IMPORT.value)

    if ask:
        print(status.table(status.look(nodes)))
        return
    if DRY_RUN.value:
        _show(nodes)
        return
    if EXECUTOR.value == "slurm" and _write_slurm(nodes):
        return
    app.make_folder(root)
    if not all(node.is_finished() for node in nodes):
        _run(nodes)
    print(study.write_report(scale, seeds, root, chosen.preset))
    print(f"runs in {root}, tables and curves in {root / 'report'}")


def _run(nodes: Sequence[Node]) -> None:
    """Runs what is left.

    Raises:
      UserError: Something has failed; what and why is printed.
    """
    if EXECUTOR.value == "ray":
        executor = ray_tasks.RayTasks(
            ADDRESS.value, SLOTS.value, CPUS.value, GPUS.value
        )
    else:
        executor = processes.Processes(SLOTS.value or processes.default_slots())
    outcome = engine.run(nodes, executor, RETRIES.value)
    if outcome.failed:
        for node in outcome.failed:
            text = f"\n{node.name} failed; the end of {node.log}:"
            print(text, log_tail(node), sep="\n", file=sys.stderr)
        for node in outcome.skipped:
            print(f"\n{node.name} could not be run", file=sys.stderr)
        raise UserError(
            f"{len(outcome.failed)} of {len(nodes)} steps failed (see above): the same"
            " command tries them again; bin/report shows what there is"
        )


def _write_slurm(nodes: Sequence[Node]) -> bool:
    """Writes the scripts and says what to do with them; False if nothing is left.

    Raises:
      UserError: The flags do not fit.
    """
    if not SLURM_DIR.value:
        raise UserError("--slurm_dir is missing: the folder for the scripts")
    gpus = 1.0 if GPUS.value is None else GPUS.value
    if gpus != int(gpus):
        raise UserError(f"SLURM gives whole GPUs, not --gpus_per_run {gpus}")
    folder = Path(SLURM_DIR.value)
    arrays = slurm.write(nodes, folder, SLOTS.value, CPUS.value or 4, int(gpus))
    if not arrays:
        return False
    steps = sum(len(array.nodes) for array in arrays)
    print(
        f"{steps} steps in {len(arrays)} arrays of jobs. They are submitted by\n\n"
        f"  bash {shlex.quote(str(folder / 'submit.sh'))}\n\n"
        "with options of sbatch, such as --partition=gpu --time=12:00:00, if need be."
        " bin/study status shows how far they are; when all are finished, the study's"
        " command without --executor writes the report."
    )
    return True


def _choose(known: Mapping, kind: str, name: str):
    if name not in known:
        raise UserError(f"no {kind} {name}: there is {', '.join(known)}")
    return known[name]


def _show(nodes: Sequence[Node]) -> None:
    finished = 0
    for node in nodes:
        done = node.is_finished()
        finished += done
        print("finished" if done else "to run  ", command_line(node.command))
    print(f"{len(nodes)} steps, {finished} finished")


def run() -> None:
    """The console script."""
    app.run(main, __doc__, arguments=True)
