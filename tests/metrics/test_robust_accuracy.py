"""Exact robust accuracy of this library's and scikit-learn's classifiers, in model and input
space."""

import itertools
import math
import pickle
import tracemalloc

import numpy as np
import pandas as pd
import polars as pl
import pytest
from scipy import sparse
from sklearn import config_context
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.datasets import load_breast_cancer, load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import UnsetMetadataPassedError
from sklearn.feature_selection import SelectKBest
from sklearn.linear_model import LogisticRegression, Perceptron, RidgeClassifier, SGDClassifier
from sklearn.metrics import get_scorer
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MaxAbsScaler,
    MinMaxScaler,
    Normalizer,
    PolynomialFeatures,
    RobustScaler,
    StandardScaler,
)
from sklearn.svm import SVC, LinearSVC

from sklearn_robust import (
    RobustLinearClassifier,
    certified_radius,
    make_robust_scorer,
    robust_accuracy_score,
)

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


@pytest.mark.slow
@pytest.mark.parametrize("estimator", LINEAR, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("classes", [2, 3])
def test_equals_brute_force_on_iris(estimator, classes):
    X, y = load_iris(return_X_y=True)
    X, y = (
        StandardScaler().fit_transform(X[y >= 3 - classes]),
        np.array(["a", "b", "c"])[y[y >= 3 - classes]],
    )
    model = estimator.fit(X, y)
    signs = np.array(list(itertools.product([-1.0, 1.0], repeat=4)))
    for eps in (0.0, 0.1, 0.3):
        exact = robust_accuracy_score(model, X, y, eps=eps)
        assert exact == pytest.approx(brute_force(model, X, y, eps * signs))
        corners = np.concatenate([np.eye(4), -np.eye(4)])
        assert robust_accuracy_score(model, X, y, eps=eps, q=1) == pytest.approx(
            brute_force(model, X, y, eps * corners)
        )
    assert 0 < robust_accuracy_score(model, X, y, eps=0.3) < model.score(X, y)


@pytest.mark.parametrize(
    "scaler",
    [
        StandardScaler(),
        StandardScaler(with_mean=False),
        StandardScaler(with_std=False),
        MinMaxScaler(),
        MaxAbsScaler(),
        RobustScaler(),
        RobustScaler(with_centering=False),
        RobustScaler(with_scaling=False),
    ],
    ids=repr,
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


CONTAINERS = {
    "list": lambda X: X.tolist(),
    "pandas": lambda X: pd.DataFrame(X, columns=[f"x{j}" for j in range(X.shape[1])]),
    "polars": lambda X: pl.DataFrame(X, schema=[f"x{j}" for j in range(X.shape[1])]),
    "Fortran": np.asfortranarray,
    **{
        name: getattr(sparse, name)
        for name in (
            "csr_array",
            "csc_matrix",
            "coo_matrix",
            "coo_array",
            "bsr_array",
            "lil_array",
            "dok_array",
        )
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("convert", CONTAINERS.values(), ids=CONTAINERS)
def test_every_container_that_fit_takes_gives_the_same_figures(convert):
    X, y = (part[::5] for part in load_iris(return_X_y=True))
    plain = RobustLinearClassifier(eps=0.2).fit(X, y)
    model = RobustLinearClassifier(eps=0.2).fit(convert(X), y)
    assert model.log_risk_ == pytest.approx(plain.log_risk_, abs=2e-3)  # each within its tol
    model.coef_, model.intercept_ = plain.coef_, plain.intercept_
    assert model.robust_score(convert(X), y.tolist()) == pytest.approx(plain.robust_score(X, y))
    np.testing.assert_allclose(
        model.certified_radius(convert(X), y.tolist()), plain.certified_radius(X, y), rtol=1e-4
    )
    np.testing.assert_allclose(model.perturb(convert(X), y.tolist()), plain.perturb(X, y))
    pipeline = make_pipeline(MaxAbsScaler(), LogisticRegression()).fit(convert(X), y)
    same = make_pipeline(MaxAbsScaler(), LogisticRegression()).fit(X, y)
    for space in ("model", "input"):
        np.testing.assert_allclose(
            certified_radius(pipeline, convert(X), space=space),
            certified_radius(same, X, space=space),
        )


def test_a_read_only_row_of_float16_and_no_row():
    X, y = load_iris(return_X_y=True)
    model = RobustLinearClassifier(eps=0.2).fit(X, y)
    row = X[:1].astype(np.float16)
    row.setflags(write=False)
    assert model.robust_score(row, y[:1]) == 1
    assert model.perturb(row, y[:1]).shape == (1, 4)
    with pytest.raises(ValueError, match="0 sample"):
        model.robust_score(X[:0], y[:0])


@pytest.mark.slow
def test_nested_pipelines_and_searches_are_unwrapped():
    X, y = (part[::3] for part in load_iris(return_X_y=True))
    flat = make_pipeline(
        StandardScaler(), MinMaxScaler(), SelectKBest(k=3), RobustLinearClassifier()
    ).fit(X, y)
    search = GridSearchCV(RobustLinearClassifier(), {"eps": [0.1]}, cv=2)
    nests = [
        make_pipeline(
            make_pipeline(StandardScaler(), MinMaxScaler()),
            make_pipeline(SelectKBest(k=3), RobustLinearClassifier()),
        ),
        make_pipeline(
            StandardScaler(),
            MinMaxScaler(),
            FunctionTransformer(),
            "passthrough",
            SelectKBest(k=3),
            search,
        ),
        GridSearchCV(
            make_pipeline(StandardScaler(), MinMaxScaler(), SelectKBest(), search),
            {"selectkbest__k": [3]},
            cv=2,
        ),
        make_pipeline(
            make_pipeline(StandardScaler(), "passthrough"),
            MinMaxScaler(),
            make_pipeline(SelectKBest(k=3), search),
        ),
    ]
    for nest in nests:
        nest.fit(X, y)
        for space in ("model", "input"):
            threat = {"eps": 0.02, "q": 2, "space": space}
            assert make_robust_scorer(**threat)(nest, X, y) == robust_accuracy_score(
                flat, X, y, **threat
            )
            np.testing.assert_allclose(
                certified_radius(nest, X, space=space), certified_radius(flat, X, space=space)
            )


def test_a_function_is_not_taken_for_the_identity():
    X, y = load_iris(return_X_y=True)
    model = make_pipeline(FunctionTransformer(np.log1p), LogisticRegression()).fit(X, y)
    assert robust_accuracy_score(model, X, y, eps=0.0) == model.score(X, y)
    with pytest.raises(TypeError, match=r"functiontransformer.*not known to be affine"):
        robust_accuracy_score(model, X, y, eps=0.1, space="input")


class Stump(ClassifierMixin, BaseEstimator):
    """Not linear, and knows its own robust score: the share of samples further than eps from
    zero."""

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        return self

    def predict(self, X):
        return self.classes_[(X[:, 0] > 0).astype(int)]

    def robust_score(self, X, y, sample_weight=None, *, eps, q):
        return np.average(np.abs(X[:, 0]) > eps, weights=sample_weight)


def test_a_classifier_that_scores_itself_is_asked_in_pipelines_and_searches_too():
    X, y = load_breast_cancer(return_X_y=True)
    inside = StandardScaler().fit_transform(X)
    expected = robust_accuracy_score(Stump().fit(inside, y), inside, y, eps=0.3)
    assert expected == np.mean(np.abs(inside[:, 0]) > 0.3)
    model = make_pipeline(StandardScaler(), Stump()).fit(X, y)
    search = GridSearchCV(
        model, {"standardscaler__with_mean": [True]}, scoring=make_robust_scorer(eps=0.3)
    ).fit(X, y)
    assert robust_accuracy_score(model, X, y, eps=0.3) == search.score(X, y) == expected
    with pytest.raises(TypeError, match="Stump is not a linear classifier"):
        robust_accuracy_score(model, X, y, eps=0.3, space="input")


@pytest.mark.slow
def test_scorer_serves_searches_and_fixes_the_threat():
    X, y = load_breast_cancer(return_X_y=True)
    X, y = X[::2], y[::2]
    scorer = make_robust_scorer(eps=0.3)
    model = make_pipeline(StandardScaler(), RobustLinearClassifier(loss="logistic"))
    search = GridSearchCV(
        model, {"robustlinearclassifier__eps": [0.0, 0.3]}, scoring=scorer, cv=3
    ).fit(X, y)
    assert search.best_params_ == {"robustlinearclassifier__eps": 0.3}
    assert (
        robust_accuracy_score(search, X, y, eps=0.3) == scorer(search, X, y) == search.score(X, y)
    )
    scores = cross_validate(
        search.best_estimator_, X, y, scoring={"robust": scorer, "clean": "accuracy"}, cv=3
    )
    assert np.all(scores["test_robust"] < scores["test_clean"])
    assert pickle.loads(pickle.dumps(scorer))(search, X, y) == scorer(search, X, y)
    assert repr(scorer) == "make_robust_scorer(eps=0.3, q=inf, space='model')"
    assert get_scorer(scorer) is scorer
    assert repr(clone(search).scoring) == repr(scorer)


def test_searches_pass_sample_weights_to_each_of_several_scorers():
    X, y = load_iris(return_X_y=True)
    weight = np.where(y == 2, 5.0, 1.0)
    scorer = make_robust_scorer(eps=0.3)
    search = GridSearchCV(RobustLinearClassifier(), {"eps": [0.1, 0.3]}, scoring=scorer, cv=2).fit(
        X, y, sample_weight=weight
    )
    several = GridSearchCV(
        RobustLinearClassifier(),
        {"eps": [0.1, 0.3]},
        scoring={"robust": scorer, "clean": "accuracy"},
        refit="robust",
        cv=2,
    ).fit(X, y, sample_weight=weight)
    assert several.best_score_ == search.best_score_


def test_scorer_takes_sample_weights_by_metadata_routing():
    X, y = load_iris(return_X_y=True)
    weight = np.where(y == 2, 5.0, 1.0)
    with pytest.raises(RuntimeError, match=r"sklearn.set_config\(enable_metadata_routing=True\)"):
        make_robust_scorer(eps=0.3).set_score_request(sample_weight=True)
    with config_context(enable_metadata_routing=True):
        scorer = make_robust_scorer(eps=0.3).set_score_request(sample_weight=True)
        assert repr(pickle.loads(pickle.dumps(scorer)).get_metadata_routing()) == repr(
            scorer.get_metadata_routing()
        )
        model = RobustLinearClassifier().set_fit_request(sample_weight=True)
        search = GridSearchCV(model, {"eps": [0.1, 0.3]}, scoring=scorer, cv=3).fit(
            X, y, sample_weight=weight
        )
        plain = make_robust_scorer(eps=0.3).set_score_request(sample_weight=False)
        unweighted = GridSearchCV(model, {"eps": [0.1, 0.3]}, scoring=plain, cv=3).fit(
            X, y, sample_weight=weight
        )
        with pytest.raises(UnsetMetadataPassedError):
            GridSearchCV(model, {"eps": [0.1]}, scoring=make_robust_scorer(eps=0.3)).fit(
                X, y, sample_weight=weight
            )
    assert search.best_score_ != unweighted.best_score_


class Cautious(LogisticRegression):
    """It says the first class unless it is sure."""

    def predict(self, X):
        return self.classes_[(self.decision_function(X) > 1).astype(int)]


def test_a_classifier_that_does_not_predict_by_its_scores_is_refused():
    X, y = load_breast_cancer(return_X_y=True)
    model = make_pipeline(StandardScaler(), Cautious()).fit(X, y)
    with pytest.raises(TypeError, match="Cautious does not predict the class of its largest score"):
        robust_accuracy_score(model, X, y, eps=0.1)


def test_labels_never_seen_are_never_right():
    X, y = load_iris(return_X_y=True)
    model = LogisticRegression(max_iter=1000).fit(X[y > 0], y[y > 0])
    assert robust_accuracy_score(model, X[y == 0], y[y == 0], eps=0.0) == 0
    assert np.all(certified_radius(model, X[y == 0], y[y == 0]) == -math.inf)


@pytest.mark.parametrize(
    "convert",
    [
        lambda y: y[:, None],
        lambda y: pd.DataFrame({"y": y}),
        lambda y: y.astype(object),
        lambda y: y.astype(np.float32),
        lambda y: pd.Series(y, dtype="category"),
        lambda y: pd.Series(y, dtype="Int64"),
        lambda y: pl.Series(y),
    ],
    ids=["column", "frame", "object", "float32", "category", "Int64", "polars"],
)
def test_labels_come_in_many_forms(convert):
    X, y = load_iris(return_X_y=True)
    model = RobustLinearClassifier().fit(X, y)
    assert model.robust_score(X, convert(y)) == model.robust_score(X, y)
    np.testing.assert_array_equal(
        model.certified_radius(X, convert(y)), model.certified_radius(X, y)
    )
    np.testing.assert_array_equal(model.perturb(X, convert(y)), model.perturb(X, y))


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.zeros(10, dtype=int), "inconsistent numbers of samples"),
        (np.zeros((150, 2), dtype=int), "should be a 1d array"),
        (np.r_[np.nan, np.zeros(149)], "y contains NaN"),
        (
            np.full(150, "0"),
            "y must hold labels of the type that was seen in fit, such as 0, got '0'",
        ),
        (
            np.array([0] * 149 + [None], dtype=object),
            "y must hold labels of the type that was seen in fit, such as 0, got None",
        ),
        (np.array([0] * 149 + ["0"], dtype=object), "y must hold labels of the type .*, got '0'"),
        (pd.Series([0] * 149 + [pd.NA], dtype="Int64"), "y contains NaN|got <NA>"),
        (np.full(150, 0j), "y must hold labels of the type .*, got 0j|Complex data not supported"),
    ],
    ids=["short", "two columns", "nan", "strings", "none", "mixed", "not available", "complex"],
)
def test_bad_labels_are_refused(y, message):
    X, target = load_iris(return_X_y=True)
    model = RobustLinearClassifier().fit(X, target)
    for method in (model.robust_score, model.certified_radius, model.perturb):
        with pytest.raises(ValueError, match=message):
            method(X, y)


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (np.r_[-1.0, np.ones(149)], "Negative values.*sample_weight"),
        (np.zeros(150), "at least one non-zero"),
        (np.full(150, np.nan), "sample_weight contains NaN"),
        (np.ones(3), r"sample_weight.shape == \(3,\), expected \(150,\)"),
    ],
    ids=["negative", "zero", "nan", "short"],
)
def test_bad_sample_weights_are_refused(weight, message):
    X, y = load_iris(return_X_y=True)
    model = LogisticRegression(max_iter=1000).fit(X, y)
    with pytest.raises(ValueError, match=message):
        robust_accuracy_score(model, X, y, eps=0.1, sample_weight=weight)


