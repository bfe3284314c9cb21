"""Separators against an adversary with a budget for each feature: certified, and against a cone
solver."""

from dataclasses import replace

import cvxpy as cp
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from sklearn_robust.certificates import proves_not_separable, repaired_weights
from sklearn_robust.norms import LpNorm
from sklearn_robust.separators import (
    NotSeparableError,
    max_margin,
    min_norm_separator,
    separator_path,
)
from sklearn_robust.separators._max_margin_form import MaxMarginForm
from sklearn_robust.separators.cone_program import solve_cone_program, solve_quadratic_program
from sklearn_robust.separators.interior_point import solve_interior_point
from sklearn_robust.separators.linear_program import solve_linear_program
from sklearn_robust.separators.separator import read_problem

EXPONENTS = [1, 1.5, 2, np.inf]
PAIRS = [(p, q) for p in EXPONENTS for q in EXPONENTS]


def draw(n, d, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d))
    y = np.sign(X @ rng.standard_normal(d))
    return X + 0.3 * y[:, None] * rng.random(d), y, rng.choice([0.0, 0.5, 1.0, 2.0], d)


def eps_star(X, y, q, scale):
    w, margin = cp.Variable(X.shape[1]), cp.Variable()
    unit = cp.norm(cp.multiply(scale, w), LpNorm(q).dual.p) <= 1
    return cp.Problem(cp.Maximize(margin), [cp.multiply(y, X @ w) >= margin, unit]).solve(
        solver=cp.CLARABEL
    )


@pytest.mark.parametrize(("p", "q"), PAIRS)
def test_every_engine_reaches_a_certified_gap(p, q):
    X, y, scale = draw(20, 12)
    problem = read_problem(X, y, q, 0.4 * eps_star(X, y, q, scale), False, scale)
    program = MaxMarginForm.of(problem, LpNorm(p))
    solvers = [solve_interior_point, solve_cone_program]
    if p == 2:
        solvers.append(solve_quadratic_program)
    if p in (1, np.inf) and q in (1, np.inf):
        solvers.append(solve_linear_program)
    for solve in solvers:
        assert program.certify(solve(program)).gap <= 1e-6, solve.__name__


@pytest.mark.slow
@pytest.mark.parametrize(
    ("q", "fit_intercept"), [(1, True), (1.5, False), (2, True), (np.inf, False), (np.inf, True)]
)
def test_largest_distance_is_that_of_a_cone_solver_and_decides(q, fit_intercept):
    X, y, scale = draw(30, 12)
    if fit_intercept:
        X = X + 1.0
    found = max_margin(X, y, q=q, scale=scale, fit_intercept=fit_intercept)
    columns = np.column_stack([X, np.ones(30)]) if fit_intercept else X
    weights = np.append(scale, 0.0) if fit_intercept else scale
    assert found.margin == pytest.approx(eps_star(columns, y, q, weights), rel=1e-6)
    assert found.relative_gap <= 1e-8
    inside = min_norm_separator(
        X, y, p=2, q=q, eps=0.9 * found.margin, scale=scale, fit_intercept=fit_intercept
    )
    assert 0 < inside.margin <= inside.margin_bound
    assert inside.relative_gap <= 1e-8
    with pytest.raises(NotSeparableError) as error:
        min_norm_separator(
            X, y, p=2, q=q, eps=1.001 * found.margin, scale=scale, fit_intercept=fit_intercept
        )
    weighted_sum = (error.value.weights * y) @ X
    assert np.abs(weighted_sum[scale == 0]).max() <= 1e-13
    assert np.linalg.norm(weighted_sum[scale > 0] / scale[scale > 0], q) <= 1.001 * found.margin


@pytest.mark.parametrize("q", EXPONENTS)
def test_features_out_of_reach_that_separate_do_so_at_every_eps(q):
    X, y, _ = draw(10, 30)
    scale = np.arange(30) % 2.0
    found = max_margin(X, y, q=q, scale=scale)
    assert found.margin == found.margin_bound == np.inf
    assert found.relative_gap == 0
    assert not found.coef[scale > 0].any()
    assert np.min(y * (X @ found.coef)) == pytest.approx(1)
    for eps in (1.0, 1e3, 1e6):
        separator = min_norm_separator(X, y, p=2, q=q, eps=eps, scale=scale)
        penalty = eps * np.linalg.norm(scale * separator.coef, LpNorm(q).dual.p)
        assert np.min(y * (X @ separator.coef)) - penalty == pytest.approx(1, abs=1e-6)
        assert separator.relative_gap <= 1e-8


