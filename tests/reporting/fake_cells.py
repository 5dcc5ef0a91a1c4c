"""Made-up results, as the evaluation writes them."""

import json

import numpy as np

N = 400
EPS = 8 / 255


def write_cell(folder, strength, value, run="at", seed=0, correct=None, **changes):
    """A finished cell as the evaluation writes it; returns its path."""
    row = {
        "run": run,
        "seed": seed,
        "dataset": "digits",
        "split": "test",
        "evaluator": "pgd_linf",
        "perturbation": "linf",
        "strength": strength,
        "metric": "accuracy",
        "value": value,
        "n": N,
        "low": value - 0.05,
        "high": value + 0.04,
    }
    settings = changes.pop("settings", {"model": run, "steps": 20})
    name = changes.pop("cell", None)
    row |= changes
    name = name or f"{strength!r}_{row['metric']}"
    path = folder / "results" / row["evaluator"] / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    cell = {"key": "k", "row": row, "settings": settings, "seconds": 1.0}
    path.write_text(json.dumps(cell))
    if correct is not None:
        np.savez(path.with_suffix(".npz"), ids=np.arange(N), correct=correct)
    return path


def curve(folder, run, seed, values, strengths=(0.0, 4 / 255, EPS), **changes):
    for strength, value in zip(strengths, values, strict=True):
        write_cell(folder, strength, value, run, seed, **changes)


def write_marks(folder, about, **marks):
    """Marks from one source; those there are replaced."""
    path = folder / "results" / "marks.json"
    path.write_text(json.dumps({"source": {"about": about, "marks": marks}}))
    return path


def one(found):
    (summary,) = found
    return summary
