"""Bounds on complexity lie above Monte Carlo estimates of it, and bounds on the risk above the
risk."""

import math

import numpy as np
import pytest
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_robust import (
    MinNormRobustClassifier,
    adversarial_rademacher_bound,
    make_teacher_classification,
    margin_generalization_bound,
    rademacher_bound,
    robust_generalization_bound,
)
from sklearn_robust.norms import LpNorm

NORMS = [1, 1.2, 1.5, 2, 3, math.inf]


def data(kind, n, d, seed=0):
    rng = np.random.default_rng(seed)
    if kind == "dense":
        return rng.standard_normal((n, d))
    return rng.choice([-1.0, 0.0, 1.0], p=[0.05, 0.9, 0.05], size=(n, d))


def complexity(X, r, eps=0.0, n_draws=4000, seed=0):
    """Monte Carlo estimate of E sup over the unit r-ball of mean_i s_i (z_i.w - eps ||w||_1), and
    its standard error.

    With s the mean of the signs and g = Z^T signs / n the supremum is the r*-norm of (|g| - eps
    s)_+: for s > 0 the distance of g to the l_inf ball of radius eps s, for s < 0 the largest
    r*-norm that a perturbation of size eps |s| can give g.
    """
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(n_draws, len(X)))
    weighted_sum = np.abs(signs @ X) / len(X)
    values = LpNorm(r).dual.value(np.maximum(weighted_sum - eps * signs.mean(axis=1)[:, None], 0))
    return values.mean(), values.std() / math.sqrt(n_draws)


def test_the_supremum_of_the_estimate_by_brute_force():
    X = data("dense", 6, 3)
    signs = np.random.default_rng(1).choice([-1.0, 1.0], size=6)
    w = np.random.default_rng(2).standard_normal((200_000, 3))
    for r in (1, 2, math.inf):
        unit = w / LpNorm(r).value(w)[:, None]
        found = ((unit @ X.T - 0.3 * np.abs(unit).sum(axis=1)[:, None]) @ signs).max() / 6
        weighted_sum = np.abs(signs @ X) / 6
        supremum = LpNorm(r).dual.value(np.maximum(weighted_sum - 0.3 * signs.mean(), 0))
        assert found <= supremum + 1e-12
        assert max(found, 0) > 0.95 * supremum


@pytest.mark.slow
@pytest.mark.pairwise
@pytest.mark.parametrize("r", NORMS)
@pytest.mark.parametrize("kind", ["dense", "sparse"])
@pytest.mark.parametrize(("n", "d"), [(10, 100), (100, 30)])
def test_bounds_lie_above_the_complexity(kind, n, d, r):
    X = data(kind, n, d)
    for eps in (0.0, 0.1, 1.0, 10.0):
        estimate, error = complexity(X, r, eps)
        bound = adversarial_rademacher_bound(X, r=r, eps=eps, q=math.inf)
        assert estimate - 4 * error <= bound
    assert adversarial_rademacher_bound(X, r=r, eps=0.0) == rademacher_bound(X, r=r)


def test_the_bound_of_strong_convexity_holds_up_to_r_2():
    X = data("dense", 10, 100)
    for r in (1.5, 1.95, 2):
        dual = r / (r - 1)
        expected = np.linalg.norm(X, ord=dual, axis=1).max() * math.sqrt((dual - 1) / 10)
        assert math.isclose(rademacher_bound(X, r=r), expected)


def test_bounds_are_tight_where_they_can_be():
    # orthogonal rows of equal norm: the signs do not matter for r = 2
    X = 3 * np.eye(16)
    assert math.isclose(complexity(X, 2)[0], rademacher_bound(X, r=2))
    # the adversary's term, with all of it in the signs' mean: within the constant sqrt(2/pi) of the
    # bound
    estimate, _ = complexity(np.zeros((400, 50)), 2, eps=1.0)
    assert 0.75 < estimate / adversarial_rademacher_bound(np.zeros((400, 50)), r=2, eps=1.0) <= 1


@pytest.mark.parametrize("q", NORMS)
@pytest.mark.parametrize("r", NORMS)
def test_the_adversary_term_for_every_pair_of_norms(q, r):
    d, dual = 50, LpNorm(q).dual
    extra = adversarial_rademacher_bound(np.zeros((25, d)), r=r, eps=2.0, q=q, radius=3.0)
    w = np.random.default_rng(0).standard_normal((1000, d)) * np.random.default_rng(1).choice(
        [0, 1], size=(1000, d)
    )
    candidates = np.concatenate([w, np.eye(d), np.ones((1, d))])
    # reached by a unit vector or by equal entries
    largest = (dual.value(candidates) / LpNorm(r).value(candidates)).max()
    np.testing.assert_allclose(extra, 2.0 * 3.0 * largest / (2 * 5))


