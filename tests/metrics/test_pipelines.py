"""Robust accuracy of the pipelines that people have, against enumeration of the corners of the
ball."""

import itertools
import math
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer, make_column_transformer
from sklearn.datasets import load_breast_cancer, load_iris, load_wine
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.frozen import FrozenEstimator
from sklearn.impute import KNNImputer, SimpleImputer
from sklearn.linear_model import LogisticRegression, RidgeClassifier, SGDClassifier
from sklearn.model_selection import (
    FixedThresholdClassifier,
    GridSearchCV,
    StratifiedKFold,
    TunedThresholdClassifierCV,
    cross_val_score,
)
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    KBinsDiscretizer,
    MinMaxScaler,
    Normalizer,
    OneHotEncoder,
    OrdinalEncoder,
    RobustScaler,
    StandardScaler,
    TargetEncoder,
)
from sklearn.svm import LinearSVC

from sklearn_robust import (
    MinNormRobustClassifier,
    RobustAccuracyDisplay,
    RobustDiagonalNet,
    RobustLinearClassifier,
    RobustLinearClassifierCV,
    certified_radius,
    make_robust_scorer,
    robust_accuracy_score,
)
from sklearn_robust.metrics import coef_on_input

NUMBERS = ["age", "income", "height"]
DIRECTIONS = {
    math.inf: lambda d: np.array(list(itertools.product([-1.0, 1.0], repeat=d))),
    1: lambda d: np.concatenate([np.eye(d), -np.eye(d)]),
}


def few_wines(n_classes=3, n_features=4):
    X, y = load_wine(return_X_y=True)
    keep = y < n_classes
    return X[keep][:, :n_features], np.array(["barbera", "barolo", "grignolino"])[y[keep]]


def few_tumours(n_features=4):
    X, y = load_breast_cancer(return_X_y=True)
    return X[::3, :n_features], y[::3]


def people(library="pandas", missing=True):
    """Numbers with gaps, words with gaps, and a code that is a category though it is a number."""
    rng = np.random.default_rng(0)
    n = 120
    age, income, height = (
        20 + 50 * rng.random(n),
        1000 * rng.lognormal(1, 0.5, n),
        rng.normal(170, 10, n),
    )
    city, code = rng.choice(["Bonn", "Kiel", "Ulm"], n).astype(object), rng.integers(1, 4, n)
    y = np.where(
        (age - 45) / 15 + (income - 3000) / 2000 + (city == "Ulm") + rng.normal(0, 0.5, n) > 0.3,
        "yes",
        "no",
    )
    if missing:
        for column in (age, income, height):
            column[rng.random(n) < 0.15] = np.nan
        city[rng.random(n) < 0.1] = None
    data = {"city": city.tolist(), "age": age, "code": code, "income": income, "height": height}
    return (pd if library == "pandas" else pl).DataFrame(data), y


def moved(X, move, columns):
    """X with a move added to some columns of an array or frame; a gap stays a gap."""
    if isinstance(X, pd.DataFrame):
        return X.assign(**{name: X[name] + step for name, step in zip(columns, move, strict=True)})
    if isinstance(X, pl.DataFrame):
        return X.with_columns(
            **{name: X[name] + step for name, step in zip(columns, move, strict=True)}
        )
    X = X.copy()
    X[:, columns] += move
    return X


def enumerated(model, X, y, eps, q=math.inf, columns=None, scale=1.0):
    """Accuracy under the worst corner of the ball."""
    columns = range(X.shape[1]) if columns is None else columns
    right = model.predict(X) == y
    for direction in DIRECTIONS[q](len(columns)):
        right &= model.predict(moved(X, eps * scale * direction, list(columns))) == y
    return right.mean()


