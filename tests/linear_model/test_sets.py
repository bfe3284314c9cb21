"""Estimators against the sets of `sklearn_robust.threats`: limits, classes, samples, categories."""

import math
import pickle

import numpy as np
import pandas as pd
import pytest
import sklearn
from scipy import sparse
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, scale

from sklearn_robust import (
    MinNormRobustClassifier,
    RobustLinearClassifier,
    RobustLinearClassifierCV,
    make_robust_scorer,
    robust_accuracy_score,
    robust_linear_path,
)
from sklearn_robust.linear_model.lifecycle import ConstantClassifierWarning
from sklearn_robust.threats import Box, FeatureBudget, LpBall, Nothing

UPPER = np.array([0.1, 0.3, np.inf])


@pytest.fixture(scope="module")
def table():
    """Cancer data, three features by name, and labels by name."""
    X, target = load_breast_cancer(return_X_y=True)
    X = pd.DataFrame(scale(X[:, [0, 21, 27]]), columns=["radius", "texture", "points"])
    return X.clip(-2, 2), np.where(target == 1, "benign", "malignant")


def fitted(table, *, kind=RobustLinearClassifier, **options):
    return kind(loss="logistic", **options).fit(*table)


def test_a_radius_for_each_class_and_sample(table):
    X, y = table
    of_classes = fitted(table, eps={"malignant": 0.3, "benign": 0.0})
    radius = np.where(y == "malignant", 1.0, 0.0)
    of_samples = RobustLinearClassifier(eps=0.3, loss="logistic").fit(X, y, sample_radius=radius)
    np.testing.assert_allclose(of_classes.coef_, of_samples.coef_, atol=1e-6)
    assert of_classes.dual_gap_ < 1e-8
    score = of_classes.robust_score(X, y)
    assert score == of_samples.robust_score(X, y, sample_radius=radius)
    assert fitted(table, eps=0.3).robust_score(X, y, threat=of_classes.threat_) < score


def test_names_bounds_without_end_and_pickles(table):
    X, y = table
    threat = Box(lower={"radius": -0.1}, upper={"texture": 0.3, "points": np.inf}).only("benign")
    model = fitted(table, threat=threat)
    # a benign sample cannot hide by a larger value of "points": the second class is malignant
    assert model.coef_[0, 2] <= 0
    copy = pickle.loads(pickle.dumps(model))
    assert copy.robust_score(X, y) == model.robust_score(X, y)
    np.testing.assert_allclose(clone(model).fit(X, y).coef_, model.coef_)
    with pytest.raises(ValueError, match="X has no feature names"):
        clone(model).fit(X.to_numpy(), y)


def test_limits_of_the_data(table):
    X, y = table
    model = fitted(table, eps=0.3, clip=(-2, 2))
    plain = fitted(table, eps=0.3)
    assert model.log_risk_ < plain.log_risk_
    moved = model.perturb(X, y)
    assert np.all(np.abs(moved) <= 2 + 1e-12)
    margins = np.where(y == "malignant", 1, -1) * (moved @ model.coef_[0] + model.intercept_[0])
    assert np.mean(margins > 0) == model.robust_score(X, y)
    with pytest.raises(ValueError, match="clip must hold every sample"):
        RobustLinearClassifier(clip=(0, 1)).fit(X, y)


@pytest.mark.parametrize("solver", ["auto", "exact"])
@pytest.mark.parametrize("kind", [RobustLinearClassifier, MinNormRobustClassifier])
def test_separable_data_have_the_limit(kind, solver):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(30, 3))
    y = np.where(X[:, 0] > 0, "up", "down")
    X[:, 0] += np.where(y == "up", 1, -1)
    options = {"solver": solver, "loss_tol": 0} if kind is RobustLinearClassifier else {}
    for threat in (
        Box(-0.1, 0.2),
        LpBall(2, {"up": 0.2, "down": 0.0}),
        LpBall(2, 0.1) | LpBall(1, 0.2),
    ):
        model = kind(threat=threat, **options).fit(X, y)
        assert model.separable_
        assert model.dual_gap_ <= 1e-8
        assert model.robust_score(X, y) == 1
    limits = kind(clip=(-5, 5), **options).fit(X, y)
    assert limits.margin_ == pytest.approx(kind(**options).fit(X, y).margin_, rel=2e-3)


