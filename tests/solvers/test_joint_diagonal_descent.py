"""Gradient descent in diagonal networks on several classes jointly."""

import itertools

import cvxpy as cp
import numpy as np
import pytest

from sklearn_robust._joint_saddle import flow
from sklearn_robust.joint import JointProblem
from sklearn_robust.joint_certificates import margin_bound
from sklearn_robust.losses import LOSSES
from sklearn_robust.norms import LpNorm
from sklearn_robust.problems import RobustProblem
from sklearn_robust.separators.joint import largest_joint_distance, solve_joint_separator
from sklearn_robust.solvers import diagonal_descent, joint_diagonal_descent
from sklearn_robust.solvers._joint_diagonal import implicit_perturbations


def apart(n=9, d=5, n_classes=3, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % n_classes
    return 0.5 * rng.standard_normal((n, d)) + 1.5 * np.eye(n_classes, d)[y], y


def make(X, y, q, eps, fit_intercept=True, **keywords):
    return JointProblem.from_data(X, y, q=q, eps=eps, fit_intercept=fit_intercept, **keywords)


@pytest.mark.parametrize(("q", "share"), [(np.inf, 0), (1, 0.5)])
def test_the_limit_is_the_separator_of_least_1_norm(q, share):
    X, y = apart()
    problem = make(X, y, q, 0.0)
    problem = problem.at_radius(share * largest_joint_distance(problem).margin)
    largest = solve_joint_separator(problem, LpNorm(1)).margin
    found = joint_diagonal_descent(
        problem, LOSSES["logistic"], loss_tol=0, max_iter=200, record_every=5
    )
    assert found.separable == [True]
    assert 0.89 * largest < found.margin[0] < (1 + 1e-9) * largest < 1.2 * found.margin_bound[0]
    assert found.margin_bound[0] > (1 - 1e-9) * largest
    coef, intercept = found.coef[0], found.intercept[0]
    margin = problem.robust_margins(coef, intercept).min() / np.abs(coef).sum()
    assert found.margin[0] == pytest.approx(margin)
    bound = margin_bound(problem, LpNorm(1), problem.balanced(found.weights[0]))
    assert bound == pytest.approx(found.margin_bound[0], rel=0.02)
    assert np.all(np.diff(found.history["log_risk"][:, 0]) <= 0)


def test_two_classes_follow_the_binary_path():
    X, y = apart(n_classes=2)
    options = {"max_iter": 40, "loss_tol": 0, "tol": 0}
    joint = joint_diagonal_descent(make(X, y, 1, 0.2), LOSSES["exponential"], **options)
    binary = RobustProblem.from_data(X, 2.0 * y - 1, q=1, eps=0.2, fit_intercept=True)
    expected = diagonal_descent(binary, LOSSES["exponential"], **options)
    np.testing.assert_allclose(joint.coef[0, 1] - joint.coef[0, 0], expected.coef[0], rtol=1e-7)


def test_deeper_networks_leave_the_kink_at_zero():
    X, y = apart()
    found = joint_diagonal_descent(
        make(X, y, 2, 0.3), LOSSES["exponential"], depth=3, max_iter=200, record_every=1
    )
    assert found.separable == [True]
    assert np.all(np.diff(found.history["log_risk"][:, 0]) <= 0)


@pytest.mark.parametrize("q", [1, 2, np.inf])
def test_implicit_perturbations_solve_their_program(q):
    rng = np.random.default_rng(1)
    X, y = rng.standard_normal((20, 3)), np.arange(20) % 4
    scale = np.array([1.0, 2.0, 0.0])
    problem = make(X, y, q, 0.2, scale=scale)
    ahead, rates = rng.standard_normal((4, 3)), rng.uniform(0.1, 1, (4, 3))
    capacities = rng.uniform(0, 0.5, 6)
    found = implicit_perturbations(
        problem, ahead, rates, capacities, np.zeros((6, 3)), max_iter=2000
    )
    ends, dual = cp.Variable((4, 3)), LpNorm(q).dual.p
    penalty = sum(
        c * cp.norm(cp.multiply(scale, ends[low] - ends[high]), dual)
        for c, (low, high) in zip(capacities, itertools.combinations(range(4), 2), strict=True)
    )
    squares = cp.sum_squares(cp.multiply((ends - ahead), rates**-0.5))
    cp.Problem(cp.Minimize(0.5 * squares + penalty)).solve(solver="CLARABEL")
    np.testing.assert_allclose(ahead - rates * flow(found, 4), ends.value, atol=1e-4)


def test_many_classes_need_projections():
    """Beyond 12 classes sets of classes are not enumerated."""
    X, y = apart(26, 14, 13)
    found = joint_diagonal_descent(make(X, y, np.inf, 0.02), LOSSES["exponential"], max_iter=150)
    assert found.separable == [True]
