"""Fits of data whose features and weights span many orders, or that are degenerate: certified, or
refused by name."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from sklearn_robust import (
    MinNormRobustClassifier,
    RobustDiagonalNet,
    RobustLinearClassifier,
    RobustLinearClassifierCV,
    max_margin,
    robust_linear_path,
)
from sklearn_robust.losses import LOSSES
from sklearn_robust.problems import RobustProblem
from sklearn_robust.solvers._risk_model import CurvatureSums, Gradient, curvature

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def noisy(seed, n=30, d=3):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d))
    return X, (X[:, 0] + rng.standard_normal(n) > 0).astype(int), rng


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seed", "q", "log_risk"), [(3, np.inf, -17.07), (24, 1, -26.328), (0, 2, -17.45)]
)
def test_logistic_risk_with_weights_over_24_orders(seed, q, log_risk):
    X, y, rng = noisy(seed)
    # silent
    model = RobustLinearClassifier(q_pert=q, loss="logistic").fit(
        X, y, 10.0 ** rng.uniform(-12, 12, len(y))
    )
    assert model.separable_ is False
    assert model.dual_gap_ <= 1e-3
    assert model.log_risk_ == pytest.approx(log_risk, abs=0.01)


@pytest.mark.parametrize("loss", LOSSES)
def test_weights_whose_ratio_leaves_the_range_of_numbers(loss):
    X, y, _ = noisy(0)
    model = RobustLinearClassifier(loss=loss).fit(X, y, np.where(y, 1e-200, 1e200))  # silent
    assert model.separable_ is False
    assert model.dual_gap_ <= 1e-3


@pytest.mark.parametrize("weight", [1e-320, 1e-50, 1e50, 1e308])
def test_the_unit_of_the_weights_does_not_matter(weight):
    X, y, _ = noisy(0)
    for dtype in (np.float64, np.float32):
        expected = RobustLinearClassifier().fit(X.astype(dtype), y)
        model = RobustLinearClassifier().fit(X.astype(dtype), y, np.full(len(y), weight))
        np.testing.assert_allclose(model.coef_, expected.coef_, rtol=1e-5)


def test_all_the_weight_in_one_class():
    """Curvature and slope of the intercept then cancel."""
    X, y, _ = noisy(0)
    problem = RobustProblem.from_data(X, 2.0 * y - 1, q=np.inf, eps=0.1, fit_intercept=True)
    weights = np.eye(len(y))[np.flatnonzero(y)[0]]
    weighted_sum = problem.weighted_sum(weights[None])[0]
    gradient = Gradient(weighted_sum, weights.sum(), problem.y[0] @ weights)
    centre = X.mean(axis=0)
    columns = slice(None)
    sums = CurvatureSums.of(
        problem.rows, columns, centre, problem.y[0], np.ones(len(y)), weights, weights, exact=True
    )
    hessian = curvature(sums, gradient, columns, centre, fit_intercept=True)
    assert np.isfinite(hessian.coef).all()
    assert np.isfinite(hessian.label_row).all()


@pytest.mark.parametrize("value", [1.7976931348623157e308, 1e155])
@pytest.mark.parametrize(
    "fit",
    [
        RobustLinearClassifier().fit,
        RobustLinearClassifier(eps=0.0).fit,
        RobustDiagonalNet().fit,
        MinNormRobustClassifier().fit,
        RobustLinearClassifierCV(threat_eps=0.1).fit,
        lambda X, y: robust_linear_path(X, y, p=2, q=2, eps=0.1),
    ],
)
def test_numbers_that_cannot_be_squared_are_refused(fit, value):
    X, y, _ = noisy(0)
    X[3, 2] = value
    with pytest.raises(
        ValueError,
        match=r"X must hold numbers whose squares float64 can hold.*got 1[.e].*Scale the features",
    ):
        fit(X, y)


@pytest.mark.parametrize(
    "estimator", [RobustLinearClassifier(), RobustDiagonalNet()], ids=lambda e: type(e).__name__
)
def test_balanced_classes_count_sample_weights(estimator):
    """As scikit-learn does: repeated samples are weighted ones, and samples of weight zero count
    for nothing."""
    X, y, rng = noisy(1)
    counts = rng.integers(0, 4, len(y))
    estimator.set_params(class_weight="balanced", loss="logistic")
    weighted = estimator.fit(X, y, counts).intercept_
    repeated = estimator.fit(np.repeat(X, counts, axis=0), np.repeat(y, counts)).intercept_
    np.testing.assert_allclose(weighted, repeated, atol=1e-6)
    if isinstance(estimator, RobustLinearClassifier):
        estimator.set_params(eps=0.0)
        theirs = LogisticRegression(C=1e10, class_weight="balanced", tol=1e-10).fit(X, y, counts)
        np.testing.assert_allclose(
            estimator.fit(X, y, counts).intercept_, theirs.intercept_, atol=1e-4
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    "estimator", [RobustLinearClassifier(solver="exact"), MinNormRobustClassifier()]
)
def test_where_nothing_is_decided_the_predictor_of_least_risk_is_kept(monkeypatch, estimator):
    def fail(*args, **kwargs):
        raise RuntimeError("No solver returned an answer")

    rng = np.random.default_rng(0)
    X = rng.standard_normal((30, 20))
    y = np.where(X[:, 0] > 0, 1, -1)
    eps = max_margin(X, y, q=np.inf, fit_intercept=True).margin  # neither side can be proven
    monkeypatch.setattr("sklearn_robust.linear_model.fitting.solve_separator", fail)
    with pytest.warns(ConvergenceWarning, match="separability undecided"):
        model = estimator.set_params(eps=eps).fit(X, y)
    assert model.separable_ is None
    assert np.exp(model.log_risk_) < 0.3  # zero coefficients have 1


@pytest.mark.slow
def test_random_fits(monkeypatch):
    """A slice of the soak of benchmarks/fit_soak.py."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    fit_soak = importlib.import_module("fit_soak")
    lines = []
    counts, n_warned = fit_soak.soak(range(8), lines.append)
    # the last is time
    assert not any(counts[name] for name in fit_soak.COUNTED[:-1]), "\n".join(lines)
    assert n_warned < 5
    for name in ("fit_soak", "_harness"):
        del sys.modules[name]