def test_single_precision_sparse_data_and_weights(table):
    X, y = table
    X = np.where(np.abs(X) > 0.3, X, 0.0)
    threat, weight = Box(-0.1, 0.3), np.where(np.arange(len(y)) % 3, 1.0, 0.0)
    model = RobustLinearClassifier(threat=threat, loss="logistic", class_weight="balanced")
    expected = clone(model).fit(X[weight > 0], y[weight > 0])
    for data in (X, sparse.csr_array(X), X.astype(np.float32)):
        found = clone(model).fit(data, y, sample_weight=weight)
        np.testing.assert_allclose(found.coef_, expected.coef_, rtol=1e-4, atol=1e-5)
        assert found.coef_.dtype == data.dtype


def test_metadata_are_routed(table):
    X, y = table
    radius = np.linspace(0, 2, len(y))
    with sklearn.config_context(enable_metadata_routing=True):
        step = RobustLinearClassifier(eps=0.2, loss="logistic").set_fit_request(sample_radius=True)
        routed = make_pipeline(StandardScaler(), step).fit(X, y, sample_radius=radius)
    plain = RobustLinearClassifier(eps=0.2, loss="logistic").fit(
        StandardScaler().fit_transform(X), y, sample_radius=radius
    )
    np.testing.assert_allclose(routed[-1].coef_, plain.coef_)


@pytest.mark.parametrize("threat", [LpBall(math.inf, 0.2, clip=(-2, 2)), FeatureBudget(1, 0.3)])
def test_cross_validation_over_factors(table, threat):
    X, y = table
    model = RobustLinearClassifierCV(2, eps=[0.5, 1.0], threat=threat, loss="logistic", cv=2).fit(
        X, y
    )
    scores = model.cv_results_["mean_test_score"]
    of_one = GridSearchCV(
        RobustLinearClassifier(loss="logistic"),
        {"threat": [threat]},
        scoring=make_robust_scorer(threat=threat),
        cv=2,
    ).fit(X, y)
    assert scores[1] == pytest.approx(of_one.best_score_)
    assert model.best_params_["eps"] in (0.5, 1.0)
    expected = robust_accuracy_score(model, X, y, threat=threat)
    assert model.robust_score(X, y) == expected
    assert model.scorer_(model, X, y) == expected


def test_cross_validation_within_limits(table):
    X, y = table
    options = {"eps": [0.1, 0.3], "threat_eps": 0.2, "clip": (-2, 2), "cv": 2}
    model = RobustLinearClassifierCV(2, loss="logistic", **options).fit(X, y)
    search = GridSearchCV(
        RobustLinearClassifier(loss="logistic", clip=(-2, 2)),
        {"eps": [0.1, 0.3]},
        scoring=make_robust_scorer(threat=LpBall(math.inf, 0.2, clip=(-2, 2))),
        cv=2,
    ).fit(X, y)
    np.testing.assert_allclose(
        model.cv_results_["mean_test_score"], search.cv_results_["mean_test_score"]
    )


def test_radii_of_samples_are_split_and_scored_by_fold(table):
    X, y = table
    radius = np.linspace(0, 2, len(y))
    options = {"eps": [0.0, 0.1, 0.3], "cv": 2}
    model = RobustLinearClassifierCV(2, loss="logistic", threat_eps=0.2, **options)
    with sklearn.config_context(enable_metadata_routing=True):
        routed = make_pipeline(StandardScaler(), model.set_fit_request(sample_radius=True))
        model = routed.fit(X, y, sample_radius=radius)[-1]
        search = GridSearchCV(
            RobustLinearClassifier(loss="logistic").set_fit_request(sample_radius=True),
            {"eps": options["eps"]},
            scoring=make_robust_scorer(eps=0.2).set_score_request(sample_radius=True),
            cv=2,
        ).fit(StandardScaler().fit_transform(X), y, sample_radius=radius)
    scores = model.cv_results_["mean_test_score"]
    np.testing.assert_allclose(scores, search.cv_results_["mean_test_score"])
    assert len(set(scores)) == 3
    np.testing.assert_allclose(model.coef_, search.best_estimator_.coef_, rtol=1e-6)


@pytest.mark.parametrize(
    "threat", [LpBall(math.inf, 0.2), LpBall(math.inf, 0.2, clip=(-2, 2)), Box(-0.1, 0.2)]
)
@pytest.mark.parametrize("n_classes", [2, 3])
def test_each_cell_of_a_path_is_a_fit_against_a_multiple(table, threat, n_classes):
    X, y = table
    y = y if n_classes == 2 else np.where(np.arange(len(y)) % 3, y, "other")
    options = {"loss": "logistic", "threat": threat, "tol": 1e-8}
    path = robust_linear_path(X, y, p=2, eps=[0.5, 2.0], **options)
    for j, factor in enumerate([0.5, 2.0]):
        alone = RobustLinearClassifier(**options).fit(X, y, sample_radius=np.full(len(y), factor))
        np.testing.assert_allclose(path.coef[0, j], alone.coef_, atol=1e-3)
    with pytest.raises(ValueError, match="threat takes the place of q and scale, got"):
        robust_linear_path(X, y, p=2, q=2, eps=0.5, threat=threat)


