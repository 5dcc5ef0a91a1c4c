import json

import numpy as np
import pytest
import tensorflow as tf

from tfssl.evaluation import journal
from tfssl.evaluation.classifier import Classifier
from tfssl.evaluation.ensemble import Ensemble
from tfssl.evaluation.evaluate import evaluate
from tfssl.evaluation.evaluators import AttackCurve
from tfssl.evaluation.minimum_norm import MinimumNormCurve
from tfssl.evaluation.subject import Subject
from tfssl.types import UserError

GRID = ["0", "4/255", "8/255", "16/255", "24/255", "64/255"]


class Optimal:
    """The best linf perturbation of a linear model towards some of the classes.

    Towards a class the best image is known: each pixel moves by epsilon, or to the
    border of its range, with the sign of the difference of the weights.
    """

    def __init__(self, ball, weights, towards=range(10)):
        self.ball = ball
        self.towards = list(towards)
        self._kernel = weights[0]
        self.attacked = []

    def perturb(self, logits_fn, image, label, seed, epsilon):
        best, most = image, tf.fill(tf.shape(label), -float("inf"))
        mine = tf.gather(tf.transpose(self._kernel), label)
        for target in self.towards:
            sign = tf.sign(self._kernel[:, target] - mine)
            moved = tf.clip_by_value(
                image + epsilon * tf.reshape(sign, tf.shape(image)), 0.0, 1.0
            )
            logits = logits_fn(moved)
            gain = logits[:, target] - tf.gather(logits, label, batch_dims=1)
            gain = tf.where(label == target, -float("inf"), gain)
            better = gain > most
            best = tf.where(better[:, None, None, None], moved, best)
            most = tf.where(better, gain, most)
        return best

    def closest(self, logits_fn, image, label, seed):
        low, high = tf.zeros([len(image), 1, 1, 1]), tf.ones([len(image), 1, 1, 1])
        for _ in range(24):
            middle = (low + high) / 2
            moved = self.perturb(logits_fn, image, label, seed, middle)
            wrong = tf.argmax(logits_fn(moved), 1, tf.int32) != label
            wrong = wrong[:, None, None, None]
            low, high = tf.where(wrong, low, middle), tf.where(wrong, middle, high)
        return self.perturb(logits_fn, image, label, seed, high)


@pytest.fixture
def optimal(attack, weights):
    return Optimal(attack.ball, weights)


def measure(evaluator, model, dataset):
    """From a cell's name to its outcome."""
    subject = Subject(Classifier(model), dataset, "test", 64, 0)
    outcomes = {}
    for cell in evaluator.cells():
        outcomes[cell.name] = evaluator.measure(cell, subject, outcomes)
    return outcomes


def correct(outcomes, epsilon, attack=None):
    name = f"epsilon_{epsilon!r}" + (f"_{attack}" if attack else "")
    return outcomes[name]["correct"]


@pytest.fixture
def exact(make_model, dataset, optimal):
    """The curve that is known in closed form, upwards."""
    outcomes = measure(AttackCurve(optimal, GRID, "a"), make_model(), dataset)
    return {epsilon: correct(outcomes, epsilon) for epsilon in radii()}


def radii():
    return [int(epsilon.split("/")[0]) / 255 for epsilon in GRID[1:]]


def test_downwards_is_upwards(make_model, dataset, optimal, exact):
    dataset.visited.clear()
    outcomes = measure(Ensemble({"o": optimal}, GRID, "e"), make_model(), dataset)
    for epsilon, expected in exact.items():
        np.testing.assert_array_equal(correct(outcomes, epsilon, "o"), expected)
    assert 0 < exact[16 / 255].sum() < exact[4 / 255].sum()
    # What withstands is attacked once, and what was broken from nearer not again.
    counts = [outcome["correct"].sum() for outcome in outcomes.values()]
    right, upwards = counts[0], 230 + sum(counts[i] for i in (0, 2, 3, 4, 5))
    assert dataset.visited[:2] == [230, right]
    assert sum(dataset.visited) < upwards
    for i in range(2, len(dataset.visited)):
        assert dataset.visited[i] <= right - counts[i - 1]


def test_distances_are_real_ones_and_at_most_epsilon(make_model, dataset, optimal):
    outcomes = measure(Ensemble({"o": optimal}, GRID, "e"), make_model(), dataset)
    known = measure(MinimumNormCurve(optimal, GRID, "m"), make_model(), dataset)
    nearest = known["epsilon_0.0"]["distance"]
    for epsilon in radii():
        found = outcomes[f"epsilon_{epsilon!r}_o"]["distance"]
        broken = ~correct(outcomes, epsilon, "o")
        assert (found[broken] <= epsilon * (1 + 1e-6)).all()
        right = outcomes["clean"]["correct"]
        assert (found >= nearest * (1 - 1e-5))[right].all()


def test_one_minimum_norm_attack_gives_the_curve(make_model, dataset, optimal, exact):
    dataset.visited.clear()
    outcomes = measure(MinimumNormCurve(optimal, GRID, "m"), make_model(), dataset)
    for epsilon, expected in exact.items():
        np.testing.assert_array_equal(correct(outcomes, epsilon), expected)
    assert dataset.visited == [230]


def test_a_minimum_norm_grid_can_move(model_path, dataset, optimal, tmp_path):
    def run(grid):
        curve = MinimumNormCurve(optimal, grid, "m")
        return evaluate(tmp_path / "a", model_path, dataset, [curve], batch_size=230)

    first = run(["0", "8/255"])
    dataset.visited.clear()
    second = run(["8/255", "16/255"])
    assert dataset.visited == [230]  # A look at the model; nothing is attacked again.
    assert second[0] == first[1]
    assert second[1].value < second[0].value


