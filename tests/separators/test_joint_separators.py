"""Exact separators of several classes: programs, certificates, eps*."""

import math
from itertools import combinations

import cvxpy as cp
import numpy as np
import pytest
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning

from sklearn_robust.joint import JointProblem
from sklearn_robust.joint_certificates import feasibility
from sklearn_robust.norms import LpNorm, SchattenNorm
from sklearn_robust.separators import (
    NotSeparableError,
    _conic_refinement,
    _joint_radius,
    _joint_working_sets,
    max_margin,
    min_norm_separator,
    separator_path,
)
from sklearn_robust.separators._joint_program import JointProgram
from sklearn_robust.separators.joint import largest_joint_distance, solve_joint_separator

# the independent solver's own tolerance, which the comparisons allow for
pytestmark = pytest.mark.filterwarnings("ignore:Solution may be inaccurate")

INF = math.inf
TOL = 1e-8
RADIUS = {1: 1.0, 1.5: 0.5, 2: 0.5, 3: 0.4, INF: 0.15}


def apart(n=24, d=5, n_classes=3, seed=0):
    """Classes that a predictor separates."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % n_classes
    return 0.4 * rng.standard_normal((n, d)) + 2 * rng.standard_normal((n_classes, d))[y], y


def far_apart(n, d, n_classes, seed):
    """Classes whose eps* is hard to find."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % n_classes
    return 0.5 * rng.standard_normal((n, d)) + 2 * rng.standard_normal((n_classes, d))[y], y


def independent_norm(X, y, p, q, eps, fit_intercept, scale=1.0):
    """The least norm by cvxpy, on every pair of a sample and a rival."""
    n_classes = y.max() + 1
    W, b = cp.Variable((n_classes, X.shape[1])), cp.Variable(n_classes)
    penalty = {1: lambda w: cp.norm(w, "inf"), 2: cp.norm2, INF: cp.norm1}.get(
        q, lambda w: cp.pnorm(w, q / (q - 1))
    )
    rules = [] if fit_intercept else [b == 0]
    for c in range(n_classes):
        for k in range(n_classes):
            if k != c:
                taken = eps * penalty(cp.multiply(scale, W[c] - W[k])) if eps else 0
                rules.append(X[y == c] @ (W[c] - W[k]) + b[c] - b[k] - taken >= 1)
    norms = {2: cp.sum_squares, "spectral": cp.sigma_max, "nuclear": cp.normNuc}
    norm = norms.get(p, lambda W: cp.pnorm(cp.vec(W, order="C"), p))(W)
    program = cp.Problem(cp.Minimize(norm), rules)
    program.solve(solver="CLARABEL")
    return math.sqrt(program.value) if p == 2 else program.value


def exact_smallest_margin(X, y, coef, intercept, q, eps, scale=1.0):
    """The smallest robust margin, sample by sample and rival by rival."""
    dual = LpNorm(q).dual
    return min(
        (coef[c] - coef[k]) @ x
        + intercept[c]
        - intercept[k]
        - eps * dual.value(scale * (coef[c] - coef[k]))
        for x, c in zip(X, y, strict=True)
        for k in range(len(coef))
        if k != c
    )


@pytest.mark.pairwise
@pytest.mark.parametrize("n_classes", [3, 5])
@pytest.mark.parametrize("q", [1, 2, INF])
@pytest.mark.parametrize("p", [1, 2, INF])
def test_is_certified_and_of_least_norm(p, q, n_classes):
    X, y = apart(n_classes=n_classes)
    fit_intercept = (n_classes == 3) != (q == 2)
    eps = RADIUS[q]
    found = min_norm_separator(X, y, p=p, q=q, eps=eps, fit_intercept=fit_intercept)
    assert found.relative_gap <= TOL
    least = independent_norm(X, y, p, q, eps, fit_intercept)
    assert LpNorm(p).value(found.coef.ravel()) == pytest.approx(least, rel=1e-6)
    smallest = exact_smallest_margin(X, y, found.coef, found.intercept, q, eps)
    assert smallest == pytest.approx(1, rel=1e-9)
    assert found.coef.shape == (n_classes, 5)
    assert found.dual_coef.shape == (n_classes, 24)
    assert found.intercept.any() == fit_intercept


