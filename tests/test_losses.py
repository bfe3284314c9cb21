import cvxpy as cp
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import minimize_scalar

from sklearn_robust import losses
from sklearn_robust.losses import (
    LOSSES,
    Logistic,
    class_log_probabilities,
    log_risk_and_derivatives,
)

NAIVE = {"exponential": lambda m: np.exp(-m), "logistic": lambda m: np.log1p(np.exp(-m))}
each_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)


def sample(n=9, seed=0):
    rng = np.random.default_rng(seed)
    margins = 2 * rng.standard_normal(n)
    share = rng.uniform(0.1, 1, n)
    y = np.where(np.arange(n) % 3 == 0, 1.0, -1.0)
    return margins, np.log(share / share.sum()), y


def uniform(n, dtype=np.float64):
    return np.full(n, -np.log(n), dtype)


@each_loss
def test_log_risk_equals_the_formula(loss):
    margins, log_weight, _ = sample()
    log_risk, _ = loss.log_risk_and_weights(margins, log_weight)
    assert log_risk == pytest.approx(
        np.log(np.sum(np.exp(log_weight) * NAIVE[loss.name](margins))), abs=1e-13
    )


def derivatives(function, margins, h=1e-5):
    """Central differences of a vector function of the margins: row j is the derivative by margin
    j."""
    steps = h * np.eye(len(margins))
    return np.array([(function(margins + e) - function(margins - e)) / (2 * h) for e in steps])


@each_loss
def test_weights_are_the_derivatives_of_minus_log_risk(loss):
    margins, log_weight, _ = sample()
    _, weights = loss.log_risk_and_weights(margins, log_weight)
    numeric = derivatives(lambda m: loss.log_risk_and_weights(m, log_weight)[0], margins)
    np.testing.assert_allclose(weights, -numeric, atol=1e-9)


@each_loss
def test_curvature_is_the_second_derivative_of_the_risk_over_the_risk(loss):
    margins, log_weight, _ = sample()
    log_risk, weights = loss.log_risk_and_weights(margins, log_weight)

    def slopes(m):  # of the risk itself, not of its logarithm
        log_risk, weights = loss.log_risk_and_weights(m, log_weight)
        return -weights * np.exp(log_risk)

    numeric = derivatives(slopes, margins) / np.exp(log_risk)
    np.testing.assert_allclose(np.diag(loss.curvature(margins, weights)), numeric, atol=1e-9)


@pytest.mark.pairwise
@each_loss
@pytest.mark.parametrize("size", [1e4, -1e4])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_extreme_margins_neither_underflow_nor_overflow(loss, size, dtype, library):
    margins = np.array([size, size, size + 1], dtype)
    arguments = [margins, uniform(3, dtype)]
    if library == "torch":
        arguments = [torch.from_numpy(a) for a in arguments]
    log_risk, weights = loss.log_risk_and_weights(*arguments)
    smaller = np.exp(-1.0)
    if size > 0 or loss.name == "exponential":
        expected = -size + np.log((2 + smaller) / 3)
        np.testing.assert_allclose(
            weights,
            np.array([1, 1, smaller]) / (2 + smaller),
            rtol=1e-3 if dtype == np.float32 else 1e-9,
        )
    else:
        expected = np.log(-size - 1 / 3)
        np.testing.assert_allclose(weights, np.full(3, 1 / 3 / (-size - 1 / 3)), rtol=1e-4)
    assert log_risk.dtype == margins.dtype if library == "numpy" else arguments[0].dtype
    assert float(log_risk) == pytest.approx(expected, rel=1e-6 if dtype == np.float32 else 1e-13)


@each_loss
@pytest.mark.parametrize("margin", [20.0, 25.0, 30.0, 39.9, 40.1, 60.0])
def test_log_risk_is_accurate_where_its_formula_switches(loss, margin):
    # log log(1 + e) = log e - e/2 + O(e^2), e = exp(-m)
    e = np.exp(-margin)
    expected = -margin - (e / 2 if loss.name == "logistic" else 0)
    log_risk, _ = loss.log_risk_and_weights(np.array([margin]), np.zeros(1))
    assert log_risk == pytest.approx(expected, rel=1e-15)


