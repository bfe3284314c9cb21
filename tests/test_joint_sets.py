"""Several classes against sets that differ from sample to sample, or are not symmetric: the risk
and the separators against cvxpy, and what estimators make of them."""

import json
import math
import pickle
import warnings

import cvxpy as cp
import numpy as np
import pytest
from scipy import sparse
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning

from sklearn_robust import (
    MinNormRobustClassifier,
    NotSeparableError,
    RobustLinearClassifier,
    check,
    max_margin,
    min_norm_separator,
)
from sklearn_robust import _adversaries as adversaries
from sklearn_robust.joint import JointProblem
from sklearn_robust.linear_model import joint_fitting
from sklearn_robust.linear_model.lifecycle import ConstantClassifierWarning
from sklearn_robust.losses import LOSSES
from sklearn_robust.norms import LpNorm
from sklearn_robust.problems import RobustProblem
from sklearn_robust.solvers import minimise_joint_risk, minimise_robust_risk
from sklearn_robust.threats import Box, FeatureBudget, LpBall, OneHot

N, D, K = 24, 4, 3
LABELS = ["ant", "bee", "cat"]
U = np.linspace(0.1, 0.4, D)
UP = np.where(np.arange(D) == 1, np.inf, U)
RADIUS = np.random.default_rng(5).uniform(0, 2, N)


def rows(spread):
    rng = np.random.default_rng(0)
    y = np.arange(N) % K
    return (spread * np.eye(K, D)[y] + rng.normal(size=(N, D))).clip(-3, 3), y


def box(lower, upper, rules):
    """The support functions of boxes (d,) or (m, d) at v; where they have no end v has a sign."""

    def support(v):
        endless = np.isinf(upper)
        rules.extend(v[j] <= 0 for j in np.flatnonzero(endless.any(axis=0)))
        return np.where(endless, 0.0, upper) @ cp.pos(v) - lower @ cp.neg(v)

    return support


def ball(q, eps):
    return lambda v: eps * cp.norm(v, LpNorm(q).dual.p)


# the threat, the radii of samples, and the support functions of samples X of class k at radii r
SETS = {
    "radii of classes": (
        LpBall(2, {"ant": 0.4, "bee": 0.0, "cat": 0.1}),
        None,
        lambda X, k, r, rules: ball(2, (0.4, 0.0, 0.1)[k]),
    ),
    "radii of samples": (LpBall(1, 0.3), RADIUS, lambda X, k, r, rules: ball(1, 0.3 * r)),
    "one-sided boxes": (Box(-U / 2, U), None, lambda X, k, r, rules: box(-U / 2, U, rules)),
    "without end": (
        Box(-U, UP),
        None,
        lambda X, k, r, rules: box(np.tile(-U, (1, 1)), np.tile(UP, (1, 1)), rules),
    ),
    "limits": (
        LpBall(math.inf, 0.3, clip=(-3, 3)),
        RADIUS,
        lambda X, k, r, rules: box(
            np.maximum(-0.3 * r[:, None], -3 - X), np.minimum(0.3 * r[:, None], 3 - X), rules
        ),
    ),
    "one class, a choice": (
        (Box(0.0, U) | FeatureBudget(2, 0.3)).only("bee"),
        None,
        lambda X, k, r, rules: (
            (lambda v: cp.maximum(box(0 * U, U, rules)(v), 0.3 * cp.sum_largest(cp.abs(v), 2)))
            if k == 1
            else (lambda v: 0.0)
        ),
    ),
}


def reference(X, y, radius, support):
    """W, the margins of each class against its rivals, (K - 1, m) each, and the rules, by cvxpy."""
    W, b, rules, margins = cp.Variable((K, D)), cp.Variable(K), [], []
    radius = np.ones(N) if radius is None else radius
    for k in range(K):
        of_class = X[y == k]
        sigma = support(of_class, k, radius[y == k], rules)
        rows = []
        for rival in np.flatnonzero(np.arange(K) != k):
            v = W[rival] - W[k]
            rows.append(b[k] - b[rival] - of_class @ v - sigma(v))
        margins.append(cp.vstack(rows))
    return W, margins, [*rules, cp.sum(b) == 0]


def solved(objective, rules):
    problem = cp.Problem(objective, rules)
    with warnings.catch_warnings():  # cvxpy warns of 1e-9
        warnings.filterwarnings("ignore", message="Solution may be inaccurate")
        problem.solve(solver="CLARABEL", tol_gap_abs=1e-10, tol_gap_rel=1e-10, tol_feas=1e-10)
    return problem.value


