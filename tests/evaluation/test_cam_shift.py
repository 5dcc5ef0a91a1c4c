"""Maps that stay, move and vanish, of a network whose maps are known."""

import keras
import numpy as np
import pytest
from fake_columns import Moved, Spots

from tfssl.evaluation.cam_shift import CamShift
from tfssl.evaluation.classifier import Classifier
from tfssl.evaluation.panels import Panels
from tfssl.evaluation.subject import Subject
from tfssl.types import UserError


def test_likeness_of_maps_that_are_known():
    image = keras.Input((4, 4, 1))
    features = keras.layers.Conv2D(
        2, 1, use_bias=False, kernel_initializer="ones", name="features_map"
    )(image)
    pooled = keras.layers.GlobalAveragePooling2D()(features)
    dense = keras.layers.Dense(4, kernel_initializer="ones", use_bias=False)
    model = keras.Model(image, dense(pooled))
    evaluator = CamShift([Moved()], "moves", [1, 2, 4])
    subject = Subject(Classifier(model), Spots(), "test", 4, 0)
    outcomes = {}
    for cell in evaluator.cells():
        outcomes[cell.name] = evaluator.measure(cell, subject, outcomes)
    # The same image: the same map. Another column: no pixel in common. No map: 0.
    for severity, expected in ((1, 1.0), (2, 0.0), (4, 0.0)):
        for ending in ("", ".overlap"):
            value = outcomes[f"moved_{severity}{ending}"]["value"]
            np.testing.assert_allclose(value, np.full(8, expected), atol=1e-6)

    # A class that nothing speaks for, in either image: two empty maps are alike.
    dense.set_weights([-np.ones([2, 4], np.float32)])
    found = evaluator.measure(evaluator.cells()[2], subject, {})
    np.testing.assert_array_equal(found["value"], np.ones(8))


@pytest.mark.parametrize("evaluator", [CamShift, Panels])
def test_a_model_without_a_features_map_is_refused_in_one_line(evaluator):
    image = keras.Input((4, 4, 1))
    model = keras.Model(image, keras.layers.Dense(4)(keras.layers.Flatten()(image)))
    evaluator = evaluator([Moved()], "moves", [1])
    subject = Subject(Classifier(model), Spots(), "test", 4, 0)
    with pytest.raises(UserError, match="has no layer called features_map"):
        evaluator.measure(evaluator.cells()[0], subject, {})


def test_maps_of_the_first_examples_alone():
    cells = CamShift([Moved()], "moves", [1], examples=3).cells()
    assert [cell.examples for cell in cells] == [3, 3]
    with pytest.raises(UserError, match="examples = 0 is no positive integer"):
        CamShift([Moved()], "moves", [1], examples=0)
