"""The minimiser of the robust risk for conic sets, against cone programs written for each set, and
against the minimiser for l_q balls."""

import warnings
from dataclasses import replace

import cvxpy as cp
import numpy as np
import pytest
from array_api_compat import array_namespace
from scipy import sparse
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.exceptions import ConvergenceWarning

from sklearn_robust._adversaries import Slot, Slots
from sklearn_robust._clarabel import SolverFailure
from sklearn_robust._conic_sets import InteriorSet
from sklearn_robust.losses import LOSSES
from sklearn_robust.norms import LpNorm
from sklearn_robust.problems import RobustProblem
from sklearn_robust.solvers import _conic_weights, _risk_conic
from sklearn_robust.solvers.robust_risk import minimise_robust_risk
from sklearn_robust.threats import LpBall

EUCLIDEAN = LpNorm(2)


class SquaredHinge:
    """l(m) = max(0, 1 - m)^2."""

    name = "squared hinge"

    def log_risk_and_weights(self, margins, log_weight):
        short, share = np.maximum(1 - margins, 0), np.exp(log_weight)
        risk = np.sum(share * short**2, axis=-1, keepdims=True)
        with np.errstate(divide="ignore", invalid="ignore"):
            weights = np.where(risk > 0, 2 * share * short / risk, share)
            return np.log(risk)[..., 0], weights

    def intercept(self, margins, y, log_weight, near=None):
        kinks, share = y * (1 - margins), np.exp(log_weight)
        low, high = kinks.min(axis=-1), kinks.max(axis=-1)
        for _ in range(200):
            b = 0.5 * (low + high)
            short = np.maximum(y * (kinks - b[..., None]), 0)
            rise = np.sum(share * y * short, axis=-1)
            low, high = np.where(rise >= 0, b, low), np.where(rise <= 0, b, high)
        return b

    def curvature(self, margins, weights):
        short = np.maximum(1 - margins, 0)
        return np.where(short > 0, weights / np.where(short > 0, short, 1), 0)

    def log_risk_bound(self, weights, log_weight, near=None):
        used = log_weight > -np.inf
        squares = np.where(used, weights**2 / np.exp(np.where(used, log_weight, 0)), 0)
        return 2 * np.log(weights.sum(axis=-1)) - np.log(np.sum(squares, axis=-1))


class Box:
    """|delta_j| <= u_j; it offers no projection."""

    symmetric = True

    def __init__(self, u):
        self.u = np.asarray(u, dtype=float)

    def worst(self, v):
        return array_namespace(v).sign(v) * self.u

    def conic(self):
        d = len(self.u)
        E, h = np.vstack([np.eye(d), -np.eye(d)]), np.append(self.u, self.u)
        return E, np.zeros((2 * d, 0)), h, [("nonnegative", 2 * d)]

    def support(self, w):
        return np.abs(w) @ self.u

    def penalty(self, w):
        return self.u @ cp.abs(w)

    def size(self, x):
        """The least multiple of the set that x is in."""
        assert np.all(np.abs(x[self.u == 0]) <= 1e-12)
        return np.max(np.abs(x[self.u > 0]) / self.u[self.u > 0])


class Image:
    """delta = A z with ||z||_2 <= 1: an ellipsoid, flat where A has dependent rows."""

    symmetric = True

    def __init__(self, A):
        self.A = A

    def worst(self, v):
        z = v @ self.A
        size = np.linalg.norm(z, axis=-1, keepdims=True)
        return (z / np.where(size > 0, size, 1)) @ self.A.T

    def conic(self):
        d, r = self.A.shape
        E = sparse.vstack([sparse.eye_array(d), sparse.csr_array((r + 1, d))])
        F = sparse.csr_array(np.vstack([-self.A, np.zeros((1, r)), -np.eye(r)]))
        h = np.concatenate([np.zeros(d), [1.0], np.zeros(r)])
        return E, F, h, [("zero", d), ("second_order", r + 1)]

    def penalty(self, w):
        return cp.norm(self.A.T @ w)

    def size(self, x):
        z = np.linalg.lstsq(self.A, x)[0]
        np.testing.assert_allclose(self.A @ z, x, atol=1e-12 * np.abs(self.A).max())
        return np.linalg.norm(z)


