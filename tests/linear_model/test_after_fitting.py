"""What a fitted linear classifier remembers, answers and prints."""

import math
import re
from dataclasses import replace
from itertools import pairwise

import matplotlib
import numpy as np
import pytest
from scipy import sparse
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import BaggingClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import log_loss

from sklearn_robust import (
    ConstantClassifierWarning,
    MinNormRobustClassifier,
    NotSeparableWarning,
    RobustAccuracyDisplay,
    RobustDiagonalNet,
    RobustLinearClassifier,
    RobustLinearClassifierCV,
    SeparatorDisplay,
    implicit_bias_report,
    make_teacher_classification,
    training_radii,
)
from sklearn_robust.linear_model import fitting
from sklearn_robust.solvers.robust_risk import minimise_robust_risk

matplotlib.use("Agg")

LINEAR = [
    RobustLinearClassifier(eps=0.05, scale=[2.0, 1.0, 1.0, 1.0, 0.5]),
    RobustDiagonalNet(eps=0.05, scale=[2.0, 1.0, 1.0, 1.0, 0.5]),
    MinNormRobustClassifier(eps=0.05, scale=[2.0, 1.0, 1.0, 1.0, 0.5]),
    RobustLinearClassifierCV(
        2, eps=[0.05, 0.1], threat_eps=0.05, cv=2, scale=[2.0, 1.0, 1.0, 1.0, 0.5]
    ),
]
KINDS = [
    RobustLinearClassifier,
    RobustDiagonalNet,
    MinNormRobustClassifier,
    RobustLinearClassifierCV,
]


@pytest.fixture
def apart(gaussian):
    """Two classes of five features, separable by far."""
    X, y = gaussian(30, 5)
    X[:, 0] += 2.0 * y
    return X, y


def answers(model, X, y):
    found = {
        "labels": model.predict(X),
        "robust": model.robust_score(X, y),
        "radius": model.certified_radius(X, y),
        "worst": model.perturb(X, y),
        "report": implicit_bias_report(model, X, y).margin_ratio,
        "curve": RobustAccuracyDisplay.from_estimator(model, X, y).curves[0].accuracy,
    }
    if hasattr(model, "predict_proba"):
        found["shares"] = model.predict_proba(X)
    matplotlib.pyplot.close("all")
    return found


@pytest.mark.slow
@pytest.mark.parametrize("estimator", LINEAR, ids=lambda e: type(e).__name__)
def test_new_parameters_wait_for_the_next_fit(estimator, apart):
    X, y = apart
    model = clone(estimator).fit(X, y)
    before = answers(model, X, y)
    assert (model.threat_.q, model.threat_.eps) == (math.inf, 0.05)
    np.testing.assert_array_equal(model.threat_.scale, [2.0, 1.0, 1.0, 1.0, 0.5])
    np.testing.assert_array_equal(model.threat_.scale, model.scale_)
    new = {
        "q_pert": 2,
        "eps": 0.4,
        "scale": None,
        "loss": "logistic",
        "p_algo": 1,
        "p": 1,
        "fit_intercept": False,
    }
    new |= {"threat_eps": 0.4, "threat_q": 2}
    model.set_params(**{name: value for name, value in new.items() if name in model.get_params()})
    for name, value in answers(model, X, y).items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)
    model.fit(X, y)
    assert (model.threat_.q, model.threat_.eps, model.threat_.scale) == (2, 0.4, None)
    assert not np.array_equal(model.certified_radius(X, y), before["radius"])


def test_the_balls_of_a_picture_are_those_of_the_fit(apart):
    X, y = apart[0][:, :2], apart[1]
    model = RobustLinearClassifier(eps=0.05, q_pert=2).fit(X, y).set_params(eps=1.0, q_pert=1)
    display = SeparatorDisplay.from_estimator(model, X, y)
    assert (display.q, display.eps) == (2, 0.05)
    matplotlib.pyplot.close("all")


