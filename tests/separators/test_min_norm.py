import itertools
import pickle
import warnings
from fractions import Fraction
from pathlib import Path

import cvxpy as cp
import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy import sparse
from scipy.optimize import nnls
from sklearn.datasets import load_breast_cancer, load_iris, load_wine
from sklearn.exceptions import ConvergenceWarning
from sklearn.preprocessing import StandardScaler

from sklearn_robust._conic_programs import ConicProgram
from sklearn_robust.certificates import Point
from sklearn_robust.norms import LpNorm
from sklearn_robust.problems import RobustProblem
from sklearn_robust.separators import (
    NotSeparableError,
    max_margin,
    min_norm_separator,
    separator_path,
)
from sklearn_robust.separators._max_margin_form import SolverFailure
from sklearn_robust.separators.critical_radius import largest_distance
from sklearn_robust.separators.min_norm import solve_separator

INF = np.inf
PAIRS = list(itertools.product([1, 2, INF], [1, 2, INF]))
MIXED = [(1.5, 3), (3, 1.5), (4, 4), (1.5, INF), (3, 1), (2, 4), (1, 3), (INF, 1.5)]
SHAPES = [(24, 60), (30, 30), (80, 8)]


def alternating(pairs):
    """Every pair of exponents, without and with intercept in turn."""
    return [(p, q, i % 2 == 1) for i, (p, q) in enumerate(pairs)]


def separable_data(n, d, seed=0):
    """Gaussian rows with a planted separator."""
    rng = np.random.default_rng(seed)
    X, w = rng.normal(size=(n, d)), rng.normal(size=d)
    y = np.where(rng.random(n) > 0.5, 1.0, -1.0)
    scores = np.abs(X @ w) + 0.5 * np.linalg.norm(w)
    return X + np.outer(y * scores - X @ w, w) / (w @ w), y


def norm(x, r):
    return np.linalg.norm(x, ord=r)


def dual(r):
    return LpNorm(r).dual.p


def distance_to_ball(g, q, eps, r):
    """min ||g - delta||_r over the q-ball, by cvxpy: independent of the library's closed forms."""
    delta = cp.Variable(len(g))
    constraints = [delta == 0] if eps == 0 else [cp.norm(delta, q) <= eps]
    return cp.Problem(cp.Minimize(cp.norm(g - delta, r)), constraints).solve(solver="CLARABEL")


def assert_certified(s, X, y, tol):
    """Recompute both sides of the certificate from the coefficients, the intercept and the weights
    alone."""
    X = X.toarray() if sparse.issparse(X) else np.asarray(X)
    margins = y * (X @ s.coef + s.intercept) - s.eps * norm(s.coef, dual(s.q))
    assert_allclose(margins.min(), 1, rtol=1e-6)
    assert_allclose(margins.min() / norm(s.coef, s.p), s.margin, rtol=1e-8)
    a = s.dual_coef
    assert (a >= 0).all()
    assert_allclose(a.sum(), 1, rtol=1e-12)
    if s.fit_intercept:
        assert_allclose(a @ y, 0, atol=1e-14)
    else:
        assert s.intercept == 0
    g = (a * y) @ X
    residual = LpNorm(s.q).residual(g, s.eps, LpNorm(dual(s.p)))
    # a feasible delta: its distance is an upper bound
    assert norm(g - residual, s.q) <= s.eps * (1 + 1e-9) + 1e-12
    assert_allclose(norm(residual, dual(s.p)), s.margin_bound, rtol=1e-8)
    assert s.relative_gap <= tol
    assert_allclose(s.relative_gap, max(0, 1 - s.margin / s.margin_bound), atol=1e-12)


def oracle_margin(X, y, p, q, eps, fit_intercept):
    w, b = cp.Variable(X.shape[1]), cp.Variable()
    margins = cp.multiply(y, X @ w + (b if fit_intercept else 0)) - eps * cp.norm(w, dual(q))
    problem = cp.Problem(cp.Maximize(cp.min(margins)), [cp.norm(w, p) <= 1])
    linear = p in (1, INF) and (eps == 0 or q in (1, INF))
    return problem.solve(solver="HIGHS" if linear else "CLARABEL")


@pytest.mark.slow
@pytest.mark.pairwise
@pytest.mark.parametrize("fit_intercept", [False, True])
@pytest.mark.parametrize(("n", "d"), SHAPES)
@pytest.mark.parametrize(("p", "q"), PAIRS)
def test_all_pairs_reach_the_optimum_with_proof(p, q, n, d, fit_intercept):
    X, y = separable_data(n, d)
    star = max_margin(X, y, q=q, fit_intercept=fit_intercept)
    assert_certified(star, X, y, 1e-8)
    cone = (q == 2 and p in (1, INF)) or (q not in (1, 2, INF))
    for share in (0, 0.25, 0.9):
        eps = share * star.margin
        s = min_norm_separator(X, y, p=p, q=q, eps=eps, fit_intercept=fit_intercept)
        assert (s.p, s.q, s.eps, s.fit_intercept) == (p, q, eps, fit_intercept)
        assert_certified(s, X, y, 1e-6 if cone and eps else 1e-8)
        if share:
            assert_allclose(s.margin, oracle_margin(X, y, p, q, eps, fit_intercept), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("p", "q", "fit_intercept"), alternating(MIXED))
