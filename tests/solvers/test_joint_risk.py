"""The minimiser of the joint risk of several classes, against a conic solver and its own bound."""

import math
import tracemalloc
import warnings
from types import SimpleNamespace

import cvxpy as cp
import numpy as np
import pytest
from scipy import sparse
from sklearn.datasets import load_digits, load_wine, make_blobs
from sklearn.preprocessing import StandardScaler

import sklearn_robust.solvers._joint_newton
import sklearn_robust.solvers._joint_recession
import sklearn_robust.solvers._joint_risk
import sklearn_robust.solvers._joint_stages
from sklearn_robust.joint import JointProblem
from sklearn_robust.losses import LOSSES
from sklearn_robust.norms import LpNorm
from sklearn_robust.problems import RobustProblem
from sklearn_robust.solvers._joint_cones import CONES
from sklearn_robust.solvers._joint_interior_point import SMOOTHING, InteriorPoint
from sklearn_robust.solvers._joint_model import Direction, JointModel
from sklearn_robust.solvers._joint_preconditioner import HessianEstimate, Preconditioner
from sklearn_robust.solvers._joint_risk import minimise_joint_risk
from sklearn_robust.solvers._joint_run import JointRun
from sklearn_robust.solvers._joint_start import PairDifferences
from sklearn_robust.solvers.robust_risk import minimise_robust_risk
from sklearn_robust.solvers.solution import Monitoring
from sklearn_robust.threats import LpBall

TOL = 1e-6
EPS = {1.0: 0.8, 1.5: 0.6, 2.0: 0.5, 3.0: 0.4, math.inf: 0.3}


def overlapping(n_classes, n_features=4, n=40, seed=0):
    """Blobs that overlap, with a sample of each class."""
    X, y = make_blobs(
        n, n_features, centers=n_classes, cluster_std=3.0, center_box=(-2, 2), random_state=seed
    )
    return X, y


def conic_risk(problem, loss):
    """The least log-risk (exponential) or risk (logistic) by cvxpy."""
    X = problem.X.toarray() if sparse.issparse(problem.X) else np.asarray(problem.X, float)
    K, d = problem.n_classes, X.shape[1]
    threat = problem.threat
    scale = np.ones(d) if threat.scale is None else np.asarray(threat.scale)
    dual_q = threat.dual_norm.p
    W, b, t = cp.Variable((K, d)), cp.Variable(K), cp.Variable((K, K), symmetric=True)
    constraints = [cp.sum(b) == 0] if problem.fit_intercept else [b == 0]
    for low, high in zip(*problem.pairs, strict=True):
        difference = cp.multiply(scale, W[low] - W[high])
        constraints.append(t[low, high] >= cp.pnorm(difference, dual_q))
    used = np.flatnonzero(problem.log_weight > -np.inf)
    share, losses = np.exp(problem.log_weight), []
    for i in used:
        own = problem.y[i]
        rivals = [k for k in range(K) if k != own]
        scores = cp.hstack(
            [(W[k] - W[own]) @ X[i] + b[k] - b[own] + problem.radius * t[own, k] for k in rivals]
        )
        if loss == "logistic":
            losses.append(share[i] * cp.log_sum_exp(cp.hstack([0, scores])))
        else:
            losses.append(problem.log_weight[i] + scores)
    risk = cp.sum(losses) if loss == "logistic" else cp.log_sum_exp(cp.hstack(losses))
    program = cp.Problem(cp.Minimize(risk), constraints)
    program.solve(solver=cp.CLARABEL, tol_gap_rel=1e-8, tol_gap_abs=1e-8, tol_feas=1e-8)
    return program.value


def value(log_risk, loss):
    return math.exp(log_risk) if loss == "logistic" else log_risk