def check_both_spaces(model, inner, transform, X, y, radii):
    """Exact in the space of the input and in that of what the classifier sees; eps = 0 is
    accuracy."""
    for space, eps in zip(("model", "input"), radii, strict=True):
        classifier, data = (model, X) if space == "input" else (inner, transform(X))
        exact = {
            q: robust_accuracy_score(model, X, y, eps=eps, q=q, space=space) for q in DIRECTIONS
        }
        for q in DIRECTIONS:
            assert exact[q] == pytest.approx(enumerated(classifier, data, y, eps, q))
        accuracy = np.mean(model.predict(X) == y)
        assert 0 < exact[math.inf] < accuracy
        assert robust_accuracy_score(model, X, y, eps=0.0, space=space) == accuracy
        radius = certified_radius(model, X, y, space=space)
        assert np.mean(radius > eps) == pytest.approx(exact[math.inf])
        np.testing.assert_array_equal(radius >= 0, model.predict(X) == y)
        np.testing.assert_array_equal(
            certified_radius(model, X, space=space)[radius >= 0], radius[radius >= 0]
        )


SCALERS = {
    "standard": StandardScaler(),
    "min-max": MinMaxScaler(),
    "robust": RobustScaler(),
    "principal axes": PCA(3),
    "whitened": make_pipeline(StandardScaler(), PCA(3, whiten=True)),
    "svd": make_pipeline(StandardScaler(), TruncatedSVD(3)),
    "columns": make_column_transformer(
        (StandardScaler(), [0, 2]), ("passthrough", [3]), (MinMaxScaler(), [2, 1]), remainder="drop"
    ),
    "frozen": FrozenEstimator(StandardScaler().fit(few_wines()[0])),
    "identity": make_pipeline(FunctionTransformer(), FunctionTransformer(), StandardScaler()),
}


@pytest.mark.slow
@pytest.mark.parametrize("scaler", SCALERS.values(), ids=SCALERS)
def test_affine_transformers(scaler):
    X, y = few_wines()
    model = make_pipeline(scaler, LogisticRegression(C=0.3, max_iter=1000)).fit(X, y)
    check_both_spaces(model, model[-1], model[:-1].transform, X, y, (0.1, 0.1))


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        lambda model: OneVsRestClassifier(model),
        lambda model: CalibratedClassifierCV(model, ensemble=False),
        lambda model: CalibratedClassifierCV(model, method="temperature", ensemble=False),
        lambda model: CalibratedClassifierCV(
            FrozenEstimator(
                model.fit(StandardScaler().fit_transform(few_wines()[0]), few_wines()[1])
            )
        ),
        lambda model: OneVsRestClassifier(CalibratedClassifierCV(model, ensemble=False)),
        lambda model: OneVsRestClassifier(GridSearchCV(model, {"C": [0.3]})),
    ],
    ids=[
        "one vs rest",
        "sigmoid",
        "temperature",
        "frozen",
        "calibrated one vs rest",
        "searched one vs rest",
    ],
)
def test_wrappers_of_several_classes(make):
    X, y = few_wines()
    X = StandardScaler().fit_transform(X)
    model = make(LogisticRegression(C=0.3)).fit(X, y)
    check_both_spaces(model, model, lambda X: X, X, y, (0.1, 0.2))


