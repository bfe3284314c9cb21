import numpy as np
import pytest
import torch
from scipy import sparse

from sklearn_robust.certificates import certify, non_separability_slack, robust_margin
from sklearn_robust.losses import LOSSES
from sklearn_robust.norms import LpNorm
from sklearn_robust.problems import RobustProblem
from sklearn_robust.solvers import accelerated_margin, steepest_descent

LOSS = LOSSES["exponential"]
EUCLIDEAN = LpNorm(2)
each_intercept = pytest.mark.parametrize(
    "fit_intercept", [True, False], ids=["intercept", "no intercept"]
)
each_q = pytest.mark.parametrize("q", [1, 2, np.inf])


def radius(largest_margin, X, y, q, fit_intercept=False):
    """eps*, the radius beyond which no robust separator exists."""
    return largest_margin(X, y, p=LpNorm(q).dual.p, q=q, eps=0, fit_intercept=fit_intercept)


def assert_proven(problem, norm, solution, tol):
    """What the solution claims follows from its own predictor and weights."""
    k = problem.n_problems
    assert solution.separable == [True] * k
    assert np.all(np.asarray(solution.converged))
    certificate = certify(problem, norm, solution.coef, solution.weights, solution.intercept)
    np.testing.assert_allclose(
        np.asarray(solution.margin), np.asarray(certificate.margin), rtol=1e-5
    )
    np.testing.assert_allclose(
        np.asarray(solution.margin_bound), np.asarray(certificate.bound), rtol=1e-5
    )
    np.testing.assert_allclose(
        np.asarray(solution.gap), 1 - np.asarray(solution.margin / solution.margin_bound), atol=1e-6
    )
    assert np.all(np.asarray(solution.gap) <= tol)
    smallest = np.asarray(problem.margins(solution.coef, solution.intercept)).min(axis=1)
    np.testing.assert_allclose(smallest, 1, rtol=1e-4)  # the scale of the predictor


@pytest.mark.slow
@pytest.mark.parametrize(("q", "fit_intercept"), [(1, True), (2, False), (np.inf, True)])
def test_gaussian_benchmark(gaussian, largest_margin, q, fit_intercept):
    X, y = gaussian(40, 200)
    eps = 0.5 * radius(largest_margin, X, y, q, fit_intercept)
    problem = RobustProblem.from_data(X, y, q=q, eps=eps, fit_intercept=fit_intercept)
    solution = accelerated_margin(problem, LOSS, EUCLIDEAN, tol=1e-3, max_iter=5000)
    assert_proven(problem, EUCLIDEAN, solution, 1e-3)
    assert solution.n_iter[0] <= 5000


@pytest.mark.slow
@pytest.mark.pairwise
@pytest.mark.parametrize("p", [1, 1.5, 3, np.inf])
@each_q
@pytest.mark.parametrize(("share", "fit_intercept"), [(0.0, True), (0.5, False), (0.9, True)])
def test_value_equals_the_cone_solver(gaussian, largest_margin, p, q, fit_intercept, share):
    X, y = gaussian(12, 20)
    eps = share * radius(largest_margin, X, y, q, fit_intercept)
    gamma = largest_margin(X, y, p=p, q=q, eps=eps, fit_intercept=fit_intercept)
    problem = RobustProblem.from_data(X, y, q=q, eps=eps, fit_intercept=fit_intercept)
    solution = accelerated_margin(problem, LOSS, LpNorm(p), tol=1e-4)
    assert_proven(problem, LpNorm(p), solution, 1e-4)
    assert solution.margin[0] <= gamma * (1 + 1e-6) + 1e-7
    assert solution.margin[0] >= gamma * (1 - 1.1e-4) - 1e-7
    assert solution.margin_bound[0] >= gamma * (1 - 1e-6) - 1e-7
    if not fit_intercept:
        assert solution.intercept[0] == 0


@each_q
def test_high_accuracy(gaussian, largest_margin, q):
    X, y = gaussian(12, 20)
    problem = RobustProblem.from_data(
        X, y, q=q, eps=0.5 * radius(largest_margin, X, y, q), fit_intercept=False
    )
    solution = accelerated_margin(problem, LOSS, EUCLIDEAN, tol=1e-8, max_iter=20_000)
    assert_proven(problem, EUCLIDEAN, solution, 1e-8)


