import cvxpy as cp
import numpy as np
import pytest
from scipy import sparse
from scipy.optimize import brentq
from sklearn.datasets import load_breast_cancer, load_digits, load_iris

from sklearn_robust.certificates import non_separability_slack, proves_not_separable
from sklearn_robust.losses import LOSSES
from sklearn_robust.norms import LpNorm
from sklearn_robust.problems import RobustProblem
from sklearn_robust.rows import arrays
from sklearn_robust.solvers import (
    _model_minimiser,
    _newton_columns,
    _risk_lbfgs,
    _risk_newton,
    robust_risk,
)
from sklearn_robust.solvers._newton_rules import gap_near
from sklearn_robust.solvers.robust_risk import minimise_robust_risk

each_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
each_intercept = pytest.mark.parametrize(
    "fit_intercept", [True, False], ids=["intercept", "no intercept"]
)
EUCLIDEAN = LpNorm(2)


def least_log_risk(X, y, loss, q, eps, *, fit_intercept=True, share=None):
    """The least log-risk, by a cone solver."""
    share = np.full(len(y), 1 / len(y)) if share is None else share
    X, y, share = X[share > 0], y[share > 0], share[share > 0]
    w, b = cp.Variable(X.shape[1]), cp.Variable()
    margins = cp.multiply(y, X @ w + (b if fit_intercept else 0)) - eps * cp.norm(
        w, LpNorm(q).dual.p
    )
    if loss.name == "exponential":
        return cp.Problem(cp.Minimize(cp.log_sum_exp(np.log(share) - margins))).solve(
            solver=cp.CLARABEL
        )
    return np.log(cp.Problem(cp.Minimize(share @ cp.logistic(-margins))).solve(solver=cp.CLARABEL))


def assert_proven(problem, loss, solution):
    """What the solution claims follows from its own predictor and weights."""
    now = problem.evaluate(loss, solution.coef)
    np.testing.assert_allclose(solution.log_risk, now.log_risk, atol=1e-13)
    np.testing.assert_allclose(solution.intercept, now.intercept, atol=1e-10)
    assert solution.separable == [False] * problem.n_problems
    assert np.all(solution.converged)
    assert np.all(solution.weights >= 0)
    assert np.all(non_separability_slack(problem, solution.weights) >= -1e-12)
    np.testing.assert_allclose(solution.weights.sum(axis=1), 1, atol=1e-12)
    if problem.fit_intercept:
        np.testing.assert_allclose(np.sum(solution.weights * problem.y, axis=1), 0, atol=1e-12)
    np.testing.assert_array_equal(solution.margin_bound, np.zeros(problem.n_problems))
    bound = loss.log_risk_bound(solution.weights, problem.log_weight)
    np.testing.assert_allclose(solution.gap, -np.expm1(bound - solution.log_risk), atol=1e-13)


def check(X, y, loss, q, eps, *, fit_intercept=True, sample_weight=None, tol=1e-8):
    """Minimise, compare with the cone solver, and check the proof; returns the problem and the
    solution."""
    problem = RobustProblem.from_data(
        X, y, q=q, eps=eps, fit_intercept=fit_intercept, sample_weight=sample_weight
    )
    solution = minimise_robust_risk(problem, loss, EUCLIDEAN, tol=tol)
    assert_proven(problem, loss, solution)
    assert solution.gap[0] <= tol
    share = np.exp(problem.log_weight[0])
    dense = X.toarray() if sparse.issparse(X) else X
    least = least_log_risk(dense, y, loss, q, eps, fit_intercept=fit_intercept, share=share)
    # within 1e-6 of the oracle, and the true gap is below the reported one, up to the oracle's own
    # accuracy
    assert solution.log_risk[0] == pytest.approx(least, abs=1e-6)
    assert -np.expm1(least - solution.log_risk[0]) <= solution.gap[0] + 1e-7
    return problem, solution


@pytest.mark.slow
@pytest.mark.pairwise
@each_loss
@each_intercept
@pytest.mark.parametrize("q", [1, 1.5, 2, 3, np.inf])
@pytest.mark.parametrize("eps", [0.02, 0.2])
def test_noisy_data(gaussian, loss, fit_intercept, q, eps):
    X, y = gaussian(40, 5, noise=2.0)
    check(X, y, loss, q, eps, fit_intercept=fit_intercept)