WRAPPERS = {
    "probability": lambda model: FixedThresholdClassifier(model, threshold=0.7, pos_label=1),
    "first class": lambda model: FixedThresholdClassifier(model, threshold=0.7, pos_label=0),
    "score": lambda model: FixedThresholdClassifier(
        model, threshold=0.4, response_method="decision_function"
    ),
    "score of first": lambda model: FixedThresholdClassifier(
        model, threshold=0.4, pos_label=0, response_method="decision_function"
    ),
    "automatic": lambda model: FixedThresholdClassifier(model),
    "tuned": lambda model: TunedThresholdClassifierCV(
        model, scoring="balanced_accuracy", thresholds=20, cv=3
    ),
    "tuned score": lambda model: TunedThresholdClassifierCV(
        model, scoring="f1", response_method="decision_function", thresholds=20, cv=3
    ),
    "sigmoid": lambda model: CalibratedClassifierCV(model, ensemble=False, cv=3),
    "temperature": lambda model: CalibratedClassifierCV(
        model, method="temperature", ensemble=False, cv=3
    ),
    "one vs rest": lambda model: OneVsRestClassifier(model),
    "threshold of sigmoid": lambda model: FixedThresholdClassifier(
        CalibratedClassifierCV(model, ensemble=False, cv=3), threshold=0.3
    ),
    "sigmoid of threshold": lambda model: CalibratedClassifierCV(
        FixedThresholdClassifier(model, threshold=0.9), ensemble=False, cv=3
    ),
    "one vs rest of threshold": lambda model: OneVsRestClassifier(
        FixedThresholdClassifier(model, threshold=0.9)
    ),
    "threshold of one vs rest": lambda model: FixedThresholdClassifier(
        OneVsRestClassifier(model), threshold=0.7
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("make", WRAPPERS.values(), ids=WRAPPERS)
def test_wrappers_of_two_classes(make):
    X, y = few_tumours()
    X = StandardScaler().fit_transform(X)
    model = make(LogisticRegression()).fit(X, y)
    check_both_spaces(model, model, lambda X: X, X, y, (0.15, 0.1))


@pytest.mark.slow
@pytest.mark.parametrize("make", WRAPPERS.values(), ids=WRAPPERS)
def test_wrappers_of_pipelines(make):
    X, y = few_tumours()
    pipeline = make_pipeline(StandardScaler(), LogisticRegression())
    model = make_pipeline(MinMaxScaler(), make(pipeline)).fit(X, y)
    exact = robust_accuracy_score(model, X, y, eps=1.0, space="input")
    assert exact == pytest.approx(enumerated(model, X, y, 1.0))
    assert exact < model.score(X, y) == robust_accuracy_score(model, X, y, eps=0.0)


def test_the_model_space_of_a_wrapped_pipeline_is_what_its_classifier_sees():
    X, y = few_tumours()
    inner = make_pipeline(StandardScaler(), LogisticRegression())
    model = make_pipeline(MinMaxScaler(), FixedThresholdClassifier(inner, threshold=0.7)).fit(X, y)
    deviation = model[-1].estimator_[0].scale_ / model[0].scale_
    exact = robust_accuracy_score(model, X, y, eps=0.1)
    assert exact == pytest.approx(enumerated(model, X, y, 0.1, scale=deviation))
    assert exact < model.score(X, y)


LINKS = [
    LogisticRegression(),
    SGDClassifier(loss="log_loss", random_state=0),
    SGDClassifier(loss="modified_huber", alpha=0.1, random_state=0),
    LinearDiscriminantAnalysis(),
    RobustLinearClassifier(eps=0.1),
    RobustLinearClassifier(eps=0.1, loss="logistic"),
    RobustLinearClassifierCV(p_algo=2, eps=[0.1], threat_eps=0.1, cv=3),
    RobustDiagonalNet(eps=0.1, max_iter=500, loss_tol=0.3),
]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sklearn_robust.NotSeparableWarning")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("threshold", [0.2, 0.8])
@pytest.mark.parametrize(
    "classifier", LINKS, ids=lambda c: f"{type(c).__name__}-{getattr(c, 'loss', '')}"
)
def test_thresholds_on_probabilities_of_every_link(classifier, threshold):
    X, y = few_tumours()
    X = StandardScaler().fit_transform(X)
    model = FixedThresholdClassifier(classifier, threshold=threshold).fit(X, y)
    assert robust_accuracy_score(model, X, y, eps=0.1) == pytest.approx(
        enumerated(model, X, y, 0.1)
    )
    np.testing.assert_array_equal(certified_radius(model, X, y) >= 0, model.predict(X) == y)


@pytest.mark.parametrize(("threshold", "share"), [(0.0, 1.0), (-1.0, 1.0), (1.0, 0.0), (2.0, 0.0)])
def test_a_threshold_that_decides_alone(threshold, share):
    X, y = few_tumours()
    X = 0.1 * StandardScaler().fit_transform(X)
    model = FixedThresholdClassifier(LogisticRegression(), threshold=threshold).fit(X, y)
    expected = np.mean(y == share)
    for eps in (0.0, 0.3, 100.0):
        assert robust_accuracy_score(model, X, y, eps=eps) == expected
    np.testing.assert_array_equal(
        certified_radius(model, X, y), np.where(y == share, math.inf, -math.inf)
    )


def test_a_prefit_threshold_and_scale_by_name():
    X, y = load_breast_cancer(return_X_y=True, as_frame=True)
    X, y, columns = X.iloc[::3, :3], y[::3], X.columns[:3].tolist()
    inner = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, y)
    model = FixedThresholdClassifier(inner, threshold=0.7)
    scale = {"mean texture": 3.0, "mean radius": 0.5, "mean perimeter": 0.0}
    exact = robust_accuracy_score(model, X, y, eps=1.0, space="input", scale=scale)
    ordered = np.array([scale[name] for name in columns])
    assert exact == pytest.approx(enumerated(model, X, y, 1.0, columns=columns, scale=ordered))
    assert exact != robust_accuracy_score(model, X, y, eps=1.0, space="input")


class Fancy(LogisticRegression):
    def predict_proba(self, X):
        positive = 1 / (1 + np.exp(-(self.decision_function(X) ** 3)))
        return np.column_stack([1 - positive, positive])


ONE_AMONG_FIVE = "probabilities of 5 classifiers.*ensemble=False"


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (CalibratedClassifierCV(LogisticRegression()), ONE_AMONG_FIVE),
        (
            CalibratedClassifierCV(LogisticRegression(), method="isotonic", ensemble=False),
            "'sigmoid' or 'temperature'",
        ),
        (
            FixedThresholdClassifier(Fancy(), threshold=0.3),
            "known function of its score.*response_method",
        ),
    ],
    ids=["ensemble", "isotonic", "link"],
)
def test_wrappers_without_a_closed_form_are_refused(model, message):
    X, y = few_tumours()
    X = StandardScaler().fit_transform(X)
    model.fit(X, y)
    with pytest.raises(TypeError, match=message):
        robust_accuracy_score(model, X, y, eps=0.1)
    with pytest.raises(TypeError, match=message):
        certified_radius(model, X)


