"""Separators and critical factors against sets that are no l_q ball, against cvxpy."""

import math
import pickle

import cvxpy as cp
import numpy as np
import pytest

from sklearn_robust import _pair_proofs
from sklearn_robust._pair_groups import BoxGroup
from sklearn_robust.joint import JointProblem
from sklearn_robust.norms import LpNorm
from sklearn_robust.problems import RobustProblem
from sklearn_robust.separators import (
    NotSeparableError,
    _joint_cuts,
    _joint_factor,
    _joint_sets,
    conic_separator,
    max_margin,
    min_norm_separator,
)
from sklearn_robust.separators.largest_factor import largest_factor
from sklearn_robust.threats import (
    Box,
    Ellipsoid,
    FeatureBudget,
    LinearImage,
    LpBall,
    Nothing,
    Relations,
)

D = 5
U = np.linspace(0.05, 0.2, D)
COVARIANCE = 0.01 * (np.eye(D) + 0.3)
THREE = np.arange(D + 3) < 3
CROSSED = np.vstack([np.random.default_rng(0).normal(size=(D, 3)), np.zeros((3, 3))])


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, D))
    w = rng.normal(size=D)
    y = np.where(X @ w > 0, 1, -1)
    return (X + 0.6 * np.outer(y, w) / np.linalg.norm(w)).clip(-3, 3), y


def ball_and_box(v):
    return 0.2 * cp.norm(v) + U @ cp.pos(v)


# the set, and for v = -y w what it takes of the margin
SETS = {
    "box": (Box(-U, 2 * U), lambda v: 2 * U @ cp.pos(v) + U @ cp.neg(v)),
    "budget": (FeatureBudget(2, 0.2), lambda v: 0.2 * cp.sum_largest(cp.abs(v), 2)),
    "ellipsoid": (Ellipsoid(COVARIANCE), lambda v: cp.norm(np.linalg.cholesky(COVARIANCE).T @ v)),
    "sum": (Box(0.0, U) + LpBall(2, 0.2), ball_and_box),
    "union": (
        LpBall(2, 0.2) | LpBall(1, 0.3),
        lambda v: cp.maximum(0.2 * cp.norm(v), 0.3 * cp.norm_inf(v)),
    ),
}


def largest_margin(X, y, p, support):
    w, b, gamma = cp.Variable(D), cp.Variable(), cp.Variable()
    up, down = support(-w), support(w)
    taken = cp.multiply(1.0 * (y > 0), up) + cp.multiply(1.0 * (y < 0), down)
    margins = cp.multiply(y, X @ w + b) - taken
    problem = cp.Problem(cp.Maximize(gamma), [margins >= gamma, cp.norm(w, p) <= 1])
    problem.solve(solver="CLARABEL", tol_gap_abs=1e-10, tol_gap_rel=1e-10, tol_feas=1e-10)
    return problem.value


@pytest.mark.parametrize("p", [1, 2, math.inf])
@pytest.mark.parametrize("name", SETS)
def test_the_margin_equals_an_independent_solver(data, name, p):
    X, y = data
    threat, support = SETS[name]
    found = min_norm_separator(X, y, p=p, threat=threat, fit_intercept=True)
    assert found.relative_gap <= 1e-8
    assert found.margin == pytest.approx(largest_margin(X, y, p, support), abs=1e-7)
    assert found.q is None
    assert type(threat).__name__ in repr(found)
    # the worst points attain the smallest margin
    moved = X - y[:, None] * found.perturbation
    worst = y * (moved @ found.coef + found.intercept)
    assert worst.min() == pytest.approx(1.0, abs=1e-7)


