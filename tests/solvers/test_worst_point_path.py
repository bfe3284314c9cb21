"""The path by worst points: its steps against finite differences, its margin against the limit."""

import numpy as np
import pytest

from sklearn_robust.losses import LOSSES
from sklearn_robust.norms import LpNorm
from sklearn_robust.problems import RobustProblem
from sklearn_robust.solvers import follow_worst_points, minimise_robust_risk
from sklearn_robust.threats import Box, FeatureBudget

LOSS = LOSSES["exponential"]
OPTIONS = {"step_size": "adaptive", "max_iter": 300, "loss_tol": 0.0, "tol": 1e-3}
SETS = {
    "box": Box([-0.1, 0.0, -0.2], [0.3, 0.2, 0.0], clip=(-1.5, 1.5)),
    "one class": FeatureBudget(2, 0.2).only(1),
}


@pytest.fixture(params=SETS)
def problem(request):
    rng = np.random.default_rng(0)
    X = rng.uniform(-1.5, 1.5, size=(60, 3))
    X = X[np.abs(X.sum(axis=1)) > 0.8]
    y = np.sign(X.sum(axis=1))
    return RobustProblem.from_data(
        X, y, threat=SETS[request.param], fit_intercept=True, classes=[0, 1]
    )


def log_risk(problem, coef):
    return problem.evaluate(LOSS, coef[None]).log_risk[0]


@pytest.mark.parametrize("step_size", [0.01, "paper"])
def test_a_step_goes_down_the_gradient_of_the_robust_log_risk(problem, step_size):
    limit = minimise_robust_risk(problem, LOSS, LpNorm(2))
    start = np.array([[0.7, 1.3, 0.9]])  # no kink
    options = OPTIONS | {"step_size": step_size, "max_iter": 1}
    moved = follow_worst_points(problem, LOSS, limit, coef_init=start, **options).coef[0] - start[0]
    slopes = [
        (log_risk(problem, start[0] + e) - log_risk(problem, start[0] - e)) / 2e-6
        for e in 1e-6 * np.eye(3)
    ]
    size = step_size
    if step_size == "paper":
        moves = [problem.adversary.perturbations(sign * np.ones(3)) for sign in (1.0, -1.0)]
        size = 1 / (np.abs(problem.X).max() + np.abs(moves).max()) ** 2
    np.testing.assert_allclose(moved, -size * np.array(slopes), rtol=1e-6, atol=1e-10)


def test_the_path_reaches_the_largest_margin_and_no_more(problem):
    limit = minimise_robust_risk(problem, LOSS, LpNorm(2))
    path = follow_worst_points(problem, LOSS, limit, **OPTIONS)
    assert path.separable == [True]
    assert 0.9 * limit.margin[0] < path.margin[0] <= limit.margin_bound[0]


def test_sets_without_end_are_refused():
    X, y = np.array([[2.0], [-1.0]]), np.array([1.0, -1.0])
    problem = RobustProblem.from_data(X, y, threat=Box([0.0], [np.inf]), fit_intercept=True)
    limit = minimise_robust_risk(problem, LOSS, LpNorm(2))
    with pytest.raises(ValueError, match="needs sets with ends, got threat=Box without one"):
        follow_worst_points(problem, LOSS, limit, **OPTIONS)