def test_any_exponents_reach_the_optimum_with_proof(p, q, fit_intercept):
    X, y = separable_data(20, 12, seed=1)
    star = max_margin(X, y, q=q, fit_intercept=fit_intercept)
    assert_certified(star, X, y, 1e-6)
    for share in (0, 0.5, 0.9):
        s = min_norm_separator(X, y, p=p, q=q, eps=share * star.margin, fit_intercept=fit_intercept)
        assert_certified(s, X, y, 1e-6)
    assert_allclose(s.margin, oracle_margin(X, y, p, q, s.eps, fit_intercept), rtol=1e-5)
    bound = distance_to_ball((s.dual_coef * y) @ X, q, s.eps, dual(p))
    assert_allclose(s.margin_bound, bound, rtol=1e-5)


@pytest.mark.parametrize("q", [1, 1.5, 2, 3, INF])
def test_direction_does_not_depend_on_eps_where_p_is_dual_to_q(q):
    X, y = separable_data(20, 40, seed=2)
    star = max_margin(X, y, q=q)
    for share in (0.3, 0.8):
        s = min_norm_separator(X, y, p=dual(q), q=q, eps=share * star.margin)
        assert_allclose(s.coef / norm(s.coef, 2), star.coef / norm(star.coef, 2), atol=1e-9)
        assert_allclose(s.margin, (1 - share) * star.margin, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("p", "q", "fit_intercept"), alternating([*PAIRS, (1.5, 3), (3, INF)]))
