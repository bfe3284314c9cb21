"""RobustLinearClassifier: its contract, and agreement between its solvers."""

import copy
import itertools
import math
import pickle
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pytest
from scipy import sparse
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, scale

from sklearn_robust import (
    RobustLinearClassifier,
    implicit_bias_report,
    make_robust_scorer,
    make_teacher_classification,
    max_margin,
    robust_accuracy_score,
)

GEOMETRIES = (1, 2, math.inf)
REAL_DATA = {
    "breast_cancer": load_breast_cancer,
    "wine": load_wine,
    "iris": load_iris,
    "digits": load_digits,
}


@pytest.fixture(params=REAL_DATA)
def real_data(request):
    X, y = REAL_DATA[request.param](return_X_y=True)
    return (X / 16 if request.param == "digits" else scale(X)), y


@pytest.mark.slow
@pytest.mark.pairwise
@pytest.mark.parametrize("p", GEOMETRIES)
@pytest.mark.parametrize("loss", ["exponential", "logistic"])
def test_default_fit_of_real_data_is_silent_and_certified(real_data, p, loss):
    X, y = real_data
    model = RobustLinearClassifier(p_algo=p, loss=loss).fit(X, y)  # warnings are errors here
    if model.separable_:
        assert model.dual_gap_ < 0.5
        assert model.margin_ <= model.margin_bound_
    else:
        assert model.separable_ is False
        assert model.dual_gap_ <= 1e-3
    assert model.robust_score(X, y) > 0.6


@pytest.mark.slow
def test_robust_training_beats_clean_training_on_real_data():
    X, y = load_breast_cancer(return_X_y=True)
    scorer = make_robust_scorer(eps=0.4)
    models = {
        eps: make_pipeline(StandardScaler(), RobustLinearClassifier(eps=eps, loss="logistic"))
        for eps in (0.01, 0.4)
    }
    robust = {
        eps: cross_val_score(model, X, y, scoring=scorer).mean() for eps, model in models.items()
    }
    assert robust[0.4] > robust[0.01] + 0.2


@pytest.mark.slow
@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("q", GEOMETRIES)
def test_solvers_agree_where_data_are_separable(gaussian, q, fit_intercept):
    X, y = gaussian(12, 20)
    eps = 0.5 * max_margin(X, y, q=q, fit_intercept=fit_intercept).margin
    shared = {"p_algo": 2, "q_pert": q, "eps": eps, "fit_intercept": fit_intercept, "loss_tol": 0}
    exact = RobustLinearClassifier(solver="exact", **shared).fit(X, y)
    assert exact.dual_gap_ <= 1e-6
    for solver, tol in (("steepest_descent", 1e-2), ("accelerated", 1e-4)):
        model = RobustLinearClassifier(solver=solver, tol=tol, **shared).fit(X, y)
        assert model.dual_gap_ <= tol
        assert (1 - tol) * exact.margin_ <= model.margin_ <= exact.margin_bound_ * (1 + 1e-9)
        report = implicit_bias_report(model, X, y)
        assert report.margin_ratio >= 1 - tol
        assert report.cosine >= 1 - tol


@pytest.mark.parametrize("p", [1, np.inf])
def test_large_data_reach_the_limit_without_a_program(gaussian, monkeypatch, p):
    X, y = gaussian(20, 40)
    shared = {"p_algo": p, "eps": 0.05, "loss_tol": 0}
    exact = RobustLinearClassifier(**shared).fit(X, y)
    monkeypatch.setattr("sklearn_robust.linear_model._robust_linear._AUTO_ENTRIES", 0)
    model = RobustLinearClassifier(**shared, tol=1e-2, max_iter=5000).fit(X, y)
    assert 1e-7 < model.dual_gap_ <= 1e-2
    assert 0.99 * exact.margin_ <= model.margin_ <= exact.margin_bound_ * (1 + 1e-9)


@pytest.mark.parametrize("loss", ["exponential", "logistic"])
def test_solvers_agree_where_data_are_not_separable(loss):
    X, y = load_iris(return_X_y=True)
    X, y = scale(X[y > 0]), y[y > 0]
    models = [
        RobustLinearClassifier(2, 2, 0.2, loss=loss, solver=s).fit(X, y)
        for s in ("auto", "accelerated", "exact")
    ]
    for model in models:
        assert model.separable_ is False
        np.testing.assert_allclose(model.coef_, models[0].coef_, rtol=1e-3)


