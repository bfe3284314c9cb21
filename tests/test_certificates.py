from fractions import Fraction

import cvxpy as cp
import numpy as np
import pytest
import torch
from scipy import sparse

from sklearn_robust.certificates import (
    cancelling_weights,
    certify,
    log_risk_bound,
    margin_bound,
    non_separability_slack,
    proves_not_separable,
    relative_gap,
    repaired_weights,
    robust_margin,
)
from sklearn_robust.losses import LOSSES
from sklearn_robust.norms import LpNorm
from sklearn_robust.problems import RobustProblem
from sklearn_robust.solvers.robust_risk import minimise_robust_risk

each_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
each_intercept = pytest.mark.parametrize(
    "fit_intercept", [True, False], ids=["intercept", "no intercept"]
)


# --- margin


@pytest.mark.slow
@pytest.mark.pairwise
@pytest.mark.parametrize("p", [1, 1.5, 2, 3, np.inf])
@pytest.mark.parametrize("q", [1, 1.5, 2, np.inf])
@each_intercept
def test_margin_is_below_gamma_and_bound_is_above(gaussian, largest_margin, p, q, fit_intercept):
    X, y = gaussian(10, 14, seed=int(10 * q) if np.isfinite(q) else 0)
    eps = 0.3 * largest_margin(X, y, p=LpNorm(q).dual.p, q=q, eps=0, fit_intercept=fit_intercept)
    gamma = largest_margin(X, y, p=p, q=q, eps=eps, fit_intercept=fit_intercept)
    assert gamma > 0.01
    problem = RobustProblem.from_data(
        X, np.tile(y, (40, 1)), q=q, eps=eps, fit_intercept=fit_intercept
    )
    rng = np.random.default_rng(1)
    weights = rng.dirichlet(np.full(len(y), 0.5), 40)
    # predictors around the mean difference, so that some of them separate
    coef = X.T @ y / len(y) + 0.3 * rng.standard_normal((40, X.shape[1]))
    intercept = 0.1 * rng.standard_normal(40) * fit_intercept
    certificate = certify(problem, LpNorm(p), coef, weights, intercept)
    assert np.all(certificate.margin <= gamma + 1e-6)
    assert np.all(certificate.bound >= gamma - 1e-6)
    positive = certificate.margin >= 0
    np.testing.assert_allclose(
        certificate.gap[positive], (1 - certificate.margin / certificate.bound)[positive]
    )
    assert np.all(certificate.margin >= (1 - certificate.gap) * (gamma - 1e-6))


def optimum(X, y, p, q, eps, fit_intercept):
    """The predictor of largest robust margin, its margin and the dual weights of the samples."""
    w, b, t = cp.Variable(X.shape[1]), cp.Variable(), cp.Variable()
    margins = cp.multiply(y, X @ w + (b if fit_intercept else 0)) - eps * cp.norm(
        w, LpNorm(q).dual.p
    )
    above = margins >= t
    cp.Problem(cp.Maximize(t), [above, cp.norm(w, p) <= 1]).solve(solver=cp.CLARABEL)
    return w.value, float(b.value) if fit_intercept else 0.0, t.value, above.dual_value


@pytest.mark.slow
@pytest.mark.pairwise
@pytest.mark.parametrize("p", [1, 1.5, 2, np.inf])
@pytest.mark.parametrize("q", [1, 2, np.inf])
@each_intercept
def test_both_sides_meet_at_the_optimum(gaussian, largest_margin, p, q, fit_intercept):
    X, y = gaussian(10, 14)
    eps = 0.5 * largest_margin(X, y, p=LpNorm(q).dual.p, q=q, eps=0, fit_intercept=fit_intercept)
    coef, intercept, gamma, weights = optimum(X, y, p, q, eps, fit_intercept)
    problem = RobustProblem.from_data(X, y, q=q, eps=eps, fit_intercept=fit_intercept)
    certificate = certify(problem, LpNorm(p), coef[None], weights[None], np.array([intercept]))
    assert certificate.margin[0] == pytest.approx(gamma, rel=1e-5)
    assert certificate.bound[0] == pytest.approx(gamma, rel=1e-5)
    assert abs(certificate.gap[0]) <= 1e-5


