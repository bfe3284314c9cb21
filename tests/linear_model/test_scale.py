"""Per-feature budgets, end to end: what holds for every estimator and function that takes a
scale."""

import warnings

import cvxpy as cp
import numpy as np
import pandas as pd
import polars as pl
import pytest
from scipy import sparse
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_robust import (
    MinNormRobustClassifier,
    RobustDiagonalNet,
    RobustLinearClassifier,
    RobustLinearClassifierCV,
    certified_radius,
    implicit_bias_report,
    make_robust_scorer,
    robust_accuracy_score,
    robust_linear_path,
    training_radii,
)

EXPONENTS = [1, 1.5, 2, np.inf]
RNG = np.random.default_rng(0)
SEPARABLE = RNG.standard_normal((20, 30)), np.sign(RNG.standard_normal(20))
SIX = RNG.standard_normal((60, 6))
NOISY = (
    SIX,
    np.where(SIX @ [0.5, 1.0, -1.0, 0.5, 0.3, 0.0] + RNG.standard_normal(60) > 0, "up", "down"),
)
SCALE = np.array([0.0, 0.5, 1.0, 2.0, 0.0, 1.0])
CLASSIFIERS = {
    "linear": RobustLinearClassifier(p_algo=2),
    "coordinate": RobustLinearClassifier(p_algo=1, loss="logistic"),
    "exact": RobustLinearClassifier(p_algo=2, solver="exact"),
    "min norm": MinNormRobustClassifier(not_separable="raise"),
    "diagonal": RobustDiagonalNet(),
}


# every classifier, and every exponent of the threat
PAIRS = [
    ("linear", 1),
    ("linear", np.inf),
    ("coordinate", 2),
    ("exact", 1.5),
    ("min norm", np.inf),
    ("min norm", 1.5),
    ("diagonal", 1),
]


def fitted(model, data, **parameters):
    return clone(model).set_params(**parameters).fit(*data)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "q"), PAIRS)
def test_a_uniform_scale_is_a_radius(name, q):
    X, y = SEPARABLE
    plain = fitted(CLASSIFIERS[name], (X, y), q_pert=q, eps=0.1)
    scaled = fitted(CLASSIFIERS[name], (X, y), q_pert=q, eps=0.2, scale=np.full(30, 0.5))
    np.testing.assert_allclose(scaled.coef_, plain.coef_, atol=1e-9 * np.abs(plain.coef_).max())
    assert scaled.margin_ == pytest.approx(plain.margin_, rel=1e-9)
    assert scaled.robust_score(X, y) == plain.robust_score(X, y)
    np.testing.assert_allclose(scaled.perturb(X, y), plain.perturb(X, y), atol=1e-10)
    np.testing.assert_allclose(
        scaled.certified_radius(X, y), 2 * plain.certified_radius(X, y), rtol=1e-8
    )


@pytest.mark.slow
@pytest.mark.parametrize(("name", "q"), PAIRS)
def test_separable_fits_reach_the_certified_gap_of_the_scaled_problem(name, q):
    X, y = SEPARABLE
    scale = np.tile(SCALE, 5)
    model = fitted(CLASSIFIERS[name], (X, y), q_pert=q, eps=0.3, scale=scale, fit_intercept=False)
    assert model.separable_ is True
    p = 1 if name in ("coordinate", "diagonal") else 2
    w, margin = cp.Variable(30), cp.Variable()
    dual = {1: np.inf, 1.5: 3, 2: 2, np.inf: 1}[q]
    worst = cp.multiply(y, X @ w) - 0.3 * cp.norm(cp.multiply(scale, w), dual)
    largest = cp.Problem(cp.Maximize(margin), [worst >= margin, cp.norm(w, p) <= 1]).solve(
        solver=cp.CLARABEL
    )
    assert model.margin_ <= largest * (1 + 1e-6)
    assert model.margin_bound_ >= largest * (1 - 1e-6)
    assert model.margin_ > 0
    if name in ("exact", "min norm"):
        assert model.margin_ == pytest.approx(largest, rel=1e-6)