def check(problem, loss, tol=TOL):
    """The solution is certified, and agrees with the conic solver from both sides."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        solution = minimise_joint_risk(problem, LOSSES[loss], tol=tol)
    least = conic_risk(problem, loss)
    assert solution.separable is False
    assert 0 <= solution.gap <= tol
    assert solution.gap == pytest.approx(-math.expm1(solution.bound - solution.log_risk), abs=1e-12)
    # the conic solver's value is right to some digits less than its tolerance
    assert value(solution.log_risk, loss) >= least - 1e-7
    assert value(solution.bound, loss) <= least + 1e-7
    assert value(solution.log_risk, loss) == pytest.approx(least, rel=2 * tol, abs=2 * tol)
    evaluated = problem.evaluate(LOSSES[loss], solution.coef, solution.intercept)
    assert float(evaluated.log_risk) == pytest.approx(solution.log_risk, abs=1e-12)
    return solution


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loss", "q", "n_classes", "fit_intercept"),
    [
        ("exponential", 1.0, 4, False),
        ("logistic", 2.0, 4, False),
        ("logistic", 1.0, 3, True),
        ("exponential", math.inf, 3, True),
    ],
)
def test_agrees_with_a_conic_solver(loss, q, n_classes, fit_intercept):
    X, y = overlapping(n_classes)
    problem = JointProblem.from_data(X, y, q=q, eps=EPS[q], fit_intercept=fit_intercept)
    solution = check(problem, loss)
    np.testing.assert_allclose(solution.coef.sum(axis=0), 0, atol=1e-10)
    assert abs(solution.intercept.sum()) <= 1e-10
    if not fit_intercept:
        assert not solution.intercept.any()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loss", "q"), [("exponential", 1.0), ("logistic", 2.0), ("exponential", math.inf)]
)
def test_weights_scale_and_sparse_rows(loss, q):
    X, y = overlapping(3, seed=1)
    weight = np.random.default_rng(0).uniform(0.2, 2, len(y))
    weight[5] = 0
    rows = np.where(np.abs(X) > 0.5, X, 0)
    given = {
        "q": q,
        "eps": EPS[q],
        "scale": np.array([1.0, 0.5, 2.0, 1.0]),
        "sample_weight": weight,
        "fit_intercept": True,
    }
    dense = check(JointProblem.from_data(rows, y, **given), loss)
    thin = check(JointProblem.from_data(sparse.csr_array(rows), y, **given), loss)
    assert dense.log_risk == pytest.approx(thin.log_risk, abs=2 * TOL)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loss", "q"), [("logistic", 1.0), ("exponential", 2.0), ("logistic", math.inf)]
)
def test_features_out_of_reach(loss, q):
    X, y = overlapping(3, seed=2)
    scale = np.array([1.0, 0.0, 1.0, 1.0])
    check(JointProblem.from_data(X, y, q=q, eps=EPS[q], scale=scale, fit_intercept=True), loss)


@pytest.mark.parametrize("most_entries", [0, 10**6])
@pytest.mark.parametrize(
    ("q", "loss", "tol"),
    [(1.0, "exponential", 1e-3), (2.0, "logistic", TOL), (math.inf, "exponential", TOL)],
)
def test_a_category_that_has_one_class_costs_no_certificate(
    monkeypatch, q, loss, tol, most_entries
):
    """Its weight grows without end: the least risk, which no predictor attains, is that of the
    other samples. It is proven with and without a program that finds the direction."""
    monkeypatch.setattr(sklearn_robust.solvers._joint_recession, "_MOST_ENTRIES", most_entries)
    X, y = overlapping(3, n_features=2, n=90, seed=1)
    category = np.arange(90) // 3 % 3
    category[np.flatnonzero(y == 0)[:5]] = 3
    category[np.flatnonzero(y == 2)[0]] = 4
    rows, others = np.hstack([X, np.eye(5)[category]]), category < 3
    scale = np.array([1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0])

    def least(kept):
        problem = JointProblem.from_data(
            rows[kept], y[kept], q=q, eps=0.2, scale=scale, fit_intercept=True
        )
        solution = minimise_joint_risk(problem, LOSSES[loss], tol=tol)
        assert solution.separable is False
        assert solution.gap <= tol
        return solution

    part, whole = least(others), least(slice(None))
    assert whole.log_risk == pytest.approx(np.log(others.mean()) + part.log_risk, abs=2 * tol)
    assert not whole.weights[:, ~others].any()


@pytest.mark.parametrize("q", [2.0, math.inf])
def test_pairs_of_a_class_that_are_left_out_leave_the_risk_of_the_others(q):
    """No pair joins the class to the others: it has a shift of its own, which moves no margin."""
    X, y = overlapping(4, n_features=3, n=80)
    eps = EPS[q]
    whole = JointModel(
        JointProblem.from_data(X, y, q=q, eps=eps, fit_intercept=True), LOSSES["exponential"]
    )
    run = JointRun(whole, TOL, Monitoring(0, ()))
    run.judge(JointModel(whole.problem, whole.loss, (y == 3) | (np.arange(4) == 3)[:, None]))
    assert np.array_equal(run.model.joined[3], [0, 0, 0, 1])
    InteriorPoint(run, 40).minimise()
    others = JointProblem.from_data(X[y < 3], y[y < 3], q=q, eps=eps, fit_intercept=True)
    least = minimise_joint_risk(others, whole.loss, tol=TOL)
    assert run.ended
    assert not run.coef[3].any()
    assert run.bounds.bound == pytest.approx(np.log((y < 3).mean()) + least.bound, abs=2 * TOL)


@pytest.mark.parametrize("loss", ["exponential", "logistic"])
def test_without_adversary(loss):
    X, y = overlapping(3, seed=3)
    check(JointProblem.from_data(X, y, q=2.0, eps=0.0, fit_intercept=True), loss)


@pytest.mark.slow
@pytest.mark.parametrize(("loss", "q"), [("exponential", 1.5), ("logistic", 3.0)])
def test_other_exponents_report_an_honest_gap(loss, q):
    X, y = overlapping(3)
    problem = JointProblem.from_data(X, y, q=q, eps=EPS[q], fit_intercept=True)
    solution = minimise_joint_risk(problem, LOSSES[loss], tol=1e-3)
    least = conic_risk(problem, loss)
    assert solution.separable is False
    assert solution.gap <= 1e-3
    assert value(solution.bound, loss) <= least + 1e-7
    assert value(solution.log_risk, loss) >= least - 1e-7


@pytest.mark.parametrize("loss", ["exponential", "logistic"])
@pytest.mark.parametrize(("q", "eps"), [(math.inf, 0.2), (math.inf, 0.5), (2.0, 0.5), (1.0, 2.0)])
def test_wine(loss, q, eps):
    X, y = load_wine(return_X_y=True)
    X = StandardScaler().fit_transform(X)
    problem = JointProblem.from_data(X, y, q=q, eps=eps, fit_intercept=True)
    solution = minimise_joint_risk(problem, LOSSES[loss], tol=TOL)
    assert solution.separable is False
    assert solution.gap <= TOL
    published = {(math.inf, 0.2): 0.114946, (math.inf, 0.5): 0.641650, (2.0, 0.5): 0.094345}
    if loss == "logistic" and (q, eps) in published:
        assert math.exp(solution.log_risk) == pytest.approx(published[q, eps], rel=1e-5)


@pytest.mark.parametrize("loss", ["exponential", "logistic"])
@pytest.mark.parametrize("q", [1.0, 2.0, math.inf])
def test_two_classes_are_the_binary_problem(loss, q):
    X, y = overlapping(2)
    joint = JointProblem.from_data(X, y, q=q, eps=EPS[q], fit_intercept=True)
    solution = minimise_joint_risk(joint, LOSSES[loss], tol=TOL)
    binary = RobustProblem.from_data(
        X, np.where(y == 1, 1.0, -1.0), q=q, eps=EPS[q], fit_intercept=True
    )
    expected = minimise_robust_risk(binary, LOSSES[loss], LpNorm(2), tol=1e-8)
    assert solution.gap <= TOL
    assert solution.log_risk == pytest.approx(float(expected.log_risk[0]), abs=2 * TOL)
    difference = solution.coef[1] - solution.coef[0]
    np.testing.assert_allclose(difference, expected.coef[0], rtol=0.01, atol=0.01)


@pytest.mark.parametrize("q", [1.0, 1.5, 2.0, math.inf])
def test_separable_data_end_at_once(q):
    X, y = make_blobs(60, 4, centers=3, cluster_std=0.5, random_state=0)
    problem = JointProblem.from_data(X, y, q=q, eps=0.1, fit_intercept=True)
    solution = minimise_joint_risk(problem, LOSSES["exponential"])
    assert solution.separable is True
    assert solution.n_iter <= 60
    assert problem.robust_margins(solution.coef, solution.intercept).min() > 0
    assert solution.bound == -math.inf
    assert solution.gap == 1


def test_a_limit_ends_it_with_an_honest_gap():
    X, y = overlapping(5)
    problem = JointProblem.from_data(X, y, q=math.inf, eps=0.3, fit_intercept=True)
    solution = minimise_joint_risk(problem, LOSSES["logistic"], tol=1e-12, max_iter=1)
    assert solution.gap > 1e-12
    assert solution.bound <= conic_risk(problem, "logistic")


def test_a_start_at_the_minimiser_takes_few_iterations():
    X, y = overlapping(5)
    problem = JointProblem.from_data(X, y, q=2.0, eps=0.5, fit_intercept=True)
    first = minimise_joint_risk(problem, LOSSES["logistic"])
    again = minimise_joint_risk(problem, LOSSES["logistic"], start=(first.coef, first.intercept))
    assert again.gap <= TOL
    assert again.n_iter < first.n_iter


def test_single_precision_rows():
    X, y = overlapping(3)
    problem = JointProblem.from_data(
        X.astype(np.float32), y, q=math.inf, eps=0.3, fit_intercept=True
    )
    exact = JointProblem.from_data(
        X.astype(np.float32).astype(float), y, q=math.inf, eps=0.3, fit_intercept=True
    )
    solution = minimise_joint_risk(problem, LOSSES["logistic"])
    assert solution.gap <= TOL
    expected = minimise_joint_risk(exact, LOSSES["logistic"]).log_risk
    assert solution.log_risk == pytest.approx(expected, abs=2 * TOL)


def test_digits():
    X, y = load_digits(return_X_y=True)
    problem = JointProblem.from_data(X / 16, y, q=math.inf, eps=0.1, fit_intercept=True)
    solution = minimise_joint_risk(problem, LOSSES["logistic"], tol=1e-4)
    assert solution.gap <= 1e-4
    assert math.exp(solution.log_risk) == pytest.approx(0.858241, rel=1e-4)


class Monitor:
    """Keeps what a solver shows, and stops it after some calls."""

    def __init__(self, every, last=math.inf):
        self.every, self.last, self.shown = every, last, []

    def __call__(self, iteration, ids, figures):
        assert ids.tolist() == [0]
        self.shown.append((iteration, {name: value.copy() for name, value in figures.items()}))
        return len(self.shown) >= self.last


@pytest.mark.parametrize("q", [2.0, 1.5])
def test_monitors(q):
    X, y = overlapping(3)
    problem = JointProblem.from_data(X, y, q=q, eps=EPS[q], fit_intercept=True)
    loss, monitor = LOSSES["logistic"], Monitor(1)
    shown = minimise_joint_risk(problem, loss, tol=1e-2, monitors=[monitor])
    alone = minimise_joint_risk(problem, loss, tol=1e-2)
    np.testing.assert_array_equal(shown.coef, alone.coef)
    iterations = [iteration for iteration, _ in monitor.shown]
    assert iterations[-1] == shown.n_iter == alone.n_iter
    assert set(range(1, shown.n_iter)) <= set(iterations)
    figures = monitor.shown[len(iterations) // 2][1]
    assert figures["coef"].shape == (1, 3, 4)
    assert figures["intercept"].shape == (1, 3)
    now = problem.evaluate(loss, figures["coef"][0], figures["intercept"][0])
    assert figures["log_risk"][0] == pytest.approx(float(now.log_risk), abs=1e-12)
    assert monitor.shown[-1][1]["gap"][0] == shown.gap
    assert monitor.shown[0][1]["gap"][0] == math.inf


@pytest.mark.parametrize(("q", "last"), [(2.0, 5), (2.0, 17), (1.5, 5)])
def test_a_monitor_stops_it(q, last):
    X, y = overlapping(3)
    problem = JointProblem.from_data(X, y, q=q, eps=EPS[q], fit_intercept=True)
    monitor = Monitor(1, last)
    solution = minimise_joint_risk(problem, LOSSES["logistic"], tol=0.0, monitors=[monitor])
    assert solution.n_iter == monitor.shown[last - 1][0] == monitor.shown[-1][0]


def test_memory_is_that_of_one_array_over_classes_and_samples():
    X, y = overlapping(50, n_features=10, n=20_000)
    problem = JointProblem.from_data(X, y, q=1.5, eps=0.5, fit_intercept=True)
    tracemalloc.start()
    try:
        solution = minimise_joint_risk(problem, LOSSES["logistic"], monitors=[Monitor(1, 3)])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1.5 * solution.weights.nbytes


@pytest.mark.parametrize("loss", LOSSES.values(), ids=lambda loss: loss.name)
def test_an_evaluation_holds_weights_only_on_request(loss):
    X, y = overlapping(50, n_features=10, n=10_000)
    weight = np.ones(10_000)
    weight[:800] = 0.0  # the first block has no weight
    y[:800] = y[0]
    problem = JointProblem.from_data(X, y, q=2, eps=0.5, fit_intercept=True, sample_weight=weight)
    model = JointModel(problem, loss)
    coef, pairs = np.linspace(-1, 1, 550).reshape(50, 11), np.linspace(0, 1, 1225)
    held = model.at(coef, pairs, hold=True)
    tracemalloc.start()
    try:
        point = model.at(coef, pairs)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 0.5 * held.weights.nbytes
    assert point.weights is None
    assert point.log_risk == held.log_risk
    np.testing.assert_array_equal(point.gradient.flat(), held.gradient.flat())
    # the gradient is that of the weights
    expected = model.derivatives(held.weights).flat()
    scale = np.abs(expected).max()
    np.testing.assert_allclose(point.gradient.flat(), expected, rtol=1e-10, atol=1e-12 * scale)
    blocks = np.concatenate([block for _, block in model.weight_blocks(point)], axis=1)
    np.testing.assert_allclose(blocks, held.weights, rtol=1e-12, atol=1e-300)


class Projected:
    """A ball that offers a projection and no more."""

    symmetric = True

    def __init__(self, ball):
        self.ball = ball

    def worst(self, v):
        return self.ball.worst(v)

    def project(self, x, radius=1.0):
        return self.ball.project(x, radius)


@pytest.mark.parametrize(("q", "loss"), [(2.0, "logistic"), (math.inf, "exponential")])
def test_any_threat_with_a_projection(q, loss):
    X, y = overlapping(3)
    scale = np.array([1.0, 0.0, 0.5, 1.0])  # a feature is out of reach
    ball = LpBall(q, EPS[q], scale)
    exact = minimise_joint_risk(
        JointProblem.from_data(X, y, threat=ball, fit_intercept=True), LOSSES[loss], tol=TOL
    )
    problem = JointProblem.from_data(X, y, threat=Projected(ball), fit_intercept=True)
    found = minimise_joint_risk(problem, LOSSES[loss], tol=2e-3)
    assert found.separable is False
    assert found.gap <= 2e-3
    assert found.bound <= exact.log_risk + 1e-9
    assert found.log_risk >= exact.bound - 1e-9


def test_a_threat_without_a_projection_is_refused():
    X, y = overlapping(3)
    worst = type("Worst", (), {"symmetric": True, "worst": staticmethod(np.sign)})()
    problem = JointProblem.from_data(X, y, threat=worst, fit_intercept=True)
    with pytest.raises(ValueError, match="joint risk needs project of a threat"):
        minimise_joint_risk(problem, LOSSES["logistic"])


def test_many_entries_have_few_iterations(monkeypatch):
    X, y = overlapping(3)
    problem = JointProblem.from_data(X, y, q=1.5, eps=0.3, fit_intercept=True)
    entries = 3 * len(y) + 3 * X.shape[1]
    monkeypatch.setattr(sklearn_robust.solvers._joint_stages, "_MOST_ENTRIES", 40 * entries)
    assert minimise_joint_risk(problem, LOSSES["logistic"], tol=0.0).n_iter == 40


def heavy_tails(seed, q, eps, n_classes=6, n=40, n_features=5, fit_intercept=True):
    """Classes with outliers, and sample weights that lie orders apart."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % n_classes
    X = rng.standard_normal((n_classes, n_features))[y] + rng.standard_t(1.5, (n, n_features))
    weight = np.exp(2 * rng.standard_normal(n))
    return JointProblem.from_data(
        X, y, q=q, eps=eps, fit_intercept=fit_intercept, sample_weight=weight
    )