@pytest.mark.slow
@pytest.mark.parametrize(("q", "share"), [(1, 0.99), (2, 0.999), (np.inf, 0.99)])
def test_close_to_the_largest_radius(gaussian, largest_margin, q, share):
    """The distance to the ball is a small difference of large numbers there: rounding must not
    refuse every step."""
    X, y = gaussian(20, 40)
    eps = share * radius(largest_margin, X, y, q)
    problem = RobustProblem.from_data(X, y, q=q, eps=eps, fit_intercept=False)
    solution = accelerated_margin(problem, LOSS, EUCLIDEAN, tol=1e-6, max_iter=2500)
    assert_proven(problem, EUCLIDEAN, solution, 1e-6)


@pytest.mark.slow
@pytest.mark.pairwise
@each_q
@each_intercept
@pytest.mark.parametrize("shape", [(40, 5), (15, 30)], ids=["few features", "many features"])
@pytest.mark.parametrize("factor", [1.02, 1.5])
def test_non_separable_data_are_proven_to_be(
    gaussian, largest_margin, q, fit_intercept, shape, factor
):
    X, y = gaussian(*shape)
    eps = factor * radius(largest_margin, X, y, q, fit_intercept) + 1e-3
    problem = RobustProblem.from_data(X, y, q=q, eps=eps, fit_intercept=fit_intercept)
    solution = accelerated_margin(problem, LOSS, EUCLIDEAN, max_iter=5000)
    assert solution.separable == [False]
    assert not solution.converged[0]
    assert solution.margin_bound[0] == 0
    assert solution.margin[0] <= 0
    weights = solution.weights
    assert np.all(weights >= 0)
    assert weights.sum() == pytest.approx(1)
    if fit_intercept:
        assert weights[0] @ y == pytest.approx(0, abs=1e-12)
    assert non_separability_slack(problem, weights)[0] >= -1e-12
    assert solution.n_iter[0] < 5000


def test_data_that_are_not_separable_without_an_adversary(gaussian):
    X, y = gaussian(60, 4, noise=3.0)
    problem = RobustProblem.from_data(X, y, q=2, eps=0.0, fit_intercept=True)
    solution = accelerated_margin(problem, LOSS, EUCLIDEAN, max_iter=2000)
    assert solution.separable == [False]
    assert non_separability_slack(problem, solution.weights)[0] >= -1e-12


@pytest.mark.parametrize("p", [1, np.inf])
def test_the_mean_of_the_rows_does_not_matter(gaussian, p):
    X, y = gaussian(12, 20)
    centred, shifted = (
        accelerated_margin(
            RobustProblem.from_data(data, y, q=2, eps=0.1, fit_intercept=True), LOSS, LpNorm(p)
        )
        for data in (X, X + 1e4)
    )
    assert shifted.converged[0]
    assert shifted.n_iter[0] <= 2 * centred.n_iter[0]
    assert shifted.margin[0] == pytest.approx(centred.margin[0], rel=2e-3)


@pytest.mark.parametrize("p", [1, 2, np.inf])
@pytest.mark.parametrize("fit_intercept", [False, True])
@pytest.mark.parametrize("unit", [1e-150, 1e140])
def test_one_row_a_class_in_any_unit(p, fit_intercept, unit):
    X, y = unit * np.array([[3.0, 1.0, 0.5], [-1.0, 1.0, 2.0]]), np.array([1, -1])
    problem = RobustProblem.from_data(X, y, q=2, eps=0.1 * unit, fit_intercept=fit_intercept)
    solution = accelerated_margin(problem, LOSS, LpNorm(p), max_iter=500)
    assert solution.converged[0]


def test_a_fit_of_few_iterations_has_a_predictor(gaussian):
    problem = RobustProblem.from_data(*gaussian(20, 30), q=2, eps=0.1, fit_intercept=True)
    solution = accelerated_margin(problem, LOSS, LpNorm(1), max_iter=3, record_every=1)
    assert solution.margin[0] > 0
    np.testing.assert_array_equal(solution.history["iteration"], [3])