@pytest.mark.parametrize("classes", [2, 3])
def test_without_labels_the_radius_is_that_of_the_prediction(classes):
    X, y = load_iris(return_X_y=True)
    X, y = X[y >= 3 - classes], y[y >= 3 - classes]
    model = LogisticRegression(max_iter=1000).fit(X, y)
    radius = certified_radius(model, X)
    assert radius.min() >= 0
    np.testing.assert_array_equal(radius, certified_radius(model, X, model.predict(X)))


@pytest.mark.parametrize("classes", [2, 3])
def test_labels_that_were_never_seen_are_wrong_whatever_is_predicted(classes):
    X, y = np.eye(3)[:classes], np.arange(classes)
    model = LogisticRegression(C=1e3).fit(X, y)
    for label in (-1, classes, 7):
        for k in range(classes):  # every class is predicted once
            assert robust_accuracy_score(model, X[[k]], [label], eps=0.01) == 0
            assert robust_accuracy_score(model, X[[k]], [k], eps=0.01) == 1


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (RandomForestClassifier(n_estimators=2), "not a linear classifier"),
        (SVC(kernel="linear"), "does not score by"),
        (make_pipeline(Normalizer(), LogisticRegression()), "'normalizer'.*space='model'"),
        (
            make_pipeline(PolynomialFeatures(), LogisticRegression(max_iter=10_000)),
            "'polynomialfeatures'",
        ),
        (make_pipeline(MinMaxScaler(clip=True), LogisticRegression()), "'minmaxscaler'"),
        (make_pipeline(MaxAbsScaler(clip=True), LogisticRegression()), "'maxabsscaler'"),
    ],
    ids=["forest", "svc", "normalizer", "polynomial", "clipped", "clipped at 1"],
)
def test_what_is_not_linear_is_refused(model, message):
    X, y = load_iris(return_X_y=True)
    model.fit(X, y)
    with pytest.raises(TypeError, match=message):
        robust_accuracy_score(model, X, y, eps=0.1, space="input")


