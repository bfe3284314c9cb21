"""The minimiser of the risk against sets that differ from sample to sample, against cvxpy."""

import math
import warnings
from dataclasses import replace

import cvxpy as cp
import numpy as np
import pytest
from scipy import sparse
from sklearn.datasets import load_breast_cancer
from sklearn.preprocessing import scale

from sklearn_robust import RobustLinearClassifier
from sklearn_robust.joint import JointProblem
from sklearn_robust.losses import LOSSES
from sklearn_robust.norms import LpNorm
from sklearn_robust.problems import RobustProblem
from sklearn_robust.solvers import minimise_joint_risk, minimise_robust_risk, robust_risk
from sklearn_robust.solvers._nonnegative_quadratic import minimise_nonnegative_quadratic
from sklearn_robust.threats import Box, Ellipsoid, FeatureBudget, LpBall, OneHot, Relations

EUCLIDEAN = LpNorm(2)
LABELS = ("benign", "malware")
D = 6
U = np.linspace(0.1, 0.4, D)
INFINITE = np.where(np.arange(D) < 2, np.inf, U)
COVARIANCE = np.diag(U**2) + 0.01

each_loss = pytest.mark.parametrize(
    "loss", [LOSSES["exponential"], LOSSES["logistic"]], ids=["exponential", "logistic"]
)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(80, D)).clip(-1.5, 1.5)
    y = np.where(X.sum(axis=1) + 3 * rng.normal(size=80) > 0, 1.0, -1.0)
    return X, y


def test_a_model_may_have_no_columns(data):
    X, y = data
    problem = RobustProblem.from_data(
        X, y, threat=LpBall(math.inf, 3.0, clip=(-1.5, 1.5)), fit_intercept=False
    )
    solution = minimise_robust_risk(problem, LOSSES["logistic"], EUCLIDEAN)
    assert solution.converged[0]
    assert not solution.coef.any()


def box_support(lower, upper):
    """sigma(v) of a box as a cvxpy expression; sides without end are constraints."""

    def support(v):
        finite = [np.where(np.isfinite(end), end, 0.0) for end in (upper, -np.asarray(lower))]
        return finite[0] @ cp.pos(v) + finite[1] @ cp.neg(v)

    return support


SETS = {
    "box": (Box(-U, 2 * U), box_support(-U, 2 * U)),
    "budget": (FeatureBudget(2, 0.3), lambda v: 0.3 * cp.sum_largest(cp.abs(v), 2)),
    "ellipsoid": (
        Ellipsoid(COVARIANCE, 0.8),
        lambda v: 0.8 * cp.norm(np.linalg.cholesky(COVARIANCE).T @ v),
    ),
    "union": (
        FeatureBudget(2, 0.3) | LpBall(2, 0.4),
        lambda v: cp.maximum(0.3 * cp.sum_largest(cp.abs(v), 2), 0.4 * cp.norm(v)),
    ),
    "sum": (
        Box(0.0, U) + LpBall(2, 0.3),
        lambda v: U @ cp.pos(v) + 0.3 * cp.norm(v),
    ),
}
RADII = {
    "all": np.ones(80),
    "samples": np.random.default_rng(5).uniform(0, 2, size=80),
}


def least_risk(X, y, loss, margins, constraints=()):
    """The least risk by cvxpy, of margins as a function of w and b."""
    w, b = cp.Variable(X.shape[1]), cp.Variable()
    m = margins(w, b)
    logistic = loss is LOSSES["logistic"]
    value = cp.sum(cp.logistic(-m)) / len(y) if logistic else cp.log_sum_exp(-m)
    problem = cp.Problem(cp.Minimize(value), [rule(w) for rule in constraints])
    with warnings.catch_warnings():  # cvxpy warns of 1e-8
        warnings.filterwarnings("ignore", message="Solution may be inaccurate")
        problem.solve(solver="CLARABEL")
    return problem.value if logistic else math.exp(problem.value) / len(y)


def minimised(X, y, threat, loss, **options):
    problem = RobustProblem.from_data(
        X, y, threat=threat, fit_intercept=True, classes=LABELS, **options
    )
    solution = minimise_robust_risk(problem, loss, EUCLIDEAN)
    assert solution.gap[0] <= 1e-8
    return problem, solution


