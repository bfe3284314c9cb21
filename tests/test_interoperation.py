"""The estimators among other libraries: frames, diagrams, routed metadata, skops and ONNX."""

import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import sklearn
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_breast_cancer, load_iris
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_robust import (
    ConstantClassifierWarning,
    MinNormRobustClassifier,
    RobustDiagonalNet,
    RobustLinearClassifier,
    RobustLinearClassifierCV,
    RobustMLPClassifier,
    RobustNetClassifier,
    make_robust_scorer,
    max_margin,
    min_norm_separator,
    register_onnx_converters,
)
from sklearn_robust._documentation import DOCS_URL

PAGE = Path(__file__).parents[1] / "docs" / "guide" / "interoperation.md"
NAMES = ["age", "income", "height", "weight"]
LINEAR = [
    RobustLinearClassifier(eps=0.1, loss="logistic"),
    RobustLinearClassifier(eps=0.1),
    RobustDiagonalNet(eps=0.1),
    MinNormRobustClassifier(eps=0.1),
]
ALL = [
    *LINEAR,
    RobustMLPClassifier((5,), loss_tol=0.5, random_state=0),
    RobustNetClassifier(loss_tol=0.5, random_state=0),
]


def ids(estimator):
    return f"{type(estimator).__name__}-{getattr(estimator, 'loss', '')}"


@pytest.fixture
def two():
    """Two classes of flowers, robustly separable."""
    X, y = load_iris(return_X_y=True)
    keep = y < 2
    return X[keep], np.array(["setosa", "versicolor"])[y[keep]]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("estimator", "library"),
    [(estimator, ("pandas", "polars")[i % 2]) for i, estimator in enumerate(ALL)],
    ids=lambda value: value if isinstance(value, str) else ids(value),
)
def test_frames(estimator, library, two):
    X, y = two
    frame = pytest.importorskip(library).DataFrame(dict(zip(NAMES, X.T, strict=True)))
    labels = pytest.importorskip(library).Series(y)
    plain, framed = sklearn.clone(estimator).fit(X, y), sklearn.clone(estimator).fit(frame, labels)
    np.testing.assert_allclose(
        framed.decision_function(frame), plain.decision_function(X), rtol=1e-9
    )
    assert framed.feature_names_in_.tolist() == NAMES
    assert not hasattr(plain, "feature_names_in_")
    with pytest.raises(ValueError, match="feature names should match"):
        framed.predict(frame[NAMES[::-1]])
    assert framed.robust_score(frame, labels) == plain.robust_score(X, y)
    assert framed.certified_radius(frame).shape == (len(X),)
    assert framed.perturb(frame, labels).shape == X.shape


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_transformers_before_us_may_put_out_frames(library, two):
    X, y = two
    frame = pytest.importorskip(library).DataFrame(dict(zip(NAMES, X.T, strict=True)))
    columns = ColumnTransformer(
        [("scale", StandardScaler(), ["income", "weight"])], verbose_feature_names_out=False
    )
    pipeline = (
        make_pipeline(columns, RobustLinearClassifier(eps=0.1))
        .set_output(transform=library)
        .fit(frame, y)
    )
    assert pipeline[-1].feature_names_in_.tolist() == ["income", "weight"]
    scorer = make_robust_scorer(eps=0.1)
    assert scorer(pipeline, frame, y) == pipeline[-1].robust_score(
        pipeline[:-1].transform(frame), y
    )


@pytest.mark.parametrize("estimator", ALL, ids=ids)
def test_diagrams_link_to_our_documentation(estimator):
    page = f"{DOCS_URL}/generated/sklearn_robust.{type(estimator).__name__}.html"
    assert f'href="{page}"' in estimator._repr_html_()
    inside = make_pipeline(StandardScaler(), estimator)._repr_html_()
    assert f'href="{page}"' in inside
    assert "https://scikit-learn.org" in inside  # of the scaler


def test_diagrams_say_what_the_fit_has_proven():
    X, y = np.array([[3.0, 1.0], [-3.0, 1.0], [4.0, 0.0], [-2.0, 3.0]]), np.array([1, -1, 1, -1])
    model = RobustLinearClassifier(eps=0.5, solver="exact")
    assert "proven" not in model._repr_html_()
    shown = model.fit(X, y)._repr_html_()
    assert f"Robustly separable, proven.</p><p>Margin {model.margin_:.4g}; no predictor" in shown
    assert "width:100.0%" in shown  # of the bar: the margin is the bound
    assert "certificate_" not in shown
    assert pickle.loads(pickle.dumps(model))._repr_html_()  # without data for a certificate
    assert model.certificate_
    shown = model._repr_html_()
    assert ("certificate_" in shown) == ("coef_" in shown)  # scikit-learn 1.8 lists no attributes
    assert "Not robustly separable, proven." in model.set_params(eps=2.5).fit(X, y)._repr_html_()
    with pytest.warns(ConstantClassifierWarning):
        assert "Constant: every coefficient is 0" in model.set_params(eps=9).fit(X, y)._repr_html_()
    assert "no predictor has more" in min_norm_separator(X, y, p=2, q=2, eps=0.1)._repr_html_()
    without_adversary = max_margin(X, y, q=2, scale=[0.0, 1.0])  # the margin is infinite
    assert "width:100.0%" in without_adversary._repr_html_()