@each_loss
def test_sample_weights_are_repetitions(loss):
    margins, _, y = sample(4)
    counts = np.array([1, 3, 2, 1])
    repeated = np.repeat(margins, counts)
    log_risk, weights = loss.log_risk_and_weights(margins, np.log(counts / counts.sum()))
    expected, expected_weights = loss.log_risk_and_weights(repeated, uniform(counts.sum()))
    assert log_risk == pytest.approx(expected, abs=1e-14)
    np.testing.assert_allclose(np.repeat(weights / counts, counts), expected_weights, rtol=1e-13)
    intercept = loss.intercept(margins, y, np.log(counts / counts.sum()))
    assert intercept == pytest.approx(
        loss.intercept(repeated, np.repeat(y, counts), uniform(counts.sum())), abs=1e-12
    )


@each_loss
@pytest.mark.parametrize("margin", [-5.0, np.inf])
def test_log_weight_of_minus_infinity_leaves_the_sample_out(loss, margin):
    margins, log_weight, y = sample()
    more = np.append(margins, margin), np.append(log_weight, -np.inf)
    log_risk, weights = loss.log_risk_and_weights(*more)
    expected, expected_weights = loss.log_risk_and_weights(margins, log_weight)
    assert log_risk == expected
    np.testing.assert_array_equal(weights, np.append(expected_weights, 0))
    if np.isfinite(margin):
        intercept = loss.intercept(more[0], np.append(y, 1.0), more[1])
        assert intercept == pytest.approx(loss.intercept(margins, y, log_weight), abs=1e-14)
    bound = loss.log_risk_bound(np.append(expected_weights, 0), more[1])
    assert bound == pytest.approx(loss.log_risk_bound(expected_weights, log_weight), abs=1e-13)


# --- intercept


@pytest.mark.pairwise
@each_loss
@pytest.mark.parametrize("shift", [0.0, 3.0, -8.0])
@pytest.mark.parametrize("near", [None, 5.0])
def test_intercept_minimises_the_risk_and_balances_the_weights(loss, shift, near):
    margins, log_weight, y = sample()
    margins = margins + shift * y
    b = loss.intercept(margins, y, log_weight, None if near is None else np.array(near))
    _, weights = loss.log_risk_and_weights(margins + y * b, log_weight)
    assert weights @ y == pytest.approx(0, abs=1e-12)
    best = minimize_scalar(
        lambda b: loss.log_risk_and_weights(margins + y * b, log_weight)[0],
        bounds=(-30, 30),
        options={"xatol": 1e-10},
    )
    assert b == pytest.approx(best.x, abs=1e-6)


def balance_error(loss, margins, y, log_weight, near=None):
    """The imbalance of the two classes' weights at the intercept, relative to all the weight."""
    b = loss.intercept(margins, y, log_weight, near)
    _, weights = loss.log_risk_and_weights(margins + y * b[..., None], log_weight)
    return np.abs(np.sum(weights * y, axis=-1)) / np.sum(weights, axis=-1)


@pytest.mark.slow
@each_loss
@given(
    margins=arrays(np.float64, (2, 6), elements=st.floats(-30, 30)),
    positive=st.integers(1, 5),
    near=st.none() | st.floats(-20, 20),
)
def test_intercept_balances_any_margins(loss, margins, positive, near):
    y = np.where(np.arange(6) < positive, 1.0, -1.0) * np.ones((2, 1))
    near = None if near is None else np.full(2, near)
    assert np.all(
        balance_error(loss, margins, y, np.broadcast_to(uniform(6), y.shape), near) <= 1e-9
    )


@each_loss
@pytest.mark.parametrize("size", [100.0, 1e3, 1e4])
def test_intercept_balances_margins_with_a_distant_outlier(loss, size):
    margins = np.array([-size, 0.5, -0.3, 0.2, -0.1, 0.7])
    y = np.array([1.0, 1, 1, -1, -1, -1])
    assert balance_error(loss, margins, y, uniform(6)) <= 1e-9


@each_loss
def test_intercept_of_large_separated_margins(loss):
    """Both classes far on the right side, unequally: the intercept puts the boundary between
    them."""
    margins = np.array([9000.0, 9001.0, 1000.0, 1001.0])
    y = np.array([1.0, 1, -1, -1])
    assert loss.intercept(margins, y, uniform(4)) == pytest.approx(-4000, abs=1e-6)