def test_centring_keeps_the_progress_where_nothing_is_proven():
    """A fold of the digits near separability lost it, and ended undecided."""
    X, y = overlapping(3)
    problem = JointProblem.from_data(X, y, q=math.inf, eps=0.3, fit_intercept=True)
    run = JointRun(JointModel(problem, LOSSES["logistic"]), TOL, Monitoring(0, []))
    point = InteriorPoint(run, 100)
    assert point._smoothing_like(point._cones(1e-3)) == pytest.approx(1e-3, rel=0.1)
    assert point._smoothing_like(point._cones(1.0)) == SMOOTHING
    far_out = SimpleNamespace(products=lambda: np.array([1e-4, -2e-4]))  # rounding
    assert point._smoothing_like(far_out) == SMOOTHING


@pytest.mark.parametrize(("q", "eps", "seed"), [(1.0, 0.5, 5), (2.0, 0.3, 3), (math.inf, 0.1, 5)])
def test_heavy_tails_and_weights_of_unlike_sizes(q, eps, seed):
    solution = minimise_joint_risk(heavy_tails(seed, q, eps), LOSSES["logistic"], tol=TOL)
    assert solution.separable is False
    assert 0 <= solution.gap <= TOL


@pytest.mark.parametrize(
    ("q", "eps", "seed", "shape"),
    [(1.0, 0.15, 4, (8, 16, 4)), (2.0, 0.3, 1, (9, 27, 6)), (math.inf, 0.1, 5, (8, 16, 4))],
)
def test_a_risk_without_minimiser_has_its_infimum(q, eps, seed, shape):
    """The margins of some samples and rivals can grow without end."""
    problem = heavy_tails(seed, q, eps, *shape, fit_intercept=False)
    solution = minimise_joint_risk(problem, LOSSES["logistic"], tol=TOL)
    assert solution.separable is False
    assert 0 <= solution.gap <= TOL
    assert np.any(solution.weights.sum(axis=0) == 0)