@pytest.mark.slow
@pytest.mark.parametrize("estimator", [*LINEAR[:2], ALL[4]], ids=ids)
def test_routed_sample_weights_train_and_score(estimator, two):
    X, y = two
    # no longer separable: weights matter
    X = X + np.random.default_rng(0).normal(scale=1.0, size=X.shape)
    weight = np.where(y == "setosa", 5.0, 0.2)
    name = type(estimator).__name__.lower()
    with sklearn.config_context(enable_metadata_routing=True):
        routed = sklearn.clone(estimator).set_fit_request(sample_weight=True)
        pipeline = make_pipeline(StandardScaler(), routed)
        pipeline[0].set_fit_request(sample_weight=False)
        pipeline.fit(X, y, sample_weight=weight)
        scorer = make_robust_scorer(eps=0.1).set_score_request(sample_weight=True)
        grid = {f"{name}__eps": [0.1, 0.5]}
        search = GridSearchCV(pipeline, grid, scoring=scorer, cv=2).fit(X, y, sample_weight=weight)
        scores = cross_validate(
            pipeline, X, y, scoring=scorer, cv=2, params={"sample_weight": weight}
        )
    Z = StandardScaler().fit_transform(X)
    direct = sklearn.clone(estimator).fit(Z, y, sample_weight=weight)
    np.testing.assert_allclose(
        pipeline.decision_function(X), direct.decision_function(Z), rtol=1e-6, atol=1e-9
    )
    assert search.cv_results_["mean_test_score"][0] == pytest.approx(scores["test_score"].mean())
    unweighted = sklearn.clone(estimator).fit(Z, y)
    assert not np.allclose(unweighted.decision_function(Z), direct.decision_function(Z))