@each_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_torch_equals_numpy(loss, dtype):
    margins, log_weight, y = sample()
    tensors = [torch.as_tensor(a, dtype=dtype) for a in (margins, log_weight, y)]
    tolerance = (
        {"rtol": 1e-5, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 1e-12, "atol": 1e-13}
    )
    log_risk, weights = loss.log_risk_and_weights(margins, log_weight)
    torch_log_risk, torch_weights = loss.log_risk_and_weights(*tensors[:2])
    pairs = [
        (torch_log_risk, log_risk),
        (torch_weights, weights),
        (
            loss.intercept(tensors[0], tensors[2], tensors[1]),
            loss.intercept(margins, y, log_weight),
        ),
        (loss.curvature(tensors[0], torch_weights), loss.curvature(margins, weights)),
        (loss.log_risk_bound(torch_weights, tensors[1]), loss.log_risk_bound(weights, log_weight)),
    ]
    for ours, expected in pairs:
        assert ours.dtype == dtype
        np.testing.assert_allclose(ours, expected, **tolerance)


@each_loss
def test_batched_equals_single(loss):
    batch = [np.stack(rows) for rows in zip(sample(seed=0), sample(seed=1), strict=True)]
    margins, log_weight, y = batch
    log_risk, weights = loss.log_risk_and_weights(margins, log_weight)
    intercept, bound = (
        loss.intercept(margins, y, log_weight),
        loss.log_risk_bound(weights, log_weight),
    )
    for i in range(2):
        single, single_weights = loss.log_risk_and_weights(margins[i], log_weight[i])
        assert log_risk[i] == pytest.approx(single, abs=1e-14)
        np.testing.assert_allclose(weights[i], single_weights, rtol=1e-13)
        assert intercept[i] == pytest.approx(
            loss.intercept(margins[i], y[i], log_weight[i]), abs=1e-12
        )
        assert bound[i] == pytest.approx(
            loss.log_risk_bound(single_weights, log_weight[i]), abs=1e-12
        )


# --- the bound from dual weights


def non_separable(seed, n=12, d=2):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, d)), rng.dirichlet(np.ones(n))


def least_log_risk(loss, Z, share):
    """min over w of the log-risk of the margins Z w, by a cone solver."""
    w = cp.Variable(Z.shape[1])
    if loss.name == "exponential":
        return cp.Problem(cp.Minimize(cp.log_sum_exp(np.log(share) - Z @ w))).solve(
            solver=cp.CLARABEL
        )
    return np.log(cp.Problem(cp.Minimize(share @ cp.logistic(-Z @ w))).solve(solver=cp.CLARABEL))


@each_loss
@pytest.mark.parametrize("seed", range(4))
def test_log_risk_bound_is_below_the_least_log_risk(loss, seed):
    Z, share = non_separable(seed)
    least = least_log_risk(loss, Z, share)
    rng = np.random.default_rng(100 + seed)
    a = cp.Variable(len(Z), nonneg=True)
    target = cp.Parameter(len(Z))
    nearest = cp.Problem(cp.Minimize(cp.sum_squares(a - target)), [Z.T @ a == 0, cp.sum(a) == 1])
    for _ in range(4):
        target.value = rng.dirichlet(np.ones(len(Z)))
        nearest.solve(solver=cp.CLARABEL)
        weights = np.maximum(a.value, 0)
        assert loss.log_risk_bound(weights / weights.sum(), np.log(share)) <= least + 1e-6


@each_loss
@pytest.mark.parametrize("seed", range(4))
def test_log_risk_bound_is_tight_at_the_minimiser(loss, seed):
    """The weights that the minimiser puts on the samples prove its risk."""
    Z, share = non_separable(seed)
    w = np.zeros(Z.shape[1])
    for _ in range(50):  # Newton's method on the risk
        _, weights = loss.log_risk_and_weights(Z @ w, np.log(share))
        w += np.linalg.solve(Z.T @ (loss.curvature(Z @ w, weights)[:, None] * Z), Z.T @ weights)
    log_risk, weights = loss.log_risk_and_weights(Z @ w, np.log(share))
    assert np.abs(Z.T @ weights).max() <= 1e-10
    assert log_risk == pytest.approx(least_log_risk(loss, Z, share), abs=1e-6)
    assert loss.log_risk_bound(weights / weights.sum(), np.log(share)) == pytest.approx(
        log_risk, abs=1e-12
    )