@pytest.mark.parametrize("p", [1, 2, math.inf])
def test_special_cases_equal_the_ball(data, p):
    X, y = data
    ball = min_norm_separator(X, y, p=p, q=math.inf, eps=0.1, fit_intercept=True)
    far = (-100.0, 100.0)
    for threat in (
        Box(-0.1, 0.1),
        Box(-0.1, 0.1, clip=far),
        LpBall(math.inf, 0.1, clip=far),
        LpBall(math.inf, {-1: 0.1, 1: 0.1}),
        FeatureBudget(D, 0.1),
    ):
        found = min_norm_separator(X, y, p=p, threat=threat, fit_intercept=True)
        assert found.margin == pytest.approx(ball.margin, rel=1e-8)
    one = min_norm_separator(X, y, p=p, threat=FeatureBudget(1, 0.1), fit_intercept=True)
    of_l1 = min_norm_separator(X, y, p=p, q=1, eps=0.1, fit_intercept=True)
    assert one.margin == pytest.approx(of_l1.margin, rel=1e-8)


def test_features_without_end_have_coefficients_of_one_sign(data):
    X, y = data
    endless = Box(0.0, np.where(np.arange(D) < 2, np.inf, 0.05))
    found = min_norm_separator(
        X + 5 * y[:, None] * (np.arange(D) == 4), y, p=2, threat=endless.only(1), fit_intercept=True
    )
    assert np.all(found.coef[:2] >= 0)
    assert found.relative_gap <= 1e-8


def test_limits(data):
    X, y = data
    low, high = X.min(axis=0), X.max(axis=0)
    threat = LpBall(math.inf, 0.3, clip=(low, high))
    found = min_norm_separator(X, y, p=2, threat=threat, fit_intercept=True)
    plain = min_norm_separator(X, y, p=2, q=math.inf, eps=0.3, fit_intercept=True)
    assert found.margin > plain.margin * (1 + 1e-6)
    moved = X - y[:, None] * found.perturbation
    assert np.all((moved >= low - 1e-12) & (moved <= high + 1e-12))


def test_radii_of_samples(data):
    X, y = data
    radius = np.random.default_rng(1).uniform(0, 2, size=40)
    found = min_norm_separator(X, y, p=2, q=2, eps=0.1, sample_radius=radius, fit_intercept=True)
    w, b = cp.Variable(D), cp.Variable()
    margins = cp.multiply(y, X @ w + b) - 0.1 * radius * cp.norm(w)
    problem = cp.Problem(cp.Minimize(cp.norm(w)), [margins >= 1])
    problem.solve(solver="CLARABEL")
    assert np.linalg.norm(found.coef) == pytest.approx(problem.value, abs=1e-6)


def test_samples_without_a_set_have_perturbations_of_0(data):
    X, y = data
    found = min_norm_separator(
        X, y, p=2, threat=FeatureBudget(2, 0.2), sample_radius=np.zeros(40), fit_intercept=True
    )
    np.testing.assert_array_equal(found.perturbation, np.zeros((40, D)))


def test_a_set_without_end_takes_nothing_from_the_other_class(data):
    X, y = data
    threat = (Box(0.0, np.inf) + LpBall(2, 0.1)).only(1)
    problem = RobustProblem.from_data(
        X, 1.0 * y, threat=threat, fit_intercept=True, classes=[-1, 1]
    )
    penalties = problem.penalties(-np.ones((1, D)))
    np.testing.assert_array_equal(penalties[0], np.where(y > 0, np.inf, 0.0))


@pytest.mark.parametrize(("name", "fit_intercept"), [("box", True), ("ellipsoid", False)])
def test_the_critical_factor_decides(data, name, fit_intercept):
    X, y = data
    if not fit_intercept:
        X = X * y[:, None].clip(0.5)  # margins of the classes differ
    threat = SETS[name][0]
    found = max_margin(X, y, threat=threat, fit_intercept=fit_intercept, tol=1e-5)
    assert found.relative_gap <= 1e-5
    factor = found.margin
    for share, separates in ((1 - 1e-3, True), (1 + 1e-3, False)):
        radius = np.full(40, factor * share)
        if separates:
            min_norm_separator(
                X, y, p=2, threat=threat, sample_radius=radius, fit_intercept=fit_intercept
            )
        else:
            with pytest.raises(NotSeparableError, match="a robust separator exists only against"):
                min_norm_separator(
                    X, y, p=2, threat=threat, sample_radius=radius, fit_intercept=fit_intercept
                )


