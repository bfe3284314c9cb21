"""Solvers against an adversary with a budget for each feature."""

import cvxpy as cp
import numpy as np
import pytest
import torch

from sklearn_robust.certificates import proves_not_separable, repaired_weights
from sklearn_robust.losses import LOSSES
from sklearn_robust.norms import LpNorm
from sklearn_robust.problems import RobustProblem
from sklearn_robust.solvers import accelerated_margin, minimise_robust_risk, steepest_descent
from sklearn_robust.solvers._risk_lbfgs import lbfgs
from sklearn_robust.solvers.diagonal import diagonal_descent

EXPONENTS = [1, 1.5, 2, np.inf]
RADIUS = {1: 2.0, 1.5: 1.2, 2: 0.8, np.inf: 0.15}
EXPONENTIAL = LOSSES["exponential"]


def separable(q, **options):
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((20, 40)), np.sign(rng.standard_normal(20))
    scale = rng.choice([0.0, 0.5, 1.0, 2.0], 40)
    return RobustProblem.from_data(
        X, y, q=q, eps=RADIUS[q], fit_intercept=False, scale=scale, **options
    )


def noisy(q, eps, scale, fit_intercept=True):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((80, 12))
    y = np.sign(X[:, 0] + 0.5 * X[:, 1] + rng.standard_normal(80))
    return RobustProblem.from_data(X, y, q=q, eps=eps, fit_intercept=fit_intercept, scale=scale)


def largest_margin(problem, p):
    w, margin = cp.Variable(problem.n_features), cp.Variable()
    penalty = problem.radius[0] * cp.norm(
        cp.multiply(problem.threat.scale, w), problem.threat.dual_norm.p
    )
    rows = [cp.multiply(problem.y[0], problem.X @ w) - penalty >= margin, cp.norm(w, p) <= 1]
    return cp.Problem(cp.Maximize(margin), rows).solve(solver=cp.CLARABEL)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("p", "q"), [(1, 1), (1, np.inf), (2, 1.5), (2, np.inf), (np.inf, 1), (np.inf, 2)]
)
def test_descent_tends_to_the_largest_margin_of_every_pair(p, q):
    problem = separable(q)
    solution = steepest_descent(
        problem, EXPONENTIAL, LpNorm(p), max_iter=1000, loss_tol=0, tol=0.15
    )
    largest = largest_margin(problem, p)
    assert 0.75 * largest <= solution.margin[0] <= largest * (1 + 1e-6)
    assert solution.margin_bound[0] >= largest * (1 - 1e-6)
    assert solution.separable == [True]


@pytest.mark.slow
@pytest.mark.parametrize("q", [1.5, np.inf])
def test_accelerated_and_diagonal_descent_reach_it_too(q):
    problem = separable(q)
    solution = accelerated_margin(problem, EXPONENTIAL, LpNorm(2), tol=1e-4)
    assert solution.margin[0] == pytest.approx(largest_margin(problem, 2), rel=2e-4)
    solution = diagonal_descent(problem, EXPONENTIAL, max_iter=1000, loss_tol=0, tol=0.05)
    assert solution.margin[0] >= 0.6 * largest_margin(problem, 1)


@pytest.mark.slow
@pytest.mark.parametrize("q", EXPONENTS)
def test_descent_on_torch_takes_the_same_steps(q):
    problem = separable(q)
    tensors = RobustProblem.from_data(
        torch.tensor(problem.X),
        torch.tensor(problem.y[0]),
        q=q,
        eps=RADIUS[q],
        fit_intercept=False,
        scale=torch.tensor(problem.threat.scale),
    )
    for p in (1, 2, np.inf):
        ours, theirs = (
            steepest_descent(each, EXPONENTIAL, LpNorm(p), max_iter=15, loss_tol=0)
            for each in (problem, tensors)
        )
        np.testing.assert_allclose(theirs.coef, ours.coef, rtol=1e-7, atol=1e-10)


SCALES = {
    "zeros": np.tile([0.0, 0.5, 1.0, 2.0], 3),
    "one": np.eye(12)[0],
    "positive": np.linspace(0.2, 2.0, 12),
}


@pytest.mark.slow
@pytest.mark.pairwise
@pytest.mark.parametrize("eps", [0.05, 1.5])
@pytest.mark.parametrize("name", ["exponential", "logistic"])
@pytest.mark.parametrize("scale", SCALES.values(), ids=SCALES)
@pytest.mark.parametrize("q", EXPONENTS)
def test_newton_certifies_the_minimiser_of_the_risk(q, scale, name, eps):
    problem = noisy(q, eps, scale)
    solution = minimise_robust_risk(problem, LOSSES[name], LpNorm(2))
    assert solution.gap[0] <= 1e-8
    assert solution.n_iter[0] <= 20
    assert solution.separable == [False]
    assert proves_not_separable(problem, solution.weights)[0]
    weighted_sum = problem.weighted_sum(solution.weights)[0]
    assert np.abs(weighted_sum[scale == 0]).max(initial=0) <= 1e-14
    # no step downhill is left: a subgradient vanishes
    now = problem.evaluate(LOSSES[name], solution.coef)
    slope = problem.threat.dual_norm.min_norm_subgradient(
        solution.coef, -problem.weighted_sum(now.weights), eps * now.weights.sum(axis=1), LpNorm(2)
    )
    assert np.linalg.norm(slope) <= 1e-4


@pytest.mark.slow
@pytest.mark.pairwise
@pytest.mark.parametrize("scale", [SCALES["zeros"], SCALES["positive"]], ids=["zeros", "positive"])
@pytest.mark.parametrize("q", EXPONENTS)
@pytest.mark.parametrize("eps", [0.05, 1.5])
def test_lbfgs_finds_what_newton_finds(q, scale, eps):
    problem = noisy(q, eps, scale)
    coef, _ = lbfgs(problem, EXPONENTIAL, np.zeros((1, 12)), max_iter=1000, record=lambda *_: None)
    exact = minimise_robust_risk(problem, EXPONENTIAL, LpNorm(2)).log_risk[0]
    assert problem.evaluate(EXPONENTIAL, coef).log_risk[0] == pytest.approx(exact, abs=1e-8)


@pytest.mark.parametrize("fit_intercept", [False, True])
@pytest.mark.parametrize("q", EXPONENTS)
def test_weights_of_the_minimiser_are_repaired_to_a_proof(q, fit_intercept):
    problem = noisy(q, 0.3, SCALES["zeros"], fit_intercept)
    solution = minimise_robust_risk(problem, EXPONENTIAL, LpNorm(2))
    rough = problem.evaluate(EXPONENTIAL, solution.coef * (1 + 1e-4)).weights
    assert not proves_not_separable(problem, problem.balanced(rough))[0]
    assert proves_not_separable(problem, repaired_weights(problem, rough))[0]
