from dataclasses import replace

import numpy as np
import pytest
from scipy import sparse

from sklearn_robust.norms import LpNorm
from sklearn_robust.problems import RobustProblem
from sklearn_robust.separators import working_sets
from sklearn_robust.separators._max_margin_form import MaxMarginForm, SolverFailure
from sklearn_robust.separators.interior_point import solve_interior_point
from sklearn_robust.separators.working_sets import solve_on_column_sets, solve_on_row_sets

INF = np.inf


def sizes_solved(monkeypatch):
    sizes = []

    def counted(program, tol):
        sizes.append(program.rows.shape)
        return solve_interior_point(program, tol)

    monkeypatch.setattr(working_sets, "solve_interior_point", counted)
    return sizes


def assert_same_direction(one, other):
    np.testing.assert_allclose(
        one.coef / np.linalg.norm(one.coef), other.coef / np.linalg.norm(other.coef), atol=1e-4
    )


@pytest.mark.slow
@pytest.mark.parametrize("convert", [np.asarray, sparse.csr_array])
@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize(
    ("p", "dual_q", "eps"),
    [(1.0, 1.0, 0.0), (2.0, 1.0, 0.05), (INF, 1.0, 0.05), (1.0, 2.0, 0.1), (2.0, 2.0, 0.0)],
)
def test_row_sets_agree_with_all_rows(
    max_margin_form, proven_gap, monkeypatch, p, dual_q, eps, intercept, convert
):
    problem = max_margin_form(1500, 12, p, dual_q, eps, intercept=intercept)
    sizes = sizes_solved(monkeypatch)
    point = solve_on_row_sets(replace(problem, rows=convert(problem.rows)), 1e-8)
    assert max(n for n, _ in sizes) < 150
    assert np.count_nonzero(point.weights) < 150
    assert proven_gap(problem, point) <= 1e-8
    assert_same_direction(point, solve_interior_point(problem, 1e-10))


@pytest.mark.parametrize("convert", [np.asarray, sparse.csr_array])
@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize(
    ("p", "dual_q", "eps"), [(1.0, 1.0, 0.0), (1.0, 2.0, 0.5), (1.0, INF, 1.0), (2.0, 1.0, 0.1)]
)
def test_column_sets_agree_with_all_columns(
    max_margin_form, proven_gap, monkeypatch, p, dual_q, eps, intercept, convert
):
    problem = max_margin_form(12, 1500, p, dual_q, eps, intercept=intercept)
    sizes = sizes_solved(monkeypatch)
    point = solve_on_column_sets(replace(problem, rows=convert(problem.rows)), 1e-8)
    assert max(d for _, d in sizes) < 1200
    assert proven_gap(problem, point) <= 1e-8
    assert_same_direction(point, solve_interior_point(problem, 1e-10))


def test_row_sets_hold_both_classes(max_margin_form, proven_gap):
    problem = max_margin_form(1500, 12, 2.0, 1.0, 0.05, intercept=True)
    labels = np.ones(1500)
    labels[-2:] = -1
    rare = replace(problem, rows=problem.rows * (problem.labels * labels)[:, None], labels=labels)
    rare.rows[-2:] += 3 * rare.rows[-1]
    assert proven_gap(rare, solve_on_row_sets(rare, 1e-8)) <= 1e-8


def test_a_set_that_is_not_separable_proves_it_for_all(max_margin_form, proven):
    problem = max_margin_form(1500, 12, 2.0, 1.0, 5.0)
    assert proven(problem, solve_on_row_sets(problem))[1] == 0


@pytest.mark.parametrize(
    ("n", "d", "seed", "q", "eps"), [(5000, 10, 4, INF, 0.02), (20_000, 20, 6, 2, 0.0)]
)
def test_row_sets_do_not_cycle(proven_gap, n, d, seed, q, eps):
    rng = np.random.default_rng(seed)
    X, w = rng.normal(size=(n, d)), np.zeros(d)
    w[:5] = 1
    y = np.sign(X @ w)
    X += 0.5 * np.outer(y, w) / (w @ w)
    problem = RobustProblem.from_data(X, y, q=q, eps=eps, fit_intercept=True)
    program = MaxMarginForm.of(problem, LpNorm(2))
    assert proven_gap(program, solve_on_row_sets(program)) <= 1e-8


def test_crowded_row_sets_keep_what_carries_weight(max_margin_form):
    program = max_margin_form(30, 3, 2.0, 1.0, 0.0)
    chosen, weights, scores = np.arange(10, 20), np.zeros(10), np.arange(10.0)
    weights[6:] = [0.5, 0.3, 0.2, 1e-6]
    assert sorted(working_sets._kept(program, chosen, weights, scores, 5)) == [10, 11, 16, 17, 18]
    assert sorted(working_sets._kept(program, chosen, weights, scores, 2)) == [16, 17, 18]


def test_data_that_nothing_separates_need_few_rounds(monkeypatch, proven):
    sizes = sizes_solved(monkeypatch)
    exact = np.random.default_rng(0).normal(size=(8000, 10))
    X, y = np.round(4 * exact), np.sign(exact.sum(axis=1))
    program = MaxMarginForm.of(
        RobustProblem.from_data(X, y, q=INF, eps=0.0, fit_intercept=False), LpNorm(1)
    )
    assert proven(program, solve_on_row_sets(program))[1] <= 1e-9
    assert len(sizes) < 25


def test_too_few_rounds_are_a_failure(max_margin_form, monkeypatch):
    monkeypatch.setattr(working_sets, "_MAX_SET_ROUNDS", 1)
    with pytest.raises(SolverFailure, match="row sets"):
        solve_on_row_sets(max_margin_form(1500, 12, 1.0, 1.0, 0.0))
    with pytest.raises(SolverFailure, match="column sets"):
        solve_on_column_sets(max_margin_form(12, 1500, 1.0, 1.0, 0.0))
