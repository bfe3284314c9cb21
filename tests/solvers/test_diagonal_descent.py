"""Gradient descent in diagonal networks."""

import math

import numpy as np
import pytest

from sklearn_robust import make_teacher_classification, max_margin
from sklearn_robust.losses import LOSSES
from sklearn_robust.problems import RobustProblem
from sklearn_robust.solvers import diagonal_descent
from sklearn_robust.solvers.diagonal import DiagonalDescent


def paper_problem(share, teacher_sparsity=None):
    X, y = make_teacher_classification(64, 512, teacher_sparsity=teacher_sparsity, random_state=0)
    largest = max_margin(X, y, q=math.inf).margin
    problem = RobustProblem.from_data(
        X, y.astype(float), q=math.inf, eps=share * largest, fit_intercept=False
    )
    return problem, largest * (1 - share)  # p = q*: the largest l1 margin is eps* - eps


@pytest.mark.slow
@pytest.mark.parametrize("teacher_sparsity", [None, 4])
@pytest.mark.parametrize(
    ("share", "iterations"), [(0, 300), (0.25, 500), (0.5, 1100), (0.75, 6100)]
)
def test_reaches_the_loss_within_few_iterations(share, iterations, teacher_sparsity):
    problem, gamma = paper_problem(share, teacher_sparsity)
    solution = diagonal_descent(problem, LOSSES["exponential"], record_every=1)
    assert solution.n_iter[0] <= iterations
    assert 64 * np.exp(solution.log_risk[0]) < 1e-3
    assert np.all(np.diff(solution.history["log_risk"][:, 0]) <= 0)
    assert 0.7 * gamma < solution.margin[0] < gamma < solution.margin_bound[0]


@pytest.mark.slow
@pytest.mark.parametrize("share", [0, 0.5])
def test_tends_to_the_largest_l1_margin(share):
    problem, gamma = paper_problem(share)
    solution = diagonal_descent(problem, LOSSES["exponential"], loss_tol=0, max_iter=3000)
    assert 0.95 * gamma < solution.margin[0] < gamma


@pytest.mark.slow
@pytest.mark.parametrize("depth", [2, 3])
@pytest.mark.parametrize("q", [1.5, 2, math.inf])
def test_other_threats_depths_and_losses_descend(gaussian, q, depth):
    X, y = gaussian(30, 60)
    eps = 0.3 * max_margin(X, y, q=q, fit_intercept=True).margin
    problem = RobustProblem.from_data(X, y, q=q, eps=eps, fit_intercept=True)
    for loss in LOSSES.values():
        solution = diagonal_descent(problem, loss, depth=depth, record_every=1)
        assert solution.converged[0]
        assert solution.separable == [True]
        assert np.all(np.diff(solution.history["log_risk"][:, 0]) <= 0)


def test_subgradient_is_the_gradient_in_the_parameters(gaussian):
    X, y = gaussian(20, 5)
    problem = RobustProblem.from_data(X, y, q=2, eps=0.1, fit_intercept=False)
    loss, rng = LOSSES["exponential"], np.random.default_rng(0)
    for depth in (2, 3):
        rule = DiagonalDescent(depth, float(np.abs(X).max()))
        state = (rng.uniform(0.5, 1, (1, 5)), rng.uniform(0.5, 1, (1, 5)))

        def log_risk(state, rule=rule):
            return problem.evaluate(loss, rule.coef(state)).log_risk[0]

        coef = rule.coef(state)
        now = problem.evaluate(loss, coef)
        tiny = np.array([1e-7])
        (up, down), subgradient = rule.propose(
            problem, state, coef, now, problem.weighted_sum(now.weights), tiny
        )
        for j in range(5):
            bumped = (state[0] + 1e-6 * np.eye(5)[j], state[1])
            slope = (log_risk(bumped) - log_risk(state)) / 1e-6
            assert slope == pytest.approx(
                depth * state[0][0, j] ** (depth - 1) * subgradient[0, j], rel=1e-4, abs=1e-6
            )
        # a small step is a gradient step on both halves, with one rate
        rates = np.concatenate(
            [
                (state[0] - up) / (depth * state[0] ** (depth - 1) * subgradient),
                (down - state[1]) / (depth * state[1] ** (depth - 1) * subgradient),
            ]
        )
        np.testing.assert_allclose(rates, rates[0, 0], rtol=1e-4)
        assert rates[0, 0] > 0


def test_implicit_step_lands_on_zero():
    problem = RobustProblem.from_data(
        np.eye(2), np.ones(2), q=math.inf, eps=10.0, fit_intercept=False
    )
    rule = DiagonalDescent(2, 1.0)
    state = (np.array([[0.3, 1.0]]), np.array([[0.29, 0.1]]))
    coef = rule.coef(state)
    now = problem.evaluate(LOSSES["exponential"], coef)
    trial, _ = rule.propose(
        problem, state, coef, now, problem.weighted_sum(now.weights), np.array([1.0])
    )
    assert abs(rule.coef(trial)[0, 0]) < 1e-5 < abs(coef[0, 0])  # up to the curvature of exp
