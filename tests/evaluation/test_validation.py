import gin
import pytest

from tfssl import config
from tfssl.evaluation.evaluate import evaluate
from tfssl.evaluation.evaluators import AttackCurve, Clean
from tfssl.evaluation.validation import Validation
from tfssl.types import UserError


def test_numbers_are_those_of_evaluate(
    make_model, model_path, dataset, attack, tmp_path
):
    evaluators = [
        Clean(),
        AttackCurve(attack, ["8/255"], "one"),
        AttackCurve(attack, ["4/255", "8/255"], "two"),
    ]
    validation = Validation(evaluators, split="test", batch_size=100)
    rows = evaluate(tmp_path / "run", model_path, dataset, evaluators)
    labels = ["clean", "one", "two@0.0157", "two@0.0314"]
    assert validation.labels() == labels
    expected = dict(zip(labels, (row.value for row in rows), strict=True))
    assert validation(make_model(), dataset) == expected


def test_weights_that_moved_are_seen_without_a_new_graph(make_model, dataset, attack):
    traces = []
    perturb = attack.perturb
    attack.perturb = lambda *args: traces.append(args) or perturb(*args)
    validation = Validation([Clean(), AttackCurve(attack, ["8/255"], "sign")])
    model = make_model()
    before = validation(model, dataset)
    weights = model.get_weights()
    model.layers[-1].kernel.assign(-weights[0])
    worse = validation(model, dataset)
    assert worse["clean"] < 0.2 < before["clean"]
    model.set_weights(weights)
    assert validation(model, dataset) == before
    assert len(traces) == 1
    # Another model is not mistaken for the first.
    other = make_model()
    other.layers[-1].kernel.assign(-weights[0])
    assert validation(other, dataset) == worse


def test_labels_must_differ(attack):
    with pytest.raises(UserError, match="distinct labels"):
        Validation([AttackCurve(attack, ["0.10001", "0.10002"], "sign")])


def test_the_shipped_file_follows_epsilon():
    files = ["attacks/pgd_linf.gin", "validation/pgd10.gin"]
    config.parse(files, ["EPSILON = '4/255'"])
    validation = gin.query_parameter(
        "VALIDATION/gin.macro.value"
    ).scoped_configurable_fn()
    assert validation.labels() == ["clean", gin.query_parameter("%SELECT")]
    assert validation.evaluators[1].epsilons == [4 / 255]
    assert validation.evaluators[1].attack.epsilon is None
