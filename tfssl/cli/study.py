r"""Runs a whole study: trains, evaluates, reports.

  bin/study --list
  bin/study quickstart
  bin/study kucer2021 --scale small --run_dir runs/small
  bin/study kucer2021 --scale full --seeds 1 --dry_run

The same command goes on where it was interrupted: a run that has finished is not run
again, one that was trained halfway resumes. If a run fails, the others go on.

Other settings, for every training of the study, into a folder of their own:

  bin/study quickstart --run_dir runs/long --gin_param EPOCHS=100

In --run_dir:
  <variant>-seed<n>/   a run each, as bin/train and bin/evaluate make it, and their
                       output in train.log and evaluate.log
  report/              tables and curves, as bin/report writes them
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from absl import flags

from tfssl.cli import app
from tfssl.studies import engine, study
from tfssl.types import UserError

SCALE = flags.DEFINE_string("scale", None, "At which cost; --list shows the choice.")
SEEDS = flags.DEFINE_integer(
    "seeds", None, "Number of seeds of each variant.", lower_bound=1
)
SLOTS = flags.DEFINE_integer(
    "slots",
    None,
    "Runs at a time; they share the cores. By default 1 on a GPU, up to 4 without.",
    lower_bound=1,
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
    nodes = study.nodes(scale, seeds, root, app.GIN_PARAM.value)

    if DRY_RUN.value:
        _show(nodes)
        return
    app.make_folder(root)
    outcome = engine.run(nodes, SLOTS.value or engine.default_slots())
    if outcome.failed:
        for node in outcome.failed:
            text = f"\n{node.name} failed; the end of {node.log}:"
            print(text, engine.log_tail(node), sep="\n", file=sys.stderr)
        for node in outcome.skipped:
            print(f"\n{node.name} could not be run", file=sys.stderr)
        raise UserError(
            f"{len(outcome.failed)} of {len(nodes)} steps failed (see above): the same"
            " command tries them again; bin/report shows what there is"
        )
    print(study.write_report(scale, seeds, root, chosen.preset))
    print(f"runs in {root}, tables and curves in {root / 'report'}")


def _choose(known: Mapping, kind: str, name: str):
    if name not in known:
        raise UserError(f"no {kind} {name}: there is {', '.join(known)}")
    return known[name]


def _show(nodes: Sequence[engine.Node]) -> None:
    finished = 0
    for node in nodes:
        done = node.is_finished()
        finished += done
        print("finished" if done else "to run  ", engine.command_line(node))
    print(f"{len(nodes)} steps, {finished} finished")


def run() -> None:
    """The console script."""
    app.run(main, __doc__, arguments=True)