@pytest.mark.parametrize("p", ["spectral", "nuclear"])
def test_matrix_norms(p):
    X, y = apart()
    found = min_norm_separator(X, y, p=p, q=2, eps=0.5, fit_intercept=True)
    assert found.relative_gap <= 1e-6
    assert found.p == p
    norm = SchattenNorm(INF if p == "spectral" else 1, 3)
    least = independent_norm(X, y, p, 2, 0.5, True)
    assert norm.value(found.coef.ravel()) == pytest.approx(least, rel=1e-5)


@pytest.mark.parametrize(("p", "q"), [(1.5, 3), (3, 1.5)])
def test_other_exponents(p, q):
    X, y = apart()
    found = min_norm_separator(X, y, p=p, q=q, eps=RADIUS[q], fit_intercept=True)
    assert found.relative_gap <= 1e-6
    least = independent_norm(X, y, p, q, RADIUS[q], True)
    assert LpNorm(p).value(found.coef.ravel()) == pytest.approx(least, rel=1e-5)


@pytest.mark.parametrize("q", [1, 2, INF])
def test_scale(q):
    X, y = apart()
    scale = np.array([0.0, 1.0, 2.0, 0.5, 1.0])
    found = min_norm_separator(X, y, p=2, q=q, eps=RADIUS[q], scale=scale)
    assert found.relative_gap <= TOL
    least = independent_norm(X, y, 2, q, RADIUS[q], False, scale)
    assert np.linalg.norm(found.coef) == pytest.approx(least, rel=1e-6)
    assert not found.perturbation[..., 0].any()


def test_sparse_data_float32_and_weights_of_zero():
    X, y = apart()
    given = {"p": 2, "q": INF, "eps": 0.15, "fit_intercept": True}
    found = min_norm_separator(X, y, **given)
    from_sparse = min_norm_separator(sparse.csr_array(X), y, **given)
    np.testing.assert_allclose(from_sparse.coef, found.coef, rtol=1e-6, atol=1e-9)
    # samples of weight zero, on the wrong side, do not matter
    more, labels = np.concatenate([X, -X[:4]]), np.concatenate([y, y[:4]])
    weight = (np.arange(28) < 24).astype(np.float32)
    problem = JointProblem.from_data(
        more.astype(np.float32), labels, q=INF, eps=0.15, fit_intercept=True, sample_weight=weight
    )
    left_out = solve_joint_separator(problem, LpNorm(2))
    np.testing.assert_allclose(left_out.coef, found.coef, rtol=1e-5, atol=1e-6)
    assert not left_out.weights[:, 24:].any()
    assert left_out.gap <= TOL


def test_two_classes_have_half_the_difference():
    X, y = apart(n_classes=2)
    binary = min_norm_separator(X, y, p=2, q=INF, eps=0.15, fit_intercept=True)
    problem = JointProblem.from_data(X, y, q=INF, eps=0.15, fit_intercept=True)
    joint = solve_joint_separator(problem, LpNorm(2))
    np.testing.assert_allclose(joint.coef[1] - joint.coef[0], binary.coef, rtol=1e-6, atol=1e-9)
    assert joint.intercept[1] - joint.intercept[0] == pytest.approx(binary.intercept)


def test_labels_and_perturbation_of_a_path():
    X, y = apart()
    names = np.array(["c", "a", "b"])
    path = separator_path(X, names[y], p=1, q=INF, eps=[0.2, 0.1])
    assert [one.eps for one in path] == [0.2, 0.1]
    assert path[0].margin < path[1].margin
    found, order = path[0], np.argsort(names)
    rank = np.argsort(order)
    for x, c in zip(X, rank[y], strict=True):
        for k in range(3):
            if k != c:  # the adversary moves the sample nearest to its rival
                scores = found.coef @ (x - found.perturbation[c, k])
                assert np.abs(found.perturbation[c, k]).max() <= 0.2 * (1 + 1e-12)
                assert scores[c] - scores[k] >= 1 - 1e-9
    assert repr(found).startswith("Separator(p=1, q=inf, eps=0.2")