@pytest.mark.parametrize(
    ("coef", "message"),
    [
        ([np.nan, 1.0], "holds NaN or inf"),
        ([np.inf, 1.0], "holds NaN or inf"),
        ([1e308, 1.0], r"up to 1.0e\+308, whose norms overflow"),
    ],
)
def test_coefficients_that_overflow_are_refused(coef, message):
    X, y = np.array([[1.0, 2.0], [-1.0, 0.5], [2.0, 1.0], [-2.0, 0.0]]), [1, 0, 1, 0]
    model = LogisticRegression().fit(X, y)
    model.coef_ = np.array([coef])
    for clip in (None, (-5, 5)):
        with pytest.raises(ValueError, match=message):
            robust_accuracy_score(model, X, y, eps=0.1, clip=clip)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"eps": -1}, "eps must be"),
        ({"eps": np.array(0.1)}, "eps must be"),
        ({"eps": 0.1, "q": 0.5}, r"q must be a real number in \[1, inf\], got 0.5"),
        ({"eps": 0.1, "q": "inf"}, r"q must be.* got 'inf'. Use numpy.inf"),
        ({"eps": 0.1, "space": "raw"}, r"space must be one of \['model', 'input'\], got 'raw'"),
        (
            {"eps": 0.1, "space": ["input"]},
            r"space must be one of \['model', 'input'\], got \['input'\]",
        ),
        (
            {"eps": 0.1, "scale": ["1", "2", "3", "4"]},
            "scale must hold a number >= 0 for each feature, got",
        ),
        (
            {"eps": 0.1, "scale": np.ones(4, dtype=complex)},
            "scale must hold a number >= 0 for each feature, got",
        ),
        (
            {"eps": 0.1, "scale": [1, 1, 1, 10**400]},
            "scale must hold a number >= 0 for each feature, got",
        ),
    ],
)
def test_bad_threats_are_refused(arguments, message):
    X, y = load_iris(return_X_y=True)
    model = LogisticRegression(max_iter=1000).fit(X, y)
    with pytest.raises(ValueError, match=message):
        robust_accuracy_score(model, X, y, **arguments)
    with pytest.raises(ValueError, match=message):
        make_robust_scorer(**arguments)