def test_nothing_is_learnt_from_a_large_box(table):
    with pytest.warns(ConstantClassifierWarning, match="threat=Box"):
        model = fitted(table, threat=Box(-3.0, 5.0))
    assert not model.coef_.any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"solver": "steepest_descent", "p_algo": 1},
            "another p_algo than 2 needs an l_q ball.* Use p_algo=2, or solver='auto' or 'exact'",
        ),
        ({"solver": "accelerated"}, "needs one symmetric set .* Use solver='auto' or 'exact'"),
        ({"device": "cpu"}, "device='cpu' needs one symmetric set for all samples"),
        ({"clip": (0, 1)}, "threat takes the place of q_pert, eps, scale and clip"),
    ],
)
def test_messages(table, options, message):
    with pytest.raises(ValueError, match=message):
        fitted(table, threat=Box(-0.1, 0.3), **options)


@pytest.mark.parametrize(
    ("threat", "p_algo", "n_classes"),
    [(FeatureBudget(1, 0.1), math.inf, 2), (LpBall(2, 0.1) + LpBall(math.inf, 0.1), 2, 3)],
)
def test_a_path_that_is_not_there_names_what_is(table, threat, p_algo, n_classes):
    X, y = table
    y = y if n_classes == 2 else np.where(np.arange(len(y)) % 3, y, "other")
    model = RobustLinearClassifier(p_algo, threat=threat, solver="steepest_descent")
    with pytest.raises(ValueError, match=r"'steepest_descent' .* solver='auto' or 'exact', which"):
        model.fit(X, y)


def test_messages_of_radii(table):
    X, y = table
    with pytest.raises(ValueError, match=r"eps\['benign'\] must be a finite number >= 0"):
        fitted(table, eps={"benign": -1.0, "malignant": 0.1})
    with pytest.raises(ValueError, match="eps must hold a radius for each class"):
        fitted(table, eps={"benign": 0.1})
    with pytest.raises(ValueError, match="sample_radius must hold a finite number >= 0"):
        RobustLinearClassifier().fit(X, y, sample_radius=[1.0])


def test_the_path_against_sets_tends_to_their_separator():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(30, 3))
    y = np.where(X[:, 0] > 0, 1, 0)
    X[:, 0] += np.where(y == 1, 1, -1)
    for threat in (Box(-0.1, 0.3), Box(0, 0.4).only(1), LpBall(math.inf, 0.2, clip=(-4, 4))):
        options = {"threat": threat, "solver": "steepest_descent"}
        path = RobustLinearClassifier(**options).fit(X, y)
        assert path.separable_
        assert path.n_iter_ > 1
        assert 30 * math.exp(path.log_risk_) <= 1e-3
        limit = RobustLinearClassifier(threat=threat, solver="exact").fit(X, y)
        assert 0 < path.margin_ <= path.margin_bound_ == pytest.approx(limit.margin_bound_)
        near = RobustLinearClassifier(**options, loss_tol=0, tol=0.02).fit(X, y)
        assert near.dual_gap_ <= 0.02
        paper = RobustLinearClassifier(**options, step_size="paper").fit(X, y)
        assert paper.margin_ > 0
    with pytest.raises(ValueError, match="The path of steepest descent needs sets with ends"):
        RobustLinearClassifier(
            threat=Box(0, np.array([0.1, np.inf, 0.1])).only(1), solver="steepest_descent"
        ).fit(X, y)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_no_set_is_a_ball_of_radius_0(n_classes):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(30, 2)), np.arange(30) % n_classes
    found, expected = (
        RobustLinearClassifier(loss="logistic", **given).fit(X, y)
        for given in ({"threat": Nothing()}, {"eps": 0.0})
    )
    np.testing.assert_array_equal(found.coef_, expected.coef_)


def test_one_class_has_a_set_for_each_sample_and_the_other_none():
    rng = np.random.default_rng(0)
    y = np.arange(14) % 3 % 2
    X = (rng.normal(size=(14, 2)) + 0.5 * y[:, None]).clip(-2, 2)
    threat = (LpBall(2, 0.3, clip=(-2, 2)) | LpBall(1, 0.4, clip=(-2, 2))).only(0)
    model = RobustLinearClassifier(threat=threat, loss="logistic").fit(X, y)
    assert model.dual_gap_ < 1e-6
