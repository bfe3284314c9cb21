"""Exact robust accuracy of this library's and scikit-learn's classifiers, in model and input space."""

import itertools
import math
import pickle

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn import config_context
from sklearn.datasets import load_breast_cancer, load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_selection import SelectKBest
from sklearn.linear_model import LogisticRegression, Perceptron, RidgeClassifier, SGDClassifier
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    MaxAbsScaler,
    MinMaxScaler,
    Normalizer,
    PolynomialFeatures,
    RobustScaler,
    StandardScaler,
)
from sklearn.svm import SVC, LinearSVC

from sklearn_robust import RobustLinearClassifier, certified_radius, make_robust_scorer, robust_accuracy_score

LINEAR = [
    LogisticRegression(max_iter=1000),
    LinearSVC(),
    SGDClassifier(random_state=0),
    RidgeClassifier(),
    Perceptron(),
    RobustLinearClassifier(),
]


def brute_force(model, X, y, moves):
    """Accuracy under the worst of a set of moves of the input."""
    robust = np.ones(len(X), dtype=bool)
    for move in moves:
        robust &= model.predict(X + move) == y
    return robust.mean()


@pytest.mark.parametrize("estimator", LINEAR, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("classes", [2, 3])
def test_equals_brute_force_on_iris(estimator, classes):
    X, y = load_iris(return_X_y=True)
    X, y = StandardScaler().fit_transform(X[y >= 3 - classes]), np.array(["a", "b", "c"])[y[y >= 3 - classes]]
    model = estimator.fit(X, y)
    signs = np.array(list(itertools.product([-1.0, 1.0], repeat=4)))
    for eps in (0.0, 0.1, 0.3):
        exact = robust_accuracy_score(model, X, y, eps=eps)
        assert exact == pytest.approx(brute_force(model, X, y, eps * signs))
        corners = np.concatenate([np.eye(4), -np.eye(4)])
        assert robust_accuracy_score(model, X, y, eps=eps, q=1) == pytest.approx(brute_force(model, X, y, eps * corners))
    assert 0 < robust_accuracy_score(model, X, y, eps=0.3) < model.score(X, y)


@pytest.mark.parametrize(
    "scaler", [StandardScaler(), StandardScaler(with_mean=False), MinMaxScaler(), MaxAbsScaler(), RobustScaler()]
)
def test_input_space_moves_the_raw_features(scaler):
    X, y = load_iris(return_X_y=True)
    model = make_pipeline(scaler, SelectKBest(k=3), LogisticRegression(max_iter=1000)).fit(X, y)
    signs = np.array(list(itertools.product([-1.0, 1.0], repeat=4)))
    exact = robust_accuracy_score(model, X, y, eps=0.2, space="input")
    assert exact == pytest.approx(brute_force(model, X, y, 0.2 * signs))
    assert exact < model.score(X, y)


def test_model_space_moves_what_the_last_step_sees():
    X, y = load_iris(return_X_y=True)
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, y)
    inside = robust_accuracy_score(model[-1], model[:-1].transform(X), y, eps=0.2)
    assert robust_accuracy_score(model, X, y, eps=0.2, space="model") == inside
    assert robust_accuracy_score(model, X, y, eps=0.2, space="input") != inside


def test_accepts_frames_sparse_data_and_weights():
    X, y = load_breast_cancer(return_X_y=True, as_frame=True)
    model = make_pipeline(MaxAbsScaler(), LogisticRegression()).fit(X, y)
    score = robust_accuracy_score(model, X, y, eps=0.02)
    plain = make_pipeline(MaxAbsScaler(), LogisticRegression()).fit(X.to_numpy(), y)
    assert robust_accuracy_score(plain, sparse.csr_matrix(X.to_numpy()), y, eps=0.02) == score
    robust = certified_radius(model, X, y) > 0.02
    weights = np.where(robust, 3.0, 1.0)
    weighted = robust_accuracy_score(model, X, pd.Series(y), eps=0.02, sample_weight=weights)
    assert weighted == pytest.approx(3 * robust.sum() / weights.sum())


def test_scorer_serves_searches_and_fixes_the_threat():
    X, y = load_breast_cancer(return_X_y=True)
    scorer = make_robust_scorer(eps=0.3)
    model = make_pipeline(StandardScaler(), RobustLinearClassifier(loss="logistic"))
    search = GridSearchCV(model, {"robustlinearclassifier__eps": [0.0, 0.3]}, scoring=scorer, cv=3).fit(X, y)
    assert search.best_params_ == {"robustlinearclassifier__eps": 0.3}
    assert robust_accuracy_score(search, X, y, eps=0.3) == scorer(search, X, y) == search.score(X, y)
    scores = cross_validate(search.best_estimator_, X, y, scoring={"robust": scorer, "clean": "accuracy"}, cv=3)
    assert np.all(scores["test_robust"] < scores["test_clean"])
    assert pickle.loads(pickle.dumps(scorer))(search, X, y) == scorer(search, X, y)
    assert repr(scorer) == "make_robust_scorer(eps=0.3, q=inf, space='model')"


def test_scorer_takes_sample_weights_by_metadata_routing():
    X, y = load_iris(return_X_y=True)
    weight = np.where(y == 2, 5.0, 1.0)
    scorer = make_robust_scorer(eps=0.3).set_score_request(sample_weight=True)
    with config_context(enable_metadata_routing=True):
        model = RobustLinearClassifier().set_fit_request(sample_weight=True)
        search = GridSearchCV(model, {"eps": [0.1, 0.3]}, scoring=scorer, cv=3).fit(X, y, sample_weight=weight)
        plain = make_robust_scorer(eps=0.3).set_score_request(sample_weight=False)
        unweighted = GridSearchCV(model, {"eps": [0.1, 0.3]}, scoring=plain, cv=3).fit(X, y, sample_weight=weight)
    assert search.best_score_ != unweighted.best_score_


def test_labels_never_seen_are_never_right():
    X, y = load_iris(return_X_y=True)
    model = LogisticRegression(max_iter=1000).fit(X[y > 0], y[y > 0])
    assert robust_accuracy_score(model, X[y == 0], y[y == 0], eps=0.0) == 0
    assert np.all(certified_radius(model, X[y == 0], y[y == 0]) == -math.inf)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (RandomForestClassifier(n_estimators=2), "not a linear classifier"),
        (SVC(kernel="linear"), "does not score by"),
        (make_pipeline(Normalizer(), LogisticRegression()), "'normalizer'.*space='model'"),
        (make_pipeline(PolynomialFeatures(), LogisticRegression(max_iter=10_000)), "'polynomialfeatures'"),
        (make_pipeline(MinMaxScaler(clip=True), LogisticRegression()), "'minmaxscaler'"),
    ],
    ids=["forest", "svc", "normalizer", "polynomial", "clipped"],
)
def test_what_is_not_linear_is_refused(model, message):
    X, y = load_iris(return_X_y=True)
    model.fit(X, y)
    with pytest.raises(TypeError, match=message):
        robust_accuracy_score(model, X, y, eps=0.1, space="input")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"eps": -1}, "eps must be"), ({"eps": 0.1, "q": 0.5}, r"\[1, inf\]"), ({"eps": 0.1, "space": "raw"}, "space must be")],
)
def test_bad_threats_are_refused(arguments, message):
    X, y = load_iris(return_X_y=True)
    model = LogisticRegression(max_iter=1000).fit(X, y)
    with pytest.raises(ValueError, match=message):
        robust_accuracy_score(model, X, y, **arguments)
