"""The quasi-Newton method on the risk: against Newton's method, and its weights as a proof."""

import math

import numpy as np
import pytest
from scipy import sparse

from sklearn_robust.losses import LOSSES
from sklearn_robust.norms import LpNorm
from sklearn_robust.problems import RobustProblem
from sklearn_robust.solvers import _risk_quasi_newton, minimise_robust_risk, robust_risk

NORM = LpNorm(2)
EPS = {1: 0.3, 2: 0.1}


def noisy(n=1500, d=120, mean=0.0, condition=1.0):
    """Rows, and the labels of a noisy teacher."""
    rng = np.random.default_rng(3)
    X = rng.standard_normal((n, d)) * np.geomspace(1, condition**-0.5, d)
    y = np.where(X.sum(axis=1) / math.sqrt(d) + 3 * rng.standard_normal(n) > 0, 1.0, -1.0)
    return X + mean, y


def refuse(*_, **__):
    raise AssertionError("the other method was called")


@pytest.fixture
def alone(monkeypatch):
    monkeypatch.setattr(robust_risk, "newton", refuse)
    monkeypatch.setattr(robust_risk, "lbfgs", refuse)


def by_newton(problem, loss, tol):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(robust_risk, "serves", lambda problem: False)
        return minimise_robust_risk(problem, loss, NORM, tol=tol)


VARIANTS = {
    "plain": {},
    "no intercept": {"fit_intercept": False},
    "weights": {"sample_weight": np.random.default_rng(1).integers(0, 4, 1500).astype(float)},
    "scale": {"scale": np.geomspace(0.8, 1.25, 120)},
    "radii": {"sample_radius": np.random.default_rng(2).uniform(0, 2, 1500)},
}


@pytest.mark.parametrize("q", [1, 2])
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.usefixtures("alone")
def test_certifies_the_minimum(q, loss, variant):
    X, y = noisy()
    settings = {"fit_intercept": True} | VARIANTS[variant]
    problem = RobustProblem.from_data(X, y, q=q, eps=2 * EPS[q], **settings)
    found = minimise_robust_risk(problem, loss, NORM, tol=1e-9)
    assert found.gap[0] <= 1e-9
    # the proof holds on its own
    a = found.weights[0]
    scale = settings.get("scale", np.ones(X.shape[1]))
    assert a.min() >= 0
    assert abs(a.sum() - 1) < 1e-12
    if settings["fit_intercept"]:
        assert abs(a @ y) < 1e-12
    radius = 2 * EPS[q] * (a @ settings.get("sample_radius", np.ones(len(y))))
    assert np.linalg.norm((a * y) @ X / scale, q) <= radius * (1 + 1e-12)
    best = loss.log_risk_bound(a[None], problem.log_weight)[0]
    assert -math.expm1(best - found.log_risk[0]) <= 1.001e-9


@pytest.mark.parametrize("q", [1, 2])
@pytest.mark.parametrize("kind", ["float32", "sparse", "mean", "mean, float32"])
def test_agrees_with_newton(q, kind, monkeypatch):
    X, y = noisy(mean=30.0 if "mean" in kind else 0.0)
    if kind == "sparse":
        X = sparse.csr_array(np.where(np.abs(X) > 1, X, 0.0))
    elif "float32" in kind:
        X = X.astype(np.float32)
    problem = RobustProblem.from_data(X, y, q=q, eps=2 * EPS[q], fit_intercept=True)
    loss = LOSSES["logistic"]
    expected = by_newton(problem, loss, 1e-8)
    with monkeypatch.context() as patch:
        if kind != "mean, float32":  # in which single precision may end it early
            patch.setattr(robust_risk, "newton", refuse)
        found = minimise_robust_risk(problem, loss, NORM, tol=1e-6)
    assert found.gap[0] <= 1e-6
    assert found.log_risk[0] == pytest.approx(float(expected.log_risk[0]), abs=2e-6)


@pytest.mark.parametrize("q", [1, 2])
def test_single_precision_first_is_as_exact(q, alone, monkeypatch):
    X, y = noisy()
    problem = RobustProblem.from_data(X, y, q=q, eps=2 * EPS[q], fit_intercept=True)
    double = minimise_robust_risk(problem, LOSSES["exponential"], NORM, tol=1e-10)
    monkeypatch.setattr(_risk_quasi_newton, "_SINGLE_FROM", 0)
    single = minimise_robust_risk(problem, LOSSES["exponential"], NORM, tol=1e-10)
    assert double.gap[0] <= 1e-10
    assert single.gap[0] <= 1e-10
    assert single.log_risk[0] == pytest.approx(float(double.log_risk[0]), abs=2e-10)


