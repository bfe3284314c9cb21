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


@pytest.mark.parametrize("norm", [SumOfGroups(), LargestGroup()], ids=["sum", "largest"])
@pytest.mark.parametrize("q", [math.inf, 2, 1])
@pytest.mark.parametrize("fit_intercept", [False, True])
def test_the_path_and_its_certificate(norm, q, fit_intercept):
    X, y = make_teacher_classification(20, 30, random_state=0)
    y = y.astype(float)
    eps = 0.4 * max_margin(X, y, q=q, fit_intercept=fit_intercept).margin
    largest = largest_margin(X, y, norm, q, eps, fit_intercept=fit_intercept)
    problem = RobustProblem.from_data(X, y, q=q, eps=eps, fit_intercept=fit_intercept)
    solution = steepest_descent(
        problem, EXPONENTIAL, norm, loss_tol=0, tol=0.15, max_iter=600, record_every=20
    )
    history = {name: figures[:, 0] for name, figures in solution.history.items() if name != "iteration"}
    assert np.all(np.diff(history["log_risk"]) <= 0)
    # the certificate encloses the largest margin, all along and at the end
    assert np.all(history["margin"] <= largest * (1 + 1e-6))
    assert np.all(history["margin_bound"] >= largest * (1 - 1e-6))
    smallest = problem.margins(solution.coef, solution.intercept).min()
    assert solution.margin[0] == pytest.approx(smallest / norm.value(solution.coef)[0], rel=1e-9)
    assert (1 - solution.gap[0]) * largest * (1 - 1e-6) <= solution.margin[0] <= largest * (1 + 1e-6)
    print(norm, q, fit_intercept, solution.gap, solution.n_iter, largest)
    assert solution.separable == [True]
    assert solution.gap[0] < 0.3