class Budget:
    """|delta_j| <= u_j, for about k features: sum_j |delta_j| / u_j <= k."""

    symmetric = True

    def __init__(self, u, k):
        self.u, self.k = u, k

    def worst(self, v):
        gain = np.abs(v) * self.u
        order = np.argsort(-gain, axis=-1)[..., : self.k]
        chosen = np.zeros_like(gain)
        np.put_along_axis(chosen, order, 1.0, axis=-1)
        return chosen * np.sign(v) * self.u

    def conic(self):
        d, none = len(self.u), np.zeros
        unit = np.diag(1 / self.u)
        E = np.vstack([unit, -unit, none((d + 1, d))])
        F = np.vstack([-np.eye(d), -np.eye(d), np.eye(d), np.ones((1, d))])
        h = np.concatenate([none(2 * d), np.ones(d), [self.k]])
        return E, F, h, [("nonnegative", 2 * d), ("nonnegative", d + 1)]

    def penalty(self, w):
        return cp.sum_largest(cp.multiply(self.u, cp.abs(w)), self.k)

    def size(self, x):
        z = np.abs(x) / self.u
        return max(z.max(), z.sum() / self.k)


class Cones:
    """A ball of this library, seen as a conic set alone."""

    symmetric = True

    def __init__(self, ball):
        self.ball = ball
        self.worst, self.conic = ball.worst, ball.conic

    def size(self, x):
        fixed = self.ball.scale == 0
        assert np.all(np.abs(x[fixed]) <= 1e-12)
        return self.ball.gauge(np.where(fixed, 0, x))


def threats(d, size=1.0):
    """A box with a feature that stays, a flat and a full ellipsoid, and a budget."""
    rng = np.random.default_rng(7)
    u = size * rng.uniform(0.05, 0.4, d)
    return {
        "box": Box(np.append(0.0, u[1:])),
        "flat ellipsoid": Image(0.3 * size * rng.standard_normal((d, d - 1))),
        "ellipsoid": Image(0.2 * size * rng.standard_normal((d, d))),
        "budget": Budget(u, 2),
    }


LOSSES_AND_ONE_MORE = {**LOSSES, "squared hinge": SquaredHinge()}
each_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
each_threat = pytest.mark.parametrize("name", threats(3))


def least_log_risk(X, y, loss, threat, *, fit_intercept=True, share=None):
    """The least log-risk, by a cone program in w and b."""
    share = np.full(len(y), 1 / len(y)) if share is None else share
    X, y, share = X[share > 0], y[share > 0], share[share > 0]
    w, b = cp.Variable(X.shape[1]), cp.Variable()
    margins = cp.multiply(y, X @ w + (b if fit_intercept else 0)) - threat.penalty(w)
    accuracy = {"tol_gap_abs": 1e-10, "tol_gap_rel": 1e-10, "tol_feas": 1e-10}
    with warnings.catch_warnings():  # where it stops before that its digits do for us
        warnings.filterwarnings("ignore", message="Solution may be inaccurate")
        if loss.name == "exponential":
            risk = cp.log_sum_exp(np.log(share) - margins)
            return cp.Problem(cp.Minimize(risk)).solve(solver=cp.CLARABEL, **accuracy)
        losses = cp.square(cp.pos(1 - margins)) if loss.name == "squared hinge" else None
        losses = cp.logistic(-margins) if losses is None else losses
        return np.log(cp.Problem(cp.Minimize(share @ losses)).solve(solver=cp.CLARABEL, **accuracy))


def assert_proven(problem, loss, solution, size):
    """What the solution claims follows from its own predictor and weights; `size` is that of a
    point, in multiples of the set."""
    now = problem.evaluate(loss, solution.coef)
    np.testing.assert_allclose(solution.log_risk, now.log_risk, atol=1e-12)
    assert solution.separable == [False]
    a = solution.weights
    assert np.all(a >= 0)
    np.testing.assert_allclose(a.sum(), 1, atol=1e-12)
    if problem.fit_intercept:
        np.testing.assert_allclose(np.sum(a * problem.y), 0, atol=1e-12)
    assert size(problem.weighted_sum(a)[0]) <= problem.radius[0] * (1 + 1e-10)
    bound = loss.log_risk_bound(a, problem.log_weight)
    np.testing.assert_allclose(solution.gap, -np.expm1(bound - solution.log_risk), atol=1e-12)