def test_both_sides_of_eps_star(p, q, fit_intercept):
    X, y = separable_data(20, 30, seed=3)
    star = max_margin(X, y, q=q, fit_intercept=fit_intercept, tol=1e-9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        below = min_norm_separator(
            X, y, p=p, q=q, eps=(1 - 1e-6) * star.margin, fit_intercept=fit_intercept
        )
    assert below.margin > 0
    assert_certified(below, X, y, 1e-2)
    above = (1 + 1e-6) * star.margin
    with pytest.raises(NotSeparableError) as caught:
        min_norm_separator(X, y, p=p, q=q, eps=above, fit_intercept=fit_intercept)
    assert_proof(caught.value, X, y, q, fit_intercept)
    assert caught.value.eps == above
    assert_allclose(caught.value.eps_star, star.margin, rtol=1e-7)
    assert f"eps={above:.8g}" in str(caught.value)
    assert f"{caught.value.eps_star:.8g}" in str(caught.value)


def assert_proof(error, X, y, q, fit_intercept, slack=1e-12):
    a = error.weights
    assert (a >= 0).all()
    assert_allclose(a.sum(), 1, rtol=1e-12)
    if fit_intercept:
        assert_allclose(a @ y, 0, atol=1e-14)
    assert norm((a * y) @ X, q) <= error.eps + slack


@pytest.mark.parametrize("q", [1, 2, INF])
def test_every_p_has_the_same_q_margin_as_eps_tends_to_eps_star(q):
    X, y = separable_data(15, 25, seed=4)
    star = max_margin(X, y, q=q)
    apart = {}
    for share in (0.5, 1 - 1e-5):
        margins = []
        for p in (1, 2, INF):
            w = min_norm_separator(X, y, p=p, q=q, eps=share * star.margin).coef
            margins.append((y * (X @ w)).min() / norm(w, dual(q)))
        apart[share] = np.max(np.abs(np.array(margins) / star.margin - 1))
    assert apart[1 - 1e-5] < 1e-5
    assert apart[0.5] > 1e-3


@pytest.mark.parametrize(("p", "q"), [(2, INF), (1, 2), (INF, INF)])
def test_it_minimises_the_mixed_norm_whose_weight_the_margin_gives(p, q):
    # maths: min ||w||_p + (eps / gamma) ||w||_q* subject to z.w >= 1 has the same direction
    X, y = separable_data(20, 12, seed=5)
    s = min_norm_separator(X, y, p=p, q=q, eps=0.5 * max_margin(X, y, q=q).margin)
    w = cp.Variable(12)
    mixed = cp.norm(w, p) + s.eps / s.margin * cp.norm(w, dual(q))
    value = cp.Problem(cp.Minimize(mixed), [cp.multiply(y, X @ w) >= 1]).solve(solver="CLARABEL")
    ours = s.coef / (y * (X @ s.coef)).min()
    assert_allclose(norm(ours, p) + s.eps / s.margin * norm(ours, dual(q)), value, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("fit_intercept", [False, True])
@pytest.mark.parametrize("q", [1, 2, 3, INF])
def test_data_that_are_not_linearly_separable_have_margin_zero(q, fit_intercept):
    iris = load_iris()
    X, y = iris.data, np.where(iris.target == 2, 1.0, -1.0)
    star = max_margin(X, y, q=q, fit_intercept=fit_intercept)
    assert star.margin == 0
    assert not star.coef.any()
    assert star.intercept == 0
    assert not star.perturbation.any()
    assert star.margin_bound < 1e-13
    assert norm((star.dual_coef * y) @ X, q) < 1e-13
    assert_allclose(star.dual_coef.sum(), 1)
    for eps in (0.0, 0.1):
        with pytest.raises(
            NotSeparableError, match=r"not linearly separable.*RobustLinearClassifier"
        ) as caught:
            min_norm_separator(X, y, p=2, q=q, eps=eps, fit_intercept=fit_intercept)
        assert caught.value.eps_star == 0
        assert_proof(caught.value, X, y, q, fit_intercept, slack=1e-11)


@pytest.mark.slow
@pytest.mark.parametrize("fit_intercept", [False, True])
def test_conflicting_labels_are_not_separable(fit_intercept):
    X, y = separable_data(20, 30)
    X, y = np.vstack([X, X[:1]]), np.append(y, -y[0])
    for q in (1, 2, INF):
        assert max_margin(X, y, q=q, fit_intercept=fit_intercept).margin == 0
        with pytest.raises(NotSeparableError) as caught:
            min_norm_separator(X, y, p=1, q=q, eps=0.0, fit_intercept=fit_intercept)
        assert_proof(caught.value, X, y, q, fit_intercept, slack=1e-13)


def test_features_that_are_all_zero_are_not_separable():
    X, y = np.zeros((4, 3)), np.array([1.0, 1, -1, -1])
    assert max_margin(X, y, q=2, fit_intercept=True).margin == 0
    with pytest.raises(NotSeparableError):
        min_norm_separator(X, y, p=2, q=2, eps=0.0)


def test_the_error_survives_pickling():
    error = pickle.loads(pickle.dumps(NotSeparableError(0.2, 0.1, np.array([0.5, 0.5]))))
    assert (error.eps, error.eps_star) == (0.2, 0.1)
    assert_allclose(error.weights, 0.5)


@pytest.mark.parametrize(("p", "q"), [*PAIRS, (1.5, 3)])
def test_duplicated_rows_and_zero_columns_change_nothing(p, q):
    X, y = separable_data(20, 15, seed=6)
    eps = 0.5 * max_margin(X, y, q=q).margin
    plain = min_norm_separator(X, y, p=p, q=q, eps=eps)
    padded = np.hstack([np.vstack([X, X, X]), np.zeros((60, 4))])
    s = min_norm_separator(padded, np.tile(y, 3), p=p, q=q, eps=eps)
    assert_certified(s, padded, np.tile(y, 3), 1e-6)
    assert_allclose(s.margin, plain.margin, rtol=2e-6)


@pytest.mark.parametrize(("p", "q"), [*PAIRS, (1.5, 3)])
def test_one_sample(p, q):
    x = np.array([[3.0, -1.0, 2.0]])
    eps = 0.5 * norm(x[0], q)
    # gamma is the distance of the sample from the ball
    for label in (1, -1):
        s = min_norm_separator(x, [label], p=p, q=q, eps=eps)
        assert_certified(s, x, np.array([label]), 1e-6)
        assert_allclose(s.margin, distance_to_ball(x[0], q, eps, dual(p)), rtol=1e-5)


@pytest.mark.parametrize(("p", "q"), [*PAIRS, (1.5, 3)])
def test_one_feature(p, q):
    x, y = np.array([[-2.0], [-1.0], [2.0], [5.0]]), np.array([-1, -1, 1, 1])
    s = min_norm_separator(x, y, p=p, q=q, eps=0.5, fit_intercept=True)
    assert_allclose([s.margin, s.coef[0], s.intercept], [1.0, 1.0, -0.5], rtol=1e-6)
    s = min_norm_separator(x, y, p=p, q=q, eps=0.5)
    assert_allclose([s.margin, s.coef[0], s.intercept], [0.5, 2.0, 0.0], rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("n", "d"), [(2000, 20), (20, 2000)])
@pytest.mark.parametrize(("p", "q"), [(1, 1), (2, INF), (INF, 2)])
def test_long_and_wide_data(n, d, p, q):
    X, y = separable_data(n, d, seed=7)
    eps = 0.5 * max_margin(X, y, q=q, fit_intercept=True).margin
    s = min_norm_separator(X, y, p=p, q=q, eps=eps, fit_intercept=True)
    assert_certified(s, X, y, 1e-6 if (p, q) == (INF, 2) else 1e-8)


@pytest.mark.slow
@pytest.mark.pairwise
@pytest.mark.parametrize("fit_intercept", [False, True])
@pytest.mark.parametrize(("p", "q"), [*PAIRS, (1.5, 3)])
@pytest.mark.parametrize("convert", [sparse.csr_array, sparse.csc_matrix])
def test_sparse_and_dense_data_agree(p, q, fit_intercept, convert):
    X, y = separable_data(25, 40, seed=8)
    X *= np.random.default_rng(0).random(X.shape) < 0.3
    eps = 0.4 * max_margin(X, y, q=q, fit_intercept=fit_intercept).margin
    dense = min_norm_separator(X, y, p=p, q=q, eps=eps, fit_intercept=fit_intercept)
    s = min_norm_separator(convert(X), y, p=p, q=q, eps=eps, fit_intercept=fit_intercept)
    assert_certified(s, X, y, 1e-6)
    assert_allclose(s.margin, dense.margin, rtol=2e-6)


def test_frames_labels_and_float32():
    X, y = separable_data(20, 5)
    reference = min_norm_separator(X, y, p=2, q=INF, eps=0.05)
    names = np.where(y > 0, "yes", "no")
    columns = [f"x{j}" for j in range(5)]
    for data in (pd.DataFrame(X, columns=columns), pl.DataFrame(X, schema=columns)):
        assert_allclose(min_norm_separator(data, names, p=2, q=INF, eps=0.05).coef, reference.coef)
    flipped = min_norm_separator(X, np.where(y > 0, 0, 7), p=2, q=INF, eps=0.05)
    assert_allclose(flipped.coef, -reference.coef)
    single = min_norm_separator(X.astype(np.float32), y, p=2, q=INF, eps=0.05)
    assert single.coef.dtype == np.float64
    assert_allclose(single.coef, reference.coef, rtol=1e-4)


def real_data(name):
    if name == "breast_cancer":
        data = load_breast_cancer()
        return StandardScaler().fit_transform(data.data), np.where(data.target == 1, 1.0, -1.0)
    data = {"iris": load_iris, "wine": load_wine}[name]()
    X = data.data if name == "iris" else StandardScaler().fit_transform(data.data)
    return X, np.where(data.target == 0, 1.0, -1.0)


@pytest.mark.slow
@pytest.mark.parametrize("i", range(len(PAIRS)))
def test_real_data(i):
    name, (p, q) = ("breast_cancer", "iris", "wine")[i % 3], PAIRS[i]
    X, y = real_data(name)
    star = max_margin(X, y, q=q, fit_intercept=True)
    assert_certified(star, X, y, 1e-8)
    for eps in (0.0, 0.5 * star.margin):
        assert_certified(
            min_norm_separator(X, y, p=p, q=q, eps=eps, fit_intercept=True), X, y, 1e-6
        )


@pytest.mark.slow
@pytest.mark.parametrize("q", [1, 2, 3, INF])
def test_features_of_very_different_scales_are_answered_honestly(q):
    X, y = separable_data(40, 30, seed=9)
    X = X * 10.0 ** np.random.default_rng(1).uniform(-6, 6, size=30)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        star = max_margin(X, y, q=q)
    assert_certified(star, X, y, 1e-5)
    assert bool(caught) == (star.relative_gap > 1e-8)


def test_power_cones_on_unscaled_data():
    # a longer interior-point step stalled here far from the solution, at a negative margin
    wine = load_wine()
    y = np.where(wine.target == 0, 1.0, -1.0)
    assert_certified(max_margin(wine.data, y, q=3), wine.data, y, 1e-6)


def test_units_of_the_features_scale_the_margin():
    X, y = separable_data(20, 30)
    s = min_norm_separator(X, y, p=2, q=INF, eps=0.05)
    for unit in (1e-9, 1e9):
        scaled = min_norm_separator(unit * X, y, p=2, q=INF, eps=unit * 0.05)
        assert_allclose(scaled.margin, unit * s.margin, rtol=1e-7)
        assert_allclose(unit * scaled.coef, s.coef, rtol=1e-6, atol=1e-9)


def test_shift_is_absorbed_by_the_intercept():
    X, y = separable_data(20, 30)
    s = min_norm_separator(X, y, p=2, q=INF, eps=0.05, fit_intercept=True)
    shifted = min_norm_separator(X + 100.0, y, p=2, q=INF, eps=0.05, fit_intercept=True)
    assert_allclose(shifted.coef, s.coef, atol=1e-6)
    assert_allclose(shifted.intercept, s.intercept - 100 * s.coef.sum(), rtol=1e-6)


@pytest.mark.parametrize("q", [1, 1.5, 2, INF])
def test_perturbation_is_the_worst_case(q):
    X, y = separable_data(20, 30)
    s = min_norm_separator(X, y, p=2, q=q, eps=0.05)
    assert_allclose(norm(s.perturbation, q), 0.05)
    attacked = X - np.outer(y, s.perturbation)
    assert_allclose(
        y * (attacked @ s.coef), y * (X @ s.coef) - 0.05 * norm(s.coef, dual(q)), rtol=1e-9
    )
    assert_allclose((y * (attacked @ s.coef)).min(), 1)


def test_a_gap_above_the_tolerance_warns_and_returns_the_separator():
    data = load_breast_cancer()  # sizes from 1e-3 to 1e3, and a margin of 4e-5
    y = np.where(data.target == 1, 1.0, -1.0)
    with pytest.warns(
        ConvergenceWarning, match=r"relative gap is .*, above tol=1e-14. Scale the features"
    ):
        s = min_norm_separator(data.data, y, p=2, q=INF, eps=1e-5, fit_intercept=True, tol=1e-14)
    assert s.relative_gap > 1e-14
    assert_certified(s, data.data, y, 1e-3)


OWN_SOLVERS = (
    "solve_semismooth_newton",
    "solve_nearest_point",
    "solve_on_column_sets",
    "solve_interior_point",
)


def replace_solvers(monkeypatch, names, solver):
    from sklearn_robust.separators import _engine_choice, critical_radius

    for name in names:
        monkeypatch.setattr(_engine_choice, name, solver)
        monkeypatch.setattr(critical_radius, name, solver, raising=False)


def test_failing_solvers_are_named(monkeypatch):
    def fail(*args, **kwargs):
        raise SolverFailure("out of luck")

    X, y = separable_data(20, 5)
    for names, solver in (
        (OWN_SOLVERS, "linear program"),
        (("solve_linear_program",), "cone program"),
    ):
        replace_solvers(monkeypatch, names, fail)
        s = min_norm_separator(X, y, p=1, q=INF, eps=0.05)
        assert s.solver.startswith(solver)
        assert_certified(s, X, y, 1e-8)
    monkeypatch.setattr(ConicProgram, "solve", fail)
    message = "interior point: out of luck; linear program: out of luck; cone program: out of luck"
    with pytest.raises(RuntimeError, match=message):
        min_norm_separator(X, y, p=1, q=INF, eps=0.05)


def test_undecided_separability_is_not_called_non_separable(monkeypatch):
    def useless(program, *args, **options):
        n, d = program.rows.shape
        return Point(np.zeros(d), np.full(n, 1 / n))

    X, y = separable_data(20, 5)
    replace_solvers(
        monkeypatch,
        [*OWN_SOLVERS, "solve_linear_program", "solve_quadratic_program", "solve_cone_program"],
        useless,
    )
    with pytest.raises(
        RuntimeError, match=r"neither found a robust separator for eps=0\.05 nor proved"
    ):
        min_norm_separator(X, y, p=2, q=INF, eps=0.05)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"p": 0.5}, r"p must be a real number in \[1, inf\], got 0.5. Use numpy.inf"),
        ({"q": "inf"}, r"q must be a real number in \[1, inf\], got 'inf'"),
        ({"eps": -0.1}, r"eps must be a finite number >= 0, got -0.1"),
        ({"eps": True}, r"eps must be a finite number >= 0, got True"),
        ({"eps": 10**400}, r"eps must be a finite number >= 0, got 1000"),
        ({"tol": 0.0}, "tol must be a finite number > 0, got 0.0"),
        ({"tol": True}, "tol must be a finite number > 0, got True"),
        ({"tol": "a"}, "tol must be a finite number > 0, got 'a'"),
        ({"fit_intercept": "yes"}, r"fit_intercept must be one of \[True, False\], got 'yes'"),
        ({"fit_intercept": 2}, r"fit_intercept must be one of \[True, False\], got 2"),
        ({"fit_intercept": None}, r"fit_intercept must be one of \[True, False\], got None"),
        ({"scale": [1j]}, r"scale must hold a number >= 0 for each feature, got \[1j\]"),
        ({"scale": np.array([1 + 1j])}, r"scale must hold a number >= 0 for each feature"),
        ({"scale": ["1"]}, r"scale must hold a number >= 0 for each feature, got \['1'\]"),
        ({"scale": [10**400]}, r"scale must hold a number >= 0 for each feature"),
        (
            {"y": [1, 1, 1, 1], "fit_intercept": True},
            "y must hold two classes or more, got only .*the intercept alone",
        ),
        ({"y": [0, 0, 0, 0]}, "y holds only the class .*Use labels -1 and"),
        ({"y": list("aaaa")}, "y holds only the class .*Use labels -1 and"),
        ({"X": [[np.nan], [1], [2], [3]]}, "NaN"),
    ],
)
def test_invalid_input(change, message):
    arguments = {
        "X": [[-2.0], [-1.0], [1.0], [2.0]],
        "y": [-1, -1, 1, 1],
        "p": 2,
        "q": 2,
        "eps": 0.1,
    } | change
    with pytest.raises(ValueError, match=message):
        min_norm_separator(arguments.pop("X"), arguments.pop("y"), **arguments)


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(2, 12),
    d=st.integers(1, 12),
    p=st.sampled_from([1, 1.5, 2, 3, INF]),
    q=st.sampled_from([1, 1.5, 2, 3, INF]),
    share=st.sampled_from([0.0, 0.5, 0.99, 1.01]),
    fit_intercept=st.booleans(),
    integers=st.booleans(),
)
def test_small_problems_are_decided_and_certified(seed, n, d, p, q, share, fit_intercept, integers):
    rng = np.random.default_rng(seed)
    X = rng.integers(-2, 3, size=(n, d)).astype(float) if integers else rng.normal(size=(n, d))
    y = np.append([1.0, -1.0], rng.choice([-1.0, 1.0], size=n - 2))
    star = max_margin(X, y, q=q, fit_intercept=fit_intercept)
    if star.margin == 0:
        assert star.margin_bound < 1e-10
    if star.margin > 0 and share < 1:
        s = min_norm_separator(X, y, p=p, q=q, eps=share * star.margin, fit_intercept=fit_intercept)
        assert_certified(s, X, y, 1e-6)
    else:
        with pytest.raises(NotSeparableError) as caught:
            min_norm_separator(X, y, p=p, q=q, eps=share * star.margin, fit_intercept=fit_intercept)
        assert_proof(caught.value, X, y, q, fit_intercept, slack=1e-10)