@pytest.mark.slow
@pytest.mark.pairwise
@pytest.mark.parametrize("loss", ["exponential", "logistic"])
@pytest.mark.parametrize("q", EXPONENTS)
@pytest.mark.parametrize("eps", [0.1, 2.0])
def test_the_minimiser_of_the_risk_is_that_of_a_cone_solver(q, loss, eps):
    X, labels = NOISY
    y = np.where(labels == "up", 1.0, -1.0)
    model = RobustLinearClassifier(q_pert=q, eps=eps, loss=loss, scale=SCALE, tol=1e-8).fit(
        X, labels
    )
    assert model.separable_ is False
    assert model.dual_gap_ <= 1e-8
    w, b = cp.Variable(6), cp.Variable()
    dual = {1: np.inf, 1.5: 3, 2: 2, np.inf: 1}[q]
    margins = cp.multiply(y, X @ w + b) - eps * cp.norm(cp.multiply(SCALE, w), dual)
    risk = cp.log_sum_exp(-margins) if loss == "exponential" else cp.sum(cp.logistic(-margins))
    least = cp.Problem(cp.Minimize(risk)).solve(solver=cp.CLARABEL)
    reached = y * (X @ model.coef_[0] + model.intercept_[0]) - eps * np.linalg.norm(
        SCALE * model.coef_[0], dual
    )
    value = (
        np.log(np.exp(-reached).sum())
        if loss == "exponential"
        else np.log1p(np.exp(-reached)).sum()
    )
    assert value == pytest.approx(least, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("q", [1.5, np.inf])
def test_a_scale_of_zero_is_the_limit_of_tiny_ones(q):
    tiny = np.where(SCALE == 0, 1e-5, SCALE)
    zero, near = (
        RobustLinearClassifier(q_pert=q, eps=0.3, scale=s, tol=1e-8).fit(*NOISY)
        for s in (SCALE, tiny)
    )
    np.testing.assert_allclose(near.coef_, zero.coef_, atol=1e-4)
    X, y = SEPARABLE
    zero, near = (
        MinNormRobustClassifier(q_pert=q, eps=0.3, scale=np.tile(s, 5)).fit(X, y)
        for s in (SCALE, tiny)
    )
    assert near.margin_ == pytest.approx(zero.margin_, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_scale_of_zeros_leaves_no_adversary(name):
    X, y = SEPARABLE
    clean, scaled = (
        fitted(CLASSIFIERS[name], (X, y), eps=0.0),
        fitted(CLASSIFIERS[name], (X, y), eps=5.0, scale=np.zeros(30)),
    )
    np.testing.assert_allclose(scaled.coef_, clean.coef_, atol=1e-9 * np.abs(clean.coef_).max())
    assert scaled.robust_score(X, y) == clean.score(X, y) == 1
    assert np.all(scaled.certified_radius(X) == np.inf)
    np.testing.assert_array_equal(scaled.perturb(X, y), X)


@pytest.mark.parametrize("q", [1, 2, np.inf])
def test_perturbed_points_obey_the_scale_and_no_random_one_is_worse(q):
    X, y = NOISY
    model = RobustLinearClassifier(q_pert=q, eps=0.4, scale=SCALE).fit(X, y)
    moves = model.perturb(X, y) - X
    movable = SCALE > 0
    assert np.all(moves[:, ~movable] == 0)
    np.testing.assert_allclose(
        np.linalg.norm(moves[:, movable] / SCALE[movable], q, axis=1), 0.4, rtol=1e-10
    )
    sign = np.where(y == "up", 1, -1)
    worst = sign * model.decision_function(X + moves)
    rng = np.random.default_rng(1)
    for _ in range(50):
        u = rng.standard_normal(X.shape)
        u *= 0.4 / np.linalg.norm(u, q, axis=1, keepdims=True)
        assert np.all(sign * model.decision_function(X + SCALE * u) >= worst - 1e-12)
    # at the certified radius the decision is about to change
    radius = model.certified_radius(X, y)
    at = X - sign[:, None] * radius[:, None] * SCALE * _worst_direction(SCALE * model.coef_[0], q)
    np.testing.assert_allclose(model.decision_function(at), 0, atol=1e-9)


def _worst_direction(v, q):
    if q == 1:
        return np.sign(v) * (np.arange(len(v)) == np.abs(v).argmax())
    return np.sign(v) if q == np.inf else v / np.linalg.norm(v)


def test_the_training_scale_is_the_default_and_can_be_left_out():
    X, y = NOISY
    model = RobustLinearClassifier(eps=0.3, scale=SCALE).fit(X, y)
    assert model.robust_score(X, y) == robust_accuracy_score(model, X, y, eps=0.3, scale=SCALE)
    assert model.robust_score(X, y, scale=None) == robust_accuracy_score(model, X, y, eps=0.3)
    assert model.robust_score(X, y, scale=None) < model.robust_score(X, y)
    np.testing.assert_array_equal(model.certified_radius(X, scale=None), certified_radius(model, X))


@pytest.mark.parametrize(
    "frame",
    [pd.DataFrame, lambda X, columns: pl.DataFrame(X, schema=columns)],
    ids=["pandas", "polars"],
)
def test_features_are_scaled_by_name(frame):
    X, y = NOISY
    table = frame(X, columns=list("abcdef"))
    by_name = {"a": 0, "b": 0.5, "d": 2.0, "e": 0}
    named = RobustLinearClassifier(eps=0.3, scale=by_name).fit(table, y)
    plain = RobustLinearClassifier(eps=0.3, scale=SCALE).fit(X, y)
    np.testing.assert_allclose(named.coef_, plain.coef_, rtol=1e-12)
    np.testing.assert_array_equal(named.scale_, SCALE)
    assert named.robust_score(table, y, scale={"a": 3.0}) == plain.robust_score(
        X, y, scale=[3, 1, 1, 1, 1, 1]
    )
    assert robust_accuracy_score(named, table, y, eps=0.3, scale=by_name) == plain.robust_score(
        X, y
    )


def test_scale_lives_in_the_space_of_eps():
    data = load_breast_cancer(as_frame=True)
    X, y = data.data, data.target
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, y)
    only = {name: 0.0 for name in X.columns if not name.startswith("mean")}
    inside = robust_accuracy_score(
        model, X, y, eps=0.3, scale=[float(name.startswith("mean")) for name in X.columns]
    )
    # a threat on raw features, each by its standard deviation, is the same one
    deviations = X.std(ddof=0) * [name.startswith("mean") for name in X.columns]
    assert (
        robust_accuracy_score(model, X, y, eps=0.3, scale=deviations.to_numpy(), space="input")
        == inside
    )
    with pytest.raises(ValueError, match="names features"):
        robust_accuracy_score(LogisticRegression().fit(*NOISY), *NOISY, eps=0.3, scale=only)
    assert robust_accuracy_score(
        model, X, y, eps=0.005, scale=only, space="input"
    ) > robust_accuracy_score(model, X, y, eps=0.005, space="input")
    frames = make_pipeline(
        StandardScaler().set_output(transform="pandas"), LogisticRegression()
    ).fit(X, y)
    assert robust_accuracy_score(frames, X, y, eps=0.3, scale=only) == inside


def test_scorer_fixes_the_scale():
    X, y = NOISY
    scorer = make_robust_scorer(eps=0.3, scale=SCALE)
    search = GridSearchCV(
        RobustLinearClassifier(scale=SCALE), {"eps": [0.0, 0.3]}, scoring=scorer, cv=3
    ).fit(X, y)
    assert scorer(search, X, y) == robust_accuracy_score(search, X, y, eps=0.3, scale=SCALE)
    assert "scale" in repr(scorer)
    assert "scale" not in repr(make_robust_scorer(eps=0.3))


@pytest.mark.slow
def test_report_compares_with_the_separator_of_the_same_scale():
    X, y = SEPARABLE
    scale = np.tile(SCALE, 5)
    model = RobustLinearClassifier(eps=0.1, scale=scale, loss_tol=0, fit_intercept=False).fit(X, y)
    report = implicit_bias_report(model, X, y)
    assert report.margin_ratio > 0.99
    assert report.cosine > 0.99
    np.testing.assert_array_equal(report.separator.scale, scale)
    assert implicit_bias_report(model, X, y, scale=None).separator.scale is None


def test_sparse_and_float32_data_and_several_classes():
    X, y = NOISY
    dense = RobustLinearClassifier(eps=0.3, scale=SCALE).fit(X, y)
    np.testing.assert_allclose(
        RobustLinearClassifier(eps=0.3, scale=SCALE).fit(sparse.csr_array(X), y).coef_,
        dense.coef_,
        atol=1e-6,
    )
    single = RobustLinearClassifier(eps=0.3, scale=SCALE).fit(X.astype(np.float32), y)
    assert single.coef_.dtype == np.float32
    np.testing.assert_allclose(single.coef_, dense.coef_, atol=1e-4)
    labels = (y == "up") + (X[:, 1] > 0).astype(int)
    moved = np.where(SCALE > 0, SCALE, 0.5)
    several = RobustLinearClassifier(eps=0.1, scale=moved, tol=1e-9).fit(X, labels)
    plain = RobustLinearClassifier(eps=0.1, tol=1e-9).fit(X / moved, labels)
    np.testing.assert_allclose(several.coef_ * moved, plain.coef_, atol=1e-4)
    several = RobustLinearClassifier(eps=0.3, scale=SCALE).fit(X, labels)
    assert 0 <= several.robust_score(X, labels) <= several.score(X, labels)


@pytest.mark.slow
@pytest.mark.parametrize("q", [1, 2, np.inf])
def test_torch_agrees_with_numpy(q):
    X, y = SEPARABLE
    scale = np.tile(SCALE, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        models = [
            RobustLinearClassifier(
                q_pert=q,
                eps=0.2,
                scale=scale,
                solver="steepest_descent",
                max_iter=50,
                device=device,
            ).fit(X, y)
            for device in (None, "cpu")
        ]
    np.testing.assert_allclose(models[0].coef_, models[1].coef_, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        (
            [1.0, -1.0, 1, 1, 1, 1],
            r"scale must hold finite numbers >= 0, got -1 for feature 1. Use 0",
        ),
        ([1.0, np.nan, 1, 1, 1, 1], "got nan for feature 1"),
        ([np.inf, 1, 1, 1, 1, 1], "got inf for feature 0"),
        ([1.0, 2.0], "scale must hold a number for each of the 6 features, got 2"),
        (2.0, "shape"),
        ("training", "scale must hold a number"),
        ({"a": 1.0}, "X has no feature names"),
    ],
)
def test_bad_scales_are_refused(scale, message):
    for model in CLASSIFIERS.values():
        with pytest.raises(ValueError, match=message):
            fitted(model, NOISY, scale=scale)
    with pytest.raises(ValueError, match=message):
        robust_accuracy_score(LogisticRegression().fit(*NOISY), *NOISY, eps=0.1, scale=scale)


def test_unknown_names_are_refused():
    X, y = NOISY
    table = pd.DataFrame(X, columns=list("abcdef"))
    with pytest.raises(ValueError, match=r"names features that X does not have: \['age'\]"):
        RobustLinearClassifier(scale={"age": 0.0}).fit(table, y)
    with pytest.raises(ValueError, match="got -1"):
        make_robust_scorer(eps=0.1, scale={"age": -1.0})


@pytest.mark.slow
@pytest.mark.parametrize("data", [SEPARABLE, NOISY], ids=["separable", "noisy"])
def test_a_path_holds_the_single_fits(data):
    X, y = data
    scale = np.resize(SCALE, X.shape[1])
    path = robust_linear_path(X, y, p=[1, 2], q=np.inf, eps=[0.1, 0.4], scale=scale)
    for i, p, eps in [(0, 1, 0.1), (1, 2, 0.4)]:
        one = RobustLinearClassifier(p, eps=eps, scale=scale).fit(X, y)
        np.testing.assert_allclose(path.coef[i, i], one.coef_, atol=2e-3 * np.abs(one.coef_).max())
        assert path.separable[i, i, 0] == one.separable_


def test_cross_validation_scores_as_a_grid_search_with_the_same_scale():
    X, y = NOISY
    table = pd.DataFrame(X, columns=list("abcdef"))
    scale = {"a": 0.0, "b": 0.5, "d": 2.0, "e": 0.0}
    grid = {"p_algo": [2.0], "eps": [0.1, 0.5]}
    ours = RobustLinearClassifierCV((2.0,), eps=[0.1, 0.5], threat_eps=0.4, scale=scale, cv=3).fit(
        table, y
    )
    scorer = make_robust_scorer(eps=0.4, scale=scale)
    theirs = GridSearchCV(RobustLinearClassifier(scale=scale), grid, scoring=scorer, cv=3).fit(
        table, y
    )
    np.testing.assert_allclose(
        ours.cv_results_["mean_test_score"], theirs.cv_results_["mean_test_score"]
    )
    assert ours.best_params_ == theirs.best_params_
    np.testing.assert_array_equal(ours.scale_, SCALE)
    assert ours.robust_score(table, y) == ours.scorer_(ours, table, y) == theirs.score(table, y)
    auto = RobustLinearClassifierCV((2.0,), threat_eps=0.4, scale=scale, cv=3).fit(table, y)
    np.testing.assert_allclose(
        sorted(set(auto.cv_results_["param_eps"])), training_radii(table, y, n_eps=8, scale=scale)
    )


def test_training_radii_of_scaled_features():
    X, y = NOISY
    np.testing.assert_allclose(
        training_radii(X, y, scale=np.full(6, 0.5)), 2 * training_radii(X, y), rtol=1e-6
    )
    reachable = SCALE > 0
    expected = training_radii(X[:, reachable] / SCALE[reachable], y)
    # not separable: only the mark counts
    np.testing.assert_allclose(training_radii(X, y, scale=SCALE), expected)
    X, y = SEPARABLE
    # separable at every eps by what is out of reach
    radii = training_radii(X, y, q=2, scale=np.arange(30) % 2.0)
    assert np.all(np.isfinite(radii))
    assert np.all(np.diff(radii) > 0)
