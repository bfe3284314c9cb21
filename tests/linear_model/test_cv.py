import math
import pickle

import numpy as np
import pytest
from joblib import parallel_config
from scipy import sparse
from sklearn import config_context
from sklearn.datasets import load_breast_cancer, load_wine
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV, GroupKFold, KFold, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_robust import (
    RobustLinearClassifier,
    RobustLinearClassifierCV,
    make_robust_scorer,
    robust_accuracy_score,
    training_radii,
)


def breast_cancer():
    X, y = load_breast_cancer(return_X_y=True)
    return StandardScaler().fit_transform(X), np.array(["benign", "malignant"])[y]


def wine():
    X, y = load_wine(return_X_y=True)
    return StandardScaler().fit_transform(X), y


def searches(X, y, p_algo, eps, *, threat_eps, threat_q, cv, fit=None, weight=None, **options):
    """GridSearchCV and this library's, fitted."""
    grid = GridSearchCV(
        RobustLinearClassifier(**options),
        {"p_algo": p_algo, "eps": eps},
        scoring=make_robust_scorer(eps=threat_eps, q=threat_q),
        cv=cv,
    )
    ours = RobustLinearClassifierCV(
        p_algo, eps=eps, threat_eps=threat_eps, threat_q=threat_q, cv=cv, **options
    )
    arguments = {} if weight is None else {"sample_weight": weight}
    return grid.fit(X, y, **arguments, **(fit or {})), ours.fit(X, y, **arguments, **(fit or {}))


def assert_same(grid, ours):
    assert ours.cv_results_.keys() == grid.cv_results_.keys()
    for name, column in grid.cv_results_.items():
        assert type(ours.cv_results_[name]) is type(column)
        assert len(ours.cv_results_[name]) == len(column)
        if name.endswith("_score"):
            np.testing.assert_allclose(ours.cv_results_[name], column, rtol=0, atol=1e-12)
        elif name.startswith("param_"):
            np.testing.assert_array_equal(ours.cv_results_[name], column)
    assert ours.cv_results_["params"] == grid.cv_results_["params"]
    assert ours.best_params_ == grid.best_params_
    assert ours.best_index_ == grid.best_index_
    assert ours.best_score_ == pytest.approx(grid.best_score_)
    assert ours.n_splits_ == grid.n_splits_
    np.testing.assert_array_equal(ours.classes_, grid.classes_)
    np.testing.assert_array_equal(ours.coef_, grid.best_estimator_.coef_)
    np.testing.assert_array_equal(ours.intercept_, grid.best_estimator_.intercept_)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("load", "p_algo", "eps", "threat_eps", "threat_q", "loss"),
    [
        (breast_cancer, [1, math.inf], [0.0, 0.3], 0.2, math.inf, "exponential"),
        (breast_cancer, [1, 2], [0.1, 0.3], 0.2, math.inf, "logistic"),
        (wine, [2, "nuclear"], [0.1, 0.5], 0.5, 2, "exponential"),
    ],
)
def test_the_search_is_that_of_grid_search(load, p_algo, eps, threat_eps, threat_q, loss):
    X, y = (part[::2] for part in load())
    options = {"threat_eps": threat_eps, "threat_q": threat_q, "loss": loss, "loss_tol": 20.0}
    assert_same(*searches(X, y, p_algo, eps, cv=2, **options))


def test_candidates_are_the_fits_that_refit_makes():
    """Their paths stop on loss_tol, far from the separator that is their limit."""
    rng = np.random.default_rng(0)
    X, w = rng.normal(size=(40, 60)), rng.normal(size=60)
    y = X @ w > 0
    assert_same(*searches(X, y, [1, math.inf], [0.0], threat_eps=0.02, threat_q=math.inf, cv=2))