@pytest.mark.parametrize("q", [1, 2, np.inf])
@pytest.mark.parametrize("convert", [np.asarray, sparse.csr_array])
def test_a_small_feature_that_separates_is_found_beside_large_ones(q, convert):
    y = np.repeat([-1, 1], 30)
    X = np.column_stack([1e4 * np.random.default_rng(0).standard_normal(60), 1e-10 * y])
    assert max_margin(convert(X), y, q=q, fit_intercept=True, tol=1e-2).margin == pytest.approx(
        1e-10, rel=1e-2
    )
    separator = min_norm_separator(convert(X), y, p=2, q=q, eps=1e-12, fit_intercept=True, tol=1e-2)
    assert separator.margin == pytest.approx(0.99e-10, rel=1e-2)


@pytest.mark.parametrize(
    ("p", "q", "fit_intercept"), [(2, INF, False), (2, INF, True), (1, 2, False), (2, 2, False)]
)
def test_path_is_what_single_radii_give(p, q, fit_intercept):
    X, y = separable_data(24, 60)
    star = max_margin(X, y, q=q, fit_intercept=fit_intercept).margin
    radii = star * np.array([0.9, 0.0, 0.5, 0.5, 0.95])
    path = separator_path(X, y, p=p, q=q, eps=radii, fit_intercept=fit_intercept)
    assert [s.eps for s in path] == radii.tolist()
    for s in path:
        assert_certified(s, X, y, 1e-8)
        single = min_norm_separator(X, y, p=p, q=q, eps=s.eps, fit_intercept=fit_intercept)
        assert_allclose(s.coef, single.coef, rtol=1e-5, atol=1e-6 * np.abs(single.coef).max())


