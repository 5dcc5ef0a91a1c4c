"""One of several workers, started by test_workers: python on_worker.py OUT METHOD ..

Trains each method, then a run with files, and evaluates a model; the chief keeps what
it finds in OUT.
"""

import json
import sys
from pathlib import Path

import numpy as np

from tfssl import distribute

STEPS, RATE = 5, 0.01  # With larger steps rounding grows fast.


def run_with_files(folder, model):
    """A training and an evaluation by gin, as bin/train and bin/evaluate do them."""
    from tfssl import config
    from tfssl.evaluation.evaluate import evaluate
    from tfssl.training.loop import train

    files = ["runs/train.gin", "data/digits.gin", "models/tiny.gin"]
    files += ["terms/standard.gin"]
    params = ["NAME='run'", "EPOCHS=2", "BATCH_SIZE=50", "Dataset.num_examples=200"]
    params += [f"LEARNING_RATE={RATE}"]
    config.parse(files, [*params, "train.log_every=2"])
    train(folder / "run")
    config.parse(
        ["data/digits.gin", "evaluation/pgd20_linf.gin", "evaluation/linear.gin"],
        [
            "EVALUATORS=[@Clean(), @pgd20_linf/AttackCurve(), @LinearProbe()]",
            "pgd20_linf/AttackCurve.epsilons=['0', '16/255']",
            "LinearProbe.l2=[0.01]",
            "Dataset.num_examples=200",
            # 300 examples make a last batch that is not full.
            "evaluate.examples=300",
            "evaluate.batch_size=128",
        ],
    )
    rows = evaluate(folder / "evaluated", model)
    return [[row.evaluator, row.strength, row.value, row.n] for row in rows]


def main(out, methods):
    import methods as tiny

    distribute.join_cluster()
    strategy = distribute.strategy()
    for method in methods:
        logs, values = tiny.trained(method, strategy, STEPS, RATE)
        if distribute.is_chief():
            np.savez(out / f"{method}.npz", logs=json.dumps(logs), **values)
    rows = run_with_files(out, out / "model.keras")
    if distribute.is_chief():
        (out / "rows.json").write_text(json.dumps(rows))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
