"""The closed-form attack against brute force."""

import itertools
import math
from functools import partial

import numpy as np
import pytest

from sklearn_robust.attacks.linear import (
    boundary_distances,
    by_blocks,
    class_scores,
    robust_margins,
    robustly_correct,
    signed_distances,
    worst_case_perturbations,
)
from sklearn_robust.attacks.rivals import Rivals
from sklearn_robust.threats import Box, LpBall, at

N, D = 40, 5


class Own:
    """A set of each sample, with limits, of a class of one's own."""

    symmetric, per_sample = False, True

    def __init__(self, ball):
        self.ball, self.clip = ball, ball.clip

    def at(self, X, radius):
        return at(self.ball, X, radius)

    def worst(self, v):
        return self.ball.worst(v)


def vertices(q, d):
    """The extreme points of the unit ball, q in {1, inf}."""
    if q == 1:
        return np.concatenate([np.eye(d), -np.eye(d)])
    return np.array(list(itertools.product([-1.0, 1.0], repeat=d)))


@pytest.fixture(params=[1, 3, 4], ids=["binary", "3 classes", "4 classes"])
def model(request):
    rng = np.random.default_rng(request.param)
    k = request.param
    n_classes = max(k, 2)
    return (
        rng.normal(size=(N, D)),
        rng.integers(n_classes, size=N),
        rng.normal(size=(k, D)),
        rng.normal(size=k),
    )


@pytest.mark.parametrize("q", [1, math.inf])
@pytest.mark.parametrize("eps", [0.0, 0.1, 0.5])
def test_robust_decision_equals_brute_force_over_vertices(model, q, eps):
    X, y, coef, intercept = model
    robust = np.ones(N, dtype=bool)
    for delta in vertices(q, D):
        robust &= class_scores(X + eps * delta, coef, intercept).argmax(axis=1) == y
    assert 0 < robust.sum() < N
    np.testing.assert_array_equal(robust_margins(X, y, coef, intercept, LpBall(q, eps)) > 0, robust)


@pytest.mark.parametrize("eps", [0.1, 0.5])
def test_robust_decision_equals_the_analytic_points_for_q_2(model, eps):
    X, y, coef, intercept = model
    full = coef if len(coef) > 1 else np.concatenate([np.zeros_like(coef), coef])
    robust = np.ones(N, dtype=bool)
    for rival in range(len(full)):  # the nearest way to each rival, and a little beyond rounding
        direction = full[rival] - full[y]
        norms = np.linalg.norm(direction, axis=1, keepdims=True)
        step = eps * direction / np.where(norms > 0, norms, 1)
        robust &= class_scores(X + step, coef, intercept).argmax(axis=1) == y
    assert 0 < robust.sum() < N
    np.testing.assert_array_equal(robust_margins(X, y, coef, intercept, LpBall(2, eps)) > 0, robust)


@pytest.mark.parametrize("q", [1, 1.5, 2, 3, math.inf])
def test_the_worst_point_is_in_the_ball_and_attains_the_margin(model, q):
    X, y, coef, intercept = model
    threat = LpBall(q, 0.3)
    moves = worst_case_perturbations(X, y, coef, intercept, threat)
    assert np.all(threat.norm.value(moves) <= 0.3 * (1 + 1e-12))
    attained = robust_margins(X + moves, y, coef, intercept, LpBall(q, 0.0))
    np.testing.assert_allclose(attained, robust_margins(X, y, coef, intercept, threat), atol=1e-12)


@pytest.mark.parametrize("q", [1, 2, math.inf])
def test_the_distance_is_where_the_margin_vanishes(model, q):
    X, y, coef, intercept = model
    radius = signed_distances(X, y, coef, intercept, q)
    correct = class_scores(X, coef, intercept).argmax(axis=1) == y
    np.testing.assert_array_equal(radius > 0, correct)
    for i in np.flatnonzero(correct):
        just_inside = robust_margins(
            X[i : i + 1], y[i : i + 1], coef, intercept, LpBall(q, radius[i] * (1 - 1e-9))
        )
        just_outside = robust_margins(
            X[i : i + 1], y[i : i + 1], coef, intercept, LpBall(q, radius[i] * (1 + 1e-9))
        )
        assert just_inside > 0 > just_outside
    assert np.all(signed_distances(X, None, coef, intercept, q) >= 0)


def test_equal_coefficients_leave_the_intercept_to_decide():
    coef, intercept = np.zeros((1, 2)), np.array([1.0])
    X = np.zeros((1, 2))
    assert signed_distances(X, np.array([1]), coef, intercept, 2)[0] == math.inf
    assert signed_distances(X, np.array([0]), coef, intercept, 2)[0] == -math.inf


@pytest.mark.parametrize("q", [1, 2, math.inf])
def test_decisions_within_limits_are_the_signs_of_the_margins(q):
    """Most samples are decided without the limits, or by their nearest rival alone."""
    rng = np.random.default_rng(0)
    coef, X = rng.normal(size=(6, 20)), rng.uniform(size=(300, 20))
    y = (X @ coef.T).argmax(axis=1)
    eps = {1: 0.9, 2: 0.4, math.inf: 0.1}[q]
    threat = LpBall(q, eps, clip=(0.0, 1.0))
    margins = robust_margins(X, y, coef, np.zeros(6), threat)
    held = robustly_correct(X, y, coef, np.zeros(6), threat)
    np.testing.assert_array_equal(held, margins > 0)
    sets, v = at(threat, X), coef[0] - coef[1]
    np.testing.assert_allclose(sets.support(v), sets.worst(v) @ v)
    without = robust_margins(X, y, coef, np.zeros(6), LpBall(q, eps))
    assert (held & (without < 0)).any()
    np.testing.assert_array_equal(robustly_correct(X, y, coef, np.zeros(6), Own(threat)), held)
    with pytest.raises(ValueError, match="clip must hold every sample before it is perturbed"):
        robustly_correct(X + 2.0, y, coef, np.zeros(6), threat)


@pytest.mark.parametrize("clip", [None, (0.0, 1.0)])
def test_no_set_turns_a_class_whose_score_is_infinite(clip):
    """As that of a threshold which no score reaches."""
    X, y, coef, intercept = np.full((2, 1), 0.5), np.array([0, 1]), np.eye(1), np.array([-math.inf])
    threat = Box([-math.inf], [math.inf], clip=clip)
    margins = robust_margins(X, y, coef, intercept, threat)
    np.testing.assert_array_equal(margins, [math.inf, -math.inf])
    distances = partial(boundary_distances, rivals=Rivals(coef, threat, points=X))
    np.testing.assert_array_equal(by_blocks(distances, X, y, coef, intercept), margins)
    held = robustly_correct(X, y, coef, intercept, threat)
    np.testing.assert_array_equal(held, [True, False])


@pytest.mark.parametrize("clip", [None, (0.0, 1.0)])
def test_a_lead_of_infinity_over_infinity_is_broken(clip):
    X, y, intercept = np.full((2, 3), 0.5), np.array([0, 2]), np.array([math.inf, math.inf, 0.0])
    assert not robustly_correct(X, y, np.eye(3), intercept, LpBall(2, 0.1, clip=clip)).any()
