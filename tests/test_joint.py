import tracemalloc

import numpy as np
import pytest
import torch
from scipy import sparse
from scipy.optimize import minimize
from scipy.special import logsumexp, softmax
from sklearn.metrics import log_loss

import sklearn_robust._joint_rows
from sklearn_robust.joint import JointProblem
from sklearn_robust.losses import LOSSES
from sklearn_robust.norms import LpNorm
from sklearn_robust.problems import RobustProblem
from sklearn_robust.threats import LpBall

each_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
each_q = pytest.mark.parametrize("q", [1, 1.5, 2, np.inf])


def data(n=25, d=4, n_classes=4, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d)) * (rng.uniform(size=(n, d)) < 0.7)
    y = np.concatenate([np.arange(n_classes), rng.integers(0, n_classes, n - n_classes)])
    coef, intercept = rng.standard_normal((n_classes, d)), rng.standard_normal(n_classes)
    return X, y, coef, intercept - intercept.mean()


def make(X, y, q=np.inf, eps=0.3, fit_intercept=True, **keywords):
    return JointProblem.from_data(X, y, q=q, eps=eps, fit_intercept=fit_intercept, **keywords)


def naive_margins(X, y, q, eps, coef, intercept):
    """m_ik by a loop; inf at the true class."""
    margins = np.full((len(coef), len(y)), np.inf)
    for i, own in enumerate(y):
        for k in set(range(len(coef))) - {own}:
            w = coef[own] - coef[k]
            taken = eps * LpNorm(q).dual.value(w)
            margins[k, i] = w @ X[i] + intercept[own] - intercept[k] - taken
    return margins


def naive_log_risk(name, margins, sample_weight):
    losses = np.exp(-margins).sum(axis=0)
    losses = losses if name == "exponential" else np.log1p(losses)
    return np.log(sample_weight @ losses)


@each_q
@each_loss
def test_risk_and_margins_equal_loops(q, loss):
    X, y, coef, intercept = data()
    sample_weight = np.random.default_rng(1).dirichlet(np.ones(len(y)))
    problem = make(X, y, q, sample_weight=3 * sample_weight)
    margins = naive_margins(X, y, q, 0.3, coef, intercept)
    np.testing.assert_allclose(problem.robust_margins(coef, intercept), margins.min(axis=0))
    found = problem.evaluate(loss, coef, intercept)
    assert found.log_risk == pytest.approx(naive_log_risk(loss.name, margins, sample_weight))
    np.testing.assert_allclose(found.margins, margins.min(axis=0))
    np.testing.assert_allclose(found.soft_margins, -logsumexp(-margins, axis=0))
    h = 1e-6
    for i, k in [(0, 1), (5, (y[5] + 1) % 4), (5, y[5])]:
        moved = [margins.copy(), margins.copy()]
        moved[0][k, i] -= h
        moved[1][k, i] += h
        down, up = (naive_log_risk(loss.name, m, sample_weight) for m in moved)
        assert found.weights[k, i] == pytest.approx((down - up) / (2 * h), abs=1e-8)
    assert problem.log_total_weight == pytest.approx(np.log(3))


@each_q
def test_the_margin_is_what_the_worst_perturbation_leaves(q):
    X, y, coef, intercept = data()
    threat = LpBall(q, 0.3)
    margins = make(X, y, q).robust_margins(coef, intercept)
    rivals = np.arange(4)
    for i, own in enumerate(y):
        attacked = []
        for k in rivals[rivals != own]:
            scores = coef @ (X[i] - threat.worst(coef[own] - coef[k])) + intercept
            attacked.append(scores[own] - scores[rivals != own].max())
        assert min(attacked) == pytest.approx(margins[i])