def check(X, y, loss, threat, *, fit_intercept=True, sample_weight=None, tol=1e-8):
    """Minimise, check the proof, and compare with the cone program; returns the solution."""
    problem = RobustProblem.from_data(
        X, y, threat=threat, fit_intercept=fit_intercept, sample_weight=sample_weight
    )
    solution = minimise_robust_risk(problem, loss, EUCLIDEAN, tol=tol)
    assert_proven(problem, loss, solution, threat.size)
    assert solution.gap[0] <= tol
    assert solution.converged[0]
    dense = X.toarray() if sparse.issparse(X) else X
    share = np.exp(problem.log_weight[0])
    least = least_log_risk(dense, y, loss, threat, fit_intercept=fit_intercept, share=share)
    assert solution.log_risk[0] == pytest.approx(least, abs=1e-6)
    bound = solution.log_risk[0] + np.log1p(-solution.gap[0])
    assert bound <= least + 1e-7  # the accuracy of the cone program
    return solution


@pytest.mark.pairwise
@pytest.mark.parametrize("loss", LOSSES_AND_ONE_MORE.values(), ids=LOSSES_AND_ONE_MORE)
@pytest.mark.parametrize("fit_intercept", [True, False], ids=["intercept", "no intercept"])
@each_threat
def test_noisy_data(gaussian, loss, fit_intercept, name):
    X, y = gaussian(60, 6, noise=2.0)
    solution = check(X, y, loss, threats(6)[name], fit_intercept=fit_intercept)
    assert solution.n_iter[0] <= 10


@each_loss
@each_threat
def test_sample_weights_and_sparse_rows(gaussian, loss, name):
    X, y = gaussian(60, 6, noise=2.0)
    rng = np.random.default_rng(0)
    X *= rng.uniform(size=X.shape) < 0.5
    weight = rng.integers(0, 4, 60).astype(float)
    assert np.any(weight == 0)
    threat = threats(6)[name]
    dense = check(X, y, loss, threat, sample_weight=weight)
    compressed = check(sparse.csr_array(X), y, loss, threat, sample_weight=weight)
    np.testing.assert_allclose(compressed.coef, dense.coef, atol=1e-3)


@each_loss
@each_threat
def test_more_features_than_samples(gaussian, loss, name):
    """The rows do not span the features: interior weights certify the risk."""
    X, y = gaussian(15, 20)
    threat = threats(20, size=15.0 if name == "budget" else 4.0)[name]
    assert np.any(check(X, y, loss, threat).coef)


@pytest.mark.pairwise
@each_loss
@pytest.mark.parametrize("q", [1, 2, np.inf])
@pytest.mark.parametrize("data", ["breast_cancer", "digits"])
def test_equals_the_minimiser_for_balls(loss, q, data):
    if data == "digits":
        X, target = load_digits(return_X_y=True)
        used = (target == 3) | (target == 8)
        X, y = X[used] / 16, np.where(target[used] == 3, 1.0, -1.0)
        scale, eps = np.full(64, 1.0), {1: 1.0, 2: 0.5, np.inf: 0.15}[q]
    else:
        X, target = load_breast_cancer(return_X_y=True)
        X, y = (X - X.mean(axis=0)) / X.std(axis=0), 2.0 * target - 1
        scale, eps = np.linspace(0, 2, 30), {1: 2.0, 2: 1.0, np.inf: 0.4}[q]
    ball = LpBall(q, eps, scale)
    of_ball = RobustProblem.from_data(X, y, threat=ball, fit_intercept=True)
    expected = minimise_robust_risk(of_ball, loss, EUCLIDEAN, tol=1e-8)
    assert expected.gap[0] <= 1e-8
    threat = Cones(ball)
    problem = RobustProblem.from_data(X, y, threat=threat, fit_intercept=True)
    solution = minimise_robust_risk(problem, loss, EUCLIDEAN, tol=1e-8)
    assert solution.gap[0] <= 1e-8
    assert_proven(problem, loss, solution, threat.size)
    assert solution.log_risk[0] == pytest.approx(expected.log_risk[0], abs=1e-7)