def test_robust_margin_of_the_zero_predictor_and_of_a_known_one():
    problem = RobustProblem.from_data(
        np.array([[3.0, 4.0], [-3.0, 0.0]]), np.array([1.0, -1.0]), q=2, eps=0.5, fit_intercept=True
    )
    assert robust_margin(problem, LpNorm(2), np.zeros((1, 2)), np.zeros(1)) == -np.inf
    # margins 6 + 1 and 6 - 1, both less the 0.5 * 2 of the adversary, over ||w|| = 2
    assert robust_margin(problem, LpNorm(2), np.array([[2.0, 0.0]]), np.ones(1)) == pytest.approx(
        (6 - 1 - 1) / 2
    )


def test_gap_is_infinite_where_nothing_is_known():
    gap = relative_gap(np.array([0.5, 0.0, -1.0, -1.0]), np.array([1.0, 2.0, 2.0, 0.0]))
    np.testing.assert_array_equal(gap, [0.5, 1.0, np.inf, np.inf])


def test_gap_of_numbers_of_infinite_sides_and_of_a_margin_that_rounding_puts_above_the_bound():
    inf = np.inf
    pairs = {
        (1.0, 2.0): 0.5,
        (0.0, 2.0): 1.0,
        (0.0, 0.0): inf,
        (1.0, inf): 1.0,
        (inf, inf): 0.0,
        (2.0, 2 - 1e-15): 0.0,
        (-inf, inf): inf,
    }
    for (margin, bound), gap in pairs.items():
        assert relative_gap(margin, bound) == gap
    for like in (np.array, torch.tensor):
        assert relative_gap(*(like(side) for side in zip(*pairs, strict=True))).tolist() == list(
            pairs.values()
        )


@pytest.mark.parametrize(
    "data", [np.asarray, sparse.csr_array, torch.from_numpy], ids=["numpy", "sparse", "torch"]
)
def test_a_margin_that_is_positive_by_rounding_alone_proves_nothing(data):
    X, y = np.array([[1e9, 1e-10], [1e9, -1e-10]]), np.array([1.0, -1.0])
    like = torch.from_numpy if data is torch.from_numpy else np.asarray
    problem = RobustProblem.from_data(
        data(X), like(np.stack([y, y])), q=np.inf, eps=0.0, fit_intercept=False
    )
    # scores 100 + 1 and 100 - 1, whose rounding is far below 1
    coef = like(np.array([[1e-7, 1e10], [0.0, 1e10]]))
    margin = robust_margin(problem, LpNorm(2), coef, like(np.zeros(2)))
    assert (margin > 0).tolist() == [False, True]
    tiny = like(np.array([[1.0, 1e10], [1e-9, 1e-6]]))  # 1e9 + 1 and 1 + 1e-16: lost in rounding
    margins = problem.margins(tiny, like(np.array([-1e9, -1.0])))
    assert float(margins.min()) > -1
    margin = robust_margin(problem, LpNorm(2), tiny, like(np.array([-1e9, -1.0])))
    assert (margin > 0).tolist() == [True, False]


@pytest.mark.parametrize("like", [np.asarray, torch.tensor], ids=["numpy", "torch"])
def test_a_positive_margin_that_is_not_positive_in_exact_arithmetic_proves_nothing(like):
    for x, w, b, eps in [
        (2.46, 2.11, 0.98, 2.9244549763033176),
        (1.46, 2.27, 0.71, 1.7727753303964757),
    ]:
        problem = RobustProblem.from_data(
            like([[x]]), like([1.0]), q=2, eps=eps, fit_intercept=True
        )
        coef, intercept = like([[w]]), like([b])
        assert x * w + b - eps * w > 0
        assert Fraction(x) * Fraction(w) + Fraction(b) - Fraction(eps) * Fraction(w) <= 0
        assert robust_margin(problem, LpNorm(2), coef, intercept)[0] <= 0