@pytest.mark.slow
def test_weights_splitters_and_options():
    X, y = breast_cancer()
    rng = np.random.default_rng(0)
    cv = KFold(3, shuffle=True, random_state=0)
    assert_same(
        *searches(
            X,
            y,
            [2],
            [0.1, 0.4],
            threat_eps=0.2,
            threat_q=math.inf,
            cv=cv,
            weight=rng.uniform(size=len(y)),
            fit_intercept=False,
        )
    )
    assert_same(
        *searches(
            X,
            y,
            [1, 2],
            [0.1, 0.4],
            threat_eps=0.2,
            threat_q=2,
            cv=GroupKFold(3),
            fit={"groups": np.arange(len(y)) // 50},
            q_pert=2,
            class_weight="balanced",
            loss="logistic",
        )
    )
    assert_same(
        *searches(
            sparse.csr_array(X),
            y,
            [2],
            [0.1, 0.4],
            threat_eps=0.2,
            threat_q=math.inf,
            cv=list(cv.split(X))[:2],
        )
    )


@pytest.mark.slow
@pytest.mark.parametrize("frames", ["pandas", "polars"])
def test_frames(frames):
    library = pytest.importorskip(frames)
    X, y = (part[::2] for part in wine())
    options = {"eps": (0.3, 0.5), "threat_eps": 0.3, "cv": 2, "loss_tol": 20.0}
    frame = library.DataFrame(
        X, **{"columns" if frames == "pandas" else "schema": [f"x{i}" for i in range(X.shape[1])]}
    )
    model = RobustLinearClassifierCV(2, **options).fit(frame, y)
    assert (
        model.feature_names_in_.tolist()
        == model.best_estimator_.feature_names_in_.tolist()
        == list(frame.columns)
    )
    plain = RobustLinearClassifierCV(2, **options).fit(X, y)
    np.testing.assert_allclose(model.coef_, plain.coef_, rtol=0, atol=1e-9)
    np.testing.assert_array_equal(model.predict(frame), plain.predict(X))


@pytest.mark.slow
def test_auto_radii_come_from_the_data():
    X, y = (part[::2] for part in wine())
    model = RobustLinearClassifierCV(2, threat_eps=0.3, cv=2, loss_tol=20.0).fit(X, y)
    np.testing.assert_array_equal(model.cv_results_["param_eps"].data, training_radii(X, y))


@pytest.mark.slow
def test_auto_radii_are_shares_of_the_distance_of_the_class_means():
    X, y = breast_cancer()
    half = 0.5 * np.abs(X[y == "benign"].mean(axis=0) - X[y == "malignant"].mean(axis=0)).max()
    for unit in (1, 100):
        model = RobustLinearClassifierCV(2, threat_eps=unit, cv=2, loss_tol=20.0).fit(unit * X, y)
        expected = np.geomspace(half / 50, half, 9)[:-1]
        np.testing.assert_allclose(
            model.cv_results_["param_eps"].data.astype(float) / unit, expected, rtol=1e-9
        )


def test_a_fold_whose_test_samples_weigh_nothing_is_named():
    X, y = breast_cancer()
    halves = np.arange(len(y)) % 2 == 0
    splits = [
        (np.flatnonzero(halves), np.flatnonzero(~halves)),
        (np.flatnonzero(~halves), np.flatnonzero(halves)[:9]),
    ]
    weight = np.ones(len(y))
    weight[splits[1][1]] = 0
    model = RobustLinearClassifierCV(2, eps=[0.1, 0.2], threat_eps=0.1, cv=splits)
    with pytest.raises(
        ValueError, match=r"sample_weight must be positive for a test .* zeros alone in fold 1"
    ):
        model.fit(X, y, weight)


@pytest.mark.slow
def test_what_is_fitted():
    X, y = wine()
    model = RobustLinearClassifierCV((1, 2), eps=(0.3, 0.5), threat_eps=0.4, cv=2, n_jobs=2)
    with parallel_config("threading"):
        model.fit(X, y)
    alone = RobustLinearClassifier(**model.best_params_).fit(X, y)
    np.testing.assert_array_equal(model.coef_, alone.coef_)
    np.testing.assert_array_equal(model.predict_proba(X), alone.predict_proba(X))
    assert (
        model.robust_score(X, y) == alone.robust_score(X, y, eps=0.4) == model.scorer_(model, X, y)
    )
    assert model.robust_score(X, y, eps=0.1) == robust_accuracy_score(alone, X, y, eps=0.1)
    assert model.score(X, y) == alone.score(X, y)
    np.testing.assert_array_equal(model.perturb(X, y), alone.perturb(X, y, eps=0.4))
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict(X), model.predict(X))