def test_the_critical_factor_of_a_ball_is_its_radius(data):
    X, y = data
    for q in (1, math.inf):
        star = max_margin(X, y, q=q, fit_intercept=True).margin
        for threat in (LpBall(q, 0.1), LpBall(q, {-1: 0.1, 1: 0.1})):
            factor = max_margin(X, y, threat=threat, fit_intercept=True)
            assert factor.margin * 0.1 == pytest.approx(star, rel=1e-7)


@pytest.mark.parametrize("seed", [0, 4, 7])
def test_a_set_that_leaves_directions_as_they_are_has_no_critical_factor(seed):
    """Along them coefficients cancel in the set, up to their rounding."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(30, 10))
    y = np.where(rng.random(30) < 0.5, 1, -1)
    X[:, 0] += 6 * (y > 0)
    threat = LinearImage(LpBall(2, 0.2), np.eye(10)[:, :1] + 0.5 * np.eye(10)[:, 1:2])
    found = max_margin(X, y, threat=threat, fit_intercept=True)
    assert found.margin == math.inf
    assert found.relative_gap == 0


def test_infinite_and_zero_factors(data):
    X, y = data
    alone = Box(0.0, np.where(np.arange(D) < 4, 1.0, 0.0))
    separable_by_last = np.column_stack([X[:, :4], 3.0 * y])
    endless = max_margin(separable_by_last, y, threat=alone, fit_intercept=True)
    assert endless.margin == math.inf
    assert max_margin(X, y, threat=Nothing(), fit_intercept=True).margin == math.inf
    few = max_margin(separable_by_last, y, threat=FeatureBudget(1, 1.0 - np.eye(5)[4]))
    assert few.margin == math.inf
    assert not few.coef[:4].any()
    mixed = np.where(np.arange(40) % 2, 1, -1)
    nothing = max_margin(X, mixed, threat=SETS["box"][0], fit_intercept=True)
    assert nothing.margin == 0
    assert not nothing.coef.any()
    with pytest.raises(NotSeparableError, match="not linearly separable") as caught:
        min_norm_separator(X, mixed, p=2, threat=SETS["box"][0], fit_intercept=True)
    error = pickle.loads(pickle.dumps(caught.value))
    assert error.threat == "Box"
    assert error.eps_star == 0


@pytest.mark.parametrize(
    ("threat", "fit_intercept", "factor"),
    [
        (Box(-0.1, 0.2), True, 20),
        (Box(-0.1, 0.2), False, 15),
        (FeatureBudget(1, 0.2), True, 15),
        (LpBall(2, 0.2), False, 15),
    ],
)
def test_the_critical_factor_where_the_closest_samples_are_safe(threat, fit_intercept, factor):
    X, y = np.array([[1.0], [-1.0], [3.0], [-3.0]]), np.array([1, -1, 1, -1])
    radius = np.array([0.0, 0.0, 1.0, 1.0])
    found = max_margin(X, y, threat=threat, sample_radius=radius, fit_intercept=fit_intercept)
    assert found.margin == pytest.approx(factor, rel=1e-7)
    assert found.relative_gap <= 1e-8


@pytest.mark.parametrize(
    "threat",
    [Box(-0.1 * THREE, 0.2 * THREE), LinearImage(LpBall(2, 0.1), CROSSED)],
)
def test_a_critical_factor_beside_features_that_do_not_move(data, threat):
    X, y = data
    category = np.eye(3)[np.random.default_rng(1).integers(0, 3, 40)]
    found = max_margin(np.hstack([X, category]), y, threat=threat, fit_intercept=True)
    assert 0 < found.margin < math.inf
    assert found.relative_gap <= 1e-8


@pytest.mark.parametrize("name", ["box", "budget"])
def test_the_predictor_of_the_critical_factor(data, name):
    """It is right up to its factor, and has a smallest margin of 1 without adversary."""
    X, y = data
    found = max_margin(X, y, threat=SETS[name][0], fit_intercept=True)
    margins = y * (X @ found.coef + found.intercept)
    taken = found.perturbation @ found.coef
    assert margins.min() == pytest.approx(1.0, rel=1e-9)
    assert np.min(margins - found.margin * taken) == pytest.approx(0.0, abs=1e-7)


def test_sets_of_rows_find_the_same(data, monkeypatch):
    X, y = data
    problem = RobustProblem.from_data(
        np.tile(X, (5, 1)), np.tile(1.0 * y, 5), threat=SETS["sum"][0], fit_intercept=True
    )
    norm = conic_separator.LpNorm(2)
    whole = conic_separator.maximise_conic_margin(problem, norm, 1e-8)
    monkeypatch.setattr(conic_separator, "_ROWS_FROM", 20)
    parts = conic_separator.maximise_conic_margin(problem, norm, 1e-8)
    assert parts.gap <= 1e-8
    assert parts.margin == pytest.approx(whole.margin, rel=1e-8)


def test_no_predictor_exceeds_the_bound(data):
    X, y = data
    rng = np.random.default_rng(2)
    for name in ("box", "sum"):
        threat = SETS[name][0]
        problem = RobustProblem.from_data(X, 1.0 * y, threat=threat, fit_intercept=True)
        bound = conic_separator.maximise_conic_margin(
            problem, conic_separator.LpNorm(2), 1e-8
        ).bound
        factor = largest_factor(problem, 1e-6).bound
        for coef in rng.normal(size=(20, D)):
            scores = problem.signed_scores(coef[None])[0]
            for multiple, most in ((1.0, bound * np.linalg.norm(coef)), (factor, 0.0)):
                margins = scores - multiple * problem.penalties(coef[None])[0]
                margin = 0.5 * (margins[y > 0].min() + margins[y < 0].min())
                assert margin <= most + 1e-9, name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threat": Box(-0.1, 0.1), "q": 2}, "threat takes the place of q, eps and scale"),
        ({}, "q and eps, or threat, must be given"),
        ({"threat": "box"}, "threat must be an LpBall or an object"),
        ({"threat": Relations(LpBall(3, 0.1), np.ones((1, D)), [1.0])}, "needs conic"),
    ],
)
def test_messages(data, options, message):
    X, y = data
    with pytest.raises(ValueError, match=message):
        min_norm_separator(X, y, p=2, fit_intercept=True, **options)


def test_cuts_and_the_program_of_their_pairs_agree_with_that_of_all(monkeypatch):
    rng = np.random.default_rng(0)
    y = np.arange(24) % 4
    X = (2 * rng.normal(size=(4, 6))[y] + 0.3 * rng.normal(size=(24, 6))).clip(-2, 2)
    threat = LpBall(math.inf, 0.3, clip=(-2, 2))
    problem = JointProblem.from_data(X, y, threat=threat, fit_intercept=True)
    expected = _joint_sets.maximise_margin(problem, LpNorm(2), 1e-8)
    monkeypatch.setattr(_joint_cuts, "_FEWEST_ENTRIES", 0)
    programs = []
    solve = _joint_sets.PairProgram
    monkeypatch.setattr(
        _joint_sets, "PairProgram", lambda *given: programs.append(solve(*given)) or programs[-1]
    )
    found = _joint_sets.maximise_margin(problem, LpNorm(2), 1e-8)
    assert 0 < programs[-1].n_pairs < 24 * 3 / 2
    assert found.gap < 1e-8
    np.testing.assert_allclose(found.margin, expected.margin, rtol=1e-8)


@pytest.mark.parametrize("name", ["box", "union"])
def test_the_critical_factor_of_several_classes_decides(name):
    rng = np.random.default_rng(0)
    y = np.arange(12) % 3
    X = 2 * rng.normal(size=(3, D))[y] + 0.3 * rng.normal(size=(12, D))
    threat, taken = SETS[name]
    found = max_margin(X, y, threat=threat, fit_intercept=True)
    assert found.relative_gap <= 1e-8
    W, b, factor = cp.Variable((3, D)), cp.Variable(3), cp.Parameter(nonneg=True)
    margins = [
        (W[y[i]] - W[k]) @ X[i] + b[y[i]] - b[k] - factor * taken(W[k] - W[y[i]])
        for i in range(12)
        for k in range(3)
        if k != y[i]
    ]
    problem = cp.Problem(
        cp.Maximize(cp.min(cp.hstack(margins))), [cp.norm(W, "fro") <= 1, cp.sum(b) == 0]
    )
    for share in (-1e-4, 1e-4):
        factor.value = (1 + share) * found.margin
        problem.solve(solver="CLARABEL")
        assert (problem.value > 1e-6) == (share < 0)


def test_the_critical_factor_of_several_classes_is_infinite_against_no_set_alone():
    size = 1e-20
    rng = np.random.default_rng(0)
    y = np.arange(12) % 3
    X = 4 * rng.normal(size=(3, 3))[y] + 0.3 * rng.normal(size=(12, 3))
    found = max_margin(X, y, threat=Box(-size, size / 2), fit_intercept=True)
    assert 0 < size * found.margin < 1e3
    assert found.relative_gap <= 1e-8
    beside = np.hstack([X, np.eye(3)[y]])
    endless = max_margin(beside, y, threat=Box(0.0, size * (np.arange(6) < 2)), fit_intercept=True)
    assert endless.margin == math.inf
    assert not endless.coef[:, :2].any()
    along = size * rng.normal(size=(6, 2))
    endless = max_margin(beside, y, threat=LinearImage(LpBall(2, 1.0), along), fit_intercept=True)
    assert endless.margin == math.inf
    np.testing.assert_allclose((endless.coef - endless.coef[0]) @ along / size, 0, atol=1e-12)
    scores = beside @ endless.coef.T + endless.intercept
    leads = scores[np.arange(12), y][:, None] - scores
    assert leads[np.eye(3)[y] == 0].min() == pytest.approx(1.0)
    nothing = max_margin(np.eye(3)[y], np.arange(12) // 4, threat=Box(-size, size / 2))
    assert nothing.margin == nothing.relative_gap == 0


def test_a_small_critical_factor_of_classes_in_a_row_is_not_zero():
    X, y, radius = np.array([[0.0], [1.0], [3.0]]), np.arange(3), np.array([2.0, 1.0, 0.0])
    found = max_margin(
        1e-10 * X, y, threat=Box(-1.0, 1.0), sample_radius=radius, fit_intercept=True
    )
    assert found.margin == pytest.approx(1e-10 / 3)
    assert found.relative_gap <= 1e-8


@pytest.mark.parametrize(("n_classes", "unit"), [(2, 1e8), (2, 1e-30), (3, 1e-30)])
@pytest.mark.parametrize("name", ["box", "sum"])
def test_the_critical_factor_is_that_of_the_data_in_other_units(name, n_classes, unit):
    rng = np.random.default_rng(0)
    y = np.arange(12) % n_classes
    X = 2 * rng.normal(size=(n_classes, D))[y] + 0.3 * rng.normal(size=(12, D))
    expected = max_margin(X, y, threat=SETS[name][0], fit_intercept=True).margin
    found = max_margin(unit * X, y, threat=SETS[name][0], fit_intercept=True)
    assert found.margin == pytest.approx(unit * expected, rel=1e-8)
    assert found.relative_gap <= 1e-8


@pytest.mark.parametrize(("move", "multiple"), [(0.5, 0.5), (2.0, 2.0), (-1e-8, math.inf)])
def test_no_multiple_of_boxes_holds_a_move_against_their_side(move, multiple):
    group = BoxGroup(0, 1, np.arange(1), np.zeros((1, 1)), np.ones((1, 1)))
    part = _pair_proofs._InBoxes(group, np.full((2, 1, 1), move))
    part.weights = np.ones(1)
    assert part.multiple() == multiple


def test_a_program_that_fails_leaves_the_factor_so_far(monkeypatch):
    X, y = np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]]), np.arange(3)
    problem = JointProblem.from_data(X, y, threat=Box(-1.0, 2.0), fit_intercept=True).in_cones()
    solve = _joint_factor.maximise_margin

    def failing(at, *given, **options):
        if at.radius > 1:
            raise RuntimeError
        return solve(at, *given, **options)

    monkeypatch.setattr(_joint_factor, "maximise_margin", failing)
    found = _joint_factor.critical_factor(problem)
    assert 1 <= found.margin <= found.bound
