"""RobustLinearClassifier on several classes, which are one problem."""

import itertools
import math
from dataclasses import replace

import cvxpy as cp
import numpy as np
import pytest
from scipy import sparse
from scipy.special import softmax
from sklearn.base import clone
from sklearn.datasets import load_digits, load_iris, load_wine
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.preprocessing import scale

import sklearn_robust.linear_model._robust_linear
import sklearn_robust.linear_model.joint_fitting
from sklearn_robust import (
    ConstantClassifierWarning,
    PathRecorder,
    RobustLinearClassifier,
    make_robust_scorer,
    robust_accuracy_score,
)
from sklearn_robust.joint import JointProblem
from sklearn_robust.linear_model.constant_radii import constant_radii
from sklearn_robust.losses import LOSSES as ALL_LOSSES

LOSSES = ("exponential", "logistic")
EXPONENTIAL = ALL_LOSSES["exponential"]
X, Y = load_iris(return_X_y=True)
X = scale(X)
NAMES = np.array(["setosa", "versicolor", "virginica"])
RNG = np.random.default_rng(0)
LABELS = np.arange(90) % 3
MIXED = RNG.standard_normal((90, 4)) + 1.5 * np.eye(4)[LABELS]
APART = RNG.standard_normal((24, 6)) + 5.0 * np.eye(6)[LABELS[:24]], LABELS[:24]


def margins(model, X, y, eps, dual):
    """The robust margins against each rival, (n, K - 1)."""
    scores = model.decision_function(X)
    found = []
    for i, own in enumerate(y):
        rivals = [k for k in range(scores.shape[1]) if k != own]
        gaps = model.coef_[own] - model.coef_[rivals]
        found.append(scores[i, own] - scores[i, rivals] - eps * np.linalg.norm(gaps, dual, axis=1))
    return np.array(found)


def risk_of(loss, margins, weight):
    sums = np.exp(-margins).sum(axis=1)
    return weight @ (sums if loss == "exponential" else np.log1p(sums)) / weight.sum()


def least_risk(loss, q, eps, weight):
    """By a cone solver."""
    dual = {1: math.inf, 2: 2, math.inf: 1}[q]
    W, b = cp.Variable((3, 4)), cp.Variable(3)
    risk = 0
    for own in range(3):
        members = np.equal(LABELS, own)
        rows, share = MIXED[members], weight[members] / weight.sum()
        losses = [
            rows @ (W[k] - W[own]) + b[k] - b[own] + eps * cp.norm(W[own] - W[k], dual)
            for k in range(3)
            if k != own
        ]
        if loss == "exponential":
            risk += sum(share @ cp.exp(column) for column in losses)
        else:
            columns = cp.vstack([*losses, np.zeros(len(rows))])
            risk += share @ cp.log_sum_exp(columns, axis=0)
    return cp.Problem(cp.Minimize(risk)).solve(solver="CLARABEL")