@each_intercept
def test_no_margin_is_above_and_no_bound_below_its_exact_value(fit_intercept):
    """For p = 1 and q = inf both are rational numbers."""
    rng = np.random.default_rng(0)
    for _ in range(100):
        n, d = rng.integers(2, 6, size=2)
        X, y = rng.standard_normal((n, d)), np.where(np.arange(n) % 2, 1.0, -1.0)
        coef, intercept = rng.standard_normal(d), float(rng.standard_normal()) * fit_intercept
        weights = rng.random(n)
        rows, w, b = (
            [[Fraction(v) for v in x] for x in X],
            [Fraction(v) for v in coef],
            Fraction(intercept),
        )
        a = [Fraction(v) for v in weights]
        classes = [y > 0, y < 0] if fit_intercept else [y != 0]
        totals = [
            len(classes) * sum(v for v, inside in zip(a, members, strict=True) if inside)
            for members in classes
        ]
        a = [
            v / totals[[bool(members[i]) for members in classes].index(True)]
            for i, v in enumerate(a)
        ]
        weighted_sum = [
            abs(sum(v * int(y[i]) * rows[i][j] for i, v in enumerate(a))) for j in range(d)
        ]
        eps = float(max(weighted_sum)) * rng.choice([0, 0.5, 1 - 1e-12, 1 - 1e-15])
        scores = [
            int(label) * (sum(map(Fraction.__mul__, row, w)) + b)
            for label, row in zip(y, rows, strict=True)
        ]
        size = sum(map(abs, w))
        problem = RobustProblem.from_data(X, y, q=np.inf, eps=eps, fit_intercept=fit_intercept)
        proven = certify(problem, LpNorm(1), coef[None], weights[None], np.array([intercept]))
        exact = min(scores) / size - Fraction(eps)
        assert Fraction(proven.margin[0]) <= exact
        assert Fraction(proven.bound[0]) >= max(weighted_sum) - Fraction(eps)
        # the charge is no more than rounding
        assert proven.margin[0] == pytest.approx(float(exact), abs=1e-13)
        assert proven.bound[0] == pytest.approx(float(max(weighted_sum) - Fraction(eps)), abs=1e-13)


@pytest.mark.parametrize("convert", [np.asarray, sparse.csr_array])
@each_intercept
def test_cancelling_weights(gaussian, convert, fit_intercept):
    X, _ = gaussian(12, 5)
    X, y = X * [1.0, 1e6, 1e-6, 1.0, 1.0], np.where(np.arange(12) % 2, 1.0, -1.0)
    problem = RobustProblem.from_data(convert(X), y, q=2, eps=0.0, fit_intercept=fit_intercept)
    start = problem.balanced(np.random.default_rng(0).dirichlet(np.ones(12), 1))
    exact = cancelling_weights(problem, start[0], np.array([1, 2]))
    assert np.all(exact >= 0)
    weighted_sum, terms = (
        np.abs(problem.weighted_sum(exact[None])[0]),
        problem.sizes(exact[None])[0],
    )
    assert np.all(weighted_sum[[1, 2]] <= 1e-14 * terms[[1, 2]])
    assert exact.sum() == pytest.approx(1, abs=1e-14)
    assert not fit_intercept or exact @ y == pytest.approx(0, abs=1e-14)
    near = cancelling_weights(problem, exact * (1 + 1e-6 * np.cos(np.arange(12))), np.array([1, 2]))
    # little is moved where there is little to cancel
    np.testing.assert_allclose(near, exact, rtol=1e-5)
    np.testing.assert_array_equal(
        cancelling_weights(problem, start[0], np.array([], int)), start[0]
    )


@pytest.mark.parametrize("q", [1, 2, np.inf])
def test_no_slack_where_the_data_are_separable_and_none_missing_where_they_are_not(
    gaussian, largest_margin, q
):
    X, y = gaussian(12, 14)
    radius, norm = largest_margin(X, y, p=LpNorm(q).dual.p, q=q, eps=0), LpNorm(q)
    a = cp.Variable(len(y), nonneg=True)
    cp.Problem(cp.Minimize(cp.norm(X.T @ cp.multiply(y, a), q)), [cp.sum(a) == 1]).solve(
        solver=cp.CLARABEL
    )
    weights = np.vstack([a.value, np.random.default_rng(0).dirichlet(np.ones(len(y)), 50)])
    for factor, provable in [(0.99, False), (1.01, True)]:
        problem = RobustProblem.from_data(
            X, np.tile(y, (51, 1)), q=q, eps=factor * radius, fit_intercept=False
        )
        weights = problem.balanced(weights)
        slack = non_separability_slack(problem, weights)
        assert slack[0] == pytest.approx((factor - 1) * radius, abs=1e-6)
        assert np.any(slack >= 0) == provable
        assert (margin_bound(problem, norm, weights)[0] == 0) == provable