@pytest.mark.pairwise
@each_loss
@pytest.mark.parametrize("of_samples", RADII)
@pytest.mark.parametrize("name", SETS)
def test_the_risk_equals_an_independent_solver(data, loss, name, of_samples):
    X, y = data
    threat, support = SETS[name]
    radius = RADII[of_samples]
    _, solution = minimised(X, y, threat, loss, sample_radius=radius)

    def margins(w, b):
        up, down = support(-w), support(w)
        taken = cp.multiply(radius * (y > 0), up) + cp.multiply(radius * (y < 0), down)
        return cp.multiply(y, X @ w + b) - taken

    expected = least_risk(X, y, loss, margins)
    assert math.exp(solution.log_risk[0]) == pytest.approx(expected, abs=1e-6)


@each_loss
@pytest.mark.parametrize("q", [1, 2, 3, math.inf])
def test_balls_of_classes_and_samples(data, loss, q):
    X, y = data
    radius = RADII["samples"] * np.where(y > 0, 1.0, 0.25)
    threat = LpBall(q, {"malware": 0.2, "benign": 0.05})
    _, solution = minimised(X, y, threat, loss, sample_radius=RADII["samples"])
    dual = LpNorm(q).dual.p

    def margins(w, b):
        return cp.multiply(y, X @ w + b) - 0.2 * radius * cp.norm(w, dual)

    expected = least_risk(X, y, loss, margins)
    assert math.exp(solution.log_risk[0]) == pytest.approx(expected, abs=1e-6)


def test_a_feature_that_tells_nothing_has_coefficient_zero():
    X, y = np.array([[1.0], [-1.0], [1.0], [-1.0]]), np.array([1.0, 1.0, -1.0, -1.0])
    problem = RobustProblem.from_data(X, y, threat=Box(-0.1, 0.2), fit_intercept=False)
    found = minimise_robust_risk(problem, LOSSES["logistic"], LpNorm(2))
    assert found.coef[0, 0] == 0
    assert found.converged[0]


@each_loss
@pytest.mark.parametrize("threat", [Box(0.0, INFINITE), Box(0.0, INFINITE) + LpBall(2, 0.1)])
def test_features_that_grow_without_end_in_one_class(data, loss, threat):
    X, y = data
    _, solution = minimised(X, y, threat.only("malware"), loss)
    assert np.all(solution.coef[0, :2] >= 0)
    finite = np.where(np.isfinite(INFINITE), INFINITE, 0.0)
    ball = 0.0 if isinstance(threat, Box) else 0.1

    def margins(w, b):
        taken = finite @ cp.neg(w) + ball * cp.norm(w)
        return cp.multiply(y, X @ w + b) - cp.multiply(y > 0, taken)

    expected = least_risk(X, y, loss, margins, [lambda w: w[:2] >= 0])
    assert math.exp(solution.log_risk[0]) == pytest.approx(expected, abs=1e-6)


@each_loss
def test_limits_of_the_data(data, loss):
    X, y = data
    _, solution = minimised(X, y, LpBall(math.inf, 0.2, clip=(-1.5, 1.5)), loss)
    low, high = np.maximum(-0.2, -1.5 - X), np.minimum(0.2, 1.5 - X)
    up = (y > 0)[:, None]
    of_positive, of_negative = np.where(up, -low, high), np.where(up, high, -low)

    def margins(w, b):
        taken = of_positive @ cp.pos(w) + of_negative @ cp.neg(w)
        return cp.multiply(y, X @ w + b) - taken

    expected = least_risk(X, y, loss, margins)
    assert math.exp(solution.log_risk[0]) == pytest.approx(expected, abs=1e-6)
    plain = minimised(X, y, LpBall(math.inf, 0.2), loss)[1]
    assert solution.log_risk[0] < plain.log_risk[0]  # a part of the ball is impossible


@each_loss
def test_relations_that_every_change_keeps(data, loss):
    """What one feature gains another one loses: the set has no interior."""
    X, y = data
    row = np.array([[1.0, 1.0, 0, 0, 0, 0]])
    threat = Relations(LpBall(math.inf, 0.3), np.vstack([row, -row]), np.zeros(2))
    _, solution = minimised(X, y, threat, loss)

    def margins(w, b):
        taken = 0.3 * (cp.abs(w[0] - w[1]) + cp.norm(w[2:], 1))
        return cp.multiply(y, X @ w + b) - taken

    expected = least_risk(X, y, loss, margins)
    assert math.exp(solution.log_risk[0]) == pytest.approx(expected, abs=1e-6)