@pytest.mark.slow
def test_without_refit_there_are_scores_alone():
    X, y = wine()
    model = RobustLinearClassifierCV(2, eps=(0.3, 0.5), threat_eps=0.4, cv=2).fit(X, y)
    best = model.best_params_
    model.set_params(refit=False).fit(X, y)
    assert model.best_params_ == best
    assert not hasattr(model, "best_estimator_")
    with pytest.raises(NotFittedError):
        model.predict(X)


@pytest.mark.slow
def test_metadata_routing_brings_weights_and_groups():
    X, y = wine()
    weight, groups = np.arange(len(y)) % 4, np.arange(len(y)) % 5
    options = {"eps": (0.3, 0.5), "threat_eps": 0.4, "cv": GroupKFold(2), "loss_tol": 20.0}
    model = RobustLinearClassifierCV(2, **options)
    with config_context(enable_metadata_routing=True):
        scaler = StandardScaler().set_fit_request(sample_weight=False)
        routed = make_pipeline(scaler, model.set_fit_request(sample_weight=True, groups=True))
        routed.fit(X, y, sample_weight=weight, groups=groups)
    plain = RobustLinearClassifierCV(2, **options)
    plain.fit(StandardScaler().fit_transform(X), y, sample_weight=weight, groups=groups)
    np.testing.assert_array_equal(routed[-1].coef_, plain.coef_)
    np.testing.assert_array_equal(
        routed[-1].cv_results_["mean_test_score"], plain.cv_results_["mean_test_score"]
    )


def test_messages(gaussian):
    X, y = gaussian(40, 5, noise=0.5)
    with pytest.raises(ValueError, match="threat_eps must be given"):
        RobustLinearClassifierCV().fit(X, y)
    with pytest.raises(ValueError, match="threat_eps must be a finite number >= 0, got -1"):
        RobustLinearClassifierCV(threat_eps=-1).fit(X, y)
    with pytest.raises(ValueError, match="eps must be a finite number >= 0, got 'best'"):
        RobustLinearClassifierCV(threat_eps=0.1, eps="best").fit(X, y)
    with pytest.raises(ValueError, match=r"scale must hold a number >= 0 .* got 'training'"):
        RobustLinearClassifierCV(threat_eps=0.1, scale="training").fit(X, y)
    with pytest.raises(ValueError, match=r"p_algo must be a real number in \[1, inf\], got 0"):
        RobustLinearClassifierCV((0, 2), threat_eps=0.1).fit(X, y)
    with pytest.raises(ValueError, match="refit must be one of"):
        RobustLinearClassifierCV(threat_eps=0.1, refit="best").fit(X, y)
    with pytest.raises(ValueError, match="at least two classes"):
        RobustLinearClassifierCV(threat_eps=0.1, cv=KFold(2)).fit(X, np.arange(40) < 20)
    with pytest.warns(ConvergenceWarning) as caught:
        RobustLinearClassifierCV(
            2,
            eps=(0.0, 0.01),
            threat_eps=0.1,
            solver="steepest_descent",
            max_iter=2,
            cv=StratifiedKFold(2),
            refit=False,
        ).fit(*gaussian(20, 50))
    assert len(caught) == 1  # one for all folds
    assert "RobustLinearClassifierCV: 4 of 4 fits stopped" in str(caught[0].message)
