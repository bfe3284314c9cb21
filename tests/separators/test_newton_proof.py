import numpy as np
import pytest
from scipy import sparse

from sklearn_robust.norms import LpNorm
from sklearn_robust.problems import RobustProblem
from sklearn_robust.separators import (
    NotSeparableError,
    _newton_proof,
    critical_radius,
    interior_point,
    max_margin,
    min_norm_separator,
)
from sklearn_robust.separators._max_margin_form import MaxMarginForm
from sklearn_robust.separators._newton_proof import cancelling_newton_weights, cancels


def overlapping(n=80, d=5, seed=0):
    """Coin labels, features of very unlike sizes, one that is zero and one that repeats."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d)) * np.geomspace(1e-3, 1e3, d)
    return np.column_stack([X, np.zeros(n), X[:, 0]]), np.where(rng.random(n) < 0.5, -1.0, 1.0)


def form_of(X, y, fit_intercept):
    problem = RobustProblem.from_data(X, y, q=2.0, eps=0.0, fit_intercept=fit_intercept)
    return problem, MaxMarginForm.of(problem, LpNorm(2))


@pytest.mark.parametrize("fit_intercept", [False, True])
def test_weights_cancel_every_feature_to_its_own_rounding(fit_intercept):
    X, y = overlapping()
    problem, form = form_of(X, y, fit_intercept)
    weights = cancelling_newton_weights(form)
    assert weights.min() > 0
    weights /= weights.sum()
    assert np.abs((weights * y) @ X).max() <= 1e-13 * (weights @ np.abs(X)).max()
    assert cancels(problem, weights)
    if fit_intercept:
        assert abs(weights @ y) <= 1e-13


def test_separable_data_have_none():
    X, _ = overlapping()
    y = np.where(X @ (1 / np.maximum(np.abs(X).max(axis=0), 1)) > 0, 1.0, -1.0)
    assert cancelling_newton_weights(form_of(X, y, False)[1]) is None
    few, labels = overlapping(4)
    assert cancelling_newton_weights(form_of(few, labels, False)[1]) is None


def test_weights_that_do_not_cancel_are_no_proof():
    """The difference of two features separates, and is less than the ridge of the equations."""
    rng = np.random.default_rng(0)
    y = np.where(np.arange(80) % 2, 1.0, -1.0)
    first = rng.normal(size=80)
    X = np.column_stack([first, first + 1e-6 * y * (1 + rng.random(80)), rng.normal(size=(80, 2))])
    for fit_intercept in (False, True):
        assert cancelling_newton_weights(form_of(X, y, fit_intercept)[1]) is None
    found = max_margin(X, y, q=np.inf)
    assert found.margin > 5e-7
    assert found.relative_gap <= 1e-8


@pytest.mark.parametrize("unit", [1e-200, 1e140])
def test_a_feature_in_any_unit_is_cancelled(unit):
    X, y = overlapping()
    X[:, 0] *= unit
    problem, form = form_of(X, y, False)
    assert cancels(problem, cancelling_newton_weights(form))


@pytest.mark.parametrize("q", [1.0, 2.0, np.inf])
def test_they_prove_it_without_a_linear_program(monkeypatch, q):
    X, y = overlapping()
    monkeypatch.setattr(critical_radius, "solve_linear_program", None)  # a call fails
    found = max_margin(X, y, q=q, fit_intercept=True)
    assert found.margin == 0
    assert found.relative_gap <= 1e-12
    with pytest.raises(NotSeparableError, match="eps\\* = 0"):
        min_norm_separator(X, y, p=2, q=q, eps=0.1, fit_intercept=True)


def test_rows_of_zeros_have_none():
    assert cancelling_newton_weights(form_of(np.zeros((3, 2)), np.ones(3), False)[1]) is None


def test_large_sparse_rows_stay_sparse(monkeypatch):
    X, y = overlapping()
    monkeypatch.setattr(interior_point, "_MAX_DENSE", 10)
    monkeypatch.setattr(MaxMarginForm, "dense", None)  # a call fails
    assert max_margin(sparse.csr_array(X), y, q=2.0).margin == 0


def test_without_newton_weights_a_linear_program_still_decides(monkeypatch):
    X, y = overlapping()
    monkeypatch.setattr(_newton_proof, "_MAX_STEPS", 0)
    assert max_margin(X, y, q=2.0).margin == 0