def test_categories_that_change():
    """Each sample may change one of two categorical features: by enumeration of the changes."""
    rng = np.random.default_rng(2)
    places = rng.integers(0, 3, size=(40, 2))
    X = np.concatenate([np.eye(3)[places[:, 0]], np.eye(3)[places[:, 1]]], axis=1)
    y = np.where(places.sum(axis=1) + rng.normal(size=40) > 2, 1.0, -1.0)
    X, n_plain = np.column_stack([X, 2 * y + 3 * rng.normal(size=40)]), 7
    loss = LOSSES["logistic"]
    _, solution = minimised(X, y, OneHot([[0, 1, 2], [3, 4, 5]]), loss)

    def margins(w, b):
        worst = []
        for label, place in zip(y, places, strict=True):
            moved = [cp.Constant(0.0)]
            for first, at in zip((0, 3), place, strict=True):
                moved += [-label * (w[first + k] - w[first + at]) for k in range(3)]
            worst.append(cp.maximum(*moved))
        return cp.multiply(y, X @ w + b) - cp.hstack(worst)

    expected = least_risk(X, y, loss, margins)
    assert math.exp(solution.log_risk[0]) == pytest.approx(expected, abs=1e-6)
    assert solution.coef.shape == (1, n_plain)


@each_loss
def test_special_cases_equal_the_ball(data, loss):
    """Equal bounds and d features of a budget are the l_inf ball, one feature is the l_1 ball."""
    X, y = data
    cases = [
        (Box(-0.2, 0.2), LpBall(math.inf, 0.2)),
        (Box(-0.2, 0.2, clip=(-100, 100)), LpBall(math.inf, 0.2)),
        (FeatureBudget(D, 0.2), LpBall(math.inf, 0.2)),
        (FeatureBudget(1, 0.2), LpBall(1, 0.2)),
        (Ellipsoid(0.04 * np.eye(D), 1.0), LpBall(2, 0.2)),
    ]
    for threat, ball in cases:
        found, expected = (minimised(X, y, one, loss)[1] for one in (threat, ball))
        assert found.log_risk[0] == pytest.approx(expected.log_risk[0], abs=1e-8)
        np.testing.assert_allclose(found.coef, expected.coef, atol=2e-4)


@each_loss
def test_the_cone_steps_behind_boxes_find_the_same(data, loss, monkeypatch):
    X, y = data
    threat = Box(-U, INFINITE).only("malware")
    problem, solution = minimised(X, y, threat, loss)
    monkeypatch.setattr(
        robust_risk, "minimise_on_boxes", lambda problem, loss, start, **_: (None, start, 0)
    )
    behind = minimise_robust_risk(problem, loss, EUCLIDEAN)
    assert behind.gap[0] <= 1e-8
    assert behind.log_risk[0] == pytest.approx(solution.log_risk[0], abs=1e-8)
    np.testing.assert_allclose(behind.coef, solution.coef, atol=1e-3)


@each_loss
@pytest.mark.parametrize("threat", [SETS["box"][0], SETS["sum"][0]])
def test_any_weights_and_sparse_rows(data, loss, threat):
    X, y = data
    X = np.where(np.abs(X) > 0.5, X, 0.0)
    weight = np.random.default_rng(3).integers(0, 3, size=80).astype(float)
    repeated = np.repeat(np.arange(80), weight.astype(int))
    _, of_weights = minimised(sparse.csr_array(X), y, threat, loss, sample_weight=weight)
    _, of_copies = minimised(X[repeated], y[repeated], threat, loss)
    assert of_weights.log_risk[0] == pytest.approx(of_copies.log_risk[0], abs=1e-8)


@pytest.mark.parametrize("threat", [SETS["box"][0], SETS["sum"][0], LpBall(math.inf, 0.1)])
def test_separable_data_are_found_separable(threat):
    rng = np.random.default_rng(1)
    X = rng.normal(size=(20, D))
    y = np.where(X[:, 0] > 0, 1.0, -1.0)
    X[:, 0] += 2 * y
    problem = RobustProblem.from_data(
        X, y, threat=threat, fit_intercept=True, sample_radius=np.full(20, 0.5)
    )
    solution = minimise_robust_risk(problem, LOSSES["logistic"], EUCLIDEAN)
    assert solution.separable == [True]
    assert np.all(problem.margins(solution.coef, solution.intercept) > 0)


