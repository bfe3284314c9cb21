"""The minimiser of the risk by way of a part of the data: a sample of the rows, some columns."""

import numpy as np
import pytest
from scipy import sparse

from sklearn_robust.losses import LOSSES
from sklearn_robust.norms import LpNorm
from sklearn_robust.problems import RobustProblem
from sklearn_robust.rows import DenseRows
from sklearn_robust.solvers import _risk_columns, _risk_sample, robust_risk
from sklearn_robust.solvers.robust_risk import minimise_robust_risk
from sklearn_robust.solvers.solution import risk_gap

NORM = LpNorm(2)


def noisy(n, d, used):
    """Rows, of whose columns the first few tell something of the labels."""
    rng = np.random.default_rng(1)
    X = rng.standard_normal((n, d))
    scores = X[:, :used].sum(axis=1) + 2 * rng.standard_normal(n)
    return X, np.where(scores > 0, 1.0, -1.0)


@pytest.fixture
def parts(monkeypatch):
    """Even small data are solved by way of their parts; the shapes that Newton's method is given"""
    monkeypatch.setattr(_risk_columns, "_LEAST_ENTRIES", 0)
    monkeypatch.setattr(_risk_columns, "_MANY_COLUMNS", 10)
    monkeypatch.setattr(_risk_sample, "_LEAST_ENTRIES", 0)
    monkeypatch.setattr(_risk_sample, "_LEAST_ROWS", 2)
    shapes = []
    newton = robust_risk.newton

    def counted(problem, *args, **settings):
        shapes.append(problem.X.shape)
        return newton(problem, *args, **settings)

    monkeypatch.setattr(robust_risk, "newton", counted)
    return shapes


def assert_as_without(problem, loss, shapes, expected_shapes):
    """The minimiser is that without parts, which the shapes show, and its gap holds."""
    found = minimise_robust_risk(problem, loss, NORM, tol=1e-9)
    assert shapes == expected_shapes
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(robust_risk, "uses_few_columns", lambda problem: False)
        patch.setattr(robust_risk, "sample_of", lambda problem: None)
        expected = minimise_robust_risk(problem, loss, NORM, tol=1e-12)
    assert found.separable == [False]
    assert 0 <= 1 - np.exp(expected.log_risk[0] - found.log_risk[0]) + 1e-12 <= found.gap[0] + 2e-12
    assert found.gap[0] <= 1e-9
    np.testing.assert_allclose(found.coef, expected.coef, atol=1e-4)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("scaled", [False, True], ids=["alike", "scales"])
def test_few_columns_are_minimised_alone_and_prove_all(parts, loss, scaled):
    X, y = noisy(150, 40, used=4)
    scale = np.geomspace(0.9, 1.1, 40) if scaled else None
    problem = RobustProblem.from_data(X, y, q=np.inf, eps=0.25, scale=scale, fit_intercept=True)
    found = minimise_robust_risk(problem, loss, NORM, tol=1e-9)
    assert 0 < np.count_nonzero(found.coef) < 20
    assert all(d < 20 for _, d in parts)
    assert_as_without(problem, loss, parts, 2 * parts)


def test_a_monitor_sees_and_stops_all_columns(parts):
    X, y = noisy(150, 40, used=4)
    problem = RobustProblem.from_data(X, y, q=np.inf, eps=0.25, fit_intercept=True)
    seen = []

    class Monitor:
        every = 1

        def __call__(self, iteration, ids, figures):
            seen.append(figures["coef"].shape)
            return len(seen) == 2

    found = minimise_robust_risk(problem, LOSSES["logistic"], NORM, monitors=[Monitor()])
    assert seen == [(1, 40)] * 2
    assert found.coef.shape == (1, 40)
    assert found.n_iter[0] == 2
    assert not found.converged[0]


def test_what_is_recorded_of_few_columns_is_certified_for_all(parts, monkeypatch):
    monkeypatch.setattr(_risk_columns, "_NEAR_BOUND", 1.0)  # in two rounds
    X, y = noisy(150, 40, used=4)
    problem = RobustProblem.from_data(X, y, q=np.inf, eps=0.2, fit_intercept=True)
    found = minimise_robust_risk(problem, LOSSES["logistic"], NORM, tol=1e-9, record_every=1)
    assert {3, 4} <= {d for _, d in parts}
    lower_bounds = (1 - found.history["gap"]) * np.exp(found.history["log_risk"])
    assert np.all(lower_bounds <= (1 + 1e-12) * np.exp(found.log_risk))


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("q", [1, 1.5, 2, np.inf])
@pytest.mark.parametrize("kind", ["plain", "sparse", "weights"])
def test_a_sample_of_the_rows_is_a_start(parts, loss, q, kind):
    X, y = noisy(640, 5, used=5)
    weight = np.random.default_rng(0).integers(0, 3, 640).astype(float)
    problem = RobustProblem.from_data(
        sparse.csr_array(X) if kind == "sparse" else X,
        y,
        q=q,
        eps=0.1,
        fit_intercept=True,
        sample_weight=weight if kind == "weights" else None,
    )
    assert_as_without(problem, loss, parts, [(40, 5), (640, 5)])


def test_the_first_step_of_all_rows_takes_the_hessian_of_the_sample(parts, monkeypatch):
    lengths = []
    gram = DenseRows.weighted_gram

    def counted(rows, *args, **settings):
        lengths.append(rows.shape[0])
        return gram(rows, *args, **settings)

    monkeypatch.setattr(DenseRows, "weighted_gram", counted)
    X, y = noisy(640, 5, used=5)
    problem = RobustProblem.from_data(X, y, q=1, eps=0.1, fit_intercept=True)
    found = minimise_robust_risk(problem, LOSSES["logistic"], NORM, tol=1e-9)
    assert lengths.count(640) == found.n_iter[0] - 1
    assert found.converged[0]


def test_a_sample_that_tells_nothing_is_no_start(parts):
    X, y = noisy(640, 5, used=5)
    y = y.copy()
    y[::16] = 1.0  # one class in the sample
    problem = RobustProblem.from_data(X, y, q=2, eps=0.1, fit_intercept=True)
    assert_as_without(problem, LOSSES["logistic"], parts, [(640, 5)])
    parts.clear()
    y[16::32] = -1.0
    X[::16, 0] = 30 * y[::16]  # a sample that is separable
    problem = RobustProblem.from_data(X, y, q=2, eps=0.1, fit_intercept=True)
    assert_as_without(problem, LOSSES["exponential"], parts, [(40, 5), (640, 5)])


def test_a_false_bound_shows():
    assert risk_gap(-np.inf, 0.0) == 1
    assert risk_gap(np.log(0.25), np.log(0.5)) == pytest.approx(0.5)
    assert risk_gap(np.log(0.6), np.log(0.5)) == pytest.approx(-0.2)
    assert risk_gap(2000.0, 0.0) < -1