def test_several_labels_a_sample_are_refused():
    X, y = few_tumours()
    model = OneVsRestClassifier(RidgeClassifier()).fit(X, np.column_stack([y, 1 - y]))
    with pytest.raises(TypeError, match="one label a sample"):
        certified_radius(model, X)


def test_a_robust_score_cannot_tune_a_threshold_but_a_search_can():
    X, y = few_tumours()
    X = StandardScaler().fit_transform(X)
    scorer = make_robust_scorer(eps=0.2)
    with pytest.raises(
        AttributeError,
        match=r"no score of predicted labels alone.*GridSearchCV.*FixedThresholdClassifier",
    ):
        TunedThresholdClassifierCV(LogisticRegression(), scoring=scorer).fit(X, y)
    model = FixedThresholdClassifier(LogisticRegression())
    search = GridSearchCV(model, {"threshold": [0.3, 0.5, 0.7]}, scoring=scorer, cv=3).fit(X, y)
    assert search.score(X, y) == pytest.approx(enumerated(search, X, y, 0.2))
    curve = RobustAccuracyDisplay.from_estimator(search, X, y, eps=[0.0, 0.2]).curves[0]
    np.testing.assert_allclose(
        curve.accuracy, [np.mean(search.predict(X) == y), search.score(X, y)]
    )
    assert np.ptp(search.cv_results_["mean_test_score"]) > 0


