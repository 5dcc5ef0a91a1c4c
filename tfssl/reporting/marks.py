"""Reasons to doubt numbers, as the evaluation leaves them beside its results.

`<run_dir>/results/marks.json` says them, and of which evaluators' numbers:

    {source: {"about": [evaluators], "marks": {name: sentence}}}

'*' among the evaluators means all numbers measured under an attack.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from absl import logging

from tfssl.types import BALLS


@dataclasses.dataclass(frozen=True, order=True)
class Mark:
    """A reason to doubt the numbers of a run.

    Attributes:
      name: Short, for instance 'noise_beats_attack'.
      run, seed: Whose evaluation found it.
      sentence: What was found.
    """

    name: str
    run: str
    seed: int
    sentence: str


def read(run_dir: Path) -> list[tuple[set[str], dict[str, str]]]:
    """Evaluators and what is said of them, in pairs; a damaged file says nothing."""
    path = run_dir / "results" / "marks.json"
    try:
        return [
            (set(map(str, entry["about"])), dict(entry["marks"]))
            for entry in json.loads(path.read_text(encoding="utf-8")).values()
        ]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        logging.warning("ignored %s, it is damaged: %s", path, error)
        return []


def of(
    line: dict[str, Any], found: list[tuple[set[str], dict[str, str]]]
) -> frozenset[Mark]:
    """Those among what `read` has found that are about a line of `rows.read`."""
    attacked = line["perturbation"] in BALLS and line["strength"] > 0
    names = {line["evaluator"]} | ({"*"} if attacked else set())
    return frozenset(
        Mark(str(name), line["run"], line["seed"], str(sentence))
        for about, marks in found
        if names & about
        for name, sentence in marks.items()
    )


def explain(found: Iterable[tuple[frozenset[Mark], int]]) -> dict[str, list[str]]:
    """What marks stand for, by their names in the order of appearance.

    Args:
      found: The marks of each number, and over how many seeds it is.

    Returns:
      A line per sentence: 'name (run; other run, seed 0): sentence.' Seeds are named
      where not all seeds of a run have the mark.
    """
    number: dict[str, int] = {}
    names: dict[str, dict[str, dict[str, set[int]]]] = {}
    for marks, seeds in found:
        for mark in sorted(marks):
            number[mark.run] = max(number.get(mark.run, 0), seeds)
            runs = names.setdefault(mark.name, {}).setdefault(mark.sentence, {})
            runs.setdefault(mark.run, set()).add(mark.seed)
    lines: dict[str, list[str]] = {name: [] for name in names}
    for name, sentences in names.items():
        for sentence, runs in sentences.items():
            whose = [
                _whose(run, sorted(seeds), number[run]) for run, seeds in runs.items()
            ]
            lines[name].append(f"{name} ({'; '.join(whose)}): {sentence.rstrip('.')}.")
    return lines


def _whose(run: str, seeds: list[int], number: int) -> str:
    """A run, with its marked seeds unless these are all of that number."""
    some = ", ".join(map(str, seeds))
    return f"{run}, seed {some}" if len(seeds) < number else run
