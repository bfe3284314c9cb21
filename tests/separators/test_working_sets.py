from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from scipy import sparse

from sklearn_robust import MinNormRobustClassifier, NotSeparableWarning, RobustLinearClassifier
from sklearn_robust.certificates import Certified
from sklearn_robust.norms import LpNorm
from sklearn_robust.problems import RobustProblem
from sklearn_robust.rows import BlockRows
from sklearn_robust.separators import (
    NotSeparableError,
    _engine_choice,
    max_margin,
    min_norm_separator,
    working_sets,
)
from sklearn_robust.separators._max_margin_form import SolverFailure
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


@pytest.fixture
def on_row_sets(monkeypatch):
    """A function that solves a problem of any size on sets of rows, and lists these."""
    monkeypatch.setattr(working_sets, "_LARGE_ENTRIES", 0)

    def solved(problem, p, tol=1e-8):
        sets = []

        def solve(part, gap):
            sets.append(part.X)
            return _engine_choice.maximise_rows(part, LpNorm(p), gap)

        found = solve_on_row_sets(problem, LpNorm(p), tol, solve)
        return _engine_choice.certify_point(problem, LpNorm(p), found, "row sets"), sets

    return solved


def problem_of(form, convert=np.asarray):
    y = np.ones(len(form.rows)) if form.labels is None else form.labels
    return RobustProblem.from_data(
        convert(form.rows * y[:, None]),
        y,
        q=LpNorm(form.dual_q).dual.p,
        eps=form.eps,
        fit_intercept=form.labels is not None,
    )


def linear_teacher(n, d, seed, q, eps, margin=0.5):
    rng = np.random.default_rng(seed)
    X, w = rng.normal(size=(n, d)), np.zeros(d)
    w[:5] = 1
    y = np.sign(X @ w)
    X += margin * np.outer(y, w) / (w @ w)
    return RobustProblem.from_data(X, y, q=q, eps=eps, fit_intercept=True)


def assert_same_direction(one, other):
    # for p = 2 a gap of 1e-8 allows directions that are 1.4e-4 apart
    np.testing.assert_allclose(
        one.coef / np.linalg.norm(one.coef), other.coef / np.linalg.norm(other.coef), atol=2e-4
    )


@pytest.mark.slow
@pytest.mark.pairwise
@pytest.mark.parametrize("convert", [np.asarray, sparse.csr_array])
@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize(
    ("p", "dual_q", "eps"),
    [(1.0, 1.0, 0.0), (2.0, 1.0, 0.05), (INF, 1.0, 0.05), (1.0, 2.0, 0.1), (2.0, 2.0, 0.0)],
)
def test_row_sets_agree_with_all_rows(
    max_margin_form, on_row_sets, p, dual_q, eps, intercept, convert
):
    form = max_margin_form(1500, 12, p, dual_q, eps, intercept=intercept)
    found, sets = on_row_sets(problem_of(form, convert), p)
    assert max(map(len, sets)) < 150
    assert np.count_nonzero(found.weights) < 150
    assert found.gap <= 1e-8
    assert_same_direction(found, solve_interior_point(form, 1e-10))


@pytest.mark.pairwise
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


def test_row_sets_hold_both_classes(max_margin_form, on_row_sets):
    form = max_margin_form(1500, 12, 2.0, 1.0, 0.05, intercept=True)
    labels = np.ones(1500)
    labels[-2:] = -1
    rare = replace(form, rows=form.rows * (form.labels * labels)[:, None], labels=labels)
    rare.rows[-2:] += 3 * rare.rows[-1]
    found, sets = on_row_sets(problem_of(rare), 2)
    assert found.gap <= 1e-8
    assert max(map(len, sets)) < 150


def test_a_set_that_is_not_separable_proves_it_for_all(max_margin_form, on_row_sets):
    found, sets = on_row_sets(problem_of(max_margin_form(1500, 12, 2.0, 1.0, 5.0)), 2)
    assert found.bound == 0
    assert max(map(len, sets)) < 150


@pytest.mark.parametrize(
    ("n", "d", "seed", "q", "eps"), [(5000, 10, 4, INF, 0.02), (20_000, 20, 6, 2, 0.0)]
)
def test_no_set_of_rows_comes_back(on_row_sets, n, d, seed, q, eps):
    found, sets = on_row_sets(linear_teacher(n, d, seed, q, eps), 2)
    assert found.gap <= 1e-8
    distinct = {frozenset(rows[:, 0].tolist()) for rows in sets}
    assert len(distinct) == len(sets) <= 20
    assert max(map(len, sets)) < 15 * d