@each_loss
@pytest.mark.parametrize("q", [1, 2, np.inf])
def test_more_features_than_samples(gaussian, largest_margin, loss, q):
    X, y = gaussian(15, 30)
    radius = largest_margin(X, y, p=LpNorm(q).dual.p, q=q, eps=0, fit_intercept=True)
    check(X, y, loss, q, 1.05 * radius)


@pytest.mark.slow
@pytest.mark.pairwise
# at eps = 0.2 the cone solver calls its answer inaccurate; it is right to the digits that are
# compared
@pytest.mark.filterwarnings("ignore:Solution may be inaccurate")
@each_loss
@pytest.mark.parametrize("q", [2, np.inf])
@pytest.mark.parametrize("eps", [0.2, 0.4])
def test_breast_cancer(loss, q, eps):
    X, target = load_breast_cancer(return_X_y=True)
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    check(X, 2.0 * target - 1, loss, q, eps)


@pytest.mark.slow
def test_digits():
    X, target = load_digits(return_X_y=True)
    used = (target == 3) | (target == 8)
    problem, solution = check(
        X[used] / 16, np.where(target[used] == 3, 1.0, -1.0), LOSSES["logistic"], np.inf, 0.2
    )
    # pixels that are blank in every image get no weight, and the proof of it is exact
    np.testing.assert_array_equal(solution.coef[0, np.ptp(problem.X, axis=0) == 0], 0)


@each_loss
def test_without_an_adversary(loss):
    X, target = load_iris(return_X_y=True)
    check(X, np.where(target == 1, 1.0, -1.0), loss, np.inf, 0.0)


@pytest.mark.pairwise
@each_loss
@each_intercept
@pytest.mark.parametrize("q", [1, 2, np.inf])
def test_a_large_radius_gives_the_zero_predictor_without_a_hessian(
    gaussian, monkeypatch, loss, fit_intercept, q
):
    monkeypatch.setattr(
        arrays.DenseRows, "weighted_gram", lambda *args, **kwargs: pytest.fail("a Hessian")
    )
    X, y = gaussian(30, 4, noise=1.0)
    y[:5] = 1.0  # so that the classes differ in size
    _, solution = check(X, y, loss, q, 30.0, fit_intercept=fit_intercept)
    np.testing.assert_array_equal(solution.coef, np.zeros((1, 4)))
    assert solution.gap[0] <= 1e-12
    odds = np.log(np.sum(y > 0) / np.sum(y < 0)) / (2 if loss.name == "exponential" else 1)
    assert solution.intercept[0] == pytest.approx(odds if fit_intercept else 0, abs=1e-10)


@each_loss
@pytest.mark.parametrize("q", [1, 2, np.inf])
def test_sample_weights(gaussian, loss, q):
    X, y = gaussian(30, 4, noise=2.0)
    weight = np.random.default_rng(0).integers(0, 4, 30).astype(float)
    assert np.any(weight == 0)
    _, solution = check(X, y, loss, q, 0.1, sample_weight=weight)
    repeats = weight.astype(int)
    repeated = RobustProblem.from_data(
        np.repeat(X, repeats, axis=0), np.repeat(y, repeats), q=q, eps=0.1, fit_intercept=True
    )
    expected = minimise_robust_risk(repeated, loss, EUCLIDEAN)
    assert solution.log_risk[0] == pytest.approx(expected.log_risk[0], abs=1e-8)
    np.testing.assert_allclose(solution.coef, expected.coef, atol=1e-3)


@each_loss
@pytest.mark.parametrize("q", [1, 2, np.inf])
def test_sparse_equals_dense(gaussian, loss, q):
    X, y = gaussian(40, 6, noise=2.0)
    X = X * (np.random.default_rng(0).uniform(size=X.shape) < 0.5)
    _, compressed = check(sparse.csr_array(X), y, loss, q, 0.1)
    _, dense = check(X, y, loss, q, 0.1)
    np.testing.assert_allclose(compressed.coef, dense.coef, atol=1e-3)