@pytest.mark.parametrize("q", [1, 2, np.inf])
@pytest.mark.parametrize("direction", [False, True], ids=["predictor", "direction"])
def test_certificates_of_torch_tensors(gaussian, q, direction):
    X, y = gaussian(10, 14)
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((2, 14)), rng.dirichlet(np.ones(10), 2), rng.standard_normal(2)]
    y, arrays = np.stack([y, -y]), arrays[:2] if direction else arrays
    ours = RobustProblem.from_data(
        torch.from_numpy(X), torch.from_numpy(y), q=q, eps=0.1, fit_intercept=True
    )
    theirs = RobustProblem.from_data(X, y, q=q, eps=0.1, fit_intercept=True)
    tensor = certify(ours, LpNorm(1.5), *(torch.from_numpy(a) for a in arrays))
    expected = certify(theirs, LpNorm(1.5), *arrays)
    for name in ("coef", "weights", "intercept", "margin", "bound", "gap"):
        np.testing.assert_allclose(
            getattr(tensor, name).numpy(), getattr(expected, name), rtol=1e-12
        )


def test_a_direction_gets_the_best_intercept_and_a_smallest_margin_of_one(gaussian):
    X, y = gaussian(10, 14)
    problem = RobustProblem.from_data(X, np.stack([y, -y]), q=2, eps=0.1, fit_intercept=True)
    coef = np.tile(3 * X.T @ y, (2, 1))
    # weights that are all cut off are uniform in each class
    proven = certify(problem, LpNorm(1), coef, -np.ones((2, 10)))
    scores = y * (X @ proven.coef[0] + proven.intercept[0]) - 0.1 * np.linalg.norm(proven.coef[0])
    np.testing.assert_allclose([scores[y > 0].min(), scores[y < 0].min()], 1.0)
    np.testing.assert_array_equal(proven.coef[1], coef[1])  # it does not separate
    assert (
        proven.margin[1] < 0 < proven.margin[0] == pytest.approx(1 / np.abs(proven.coef[0]).sum())
    )
    np.testing.assert_allclose(
        proven.weights, np.where(y > 0, 0.5 / sum(y > 0), 0.5 / sum(y < 0))[None].repeat(2, 0)
    )
    large = certify(problem, LpNorm(1), 1e-200 * coef, -np.ones((2, 10)))
    np.testing.assert_allclose(large.margin, proven.margin)


# --- risk


def least_log_risk(X, y, loss, q, eps, fit_intercept):
    """The least log-risk and its predictor, by a cone solver."""
    w, b = cp.Variable(X.shape[1]), cp.Variable()
    margins = cp.multiply(y, X @ w + (b if fit_intercept else 0)) - eps * cp.norm(
        w, LpNorm(q).dual.p
    )
    if loss.name == "exponential":
        least = cp.Problem(cp.Minimize(cp.log_sum_exp(-margins))).solve(
            solver=cp.CLARABEL
        ) - np.log(len(y))
    else:
        least = np.log(
            cp.Problem(cp.Minimize(cp.sum(cp.logistic(-margins)) / len(y))).solve(
                solver=cp.CLARABEL
            )
        )
    return least, w.value


@pytest.mark.pairwise
@each_loss
@each_intercept
@pytest.mark.parametrize("q", [1, 1.5, 2, np.inf])
def test_repaired_weights_near_the_minimiser_prove_the_risk(gaussian, loss, q, fit_intercept):
    X, y = gaussian(40, 4, noise=2.0)
    least, w = least_log_risk(X, y, loss, q, 0.1, fit_intercept)
    problem = RobustProblem.from_data(X, y, q=q, eps=0.1, fit_intercept=fit_intercept)
    weights = problem.evaluate(loss, w[None] * (1 - 1e-3)).weights
    # there is something to repair
    assert non_separability_slack(problem, problem.balanced(weights)) < 0
    for data in (X, sparse.csr_array(X)):
        proof = repaired_weights(
            RobustProblem.from_data(data, y, q=q, eps=0.1, fit_intercept=fit_intercept), weights
        )
        assert proof.shape == weights.shape
        assert np.all(proof >= 0)
        assert proof.sum() == pytest.approx(1, abs=1e-14)
        assert np.linalg.norm(X.T @ (y * proof[0]), q) <= 0.1 + 1e-13
        if fit_intercept:
            assert proof[0] @ y == pytest.approx(0, abs=1e-14)
        bound = log_risk_bound(problem, loss, proof)
        assert bound.shape == (1,)
        assert least - 1e-4 <= bound[0] <= least + 1e-7