def test_all_solvers_end_at_the_same_loss(gaussian):
    X, y = gaussian(20, 40)
    for solver in ("steepest_descent", "accelerated", "exact"):
        model = RobustLinearClassifier(eps=0.05, solver=solver, loss="exponential").fit(X, y)
        margins = y * model.decision_function(X) - 0.05 * np.abs(model.coef_).sum()
        assert np.exp(-margins).sum() <= 1e-3 * (1 + 1e-9)
        assert np.exp(-margins).sum() > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("p", GEOMETRIES)
def test_data_next_to_inseparable_get_their_exact_limit(gaussian, p):
    X, y = gaussian(100, 30)
    X = X + 0.02 * y[:, None]
    eps = 0.995 * max_margin(X, y, q=math.inf, fit_intercept=True).margin
    model = RobustLinearClassifier(p_algo=p, eps=eps).fit(X, y)
    assert model.separable_ is True
    assert model.dual_gap_ <= 1e-6
    margins = y * model.decision_function(X) - eps * np.abs(model.coef_).sum()
    assert np.exp(-margins).sum() <= 1e-3 * (1 + 1e-6)


def test_where_the_programs_fail_the_path_stays_and_warns(gaussian, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("No solver returned an answer")

    monkeypatch.setattr("sklearn_robust.linear_model.fitting.solve_separator", fail)
    X, y = gaussian(100, 30)
    X = X + 0.02 * y[:, None]
    eps = 0.995 * max_margin(X, y, q=math.inf, fit_intercept=True).margin
    for solver in ("auto", "exact"):
        with pytest.warns(ConvergenceWarning, match="certified relative gap"):
            model = RobustLinearClassifier(eps=eps, loss_tol=1e-12, solver=solver).fit(X, y)
        assert model.separable_ in (True, None)


def test_an_exact_separator_is_judged_by_the_tol_of_the_estimator():
    X, y = load_breast_cancer(return_X_y=True)  # raw: the programs end at a gap of about 1e-8
    model = RobustLinearClassifier(eps=0.0, solver="exact").fit(X, y)  # silent
    assert model.dual_gap_ <= 1e-3
    with pytest.warns(ConvergenceWarning, match="tol=1e-15"):
        RobustLinearClassifier(eps=0.0, solver="exact", tol=1e-15).fit(X, y)


@pytest.mark.slow
@pytest.mark.parametrize("q", [1, 2, math.inf])
def test_just_beyond_the_largest_eps_the_proof_is_kept_and_the_risk_certified(q):
    X, y = load_breast_cancer(return_X_y=True)
    X, y = scale(X)[::3], y[::3]
    eps = 1.001 * max_margin(X, y, q=q, fit_intercept=True).margin
    model = RobustLinearClassifier(q_pert=q, eps=eps).fit(X, y)  # silent
    assert model.separable_ is False
    assert model.margin_bound_ == 0
    assert model.dual_gap_ <= 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("q", [1, 2, math.inf])
def test_float32_data_are_certified_too(q):
    X, y = load_breast_cancer(return_X_y=True)
    X, y = scale(X)[::6].astype(np.float32), y[::6]
    star = max_margin(X, y, q=q, fit_intercept=True).margin
    model = RobustLinearClassifier(q_pert=q, eps=2 * star).fit(X, y)  # silent
    assert model.separable_ is False
    assert model.dual_gap_ <= 1e-3
    assert model.coef_.dtype == np.float32
    # coefficients so large that float32 does not hold them
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = RobustLinearClassifier(q_pert=q, eps=1.001 * star).fit(X, y)
    assert model.separable_ is False
    assert bool(caught) == (model.dual_gap_ > 1e-3)
    assert model.dual_gap_ < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("eps", [0.0, 0.01, 0.2])
@pytest.mark.parametrize("unit", [1e-10, 1e10])
def test_the_unit_of_the_data_does_not_matter(eps, unit):
    X, y = load_breast_cancer(return_X_y=True)
    X = scale(X)
    model, other = (
        RobustLinearClassifier(eps=eps * u, solver="exact").fit(X * u, y) for u in (1.0, unit)
    )
    assert other.separable_ is model.separable_
    np.testing.assert_allclose(
        other.coef_ * unit, model.coef_, rtol=1e-3, atol=1e-5 * np.abs(model.coef_).max()
    )


@pytest.mark.slow
@pytest.mark.parametrize("eps", [0.0, 1e-12])
@pytest.mark.parametrize(
    ("large", "small", "offset"), [(1e4, 1e-10, 0.0), (1e6, 1e-6, 0.0), (1e6, 1e-5, 1.7e9)]
)
def test_a_small_feature_that_separates_is_found_beside_large_ones(large, small, offset, eps):
    y = np.arange(60) % 2
    noise = large * np.random.default_rng(0).standard_normal(60) + offset
    X = np.column_stack([noise, small * (2 * y - 1)])
    model = RobustLinearClassifier(eps=eps, solver="exact", tol=0.2).fit(X, y)  # silent
    assert model.separable_ is True
    assert model.score(X, y) == 1
    assert model.margin_ == pytest.approx(small - eps, rel=0.1)


def test_attributes_of_a_separable_fit(gaussian):
    X, y = gaussian(20, 40)
    model = RobustLinearClassifier(p_algo=1, eps=0.05).fit(X, y)
    assert model.separable_ is True
    margins = y * model.decision_function(X) - 0.05 * np.abs(model.coef_).sum()
    assert model.margin_ == pytest.approx(margins.min() / np.abs(model.coef_).sum())
    assert model.dual_gap_ == pytest.approx(1 - model.margin_ / model.margin_bound_)
    assert isinstance(model.n_iter_, int)
    assert model.coef_.shape == (1, 40)
    assert model.intercept_.shape == (1,)


def test_robust_score_perturb_and_radius_agree_for_several_classes():
    X, y = load_iris(return_X_y=True)
    X = scale(X)
    names = np.array(["setosa", "versicolor", "virginica"])[y]
    model = RobustLinearClassifier(eps=0.2).fit(X, names)
    worst = model.perturb(X, names)
    assert np.abs(worst - X).max() <= 0.2 + 1e-12
    survived = model.predict(worst) == names
    assert model.robust_score(X, names) == pytest.approx(survived.mean())
    np.testing.assert_array_equal(model.certified_radius(X, names) > 0.2, survived)
    signs = np.array(list(itertools.product([-1.0, 1.0], repeat=4)))
    brute = np.all([model.predict(X + 0.2 * s) == names for s in signs], axis=0)
    np.testing.assert_array_equal(brute, survived)
    assert model.robust_score(X, names, eps=0.0) == model.score(X, names)
    assert model.robust_score(X, names, eps=0.1, q=2) == robust_accuracy_score(
        model, X, names, eps=0.1, q=2
    )
    with pytest.raises(ValueError, match="not seen in fit: \\['daisy'\\]"):
        model.perturb(X[:1], ["daisy"])


@pytest.mark.parametrize("loss", ["exponential", "logistic"])
def test_probabilities(loss):
    X, y = load_iris(return_X_y=True)
    model = RobustLinearClassifier(loss=loss).fit(X, y)
    probability = model.predict_proba(X)
    np.testing.assert_allclose(probability.sum(axis=1), 1)
    np.testing.assert_array_equal(model.classes_[probability.argmax(axis=1)], model.predict(X))
    binary = RobustLinearClassifier(loss=loss).fit(X[y > 0], y[y > 0])
    scores = binary.decision_function(X) * (2 if loss == "exponential" else 1)
    np.testing.assert_allclose(binary.predict_proba(X)[:, 1], 1 / (1 + np.exp(-scores)))


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["auto", "steepest_descent", "accelerated", "exact"])
def test_sparse_data_give_what_dense_data_give(solver):
    X, y = make_teacher_classification(60, 100, data_sparsity=10, random_state=0)
    dense = RobustLinearClassifier(eps=0.02, solver=solver).fit(X, y)
    for convert in (sparse.csr_matrix, sparse.csc_matrix, sparse.csr_array):
        model = RobustLinearClassifier(eps=0.02, solver=solver).fit(convert(X), y)
        np.testing.assert_allclose(model.coef_, dense.coef_, rtol=1e-5, atol=1e-8)
        np.testing.assert_allclose(
            model.decision_function(convert(X)), dense.decision_function(X), rtol=1e-5, atol=1e-7
        )
        assert model.robust_score(convert(X), y) == dense.robust_score(X, y)


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["steepest_descent", "accelerated"])
@pytest.mark.parametrize("noise", [0.0, 3.0], ids=["separable", "not separable"])
def test_torch_on_the_cpu_gives_what_numpy_gives(gaussian, solver, noise):
    X, y = gaussian(30, 50 if not noise else 5, noise=noise)
    one = RobustLinearClassifier(eps=0.05, solver=solver).fit(X, y)
    other = RobustLinearClassifier(eps=0.05, solver=solver, device="cpu").fit(X, y)
    assert isinstance(other.coef_, np.ndarray)
    np.testing.assert_allclose(other.coef_, one.coef_, rtol=1e-4, atol=1e-7)
    assert other.separable_ is one.separable_ is (not noise)