def test_path_starts_from_the_radius_before(monkeypatch):
    from sklearn_robust.separators import semismooth_newton

    X, y = separable_data(24, 60)
    radii = np.linspace(0, 0.95, 20) * max_margin(X, y, q=INF).margin
    steps = []
    original = semismooth_newton._newton_step
    monkeypatch.setattr(
        semismooth_newton, "_newton_step", lambda *args: steps.append(1) or original(*args)
    )
    separator_path(X, y, p=2, q=INF, eps=radii)
    warm = len(steps)
    for eps in radii:
        min_norm_separator(X, y, p=2, q=INF, eps=eps)
    assert 0 < warm < 0.7 * (len(steps) - warm)


@pytest.mark.parametrize(("p", "q", "scale"), [(1, INF, None), (INF, 1, 2.0)])
def test_path_is_one_direction_where_p_is_dual_to_q(p, q, scale, monkeypatch):
    from sklearn_robust.separators import min_norm

    X, y = separable_data(24, 60)
    scale = None if scale is None else np.full(60, scale)
    radii = np.linspace(0, 0.9, 4) * max_margin(X, y, q=q, scale=scale).margin
    solved = []
    original = min_norm.solve_separator
    monkeypatch.setattr(
        min_norm, "solve_separator", lambda *a, **k: solved.append(1) or original(*a, **k)
    )
    path = separator_path(X, y, p=p, q=q, eps=radii, scale=scale)
    assert len(solved) == 1
    for separator, eps in zip(path, radii, strict=True):
        single = min_norm_separator(X, y, p=p, q=q, eps=eps, scale=scale)
        assert separator.eps == eps
        assert separator.relative_gap <= 1e-8
        assert separator.margin == pytest.approx(single.margin, rel=1e-7)