@each_loss
@pytest.mark.parametrize("q", [1, 2, np.inf])
def test_rows_that_span_the_features_need_no_interior_weights(monkeypatch, loss, q):
    """Their program has a column for each sample; to move the weights is cheaper."""
    monkeypatch.setattr(
        _conic_weights.DualWeights, "_interior", property(lambda self: pytest.fail("computed"))
    )
    X, target = load_digits(return_X_y=True)
    used = (target == 3) | (target == 8)
    X, y = X[used] / 16, np.where(target[used] == 3, 1.0, -1.0)
    ball = LpBall(q, {1: 1.0, 2: 0.5, np.inf: 0.15}[q], np.ones(64))
    problem = RobustProblem.from_data(X, y, threat=Cones(ball), fit_intercept=True)
    solution = minimise_robust_risk(problem, loss, EUCLIDEAN, tol=1e-8)
    assert solution.converged[0]


@each_loss
@each_threat
def test_separable_data_end_at_once(gaussian, loss, name):
    X, y = gaussian(15, 20)
    problem = RobustProblem.from_data(X, y, threat=threats(20, size=0.1)[name], fit_intercept=True)
    solution = minimise_robust_risk(problem, loss, EUCLIDEAN)
    assert solution.separable == [True]
    assert not solution.converged[0]
    assert solution.gap[0] == np.inf
    assert solution.margin[0] > 0
    assert solution.n_iter[0] <= 10
    assert np.all(problem.margins(solution.coef, solution.intercept) > 0)


@each_loss
def test_separable_images(loss):
    X, target = load_digits(return_X_y=True)
    used = (target == 3) | (target == 8)
    X, y = X[used] / 16, np.where(target[used] == 3, 1.0, -1.0)
    problem = RobustProblem.from_data(X, y, threat=Box(np.full(64, 0.01)), fit_intercept=True)
    solution = minimise_robust_risk(problem, loss, EUCLIDEAN)
    assert solution.separable == [True]
    assert solution.n_iter[0] <= 20


@each_loss
@each_threat
def test_two_slots_of_one_set_equal_one(gaussian, loss, name):
    """Each class with a slot of its own has the same minimiser, as the set is symmetric."""
    X, y = gaussian(60, 6, noise=2.0)
    threat = threats(6)[name]
    problem = RobustProblem.from_data(X, y, threat=threat, fit_intercept=True)
    one = minimise_robust_risk(problem, loss, EUCLIDEAN)
    slots = tuple(Slot(threat, -sign, 1.0 * (y == sign)) for sign in (1.0, -1.0))
    two = minimise_robust_risk(replace(problem, adversary=Slots(slots)), loss, EUCLIDEAN)
    assert_proven(problem, loss, two, threat.size)
    assert two.gap[0] <= 1e-8
    assert two.log_risk[0] == pytest.approx(one.log_risk[0], abs=1e-8)


@each_loss
def test_a_radius_multiplies_the_set(gaussian, loss):
    X, y = gaussian(60, 6, noise=2.0)
    box = threats(6)["box"]
    problem = RobustProblem.from_data(X, y, threat=box, fit_intercept=True)
    together = minimise_robust_risk(problem.at_radii([0.0, 1.0, 2.0]), loss, EUCLIDEAN)
    assert np.all(together.gap <= 1e-8)
    for i, factor in enumerate([0.0, 1.0, 2.0]):
        least = least_log_risk(X, y, loss, Box(factor * box.u))
        assert together.log_risk[i] == pytest.approx(least, abs=1e-6)