ENCODERS = [
    OneHotEncoder(handle_unknown="ignore"),
    OneHotEncoder(drop="first", sparse_output=False),
    OrdinalEncoder(encoded_missing_value=-1),
    TargetEncoder(cv=StratifiedKFold(3)),
]


def columns_of(encoder, library):
    gap = np.nan if library == "pandas" else None  # in a column of words
    numbers = make_pipeline(SimpleImputer(strategy="median", add_indicator=True), StandardScaler())
    words = make_pipeline(SimpleImputer(missing_values=gap, strategy="most_frequent"), encoder)
    parts = [
        ("numbers", numbers, ["income", "age"]),
        ("words", words, ["city"]),
        ("code", encoder, ["code"]),
    ]
    return ColumnTransformer([*parts, ("in its unit", SimpleImputer(), ["height"])])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("encoder", "library"), list(zip(ENCODERS, ["pandas", "polars"] * 2, strict=True))
)
def test_columns_of_numbers_and_categories_with_missing_values(encoder, library):
    X, y = people(library)
    model = make_pipeline(
        columns_of(encoder, library), MinMaxScaler(), LogisticRegression(C=5, max_iter=1000)
    ).fit(X, y)
    scale = {"age": 3.0, "income": 100.0, "height": 2.0}
    steps = np.array(list(scale.values()))
    for q in DIRECTIONS:
        exact = robust_accuracy_score(model, X, y, eps=1.0, q=q, space="input", scale=scale)
        assert exact == pytest.approx(enumerated(model, X, y, 1.0, q, list(scale), steps))
        assert 0 < exact < model.score(X, y)
    shuffled = X[["height", "code", "city", "income", "age"]]
    assert (
        robust_accuracy_score(model, shuffled, y, eps=1.0, q=1, space="input", scale=scale) == exact
    )
    inside = np.asarray(model[:-1].transform(X))
    for eps in (0.0, 0.02):
        expected = enumerated(model[-1], inside, y, eps, q=1)
        assert robust_accuracy_score(model, X, y, eps=eps, q=1) == pytest.approx(expected)


def test_what_has_no_value_cannot_be_moved():
    X = np.array([[-1.0, 0.0], [1.0, 0.0], [np.nan, 2.0], [3.0, np.nan], [np.nan, np.nan]])
    y = [0, 1, 1, 1, 1]
    model = make_pipeline(
        SimpleImputer(strategy="constant", fill_value=0.5), LogisticRegression()
    ).fit(X, y)
    (w,), b = model[-1].coef_, model[-1].intercept_[0]
    scores = model.decision_function(X)
    norms = np.array([abs(w).sum(), abs(w).sum(), abs(w[1]), abs(w[0])])
    radius = certified_radius(model, X, space="input")
    np.testing.assert_allclose(radius[:4], np.abs(scores[:4]) / norms)
    assert radius[4] == math.inf
    assert scores[4] == pytest.approx(0.5 * w.sum() + b)
    assert certified_radius(model, X)[4] < math.inf  # what the classifier sees there is a number


def test_a_column_that_an_encoder_reads_is_out_of_reach_for_scalers_too():
    X, y = people(missing=False)
    twice = make_column_transformer(
        (OneHotEncoder(), ["code"]), (StandardScaler(), ["code", "age"])
    )
    model = make_pipeline(twice, LogisticRegression()).fit(X, y)
    expected = certified_radius(model, X, space="input", scale={"code": 0.0})
    np.testing.assert_array_equal(certified_radius(model, X, space="input"), expected)


def test_a_column_without_any_value_leaves_the_data():
    X, y = few_tumours()
    X = np.column_stack([X[:, 0], np.full(len(X), np.nan), X[:, 1]])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Skipping features without any observed values")
        model = make_pipeline(SimpleImputer(), StandardScaler(), LogisticRegression()).fit(X, y)
        exact = robust_accuracy_score(model, X, y, eps=0.5, space="input")
        assert exact == pytest.approx(enumerated(model, X, y, 0.5))