@pytest.mark.parametrize("name", SETS)
def test_the_risk_equals_an_independent_solver(name):
    X, y = rows(0.5)
    threat, radius, support = SETS[name]
    problem = JointProblem.from_data(
        X, y, threat=threat, sample_radius=radius, labels=LABELS, fit_intercept=True
    )
    _, margins, rules = reference(X, y, radius, support)
    every = cp.hstack([cp.vec(-m, order="C") for m in margins])
    with_zero = [cp.vstack([np.zeros((1, m.shape[1])), -m]) for m in margins]
    logistic = sum(cp.sum(cp.log_sum_exp(part, axis=0)) for part in with_zero) / N
    least = {
        "exponential": math.exp(solved(cp.Minimize(cp.log_sum_exp(every)), rules)) / N,
        "logistic": solved(cp.Minimize(logistic), rules),
    }
    for loss, expected in least.items():
        found = minimise_joint_risk(problem, LOSSES[loss])
        assert found.separable is False
        assert found.gap <= 1e-6
        assert math.exp(found.log_risk) == pytest.approx(expected, abs=1e-6)
        assert found.bound <= math.log(expected) + 1e-8
        now = problem.evaluate(LOSSES[loss], 1.1 * found.coef)
        assert found.bound <= now.log_risk  # the bound holds for every predictor


@pytest.mark.parametrize("loss", ["exponential", "logistic"])
def test_fewer_pixels_than_coefficients_within_limits(monkeypatch, loss):
    """By smoothing, without the cone program of all pairs."""
    monkeypatch.delattr("sklearn_robust.solvers._joint_risk.minimise_by_program")
    X, y = load_digits(n_class=3, return_X_y=True)
    X = X.reshape(-1, 4, 2, 8).mean(axis=2).reshape(-1, 32)[:30] / 16
    threat = LpBall(math.inf, 0.3, clip=(0, 1))
    problem = JointProblem.from_data(X, y[:30], threat=threat, fit_intercept=True)
    found = minimise_joint_risk(problem, LOSSES[loss])
    assert found.separable is False
    assert found.gap <= 1e-8
    assert np.isfinite(found.coef).all()
    # against every predictor, one that a larger ball makes too
    assert found.bound < problem.evaluate(LOSSES[loss], 0.9 * found.coef).log_risk


@pytest.mark.parametrize("eps", [1.0, 1.5])
def test_fewer_samples_than_pixels_within_limits(eps):
    """The clean risk of the perturbed samples has no minimiser; the second is constant."""
    X, y = load_digits(n_class=3, return_X_y=True)
    X = X.reshape(-1, 16, 4).mean(axis=2)[:12] / 16
    threat, radius = LpBall(1, eps, clip=(0, 1)), np.linspace(0.5, 1.5, 12)
    problem = JointProblem.from_data(
        X, y[:12], threat=threat, sample_radius=radius, fit_intercept=True
    )
    found = minimise_joint_risk(problem, LOSSES["exponential"])
    assert found.separable is False
    assert found.gap <= 1e-7
    assert found.coef.any() == (eps == 1.0)


@pytest.mark.parametrize("name", SETS)
def test_the_margin_equals_an_independent_solver(name):
    X, y = rows(9.0)
    X = X.clip(-3, 3) if name == "limits" else X
    threat, radius, support = SETS[name]
    found = min_norm_separator(
        X,
        np.array(LABELS)[y],
        p=2,
        threat=threat,
        sample_radius=radius,
        fit_intercept=True,
    )
    W, margins, rules = reference(X, y, radius, support)
    smallest = cp.minimum(*(cp.min(m) for m in margins))
    expected = solved(cp.Maximize(smallest), [*rules, cp.norm(W, "fro") <= 1])
    assert found.relative_gap <= 1e-8
    assert found.margin == pytest.approx(expected, rel=1e-7)
    assert found.perturbation.shape == (K, N, D)