@each_loss
def test_batched_equals_single(gaussian, loss):
    X, y = gaussian(40, 5, noise=2.0)
    labels = np.stack([y, np.roll(y, 3)])
    problem = RobustProblem.from_data(X, labels, q=np.inf, eps=0.1, fit_intercept=True)
    together = minimise_robust_risk(problem, loss, EUCLIDEAN)
    assert_proven(problem, loss, together)
    for k in range(2):
        one = minimise_robust_risk(problem.select(slice(k, k + 1)), loss, EUCLIDEAN)
        np.testing.assert_array_equal(together.coef[k], one.coef[0])
        np.testing.assert_array_equal(together.gap[k], one.gap[0])


@each_loss
@pytest.mark.parametrize("q", [1, 2, np.inf])
def test_warm_start_reaches_the_same_risk(gaussian, loss, q):
    X, y = gaussian(40, 5, noise=2.0)
    problem = RobustProblem.from_data(X, y, q=q, eps=0.1, fit_intercept=True)
    cold = minimise_robust_risk(problem, loss, EUCLIDEAN)
    for start in (cold.coef, np.ones((1, 5)), np.zeros((1, 5)), -10 * cold.coef):
        warm = minimise_robust_risk(problem, loss, EUCLIDEAN, coef_init=start)
        assert_proven(problem, loss, warm)
        assert warm.log_risk[0] == pytest.approx(cold.log_risk[0], abs=1e-8)
    again = minimise_robust_risk(problem, loss, EUCLIDEAN, coef_init=cold.coef)
    assert again.n_iter[0] < cold.n_iter[0]


@each_loss
@pytest.mark.parametrize("q", [1, 2, np.inf])
def test_a_separable_problem_is_not_claimed_to_be_solved(gaussian, largest_margin, loss, q):
    X, y = gaussian(15, 20)
    radius = largest_margin(X, y, p=LpNorm(q).dual.p, q=q, eps=0, fit_intercept=True)
    problem = RobustProblem.from_data(X, y, q=q, eps=0.5 * radius, fit_intercept=True)
    solution = minimise_robust_risk(problem, loss, EUCLIDEAN)
    assert solution.separable == [True]
    assert not solution.converged[0]
    assert solution.gap[0] == np.inf or solution.gap[0] >= 1 - 1e-12
    assert solution.margin[0] > 0
    assert (
        solution.margin[0]
        <= largest_margin(X, y, p=2, q=q, eps=0.5 * radius, fit_intercept=True) + 1e-6
    )


@each_loss
@pytest.mark.parametrize("q", [1, 2, np.inf])
def test_single_precision(gaussian, loss, q):
    X, y = gaussian(40, 5, noise=2.0)
    problem = RobustProblem.from_data(
        X.astype(np.float32), y.astype(np.float32), q=q, eps=0.1, fit_intercept=True
    )
    solution = minimise_robust_risk(problem, loss, EUCLIDEAN)
    assert solution.coef.dtype == solution.intercept.dtype == np.float32
    assert solution.weights.dtype == np.float64  # a proof is not rounded
    assert solution.gap[0] <= 1e-3
    assert solution.log_risk[0] == pytest.approx(least_log_risk(X, y, loss, q, 0.1), abs=1e-5)


@pytest.mark.pairwise
@pytest.mark.parametrize("seed", range(1, 6))
@each_loss
@pytest.mark.parametrize("q", [1, 2, np.inf])
def test_the_certified_gap_reaches_the_tolerance(gaussian, loss, q, seed):
    """The bound is off by as much as the weights are: the last digits need more than the risk
    itself can show."""
    X, y = gaussian(40, 5, seed=seed, noise=2.0)
    problem = RobustProblem.from_data(X, y, q=q, eps=0.1, fit_intercept=True)
    solution = minimise_robust_risk(problem, loss, EUCLIDEAN)
    assert_proven(problem, loss, solution)
    assert solution.gap[0] <= 1e-8