@pytest.mark.slow
def test_float32_stays_float32():
    X, y = load_breast_cancer(return_X_y=True)
    X = scale(X)
    wide, y_wide = make_teacher_classification(30, 60, random_state=0)
    for data, labels in ((X, y), (wide, y_wide)):
        for solver in ("auto", "accelerated", "exact"):
            single = RobustLinearClassifier(eps=0.05, solver=solver).fit(
                data.astype(np.float32), labels
            )
            double = RobustLinearClassifier(eps=0.05, solver=solver).fit(data, labels)
            assert single.coef_.dtype == single.intercept_.dtype == np.float32
            assert single.separable_ == double.separable_
            assert single.robust_score(data, labels) == pytest.approx(
                double.robust_score(data, labels), abs=0.02
            )


@pytest.mark.slow
def test_frames_and_feature_names():
    X, y = load_wine(return_X_y=True, as_frame=True)
    y = y.map({0: "x", 1: "y", 2: "z"})
    from_pandas = RobustLinearClassifier().fit(X, y)
    assert from_pandas.feature_names_in_.tolist() == X.columns.tolist()
    from_polars = RobustLinearClassifier().fit(
        pl.DataFrame(X.to_dict("list")), pl.Series(y.tolist())
    )
    np.testing.assert_allclose(from_polars.coef_, from_pandas.coef_, rtol=1e-5, atol=1e-6)
    assert from_polars.predict(pl.DataFrame(X.to_dict("list")))[0] in ("x", "y", "z")
    with pytest.raises(ValueError, match="feature names"):
        from_pandas.predict(X.rename(columns={"alcohol": "spirit"}))
    assert isinstance(y, pd.Series)