@pytest.mark.parametrize(("q", "fit_intercept"), [(1, False), (2, True), (INF, True)])
def test_largest_radius(q, fit_intercept):
    X, y = apart()
    found = max_margin(X, y, q=q, fit_intercept=fit_intercept, tol=1e-6)
    star = found.margin
    assert found.relative_gap <= 1e-6
    smallest = exact_smallest_margin(X, y, found.coef, found.intercept, q, star)
    assert smallest >= -1e-9
    given = {"p": 2, "q": q, "fit_intercept": fit_intercept}
    near = min_norm_separator(X, y, eps=0.95 * star, **given)
    assert near.relative_gap <= TOL
    with pytest.raises(NotSeparableError, match="only for eps < eps") as refusal:
        min_norm_separator(X, y, eps=1.001 * star, **given)
    error = refusal.value
    assert error.eps_star == pytest.approx(star, rel=1e-5)
    problem = JointProblem.from_data(X, y, q=q, eps=error.eps, fit_intercept=fit_intercept)
    assert feasibility(problem, error.weights, error.perturbations).proven


@pytest.mark.parametrize("exponent", [-460, 460])
@pytest.mark.parametrize("q", [2, INF])
def test_largest_radius_in_any_unit(q, exponent):
    X, y = apart()
    unit = 2.0**exponent
    found, ours = (max_margin(rows, y, q=q, fit_intercept=True) for rows in (unit * X, X))
    assert found.relative_gap <= TOL
    assert found.margin == pytest.approx(unit * ours.margin, rel=1e-12)
    np.testing.assert_allclose(unit * found.coef, ours.coef, rtol=1e-12, atol=1e-14)
    X[3], y[3] = X[0], 1  # a sample in two classes
    found = max_margin(unit * X, y, q=q, fit_intercept=True)
    assert (found.margin, found.relative_gap) == (0, 0)


def test_largest_radius_with_features_out_of_reach():
    X, y = apart()
    alone = max_margin(X, y, q=INF, scale=[0.0, 0.0, 0.0, 1.0, 1.0], fit_intercept=True)
    assert alone.margin == INF
    assert not alone.coef[:, 3:].any()
    one = max_margin(X, y, q=INF, scale=[1.0, 1.0, 1.0, 1.0, 0.0], fit_intercept=True)
    assert max_margin(X, y, q=INF, fit_intercept=True).margin < one.margin < INF
    assert one.relative_gap <= TOL


def test_data_that_nothing_separates():
    X, y = apart()
    X[3], y[3] = X[0], 1  # a sample in two classes
    problem = JointProblem.from_data(X, y, q=INF, eps=0.0, fit_intercept=True)
    star = largest_joint_distance(problem)
    assert (star.margin, star.bound) == (0, 0)
    assert feasibility(problem, star.weights).proven
    found = max_margin(X, y, q=INF, fit_intercept=True)
    assert (found.margin, found.relative_gap) == (0, 0)
    assert not found.coef.any()
    with pytest.raises(NotSeparableError, match="not linearly separable"):
        min_norm_separator(X, y, p=2, q=INF, eps=0.1, fit_intercept=True)


def test_hard_radii_are_certified_by_newton_steps():
    # clarabel alone misses the tolerance
    X, y = apart(n=60, d=12, n_classes=5, seed=3)
    found = min_norm_separator(X, y, p=INF, q=2, eps=1.0, fit_intercept=True, tol=1e-12)
    assert found.relative_gap <= 1e-12