def test_iteration_limit_is_respected_and_its_gap_is_honest(gaussian):
    X, y = gaussian(60, 8, noise=2.0)
    problem = RobustProblem.from_data(X, y, q=np.inf, eps=0.05, fit_intercept=True)
    loss = LOSSES["exponential"]
    # any gap will do: no Newton steps
    solution = minimise_robust_risk(problem, loss, EUCLIDEAN, max_iter=1, tol=1.0)
    assert solution.n_iter[0] <= 1
    least = least_log_risk(X, y, loss, np.inf, 0.05)
    true_gap = -np.expm1(least - solution.log_risk[0])
    assert 1e-5 < true_gap <= solution.gap[0]


def test_records_its_way_on_request(gaussian):
    X, y = gaussian(60, 5, noise=3.0)
    labels = np.stack([y, np.roll(y, 7)])
    problem = RobustProblem.from_data(X, labels, q=np.inf, eps=0.1, fit_intercept=True)
    solution = minimise_robust_risk(problem, LOSSES["logistic"], LpNorm(2), record_every=2)
    history = solution.history
    assert history["iteration"][:2].tolist() == [1, 2]
    for i in range(2):
        log_risk = history["log_risk"][:, i]
        log_risk = log_risk[np.isfinite(log_risk)]
        assert log_risk.size > 1
        assert np.all(np.diff(log_risk) <= 0)
        assert log_risk[-1] >= solution.log_risk[i] - 1e-12
    assert np.nanmin(history["gap"]) < 1e-2
    assert not minimise_robust_risk(problem, LOSSES["logistic"], LpNorm(2)).history


# --- the engines, each by name


@pytest.mark.pairwise
@each_loss
@each_intercept
@pytest.mark.parametrize("q", [1, 2, np.inf])
def test_newton_alone_certifies(gaussian, monkeypatch, loss, fit_intercept, q):
    monkeypatch.setattr(
        robust_risk, "lbfgs", lambda *args, **kwargs: pytest.fail("the fallback was called")
    )
    X, y = gaussian(60, 8, noise=2.0)
    _, solution = check(X, y, loss, q, 0.1, fit_intercept=fit_intercept)
    assert solution.n_iter[0] <= 15


@each_loss
@pytest.mark.parametrize("q", [1, 1.5, 2, 3, np.inf])
def test_where_newton_gives_up_lbfgs_takes_over(gaussian, monkeypatch, loss, q):
    monkeypatch.setattr(
        robust_risk, "newton", lambda problem, loss, start, **kwargs: (None, start, 0)
    )
    X, y = gaussian(60, 8, noise=2.0)
    _, solution = check(X, y, loss, q, 0.1, tol=1e-5)
    assert solution.n_iter[0] > 5


@pytest.mark.slow
@each_loss
@pytest.mark.parametrize("shape", [(40, 3), (100, 20), (200, 50)], ids=str)
def test_no_exponent_takes_many_more_evaluations_than_two(monkeypatch, loss, shape):
    """Where q is large or next to 1, the norm's curvature is nothing on one side of a kink and
    endless on the other."""
    monkeypatch.setattr(
        robust_risk, "lbfgs", lambda *args, **kwargs: pytest.fail("the fallback was called")
    )
    evaluations, most = 0, 10**9
    value, factor = _model_minimiser._Model.value, _model_minimiser._Model.factor

    def counted(function):
        def call(*args):
            nonlocal evaluations
            evaluations += 1
            assert evaluations <= most
            return function(*args)

        return call

    monkeypatch.setattr(_model_minimiser._Model, "value", counted(value))
    monkeypatch.setattr(_model_minimiser._Model, "factor", counted(factor))
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal(shape), np.where(rng.standard_normal(shape[0]) > 0, 1.0, -1.0)
    for q in (2, 1.01, 1.05, 1.2, 5, 8, 10, 15, 20, 30, 50, 100, 1e4, 1e6):
        evaluations = 0
        problem = RobustProblem.from_data(X, y, q=q, eps=0.1, fit_intercept=True)
        assert_proven(problem, loss, minimise_robust_risk(problem, loss, EUCLIDEAN, tol=1e-9))
        if q == 2:
            most = 10 * evaluations