def test_weights_of_samples_and_classes():
    X, y = load_iris(return_X_y=True)
    X, y = scale(X[y > 0]), y[y > 0]
    weight = np.where(np.arange(100) % 3 == 0, 2.0, 0.0)
    weighted = RobustLinearClassifier(eps=0.2).fit(X, y, sample_weight=weight)
    kept = RobustLinearClassifier(eps=0.2).fit(X[weight > 0], y[weight > 0])
    np.testing.assert_allclose(weighted.coef_, kept.coef_, rtol=1e-6)
    uneven = np.r_[0:50, 50:60]
    balanced = RobustLinearClassifier(eps=0.2, class_weight="balanced").fit(X[uneven], y[uneven])
    by_hand = RobustLinearClassifier(eps=0.2).fit(
        X[uneven], y[uneven], sample_weight=np.where(y[uneven] == 2, 3.0, 0.6)
    )
    np.testing.assert_allclose(balanced.coef_, by_hand.coef_, rtol=1e-6)
    with pytest.raises(
        ValueError, match=r"with positive sample_weight and class_weight, got 1 class: \[1\]"
    ):
        RobustLinearClassifier().fit(X, y, sample_weight=(y == 1).astype(float))


def test_warm_start_needs_fewer_iterations_and_like_data(gaussian):
    X, y = gaussian(40, 80)
    model = RobustLinearClassifier(p_algo=1, eps=0.05, warm_start=True).fit(X, y)
    cold = model.n_iter_
    assert model.fit(X, y).n_iter_ < cold
    with pytest.raises(ValueError, match="warm_start=True needs data like those of the last fit"):
        model.fit(X[:, :10], y)
    with pytest.raises(ValueError, match="whose classes were"):
        model.fit(X, y + 5)
    assert model.fit(X.astype(np.float32), y + 5 - 5).coef_.dtype == np.float32