@each_intercept
@pytest.mark.parametrize("q", [1, 2, np.inf])
@pytest.mark.parametrize("unit", [1e-100, 1e-9, 1e9, 1e100])
def test_repaired_weights_in_any_unit(gaussian, q, unit, fit_intercept):
    X, y = gaussian(100, 10, noise=2.0)
    loss = LOSSES["logistic"]
    bounds = []
    for factor in (1.0, unit):
        problem = RobustProblem.from_data(
            X * factor, y, q=q, eps=0.1 * factor, fit_intercept=fit_intercept
        )
        coef = X.T[None] @ y / (100 * 3 * factor)
        proof = repaired_weights(problem, problem.evaluate(loss, coef).weights)
        assert np.isfinite(proof).all()
        bounds.append(log_risk_bound(problem, loss, proof)[0])
    assert bounds[1] == pytest.approx(bounds[0], abs=1e-3)


@each_loss
@pytest.mark.parametrize("q", [1, 2, np.inf])
def test_log_risk_bound_is_below_the_least_risk_for_any_feasible_weights(gaussian, loss, q):
    X, y = gaussian(40, 4, noise=2.0)
    least, w = least_log_risk(X, y, loss, q, 0.1, True)
    rng = np.random.default_rng(0)
    problem = RobustProblem.from_data(X, np.tile(y, (30, 1)), q=q, eps=0.1, fit_intercept=True)
    coef = w + rng.uniform(0.01, 0.5, (30, 1)) * rng.standard_normal((30, 4))
    proof = repaired_weights(problem, problem.evaluate(loss, coef).weights)
    bound = log_risk_bound(problem, loss, proof)
    proven = np.isfinite(proof).all(axis=1)
    assert proven.sum() >= 5
    assert np.all(bound[proven] <= least + 1e-7)
    assert np.ptp(bound[proven]) > 1e-4  # the weights differ, and so do their bounds
    assert np.all(np.isneginf(bound[~proven]))


@each_loss
@pytest.mark.parametrize("q", [1, 1.5, 2, np.inf])
def test_log_risk_bound_is_tight_at_the_minimiser(gaussian, loss, q):
    X, y = gaussian(40, 4, noise=2.0)
    problem = RobustProblem.from_data(X, y, q=q, eps=0.1, fit_intercept=True)
    coef = minimise_robust_risk(problem, loss, LpNorm(2), tol=1e-12).coef
    now = problem.evaluate(loss, coef)
    bound = log_risk_bound(problem, loss, repaired_weights(problem, now.weights))
    assert now.log_risk[0] == pytest.approx(least_log_risk(X, y, loss, q, 0.1, True)[0], abs=1e-6)
    assert bound[0] <= now.log_risk[0] + 1e-14
    assert bound[0] == pytest.approx(now.log_risk[0], abs=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("q", "fit_intercept"), [(1, True), (1.5, False), (2, True), (np.inf, False)]
)
def test_separable_data_have_no_proof(gaussian, largest_margin, q, fit_intercept):
    X, y = gaussian(10, 14)
    radius = largest_margin(X, y, p=LpNorm(q).dual.p, q=q, eps=0, fit_intercept=fit_intercept)
    weights = np.random.default_rng(0).dirichlet(np.ones(10), 20)
    problem = RobustProblem.from_data(
        X, np.tile(y, (20, 1)), q=q, eps=0.99 * radius, fit_intercept=fit_intercept
    )
    proof = repaired_weights(problem, weights)
    assert np.isnan(proof).all()
    for loss in LOSSES.values():
        assert np.all(np.isneginf(log_risk_bound(problem, loss, proof)))


@pytest.mark.parametrize("q", [1, 2, np.inf])
def test_weights_that_nearly_prove_non_separability_are_no_proof(gaussian, largest_margin, q):
    """Just below eps* the best weights come short of a proof by a millionth."""
    X, y = gaussian(10, 14)
    radius = largest_margin(X, y, p=LpNorm(q).dual.p, q=q, eps=0)
    a = cp.Variable(len(y), nonneg=True)
    cp.Problem(cp.Minimize(cp.norm(X.T @ cp.multiply(y, a), q)), [cp.sum(a) == 1]).solve(
        solver=cp.CLARABEL
    )
    problem = RobustProblem.from_data(X, y, q=q, eps=radius * (1 - 1e-6), fit_intercept=False)
    assert np.isnan(repaired_weights(problem, a.value[None])).all()