@pytest.mark.parametrize("q", [1, 2, np.inf])
def test_too_many_columns_for_a_hessian_go_to_lbfgs(gaussian, monkeypatch, q):
    monkeypatch.setattr(_newton_columns, "_MOST_COLUMNS", 3)
    X, y = gaussian(60, 8, noise=2.0)
    check(X, y, LOSSES["logistic"], q, 0.02, tol=1e-5)


@each_loss
def test_lbfgs_under_an_l1_norm_keeps_the_columns_in_use(monkeypatch, loss):
    rng = np.random.default_rng(0)
    X, teacher = rng.standard_normal((300, 60)), np.append(np.ones(4), np.zeros(56))
    y = np.where(X @ teacher + rng.standard_normal(300) > 0, 1.0, -1.0)
    problem = RobustProblem.from_data(X, y, q=np.inf, eps=0.15, fit_intercept=True)
    expected = minimise_robust_risk(problem, loss, EUCLIDEAN, tol=1e-9)
    sizes = []

    def counted(objective, x0, search=_risk_lbfgs.scipy.optimize.fmin_l_bfgs_b, **options):
        sizes.append(len(x0))
        return search(objective, x0, **options)

    monkeypatch.setattr(_risk_lbfgs.scipy.optimize, "fmin_l_bfgs_b", counted)
    coef, _ = _risk_lbfgs.lbfgs(
        problem, loss, np.zeros((1, 60)), max_iter=1000, record=lambda *_: None
    )
    np.testing.assert_allclose(coef, expected.coef, atol=1e-5)
    assert 0 < np.count_nonzero(coef) <= 20
    assert max(sizes) <= 2 * 30
    assert sizes == sorted(sizes)
    assert len(sizes) <= 6


@each_loss
@pytest.mark.parametrize("q", [1, 2, np.inf])
def test_hessians_in_single_precision_certify_too(gaussian, monkeypatch, loss, q):
    monkeypatch.setattr(arrays, "_SINGLE_FROM", 0)
    monkeypatch.setattr(_risk_newton, "_CHEAP_PRODUCTS", 0)  # and are kept while they serve
    X, y = gaussian(60, 8, noise=2.0)
    check(X, y, loss, q, 0.1)


def test_a_hessian_that_single_precision_spoils_is_computed_in_double(gaussian, monkeypatch):
    monkeypatch.setattr(arrays, "_SINGLE_FROM", 0)
    monkeypatch.setattr(
        robust_risk, "lbfgs", lambda *args, **kwargs: pytest.fail("the fallback was called")
    )
    X, y = gaussian(60, 5, noise=2.0)
    X = np.hstack([X, X[:, :1] + 1e-3 * X[:, 1:2]])  # condition 1e6 of the Gram matrix
    problem = RobustProblem.from_data(X, y, q=np.inf, eps=1e-6, fit_intercept=True)
    solution = minimise_robust_risk(problem, LOSSES["logistic"], EUCLIDEAN)
    assert solution.converged[0]
    assert solution.n_iter[0] < 40  # where single precision alone takes hundreds


@pytest.mark.pairwise
@each_loss
@pytest.mark.parametrize("scaled", [False, True], ids=["alike", "scales"])
@pytest.mark.parametrize("q", [1, 1.5, 2, np.inf])
def test_forms_of_lbfgs_have_the_coefficients_penalty_and_gradient_of_the_log_risk(
    gaussian, loss, q, scaled
):
    X, y = gaussian(30, 4, noise=2.0)
    scale = np.array([0.0, 1.0, 2.0, 0.5]) if scaled else None
    problem = RobustProblem.from_data(X, y, q=q, eps=0.3, fit_intercept=True, scale=scale)
    objective = _risk_lbfgs._LogRisk(problem, loss, unit=1.7)
    coef = np.array([[0.3, -0.2, 0.5, 0.1]])
    x = objective.start(coef)
    np.testing.assert_allclose(objective.coef(x), coef, atol=1e-15)
    value, gradient = objective(x)
    assert value == pytest.approx(problem.evaluate(loss, coef).log_risk[0], abs=1e-12)
    step = 1e-6 * np.eye(len(x))
    slopes = [(objective(x + h)[0] - objective(x - h)[0]) / 2e-6 for h in step]
    np.testing.assert_allclose(gradient, slopes, atol=1e-8)


