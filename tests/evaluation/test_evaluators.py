import numpy as np
import pytest
import tensorflow as tf

from tfssl.evaluation.classifier import Classifier
from tfssl.evaluation.evaluators import AttackCurve, Clean
from tfssl.evaluation.gates import GateError
from tfssl.evaluation.subject import Subject
from tfssl.types import UserError

GRID = ["0", "8/255", "24/255", "64/255"]


def measure(evaluator, model, dataset, batch_size=64, seed=0):
    """[cells, n] bool."""
    subject = Subject(Classifier(model), dataset, "test", batch_size, seed)
    outcomes = {}
    for cell in evaluator.cells():
        outcomes[cell.name] = evaluator.measure(cell, subject, outcomes)
    return np.stack([outcome["correct"] for outcome in outcomes.values()])


def test_clean_is_that_of_numpy_and_padding_does_not_count(
    make_model, dataset, weights
):
    logits = dataset.image.reshape(-1, 64) @ weights[0] + weights[1]
    expected = logits.argmax(axis=1) == dataset.label
    assert not expected.all()  # Else the comparison would show little.
    for batch_size in (1, 64, 230, 500):
        (correct,) = measure(Clean(), make_model(), dataset, batch_size)
        np.testing.assert_array_equal(correct, expected)


def test_curve_is_monotone_and_starts_at_clean(make_model, dataset, attack):
    model = make_model()
    (clean,) = measure(Clean(), model, dataset)
    curve = measure(AttackCurve(attack, GRID, "sign"), model, dataset)
    np.testing.assert_array_equal(curve[0], clean)
    assert (curve[1:] <= curve[:-1]).all()
    accuracy = curve.mean(axis=1)
    assert accuracy[0] > accuracy[1] > accuracy[2] > accuracy[3]
    # A grid without 0 still starts from the images that are right when clean.
    (alone,) = measure(AttackCurve(attack, ["8/255"], "sign"), model, dataset)
    np.testing.assert_array_equal(alone, curve[1])


def test_curve_against_the_attack_one_image_at_a_time(make_model, dataset, attack):
    model = make_model()
    curve = measure(AttackCurve(attack, GRID, "sign"), model, dataset)
    batch = next(iter(dataset.eval_batches("test", 230, 0)))
    correct = np.ones(230, bool)
    for epsilon, measured in zip([0, 8 / 255, 24 / 255, 64 / 255], curve, strict=True):
        for i in range(0, 230, 5):
            image, label, seed = (
                batch[k][i : i + 1] for k in ("image", "label", "seed")
            )
            attacked = attack.perturb(
                model, image, label, seed, tf.constant(epsilon, tf.float32)
            )
            correct[i] &= np.argmax(model(attacked)) == label.numpy()[0]
        np.testing.assert_array_equal(correct[::5], measured[::5])


def test_only_survivors_are_attacked(make_model, dataset, attack):
    dataset.visited.clear()
    curve = measure(AttackCurve(attack, GRID, "sign"), make_model(), dataset)
    survivors = curve.sum(axis=1).tolist()
    assert dataset.visited == [230, *survivors[:-1]]


def test_nothing_runs_when_nobody_survives(make_model, dataset, attack):
    dataset.visited.clear()
    curve = measure(AttackCurve(attack, ["0", "0.9", "1"], "s"), make_model(), dataset)
    assert curve[1].sum() == curve[2].sum() == 0
    assert len(dataset.visited) == 2


def test_results_do_not_depend_on_the_batch_but_on_the_seed(
    make_model, dataset, attack
):
    model, evaluator = make_model(), AttackCurve(attack, GRID, "sign")
    curve = measure(evaluator, model, dataset)
    for batch_size in (7, 500):
        np.testing.assert_array_equal(
            measure(evaluator, model, dataset, batch_size), curve
        )
    assert (measure(evaluator, model, dataset, seed=1) != curve).any()


@pytest.mark.parametrize("eager", [False, True])
def test_two_replicas_equal_one(make_model, dataset, attack, eager, two_replicas):
    attack.eager = eager
    evaluator = AttackCurve(attack, GRID, "sign")
    curve = measure(evaluator, make_model(), dataset)
    with two_replicas.scope():
        np.testing.assert_array_equal(
            measure(evaluator, make_model(), dataset, 62), curve
        )
        with pytest.raises(UserError, match="multiple of the number of devices, 2"):
            measure(evaluator, make_model(), dataset, 63)


def test_one_graph_for_all_epsilons(make_model, dataset, attack):
    traces = []
    perturb = attack.perturb
    attack.perturb = lambda *args: traces.append(args[-1]) or perturb(*args)
    model = make_model()
    curve = measure(AttackCurve(attack, GRID, "sign"), model, dataset)
    assert len(traces) == 1

    attack.eager = True
    traces.clear()
    eager = measure(AttackCurve(attack, GRID, "sign"), model, dataset)
    np.testing.assert_array_equal(eager, curve)
    assert set(traces) == {8 / 255, 24 / 255, 64 / 255}
    assert all(isinstance(epsilon, float) for epsilon in traces)


def test_a_cheating_attack_is_caught(make_model, dataset, attack):
    evaluator = AttackCurve(attack, ["8/255"], "sign")
    attack.reach = 1.01
    with pytest.raises(GateError, match="sign: the attack left its ball: linf"):
        measure(evaluator, make_model(), dataset)

    attack.perturb = lambda logits, image, label, seed, epsilon: image - epsilon
    with pytest.raises(GateError, match=r"left \[0, 1\]"):
        measure(evaluator, make_model(), dataset)

    attack.perturb = lambda logits, image, *_: image * float("nan")
    with pytest.raises(GateError, match="left its ball"):
        measure(evaluator, make_model(), dataset)


def test_the_l2_ball_is_checked_over_the_whole_image(make_model, dataset, attack):
    attack.ball.name = "l2"
    evaluator = AttackCurve(attack, ["0.5"], "step")
    for length, fine in [(0.5, True), (0.51, False)]:

        def perturb(logits, image, *_, length=length):
            delta = tf.random.stateless_uniform(tf.shape(image), [0, 1])
            delta *= tf.where(image > 0.5, -1.0, 1.0)
            return image + length * delta / tf.norm(delta, axis=[1, 2], keepdims=True)

        attack.perturb = perturb
        if fine:
            assert measure(evaluator, make_model(), dataset).mean() > 0.5
        else:
            with pytest.raises(GateError, match=r"l2 distance 0\.51"):
                measure(evaluator, make_model(), dataset)


@pytest.mark.parametrize(
    ("epsilons", "name", "message"),
    [
        (["0", "8"], "a", "epsilon 8 is out of range.*8/255"),
        (["8/255", "4/255"], "a", "must ascend"),
        (["0", "0"], "a", "must ascend"),
        ([], "a", "must ascend"),
        (["8/25x"], "a", "not a size"),
        (["0"], "../a", "folder"),
    ],
)
def test_wrong_settings(attack, epsilons, name, message):
    with pytest.raises(UserError, match=message):
        AttackCurve(attack, epsilons, name)


def test_unknown_ball(attack):
    attack.ball.name = "l7"
    with pytest.raises(UserError, match="no check for the ball 'l7'"):
        AttackCurve(attack, ["0"], "a")


def test_logits_that_are_not_finite_are_wrong(make_model, dataset):
    model = make_model()
    model.layers[-1].bias.assign([np.nan] * 10)
    assert not measure(Clean(), model, dataset).any()