def test_separability_that_descent_leaves_open_is_decided():
    problem = heavy_tails(5, 1.0, 0.5, 9, 27, 6, fit_intercept=False)
    solution = minimise_joint_risk(problem, LOSSES["logistic"])
    assert solution.separable is True
    assert problem.robust_margins(solution.coef, solution.intercept).min() > 0


def test_without_minimiser_the_coefficients_stay_of_a_size_that_single_precision_holds():
    """Three points, each with samples of two classes: margins grow without end."""
    points = np.array([[-1.1, 0.7, -2.0], [-0.5, 1.2, -0.4], [-0.3, -0.3, -0.8]], np.float32)
    problem = JointProblem.from_data(
        points[[0, 1, 2, 0, 0, 1, 2]],
        np.array([0, 1, 2, 0, 2, 2, 0]),
        q=math.inf,
        eps=0,
        fit_intercept=True,
    )
    end = minimise_joint_risk(problem, LOSSES["exponential"])
    assert end.separable is False
    assert end.gap < TOL
    assert np.abs(end.coef).max() < 1e3


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_classes_are_tied_exactly_where_the_minimiser_ties_them(loss):
    X, y = load_wine(return_X_y=True)
    X = StandardScaler().fit_transform(X)
    problem = JointProblem.from_data(X, y, q=np.inf, eps=0.5, fit_intercept=True)
    rough, exact = (minimise_joint_risk(problem, loss, tol=tol) for tol in (1e-5, 1e-8))
    differences = np.abs(problem.pair_differences(exact.coef))
    apart = differences > 1e-4
    assert 0.3 < apart.mean() < 0.5
    np.testing.assert_array_equal(problem.pair_differences(rough.coef) != 0, apart)
    np.testing.assert_array_equal(differences != 0, apart)