@pytest.mark.slow
@pytest.mark.pairwise
@each_loss
@pytest.mark.parametrize("q", [1, 2, np.inf])
@pytest.mark.parametrize(
    "data",
    [
        "zero column",
        "doubled columns",
        "doubled rows",
        "signs",
        "one feature",
        "conflict",
        "scales",
    ],
)
def test_degenerate_data(gaussian, loss, q, data):
    X, y = gaussian(40, 5, noise=3.0)
    eps = 0.1
    if data == "zero column":
        X[:, 2] = 0
    elif data == "doubled columns":
        X = np.hstack([X, X])
    elif data == "doubled rows":
        X, y = np.vstack([X, X]), np.append(y, y)
    elif data == "signs":
        X = np.sign(X)
    elif data == "one feature":
        X = X[:, :1]
    elif data == "conflict":
        X, y = np.vstack([X, X]), np.append(y, -y)
    else:
        X, eps = X * np.logspace(-6, 6, 5), 1e-7
    problem = RobustProblem.from_data(X, y, q=q, eps=eps, fit_intercept=True)
    solution = minimise_robust_risk(problem, loss, EUCLIDEAN, tol=1e-6)
    if data == "scales":  # no common unit for rounding
        assert solution.gap[0] <= 1e-6
        assert proves_not_separable(problem, solution.weights)[0]
    else:
        assert_proven(problem, loss, solution)


@each_loss
@pytest.mark.parametrize("q", [1, np.inf])
def test_no_order_of_the_rows_costs_ill_scaled_data_the_certificate(loss, q):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((40, 5)) * np.logspace(-6, 6, 5)
    y = np.where(1e6 * X[:, 0] + 3 * rng.standard_normal(40) > 0, 1.0, -1.0)
    for _ in range(4):
        order = rng.permutation(40)
        problem = RobustProblem.from_data(X[order], y[order], q=q, eps=1e-7, fit_intercept=True)
        solution = minimise_robust_risk(problem, loss, EUCLIDEAN, tol=1e-6)
        assert solution.converged[0]
        assert solution.n_iter[0] <= 5
        assert proves_not_separable(problem, solution.weights)[0]


@each_loss
@pytest.mark.parametrize("q", [1, 2, np.inf])
def test_one_sample_of_each_class_on_top_of_each_other(loss, q):
    problem = RobustProblem.from_data(
        np.ones((2, 3)), np.array([1.0, -1.0]), q=q, eps=0.1, fit_intercept=True
    )
    solution = minimise_robust_risk(problem, loss, EUCLIDEAN)
    assert_proven(problem, loss, solution)
    np.testing.assert_array_equal(solution.coef, 0)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_single_precision_data_are_not_copied(gaussian, loss):
    X, y = gaussian(500, 20, noise=3.0)
    single = RobustProblem.from_data(
        X.astype(np.float32), y.astype(np.float32), q=np.inf, eps=0.1, fit_intercept=True
    )
    double = single.in_double_arithmetic()
    assert double.X is single.X
    weights = np.random.default_rng(0).dirichlet(np.ones(500), 1)
    copied = single.as_float64()
    np.testing.assert_allclose(
        double.weighted_sum(weights), copied.weighted_sum(weights), rtol=1e-12
    )
    coef = np.random.default_rng(1).standard_normal((1, 20))
    np.testing.assert_allclose(
        double.signed_scores(coef), copied.signed_scores(coef), rtol=1e-12, atol=1e-12
    )
    np.testing.assert_allclose(double.sizes(weights), weights @ np.abs(copied.X), rtol=1e-12)
    assert minimise_robust_risk(single, loss, EUCLIDEAN, tol=1e-6).gap[0] <= 1e-5