@pytest.mark.parametrize(("p", "q"), [(1, np.inf), (2, 2), (2, np.inf), (np.inf, 1)])
def test_the_adversary_moves_to_where_the_margin_is_measured(p, q):
    X, y, scale = draw(20, 12)
    separator = min_norm_separator(X, y, p=p, q=q, eps=0.2, scale=scale)
    moved = X - y[:, None] * separator.perturbation
    assert np.min(y * (moved @ separator.coef)) == pytest.approx(1, rel=1e-7)
    assert not separator.perturbation[scale == 0].any()
    np.testing.assert_array_equal(separator.scale, scale)


def test_path_sparse_data_and_names_agree():
    X, y, scale = draw(20, 12)
    radii = [0.1, 0.0, 0.2]
    path = separator_path(X, y, p=2, q=2, eps=radii, scale=scale)
    for separator, eps in zip(path, radii, strict=True):
        one = min_norm_separator(X, y, p=2, q=2, eps=eps, scale=scale)
        assert separator.margin == pytest.approx(one.margin, rel=1e-7)
        assert separator.eps == eps
    table = pd.DataFrame(X, columns=[f"x{j}" for j in range(12)])
    names = {f"x{j}": s for j, s in enumerate(scale) if s != 1}
    expected = min_norm_separator(X, y, p=1, q=np.inf, eps=0.1, scale=scale).margin
    assert min_norm_separator(
        table, y, p=1, q=np.inf, eps=0.1, scale=names
    ).margin == pytest.approx(expected, rel=1e-8)
    assert min_norm_separator(
        sparse.csr_array(X), y, p=1, q=np.inf, eps=0.1, scale=scale
    ).margin == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("c", [0.5, 1.0])
def test_a_uniform_scale_is_a_radius(c):
    X, y, _ = draw(20, 12)
    assert max_margin(X, y, q=2, scale=np.full(12, c)).margin == pytest.approx(
        max_margin(X, y, q=2).margin / c, rel=1e-8
    )
    scaled = min_norm_separator(X, y, p=2, q=np.inf, eps=0.1, scale=np.full(12, c))
    plain = min_norm_separator(X, y, p=2, q=np.inf, eps=0.1 * c)
    np.testing.assert_allclose(scaled.coef, plain.coef, rtol=1e-9)
    assert scaled.eps == 0.1
    program = MaxMarginForm.of(read_problem(X, y, np.inf, 0.1, False, np.full(12, c)), LpNorm(2))
    assert program.scale is None
    assert replace(program, scale=np.ones(12)).penalty_norm.value(
        X[0]
    ) == program.penalty_norm.value(X[0])


def test_data_that_nothing_separates_are_proven_so_whatever_the_scale():
    X = np.array([[1.0, 2.0], [1.0, 2.0], [-1.0, 0.5]])
    y = np.array([1.0, -1.0, 1.0])
    with pytest.raises(NotSeparableError) as error:
        min_norm_separator(X, y, p=2, q=2, eps=0.5, scale=[0.0, 1.0])
    assert error.value.eps_star == 0
    assert max_margin(X, y, q=2, scale=[0.0, 1.0]).margin == 0


@pytest.mark.parametrize("q", [1, np.inf])
def test_the_few_weights_of_a_vertex_are_repaired_along_its_face(q):
    X, y, scale = draw(60, 25)
    star = max_margin(X, y, q=q, scale=scale)
    problem = read_problem(X, y, q, star.margin * (1 + 1e-6), False, scale)
    weights = np.where(star.dual_coef > 1e-9, star.dual_coef, 0)
    # too few to move Z^T a straight to the centre of the ball
    assert np.count_nonzero(weights) < 25
    weights = weights * (1 + 1e-8 * np.random.default_rng(0).standard_normal(60))
    assert not proves_not_separable(problem, problem.balanced(weights[None]))[0]
    assert proves_not_separable(problem, repaired_weights(problem, weights[None]))[0]