def test_without_an_adversary_it_is_multinomial_logistic_regression():
    model = RobustLinearClassifier(eps=0.0, loss="logistic", tol=1e-10).fit(MIXED, NAMES[LABELS])
    theirs = LogisticRegression(C=1e10, tol=1e-12, max_iter=10_000).fit(MIXED, NAMES[LABELS])
    np.testing.assert_allclose(model.predict_proba(MIXED), theirs.predict_proba(MIXED), atol=1e-4)
    np.testing.assert_allclose(model.coef_, theirs.coef_, atol=0.1)  # of entries up to 10
    np.testing.assert_allclose(model.coef_.sum(axis=0), 0, atol=1e-9)
    assert model.intercept_.sum() == pytest.approx(0, abs=1e-9)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Solution may be inaccurate")
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("q", [1, 2, math.inf])
def test_the_minimiser_of_the_risk_is_that_of_a_cone_solver(loss, q):
    weight = np.where(np.arange(90) % 4, 1.0, 2.0)
    model = RobustLinearClassifier(2, q, 0.4, loss=loss, tol=1e-7).fit(MIXED, LABELS, weight)
    assert model.separable_ is False
    assert model.dual_gap_ <= 1e-7
    dual = {1: math.inf, 2: 2, math.inf: 1}[q]
    risk = risk_of(loss, margins(model, MIXED, LABELS, 0.4, dual), weight)
    assert risk == pytest.approx(np.exp(model.log_risk_), rel=1e-9)
    assert risk == pytest.approx(least_risk(loss, q, 0.4, weight), rel=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_names_and_order_of_the_classes_do_not_matter(loss):
    model = RobustLinearClassifier(eps=0.3, loss=loss, tol=1e-9).fit(MIXED, NAMES[LABELS])
    assert model.classes_.tolist() == NAMES.tolist()
    order = np.array([2, 0, 1])
    other = RobustLinearClassifier(eps=0.3, loss=loss, tol=1e-9).fit(MIXED, order[LABELS])
    np.testing.assert_allclose(other.coef_[order], model.coef_, atol=1e-4)
    assert other.log_risk_ == pytest.approx(model.log_risk_, abs=1e-8)
    reverse = RobustLinearClassifier(eps=0.3, loss=loss, tol=1e-9).fit(
        MIXED[::-1], NAMES[LABELS[::-1]]
    )
    np.testing.assert_allclose(reverse.coef_, model.coef_, atol=1e-4)


def test_weights_are_repetitions_and_classes_can_be_weighted():
    counts = np.where(np.arange(90) % 2, 2, 0)
    settings = {"eps": 0.3, "loss": "logistic", "tol": 1e-9}
    weighted = RobustLinearClassifier(**settings).fit(MIXED, LABELS, counts)
    repeated = RobustLinearClassifier(**settings).fit(
        np.repeat(MIXED, counts, 0), np.repeat(LABELS, counts)
    )
    np.testing.assert_allclose(weighted.coef_, repeated.coef_, atol=1e-6)
    uneven = np.r_[0:30, 31:90:6]
    balanced = RobustLinearClassifier(class_weight="balanced", **settings).fit(
        MIXED[uneven], LABELS[uneven]
    )
    by_hand = RobustLinearClassifier(**settings).fit(
        MIXED[uneven], LABELS[uneven], (1 / np.bincount(LABELS[uneven]))[LABELS[uneven]]
    )
    np.testing.assert_allclose(balanced.coef_, by_hand.coef_, atol=1e-6)


def test_exact_separators_of_repeated_samples_are_those_of_the_samples():
    rng = np.random.default_rng(15)
    X, y = rng.random((15, 30)), np.arange(15) % 3
    counts = rng.integers(1, 6, 15)
    model = RobustLinearClassifier(eps=0.05, solver="exact")
    weighted = clone(model).fit(X, y, counts)
    repeated = clone(model).fit(X.repeat(counts, axis=0), y.repeat(counts))
    size = np.abs(weighted.coef_).max()
    np.testing.assert_allclose(repeated.coef_, weighted.coef_, atol=1e-6 * size)


@pytest.mark.parametrize(
    "data", [(MIXED, LABELS, 0.3), (*APART, 0.1)], ids=["not separable", "separable"]
)
def test_sparse_data_and_float32_give_what_dense_data_give(data):
    X, y, eps = data
    settings = {"eps": eps, "tol": 1e-6, "solver": "steepest_descent"}
    dense = RobustLinearClassifier(**settings).fit(X, y)
    other = RobustLinearClassifier(**settings).fit(sparse.csr_array(X), y)
    np.testing.assert_allclose(other.coef_, dense.coef_, atol=1e-5)
    assert other.separable_ is dense.separable_
    single = RobustLinearClassifier(eps=eps, tol=1e-3).fit(X.astype(np.float32), y)
    assert single.coef_.dtype == single.intercept_.dtype == np.float32
    assert single.separable_ is dense.separable_
    assert single.robust_score(X, y) == pytest.approx(dense.robust_score(X, y), abs=0.02)


@pytest.mark.parametrize(
    ("loss", "exponents"),
    [("exponential", (1, "spectral")), ("logistic", (math.inf, "nuclear"))],
)
def test_figures_are_single_numbers(loss, exponents):
    X, y = APART
    for p in exponents:
        model = RobustLinearClassifier(p, 2, 0.1, loss=loss, solver="exact").fit(X, y)
        assert model.coef_.shape == (3, 6)
        assert model.intercept_.shape == (3,)
        assert model.separable_ is True
        assert model.dual_gap_ <= 1e-6
        found = margins(model, X, y, 0.1, 2)
        size = {
            1: np.abs(model.coef_).sum(),
            math.inf: np.abs(model.coef_).max(),
            "spectral": np.linalg.norm(model.coef_, 2),
            "nuclear": np.linalg.norm(model.coef_, "nuc"),
        }[p]
        assert model.margin_ == pytest.approx(found.min() / size)
        assert isinstance(model.n_iter_, int)
        # the separator is scaled to the loss at which a path stops
        assert len(y) * risk_of(loss, found, np.ones(24)) == pytest.approx(1e-3, rel=1e-5)
        path = RobustLinearClassifier(p, 2, 0.1, loss=loss, solver="steepest_descent").fit(X, y)
        assert len(y) * np.exp(path.log_risk_) <= 1e-3
        assert path.margin_ <= model.margin_bound_ <= path.margin_bound_ * (1 + 1e-9)


@pytest.mark.parametrize("loss", LOSSES)
def test_probabilities_are_a_softmax(loss):
    model = RobustLinearClassifier(loss=loss, eps=0.3).fit(MIXED, LABELS)
    expected = softmax((2 if loss == "exponential" else 1) * model.decision_function(MIXED), axis=1)
    np.testing.assert_allclose(model.predict_proba(MIXED), expected, rtol=1e-10)
    assert np.isfinite(model.predict_log_proba(1e4 * MIXED)).all()


def test_matrix_norms_of_two_classes_are_the_2_norm_and_some_solvers_are_refused():
    X, y = APART[0][APART[1] < 2], APART[1][APART[1] < 2]
    expected = RobustLinearClassifier(2, eps=0.1).fit(X, y)
    for name in ("spectral", "nuclear"):
        np.testing.assert_array_equal(
            RobustLinearClassifier(name, eps=0.1).fit(X, y).coef_, expected.coef_
        )
        with pytest.raises(ValueError, match="solver='accelerated' needs p_algo in"):
            RobustLinearClassifier(name, solver="accelerated").fit(X, y)
    with pytest.raises(ValueError, match="p_algo must be a real number"):
        RobustLinearClassifier("muon").fit(X, y)
    with pytest.raises(
        ValueError, match=r"'accelerated' of 3 classes needs p_algo=2, got p_algo=1\.5\. Use solver"
    ):
        RobustLinearClassifier(1.5, solver="accelerated").fit(*APART)


def test_the_limit_without_the_path(monkeypatch):
    limit = RobustLinearClassifier(eps=0.3, solver="exact").fit(*APART)
    for solver in ("accelerated", "auto"):
        model = RobustLinearClassifier(eps=0.3, solver=solver, tol=1e-2).fit(*APART)
        assert model.separable_ is True
        assert model.dual_gap_ <= 1e-2
        assert model.margin_ <= limit.margin_ * (1 + 1e-12) <= model.margin_bound_ * (1 + 1e-11)
        np.testing.assert_allclose(model.log_risk_, limit.log_risk_, rtol=1e-9)
        # of so many classes that the path would take hours
        monkeypatch.setattr(sklearn_robust.linear_model.joint_fitting, "_MOST_ENTRIES", 1)
        monkeypatch.setattr(sklearn_robust.linear_model._robust_linear, "_AUTO_ENTRIES", 0)
        monkeypatch.setattr(
            sklearn_robust.linear_model.joint_fitting, "joint_steepest_descent", None
        )


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("q", [1, 2, math.inf])
def test_the_radius_at_which_nothing_is_learnt_is_named(loss, q):
    with pytest.warns(ConstantClassifierWarning, match="all coefficients are zero") as caught:
        model = RobustLinearClassifier(2, q, 50.0, loss=loss).fit(MIXED, LABELS)
    assert not model.coef_.any()
    assert (model.separable_, model.dual_gap_) == (False, pytest.approx(0, abs=1e-12))
    radius = float(str(caught[0].message).split("the radius ")[1].split(" ")[0])
    assert RobustLinearClassifier(2, q, 0.99 * radius, loss=loss).fit(MIXED, LABELS).coef_.any()
    with pytest.warns(ConstantClassifierWarning):
        RobustLinearClassifier(2, q, 1.01 * radius, loss=loss).fit(MIXED, LABELS)


@pytest.mark.parametrize("q", [1, 2, 3])
def test_the_radius_from_which_on_it_is_constant(q):
    """The least radius times the capacities of a flow that is the weighted sum, by cvxpy."""
    scales = np.array([1.0, 0.5, 0.0, 2.0])
    problem = JointProblem.from_data(MIXED, LABELS, q=q, eps=1.0, scale=scales, fit_intercept=True)
    weights = problem.balanced(problem.evaluate(EXPONENTIAL, np.zeros((3, 4))).weights)
    reached = scales > 0
    G, A = problem.weighted_sum(weights)[:, reached], problem.pair_weights(weights)
    radius, rules, flow = cp.Variable(), [], dict.fromkeys(range(3), 0)
    for low, high in itertools.combinations(range(3), 2):
        moved = cp.Variable(3)
        rules.append(cp.pnorm(cp.multiply(1 / scales[reached], moved), q) <= radius * A[low, high])
        flow[low], flow[high] = flow[low] + moved, flow[high] - moved
    rules += [flow[c] == G[c] for c in range(3)]
    cp.Problem(cp.Minimize(radius), rules).solve(solver="CLARABEL")
    assert constant_radii(problem)[0] == pytest.approx(radius.value, rel=1e-4)


def test_a_record_and_printed_lines_are_of_one_problem(capsys):
    recorder = PathRecorder(every=5, store_coef=True)
    model = RobustLinearClassifier(1, eps=0.1, solver="steepest_descent", verbose=1)
    model.set_callbacks(recorder).fit(*APART)
    assert recorder.solver_ == "steepest_descent"
    history = recorder.history_
    assert history["coef"].shape == (len(history["iteration"]), 3, 6)
    np.testing.assert_array_equal(history["coef"][-1], model.coef_)
    np.testing.assert_array_equal(history["intercept"][-1], model.intercept_)
    assert history["margin"].shape == history["iteration"].shape
    assert history["iteration"][-1] == model.n_iter_
    assert "RobustLinearClassifier: steepest_descent begins" in capsys.readouterr().out
    model.set_params(eps=0.5).fit(MIXED, LABELS)
    assert recorder.solver_ == "robust_risk"
    assert recorder.history_["log_risk"][-1] == pytest.approx(model.log_risk_, rel=1e-6)


def test_a_warm_start_goes_on_and_an_early_stop_warns():
    model = RobustLinearClassifier(
        1, eps=0.1, solver="steepest_descent", max_iter=5, warm_start=True
    )
    with pytest.warns(ConvergenceWarning, match="max_iter=5.*") as caught:
        model.fit(*APART)
    assert f"certified relative gap {model.dual_gap_:.2g}" in str(caught[0].message)
    before = model.log_risk_
    with pytest.warns(ConvergenceWarning):
        model.fit(*APART)
    assert model.log_risk_ < before
    with pytest.raises(ValueError, match=r"has shape \(3, 6\)"):
        model.fit(APART[0][:, :3], APART[1])


def test_robust_scores_of_one_class_against_the_rest_are_exact():
    model = OneVsRestClassifier(RobustLinearClassifier(eps=0.2)).fit(X, Y)
    signs = np.array(list(itertools.product([-1.0, 1.0], repeat=4)))
    survived = np.all([model.predict(X + 0.2 * s) == Y for s in signs], axis=0)
    assert 0 < survived.mean() < 1
    assert robust_accuracy_score(model, X, Y, eps=0.2, q=math.inf) == survived.mean()


@pytest.mark.slow
def test_digits_are_more_robust_than_one_class_against_the_rest():
    X, y = load_digits(return_X_y=True)
    X = X / 16
    scorer = make_robust_scorer(eps=0.1, q=math.inf)
    joint, against_rest = (
        cross_val_score(model, X, y, scoring=scorer, cv=3).mean()
        for model in (
            RobustLinearClassifier(eps=0.1, loss="logistic"),
            OneVsRestClassifier(RobustLinearClassifier(eps=0.1, loss="logistic")),
        )
    )
    assert joint > 0.64
    assert joint > against_rest + 0.02


@pytest.mark.slow
def test_separable_wine_gets_its_limit():
    X, y = load_wine(return_X_y=True)
    X = scale(X)
    model = RobustLinearClassifier(2, eps=0.05, loss_tol=0, tol=1e-6).fit(X, y)
    assert model.separable_ is True
    assert model.dual_gap_ <= 1e-6
    np.testing.assert_allclose(model.coef_.sum(axis=0), 0, atol=1e-6)


@pytest.mark.parametrize("solver", ["auto", "exact"])
def test_the_path_on_many_classes_ends_early(solver, monkeypatch):
    joint_fitting = sklearn_robust.linear_model.joint_fitting
    monkeypatch.setattr(joint_fitting, "_MOST_ENTRIES", 1)
    monkeypatch.setattr(sklearn_robust.linear_model._robust_linear, "_AUTO_ENTRIES", 1)
    model = RobustLinearClassifier(1.5, q_pert=2, loss_tol=0, tol=1e-9, solver=solver)
    with pytest.warns(ConvergenceWarning, match="certified relative gap"):
        model.fit(*APART)
    assert model.separable_ is True
    assert model.n_iter_ == joint_fitting._FEWEST_ITERATIONS
    with pytest.warns(ConvergenceWarning):
        model.set_params(solver="steepest_descent", max_iter=15).fit(*APART)
    assert model.n_iter_ == 15


def test_separability_of_large_data_is_left_open_where_the_minimiser_leaves_it(monkeypatch):
    joint_fitting = sklearn_robust.linear_model.joint_fitting
    minimise = joint_fitting.minimise_joint_risk

    def undecided(*given, **named):
        end = minimise(*given, **named)
        return replace(end, separable=None, gap=1.0, bound=-math.inf)

    monkeypatch.setattr(joint_fitting, "minimise_joint_risk", undecided)
    X, y = APART
    model = RobustLinearClassifier(eps=2.0, solver="exact")
    monkeypatch.setattr(joint_fitting, "_MOST_UNDECIDED", 1)
    with pytest.warns(ConvergenceWarning, match="separability undecided"):
        model.fit(X, y)
    assert model.separable_ is None
    assert model.coef_.any()