def test_path_is_refined_from_radius_to_radius():
    X, y = separable_data(24, 90)
    radii = np.linspace(0, 0.8, 9) * max_margin(X, y, q=1, fit_intercept=True).margin
    path = separator_path(X, y, p=2, q=1, eps=radii, fit_intercept=True)
    for s in path:
        assert_certified(s, X, y, 1e-8)
    assert sum(s.solver == "refinement" for s in path) >= 4


@pytest.mark.parametrize(("n", "d", "q"), [(12, 30, INF), (40, 2, INF)])
def test_radii_of_a_path_may_lie_next_to_each_other(n, d, q):
    X, y = (np.repeat(part, 2, axis=0) for part in separable_data(n, d))
    for s in separator_path(X, y, p=2, q=q, eps=[0.0, 1e-300, 0.05]):
        assert_certified(s, X, y, 1e-8)


def test_path_ends_at_the_largest_radius():
    X, y = separable_data(24, 60)
    star = max_margin(X, y, q=INF).margin
    with pytest.raises(NotSeparableError):
        separator_path(X, y, p=2, q=INF, eps=[0.0, 1.1 * star])
    with pytest.raises(ValueError, match="eps must be"):
        separator_path(X, y, p=2, q=INF, eps=[-1.0])
    assert separator_path(X, y, p=2, q=INF, eps=[]) == []


@pytest.mark.parametrize("eps", [["0"], [True], [[0.1]], 0.1, "0.1", None, [None], [10**400]])
def test_a_path_needs_radii(eps):
    X, y = separable_data(6, 8)
    with pytest.raises(
        ValueError,
        match=r"eps must be a (sequence of finite numbers >= 0|finite number >= 0),.*got",
    ):
        separator_path(X, y, p=2, q=INF, eps=eps)


def test_the_path_and_eps_star_check_their_arguments():
    X, y = separable_data(6, 8)
    for function, arguments in ((separator_path, {"p": 2, "eps": [0.0]}), (max_margin, {})):
        for name, value in (
            ("fit_intercept", "yes"),
            ("tol", True),
            ("tol", "a"),
            ("scale", ["1"] * 8),
            ("q", "2"),
        ):
            with pytest.raises(ValueError, match=f"{name} must"):
                function(X, y, **{"q": INF, **arguments, name: value})


def test_representations_are_short():
    X, y = separable_data(20, 500)
    s = min_norm_separator(X, y, p=1, q=INF, eps=0.1)
    used = f"{np.count_nonzero(s.coef)} of 500 features"
    assert repr(s).startswith("Separator(p=1, q=inf, eps=0.1, fit_intercept=False, margin=")
    assert used in repr(s)
    assert len(repr(s)) < 250


def test_a_smaller_eps_is_advised_only_where_it_helps():
    X, y = separable_data(20, 30)
    with pytest.raises(
        NotSeparableError, match=r"eps\* = .* Use a smaller eps, or fit_intercept=True, with which"
    ):
        min_norm_separator(X, y, p=2, q=INF, eps=100.0)
    with pytest.raises(
        NotSeparableError, match=r"not linearly separable, eps\* = 0\. Use RobustLinearClassifier"
    ):
        min_norm_separator([[1.0], [1.0]], [1, -1], p=2, q=INF, eps=0.1, fit_intercept=True)