@pytest.mark.slow
@each_loss
def test_along_radii_each_minimiser_starts_from_the_one_before(loss):
    X, y = load_breast_cancer(return_X_y=True)
    X, y = (X - X.mean(axis=0)) / X.std(axis=0), np.where(y == 1, 1.0, -1.0)
    radii = [0.02, 0.1, 0.05, 0.2]  # in any order
    labels = np.stack([y, np.where(X[:, 0] > 0, y, 1)])
    problem = RobustProblem.from_data(X, labels, q=np.inf, eps=0, fit_intercept=True)
    together = minimise_robust_risk(problem.at_radii(radii), loss, EUCLIDEAN, tol=1e-10)
    iterations = 0
    for j, radius in enumerate(radii):
        alone = minimise_robust_risk(problem.at_radii([radius]), loss, EUCLIDEAN, tol=1e-10)
        np.testing.assert_allclose(
            together.coef[2 * j : 2 * j + 2], alone.coef, atol=1e-4 * np.abs(alone.coef).max()
        )
        iterations += alone.n_iter.sum()
    assert np.all(together.converged)
    assert together.n_iter.sum() < 0.8 * iterations


@each_loss
@pytest.mark.parametrize("q", [1, 2, np.inf])
def test_a_category_that_has_one_class_costs_no_certificate(gaussian, loss, q):
    """Its weight grows without end: the least risk, which no predictor attains, is that of the
    other samples."""
    X, y = gaussian(60, 2, noise=3.0)
    category = np.arange(60) % 4
    category[np.flatnonzero(y > 0)[:5]] = 4
    category[np.flatnonzero(y < 0)[0]] = 5
    rows = np.hstack([X, np.eye(6)[category]])
    others = category < 4
    least = [
        minimise_robust_risk(
            RobustProblem.from_data(
                rows[kept], y[kept], q=q, eps=0.2, fit_intercept=True, scale=[1.0, 1.0, *6 * [0.0]]
            ),
            loss,
            EUCLIDEAN,
            tol=1e-8,
        )
        for kept in (others, np.ones(60, dtype=bool))
    ]
    assert all(solution.gap[0] <= 1e-8 for solution in least)
    of_others = np.log(others.mean()) + least[0].log_risk[0]
    assert least[1].log_risk[0] == pytest.approx(of_others, abs=2e-8)
    assert least[1].weights[0][~others] == pytest.approx(0, abs=1e-8)


def test_a_constant_feature_does_not_count_in_units_far_from_1(gaussian):
    X, y = gaussian(200, 4, noise=2.0)
    X[:, 2] = 0.3
    unit = 1e-102
    eps = 0.9 * unit * np.linalg.norm(X[y > 0].mean(axis=0) - X[y < 0].mean(axis=0)) / 2
    problem = RobustProblem.from_data(unit * X, y, q=2, eps=eps, fit_intercept=True)
    solution = minimise_robust_risk(problem, LOSSES["logistic"], EUCLIDEAN, tol=1e-6)
    assert_proven(problem, LOSSES["logistic"], solution)


def test_a_predicted_decrease_may_have_no_square():
    X, y, weight = np.full((2, 1), -1e120), np.array([1.0, -1.0]), np.array([1.0, 1e-20])
    problem = RobustProblem.from_data(X, y, q=2, eps=0.0, fit_intercept=True, sample_weight=weight)
    solution = minimise_robust_risk(problem, LOSSES["logistic"], EUCLIDEAN)
    assert_proven(problem, LOSSES["logistic"], solution)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_the_gap_of_weights_near_those_of_a_predictor_is_known_to_second_order(loss):
    rng = np.random.default_rng(0)
    log_weight = np.full(500, -np.log(500))
    margins = rng.standard_normal(500)

    def along(shift):  # zero where the risk is least along the ray of the predictor
        return loss.log_risk_and_weights(margins + shift, log_weight)[1] @ (margins + shift)

    margins += brentq(along, 0, 5, xtol=1e-15)
    log_risk, a = loss.log_risk_and_weights(margins, log_weight)
    weights = a * (1 + 1e-3 * rng.standard_normal(500))
    weights -= (weights @ margins) / (a @ margins**2) * a * margins  # zero again
    gap, scale = gap_near(7 * weights, a, loss.curvature(margins, a))
    bound = loss.log_risk_bound(weights[None] / weights.sum(), log_weight[None])[0]
    assert gap == pytest.approx(log_risk - bound, rel=0.01)
    assert 7 * scale == pytest.approx(1, rel=1e-2)