def test_log_risk_bound_of_the_logistic_loss_takes_the_best_scale():
    _, log_weight, _ = sample(6)
    share, weights = np.exp(log_weight), np.random.default_rng(5).dirichlet(np.ones(6))

    def entropy(c):
        t = c * weights / share
        return np.sum(share * (-t * np.log(t) - (1 - t) * np.log1p(-t)))

    scales = np.linspace(0, 1, 20001)[1:-1] / np.max(weights / share)
    best = max(entropy(c) for c in scales)
    assert LOSSES["logistic"].log_risk_bound(weights, log_weight) == pytest.approx(
        np.log(best), abs=1e-8
    )


def test_exponential_bound_is_the_divergence_from_the_sample_weights():
    _, log_weight, _ = sample(6)
    assert LOSSES["exponential"].log_risk_bound(np.exp(log_weight), log_weight) == pytest.approx(
        0, abs=1e-15
    )
    one = np.eye(6)[2]
    assert LOSSES["exponential"].log_risk_bound(one, log_weight) == pytest.approx(
        log_weight[2], abs=1e-15
    )


@each_loss
def test_weights_of_any_orders_lie_side_by_side(loss):
    """The bound of one class that weighs 1e-400 of the other: at w = 0 the intercept alone decides,
    and the bound is tight."""
    y = np.array([1.0, 1, -1])
    log_weight = np.array([-921.0, -922.0, 0.0])
    b = loss.intercept(np.zeros(3), y, log_weight)
    log_risk, weights = loss.log_risk_and_weights(y * b, log_weight)
    assert weights @ y == pytest.approx(0, abs=1e-12 * weights.sum())
    assert loss.log_risk_bound(weights / weights.sum(), log_weight, log_risk) == pytest.approx(
        log_risk, abs=1e-9
    )


@each_loss
def test_probabilities_of_large_scores_in_single_precision_sum_to_one(loss):
    scores = 1e6 + np.array([[0.0, 1.0, 2.0], [3.0, 0.5, 1.0]], np.float32)
    logs = class_log_probabilities(loss, scores)
    np.testing.assert_allclose(np.exp(logs).sum(axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize("weighted", [False, True], ids=["alike", "weights"])
def test_the_logistic_loss_of_moderate_margins_is_that_of_any(monkeypatch, weighted):
    rng = np.random.default_rng(0)
    n = 3001  # in which logarithms are taken of products
    margins, y = 20 * rng.standard_normal((1, n)), np.where(np.arange(n) % 3, 1.0, -1.0)[None]
    logs = rng.standard_normal((1, n)) if weighted else np.broadcast_to(-4.0, (1, n))
    loss, near = Logistic(), np.array([0.1])

    def figures():
        log_risk, weights, curvatures = log_risk_and_derivatives(loss, margins, logs)
        return log_risk, weights, curvatures, loss.intercept(margins, y, logs, near)

    quick = figures()
    monkeypatch.setattr(losses, "_moderate", lambda *args: None)
    for value, expected in zip(quick, figures(), strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-12)


def test_the_best_scale_of_the_logistic_bound_next_to_its_cap_takes_few_steps(monkeypatch):
    """A sample of small weight holds the scale closer to its cap than numbers are."""
    steps = []
    sums = losses._entropy_sums
    monkeypatch.setattr(losses, "_entropy_sums", lambda *args: steps.append(0) or sums(*args))
    rng = np.random.default_rng(0)
    margins, log_weight = 1 + rng.standard_normal(2000), uniform(2000)
    log_risk, weights = Logistic().log_risk_and_weights(margins, log_weight)
    weights *= np.maximum(1 + 0.3 * rng.standard_normal(2000), 0)
    bound = Logistic().log_risk_bound(weights / weights.sum(), log_weight, log_risk)
    largest = weights / weights.max()  # t = c a / s at the cap
    shares = largest * np.linspace(0.5, 1 - 1e-9, 50)[:, None]
    entropy = -shares * np.log(np.maximum(shares, 1e-300)) - (1 - shares) * np.log1p(-shares)
    assert bound == pytest.approx(np.log(entropy.mean(axis=1).max()), abs=1e-6)
    assert len(steps) <= 6
