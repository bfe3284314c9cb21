"""The report on a trained direction."""

import math

import numpy as np
import pytest
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_robust import (
    MinNormRobustClassifier,
    RobustDiagonalNet,
    RobustLinearClassifier,
    implicit_bias_report,
    max_margin,
    min_norm_separator,
)
from sklearn_robust.joint import JointProblem
from sklearn_robust.linear_model._robust_linear import norm_of
from sklearn_robust.norms import LpNorm
from sklearn_robust.threats import Box, FeatureBudget


@pytest.mark.parametrize("p", [1, 2, math.inf])
def test_the_limit_itself_has_a_perfect_report(gaussian, p):
    X, y = gaussian(20, 40)
    eps = 0.3 * max_margin(X, y, q=math.inf, fit_intercept=True).margin
    report = implicit_bias_report(MinNormRobustClassifier(p, eps=eps).fit(X, y), X, y)
    assert report.cosine == pytest.approx(1)
    assert report.margin_ratio == pytest.approx(1)
    assert report.norm_ratio == pytest.approx(1)
    assert report.dual_gap <= 1e-8
    assert "certified gap" in str(report)


def test_figures_by_hand(gaussian):
    X, y = gaussian(20, 40)
    path = RobustLinearClassifier(p_algo=1, eps=0.05).fit(X, y)
    report = implicit_bias_report(path, X, y)
    assert report.margin == pytest.approx(path.margin_)
    w = path.coef_[0] / (path.margin_ * LpNorm(1).value(path.coef_[0]))  # scaled to margin 1
    assert report.norm_ratio == pytest.approx(
        LpNorm(1).value(w) / LpNorm(1).value(report.separator.coef)
    )
    assert report.margin_ratio == pytest.approx(1 / report.norm_ratio)
    assert 0 < report.margin_ratio < 1
    other = implicit_bias_report(path, X, y, p=2, eps=0.0)
    assert (other.separator.p, other.separator.eps) == (2, 0)


def test_a_set_is_compared_with_its_own_separator(gaussian):
    X, y = gaussian(20, 40)
    budget = FeatureBudget(3, 0.05)
    path = RobustLinearClassifier(threat=budget, solver="steepest_descent").fit(X, y)
    report = implicit_bias_report(path, X, y)
    exact = min_norm_separator(X, y, p=2, threat=budget, fit_intercept=True)
    assert report.margin == pytest.approx(path.margin_)
    assert report.separator.margin == pytest.approx(exact.margin)
    assert 0.9 < report.margin_ratio <= 1
    assert (report.q, report.eps, report.threat) == (None, None, path.threat_)
    assert "(p=2, threat=FeatureBudget)" in str(report)
    # a set of one class, by hand
    w, b = path.coef_[0], path.intercept_[0]
    margins = y * (X @ w + b) - np.where(y > 0, 0.1 * np.maximum(-w, 0).sum(), 0)
    grows = implicit_bias_report(path, X, y, threat=Box(0, 0.1).only(1.0))
    assert grows.margin == pytest.approx(margins.min() / np.linalg.norm(w))
    # beyond the critical factor there is no separator
    far = implicit_bias_report(path, X, y, threat=FeatureBudget(3, 50.0))
    assert far.separator is None
    assert f"for factors on the set < {far.eps_star:.4g}" in str(far)
    with pytest.raises(ValueError, match="threat takes the place of q, eps and scale"):
        implicit_bias_report(path, X, y, threat=budget, eps=0.1)


def test_scikit_learn_classifiers_and_pipelines():
    X, y = load_iris(return_X_y=True)
    X, y = X[y < 2], y[y < 2]
    model = make_pipeline(StandardScaler(), LogisticRegression(C=100)).fit(X, y)
    report = implicit_bias_report(model, X, y, p=2, q=2, eps=0.1)
    assert 0.5 < report.margin_ratio < 1
    with pytest.raises(ValueError, match="p must be given: LogisticRegression"):
        implicit_bias_report(model, X, y)


@pytest.mark.parametrize("p", [1, 2, "spectral"])
def test_several_classes_are_compared_with_their_joint_separator(p):
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((15, 20)), np.array(list("abc"))[np.arange(15) % 3]
    model = RobustLinearClassifier(p, eps=0.1, loss_tol=0, tol=1e-6, solver="exact").fit(X, y)
    report = implicit_bias_report(model, X, y)
    assert report.cosine == pytest.approx(1, abs=1e-4)
    assert report.margin_ratio == pytest.approx(1, abs=1e-5)
    assert report.margin == pytest.approx(model.margin_)
    assert (report.p, report.q, report.eps) == (p, math.inf, 0.1)
    assert f"(p={p}, q=inf, eps=0.1)" in str(report)
    early = RobustLinearClassifier(2, eps=0.1, solver="steepest_descent").fit(X, y)
    report = implicit_bias_report(early, X, y, p=p)
    problem = JointProblem.from_data(
        X, np.unique(y, return_inverse=True)[1], q=math.inf, eps=0.1, fit_intercept=True
    )
    norm = norm_of(LpNorm(p) if p != "spectral" else p, 3)
    margin = problem.robust_margins(early.coef_, early.intercept_).min()
    assert report.margin == pytest.approx(margin / norm.value(early.coef_.ravel()))
    assert report.margin_ratio == pytest.approx(report.margin / model.margin_, rel=1e-5)
    assert 0 < report.margin_ratio < 1 + 1e-9
    assert report.margin_ratio * report.norm_ratio == pytest.approx(1)
    assert report.dual_gap == pytest.approx(1 - report.margin_ratio, abs=1e-5)