@pytest.mark.parametrize("p", [1, np.inf])
def test_fewer_iterations_than_the_path(gaussian, p):
    problem = RobustProblem.from_data(*gaussian(20, 100), q=np.inf, eps=0.2, fit_intercept=False)
    path = steepest_descent(problem, LOSS, LpNorm(p), loss_tol=0, tol=1e-2, max_iter=2000)
    solution = accelerated_margin(problem, LOSS, LpNorm(p), tol=1e-2, max_iter=400)
    assert solution.converged[0]
    assert not path.converged[0]


@pytest.mark.slow
@pytest.mark.parametrize(("q", "p"), [(1, np.inf), (1.5, 2), (np.inf, 1)])
def test_batched_equals_single(gaussian, largest_margin, q, p):
    X, y = gaussian(14, 25)
    labels = np.stack([y, np.roll(y, 5), -y])
    eps = 0.5 * radius(largest_margin, X, y, q, True)
    problem = RobustProblem.from_data(X, labels, q=q, eps=eps, fit_intercept=True)
    together = accelerated_margin(problem, LOSS, LpNorm(p))
    assert len(set(together.n_iter[:2])) == 2  # they leave the batch at different times
    for k in range(3):
        one = accelerated_margin(problem.select(slice(k, k + 1)), LOSS, LpNorm(p))
        assert together.separable[k] == one.separable[0]
        assert together.n_iter[k] == one.n_iter[0]
        np.testing.assert_allclose(together.coef[k], one.coef[0], rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(together.margin[k], one.margin[0], rtol=1e-9)
    # opposite labels
    np.testing.assert_allclose(together.coef[2], -together.coef[0], rtol=1e-6, atol=1e-9)


def test_a_batch_keeps_separable_and_other_problems_apart(gaussian):
    X, y = gaussian(40, 30)
    _, noisy = gaussian(40, 30, noise=100.0)
    problem = RobustProblem.from_data(X, np.stack([noisy, y]), q=2, eps=0.1, fit_intercept=True)
    alone = [accelerated_margin(problem.select(slice(k, k + 1)), LOSS, EUCLIDEAN) for k in range(2)]
    together = accelerated_margin(problem, LOSS, EUCLIDEAN)
    assert together.separable == [one.separable[0] for one in alone]
    np.testing.assert_array_equal(together.n_iter, [one.n_iter[0] for one in alone])


@pytest.mark.slow
@pytest.mark.pairwise
@each_q
@each_intercept
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_single_precision(gaussian, largest_margin, q, fit_intercept, share):
    X, y = gaussian(30, 60)
    eps = share * radius(largest_margin, X, y, q, fit_intercept)
    gamma = largest_margin(X, y, p=2, q=q, eps=eps, fit_intercept=fit_intercept)
    problem = RobustProblem.from_data(
        X.astype(np.float32), y.astype(np.float32), q=q, eps=eps, fit_intercept=fit_intercept
    )
    solution = accelerated_margin(problem, LOSS, EUCLIDEAN, max_iter=5000)
    assert solution.coef.dtype == solution.intercept.dtype == solution.weights.dtype == np.float32
    # the path ends at 1e-3; rounding in single precision is charged
    assert_proven(problem, EUCLIDEAN, solution, 1e-3 + 5e-4)
    exact = RobustProblem.from_data(X, y, q=q, eps=eps, fit_intercept=fit_intercept)
    margin = robust_margin(
        exact, EUCLIDEAN, solution.coef.astype(float), solution.intercept.astype(float)
    )
    assert margin[0] >= (1 - 2e-3) * gamma


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "q", "p"),
    [(torch.float64, 1, np.inf), (torch.float64, 1.5, 2), (torch.float32, np.inf, 1)],
)
def test_torch_equals_numpy(gaussian, largest_margin, dtype, q, p):
    X, y = gaussian(14, 25)
    labels = np.stack([y, np.roll(y, 5)])
    eps = 0.5 * radius(largest_margin, X, y, q, True)
    expected = accelerated_margin(
        RobustProblem.from_data(X, labels, q=q, eps=eps, fit_intercept=True), LOSS, LpNorm(p)
    )
    tensors = torch.as_tensor(X, dtype=dtype), torch.as_tensor(labels, dtype=dtype)
    problem = RobustProblem.from_data(*tensors, q=q, eps=eps, fit_intercept=True)
    solution = accelerated_margin(problem, LOSS, LpNorm(p))
    assert isinstance(solution.coef, torch.Tensor)
    assert solution.coef.dtype == solution.margin.dtype == dtype
    assert solution.separable == expected.separable
    np.testing.assert_allclose(solution.margin.numpy(), expected.margin, rtol=1e-3)
    np.testing.assert_allclose(solution.margin_bound.numpy(), expected.margin_bound, rtol=1e-3)
    if dtype == torch.float64:
        np.testing.assert_allclose(solution.coef.numpy(), expected.coef, rtol=1e-6, atol=1e-9)


