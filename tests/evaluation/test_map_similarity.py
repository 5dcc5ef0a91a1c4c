"""Similarities of maps: closed forms, numpy, maps of which there is none."""

import numpy as np
import pytest
import tensorflow as tf

from tfssl.evaluation.map_similarity import cosine, pearson, top_overlap
from tfssl.types import UserError

RNG = np.random.default_rng(0)
ONE, OTHER = RNG.random((4, 5, 6), np.float32), RNG.random((4, 5, 6), np.float32)
ZERO = np.zeros([1, 2, 2], np.float32)
# In single precision the mean of these differs from them.
CONSTANT = np.full([1, 3, 7], 0.1, np.float32)


def test_pearson():
    want = [
        np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(ONE, OTHER, strict=True)
    ]
    np.testing.assert_allclose(pearson(ONE, OTHER), want, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(pearson(ONE, 3 * ONE + 2), 1, rtol=1e-5)
    np.testing.assert_allclose(pearson(ONE, -ONE), -1, rtol=1e-5)
    assert np.isnan(pearson(CONSTANT, RNG.random((1, 3, 7))))
    assert np.isnan(pearson(CONSTANT, CONSTANT))


def test_cosine():
    want = [
        (a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum())
        for a, b in zip(ONE, OTHER, strict=True)
    ]
    np.testing.assert_allclose(cosine(ONE, OTHER), want, rtol=1e-5)
    np.testing.assert_allclose(cosine(ONE, 3 * ONE), 1, rtol=1e-5)
    apart = np.array([[[1.0, 0], [2, 0]]]), np.array([[[0.0, 3], [0, 1]]])
    assert cosine(*apart) == 0
    assert np.isnan(cosine(ZERO, ZERO + 1))
    np.testing.assert_allclose(cosine(CONSTANT, CONSTANT), 1, rtol=1e-5)


def test_overlap_of_the_highest_pixels():
    # Two of the ten pixels each: 9 and 8, and 8 and 7 of the first map.
    one = np.arange(10.0).reshape(1, 2, 5)
    other = np.where(one == 9, 0, one)
    assert top_overlap(one, one) == 1
    assert top_overlap(one, 5 * one) == 1
    np.testing.assert_allclose(top_overlap(one, other), 1 / 3)
    assert top_overlap(one, one[:, ::-1, ::-1]) == 0
    # All but 0: the numbers 1 to 9 against 0 to 8 reversed, of which 8 are common.
    reverse = one[:, ::-1, ::-1]
    np.testing.assert_allclose(top_overlap(one, reverse, 1.0), 8 / 10)
    # One pixel at least.
    assert top_overlap(one, one, 0.01) == 1


def test_overlap_of_ties_and_of_nothing():
    # Of the first the fifth is one pixel; three are as high.
    tied = np.array([[[1.0, 1, 1, 0, 0]]])
    single = np.array([[[1.0, 0, 0, 0, 0]]])
    np.testing.assert_allclose(top_overlap(tied, single), 1 / 3)
    # Of four pixels asked for, only one is there.
    np.testing.assert_allclose(top_overlap(single, single, 0.8), 1)
    assert top_overlap(ZERO, ZERO + np.eye(2)) == 0
    assert np.isnan(top_overlap(ZERO, ZERO))


def test_in_graphs_of_unknown_sizes():
    for function in (pearson, cosine, top_overlap):
        spec = tf.TensorSpec([None, None, None])
        graph = tf.function(function, input_signature=[spec, spec])
        np.testing.assert_allclose(
            graph(ONE, OTHER), function(ONE, OTHER), rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize("share", [0, -0.1, 1.1])
def test_shares_that_are_none_are_told(share):
    with pytest.raises(UserError, match="share must lie in"):
        top_overlap(ONE, OTHER, share)
