"""Whether the worst case within limits reaches a number, against the support function."""

from itertools import product

import numpy as np
import pytest

from sklearn_robust.threats import Box, LpBall, at, reaches, support
from sklearn_robust.threats._decisions import decide


def samples(rng, n, d):
    X = rng.random((n, d))
    X[: n // 3] = X[: n // 3].round()  # many features at their limits
    return X


@pytest.mark.parametrize("q", [1, 2, np.inf])
@pytest.mark.parametrize("shared", [True, False])
def test_decisions_are_those_of_the_support_function(q, shared):
    rng = np.random.default_rng(0)
    for eps in (0.0, 0.1, 1.0, 5.0):
        X = samples(rng, 60, 8)
        v = rng.normal(size=8 if shared else (60, 8)).round(1)
        scale = rng.uniform(0, 2, 8) * (rng.random(8) < 0.8)
        sets = at(LpBall(q, eps, scale, clip=(0, 1)), X, rng.choice([0.0, 0.5, 1.0], 60))
        worst = support(sets, v)
        for factor in (0.9, 1.0, 1.1):
            np.testing.assert_array_equal(
                reaches(sets, v, factor * worst + 1e-9), worst >= factor * worst + 1e-9
            )


def test_most_are_decided_without_the_support_function():
    rng = np.random.default_rng(1)
    X, v = samples(rng, 300, 20), rng.normal(size=20)
    for q, size in ((1, 2.0), (2, 0.5), (np.inf, 0.2)):
        worst = support(at(LpBall(q, size, clip=(0, 1)), X), v)
        reached, left = decide(q, X, v, (0, 1), size, None, worst * rng.uniform(0.5, 1.5, 300))
        assert left.mean() < 0.1
        assert 0.2 < reached.mean() < 0.8


def test_missing_values_ends_and_numbers_that_are_met():
    X = np.array([[0.5, np.nan], [0.5, 0.9], [0.0, 1.0]])
    v = np.array([1.0, 2.0])
    for q in (1, 2, np.inf):
        for clip in ((0, 1), (0, np.inf), (-np.inf, 1)):
            sets = at(LpBall(q, 0.3, clip=clip), X)
            worst = support(sets, v)
            assert reaches(sets, v, worst).all()
            assert not reaches(sets, v, np.nextafter(worst, 9)).any()
    sets = at(Box(0, [0.2, np.inf], clip=(0, 1)), X)
    assert reaches(sets, v, support(sets, v)).all()
    assert not reaches(sets, v, np.full(3, np.inf)).any()


@pytest.mark.parametrize("offset", [0.0, 100.0, -1e6])
@pytest.mark.parametrize("unit", [1e-160, 1e-3, 1e140])
def test_decisions_are_right_in_any_unit_and_far_from_zero(offset, unit):
    rng = np.random.default_rng(2)
    X = offset + samples(rng, 40, 6)
    for q, eps, v in product(
        (1, 2, np.inf), (1e-140, 0.3), (np.resize([1.0, -1.0], 6), rng.normal(size=(40, 6)))
    ):
        sets = at(LpBall(q, eps, clip=(offset, offset + 1)), X)
        worst = support(sets, unit * v)
        for factor in (0.5, 1 - 1e-9, 1 + 1e-9, 2.0):
            np.testing.assert_array_equal(
                reaches(sets, unit * v, factor * worst), worst >= factor * worst
            )


def test_a_feature_of_tiny_slope_counts_where_the_others_are_at_their_limits():
    X, v, scale = np.array([[0.0, 0.2]]), np.array([-1.0, 1e-175]), np.array([1e150, 1.0])
    sets = at(LpBall(1, 0.3, scale, clip=(0, 1)), X)
    assert reaches(sets, v, np.array([2.9e-176])).all()
    assert not reaches(sets, v, np.array([3.1e-176])).any()


def test_slopes_whose_squares_vanish_are_left_to_the_support_function():
    X, v = np.array([[0.0, 0.2, 0.5]]), np.array([-1.0, -1e-160, -1e-190])
    sets = at(LpBall(2, 1e-4, np.array([1e-135, 1e-84, 1e-126]), clip=(0, 1)), X)
    worst = support(sets, v)
    assert worst > 0
    assert reaches(sets, v, 0.9 * worst).all()
    assert not reaches(sets, v, 1.1 * worst).any()