@pytest.mark.parametrize("kind", [RobustLinearClassifier, RobustDiagonalNet])
@pytest.mark.parametrize("loss", ["exponential", "logistic"])
def test_probabilities_have_logarithms_where_they_are_0_and_1(kind, loss, apart):
    X, y = apart
    model = kind(eps=0.05, loss=loss).fit(X, y)
    X = X / np.abs(model.decision_function(X)).min()
    X = np.vstack([30 * X, 1000 * X])  # scores of at least 30, and of at least 1000
    model.intercept_[:] = 0.0
    scores = model.decision_function(X) * (2 if loss == "exponential" else 1)
    logs, shares = model.predict_log_proba(X), model.predict_proba(X)
    np.testing.assert_allclose(
        logs, -np.logaddexp(0, np.column_stack([scores, -scores])), rtol=1e-12
    )
    np.testing.assert_array_equal(shares, np.exp(logs))
    assert np.isfinite(logs).all()
    # as far as numbers reach
    assert (shares[30:] == 0).any(axis=1).sum() == (np.abs(scores[30:]) > 746).sum()
    moderate = (np.abs(scores) > 40) & (np.abs(scores) < 700)
    assert moderate.any()
    assert (shares[moderate] > 0).all()  # where 1 - p is 0


def test_probabilities_of_several_classes_where_all_scores_are_low(apart):
    X, _ = apart
    model = RobustLinearClassifier(eps=0.1, loss="logistic").fit(X, np.arange(30) % 3)
    model.coef_[:], model.intercept_[:] = (
        [[-1, 0, 0, 0, 0], [0, -1, 0, 0, 0], [-1, -1, 0, 0, 0]],
        0.0,
    )
    X = np.array([[1000.0, 1001, 0, 0, 0], [900, 1000, 0, 0, 0], [1, 2, 0, 0, 0]])
    logs = model.predict_log_proba(X)
    np.testing.assert_allclose(
        logs[0], [-np.log1p(np.exp(-1)), -1 - np.log1p(np.exp(-1)), -1001 - np.log1p(np.exp(-1))]
    )
    np.testing.assert_allclose(logs[1], [0, -100, -1000], atol=1e-9)
    shares = np.exp([-1.0, -2.0, -3.0])
    np.testing.assert_allclose(model.predict_proba(X)[2], shares / shares.sum(), rtol=1e-12)
    np.testing.assert_allclose(model.predict_proba(X).sum(axis=1), 1)


def test_log_probabilities_serve_a_search_and_calibration(apart):
    X, y = apart
    model = RobustLinearClassifier(eps=0.05, loss="logistic").fit(X, y)
    assert log_loss(y, model.predict_proba(X)) == pytest.approx(
        -model.predict_log_proba(X)[np.arange(30), (y > 0).astype(int)].mean()
    )
    assert CalibratedClassifierCV(model, cv=2).fit(X, y).predict_proba(X).shape == (30, 2)