@pytest.mark.parametrize("p", [1, INF])
def test_very_many_rows_need_few_rounds_and_few_rows(on_row_sets, p):
    found, sets = on_row_sets(linear_teacher(60_000, 6, 1, INF, 0.02), p)
    assert found.gap <= 1e-8
    assert len(sets) <= 15
    assert len(np.unique(np.concatenate(sets)[:, 0])) <= 25 * 6


def test_the_rows_of_a_sample_spare_sweeps_over_all_rows(on_row_sets, monkeypatch):
    problem, sweeps = linear_teacher(16_000, 6, 1, INF, 0.02), []

    def counted(self, *given, sweep=working_sets._RowsOfProblem.sweep):
        sweeps.append(self.shape[0])
        return sweep(self, *given)

    monkeypatch.setattr(working_sets._RowsOfProblem, "sweep", counted)
    expected = on_row_sets(problem, 2)[0]
    alone = len(sweeps)
    monkeypatch.setattr(working_sets, "_SAMPLED_RATIO", 1000)
    found = on_row_sets(problem, 2)[0]
    assert found.gap <= 1e-8
    assert found.margin == pytest.approx(expected.margin, rel=1e-8)
    assert set(sweeps[alone:]) == {1000, 16_000}
    assert sweeps[alone:].count(16_000) < alone


def test_samples_of_weight_zero_are_left_out(on_row_sets):
    problem = linear_teacher(2000, 4, 0, INF, 0.02)
    wrong = np.concatenate([problem.X, [-10 * problem.y[0, 0] * np.eye(4)[0] - problem.X[0]]])
    y = np.append(problem.y[0], problem.y[0, 0])
    given = {"q": INF, "eps": 0.02, "fit_intercept": True}
    weight = np.append(np.ones(2000), 0.0)
    weighted = RobustProblem.from_data(wrong, y, sample_weight=weight, **given)
    assert on_row_sets(RobustProblem.from_data(wrong, y, **given), 2)[0].bound == 0
    found, expected = on_row_sets(weighted, 2)[0], on_row_sets(problem, 2)[0]
    assert found.margin == pytest.approx(expected.margin, rel=1e-7)
    assert found.weights[-1] == 0


def test_rows_that_carry_weight_stay_in_a_set(max_margin_form):
    form = max_margin_form(30, 3, 2.0, 1.0, 0.0)
    chosen = working_sets.problem_on_rows(problem_of(form), np.arange(10, 20))
    weights = np.zeros(10)
    weights[6:] = [0.5, 0.3, 0.2, 1e-6]
    coef = np.linalg.lstsq(chosen.X[:3], [3.0, 1.0, 2.0])[0]
    answer = Certified(coef, weights, 0.0, margin=1.0, bound=1.0)
    scores = chosen.X @ coef
    for n_near in (0, 2):
        expected = {6, 7, 8, *np.argsort(scores)[:n_near].tolist()}
        assert set(working_sets.kept_rows(chosen, answer, n_near)) == expected


def test_data_that_nothing_separates_need_few_rounds(on_row_sets):
    exact = np.random.default_rng(0).normal(size=(8000, 10))
    X, y = np.round(4 * exact), np.sign(exact.sum(axis=1))
    problem = RobustProblem.from_data(X, y, q=INF, eps=0.0, fit_intercept=False)
    found, sets = on_row_sets(problem, 1)
    assert found.bound <= 1e-9
    assert len(sets) < 25


def test_too_few_rounds_leave_a_valid_answer(max_margin_form, on_row_sets, monkeypatch):
    monkeypatch.setattr(working_sets, "_MAX_SET_ROUNDS", 1)
    form = max_margin_form(1500, 12, 1.0, 1.0, 0.0)
    found, sets = on_row_sets(problem_of(form), 1)
    assert len(sets) == 1
    assert found.gap > 1e-8
    exact = form.certify(solve_interior_point(form, 1e-10)).margin
    assert found.margin <= exact <= found.bound
    assert _engine_choice.maximise_margin(problem_of(form), LpNorm(1), 1e-8).gap <= 1e-8
    with pytest.raises(SolverFailure, match="column sets"):
        solve_on_column_sets(max_margin_form(12, 1500, 1.0, 1.0, 0.0))


