"""MinNormRobustClassifier: the separators as an estimator."""

import inspect
import math
import warnings
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_digits, load_iris
from sklearn.exceptions import ConvergenceWarning
from sklearn.preprocessing import scale

from sklearn_robust import (
    MinNormRobustClassifier,
    NotSeparableError,
    NotSeparableWarning,
    RobustLinearClassifier,
    max_margin,
    min_norm_separator,
)
from sklearn_robust.linear_model import _min_norm, fitting, joint_fitting


@pytest.mark.parametrize("p", [1, 2, math.inf])
def test_is_the_separator(gaussian, p):
    X, y = gaussian(20, 40)
    eps = 0.5 * max_margin(X, y, q=math.inf, fit_intercept=True).margin
    model = MinNormRobustClassifier(p, eps=eps).fit(X, np.where(y > 0, "up", "down"))
    separator = min_norm_separator(X, y, p=p, q=math.inf, eps=eps, fit_intercept=True)
    np.testing.assert_allclose(model.coef_[0], separator.coef, rtol=1e-6, atol=1e-9)
    margins = y * model.decision_function(X) - eps * np.abs(model.coef_).sum()
    assert margins.min() == pytest.approx(1)
    assert model.separable_ is True
    assert model.dual_gap_ <= 1e-8
    assert model.robust_score(X, np.where(y > 0, "up", "down")) == 1


def test_data_without_a_separator():
    X, y = load_iris(return_X_y=True)
    X = scale(X)
    with pytest.warns(NotSeparableWarning, match="not robustly separable at eps=0.2"):
        model = MinNormRobustClassifier(eps=0.2).fit(X, y)
    assert model.separable_ is False
    risk = RobustLinearClassifier(eps=0.2, loss="exponential", tol=1e-6).fit(X, y)
    assert model.log_risk_ == pytest.approx(risk.log_risk_, rel=1e-5)
    with pytest.raises(NotSeparableError, match="eps"):
        MinNormRobustClassifier(eps=0.2, not_separable="raise").fit(X, y)


@pytest.mark.parametrize("p", [2, "nuclear"])
def test_several_classes_are_one_problem(p):
    X, y = load_digits(n_class=4, return_X_y=True)
    X, y = X[:30] / 16, np.array(["zero", "one", "two", "three"])[y[:30]]
    model = MinNormRobustClassifier(p, eps=0.05).fit(X, y)
    separator = min_norm_separator(X, y, p=p, q=math.inf, eps=0.05, fit_intercept=True)
    np.testing.assert_allclose(model.coef_, separator.coef, rtol=1e-5, atol=1e-6)
    assert model.coef_.shape == (4, 64)
    assert model.intercept_.shape == (4,)
    assert model.separable_ is True
    assert model.dual_gap_ <= 1e-6
    assert model.margin_ == pytest.approx(separator.margin, rel=1e-6)
    assert model.robust_score(X, y) == 1


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"p": 0}, "p must be a real number"),
        ({"q_pert": "inf"}, "q_pert must be a real number"),
        ({"eps": -1}, "eps must be"),
        ({"not_separable": "ignore"}, "not_separable must be one of"),
        ({"tol": 0}, "tol must be a finite number > 0"),
    ],
)
def test_bad_parameters_are_refused(parameters, message):
    with pytest.raises(ValueError, match=message):
        MinNormRobustClassifier(**parameters).fit([[0.0], [1.0]], [0, 1])


@pytest.mark.slow
def test_undecided_is_not_called_inseparable(monkeypatch):
    from sklearn_robust.linear_model import fitting

    def undecided(*args, **options):
        raise RuntimeError("neither a separator nor a proof")

    monkeypatch.setattr(fitting, "solve_separator", undecided)
    X, y = load_breast_cancer(return_X_y=True)
    X, y = scale(X)[::5], y[::5]
    eps = max_margin(X, y, q=math.inf, fit_intercept=True).margin
    with pytest.warns(ConvergenceWarning, match="separability undecided"):
        model = MinNormRobustClassifier(eps=eps).fit(X, y)
    assert model.separable_ is None
    assert model.dual_gap_ == math.inf


def test_tol_is_the_gap_that_is_accepted():
    X, y = load_breast_cancer(return_X_y=True)
    default = inspect.signature(min_norm_separator).parameters["tol"].default
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        assert MinNormRobustClassifier(eps=0).fit(X, y).dual_gap_ <= default
    assert MinNormRobustClassifier(eps=0, tol=1e-6).fit(X, y).dual_gap_ <= 1e-6
    with pytest.warns(ConvergenceWarning, match="tol=1e-15"):
        MinNormRobustClassifier(eps=0, tol=1e-15).fit(X, y)
    # silent: to the rounding of float32
    single = MinNormRobustClassifier(eps=0).fit(scale(X).astype(np.float32), y)
    assert single.coef_.dtype == np.float32
    assert single.dual_gap_ <= 1e-3


@pytest.mark.slow
@pytest.mark.skipif(np.finfo(np.longdouble).eps > 1e-18, reason="long double is double here")
def test_near_eps_star_the_estimator_reports_what_the_separator_proves():
    """Rounding of double precision is 8e-5 of a margin of 1e-10 eps*."""
    rng = np.random.default_rng(0)
    X, w = rng.normal(size=(20, 8)), rng.normal(size=8)
    y = np.where(X @ w > 0, 1, -1)
    X += 0.4 * np.outer(y, w) / np.linalg.norm(w)
    eps = (1 - 1e-10) * max_margin(X, y, q=2, fit_intercept=True).margin
    separator = min_norm_separator(X, y, p=1, q=2, eps=eps, fit_intercept=True, tol=1e-2)
    model = MinNormRobustClassifier(p=1, q_pert=2, eps=eps, tol=1e-2).fit(X, y)
    assert model.margin_ == pytest.approx(separator.margin, rel=1e-5)
    assert 0 < model.dual_gap_ < 1e-5


@pytest.mark.parametrize("n_classes", [2, 3])
def test_a_separator_is_sought_once_where_there_is_none(n_classes, monkeypatch):
    """Also where the risk leaves it open whether there is one."""
    X, y = load_iris(return_X_y=True)
    X, y = scale(X[y < n_classes]), y[y < n_classes]
    fit = joint_fitting.JointFit if n_classes > 2 else fitting.Fit
    seek = fit.decide_separability

    def leaves_open(self, norm):
        found = seek(self, norm)
        return replace(found, separable=[None], gap=np.full(1, np.inf), converged=np.zeros(1, bool))

    monkeypatch.setattr(fit, "decide_separability", leaves_open)
    calls = []
    for module in (_min_norm, fitting, joint_fitting):
        for name in ("solve_separator", "solve_joint_separator"):
            if hasattr(module, name):
                counted = partial(count, getattr(module, name), calls)
                monkeypatch.setattr(module, name, counted)
    with pytest.raises(NotSeparableError, match="eps"):
        MinNormRobustClassifier(eps=5.0, not_separable="raise").fit(X, y)
    assert len(calls) == 1


def count(function, calls, *given):
    calls.append(given)
    return function(*given)