@pytest.mark.parametrize(
    ("transformer", "message"),
    [
        (
            Normalizer(),
            "Step 'normalizer': Normalizer is not known to be affine.*space='model'.*coef_on_input",
        ),
        (KBinsDiscretizer(4), "KBinsDiscretizer is not known"),
        (KNNImputer(), "KNNImputer is not known"),
        (
            SimpleImputer(missing_values=-1.0),
            r"missing_values=-1.0 takes a perturbed value for another",
        ),
        (
            make_column_transformer((Normalizer(), [0, 1])),
            "Step 'columntransformer': Step 'normalizer': Normalizer",
        ),
    ],
    ids=["normalizer", "bins", "neighbours", "minus one", "inside columns"],
)
@pytest.mark.filterwarnings("ignore:Bins whose width are too small")
@pytest.mark.filterwarnings("ignore:The current default behavior, quantile_method")
def test_transformers_that_are_not_affine_are_refused_by_name(transformer, message):
    X, y = few_tumours()
    model = make_pipeline(transformer, LogisticRegression(max_iter=10_000)).fit(X, y)
    assert robust_accuracy_score(model, X, y, eps=0.0) == model.score(X, y)
    with pytest.raises(TypeError, match=message):
        robust_accuracy_score(model, X, y, eps=0.1, space="input")


