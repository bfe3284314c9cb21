import itertools

import numpy as np
import pytest
from numpy.testing import assert_allclose

from sklearn_robust.certificates import Point
from sklearn_robust.norms import LpNorm
from sklearn_robust.problems import RobustProblem
from sklearn_robust.separators import min_norm_separator, refinement
from sklearn_robust.separators._engine_choice import certify_point
from sklearn_robust.separators._max_margin_form import MaxMarginForm
from sklearn_robust.separators.refinement import newton_step, refined

INF = np.inf


def disturbed_solution(p, q, n, d, fit_intercept, noise=1e-7):
    """A problem, and its solution with relative errors, as an interior-point method that stops
    early leaves it."""
    rng = np.random.default_rng(0)
    w = rng.normal(size=d)
    y = np.where(np.arange(n) % 2, 1.0, -1.0)
    X = rng.normal(size=(n, d))
    X += np.outer(y * (np.abs(X @ w) + 2) - X @ w, w) / (w @ w)
    eps = 0.05
    solution = min_norm_separator(X, y, p=p, q=q, eps=eps, fit_intercept=fit_intercept)
    problem = RobustProblem.from_data(X, y, q=q, eps=eps, fit_intercept=fit_intercept)
    coef = solution.coef + noise * np.abs(solution.coef).max() * rng.normal(size=d)
    weights = solution.dual_coef + noise * rng.random(size=n)
    return problem, Point(coef, problem.balanced(weights[None])[0])


@pytest.mark.pairwise
@pytest.mark.parametrize("fit_intercept", [False, True])
@pytest.mark.parametrize(("n", "d"), [(12, 25), (40, 6)])
@pytest.mark.parametrize(
    ("p", "q"), [*itertools.product([1, 2, INF], [1, 2, INF]), (1.5, 3), (3, 1.5)]
)
def test_refinement_makes_a_rough_solution_exact(p, q, n, d, fit_intercept):
    problem, rough = disturbed_solution(p, q, n, d, fit_intercept)
    assert certify_point(problem, LpNorm(p), rough, "disturbed").gap > 1e-9
    point, helped = refined(MaxMarginForm.of(problem, LpNorm(p)), rough, 1e-11)
    assert helped
    assert certify_point(problem, LpNorm(p), point, "refined").gap <= 1e-11


@pytest.mark.parametrize(("p", "q"), [(2, INF), (2, 1), (1, 2)])
def test_a_curved_face_is_eliminated_from_the_system(p, q, monkeypatch):
    problem, rough = disturbed_solution(p, q, 12, 25, True, noise=1e-3)
    program = MaxMarginForm.of(problem, LpNorm(p))
    sizes, original = [], refinement._solve_saddle_point
    monkeypatch.setattr(
        refinement, "_solve_saddle_point", lambda *a: sizes.append(len(a[1])) or original(*a)
    )
    short = newton_step(program, rough)
    monkeypatch.setattr(refinement, "_LEAST_CURVATURE", INF)
    whole = newton_step(program, rough)
    assert sizes[0] < sizes[1]
    assert_allclose(short.coef, whole.coef, rtol=1e-6, atol=1e-8 * np.abs(whole.coef).max())
    assert_allclose(short.weights, whole.weights, rtol=1e-6, atol=1e-9)


def test_a_face_that_is_flat_in_many_features_is_too_large():
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((10, 200)), np.repeat([1, -1], 5)
    X[:, ::2] *= 1e-9
    problem = RobustProblem.from_data(X, y, q=INF, eps=0.0, fit_intercept=False)
    separator = min_norm_separator(X, y, p=10, q=INF, eps=0.0)
    program = MaxMarginForm.of(problem, LpNorm(10))
    point = program.certify(Point(separator.coef, separator.dual_coef))
    assert newton_step(program, point, 300) is not None
    assert newton_step(program, point, 100) is None


def test_refinement_never_returns_less_than_it_was_given():
    problem, _ = disturbed_solution(2, INF, 12, 25, False)
    rng = np.random.default_rng(1)
    for _ in range(20):
        start = Point(rng.normal(size=25), rng.random(12))
        point, _ = refined(MaxMarginForm.of(problem, LpNorm(2)), start, 1e-11)
        before, after = (certify_point(problem, LpNorm(2), one, "") for one in (start, point))
        assert after.margin >= before.margin
        assert after.bound <= before.bound * (1 + 1e-15)


def test_no_step_without_a_margin():
    problem, rough = disturbed_solution(2, INF, 12, 25, False)
    program = MaxMarginForm.of(problem, LpNorm(2))
    assert newton_step(program, Point(np.zeros(25), rough.weights)) is None
    too_strong = RobustProblem.from_data(problem.X, problem.y, q=INF, eps=1e3, fit_intercept=False)
    assert newton_step(MaxMarginForm.of(too_strong, LpNorm(2)), rough) is None
