"""RobustDiagonalNet: its contract, and its agreement with coordinate descent."""

import math
import pickle

import numpy as np
import pytest
from scipy import sparse
from sklearn.datasets import load_breast_cancer, load_iris, load_wine
from sklearn.exceptions import ConvergenceWarning
from sklearn.preprocessing import scale

from sklearn_robust import (
    RobustDiagonalNet,
    RobustLinearClassifier,
    implicit_bias_report,
    make_teacher_classification,
    max_margin,
)
from sklearn_robust.joint import JointProblem
from sklearn_robust.solvers.diagonal import inf_norm_subgradient


def test_behaves_like_coordinate_descent_on_unseen_data():
    X, y, teacher = make_teacher_classification(
        64, 512, teacher_sparsity=4, return_teacher=True, random_state=0
    )
    X_test, y_test = make_teacher_classification(5000, 512, teacher=teacher, random_state=1)
    eps = max_margin(X, y, q=math.inf).margin / 4
    network = RobustDiagonalNet(eps=eps, fit_intercept=False).fit(X, y)
    one, two = (RobustLinearClassifier(p, eps=eps, fit_intercept=False).fit(X, y) for p in (1, 2))
    assert network.n_iter_ < one.n_iter_ / 2
    robust = network.robust_score(X_test, y_test)
    assert abs(robust - one.robust_score(X_test, y_test)) < 0.06
    assert robust > two.robust_score(X_test, y_test) + 0.2
    report = implicit_bias_report(network, X, y, p=1)
    assert report.margin_ratio > 0.75
    assert report.margin == pytest.approx(network.margin_)


@pytest.mark.slow
@pytest.mark.parametrize(("q", "device"), [(1, None), (math.inf, "cpu")])
def test_every_threat_is_withstood_close_to_the_largest_radius(q, device):
    X, y = make_teacher_classification(20, 40, data_sparsity=10, random_state=0)
    eps = 0.9 * max_margin(X, y, q=q).margin
    network = RobustDiagonalNet(q, eps, fit_intercept=False, device=device).fit(X, y)
    assert network.robust_score(X, y) == 1
    assert network.n_iter_ < 10_000


@pytest.mark.parametrize("penalty_weight", [0.5, 2.0, 100.0])
def test_the_implicit_subgradient_of_the_inf_norm_is_one_of_the_point_it_leads_to(penalty_weight):
    rng = np.random.default_rng(0)
    ahead, rates = rng.normal(size=(2, 6)), rng.uniform(0.1, 1, (2, 6))
    weighted_sum = inf_norm_subgradient(ahead, rates, np.full(2, penalty_weight))
    for w, s in zip(ahead - rates * weighted_sum, weighted_sum, strict=True):
        assert np.abs(s).sum() <= penalty_weight * (1 + 1e-12)
        assert s @ w == pytest.approx(penalty_weight * np.abs(w).max(), abs=1e-12)  # Hölder's bound


@pytest.mark.parametrize("loss", ["exponential", "logistic"])
def test_several_classes_that_are_not_separable_have_the_minimiser_of_the_joint_risk(loss):
    X, y = load_iris(return_X_y=True)
    X, names = scale(X), np.array(["a", "b", "c"])[y]
    network = RobustDiagonalNet(eps=0.2, loss=loss).fit(X, names)
    assert network.separable_ is False
    assert 0 <= network.dual_gap_ <= 1e-3
    np.testing.assert_allclose(network.predict_proba(X).sum(axis=1), 1)
    assert network.robust_score(X, names) > 0.85
    linear = RobustLinearClassifier(p_algo=1, eps=0.2, loss=loss).fit(X, names)
    np.testing.assert_allclose(network.coef_, linear.coef_, rtol=1e-6)


def test_several_classes_that_are_separable_are_one_network():
    X, y = load_wine(return_X_y=True)
    X = scale(X).astype(np.float32)
    network = RobustDiagonalNet(q_pert=1, eps=0.3).fit(X, y)
    assert network.coef_.shape == (3, 13)
    assert network.coef_.dtype == np.float32
    assert network.separable_ is True
    assert network.robust_score(X, y) == 1
    assert network.margin_ <= network.margin_bound_
    assert network.dual_gap_ == pytest.approx(1 - network.margin_ / network.margin_bound_)
    problem = JointProblem.from_data(X, y, q=1, eps=0.3, fit_intercept=True)
    margin = problem.robust_margins(network.coef_, network.intercept_).min()
    assert network.margin_ == pytest.approx(margin / np.abs(network.coef_).sum(), rel=1e-4)


@pytest.mark.slow
def test_data_formats_and_copies():
    X, y = make_teacher_classification(40, 60, data_sparsity=10, random_state=0)
    dense = RobustDiagonalNet(eps=0.02).fit(X, y)
    assert dense.separable_ is True
    np.testing.assert_allclose(
        RobustDiagonalNet(eps=0.02).fit(sparse.csr_array(X), y).coef_,
        dense.coef_,
        rtol=1e-3,
        atol=1e-6,
    )
    np.testing.assert_allclose(
        RobustDiagonalNet(eps=0.02, device="cpu").fit(X, y).coef_, dense.coef_, rtol=1e-3, atol=1e-6
    )
    single = RobustDiagonalNet(eps=0.02).fit(X.astype(np.float32), y)
    assert single.coef_.dtype == np.float32
    assert single.score(X, y) == 1
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(dense)).predict(X), dense.predict(X))


def test_default_fit_of_real_data_is_silent():
    X, y = load_breast_cancer(return_X_y=True)
    network = RobustDiagonalNet(eps=0.2).fit(scale(X), y)
    assert network.separable_ is False
    assert network.robust_score(scale(X), y) > 0.85


def test_a_fit_that_stops_early_warns_with_its_gap():
    X, y = make_teacher_classification(40, 60, random_state=0)
    with pytest.warns(ConvergenceWarning, match="increase max_iter=5, "):
        RobustDiagonalNet(eps=0.02, max_iter=5).fit(X, y)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"depth": 1}, "depth must be an integer >= 2, got 1"),
        ({"init_scale": 0.0}, "init_scale must be a finite number > 0, got 0.0"),
        ({"q_pert": 0}, "q_pert must be a real number"),
        ({"eps": -1}, "eps must be"),
        ({"loss": "hinge"}, "loss must be one of"),
    ],
)
def test_bad_parameters_are_refused(parameters, message):
    with pytest.raises(ValueError, match=message):
        RobustDiagonalNet(**parameters).fit([[0.0], [1.0]], [0, 1])