@pytest.mark.parametrize(
    ("convert", "fit_intercept"),
    [(np.asarray, True), (np.float32, False), (sparse.csr_array, True)],
)
def test_rows_in_blocks_have_the_separator_of_their_array(parts, convert, fit_intercept):
    drawn = linear_teacher(1000, 4, 0, INF, 0.02)
    X, y = convert(drawn.X), drawn.y[0]
    rows, given = BlockRows(parts(X, y)), {"q": INF, "fit_intercept": fit_intercept}
    for solve in (max_margin, partial(min_norm_separator, p=1, eps=0.02)):
        found, expected = solve(rows, **given), solve(X, y, **given)
        assert found.margin == pytest.approx(expected.margin, rel=1e-7)
        assert found.relative_gap <= 1e-8
        np.testing.assert_allclose(found.coef, expected.coef, rtol=1e-4, atol=1e-6)
    with pytest.raises(NotSeparableError) as error:
        min_norm_separator(rows, p=2, eps=1.01 * max_margin(rows, **given).margin, **given)
    assert np.abs((error.value.weights * y) @ X).max() <= error.value.eps
    assert error.value.eps_star == pytest.approx(max_margin(rows, **given).margin)


@pytest.mark.parametrize("fit_intercept", [False, True])
def test_rows_in_blocks_that_nothing_separates_prove_it(parts, fit_intercept):
    X = np.random.default_rng(0).normal(size=(1000, 3))
    y = np.where(np.arange(1000) % 2, 1, -1)
    rows, given = BlockRows(parts(X, y)), {"q": 2, "fit_intercept": fit_intercept}
    found = max_margin(rows, **given)
    assert found.margin == 0
    assert np.abs((found.dual_coef * y) @ X).max() <= 1e-12
    with pytest.raises(NotSeparableError, match="not linearly separable"):
        min_norm_separator(rows, p=2, eps=0.1, **given)


@pytest.mark.filterwarnings("ignore:The data are not robustly separable")
@pytest.mark.parametrize(
    "make", [MinNormRobustClassifier, partial(RobustLinearClassifier, solver="exact")]
)
@pytest.mark.parametrize("eps", [0.1, 0.4])
def test_exact_estimators_read_blocks(parts, make, eps):
    X = np.random.default_rng(0).normal(size=(2000, 4))
    y, weight = np.where(X[:, 0] > 0, 1, -1), np.where(np.arange(2000) % 7, 1.0, 0.0)
    X[:, 0] += 0.3 * y
    found, expected = (make(eps=eps) for _ in range(2))
    found.fit(BlockRows(parts(X, y, weight)))
    expected.fit(X, y, weight)
    assert found.separable_ is expected.separable_ is (eps < 0.3)
    np.testing.assert_allclose(found.coef_, expected.coef_, rtol=1e-5, atol=1e-8)
    assert found.log_risk_ == pytest.approx(expected.log_risk_, abs=1e-9)
    if found.separable_:  # the margin of a minimiser of the risk is not certified, its risk is
        assert found.margin_ == pytest.approx(expected.margin_, rel=1e-7)


def test_the_separator_of_several_classes_and_of_scales_reads_blocks(parts):
    X, classes = np.random.default_rng(0).normal(size=(150, 4)), np.array(["ash", "beech", "cedar"])
    y = classes[X[:, :3].argmax(axis=1)]
    X[:, :3] += 0.4 * (y[:, None] == classes)
    settings = {"eps": 0.1, "scale": [1, 0, 2, 0.5]}
    found = MinNormRobustClassifier(**settings).fit(BlockRows(parts(X, y)))
    expected = MinNormRobustClassifier(**settings).fit(X, y)
    assert found.separable_ is True
    assert found.dual_gap_ <= 1e-8
    assert found.margin_ == pytest.approx(expected.margin_, rel=1e-7)
    np.testing.assert_allclose(found.coef_, expected.coef_, rtol=1e-5, atol=1e-8)
    for K in (2, 3):
        rows = BlockRows(parts(X, np.where(y == classes[2], classes[K - 1], y)))
        with pytest.warns(NotSeparableWarning) as caught:
            found = MinNormRobustClassifier(eps=2.0, scale=[1, 0, 2, 0.5]).fit(rows)
        assert caught[0].filename == __file__
        assert found.separable_ is False
        assert found.dual_gap_ <= 1e-6
        with pytest.raises(NotSeparableError):
            MinNormRobustClassifier(eps=2.0, not_separable="raise").fit(rows)


def test_what_rows_in_blocks_cannot_have_is_refused(parts):
    X = np.random.default_rng(0).normal(size=(40, 3))
    rows = BlockRows(parts(X, np.arange(40) % 2))
    with pytest.raises(ValueError, match="y must be left out"):
        max_margin(rows, rows.y, q=2)