@each_loss
@pytest.mark.parametrize("fit_intercept", [True, False])
def test_two_classes_are_the_binary_problem(loss, fit_intercept):
    X, y, coef, _ = data(n_classes=2)
    sample_weight = np.random.default_rng(1).uniform(size=len(y))
    keywords = {"fit_intercept": fit_intercept, "sample_weight": sample_weight}
    joint = make(X, y, 2, **keywords)
    binary = RobustProblem.from_data(X, 2.0 * y - 1, q=2, eps=0.3, **keywords)
    w = (coef[1] - coef[0])[None]
    found, expected = joint.evaluate(loss, coef), binary.evaluate(loss, w)
    assert found.log_risk == pytest.approx(expected.log_risk[0], rel=1e-14)
    assert found.intercept[1] - found.intercept[0] == pytest.approx(expected.intercept[0])
    np.testing.assert_allclose(found.weights.sum(axis=0), expected.weights[0], rtol=1e-7)
    G = joint.weighted_sum(found.weights)
    np.testing.assert_allclose(G[1], binary.weighted_sum(expected.weights)[0], atol=1e-8)
    np.testing.assert_allclose(G[0], -G[1], atol=1e-15)


def test_without_adversary_the_logistic_risk_is_the_cross_entropy():
    X, y, coef, intercept = data()
    sample_weight = np.random.default_rng(1).uniform(size=len(y))
    problem = make(X, y, eps=0, sample_weight=sample_weight)
    log_risk = problem.evaluate(LOSSES["logistic"], coef, intercept).log_risk
    probabilities = softmax(X @ coef.T + intercept, axis=1)
    expected = log_loss(y, probabilities, sample_weight=sample_weight)
    assert np.exp(log_risk) == pytest.approx(expected, rel=1e-13)


@each_q
@each_loss
def test_gradient_equals_finite_differences(q, loss):
    X, y, coef, intercept = data()
    problem = make(X, y, q)
    weights = problem.evaluate(loss, coef, intercept).weights
    rng = np.random.default_rng(2)
    step, shift, h = rng.standard_normal(coef.shape), rng.standard_normal(4), 1e-6
    ends = [
        problem.evaluate(loss, coef + t * step, intercept + t * shift).log_risk for t in (-h, h)
    ]
    penalties = [problem.penalties(coef + t * step) for t in (-h, h)]
    of_pairs = problem.pair_weights(weights) * (penalties[1] - penalties[0]) / (2 * h)
    sums = problem.class_sums(weights)
    slope = -np.vdot(problem.weighted_sum(weights), step) + of_pairs.sum() / 2
    slope -= (sums.sum(axis=1) - sums.sum(axis=0)) @ shift
    assert (ends[1] - ends[0]) / (2 * h) == pytest.approx(slope, abs=1e-7)


@each_loss
@pytest.mark.parametrize("size", [1e-3, 1.0, 10.0])
def test_best_intercept_balances_the_classes(loss, size):
    X, y, coef, _ = data(n=60, seed=3)
    problem = make(X, y, eps=0.1)
    found = problem.evaluate(loss, size * coef)
    sums = problem.class_sums(found.weights)
    np.testing.assert_allclose(sums.sum(axis=0), sums.sum(axis=1), rtol=1e-8, atol=1e-15)
    assert abs(found.intercept.sum()) < 1e-12 * max(1, size)
    near = problem.evaluate(loss, size * coef, near=found.intercept + 1)
    assert near.log_risk == pytest.approx(found.log_risk, abs=1e-13)


@each_loss
def test_best_intercept_is_the_minimiser(loss):
    X, y, coef, _ = data(n=60, seed=3)
    problem = make(X, y, eps=0.1)
    least = minimize(lambda b: float(problem.evaluate(loss, coef, b).log_risk), np.zeros(4))
    found = problem.evaluate(loss, coef)
    assert found.log_risk <= least.fun + 1e-14
    np.testing.assert_allclose(found.intercept, least.x - least.x.mean(), atol=1e-4)


@each_loss
def test_nothing_overflows_where_margins_are_huge(loss):
    X, y = data()[:2]
    X = X + 50 * np.eye(4)[y]
    for sign in (1, -1):
        found = make(X, y).evaluate(loss, sign * 1e4 * np.eye(4))
        assert np.isfinite(found.log_risk)
        assert np.isfinite(found.weights).all()
        assert (found.log_risk < -1e4) == (sign == 1)


def as_rows_of_their_own(X):
    class Products:
        shape, dtype, n_terms = X.shape, X.dtype, X.shape[1]

        def scores(self, coef):
            return coef @ X.T

        def weighted_sum(self, weights):
            return weights @ X

        def score_sizes(self, coef):
            return abs(coef) @ abs(X).T

        def sum_sizes(self, weights):
            return abs(weights) @ abs(X)

    return Products()