def test_weights_that_are_feasible_already_are_kept(gaussian):
    X, y = gaussian(10, 3)
    problem = RobustProblem.from_data(X, y, q=2, eps=50.0, fit_intercept=True)
    weights = problem.balanced(np.random.default_rng(0).dirichlet(np.ones(10), 1))
    np.testing.assert_allclose(repaired_weights(problem, weights), weights, rtol=1e-14)


def test_a_separable_problem_does_not_spoil_the_others_of_its_batch(gaussian):
    X, separable = gaussian(40, 4)
    _, noisy = gaussian(40, 4, noise=5.0)
    problem = RobustProblem.from_data(
        X, np.stack([separable, noisy, separable]), q=np.inf, eps=0.02, fit_intercept=True
    )
    alone = problem.select(slice(1, 2))
    coef = minimise_robust_risk(alone, LOSSES["logistic"], LpNorm(2)).coef
    weights = problem.evaluate(LOSSES["logistic"], np.tile(coef, (3, 1))).weights
    proof = repaired_weights(problem, weights)
    np.testing.assert_array_equal(np.isnan(proof).all(axis=1), [True, False, True])
    np.testing.assert_allclose(proof[1], repaired_weights(alone, weights[1:2])[0], atol=1e-12)


@each_loss
@pytest.mark.parametrize("q", [1, 2, np.inf])
def test_repaired_weights_with_more_features_than_samples(gaussian, largest_margin, loss, q):
    """Z^T a cannot be moved anywhere then, only on the constraints that hold it back."""
    X, y = gaussian(15, 30)
    eps = 1.2 * largest_margin(X, y, p=LpNorm(q).dual.p, q=q, eps=0, fit_intercept=True)
    problem = RobustProblem.from_data(X, y, q=q, eps=eps, fit_intercept=True)
    coef = minimise_robust_risk(problem, loss, LpNorm(2)).coef * (1 - 1e-6)
    now = problem.evaluate(loss, coef)
    assert now.log_risk[0] == pytest.approx(least_log_risk(X, y, loss, q, eps, True)[0], abs=1e-6)
    assert non_separability_slack(problem, problem.balanced(now.weights)) < 0
    proof = repaired_weights(problem, now.weights)
    assert non_separability_slack(problem, proof)[0] >= -1e-12
    assert log_risk_bound(problem, loss, proof)[0] == pytest.approx(now.log_risk[0], abs=1e-4)


@pytest.mark.parametrize("scales", [(1e4, 1e-10), (1e6, 1e-6)])
def test_a_small_feature_beside_a_large_one_is_no_rounding(scales):
    y = np.where(np.arange(60) % 2, 1.0, -1.0)
    # the second separates
    X = np.column_stack([scales[0] * np.random.default_rng(0).standard_normal(60), scales[1] * y])
    problem = RobustProblem.from_data(X, y, q=np.inf, eps=0.0, fit_intercept=True)
    assert np.isnan(repaired_weights(problem, np.exp(problem.log_weight))).all()


@pytest.mark.parametrize("q", [1, 1.5, 2, np.inf])
@each_intercept
def test_where_the_correction_fails_interior_weights_are_mixed_in(gaussian, q, fit_intercept):
    X, y = gaussian(40, 60)
    problem = RobustProblem.from_data(X, y, q=q, eps=1.0, fit_intercept=fit_intercept)
    uniform = problem.balanced(np.ones((1, 40)))
    eps = 1.5 * problem.threat.norm.value(problem.weighted_sum(uniform))[0]
    problem = RobustProblem.from_data(X, y, q=q, eps=eps, fit_intercept=fit_intercept)
    alone = np.zeros((1, 40))
    alone[0, [np.argmax(y), np.argmin(y)]] = 0.5  # one sample a class: there is nothing to move
    assert non_separability_slack(problem, alone)[0] < 0
    assert np.isnan(repaired_weights(problem, alone)).all()
    mixed = repaired_weights(problem, alone, uniform)
    assert proves_not_separable(problem, mixed)[0]
    assert not np.allclose(mixed, uniform)
    assert np.isfinite(log_risk_bound(problem, LOSSES["exponential"], mixed)[0])
    tight = RobustProblem.from_data(X, y, q=q, eps=0.9 * eps / 1.5, fit_intercept=fit_intercept)
    # the interior weights prove nothing there
    assert np.isnan(repaired_weights(tight, alone, uniform)).all()