class Differences(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    def fit(self, X, y=None):
        self.n_features_in_ = X.shape[1]
        return self

    def transform(self, X):
        return X - np.roll(X, 1, axis=1)


def test_a_transformer_of_ones_own_is_registered():
    X, y = few_wines()
    model = make_pipeline(StandardScaler(), Differences(), LogisticRegression()).fit(X, y)
    with pytest.raises(TypeError, match="Differences is not known to be affine"):
        certified_radius(model, X, space="input")

    class Known(Differences):
        pass

    @coef_on_input.register
    def _(transformer: Known, coef):
        return coef - np.roll(coef, -1, axis=1)

    model = make_pipeline(StandardScaler(), Known(), LogisticRegression()).fit(X, y)
    check_both_spaces(model, model[-1], model[:-1].transform, X, y, (0.1, 0.1))


@pytest.mark.slow
def test_samplers_are_skipped_as_predict_skips_them():
    sampling = pytest.importorskip("imblearn.pipeline")
    over = pytest.importorskip("imblearn.over_sampling")
    under = pytest.importorskip("imblearn.under_sampling")
    X, y = few_tumours()
    samplers = over.SMOTE(random_state=0), under.RandomUnderSampler(random_state=0)
    for steps in (
        [StandardScaler(), samplers[0]],
        [samplers[0], MinMaxScaler(), samplers[1], StandardScaler()],
    ):
        model = sampling.make_pipeline(*steps, LogisticRegression()).fit(X, y)
        exact = robust_accuracy_score(model, X, y, eps=0.2, space="input")
        assert exact == pytest.approx(enumerated(model, X, y, 0.2))
        assert robust_accuracy_score(model, X, y, eps=0.0) == model.score(X, y)
    grid = {"logisticregression__C": [0.1, 1.0]}
    search = GridSearchCV(model, grid, scoring=make_robust_scorer(eps=0.01), cv=3).fit(X, y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert RobustAccuracyDisplay.from_estimator(search, X, y).lines_


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("constant", ["zero coefficients", "ties"])
def test_at_zero_a_tie_is_what_predict_makes_of_it(constant, n_classes):
    y = np.tile(np.array(["a", "b", "c"])[:n_classes], 20)
    X = (
        np.random.default_rng(0).normal(size=(len(y), 2))
        if constant == "zero coefficients"
        else np.zeros((len(y), 2))
    )
    model = LogisticRegression().fit(np.random.default_rng(1).normal(size=(len(y), 2)), y)
    model.coef_ = np.zeros_like(model.coef_) if constant == "zero coefficients" else model.coef_
    model.intercept_ = np.zeros_like(model.intercept_)
    assert model.score(X, y) == pytest.approx(1 / n_classes)
    assert (
        robust_accuracy_score(model, X, y, eps=0.0)
        == model.score(X, y)
        == make_robust_scorer(eps=0.0)(model, X, y)
    )
    assert robust_accuracy_score(model, X, y, eps=1e-9) == 0
    radius = certified_radius(model, X, y)
    np.testing.assert_array_equal(radius >= 0, model.predict(X) == y)
    np.testing.assert_allclose(radius, 0, atol=1e-300)
    np.testing.assert_array_equal(certified_radius(model, X), 0)
    curve = RobustAccuracyDisplay.from_estimator(model, X, y, eps=[0.0, 0.1]).curves[0]
    assert curve.accuracy.tolist() == [model.score(X, y), 0]


def test_a_threshold_is_reached_by_a_tie():
    X, y = np.array([[-1.0], [0.0], [1.0]]), np.array([0, 1, 1])
    model = FixedThresholdClassifier(RidgeClassifier(), pos_label=1).fit(X, y)
    model.estimator_.coef_, model.estimator_.intercept_ = np.array([[1.0]]), np.array([0.0])
    assert model.score(X, y) == robust_accuracy_score(model, X, y, eps=0.0) == 1
    assert robust_accuracy_score(model, X, y, eps=1e-9) == pytest.approx(2 / 3)
    assert certified_radius(model, X, y).tolist() == [1, 0, 1]


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_search_over_eps_scores_ties_as_predict_does(n_classes):
    y = np.tile(np.arange(n_classes), 12)
    X = np.random.default_rng(0).normal(size=(len(y), 2))
    model = RobustLinearClassifierCV(
        p_algo=2, eps=[50.0], threat_eps=0.0, loss="logistic", cv=3
    ).fit(X, y)
    assert not model.coef_.any()
    folds = cross_val_score(model.best_estimator_, X, y, cv=3)
    assert model.best_score_ == pytest.approx(folds.mean())
    assert model.best_score_ > 0
    assert model.robust_score(X, y) == model.score(X, y) > 0


@pytest.mark.parametrize("flip", [False, True])
def test_at_a_radius_above_zero_a_tie_counts_as_broken(flip):
    model = MinNormRobustClassifier(eps=0.0).fit([[-1.0, 0.0], [1.0, 0.0]], [0, 1])
    model.coef_, model.intercept_ = np.array([[1.0, 0.0]]), np.zeros(1)
    X, y = (np.array([[-1.0, 0.0]]), [0]) if flip else (np.array([[1.0, 0.0]]), [1])
    assert robust_accuracy_score(model, X, y, eps=1.0) == 0
    assert robust_accuracy_score(model, X, y, eps=1 - 1e-9) == 1
    assert model.robust_score(X, y, eps=1.0) == 0
    assert certified_radius(model, X, y)[0] == 1


@pytest.mark.parametrize("kind", ["two", "several"])
@pytest.mark.parametrize(
    "classifier", [LinearSVC(), RobustLinearClassifier(eps=0.1, loss="logistic")]
)
def test_without_an_adversary_robust_accuracy_is_accuracy(classifier, kind):
    X, y = load_iris(return_X_y=True)
    y = np.minimum(y, 1) if kind == "two" else y
    X = np.round(X).astype(np.float32)  # on a grid there are ties
    model = make_pipeline(StandardScaler(), classifier).fit(X, y)
    assert robust_accuracy_score(model, X, y, eps=0.0) == model.score(X, y)
    np.testing.assert_array_equal(certified_radius(model, X, y) >= 0, model.predict(X) == y)