def test_sets_of_pairs_solve_programs_with_many_samples(monkeypatch):
    X, y = apart(n=120)
    problem = JointProblem.from_data(X, y, q=INF, eps=0.2, fit_intercept=True)
    whole = solve_joint_separator(problem, LpNorm(2))
    monkeypatch.setattr(_joint_working_sets, "_LARGE", 200)
    sizes = []
    program_of = JointProgram.of

    def recorded(form, chosen=None):
        sizes.append(None if chosen is None else int(chosen.sum()))
        return program_of(form, chosen)

    monkeypatch.setattr(_joint_working_sets.JointProgram, "of", recorded)
    on_sets = solve_joint_separator(problem, LpNorm(2))
    np.testing.assert_allclose(on_sets.coef, whole.coef, rtol=1e-7, atol=1e-9)
    assert on_sets.gap <= TOL
    assert 0 < sizes[0] < 60
    assert sizes == sorted(sizes)


@pytest.mark.parametrize(
    ("n", "d", "n_classes", "seed", "q", "fit_intercept"),
    [
        (60, 12, 5, 5, INF, True),  # four of the classes decide it
        (30, 8, 3, 2, INF, False),  # it is approached as two classes become alike
        (60, 12, 5, 6, 1, True),
    ],
)
def test_largest_radius_that_few_classes_decide(n, d, n_classes, seed, q, fit_intercept):
    X, y = far_apart(n, d, n_classes, seed)
    found = max_margin(X, y, q=q, fit_intercept=fit_intercept)
    assert found.relative_gap <= TOL
    smallest = exact_smallest_margin(
        X, y, found.coef, found.intercept, q, (1 - 1e-6) * found.margin
    )
    assert smallest > 0
    bound = found.margin * (1 + 1e-7)
    problem = JointProblem.from_data(X, y, q=q, eps=bound, fit_intercept=fit_intercept)
    assert feasibility(problem, found.dual_coef, search=True).proven


def test_a_search_for_the_largest_radius_that_ends_early_encloses_it(monkeypatch):
    X, y = far_apart(60, 12, 5, 5)  # eps* is 1.3369
    monkeypatch.setattr(_joint_radius, "_MOST_ENTRIES", 1)
    with pytest.warns(ConvergenceWarning):
        found = max_margin(X, y, q=INF, fit_intercept=True)
    assert 0 < found.margin < 1.3369 < found.margin_bound
    problem = JointProblem.from_data(X, y, q=INF, eps=found.margin_bound, fit_intercept=True)
    assert feasibility(problem, found.dual_coef, search=True).proven


def test_largest_radius_is_at_most_that_of_every_two_classes():
    X, y = apart(n_classes=4)
    found = max_margin(X, y, q=2, fit_intercept=True)
    of_pairs = [
        max_margin(X[np.isin(y, pair)], y[np.isin(y, pair)], q=2, fit_intercept=True).margin
        for pair in combinations(range(4), 2)
    ]
    assert found.margin <= min(of_pairs) * (1 + 1e-12)


@pytest.mark.parametrize("p", ["spectral", "nuclear"])
def test_matrix_norms_near_the_largest_radius(p):
    X, y = apart()
    eps = 0.99 * max_margin(X, y, q=2, fit_intercept=True).margin
    found = min_norm_separator(X, y, p=p, q=2, eps=eps, fit_intercept=True)
    assert found.relative_gap <= 1e-6


def test_projection_on_semidefinite_matrices_and_its_jacobian():
    v, step = np.random.default_rng(0).standard_normal(15), 1e-6
    projected, jacobian = _conic_refinement._semidefinite(v)
    again, _ = _conic_refinement._semidefinite(projected)
    np.testing.assert_allclose(again, projected, atol=1e-13)
    assert projected @ (v - projected) == pytest.approx(0, abs=1e-12)
    differences = [
        _conic_refinement._semidefinite(v + step * e)[0]
        - _conic_refinement._semidefinite(v - step * e)[0]
        for e in np.eye(15)
    ]
    np.testing.assert_allclose(jacobian.T, np.array(differences) / (2 * step), atol=1e-7)