def test_copies_pickles_and_parameters(gaussian):
    X, y = gaussian(20, 40)
    model = RobustLinearClassifier(eps=0.05).fit(X, y)
    for twin in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        np.testing.assert_array_equal(twin.predict(X), model.predict(X))
        assert twin.dual_gap_ == model.dual_gap_
    fresh = clone(model).set_params(eps=0.01, p_algo=1)
    assert fresh.get_params()["eps"] == 0.01
    with pytest.raises(NotFittedError):
        fresh.robust_score(X, y)


@pytest.mark.slow
def test_grid_search_in_a_pipeline_over_eps():
    X, y = load_digits(return_X_y=True)
    chosen = np.isin(y, (3, 8))
    X, y = X[chosen] / 16, y[chosen]
    model = make_pipeline(StandardScaler(with_std=False), RobustLinearClassifier(loss="logistic"))
    search = GridSearchCV(
        model,
        {"robustlinearclassifier__eps": [0.01, 0.1, 0.15]},
        scoring=make_robust_scorer(eps=0.1),
        cv=3,
    )
    search.fit(X, y)
    assert search.best_params_["robustlinearclassifier__eps"] > 0.01
    assert search.best_score_ > 0.82


def test_a_fit_that_stops_early_warns_with_its_gap(gaussian):
    X, y = gaussian(20, 40)
    model = RobustLinearClassifier(p_algo=1, eps=0.05, solver="steepest_descent", max_iter=5)
    with pytest.warns(
        ConvergenceWarning, match="use solver='exact', increase max_iter=5, "
    ) as record:
        model.fit(X, y)
    assert f"{model.dual_gap_:.2g}" in str(record[0].message)
    assert model.separable_ is True  # known before the path began
    assert model.n_iter_ == 5


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"p_algo": 0.5}, r"p_algo must be a real number in \[1, inf\], got 0.5. Use numpy.inf"),
        ({"p_algo": "l2"}, "p_algo must be a real number"),
        ({"q_pert": math.nan}, "q_pert must be a real number"),
        ({"eps": -0.1}, "eps must be a finite number >= 0, got -0.1"),
        ({"eps": math.inf}, "eps must be a finite number"),
        (
            {"loss": "hinge"},
            r"loss must be one of \['exponential', 'logistic'\] or a MarginLoss, got 'hinge'",
        ),
        ({"solver": "sgd"}, "solver must be one of"),
        ({"step_size": "big"}, "step_size must be one of"),
        ({"step_size": 0.0}, "step_size must be a finite number > 0"),
        ({"max_iter": 0}, "max_iter must be an integer >= 1, got 0"),
        ({"tol": -1}, "tol must be a finite number >= 0"),
        ({"fit_intercept": "yes"}, "fit_intercept must be one of"),
        (
            {"solver": "accelerated", "p_algo": "nuclear"},
            r"solver='accelerated' needs p_algo in \[1, inf\], got p_algo='nuclear'",
        ),
        ({"solver": "exact", "device": "cpu"}, "device='cpu' is not for solver='exact'"),
    ],
)
def test_bad_parameters_are_refused(parameters, message):
    with pytest.raises(ValueError, match=message):
        RobustLinearClassifier(**parameters).fit([[0.0], [1.0]], [0, 1])


def test_sparse_data_need_no_device():
    with pytest.raises(ValueError, match="needs dense data"):
        RobustLinearClassifier(device="cpu").fit(sparse.csr_matrix(np.eye(4)), [0, 1, 0, 1])


@pytest.mark.slow
def test_large_noisy_data():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((20_000, 500))
    y = X @ rng.standard_normal(500) / np.sqrt(500) + rng.standard_normal(20_000) > 0
    model = RobustLinearClassifier(eps=0.02).fit(X, y)
    assert model.separable_ is False
    assert model.dual_gap_ <= 1e-6


def test_data_proven_separable_are_decided_once(gaussian, monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("the minimiser of the risk has proven it")

    monkeypatch.setattr("sklearn_robust.linear_model.fitting.accelerated_margin", refuse)
    model = RobustLinearClassifier(eps=0.0).fit(*gaussian(60, 20))
    assert model.separable_