def test_the_two_formulas_of_proposition_3_2():
    X, y, teacher = make_teacher_classification(
        30, 64, teacher_sparsity=3, return_teacher=True, random_state=0
    )
    w = teacher / (np.min(y * (X @ teacher)) - 0.01 * np.abs(teacher).sum())
    confidence = 3 * math.sqrt(math.log(2 / 0.05) / 60)
    r1 = (
        2
        * np.abs(w).sum()
        * (np.abs(X).max() * math.sqrt(2 * math.log(128)) + 0.005)
        / math.sqrt(30)
        + confidence
    )
    r2 = (
        2 * np.linalg.norm(w) * (np.linalg.norm(X, axis=1).max() + 0.005 * 8) / math.sqrt(30)
        + confidence
    )
    assert math.isclose(robust_generalization_bound(X, y, teacher, r=1, eps=0.01), r1)
    assert math.isclose(robust_generalization_bound(X, y, 7 * teacher, r=2, eps=0.01), r2)
    assert math.isclose(
        robust_generalization_bound(sparse.csr_array(X), y, teacher, r=2, eps=0.01), r2
    )
    # it is Theorem 3.1 at rho = 1 without empirical loss
    theorem = margin_generalization_bound(X, y, w, r=2, eps=0.01, radius=np.linalg.norm(w))
    assert math.isclose(theorem, r2)


@pytest.mark.parametrize("seed", range(20))
def test_theorem_3_1_bounds_the_robust_risk(seed):
    rng = np.random.default_rng(seed)
    X, y, teacher = make_teacher_classification(200, 10, return_teacher=True, random_state=seed)
    X_test, y_test = make_teacher_classification(
        20_000, 10, teacher=teacher, random_state=seed + 100
    )
    w = rng.standard_normal(10)
    w = 0.3 * w / np.linalg.norm(w)
    risk = np.mean(y_test * (X_test @ w) - 0.1 * np.abs(w).sum() <= 0)
    assert risk <= margin_generalization_bound(X, y, w, r=2, eps=0.1, radius=0.3, rho=0.4)


def test_an_estimator_counts_by_its_coefficients():
    X, y, _ = make_teacher_classification(30, 64, return_teacher=True, random_state=0)
    named = np.where(y > 0, "yes", "no")
    model = MinNormRobustClassifier(p=2, eps=0.05, fit_intercept=False).fit(X, named)
    of_model = robust_generalization_bound(X, named, model, r=2, eps=0.05)
    assert math.isclose(of_model, robust_generalization_bound(X, y, model.coef_[0], r=2, eps=0.05))
    scaled = make_pipeline(StandardScaler(), model).fit(X, named)
    Z = scaled[0].transform(X)
    of_pipeline = robust_generalization_bound(X, named, scaled, r=2, eps=0.05)
    assert math.isclose(
        of_pipeline, robust_generalization_bound(Z, y, scaled[1].coef_[0], r=2, eps=0.05)
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"r": 0.5}, r"r must be a real number in \[1, inf\], got 0.5"),
        ({"q": 0}, "q must be a real number"),
        ({"eps": -1}, "eps must be a finite number >= 0"),
        ({"eps": 9.0}, "does not separate the sample robustly with eps=9"),
        ({"delta": 0}, "delta must be a finite number > 0, got 0"),
        ({"delta": 1}, r"delta must be a probability in \(0, 1\), got 1"),
        ({"predictor": np.ones(3)}, r"predictor must have shape \(8,\)"),
        ({"y": np.arange(20)}, r"y must hold labels in \{-1, \+1\}"),
    ],
)
def test_bad_parameters_are_refused(arguments, message):
    X, y, teacher = make_teacher_classification(20, 8, return_teacher=True, random_state=0)
    given = {"X": X, "y": y, "predictor": teacher, "r": 2, "eps": 0.0, **arguments}
    with pytest.raises(ValueError, match=message):
        robust_generalization_bound(**given)


def test_what_theorem_3_1_refuses():
    X, y, teacher = make_teacher_classification(20, 8, return_teacher=True, random_state=0)
    with pytest.raises(ValueError, match="above radius=1e-06"):
        margin_generalization_bound(X, y, teacher, r=2, eps=0.0, radius=1e-6)
    with pytest.raises(ValueError, match="rho must be a finite number > 0"):
        margin_generalization_bound(X, y, teacher, r=2, eps=0.0, radius=100, rho=0)
    with pytest.raises(ValueError, match="radius must be a finite number >= 0"):
        rademacher_bound(X, r=2, radius=-1)
    with pytest.raises(ValueError, match="no intercept"):
        robust_generalization_bound(X, y, LogisticRegression().fit(X, y), r=2, eps=0.0)