def test_a_separator_whose_multipliers_are_not_unique():
    """With its first settings clarabel ends at a gap of 2e-5."""
    rng = np.random.default_rng([6, 3, 8])
    upper, lower = rng.uniform(0.05, 0.4, 5), -rng.uniform(0, 0.3, 5)
    upper[rng.integers(5)] = np.inf
    rng.random()
    rng.integers(K)
    centres, y = rng.normal(size=(K, 5)), np.arange(N) % K
    rng.normal(size=(N, 5))
    X = 2.5 * centres[y] + 0.3 * rng.normal(size=(N, 5))
    found = min_norm_separator(X, y, p=2, threat=Box(lower, upper).only(0), fit_intercept=True)
    assert found.relative_gap <= 1e-9


@pytest.mark.parametrize("n_classes", [2, 3])
def test_classes_of_which_two_samples_can_become_one(n_classes):
    """The largest margin is 0: cone programs prove nothing, corners of the sets do."""
    X = np.array([[0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1.0]])[:n_classes]
    threat = FeatureBudget(1, binary=True)
    with pytest.raises(NotSeparableError, match="threat=FeatureBudget") as caught:
        min_norm_separator(X, range(n_classes), p=2, threat=threat, fit_intercept=True)
    weights = caught.value.weights.reshape(-1, n_classes).sum(axis=0)
    np.testing.assert_allclose(weights[:2], 0.5)
    apart = X[[0, -1]] if n_classes == 3 else np.array([[0, 0, 0, 0], [1, 1, 1, 0.0]])
    assert min_norm_separator(apart, [0, 1], p=2, threat=threat, fit_intercept=True).margin > 0


@pytest.mark.parametrize("p", [1, "spectral"])
def test_the_limit_in_other_norms(p):
    X, y = rows(9.0)
    model = MinNormRobustClassifier(p=p, threat=Box(-U / 2, U)).fit(X, y)
    assert model.separable_
    assert model.dual_gap_ <= (1e-8 if p != "spectral" else 1e-6)
    assert model.robust_score(X, y) == 1


def test_the_critical_factor():
    X, y = rows(9.0)
    threat = Box(-U / 2, U)
    critical = max_margin(X, y, threat=threat, fit_intercept=True)
    assert critical.relative_gap <= 1e-6
    for factor, separates in ((0.999, True), (1.001, False)):
        larger = Box(-factor * critical.margin * U / 2, factor * critical.margin * U)
        if separates:
            found = min_norm_separator(X, y, p=2, threat=larger, fit_intercept=True)
            assert found.margin > 0
            continue
        with pytest.raises(NotSeparableError, match="threat=Box") as caught:
            min_norm_separator(X, y, p=2, threat=larger, fit_intercept=True)
        assert caught.value.eps_star == pytest.approx(1 / factor, rel=1e-6)


def test_estimators():
    X, y = rows(0.0)
    y = np.array(LABELS)[y]
    attacks = {"ant": 0.3, "bee": 0.0, "cat": 0.0}
    model = RobustLinearClassifier(eps=attacks, loss="logistic", tol=1e-6).fit(X, y)
    radius = np.where(y == "ant", 1.0, 0.0)
    same = RobustLinearClassifier(eps=0.3, loss="logistic").fit(X, y, sample_radius=radius)
    np.testing.assert_allclose(model.coef_, same.coef_, atol=1e-3)
    score = model.robust_score(X, y)
    assert score == same.robust_score(X, y, sample_radius=radius)
    assert pickle.loads(pickle.dumps(model)).robust_score(X, y) == score
    weight = np.where(np.arange(N) % 4, 1.0, 0.0)
    left_out = RobustLinearClassifier(eps=attacks, loss="logistic").fit(
        X[weight > 0], y[weight > 0]
    )
    for data in (X.astype(np.float32), sparse.csr_array(X)):
        found = RobustLinearClassifier(eps=attacks, loss="logistic").fit(data, y, weight)
        np.testing.assert_allclose(found.coef_, left_out.coef_, rtol=1e-3, atol=1e-3)
        assert found.coef_.dtype == data.dtype


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"solver": "steepest_descent"}, "needs one symmetric set .* Use solver='auto' or 'exact'"),
        ({"device": "cpu"}, "device='cpu' needs one symmetric set for all samples"),
        ({"threat": LpBall(3, {0: 0.1, 1: 0.2, 2: 0.0})}, "use l_q balls of q = 1, 2 or inf"),
    ],
)
def test_messages(options, message):
    X, y = rows(1.0)
    with pytest.raises(ValueError, match=message):
        RobustLinearClassifier(**{"threat": Box(0.0, U), **options}).fit(X, y)


