"""The separator of least 2-norm of many classes by a falling ridge."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from sklearn_robust.joint import JointProblem
from sklearn_robust.losses import Exponential
from sklearn_robust.norms import LpNorm
from sklearn_robust.separators.joint import solve_joint_separator
from sklearn_robust.solvers import _joint_rivals, joint_limit
from sklearn_robust.solvers._joint_limit import _Limit
from sklearn_robust.solvers._joint_model import JointModel
from sklearn_robust.solvers.solution import Monitoring
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


def test_many_classes_are_judged_by_the_nearest_rivals(monkeypatch):
    """With so few of each that those of the class means do not do."""
    monkeypatch.setattr(_joint_rivals, "_NEAREST", 2)
    problem = apart(8, math.inf, 0.2)
    found = joint_limit(problem, tol=1e-2).certified
    exact = solve_joint_separator(problem, LpNorm(2))
    assert found.gap <= 1e-2
    assert found.margin <= exact.bound
    assert exact.margin <= found.bound


@pytest.mark.parametrize("fit_intercept", [False, True])
def test_the_risk_of_rivals_is_that_of_all_where_all_are_near(fit_intercept):
    weight = np.linspace(0, 2, 16)
    problem = apart(4, 2.0, 0.5, fit_intercept=fit_intercept, sample_weight=weight)
    whole = JointModel(problem, Exponential())
    rng = np.random.default_rng(0)
    coef, pairs = 0.1 * rng.standard_normal((4, 9)), rng.uniform(size=6)
    near = _joint_rivals.nearest_rivals(problem, coef[:, :-1], coef[:, -1])
    model = _joint_rivals.RivalModel(whole, near)
    found, expected = model.at(coef, pairs), whole.at(coef, pairs)
    assert found.log_risk == pytest.approx(expected.log_risk, rel=1e-12)
    assert found.smallest_margin == pytest.approx(expected.smallest_margin, rel=1e-12)
    np.testing.assert_allclose(found.class_sums, expected.class_sums, atol=1e-12)
    np.testing.assert_allclose(found.gradient.flat(), expected.gradient.flat(), atol=1e-12)
    for (_, block), (_, other) in zip(
        model.weight_blocks(found), whole.weight_blocks(expected), strict=True
    ):
        np.testing.assert_allclose(block, other, atol=1e-12)


def test_a_stage_lacks_no_rival_where_all_are_judged():
    """Rounding may leave a margin below that of the risk: the ridge falls all the same."""
    run = _Limit(apart(3, 2.0, 0.0), 1e-2, Monitoring(0, []))
    run._add_rivals(SimpleNamespace(point=SimpleNamespace(smallest_margin=math.inf)))
    assert not run.lacking


def test_samples_without_weight_do_not_count():
    problem = apart(4, 2.0, 0.5)
    weight = np.where(np.arange(16) < 12, np.linspace(0.5, 2, 16), 0.0)
    X, y = problem.X.copy(), problem.y
    part = JointProblem.from_data(X[:12], y[:12], q=2.0, eps=0.5, fit_intercept=True)
    X[12:] = X[[1, 2, 3, 0]]  # among the samples of another class
    whole = JointProblem.from_data(X, y, q=2.0, eps=0.5, fit_intercept=True, sample_weight=weight)
    found = joint_limit(whole, tol=1e-2, max_iter=1000).certified
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