def test_each_attack_gets_what_stands_and_the_worst_counts(
    make_model, dataset, weights, attack, exact
):
    halves = {
        "even": Optimal(attack.ball, weights, range(0, 10, 2)),
        "odd": Optimal(attack.ball, weights, range(1, 10, 2)),
    }
    ensemble = Ensemble(halves, ["16/255"], "e")
    dataset.visited.clear()
    outcomes = measure(ensemble, make_model(), dataset)
    clean, even, odd = (outcome["correct"] for outcome in outcomes.values())
    assert dataset.visited == [230, clean.sum(), even.sum()]
    np.testing.assert_array_equal(odd, exact[16 / 255])
    (alone,) = list(measure(AttackCurve(halves["odd"], ["16/255"], "o"), make_model(),
                            dataset).values())  # fmt: skip
    np.testing.assert_array_equal(odd, even & alone["correct"])
    metrics = [cell.metric for cell in ensemble.cells()]
    assert metrics == ["accuracy", "accuracy after even", "accuracy"]


def test_an_attack_without_gradients_that_helps_is_marked(
    make_model, dataset, weights, attack
):
    blind = Optimal(attack.ball, weights, [0])
    free = Optimal(attack.ball, weights)
    ensemble = Ensemble({"blind": blind, "free": free}, ["16/255"], "e")
    outcomes = measure(ensemble, make_model(), dataset)
    assert ensemble.marks(outcomes) == {}
    free.gradient_free = True
    assert "free lowers" in ensemble.marks(outcomes)["gradient_free_attack_helps"]
    # First in line it is not expected to find nothing.
    ensemble = Ensemble({"free": free, "blind": blind}, ["16/255"], "e")
    outcomes = measure(ensemble, make_model(), dataset)
    assert ensemble.marks(outcomes) == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attacks": {}}, "a dict of names and attacks"),
        ({"attacks": [1]}, "a dict of names and attacks"),
        ({"attacks": {"a/b": 1}}, "folder"),
        ({"epsilons": "8/255"}, "must be a list"),
        ({"epsilons": ["8/255", "4/255"]}, "must ascend"),
        ({"epsilons": ["8"]}, "8/255"),
        ({"name": "a/b"}, "folder"),
    ],
)
def test_wrong_settings(optimal, change, message):
    settings = {"attacks": {"o": optimal}, "epsilons": GRID, "name": "e"} | change
    with pytest.raises(UserError, match=message):
        Ensemble(**settings)


class _Kill(BaseException):
    pass


class _Dying:
    """A data set whose batches end with a kill, after some more of them."""

    def __init__(self, dataset, lives):
        self._dataset = dataset
        self._lives = lives

    def __getattr__(self, name):
        return getattr(self._dataset, name)

    def eval_batches(self, *args, **kwargs):
        def batches(all_of_them):
            for batch in all_of_them:
                if not self._lives:
                    raise _Kill
                self._lives -= 1
                yield batch

        found = self._dataset.eval_batches(*args, **kwargs)
        return _Iterable(found, batches(found))


class _Iterable:
    def __init__(self, whole, some):
        self.as_numpy_iterator = whole.as_numpy_iterator
        self._some = some

    def __iter__(self):
        return self._some


def test_killed_within_a_cell_and_resumed(
    make_model, model_path, dataset, attack, weights, tmp_path, monkeypatch
):
    monkeypatch.setattr(journal, "SECONDS", 0)
    monkeypatch.setattr(
        tf.distribute.Strategy, "experimental_distribute_dataset", lambda _, x: x
    )
    ensemble = Ensemble(
        {
            "even": Optimal(attack.ball, weights, range(0, 10, 2)),
            "odd": Optimal(attack.ball, weights, range(1, 10, 2)),
        },
        ["8/255", "24/255"],
        "e",
    )

    def run(folder, data):
        # The runs have one name, so that their rows can be the same.
        (tmp_path / folder).mkdir(exist_ok=True)
        manifest = tmp_path / folder / "manifest.json"
        manifest.write_text('{"name": "r", "seed": 0}')
        return evaluate(tmp_path / folder, model_path, data, [ensemble], batch_size=16)

    def contents(folder):
        found = {}
        for path in sorted((tmp_path / folder / "results").rglob("*.*")):
            if path.suffix == ".json":
                found[path.name] = json.loads(path.read_text()) | {"seconds": 0}
            else:
                found[path.name] = path.read_bytes()
        return found

    rows = run("whole", dataset)
    dataset.visited.clear()
    run("again", dataset)
    # The first batch is looked at by itself.
    work = sum(-(-n // 16) for n in dataset.visited[1:])
    for lives in (0, 20, work - 1):
        folder = f"killed_{lives}"
        with pytest.raises(_Kill):
            run(folder, _Dying(dataset, lives))
        dataset.visited.clear()
        assert run(folder, dataset) == rows
        left = sum(-(-n // 16) for n in dataset.visited[1:])
        assert left == work - lives, lives
        assert contents(folder) == contents("whole")


def test_a_journal_of_something_else_is_ignored(tmp_path):
    path = tmp_path / "a.part.npz"
    assert journal.Journal(path, "one").read() == {}
    journal.Journal(path, "one").write({"id": np.arange(3)})
    np.testing.assert_array_equal(journal.Journal(path, "one").read()["id"], [0, 1, 2])
    assert journal.Journal(path, "two").read() == {}
    path.write_bytes(path.read_bytes()[:-20])
    assert journal.Journal(path, "one").read() == {}