@pytest.mark.parametrize(
    "convert", [sparse.csr_array, as_rows_of_their_own], ids=["sparse", "products"]
)
@each_loss
def test_every_kind_of_rows_gives_the_same(convert, loss):
    X, y, coef, _ = data()
    dense, other = make(X, y), make(convert(X), y)
    expected, found = dense.evaluate(loss, coef), other.evaluate(loss, coef)
    assert found.log_risk == pytest.approx(expected.log_risk, rel=1e-14)
    np.testing.assert_allclose(
        other.weighted_sum(found.weights), dense.weighted_sum(expected.weights), atol=1e-14
    )


@each_loss
def test_tensors_give_the_same(loss):
    X, y, coef, _ = data()
    dense, other = make(X, y), make(torch.tensor(X), torch.tensor(y))
    expected, found = dense.evaluate(loss, coef), other.evaluate(loss, torch.tensor(coef))
    assert float(found.log_risk) == pytest.approx(float(expected.log_risk), rel=1e-14)
    np.testing.assert_allclose(found.weights.numpy(), expected.weights, atol=1e-14)
    for name in ("weighted_sum", "class_sums", "sizes", "balanced"):
        tensor = getattr(other, name)(found.weights)
        np.testing.assert_allclose(
            tensor.numpy(), getattr(dense, name)(expected.weights), atol=1e-13
        )


@each_loss
def test_single_precision_stays(loss):
    X, y, coef, _ = data()
    problem = make(X.astype(np.float32), y)
    found = problem.evaluate(loss, coef.astype(np.float32))
    assert found.weights.dtype == found.intercept.dtype == found.log_risk.dtype == np.float32
    assert found.log_risk == pytest.approx(make(X, y).evaluate(loss, coef).log_risk, rel=1e-5)


@each_loss
def test_weights_are_samples(loss):
    X, y, coef, _ = data()
    counts = np.random.default_rng(5).integers(0, 3, len(y))
    counts[:4] = 1
    weighted = make(X, y, sample_weight=counts.astype(float))
    repeated = make(np.repeat(X, counts, axis=0), np.repeat(y, counts))
    found, expected = weighted.evaluate(loss, coef), repeated.evaluate(loss, coef)
    assert found.log_risk == pytest.approx(expected.log_risk, rel=1e-13)
    assert not found.weights[:, counts == 0].any()
    assert np.isinf(weighted.robust_margins(coef, np.zeros(4))[counts == 0]).all()


@each_loss
def test_blocks_change_nothing(loss, monkeypatch):
    X, y, coef, _ = data()
    problem = make(X, y)
    expected, margins = problem.evaluate(loss, coef), problem.robust_margins(coef, coef[:, 0])
    pair_margins = problem.pair_margins(coef, problem.penalties(coef))
    monkeypatch.setattr(sklearn_robust._joint_rows, "_JOINT_BLOCK_ENTRIES", 12)
    found = problem.evaluate(loss, coef)
    np.testing.assert_allclose(found.log_risk, expected.log_risk, rtol=1e-14)
    np.testing.assert_allclose(found.weights, expected.weights, rtol=1e-7)
    np.testing.assert_allclose(problem.robust_margins(coef, coef[:, 0]), margins, rtol=1e-12)
    found_pairs = problem.pair_margins(coef, problem.penalties(coef))
    np.testing.assert_allclose(found_pairs, pair_margins, rtol=1e-12)