@pytest.mark.parametrize("q", [1, 2])
@pytest.mark.parametrize("unit", [1e-140, 1e-60, 1e20, 1e60, 1e140])
@pytest.mark.parametrize("single_from", [0, math.inf])
def test_any_unit(q, unit, single_from, monkeypatch):
    monkeypatch.setattr(_risk_quasi_newton, "_SINGLE_FROM", single_from)
    X, y = noisy()
    problem = RobustProblem.from_data(X * unit, y, q=q, eps=0.2 * unit, fit_intercept=True)
    found = minimise_robust_risk(problem, LOSSES["logistic"], NORM, tol=1e-6)
    assert found.gap[0] <= 1e-6


def test_gives_way_where_it_would_take_long(monkeypatch):
    X, y = noisy(condition=1e6)
    problem = RobustProblem.from_data(X, y, q=2, eps=1e-3, fit_intercept=True)
    steps = []
    newton = robust_risk.newton
    monkeypatch.setattr(robust_risk, "newton", lambda *a, **k: steps.append(1) or newton(*a, **k))
    found = minimise_robust_risk(problem, LOSSES["logistic"], NORM, tol=1e-8)
    assert steps
    assert found.gap[0] <= 1e-8


@pytest.mark.parametrize("q", [1, 2])
def test_separable_data(q, monkeypatch):
    monkeypatch.setattr(_risk_quasi_newton, "_LEAST_ENTRIES", 0)
    X, y = noisy(n=80)
    problem = RobustProblem.from_data(X, y, q=q, eps=1e-3, fit_intercept=True)
    found = minimise_robust_risk(problem, LOSSES["exponential"], NORM, tol=1e-6)
    assert found.separable == [True]


@pytest.mark.parametrize("q", [1, 2])
@pytest.mark.usefixtures("alone")
def test_zero_against_a_large_radius(q):
    X, y = noisy()
    problem = RobustProblem.from_data(X, y, q=q, eps=50.0, fit_intercept=True)
    found = minimise_robust_risk(problem, LOSSES["logistic"], NORM, tol=1e-9)
    assert not found.coef.any()
    assert found.gap[0] <= 1e-9


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("q", [1, 2])
def test_a_start_against_a_large_radius(q, loss, monkeypatch):
    # a step back through zero, at which the penalty must not become negative
    monkeypatch.setattr(_risk_quasi_newton, "_LEAST_ENTRIES", 0)
    monkeypatch.setattr(_risk_quasi_newton, "_LEAST_COLUMNS", {1: 1, 2: 1})
    X, y = noisy(n=60, d=1)
    problem = RobustProblem.from_data(X, y, q=q, eps=5.0, fit_intercept=True)
    found = minimise_robust_risk(problem, loss, NORM, tol=1e-6, coef_init=np.array([[-0.95]]))
    assert found.separable == [False]
    assert found.gap[0] <= 1e-6


@pytest.mark.parametrize("q", [1, 2])
def test_starts_anywhere(q):
    X, y = noisy()
    problem = RobustProblem.from_data(X, y, q=q, eps=2 * EPS[q], fit_intercept=True)
    start = np.random.default_rng(0).standard_normal((1, X.shape[1]))
    found = minimise_robust_risk(problem, LOSSES["exponential"], NORM, tol=1e-7, coef_init=start)
    assert found.gap[0] <= 1e-7


@pytest.mark.parametrize("q", [1, 2])
def test_no_sample_is_attacked(q):
    X, y = noisy()
    problem = RobustProblem.from_data(
        X, y, q=q, eps=0.1, fit_intercept=True, sample_radius=np.zeros(len(y))
    )
    found = minimise_robust_risk(problem, LOSSES["logistic"], NORM, tol=1e-6)
    assert found.gap[0] <= 1e-6


@pytest.mark.usefixtures("alone")
def test_near_the_radius_of_zero_small_coefficients_do_not_end_it():
    # the smaller radius is then much smaller, and the weights inside the ball prove little
    rng = np.random.default_rng(3)
    X = rng.standard_normal((200, 600))
    y = np.where(X[:, :20].sum(axis=1) + 4 * rng.standard_normal(200) > 0, 1.0, -1.0)
    problem = RobustProblem.from_data(X, y, q=1, eps=1.0, fit_intercept=True)
    eps = 0.95 * np.linalg.norm(problem.weighted_sum(problem.class_shares())[0], 1)
    problem = RobustProblem.from_data(X, y, q=1, eps=float(eps), fit_intercept=True)
    found = minimise_robust_risk(problem, LOSSES["logistic"], NORM, tol=1e-6)
    assert found.gap[0] <= 1e-6