def test_a_bound_is_never_above_the_risk_of_any_predictor(data):
    """The weights of a certificate bound the risk of predictors far from the minimiser too."""
    X, y = data
    loss = LOSSES["logistic"]
    rng = np.random.default_rng(4)
    for name in SETS:
        problem, solution = minimised(X, y, SETS[name][0], loss)
        bound = loss.log_risk_bound(solution.weights, problem.log_weight)[0]
        for spread in (1e-3, 0.1, 1.0):
            coef = solution.coef + spread * rng.normal(size=(1, D))
            assert problem.evaluate(loss, coef).log_risk[0] >= bound


def test_ill_scaled_features(data):
    X, y = data
    units = np.logspace(-3, 3, D)
    loss = LOSSES["logistic"]
    for lower, upper in ((-U, 2 * U), (np.zeros(D), INFINITE)):
        plain = minimised(X, y, Box(lower, upper).only("malware"), loss)[1]
        of_units = minimised(X * units, y, Box(lower * units, upper * units).only("malware"), loss)
        assert of_units[1].log_risk[0] == pytest.approx(plain.log_risk[0], abs=1e-7)


def test_a_path_of_factors(data):
    X, y = data
    problem = RobustProblem.from_data(X, y, threat=SETS["box"][0], fit_intercept=True)
    loss = LOSSES["logistic"]
    path = minimise_robust_risk(problem.at_radii([0.5, 2.0]), loss, EUCLIDEAN)
    for i, factor in enumerate((0.5, 2.0)):
        alone = minimised(X, y, Box(-factor * U, 2 * factor * U), loss)[1]
        assert path.log_risk[i] == pytest.approx(alone.log_risk[0], abs=1e-9)
    assert replace(problem, radius=np.ones(1)).penalties(np.ones((1, D))).shape == (1, 80)


@pytest.mark.slow
def test_cancer_data_against_cvxpy():
    X, target = load_breast_cancer(return_X_y=True)
    X, y = scale(X), np.where(target == 1, 1.0, -1.0)
    upper = np.random.default_rng(0).uniform(0, 0.4, size=30)
    _, solution = minimised(X, y, Box(-upper / 2, upper), LOSSES["logistic"])
    support = box_support(-upper / 2, upper)

    def margins(w, b):
        up, down = support(-w), support(w)
        taken = cp.multiply(1.0 * (y > 0), up) + cp.multiply(1.0 * (y < 0), down)
        return cp.multiply(y, X @ w + b) - taken

    expected = least_risk(X, y, LOSSES["logistic"], margins)
    assert math.exp(solution.log_risk[0]) == pytest.approx(expected, abs=1e-6)


def test_nonnegative_quadratics_against_all_faces():
    rng = np.random.default_rng(0)
    for _ in range(30):
        root = rng.normal(size=(5, 5))
        H, c = root @ root.T + 0.01 * np.eye(5), rng.normal(size=5)
        bounded = rng.random(5) < 0.8
        found = minimise_nonnegative_quadratic(H, c, bounded, rng.random(5) < 0.5)
        assert np.all(found[bounded] >= 0)
        slope = H @ found - c
        assert np.all(np.abs(slope[~bounded | (found > 0)]) < 1e-9)
        assert np.all(slope > -1e-9)


@each_loss
def test_a_feature_that_is_0_in_all_samples(data, loss):
    X, y = data
    X = np.column_stack([X, np.zeros(80)])
    _, solution = minimised(X, y, Box(0.0, 0.1) + LpBall(2, 0.2), loss)
    assert abs(solution.coef[0, -1]) < 1e-6


def test_a_sum_in_which_some_samples_have_a_part_that_does_not_move():
    """The last category has no change, so that two equalities hold one variable of its set."""
    rng = np.random.default_rng(0)
    category = rng.integers(0, 3, 80)
    X = np.column_stack([rng.normal(size=(80, 2)), np.eye(3)[category]])
    shift = np.array([-0.5, 0.0, 0.8])[category]
    y = np.where(X[:, 0] + shift + rng.logistic(size=80) > 0.3, "yes", "no")
    numbers = Box([-0.3, 0, 0, 0, 0], 0.0)
    changes = OneHot([[2, 3, 4]], transitions={0: [(0, 1), (1, 2)]})
    threat = (numbers + changes).only("yes")
    model = RobustLinearClassifier(threat=threat, loss="logistic").fit(X, y)
    assert model.dual_gap_ < 1e-8