def test_a_free_intercept_is_advised_where_it_is_fixed():
    X, y = [[1.0], [2.0]], [-1, 1]  # separable by a line that does not pass through the origin
    with pytest.raises(
        NotSeparableError, match=r"Use fit_intercept=True, .* or RobustLinearClassifier"
    ) as caught:
        min_norm_separator(X, y, p=2, q=INF, eps=0.1)
    assert pickle.loads(pickle.dumps(caught.value)).fit_intercept is False
    assert min_norm_separator(
        X, y, p=2, q=INF, eps=0.1, fit_intercept=True
    ).margin == pytest.approx(0.4)
    with pytest.raises(NotSeparableError) as caught:
        min_norm_separator(X, y, p=2, q=INF, eps=1.0, fit_intercept=True)
    assert "fit_intercept" not in str(caught.value)


@pytest.mark.parametrize("fit_intercept", [False, True])
@pytest.mark.parametrize(("q", "scale"), [(2, None), (1, None), (1, np.arange(1.0, 9))])
def test_nearest_points_of_the_hulls(q, scale, fit_intercept, monkeypatch):
    from sklearn_robust.separators import _engine_choice

    X, y = separable_data(80, 8)
    arguments = {"p": 2, "q": q, "eps": 0.1, "scale": scale, "fit_intercept": fit_intercept}
    s = min_norm_separator(X, y, **arguments)
    assert s.solver == "nearest point"
    assert s.relative_gap <= 1e-10
    if scale is None:
        assert_certified(s, X, y, 1e-10)
    if q == 2:
        assert_allclose(s.margin + 0.1, norm((s.dual_coef * y) @ X, 2), rtol=1e-10)
    assert 0 < np.count_nonzero(s.dual_coef) <= 10
    others = [engine for engine in _engine_choice._ENGINES if engine.name != "nearest point"]
    monkeypatch.setattr(_engine_choice, "_ENGINES", others)
    other = min_norm_separator(X, y, **arguments)
    assert other.solver.startswith("interior point")
    assert_allclose(s.coef, other.coef, rtol=1e-5, atol=1e-6 * np.abs(s.coef).max())


@pytest.mark.slow
def test_nearest_point_of_many_rows_is_found_on_sets_of_rows(monkeypatch):
    from sklearn_robust.separators import nearest_point

    sizes = []

    def counted(A, b):
        sizes.append(A.shape[1])
        return nnls(A, b)

    monkeypatch.setattr(nearest_point, "nnls", counted)
    X, y = separable_data(20_000, 8)
    for convert in (np.asarray, sparse.csr_array):
        s = min_norm_separator(convert(X), y, p=2, q=2, eps=0.0)
        assert s.solver == "nearest point"
        assert_certified(s, X, y, 1e-12)
    # many rows at one distance, and rows that repeat
    tied = np.vstack([np.eye(3), np.ones((500, 3)), np.eye(3)])
    assert_allclose(max_margin(tied, np.ones(506), q=2).margin, 1 / np.sqrt(3), rtol=1e-14)
    assert max_margin(np.random.default_rng(0).normal(size=(20_000, 8)), y, q=2).margin == 0
    assert max(sizes) < 100