@each_loss
def test_one_array_over_classes_and_samples_exists_at_a_time(loss):
    X, y, coef, _ = data(n=20_000, d=5, n_classes=60)
    problem = make(X, y)
    one = 8 * len(y) * 60
    tracemalloc.start()
    try:
        weights = problem.evaluate(loss, coef, np.zeros(60)).weights
        assert tracemalloc.get_traced_memory()[1] < 1.4 * one
        tracemalloc.reset_peak()
        problem.weighted_sum(weights)
        problem.class_sums(weights)
        problem.balanced(weights)
        assert tracemalloc.get_traced_memory()[1] < 2.6 * one
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("fit_intercept", [True, False])
def test_balanced_weights_are_feasible_and_stay(fit_intercept):
    X, y, *_ = data()
    problem = make(X, y, fit_intercept=fit_intercept)
    drawn = np.random.default_rng(0).standard_normal((4, len(y)))
    weights = problem.balanced(drawn)
    assert weights.min() == 0
    assert weights.sum() == pytest.approx(1)
    assert not weights[y, np.arange(len(y))].any()
    assert not weights[drawn < 0].any()
    sums = problem.class_sums(weights)
    if fit_intercept:
        np.testing.assert_allclose(sums.sum(axis=0), sums.sum(axis=1), rtol=1e-12)
    np.testing.assert_allclose(problem.balanced(7 * weights), weights, atol=1e-15)
    for nothing in (
        0 * drawn,
        -np.abs(drawn),
        np.where(np.arange(4)[:, None] == 0, 1.0, 0 * drawn),
    ):
        sums = problem.class_sums(problem.balanced(nothing))
        assert sums.sum() == pytest.approx(1)
        if fit_intercept:
            np.testing.assert_allclose(sums.sum(axis=0), sums.sum(axis=1), rtol=1e-12)


def test_sums_are_put_back():
    X, y, coef, _ = data()
    problem = make(X, y)
    weights = problem.evaluate(LOSSES["logistic"], coef).weights
    before = weights.copy()
    G, sizes = problem.weighted_sum(weights), problem.sizes(weights)
    np.testing.assert_array_equal(weights, before)
    signed = np.where(np.arange(4)[:, None] == y, weights.sum(axis=0), -weights)
    np.testing.assert_allclose(G, signed @ X, atol=1e-15)
    np.testing.assert_allclose(sizes, abs(signed) @ abs(X), atol=1e-15)


def test_a_thousand_classes():
    X, y, coef, _ = data(n=1200, d=3, n_classes=1000)
    problem = make(X, y)
    found = problem.evaluate(LOSSES["exponential"], coef)
    sums = problem.class_sums(found.weights)
    np.testing.assert_allclose(sums.sum(axis=0), sums.sum(axis=1), rtol=1e-9)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.array([0, 1, 1]), "y must hold 4 classes"),
        (np.array([0.0, 1, 1, 0]), "y must hold 4 classes"),
        (np.array([0, 2, 2, 0]), "at least two classes 0..K-1"),
        (np.array([0, 0, 0, 0]), "at least two classes 0..K-1"),
    ],
)
def test_unfit_labels_are_refused(y, message):
    with pytest.raises(ValueError, match=message):
        make(np.eye(4), y)


def test_a_class_without_weight_is_refused():
    with pytest.raises(ValueError, match="each with a sample of positive weight"):
        make(np.eye(4), np.array([0, 1, 2, 2]), sample_weight=np.array([1.0, 0, 1, 1]))


@pytest.mark.parametrize("weight", [np.full(4, -1.0), np.full(4, np.nan)])
def test_unfit_weights_are_refused(weight):
    with pytest.raises(ValueError, match="sample_weight must hold finite numbers"):
        make(np.eye(4), np.array([0, 1, 2, 2]), sample_weight=weight)


def test_lists_are_refused():
    with pytest.raises(TypeError, match="X must be a NumPy array"):
        make(np.eye(4).tolist(), np.array([0, 1, 2, 2]))


def test_one_threat_is_given():
    with pytest.raises(ValueError, match="either threat, or q and eps"):
        JointProblem.from_data(np.eye(2), np.arange(2), fit_intercept=True)


def test_weights_that_balancing_leaves_unbalanced_are_not_used(monkeypatch):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(30, 4)), np.arange(30) % 3
    problem = JointProblem.from_data(X, y, q=2, eps=0.1, fit_intercept=True)
    given = rng.random((3, 30))
    monkeypatch.setattr(sklearn_robust.joint, "balancing_factors", lambda sums: np.ones_like(sums))
    sums = problem.class_sums(problem.balanced(given))
    np.testing.assert_allclose(sums.sum(axis=0), sums.sum(axis=1), rtol=1e-12)