def test_torch_proves_that_data_are_not_separable(gaussian):
    X, y = gaussian(60, 4, noise=3.0)
    problem = RobustProblem.from_data(
        torch.from_numpy(X), torch.from_numpy(y), q=2, eps=0.1, fit_intercept=True
    )
    solution = accelerated_margin(problem, LOSS, EUCLIDEAN)
    assert solution.separable == [False]
    assert non_separability_slack(problem, solution.weights)[0] >= -1e-12


@each_q
def test_sparse_equals_dense(gaussian, largest_margin, q):
    X, y = gaussian(14, 40)
    X = X * (np.random.default_rng(0).uniform(size=X.shape) < 0.5)
    eps = 0.5 * radius(largest_margin, X, y, q, True)
    solutions = [
        accelerated_margin(
            RobustProblem.from_data(data, y, q=q, eps=eps, fit_intercept=True), LOSS, EUCLIDEAN
        )
        for data in (X, sparse.csr_array(X))
    ]
    np.testing.assert_allclose(solutions[1].coef, solutions[0].coef, rtol=1e-6, atol=1e-9)


@each_intercept
def test_samples_of_weight_zero_are_left_out(gaussian, fit_intercept):
    X, y = gaussian(14, 25)
    weight = np.ones(14)
    weight[[2, 7]] = 0
    y_wrong = np.where(weight > 0, y, -y)  # they would change the separator
    kept = weight > 0
    arguments = {"q": np.inf, "eps": 0.05, "fit_intercept": fit_intercept}
    with_zeros = accelerated_margin(
        RobustProblem.from_data(X, y_wrong, sample_weight=weight, **arguments), LOSS, EUCLIDEAN
    )
    without = accelerated_margin(
        RobustProblem.from_data(X[kept], y[kept], **arguments), LOSS, EUCLIDEAN
    )
    np.testing.assert_allclose(with_zeros.coef, without.coef, rtol=1e-6, atol=1e-9)
    np.testing.assert_array_equal(with_zeros.weights[0, ~kept], 0)


@pytest.mark.parametrize(("p", "iterations"), [(2, [1, 5, 10, 15, 20]), (1, [8, 16, 20])])
def test_iteration_limit_and_history(gaussian, p, iterations):
    X, y = gaussian(40, 60)
    problem = RobustProblem.from_data(X, np.stack([y, -y]), q=np.inf, eps=0.1, fit_intercept=False)
    solution = accelerated_margin(problem, LOSS, LpNorm(p), max_iter=20, tol=1e-12, record_every=5)
    np.testing.assert_array_equal(solution.n_iter, [20, 20])
    assert not np.any(solution.converged)
    history = solution.history
    np.testing.assert_array_equal(history["iteration"], iterations)
    for name in ("margin", "margin_bound", "gap"):
        assert history[name].shape == (len(iterations), 2)
    assert np.all(np.diff(history["margin"], axis=0) >= 0)  # the best so far
    assert np.all(np.diff(history["margin_bound"], axis=0) <= 0)
    assert np.all(history["margin"] <= history["margin_bound"])
    np.testing.assert_allclose(history["margin"][-1], solution.margin, rtol=1e-9)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_the_loss_only_reports_the_risk(gaussian, loss):
    problem = RobustProblem.from_data(*gaussian(14, 25), q=2, eps=0.1, fit_intercept=True)
    solution = accelerated_margin(problem, loss, EUCLIDEAN)
    np.testing.assert_array_equal(solution.coef, accelerated_margin(problem, LOSS, EUCLIDEAN).coef)
    margins = problem.margins(solution.coef, solution.intercept)
    np.testing.assert_allclose(
        solution.log_risk, loss.log_risk_and_weights(margins, problem.log_weight)[0], rtol=1e-12
    )