@pytest.mark.parametrize(("loss", "unit"), [("exponential", 1.0), ("logistic", 1e-100)])
def test_a_category_of_one_class_is_certified_against_boxes_of_samples(loss, unit):
    rng = np.random.default_rng(0)
    y = np.arange(30) % 3
    X = rng.normal(size=(30, 2)) + 0.5 * rng.normal(size=(3, 2))[y]
    category = np.where((y == 0) & (rng.random(30) < 0.4), 2, rng.integers(0, 2, 30))
    X = np.hstack([X, np.eye(3)[category]])
    lower, upper = np.array([[-0.1, -0.2, 0, 0, 0], [0.2, 0.1, 0, 0, 0]])
    model = RobustLinearClassifier(threat=Box(unit * lower, unit * upper), loss=loss)
    model.fit(unit * X, y)
    assert model.separable_ is False
    assert model.dual_gap_ < 1e-6


def test_a_category_of_one_class_is_certified_against_balls_within_limits():
    rng = np.random.default_rng(0)
    y = np.arange(14) % 2
    X = rng.normal(size=(14, 2)) + 0.5 * rng.normal(size=(2, 2))[y]
    category = np.where((y == 0) & (rng.random(14) < 0.4), 2, rng.integers(0, 2, 14))
    X = np.hstack([X, np.eye(3)[category]])
    ball = LpBall(2, 0.2, scale=[1, 1, 0, 0, 0], clip=(-6, 6))
    problem = RobustProblem.from_data(X, 2.0 * y[None] - 1, threat=ball, fit_intercept=True)
    solution = minimise_robust_risk(problem, LOSSES["exponential"], EUCLIDEAN)
    assert solution.separable == [False]
    assert solution.gap[0] < 1e-6


@pytest.mark.parametrize("q", [1, 2, math.inf])
def test_the_sets_of_limits_are_those_of_each_sample(data, q):
    X, y = data
    ball = LpBall(q, 0.3, clip=(-1.5, 1.5))
    problem = RobustProblem.from_data(X, y[None], threat=ball, fit_intercept=True)
    w = np.random.default_rng(0).normal(size=D)
    each = [ball.at(x).support(-label * w) for x, label in zip(X, y, strict=True)]
    assert problem.penalties(w[None])[0] == pytest.approx(each, abs=1e-12)


def test_a_minimiser_at_infinity_is_certified():
    """Class 2 is separable from the others: the coefficients of the program are in the thousands,
    and their weights have more error than a proof allows."""
    rng = np.random.default_rng([52, 3, 17])
    upper, lower = rng.uniform(0.05, 0.4, 5), rng.uniform(0.0, 0.3, 5)
    y = np.arange(24) % 3
    X = 0.3 * rng.normal(size=(3, 5))[y] + rng.normal(size=(24, 5))
    threat = Box(-lower, upper) & LpBall(2, 0.3)
    problem = JointProblem.from_data(X, y, threat=threat, fit_intercept=True)
    solution = minimise_joint_risk(problem, LOSSES["exponential"])
    assert np.abs(solution.coef).max() > 100
    assert solution.gap < 1e-6


@pytest.mark.parametrize("other", [OneHot([[2, 3]]), LpBall(2, 0.0, [1, 1, 0, 0])])
def test_a_choice_beside_no_move_is_the_other_set(other):
    """At radius 0.7 no category changes: the set has equalities that repeat each other."""
    rng = np.random.default_rng(0)
    y = np.arange(20) % 2
    X = np.hstack([rng.normal(size=(20, 2)) + 0.5 * y[:, None], np.eye(2)[rng.integers(0, 2, 20)]])
    ball, radius = LpBall(2, 0.3, [1, 1, 0, 0]), np.full(20, 0.7)
    found, expected = (
        minimise_joint_risk(
            JointProblem.from_data(X, y, threat=one, fit_intercept=True, sample_radius=radius),
            LOSSES["logistic"],
        )
        for one in (ball | other, ball)
    )
    assert found.gap < 1e-7
    assert found.log_risk == pytest.approx(expected.log_risk, abs=1e-7)