def test_the_geometry_of_a_fit_in_a_matrix_norm_is_known():
    X, y = np.eye(6), np.arange(6) % 3
    for model in (RobustLinearClassifier("nuclear", eps=0.1), MinNormRobustClassifier("nuclear")):
        report = implicit_bias_report(model.fit(X, y), X, y)
        assert report.p == report.separator.p == "nuclear"
        assert report.margin_ratio == pytest.approx(1, abs=1e-3)


def test_several_classes_without_a_separator():
    X, y = load_iris(return_X_y=True)
    model = RobustLinearClassifier(eps=0.1).fit(X, y)
    for classifier in (model, OneVsRestClassifier(LogisticRegression()).fit(X, y)):
        report = implicit_bias_report(classifier, X, y, p=2, q=math.inf, eps=0.1)
        assert (report.separator, report.eps_star) == (None, 0)
        assert np.isnan(
            [report.cosine, report.margin_ratio, report.norm_ratio, report.dual_gap]
        ).all()
        assert "not linearly separable" in str(report)
    assert implicit_bias_report(model, X, y).margin == pytest.approx(model.margin_)


def test_two_classes_without_a_separator():
    X, y = load_iris(return_X_y=True)
    two = RobustLinearClassifier(eps=0.1).fit(X[y > 0], y[y > 0])
    report = implicit_bias_report(two, X[y > 0], y[y > 0])
    assert (report.separator, report.eps_star) == (None, 0)
    assert report.margin == pytest.approx(two.margin_)
    assert "smaller eps" not in str(report)
    X, y = X[y < 2], y[y < 2]
    star = max_margin(X, y, q=math.inf, fit_intercept=True).margin
    report = implicit_bias_report(RobustLinearClassifier(eps=2 * star).fit(X, y), X, y)
    assert report.eps_star == pytest.approx(star)
    assert f"for eps < eps* = {star:.4g}" in repr(report)
    assert len(repr(report)) < 200


@pytest.mark.parametrize("n_classes", [2, 3])
def test_sets_without_end(n_classes):
    """They take all of a margin; where all features have none, there is no separator."""
    rng = np.random.default_rng(0)
    y = np.arange(30) % n_classes
    X = rng.normal(size=(30, 3)) + 8 * np.eye(3)[y]
    model = LogisticRegression().fit(X, y)
    report = implicit_bias_report(model, X, y, p=2, threat=Box(0, [0, np.inf, 0]))
    assert report.margin_ratio == -np.inf
    report = implicit_bias_report(model, X, y, p=2, threat=Box(-np.inf, [0.1, 0.1, 0]))
    assert report.separator is None
    assert report.eps_star == 0


def test_a_zero_classifier(gaussian):
    X, y = gaussian(10, 20)
    model = LogisticRegression().fit(X, y)
    model.coef_ = np.zeros_like(model.coef_)
    report = implicit_bias_report(model, X, y, p=2, q=2, eps=0)
    assert math.isnan(report.cosine)
    assert report.margin_ratio == -math.inf


def test_searches_lists_and_nested_pipelines(gaussian):
    X, y = gaussian(20, 40)
    plain = str(implicit_bias_report(RobustLinearClassifier(eps=0.05).fit(X, y), X, y))
    search = GridSearchCV(RobustLinearClassifier(), {"eps": [0.05]}, cv=2)
    for model in (
        search,
        make_pipeline("passthrough", search),
        make_pipeline(make_pipeline("passthrough", search)),
    ):
        assert str(implicit_bias_report(model.fit(X, y), X.tolist(), y.tolist())) == plain


def test_the_geometry_of_the_diagonal_network_is_known(gaussian):
    X, y = gaussian(20, 40)
    report = implicit_bias_report(RobustDiagonalNet(eps=0.02).fit(X, y), X, y)
    assert (report.separator.p, report.separator.eps) == (1, 0.02)
    assert 0.5 < report.margin_ratio < 1
    assert implicit_bias_report(RobustDiagonalNet(eps=0.02).fit(X, y), X, y, p=2).separator.p == 2


def test_labels_must_be_those_of_the_training_data(gaussian):
    X, y = gaussian(10, 20)
    model = RobustLinearClassifier(eps=0.02).fit(X, y)
    with pytest.raises(ValueError, match=r"not seen in fit: \[0.0\]. Those seen are \[-1.0, 1.0\]"):
        implicit_bias_report(model, X, (y > 0).astype(float))
    with pytest.raises(ValueError, match=r"no sample of the classes \[-1.0\]"):
        implicit_bias_report(model, X[y > 0], y[y > 0])
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        implicit_bias_report(model, X, y[:5])