def test_a_program_of_too_many_pairs_is_refused(monkeypatch):
    monkeypatch.setattr("sklearn_robust._pair_programs.MOST_ENTRIES", 100)
    with pytest.raises(ValueError, match="24 samples, 3 classes and 4 features: train on fewer"):
        RobustLinearClassifier(threat=Box(0.0, UP)).fit(*rows(1.0))


def test_auto_ends_at_a_separator_where_programs_take_hours(monkeypatch):
    for name in ("_MOST_PAIR_ENTRIES", "_MOST_DIFFERENCES"):
        monkeypatch.setattr(joint_fitting, name, 1)
    X, y = rows(9.0)
    with pytest.warns(ConvergenceWarning, match="use solver='exact', whose program may take hours"):
        model = RobustLinearClassifier(threat=Box(-U / 2, U), loss="logistic").fit(X, y)
    assert model.separable_
    assert model.robust_score(X, y) == 1


@pytest.mark.parametrize(("kind", "loss"), [("flips", "logistic"), ("categories", "exponential")])
def test_very_many_sets_of_samples_of_two_classes(kind, loss, monkeypatch):
    """One program of all samples, and Newton's method with a slot for each set, agree."""
    rng = np.random.default_rng(2)
    X = (rng.random((32, 6)) < 0.4).astype(float)
    threat = FeatureBudget(1, binary=True)
    if kind == "categories":
        X = np.hstack([np.eye(3)[rng.integers(0, 3, 32)], np.eye(3)[rng.integers(0, 3, 32)]])
        threat = OneHot([[0, 1, 2], [3, 4, 5]])
    y = np.where(X @ [2, -1, 0.5, -2, 1, 1.5] + rng.normal(size=32) > 0.5, 1.0, -1.0)

    def minimised():
        problem = RobustProblem.from_data(X, y, threat=threat, fit_intercept=True)
        return problem, minimise_robust_risk(problem, LOSSES[loss], LpNorm(2))

    _, of_slots = minimised()
    monkeypatch.setattr(adversaries, "_MOST_SLOTS", 3)
    problem, of_program = minimised()
    assert isinstance(problem.adversary, adversaries.OwnSets)
    assert of_program.gap[0] <= 1e-7
    assert of_program.log_risk[0] == pytest.approx(of_slots.log_risk[0], abs=1e-7)


def test_separators_against_very_many_sets(monkeypatch):
    rng = np.random.default_rng(3)
    X = (rng.random((16, 5)) < 0.5).astype(float)
    X[:, :3] = X[:, :1]
    y = np.where(X[:, 0] > 0, 1, -1)
    threat = FeatureBudget(1, binary=True)
    options = {"p": 1, "threat": threat, "fit_intercept": True}
    expected = min_norm_separator(X, y, **options)
    monkeypatch.setattr(adversaries, "_MOST_SLOTS", 3)
    found = min_norm_separator(X, y, **options)
    assert found.relative_gap <= 1e-8
    assert found.margin == pytest.approx(expected.margin, rel=1e-8)


def test_nothing_is_learnt_from_large_sets():
    with pytest.warns(ConstantClassifierWarning, match="threat=Box"):
        model = RobustLinearClassifier(threat=Box(-5.0, 6.0), loss="logistic").fit(*rows(1.0))
    assert not model.coef_.any()
    assert model.dual_gap_ < 1e-6


@pytest.mark.parametrize("threat", [LpBall(2, {0: 0.1, 1: 0.2, 2: 0.0}), Box(0.0, U).only(1)])
def test_certificates_of_sets_of_classes_are_valid(threat):
    X, y = rows(0.0)
    model = RobustLinearClassifier(threat=threat, loss="logistic").fit(X, y)
    valid, line = check.Proof().check(
        json.loads(model.certificate_.to_json()), X.tolist(), [str(label) for label in y]
    )
    assert valid, line


def test_sets_that_many_samples_have_are_slots_and_others_sets_of_their_own():
    rng = np.random.default_rng(0)
    X, y = rng.random((60, 4)), np.arange(60) % 3
    for rows, kind in ((X, adversaries.OwnSets), (np.eye(2)[y % 2], adversaries.Slots)):
        threat = LpBall(2, 0.1, clip=(0, 1))
        problem = JointProblem.from_data(rows, y, threat=threat, fit_intercept=True)
        assert {type(part) for part in problem.adversary.adversaries} == {kind}