@pytest.mark.pairwise
@each_loss
@pytest.mark.parametrize("q", [1, 2, np.inf])
@pytest.mark.parametrize(
    "data", ["zero column", "doubled columns", "signs", "one feature", "conflict", "units", "far"]
)
def test_degenerate_data(gaussian, loss, q, data):
    X, y = gaussian(40, 5, noise=3.0)
    eps = 0.1
    if data == "zero column":
        X[:, 2] = 0
    elif data == "doubled columns":
        X = np.hstack([X, X])
    elif data == "signs":
        X = np.sign(X)
    elif data == "one feature":
        X = X[:, :1]
    elif data == "conflict":
        X, y = np.vstack([X, X]), np.append(y, -y)
    elif data == "units":  # the adversary reaches the smallest feature only
        X, eps = X * np.logspace(-6, 6, 5), 1e-7
    else:
        X += 1e4
    ball = LpBall(q, eps, np.ones(X.shape[1]))
    of_ball = RobustProblem.from_data(X, y, threat=ball, fit_intercept=True)
    expected = minimise_robust_risk(of_ball, loss, EUCLIDEAN, tol=1e-8)
    problem = RobustProblem.from_data(X, y, threat=Cones(ball), fit_intercept=True)
    solution = minimise_robust_risk(problem, loss, EUCLIDEAN, tol=1e-6)
    assert solution.converged[0]
    assert solution.log_risk[0] == pytest.approx(expected.log_risk[0], abs=1e-6)


@each_loss
def test_any_start_leads_to_the_same_risk(gaussian, loss):
    X, y = gaussian(60, 6, noise=2.0)
    threat = threats(6)["ellipsoid"]
    problem = RobustProblem.from_data(X, y, threat=threat, fit_intercept=True)
    cold = minimise_robust_risk(problem, loss, EUCLIDEAN)
    for start in (np.ones((1, 6)), -10 * cold.coef, np.full((1, 6), 1e3)):
        warm = minimise_robust_risk(problem, loss, EUCLIDEAN, coef_init=start)
        assert warm.gap[0] <= 1e-8
        assert warm.log_risk[0] == pytest.approx(cold.log_risk[0], abs=1e-8)
    assert minimise_robust_risk(problem, loss, EUCLIDEAN, coef_init=cold.coef).n_iter[0] <= 2


@each_loss
@each_threat
def test_iteration_limit_is_respected_and_its_gap_is_honest(gaussian, loss, name):
    X, y = gaussian(60, 8, noise=2.0)
    threat = threats(8, size=0.3)[name]
    problem = RobustProblem.from_data(X, y, threat=threat, fit_intercept=True)
    solution = minimise_robust_risk(problem, loss, EUCLIDEAN, max_iter=1)
    assert solution.n_iter[0] == 1
    assert not solution.converged[0]
    assert_proven(problem, loss, solution, threat.size)
    least = least_log_risk(X, y, loss, threat)
    assert 1e-6 < -np.expm1(least - solution.log_risk[0]) <= solution.gap[0] < 1


@each_loss
def test_single_precision(gaussian, loss):
    X, y = gaussian(60, 6, noise=2.0)
    threat = threats(6)["ellipsoid"]
    problem = RobustProblem.from_data(
        X.astype(np.float32), y.astype(np.float32), threat=threat, fit_intercept=True
    )
    solution = minimise_robust_risk(problem, loss, EUCLIDEAN, tol=1e-6)
    assert solution.coef.dtype == solution.intercept.dtype == np.float32
    assert solution.weights.dtype == np.float64
    assert solution.gap[0] <= 1e-6
    assert solution.log_risk[0] == pytest.approx(least_log_risk(X, y, loss, threat), abs=1e-5)


def test_records_its_way_on_request(gaussian):
    X, y = gaussian(60, 6, noise=2.0)
    problem = RobustProblem.from_data(X, y, threat=threats(6)["box"], fit_intercept=True)
    history = minimise_robust_risk(problem, LOSSES["logistic"], EUCLIDEAN, record_every=1).history
    assert np.all(np.diff(history["log_risk"][:, 0]) <= 1e-12)
    assert history["gap"][-1, 0] <= 1e-8


# --- what fails