def test_words_among_numbers_are_refused_where_the_labels_are_words():
    X, y = load_iris(return_X_y=True)
    model = RobustLinearClassifier().fit(X, np.array(["a", "b", "c"])[y])
    for wrong in (None, 1, np.nan):
        labels = np.array([*np.array(["a", "b", "c"])[y[:-1]], wrong], dtype=object)
        with pytest.raises(ValueError, match=r"y (must hold labels of the type|contains NaN)"):
            model.robust_score(X, labels)


def test_a_network_in_no_pipeline_has_its_space_checked():
    X, y = load_breast_cancer(return_X_y=True)
    with pytest.raises(ValueError, match=r"space must be one of"):
        robust_accuracy_score(Stump().fit(X, y), X, y, eps=0.1, space="raw")


def test_the_exponent_is_reported_under_its_name():
    X, y = load_iris(return_X_y=True)
    model = RobustLinearClassifier().fit(X, y)
    for method in (model.robust_score, model.certified_radius, model.perturb):
        with pytest.raises(ValueError, match="q must be a real number"):
            method(X, y, q=0.5)
    with pytest.raises(ValueError, match="q must be a real number"):
        certified_radius(model, X, q=0.5)


def test_scores_of_many_classes_are_taken_in_blocks():
    rng = np.random.default_rng(0)
    n, d, n_classes = 10_000, 120, 150
    X, y = rng.normal(size=(n, d)), rng.integers(0, n_classes, n)
    model = RidgeClassifier().fit(X[:500], y[:500])
    peaks = {}
    tracemalloc.start()
    try:
        for name, score in {
            "accuracy": lambda: robust_accuracy_score(model, X, y, eps=0.1),
            "radius": lambda: certified_radius(model, X, y).sum(),
        }.items():
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            score()
            peaks[name] = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    # the scores of all rows would be larger than X
    assert max(peaks.values()) < X.nbytes
    parts = [certified_radius(model, X[at], y[at]) for at in (slice(0, 7), slice(7, 2000))]
    np.testing.assert_allclose(
        certified_radius(model, X, y)[:2000], np.concatenate(parts), rtol=1e-9
    )
