"""A geometry written in a user's own file: a group norm through the path and its certificate."""

import math
from dataclasses import dataclass

import cvxpy as cp
import numpy as np
import pytest

from sklearn_robust import make_teacher_classification, max_margin
from sklearn_robust.certificates import certify
from sklearn_robust.losses import LOSSES
from sklearn_robust.norms import LpNorm
from sklearn_robust.problems import RobustProblem
from sklearn_robust.solvers import accelerated_margin, steepest_descent
from sklearn_robust.solvers._geometry import Geometry, neighbours

GROUP = 3  # features of a group
EXPONENTIAL = LOSSES["exponential"]


def groups(x):
    return x.reshape(*x.shape[:-1], -1, GROUP)


def sizes(x):
    return np.sqrt((groups(x) ** 2).sum(axis=-1))


def scaled(x, factor):
    """Each group of x times its factor."""
    return (groups(x) * factor[..., None]).reshape(x.shape)


def over(x, size):
    return np.where(size > 0, x / np.where(size > 0, size, 1), 0)


@dataclass(frozen=True)
class SumOfGroups:
    """||w|| = sum_g ||w_g||_2."""

    @property
    def dual(self):
        return LargestGroup()

    def value(self, x):
        return sizes(x).sum(axis=-1)

    def steepest_direction(self, g):
        size = sizes(g)
        largest = size == size.max(axis=-1, keepdims=True)
        return scaled(g, over(largest / largest.sum(axis=-1, keepdims=True), size))

    def project(self, x, radius=1.0):
        size = sizes(x)
        return scaled(x, over(LpNorm(1).project(size, radius), size))


@dataclass(frozen=True)
class LargestGroup:
    """||v|| = max_g ||v_g||_2."""

    @property
    def dual(self):
        return SumOfGroups()

    def value(self, x):
        return sizes(x).max(axis=-1)

    def steepest_direction(self, g):
        return scaled(g, over(1.0, sizes(g)))

    def project(self, x, radius=1.0):
        size = sizes(x)
        radius = np.broadcast_to(np.asarray(radius)[..., None], size.shape)
        return scaled(x, over(np.minimum(size, radius), size))


def size_in_cvxpy(norm, w):
    of_groups = [cp.norm(w[j : j + GROUP], 2) for j in range(0, w.size, GROUP)]
    return sum(of_groups) if norm == SumOfGroups() else cp.maximum(*of_groups)


def largest_margin(X, y, norm, q, eps, *, fit_intercept):
    """max t with y_i (<w, x_i> + b) - eps ||w||_q* >= t and ||w|| <= 1, by a cone program."""
    w, b, margin = cp.Variable(X.shape[1]), cp.Variable(), cp.Variable()
    scores = X @ w + (b if fit_intercept else 0)
    rows = [cp.multiply(y, scores) - eps * cp.norm(w, LpNorm(q).dual.p) >= margin]
    program = cp.Problem(cp.Maximize(margin), [*rows, size_in_cvxpy(norm, w) <= 1])
    return program.solve(solver=cp.CLARABEL)


def problem_of(q, fit_intercept):
    X, y = make_teacher_classification(20, 30, random_state=0)
    y = y.astype(float)
    eps = 0.4 * max_margin(X, y, q=q, fit_intercept=fit_intercept).margin
    return RobustProblem.from_data(X, y, q=q, eps=eps, fit_intercept=fit_intercept)