SCALED = [sklearn.clone(estimator).set_params(scale=[1.0, 0.5, 2.0, 0.0]) for estimator in LINEAR]
SEARCHED = [
    RobustLinearClassifierCV(p_algo=2, eps=[0.1, 0.2], threat_eps=0.1, cv=3),
    RobustLinearClassifierCV(
        p_algo=2, eps=[0.1, 0.2], threat_eps=0.1, scale=[1.0, 0.5, 2.0, 0.0], cv=3
    ),
    GridSearchCV(
        RobustLinearClassifier(),
        {"eps": [0.1, 0.2]},
        scoring=make_robust_scorer(eps=0.1, space="input"),
        cv=3,
    ),
    GridSearchCV(
        RobustLinearClassifier(),
        {"eps": [0.1, 0.2]},
        scoring={
            "robust": make_robust_scorer(eps=0.1, q=2, scale=[1.0, 0.5, 2.0, 0.0]),
            "clean": "accuracy",
        },
        refit="robust",
        cv=3,
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize("estimator", [*LINEAR, *SCALED, *SEARCHED], ids=ids)
def test_skops(estimator, two):  # networks: tests/neural_network/test_saving.py
    io = pytest.importorskip("skops.io")
    X, y = two
    model = make_pipeline(StandardScaler(), sklearn.clone(estimator)).fit(X, y)
    if hasattr(model[-1], "robust_score"):
        model[-1].robust_score(X, y)  # what is computed once and kept is saved too
    saved = io.dumps(model)
    types = io.get_untrusted_types(data=saved)
    listed = re.findall(r'"(sklearn_robust\.[\w.]+)"', PAGE.read_text())
    assert {name for name in types if name.startswith("sklearn_robust")} <= set(listed)
    assert all(name.startswith(("sklearn.", "sklearn_robust.")) for name in types)
    loaded = io.loads(saved, trusted=types)
    np.testing.assert_array_equal(loaded.decision_function(X), model.decision_function(X))
    assert make_robust_scorer(eps=0.2)(loaded, X, y) == make_robust_scorer(eps=0.2)(model, X, y)
    assert loaded.score(X, y) == model.score(X, y)
    assert loaded[-1].get_params().keys() == model[-1].get_params().keys()
    if hasattr(model[-1], "scorer_"):
        assert repr(loaded[-1].scorer_) == repr(model[-1].scorer_)
    if hasattr(model[-1], "robust_score"):
        assert loaded[-1].robust_score(X, y) == model[-1].robust_score(X, y)


@pytest.mark.parametrize("estimator", [LINEAR[0], LINEAR[2]], ids=ids)
def test_skops_of_several_classes(estimator):
    io = pytest.importorskip("skops.io")
    X, y = load_iris(return_X_y=True)
    model = sklearn.clone(estimator).fit(X, y)
    saved = io.dumps(model)
    types = io.get_untrusted_types(data=saved)
    listed = re.findall(r'"(sklearn_robust\.[\w.]+)"', PAGE.read_text())
    assert {name for name in types if name.startswith("sklearn_robust")} <= set(listed)
    for loaded in (io.loads(saved, trusted=types), pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(loaded.predict_proba(X), model.predict_proba(X))
        assert loaded.robust_score(X, y) == model.robust_score(X, y)
        assert loaded.dual_gap_ == model.dual_gap_


def test_skops_keeps_what_a_scorer_asks_of_metadata_routing():
    io = pytest.importorskip("skops.io")
    with sklearn.config_context(enable_metadata_routing=True):
        scorer = make_robust_scorer(eps=0.1).set_score_request(sample_weight="importance")
        loaded = io.loads(
            io.dumps(scorer), trusted=["sklearn_robust.metrics._robust_accuracy.RobustScorer"]
        )
        assert repr(loaded.get_metadata_routing()) == repr(scorer.get_metadata_routing())
        assert "importance" in repr(loaded.get_metadata_routing())
        with pytest.raises(ValueError, match="alias"):
            scorer.set_score_request(sample_weight=3)
        assert "importance" in repr(scorer.get_metadata_routing())


@pytest.mark.slow
@pytest.mark.pairwise
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("words", [True, False])
@pytest.mark.parametrize("estimator", [*LINEAR, *SEARCHED[:1]], ids=ids)
@pytest.mark.filterwarnings("ignore::sklearn_robust.NotSeparableWarning")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_onnx(estimator, words, dtype, n_classes):
    skl2onnx, onnxruntime = pytest.importorskip("skl2onnx"), pytest.importorskip("onnxruntime")
    register_onnx_converters()
    X, y = load_iris(return_X_y=True)
    X, y = X[y < n_classes].astype(dtype), y[y < n_classes]
    y = np.array(["setosa", "versicolor", "virginica"])[y] if words else 10 * y - 5
    model = make_pipeline(StandardScaler(), sklearn.clone(estimator)).fit(X, y)

    def run(**options):
        onnx = skl2onnx.to_onnx(model, X[:1], options={id(model[-1]): {"zipmap": False, **options}})
        session = onnxruntime.InferenceSession(
            onnx.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        return session.run(None, {"X": X})

    tolerance = (
        {"rtol": 1e-4, "atol": 1e-4} if dtype == np.float32 else {"rtol": 1e-9, "atol": 1e-12}
    )
    labels, scores = run(raw_scores=True)
    np.testing.assert_array_equal(labels, model.predict(X))
    expected = model.decision_function(X)
    np.testing.assert_allclose(scores[:, 1] if n_classes == 2 else scores, expected, **tolerance)
    labels, values = run()
    np.testing.assert_array_equal(labels, model.predict(X))
    if hasattr(model, "predict_proba"):
        np.testing.assert_allclose(values, model.predict_proba(X), **tolerance)
    else:
        np.testing.assert_array_equal(values, scores)


def as_onnx(label, probability, model, X, **_):
    np.testing.assert_array_equal(label, model.predict(X))
    np.testing.assert_allclose(probability, model.predict_proba(X), rtol=1e-9, atol=1e-12)


def robust_by_group(groups, model, X, y, **_):
    assert groups.overall == model.robust_score(X, y)
    assert list(groups.by_group.index) == ["large", "small"]


def shapley_values(values, model, X, **_):
    total = values.values.sum(axis=1) + values.base_values
    np.testing.assert_allclose(total, model.decision_function(X))


def prediction_sets(labels, sets, fitted, Z, **_):
    np.testing.assert_array_equal(labels, fitted.predict(Z[450:]))
    assert sets.shape == (len(labels), 2, 1)


def reported(summary, model, X, y, **_):
    assert model.robust_score(X, y) in summary.to_numpy()


def logged(again, model, X, **_):
    np.testing.assert_array_equal(again.predict(X), model.predict(X))


@pytest.mark.parametrize(
    ("name", "module", "check"),
    [
        ("ONNX", "onnxruntime", as_onnx),
        ("fairlearn", "fairlearn", robust_by_group),
        ("shap", "shap", shapley_values),
        ("MAPIE", "mapie", prediction_sets),
        ("skore", "skore", reported),
        # mlflow warns of its own type hints and of SQLAlchemy
        pytest.param("mlflow", "mlflow", logged, marks=pytest.mark.filterwarnings("ignore")),
    ],
)
def test_recipes_of_the_guide(name, module, check, tmp_path, monkeypatch):
    pytest.importorskip(module)
    monkeypatch.chdir(tmp_path)
    X, y = load_breast_cancer(return_X_y=True, as_frame=True)
    X = (X - X.mean()) / X.std()
    names = {"X": X, "y": y, "model": RobustLinearClassifier(eps=0.2, loss="logistic").fit(X, y)}
    pattern = rf"\*\*{name}\.\*\*.*?```\n(.*?)```"
    (recipe,) = re.findall(pattern, PAGE.read_text(), flags=re.DOTALL)
    exec(recipe, names)
    check(**names)