def test_a_failed_step_is_tried_again_with_more_damping(gaussian, monkeypatch):
    calls = []

    def fails_twice(P, *args):
        calls.append(P.diagonal().sum())
        if len(calls) <= 2:
            raise SolverFailure("clarabel: NumericalError")
        return solve(P, *args)

    solve = _risk_conic.solve_program
    monkeypatch.setattr(_risk_conic, "solve_program", fails_twice)
    X, y = gaussian(60, 6, noise=2.0)
    check(X, y, LOSSES["logistic"], threats(6)["box"])
    assert calls[0] < calls[1] < calls[2]


def test_steps_that_always_fail_end_with_a_warning(gaussian, monkeypatch):
    def fails(*args):
        raise SolverFailure("clarabel: NumericalError")

    monkeypatch.setattr(_risk_conic, "solve_program", fails)
    X, y = gaussian(60, 6, noise=2.0)
    threat = threats(6)["box"]
    problem = RobustProblem.from_data(X, y, threat=threat, fit_intercept=True)
    with pytest.warns(ConvergenceWarning, match=r"at every damping \(clarabel: NumericalError\)"):
        solution = minimise_robust_risk(problem, LOSSES["logistic"], EUCLIDEAN)
    assert not solution.converged[0]
    assert solution.n_iter[0] <= 10
    # interior weights certify where it ended
    assert_proven(problem, LOSSES["logistic"], solution, threat.size)
    assert 1e-3 < solution.gap[0] < 1


def test_a_threat_without_cones_is_refused(gaussian):
    class Oracle:
        symmetric = True
        worst = staticmethod(np.sign)

    X, y = gaussian(20, 3, noise=2.0)
    problem = RobustProblem.from_data(X, y, threat=Oracle(), fit_intercept=True)
    with pytest.raises(ValueError, match="needs conic of a threat, which threat=Oracle"):
        minimise_robust_risk(problem, LOSSES["logistic"], EUCLIDEAN)


@pytest.mark.parametrize(
    ("cones", "h", "message"),
    [
        ([("positive", 6)], np.ones(6), r"got 6, 6 and 6 rows and cones=\[\('positive', 6\)\]"),
        ([("nonnegative", 5)], np.ones(6), r"cones=\[\('nonnegative', 5\)\] of threat=Wrong"),
        ([("nonnegative", 6)], np.ones(5), "got 6, 6 and 5 rows"),
        ([("nonnegative", 6)], -np.ones(6), r"without a point \(they contradict each other\)"),
        ([("zero", 6)], np.ones(6), r"without a point \(clarabel: PrimalInfeasible\)"),
    ],
)
def test_rows_that_are_no_set_are_refused(gaussian, cones, h, message):
    class Wrong(Box):
        def conic(self):
            E, F, _, _ = Box.conic(self)
            return E, F, h, cones

    X, y = gaussian(20, 3, noise=2.0)
    problem = RobustProblem.from_data(X, y, threat=Wrong(np.ones(3)), fit_intercept=True)
    with pytest.raises(ValueError, match=message):
        minimise_robust_risk(problem, LOSSES["logistic"], EUCLIDEAN)


# --- sets


@pytest.mark.parametrize("name", threats(3))
@pytest.mark.parametrize("factor", [0.5, 1.0, 1.0 + 1e-9, 3.0])
def test_points_are_moved_into_their_set(name, factor):
    threat = threats(5)[name]
    inner = InteriorSet(threat)
    rng = np.random.default_rng(0)
    for v in rng.standard_normal((10, 5)):
        x = factor * threat.worst(v)
        s = np.zeros(inner.F.shape[1])
        if name == "budget":
            s = np.abs(x) / threat.u
        elif name != "box":
            s = np.linalg.lstsq(threat.A, x)[0]
        moved, by = inner.moved_inside(x / inner.size, s / inner.size)
        assert inner.rows.holds(moved, by, 1e-15)
        assert threat.size(inner.size * moved) <= 1 + 1e-12
        if factor <= 1:
            np.testing.assert_allclose(inner.size * moved, x, atol=1e-12)
        elif factor < 2:
            np.testing.assert_allclose(inner.size * moved, x, atol=1e-8)
