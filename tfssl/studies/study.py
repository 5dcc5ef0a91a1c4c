"""What a study is: variants of a training run, each with an evaluation, and a report.

A study is a module of this package with a `STUDY`; to add one, add a file.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import json
import pkgutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tfssl import studies
from tfssl.reporting import report
from tfssl.studies.node import Node


@dataclasses.dataclass(frozen=True)
class Variant:
    """One row of the study's tables: a training run, but for its seed.

    Attributes:
      name: The run's name, in tables and folders.
      baseline: Name of the variant it is compared with, its own if it is one.
      files: Gin files, later ones win.
      params: Gin bindings read after the files.
      start: Name of the variant before it whose model it starts from, with the same
        seed; its files must include models/pretrained.gin. None: from scratch.
      evaluation: The gin file it is measured by, if not the scale's.
    """

    name: str
    baseline: str
    files: Sequence[str]
    params: Sequence[str] = ()
    start: str | None = None
    evaluation: str | None = None


@dataclasses.dataclass(frozen=True)
class Scale:
    """A study at a certain cost.

    Attributes:
      variants: The rows.
      evaluation: The gin file of `evaluation/` that all of them are measured by.
      evaluation_params: Gin bindings read after it.
      seeds: Number of seeds if the user gives none.
    """

    variants: Sequence[Variant]
    evaluation: str
    evaluation_params: Sequence[str] = ()
    seeds: int = 1


@dataclasses.dataclass(frozen=True)
class Study:
    """A question, asked at several scales.

    Attributes:
      summary: The question, in one line.
      scales: By name; the first is the one that runs if the user names none.
      preset: Of the report, see `bin/report --help`.
    """

    summary: str
    scales: Mapping[str, Scale]
    preset: str | None = None


def all_studies() -> dict[str, Study]:
    """The studies by name, which is their module's."""
    found = {}
    for module in pkgutil.iter_modules(studies.__path__, f"{studies.__name__}."):
        study = getattr(importlib.import_module(module.name), "STUDY", None)
        if study is not None:
            found[module.name.rpartition(".")[2]] = study
    return found


def nodes(
    scale: Scale,
    seeds: int,
    root: Path,
    gin_params: Sequence[str] = (),
    allowed: Sequence[str] = (),
) -> list[Node]:
    """A training and an evaluation for each variant and seed.

    Args:
      scale: What is run.
      seeds: Number of seeds: 0, 1, ..
      root: Runs go to `<root>/<variant>-seed<seed>`.
      gin_params: Bindings that each training reads last.
      allowed: What gin may import beside tfssl, see `config.parse`.
    """
    found = []
    # Seeds outermost: a study cut short has whole rows, if of fewer seeds.
    for seed in range(seeds):
        for variant in scale.variants:
            run_dir = _run_dir(root, variant, seed)
            own = [f"NAME='{variant.name}'", f"SEED={seed}"]
            needs = []
            if variant.start:
                start = root / f"{variant.start}-seed{seed}"
                own.append(f"PRETRAINED='{start / 'model.keras'}'")
                needs = [f"train {start.name}"]
            params = [*own, *variant.params, *gin_params]
            train = _node("train", run_dir, variant.files, params, allowed)
            params = () if variant.evaluation else scale.evaluation_params
            files = [variant.evaluation or scale.evaluation]
            evaluate = _node("evaluate", run_dir, files, params, allowed)
            found += [
                dataclasses.replace(train, needs=needs),
                dataclasses.replace(evaluate, needs=[train.name]),
            ]
    return found


def write_report(
    scale: Scale, seeds: int, root: Path, preset: str | None = None
) -> str:
    """Writes `<root>/report`, with a folder for each baseline if there are several.

    Args:
      scale, seeds, root: As for `nodes`.
      preset: See `Study`.

    Returns:
      The tables as text.
    """
    baselines = list(dict.fromkeys(variant.baseline for variant in scale.variants))
    texts = []
    for baseline in baselines:
        runs = [
            _run_dir(root, variant, seed)
            for variant in scale.variants
            if variant.baseline == baseline
            for seed in range(seeds)
        ]
        out = root / "report"
        if len(baselines) > 1:
            out /= baseline
        texts.append(report.write(runs, out, baseline, preset))
    return "\n".join(texts)


def _run_dir(root: Path, variant: Variant, seed: int) -> Path:
    return root / f"{variant.name}-seed{seed}"


def _node(
    program: str,
    run_dir: Path,
    files: Sequence[str],
    params: Sequence[str],
    allowed: Sequence[str],
) -> Node:
    flags = [("--gin_file", file) for file in files]
    flags += [("--gin_param", param) for param in params]
    flags += [("--allow_import", module) for module in allowed]
    flags.append(("--run_dir", str(run_dir)))
    arguments = [part for flag in flags for part in flag]
    return Node(
        name=f"{program} {run_dir.name}",
        command=[sys.executable, "-m", f"tfssl.cli.{program}", *arguments],
        log=run_dir / f"{program}.log",
        is_finished=functools.partial(_is_finished, program, run_dir, arguments),
    )


def _is_finished(program: str, run_dir: Path, arguments: Sequence[str]) -> bool:
    """Whether a program has finished with these arguments.

    If it finished with others it is started nevertheless, and decides itself whether
    they come to the same, can be added to what is there, or contradict it.
    """
    if program == "train":
        record = _read(run_dir / "manifest.json")
        if "finished" not in record:
            return False
    else:
        record = _read(run_dir / "results" / "command.json")
    return _settings(record.get("command", [None])[1:]) == _settings(arguments)


def _read(path: Path) -> dict:
    """A JSON file; what cannot be read is left to the programs to complain of."""
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError):
        return {}


def _settings(arguments: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of flag and value, of those that make a difference to what comes out."""
    pairs = zip(arguments[::2], arguments[1::2], strict=False)
    # A run may be moved.
    return sorted(p for p in pairs if p[0] not in ("--run_dir", "--allow_import"))