@pytest.mark.parametrize(("loss", "q"), [("logistic", math.inf), ("exponential", 2.0)])
def test_features_outside_the_dense_factor(loss, q, monkeypatch):
    """With few features in the dense factor and a block for each of the others."""
    X, y = overlapping(4, n_features=12, n=80)
    X[:, 5] = 0.0  # the block of a constant feature is regular
    X[:, 6:] *= 0.05
    scale = np.linspace(0.5, 1.5, 12)
    scale[3] = 0.0
    problem = JointProblem.from_data(X, y, q=q, eps=EPS[q], scale=scale, fit_intercept=True)
    whole = minimise_joint_risk(problem, LOSSES[loss], tol=TOL)
    monkeypatch.setattr(sklearn_robust.solvers._joint_risk, "MOST_DENSE", 35)
    monkeypatch.setattr(sklearn_robust.solvers._joint_newton, "MOST_DENSE", 35)
    parts = minimise_joint_risk(problem, LOSSES[loss], tol=TOL)
    assert parts.separable is whole.separable is False
    assert max(parts.gap, whole.gap) <= TOL
    assert parts.log_risk == pytest.approx(whole.log_risk, abs=4 * TOL)


@pytest.mark.parametrize("q", [2.0, math.inf])
def test_the_preconditioner_is_the_inverse_of_its_matrix(q):
    X, y = overlapping(3, n_features=5, n=30)  # so few that all rows are taken
    problem = JointProblem.from_data(X, y, q=q, eps=EPS[q], fit_intercept=True)
    model = JointModel(problem, LOSSES["logistic"])
    differences = PairDifferences(model)
    rng = np.random.default_rng(0)
    coef = rng.standard_normal((3, 6))
    norms = 1.0 + differences.norms(coef)
    at = model.at(coef, norms, hold=True)
    cones = CONES[q](differences.of(coef), at.gradient.pairs, 0.3)
    scaling = cones.scaling(0.1 * at.gradient.pairs)
    gauge = 0.2 * model.joined

    def matrix(most):
        estimate = HessianEstimate(model, differences, at, scaling, gauge, most)
        inverse = Preconditioner(estimate, scaling, gauge)
        unit = np.eye(coef.size + 3)
        columns = [
            inverse.solve(Direction(e[: coef.size].reshape(coef.shape), e[coef.size :])).flat()
            for e in unit
        ]
        return np.linalg.inv(columns).reshape(21, 21), estimate

    (dense, _), (parts, estimate) = matrix(100), matrix(3 * 3 + 3)
    assert len(estimate.features) == 2
    coefs = np.arange(18).reshape(3, 6)
    for kept in (np.append(estimate.features, 5), *estimate.others[:, None]):
        places = coefs[:, kept].ravel()
        np.testing.assert_allclose(
            parts[np.ix_(places, places)], dense[np.ix_(places, places)], rtol=1e-6, atol=1e-8
        )
    # the cones are exact everywhere
    among = coefs[:, estimate.others[:2]]
    risk = model.hessian_estimate(at, np.arange(5))
    risk = np.triu(risk) + np.triu(risk, 1).T
    theta = dense - risk
    cross = np.ix_(among[:, 0], among[:, 1])
    np.testing.assert_allclose(parts[cross], theta[cross], rtol=1e-6, atol=1e-8)