@pytest.mark.slow
@pytest.mark.parametrize("estimator", LINEAR, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("n_classes", [2, 3])
def test_sparse_coefficients_answer_as_dense_ones(estimator, n_classes, apart):
    X, y = apart
    if n_classes == 3:
        X, y = np.vstack([X, X[:15] + 9 * np.eye(5)[1]]), np.append(y, np.full(15, 7.0))
    model = (
        clone(estimator)
        .set_params(eps=[0.05] if isinstance(estimator, RobustLinearClassifierCV) else 0.05)
        .fit(X, y)
    )
    dense = {name: getattr(model, name)(X) for name in ("decision_function", "predict")}
    dense |= {
        name: getattr(model, name)(X, y)
        for name in ("robust_score", "certified_radius", "perturb", "score")
    }
    coef = model.coef_
    assert model.sparsify() is model
    assert sparse.issparse(model.coef_)
    for name in ("decision_function", "predict"):
        np.testing.assert_allclose(getattr(model, name)(X), dense[name], rtol=1e-12)
        np.testing.assert_allclose(
            getattr(model, name)(sparse.csr_array(X)), dense[name], rtol=1e-12
        )
    for name in ("robust_score", "certified_radius", "perturb", "score"):
        np.testing.assert_allclose(getattr(model, name)(X, y), dense[name], rtol=1e-12)
    np.testing.assert_array_equal(model.densify().coef_, coef)


def test_a_warm_start_from_sparse_coefficients(apart):
    X, y = apart
    model = RobustLinearClassifier(1, eps=0.05, warm_start=True, solver="steepest_descent").fit(
        X, y
    )
    again = clone(model).fit(X, y).sparsify().fit(X, y)
    np.testing.assert_array_equal(again.coef_, model.fit(X, y).coef_)


@pytest.mark.slow
@pytest.mark.pairwise
@pytest.mark.parametrize(
    "kind", [RobustLinearClassifier, RobustDiagonalNet, MinNormRobustClassifier]
)
@pytest.mark.parametrize("q", [1, 2, 3, math.inf])
@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.filterwarnings("ignore::sklearn_robust.NotSeparableWarning")
def test_a_radius_at_which_nothing_is_learnt_is_named(kind, q, fit_intercept, gaussian):
    X, y = gaussian(40, 5, noise=1.0)
    X = X[:30] + 0.3
    y = y[:30]
    up, down = (y > 0).mean(), (y < 0).mean()
    share = np.where(y > 0, 0.5 / up, 0.5 / down) / 30 if fit_intercept else np.full(30, 1 / 30)
    radius = np.linalg.norm((share * y) @ X, ord=q)
    with pytest.warns(
        ConstantClassifierWarning, match=f"learns nothing at eps=.* from the radius {radius:.4g} on"
    ) as caught:
        model = kind(q_pert=q, eps=1.001 * radius, fit_intercept=fit_intercept).fit(X, y)
    assert caught[0].filename == __file__
    assert not model.coef_.any()
    # and no warning
    assert kind(q_pert=q, eps=0.99 * radius, fit_intercept=fit_intercept).fit(X, y).coef_.any()


def test_a_constant_classifier_within_the_tolerance_is_named(gaussian, monkeypatch):
    def minimise(problem, *args, **settings):
        larger = replace(problem, radius=(1 + 2e-5) * problem.radius)
        return minimise_robust_risk(larger, *args, **settings)

    monkeypatch.setattr(fitting, "minimise_robust_risk", minimise)
    X, y = gaussian(60, 3, noise=2.0)
    radius = abs(X[y > 0].mean(axis=0) - X[y < 0].mean(axis=0)).max() / 2
    with pytest.warns(ConstantClassifierWarning, match=f"from the radius {radius:.4g} on"):
        model = RobustLinearClassifier(eps=(1 - 1e-5) * radius).fit(X, y)
    assert not model.coef_.any()


def test_the_radius_is_that_of_weights_scales_and_classes(gaussian):
    X, y = gaussian(30, 3)
    weight, scale = np.where(np.arange(30) % 2, 3.0, 1.0), np.array([2.0, 1.0, 0.0])
    X[:, 2] = np.arange(30) % 5  # out of reach, and the same in both classes
    X, y, weight = np.vstack([X, X * [1, 1, 1]]), np.append(y, -y), np.append(weight, 2 * weight)
    X[:30, 0] += y[:30]
    label = np.array(["no", "yes"])[(y > 0).astype(int)]
    share = np.where(y > 0, weight / weight[y > 0].sum(), weight / weight[y < 0].sum()) / 2
    radius = np.abs((share * y) @ X)[:2] / scale[:2]
    model = RobustLinearClassifier(eps=1.01 * radius.max(), scale=scale, loss="logistic")
    # what nobody can touch is learnt from
    assert model.fit(X, label, sample_weight=weight).coef_[0, 2] != 0
    several = np.where(np.arange(60) % 3 == 0, "other", label)
    with pytest.warns(
        ConstantClassifierWarning,
        match=r"learns nothing at eps=50.* radius \S+ on",
    ):
        RobustLinearClassifier(eps=50.0).fit(X, several)


def test_the_search_warns_of_what_it_chose(apart):
    X, y = apart
    with pytest.warns(ConstantClassifierWarning):
        RobustLinearClassifierCV(2, eps=[50.0, 60.0], threat_eps=0.1, cv=2).fit(X, y)
    # nothing that matters
    RobustLinearClassifierCV(2, eps=[0.1, 50.0], threat_eps=0.1, cv=2).fit(X, y)


def test_no_warning_without_an_adversary():
    assert (
        not RobustLinearClassifier(eps=0.0, max_iter=1)
        .fit(np.zeros((4, 2)), [0, 1, 0, 1])
        .coef_.any()
    )


def test_the_named_radius_is_the_end_of_training_radii(apart):
    X, y = apart
    with pytest.warns(ConstantClassifierWarning) as caught:
        RobustLinearClassifier(eps=100.0).fit(X, y)
    radius = float(re.search(r"radius (\S+) on", str(caught[0].message))[1])
    assert training_radii(X, y).max() < radius * (1 + 1e-3)


@pytest.mark.filterwarnings("ignore::sklearn_robust.NotSeparableWarning")  # of bags before
@pytest.mark.parametrize(
    "estimator", [LINEAR[0], LINEAR[1], LINEAR[2]], ids=lambda e: type(e).__name__
)
def test_one_class_is_refused_by_name(estimator, apart):
    X, y = apart
    message = (
        r"at least two classes in y, with positive sample_weight and class_weight, got 1 class: "
        r"\[1.0\]"
    )
    with pytest.raises(ValueError, match=message):
        clone(estimator).fit(X, y, sample_weight=(y > 0).astype(float))
    with pytest.raises(ValueError, match=message):
        clone(estimator).fit(X, np.ones(30))
    y = np.where(np.arange(30) == 0, 1.0, -1.0)  # which many bags miss
    with pytest.raises(ValueError, match="at least two classes"):
        BaggingClassifier(clone(estimator), n_estimators=10, random_state=0).fit(X, y)


def lines(capsys):
    return capsys.readouterr().out.splitlines()


def test_verbose_prints_stages_and_what_the_solver_certifies(capsys):
    X, y = make_teacher_classification(30, 60, random_state=0)
    model = RobustLinearClassifier(
        math.inf, eps=0.1, solver="steepest_descent", loss_tol=0, tol=1e-6, max_iter=300
    )
    with pytest.warns(ConvergenceWarning):
        model.set_params(verbose=1).fit(X, y)
    printed = lines(capsys)
    assert "RobustLinearClassifier: search for a separator begins" in printed
    assert "RobustLinearClassifier: steepest_descent begins" in printed
    assert re.fullmatch(
        r"RobustLinearClassifier: steepest_descent ends after \d+\.\d\d s", printed[-1]
    )
    figures = [line for line in printed if "iteration" in line]
    counts = [int(re.search(r"iteration (\d+)", line)[1]) for line in figures]
    assert counts[0] == 1
    assert len(counts) <= 10
    assert all(later >= 2 * count for count, later in pairwise(counts[:-1]))
    assert re.fullmatch(
        r"RobustLinearClassifier: iteration 300: log_risk \S+, margin \S+, margin_bound \S+, gap "
        r"\S+",
        figures[-1],
    )
    with pytest.warns(ConvergenceWarning):
        model.set_params(verbose=2).fit(X, y)
    iterations = [
        int(re.search(r"iteration (\d+)", line)[1]) for line in lines(capsys) if "iteration" in line
    ]
    assert iterations == list(range(1, 301))
    with pytest.warns(ConvergenceWarning):
        model.set_params(verbose=0).fit(X, y)
    assert lines(capsys) == []


def test_verbose_of_exact_separators_and_of_the_search(apart, capsys):
    X, y = apart
    RobustLinearClassifier(eps=0.05, solver="exact", verbose=1).fit(X, y)
    printed = lines(capsys)
    assert "RobustLinearClassifier: exact separator begins" in printed
    assert any("exact separator ends after" in line for line in printed)
    RobustLinearClassifierCV((1, 2), eps=[0.05], threat_eps=0.1, cv=2, verbose=1).fit(X, y)
    printed = lines(capsys)
    for fold in (1, 2):
        start = f"RobustLinearClassifierCV: fold {fold} of 2, 2 candidates, best robust accuracy "
        assert len([line for line in printed if line.startswith(start)]) == 1
    assert any(line.startswith("RobustLinearClassifier: ") for line in printed)  # the refit
    RobustDiagonalNet(eps=0.05, verbose=1).fit(X, y)
    assert "RobustDiagonalNet: diagonal_descent begins" in lines(capsys)


def test_not_separable_and_constant(apart):
    X, y = apart
    with pytest.warns(NotSeparableWarning) as caught, pytest.warns(ConstantClassifierWarning):
        MinNormRobustClassifier(eps=50.0).fit(X, y)
    assert caught[0].filename == __file__