@pytest.mark.parametrize(
    "solver", ["semismooth Newton", "row sets", "column sets", "interior point"]
)
def test_each_engine_answers_where_it_fits(solver):
    n, d, p = {
        "row sets": (9000, 60, 2),
        "column sets": (40, 13_000, 1),
        "interior point": (60, 20, 2),
    }.get(solver, (20, 60, 2))
    X, y = separable_data(n, d)
    s = min_norm_separator(X, y, p=p, q=INF, eps=0.01 if solver != "column sets" else 0.0)
    assert s.solver.startswith(solver)
    assert_certified(s, X, y, 1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("q", [1, 2, 3, INF])
def test_a_row_of_zeros_is_never_separable(q):
    X, y = [[1.0, 0, 0], [0, 0, 0]], [1, -1]
    star = max_margin(X, y, q=q)
    assert (star.margin, star.relative_gap) == (0, 0)
    for p in (1, 2, 3, INF):
        with pytest.raises(NotSeparableError, match=r"not linearly separable, eps\* = 0\."):
            min_norm_separator(X, y, p=p, q=q, eps=0.0)


def test_a_feature_out_of_reach_that_separates_only_with_others():
    X = np.array([[-1.0, 0, 0], [-2, 2, 0], [1, -2, 1], [0, -1, 1], [-1, -2, 1]])
    y, scale = np.array([1, 1, -1, -1, -1]), [1.1, 1.7, 0.0]
    star = max_margin(X, y, q=3, scale=scale)
    assert_allclose([star.margin, star.margin_bound], 1 / 1.1, rtol=1e-8)
    assert star.margin <= star.margin_bound
    with pytest.raises(NotSeparableError) as caught:
        min_norm_separator(X, y, p=2, q=3, eps=9.09, scale=scale)
    assert caught.value.eps_star == pytest.approx(1 / 1.1, rel=1e-8)
    assert min_norm_separator(X, y, p=2, q=3, eps=0.9, scale=scale).relative_gap <= 1e-8


@pytest.mark.parametrize("p", [1, 2, INF])
@pytest.mark.parametrize("q", [3, 4, 10])
def test_a_bound_is_never_below_the_margin_where_a_few_features_are_far_larger_than_the_radius(
    p, q
):
    drawn = np.load(Path(__file__).parent / "data" / "bound_7x13.npz")
    s = min_norm_separator(drawn["X"], drawn["y"], p=p, q=q, eps=float(drawn["eps"]))
    assert s.margin <= s.margin_bound
    assert s.relative_gap <= 1e-8
    assert_certified(s, drawn["X"], drawn["y"], 1e-8)


@pytest.mark.parametrize("size", [1e-145, 1e140])
@pytest.mark.parametrize("q", [1, 3, INF])
def test_data_of_any_size_are_solved_in_their_own_unit(q, size):
    X, y = separable_data(10, 20)
    plain = max_margin(X, y, q=q)
    assert_allclose(max_margin(size * X, y, q=q).margin, size * plain.margin, rtol=1e-8)
    s = min_norm_separator(size * X, y, p=2, q=q, eps=size * 0.5 * plain.margin)
    assert_allclose(
        s.margin / size,
        min_norm_separator(X, y, p=2, q=q, eps=0.5 * plain.margin).margin,
        rtol=1e-8,
    )


def test_entries_whose_squares_overflow_are_refused():
    X, y = separable_data(10, 20)
    for convert in (np.asarray, sparse.csr_array):
        with pytest.raises(
            ValueError, match=r"X must hold numbers whose squares float64 can hold.*impute"
        ):
            max_margin(convert(np.nan_to_num(np.where(X > 2, np.inf, X))), y, q=2)


@pytest.mark.parametrize("q", [1.2, 2, INF])
def test_features_of_sizes_far_apart(q):
    """The features of size 1e8 are of no use for one sample: what separates it are those of size
    1."""
    X, y = separable_data(10, 8, seed=3)
    X = np.vstack([X, np.r_[np.zeros(4), X[0, 4:]]]) * np.r_[np.full(4, 1e8), np.ones(4)]
    y = np.append(y, y[0])
    star = max_margin(X, y, q=q, tol=1e-6)
    assert star.relative_gap <= 1e-6
    s = min_norm_separator(X, y, p=LpNorm(q).dual.p, q=2, eps=0.0, tol=1e-6)
    assert s.margin <= star.margin_bound
    assert star.margin <= s.margin_bound


@pytest.mark.parametrize("excess", [1e-5, 1e-3])
def test_weights_that_nearly_prove_it_do_not_prove_that_data_are_not_separable(monkeypatch, excess):
    # rows at distance 1 from the origin: ||Z^T a||_2 = 1 for any weights, eps* = 1
    X, y = np.array([[1.0, 0.0]]), np.array([1])

    def useless(program, *args, **options):
        return Point(np.array([-1.0, 0.0]), np.ones(1))

    replace_solvers(
        monkeypatch,
        [*OWN_SOLVERS, "solve_linear_program", "solve_quadratic_program", "solve_cone_program"],
        useless,
    )
    monkeypatch.setattr(
        "sklearn_robust.separators._engine_choice.refined",
        lambda program, point, tol: (point, False),
    )
    with pytest.raises(RuntimeError, match="neither found a robust separator"):
        min_norm_separator(X, y, p=2, q=2, eps=1 - excess)
    with pytest.raises(NotSeparableError):
        min_norm_separator(X, y, p=2, q=2, eps=1 + excess)


@pytest.mark.parametrize("program_fails", [False, True])
def test_weights_that_leave_a_part_of_a_feature_do_not_prove_a_zero_margin(
    monkeypatch, program_fails
):
    # the second separates, by a margin of 1e-4
    X, y = np.array([[1e6, 1e-4], [-1e6, 1e-4]]), np.array([1, 1])

    def useless(program, *args, **options):
        return Point(np.zeros(2), np.array([0.5, 0.5 - 1e-12]))

    replace_solvers(
        monkeypatch,
        [*OWN_SOLVERS, "solve_linear_program", "solve_quadratic_program", "solve_cone_program"],
        useless,
    )
    if program_fails:

        def fail(program):
            raise SolverFailure("out of luck")

        replace_solvers(monkeypatch, ["solve_linear_program"], fail)
    with pytest.warns(ConvergenceWarning, match="certified relative gap is 1,"):
        assert max_margin(X, y, q=2).margin == 0


def test_a_threat_that_is_no_ball_is_refused_by_name():
    class Box:
        symmetric = True

        def worst(self, v):
            return np.sign(v)

    X, y = separable_data(6, 8)
    problem = RobustProblem.from_data(X, y, threat=Box(), fit_intercept=False)
    refused = "An exact separator serves l_q balls only, got threat=Box: use an LpBall"
    with pytest.raises(ValueError, match="An exact separator needs conic of a threat, which"):
        solve_separator(problem, LpNorm(2))
    with pytest.raises(ValueError, match=refused):
        largest_distance(problem, 1e-8)


@pytest.mark.parametrize("share", [1 - 1e-6, 1 - 1e-9])
@pytest.mark.parametrize("fit_intercept", [False, True])
def test_near_eps_star_the_gap_includes_rounding(share, fit_intercept):
    """The margin is a small difference of large terms there; for p = q = 1 it is a rational
    number."""
    X, y = separable_data(12, 6, seed=1)
    star = max_margin(X, y, q=1, fit_intercept=fit_intercept)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        s = min_norm_separator(X, y, p=1, q=1, eps=share * star.margin, fit_intercept=fit_intercept)
    w = [Fraction(v) for v in s.coef]
    scores = [
        int(label) * (sum(map(Fraction.__mul__, map(Fraction, x), w)) + Fraction(s.intercept))
        for x, label in zip(X, y, strict=True)
    ]
    margin = (min(scores) - Fraction(s.eps) * max(map(abs, w))) / sum(map(abs, w))
    assert 0 < Fraction(s.margin) <= margin <= Fraction(s.margin_bound)
    assert s.relative_gap >= 1 - margin / Fraction(s.margin_bound)