def path(problem, norm, max_iter, **options):
    return steepest_descent(
        problem, EXPONENTIAL, norm, loss_tol=0, tol=0.2, max_iter=max_iter, **options
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("norm", "q", "fit_intercept"),
    [
        (SumOfGroups(), math.inf, True),
        (SumOfGroups(), 2, False),
        (LargestGroup(), 2, False),
        (LargestGroup(), 1, True),
    ],
)
def test_the_path_and_its_certificate(norm, q, fit_intercept):
    problem = problem_of(q, fit_intercept)
    X, y, eps = problem.X, problem.y[0], problem.radius[0] * problem.threat.eps
    largest = largest_margin(X, y, norm, q, eps, fit_intercept=fit_intercept)
    # against q = 1 the largest entries tie, and each step takes hundreds of projections
    solution = path(problem, norm, 300 if q > 1 else 15, record_every=10)
    history = {
        name: solution.history[name][:, 0] for name in ("log_risk", "margin", "margin_bound")
    }
    assert np.all(np.diff(history["log_risk"]) < 0)  # no kink holds it up
    # the certificate encloses the largest margin, all along and at the end
    assert np.all(history["margin"] <= largest * (1 + 1e-6))
    assert np.all(history["margin_bound"] >= largest * (1 - 1e-6))
    assert solution.separable == [True]
    smallest = problem.margins(solution.coef, solution.intercept).min()
    assert solution.margin[0] == pytest.approx(smallest / norm.value(solution.coef)[0], rel=1e-9)
    assert solution.margin[0] <= largest * (1 + 1e-6)
    assert solution.margin[0] >= (1 - solution.gap[0]) * largest * (1 - 1e-6)
    assert solution.gap[0] < (0.95 if q == 1 else 0.35)


@pytest.mark.parametrize("norm", [SumOfGroups(), LargestGroup()], ids=["sum", "largest"])
def test_groups_of_one_feature_are_the_l_p_norm(norm, monkeypatch):
    monkeypatch.setattr(__name__ + ".GROUP", 1)
    problem = problem_of(2, False)
    known = LpNorm(1 if norm == SumOfGroups() else math.inf)
    ours, theirs = path(problem, norm, 30), path(problem, known, 30)
    np.testing.assert_allclose(ours.margin_bound, theirs.margin_bound, rtol=1e-6)
    np.testing.assert_allclose(ours.log_risk, theirs.log_risk, rtol=1e-4)


def test_data_that_are_not_separable_are_proven_to_be():
    X, y = make_teacher_classification(40, 6, random_state=0)
    y[::5] *= -1
    problem = RobustProblem.from_data(X, y.astype(float), q=2, eps=0.1, fit_intercept=True)
    solution = steepest_descent(problem, EXPONENTIAL, SumOfGroups(), tol=1e-3, max_iter=2000)
    assert solution.separable == [False]
    assert solution.gap[0] <= 1e-3


def test_geometries_share_a_batch():
    problem = problem_of(math.inf, False)
    norms = [SumOfGroups(), LpNorm(2), SumOfGroups(), LpNorm(1)]
    together = path(problem.select([0, 0, 0, 0]), norms, 40)
    for i, norm in enumerate(norms):
        alone = path(problem, norm, 40)
        np.testing.assert_allclose(together.coef[i], alone.coef[0], rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(together.gap[i], alone.gap[0], rtol=1e-6)


def test_equal_norms_become_neighbours():
    norms = [LpNorm(2), SumOfGroups(), LpNorm(2), LargestGroup(), SumOfGroups()]
    order = neighbours(norms)
    np.testing.assert_array_equal(order, [0, 2, 1, 4, 3])
    groups = Geometry(tuple(norms[i] for i in order)).groups
    assert groups == [
        (LpNorm(2), slice(0, 2)),
        (SumOfGroups(), slice(2, 4)),
        (LargestGroup(), slice(4, 5)),
    ]


def test_certify_takes_the_norm():
    problem = problem_of(2, True)
    solution = path(problem, LargestGroup(), 50)
    proven = certify(problem, LargestGroup(), solution.coef, solution.weights, solution.intercept)
    np.testing.assert_allclose(proven.gap, solution.gap, rtol=1e-9)


def test_the_accelerated_solver_says_what_geometry_it_needs():
    with pytest.raises(ValueError, match=r"p in \[1, inf\], got SumOfGroups.*steepest_descent"):
        accelerated_margin(problem_of(2, False), EXPONENTIAL, SumOfGroups())
