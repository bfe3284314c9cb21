"""The separator of least 2-norm of many classes by a falling ridge."""

import math

import numpy as np
import pytest

from sklearn_robust.joint import JointProblem
from sklearn_robust.norms import LpNorm
from sklearn_robust.separators.joint import solve_joint_separator
from sklearn_robust.solvers import joint_limit
from sklearn_robust.threats import LpBall


def apart(n_classes, q, eps, *, fit_intercept=True, sample_weight=None):
    rng = np.random.default_rng(n_classes)
    y = np.arange(4 * n_classes) % n_classes
    X = rng.standard_normal((len(y), 8)) + 5.0 * rng.standard_normal((n_classes, 8))[y]
    return JointProblem.from_data(
        X, y, q=q, eps=eps, fit_intercept=fit_intercept, sample_weight=sample_weight
    )


@pytest.mark.parametrize(
    ("q", "eps", "fit_intercept"),
    [(2.0, 0.5, True), (math.inf, 0.2, True), (1.0, 1.0, False), (1.5, 0.0, True)],
)
def test_is_the_separator_of_least_norm(q, eps, fit_intercept):
    problem = apart(5, q, eps, fit_intercept=fit_intercept)
    found = joint_limit(problem, tol=3e-3).certified
    exact = solve_joint_separator(problem, LpNorm(2))
    assert found.gap <= 3e-3
    assert found.margin <= exact.bound
    assert exact.margin <= found.bound
    assert problem.robust_margins(found.coef, found.intercept).min() == pytest.approx(1)


def test_samples_without_weight_do_not_count():
    problem = apart(4, 2.0, 0.5)
    weight = np.where(np.arange(16) < 12, np.linspace(0.5, 2, 16), 0.0)
    part = JointProblem.from_data(
        problem.X[:12], problem.y[:12], q=2.0, eps=0.5, fit_intercept=True
    )
    found = joint_limit(apart(4, 2.0, 0.5, sample_weight=weight), tol=1e-2).certified
    expected = solve_joint_separator(part, LpNorm(2)).margin
    assert found.margin <= expected * (1 + 1e-9) <= found.bound * (1 + 1e-8)
    assert found.gap <= 1e-2


class Projected:
    """A ball that offers a projection and no more."""

    symmetric = True

    def worst(self, v):
        return LpBall(2, 1.0).worst(v)

    def project(self, x, radius=1.0):
        return LpBall(2, 1.0).project(x, radius)


def test_serves_a_threat_with_a_projection():
    problem = apart(4, 2.0, 0.5)
    other = JointProblem.from_data(
        problem.X / 0.5, problem.y, threat=Projected(), fit_intercept=True
    )
    found = joint_limit(other, tol=1e-2).certified
    exact = solve_joint_separator(problem, LpNorm(2))
    assert found.gap <= 1e-2
    assert 0.5 * found.margin <= exact.bound
    assert exact.margin <= 0.5 * found.bound


def test_ends_where_nothing_separates_and_where_a_monitor_stops_it():
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((60, 2)), np.arange(60) % 4
    problem = JointProblem.from_data(X, y, q=2.0, eps=0.5, fit_intercept=True)
    limit = joint_limit(problem, max_iter=40)
    assert limit.n_iter == 40
    assert not limit.certified.margin > 0

    class Monitor:
        every = 1

        def __call__(self, iteration, ids, figures):
            assert figures["coef"].shape == (1, 5, 8)
            return iteration == 7

    assert joint_limit(apart(5, 2.0, 0.5), monitors=[Monitor()]).n_iter == 7


@pytest.mark.slow
def test_ends_where_tol_is_out_of_reach():
    X, y = 2 * np.eye(3), np.arange(3)
    problem = JointProblem.from_data(X, y, q=math.inf, eps=0.5, fit_intercept=False)
    found = joint_limit(problem, tol=1e-16)
    assert found.n_iter < 10_000
    assert found.certified.gap < 1e-8
