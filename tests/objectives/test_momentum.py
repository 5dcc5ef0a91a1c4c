"""BYOL's schedule of the teacher's momentum."""

import pytest
import tensorflow as tf

from tfssl.objectives.momentum import cosine_momentum


def test_from_base_to_final_along_half_a_cosine():
    """1 - (1 - base) (cos(pi k / K) + 1) / 2 in Grill et al. 2020, section 3.3."""
    got = cosine_momentum(0.96, 1.0, tf.constant([0.0, 1 / 3, 0.5, 1.0]))
    assert list(got.numpy()) == pytest.approx([0.96, 0.97, 0.98, 1.0])
    assert float(cosine_momentum(0.5, 0.9, tf.constant(1.0))) == pytest.approx(0.9)
