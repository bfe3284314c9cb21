"""RobustMLPClassifier: agreement with the linear estimators, and what robust training is for."""

import copy
import math
import warnings

import numpy as np
import pytest
import torch
from scipy import optimize
from sklearn.base import clone
from sklearn.datasets import load_digits, make_blobs, make_moons
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from sklearn_robust import (
    RobustLinearClassifier,
    RobustMLPClassifier,
    make_robust_scorer,
    make_teacher_classification,
    min_norm_separator,
    robust_accuracy_score,
)
from sklearn_robust.losses import LOSSES
from sklearn_robust.neural_network._objective import constant_log_risk, soft_margins

# one step of length eps is the exact worst case of a linear module
TO_THE_LIMIT = {
    "loss": "exponential",
    "attack": "fgsm",
    "bias": False,
    "schedule": "curvature",
    "batch_size": None,
    "standardize": False,
    "random_state": 0,
}


def ignoring_convergence(fit, X, y):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return fit(X, y)


def robust_margin(w, X, y, eps):
    return np.min(np.where(y > 0, 1, -1) * (X @ w)) - eps * np.abs(w).sum()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_linear_module_finds_the_largest_robust_margin():
    X, y, eps = *make_teacher_classification(20, 30, random_state=0), 0.1
    network = RobustMLPClassifier((), eps=eps, max_iter=1000, loss_tol=0, **TO_THE_LIMIT).fit(X, y)
    w = network.module_[0].weight.detach().numpy()[0]
    best = min_norm_separator(X, y, p=2, q=math.inf, eps=eps)
    assert 0.93 * best.margin < robust_margin(w, X, y, eps) / np.linalg.norm(w) <= best.margin
    path = RobustLinearClassifier(eps=eps, fit_intercept=False).fit(X, y).coef_[0]
    assert w @ path / np.linalg.norm(w) / np.linalg.norm(path) > 0.98


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_sign_descent_of_a_linear_module_has_its_own_limit():
    X, y = make_teacher_classification(20, 30, random_state=0)
    best = {p: min_norm_separator(X, y, p=p, q=math.inf, eps=0.1).margin for p in (2, math.inf)}
    options = {
        **TO_THE_LIMIT,
        "learning_rate": 1e-2,
        "schedule": "constant",
        "optimizer_params": {"normalized": True, "momentum": 0.0},
        "max_iter": 1000,
        "loss_tol": 0,
    }
    network = RobustMLPClassifier((), p_algo=math.inf, eps=0.1, **options).fit(X, y)
    w = network.module_[0].weight.detach().numpy()[0]
    margin = robust_margin(w, X, y, 0.1)
    assert 0.93 * best[math.inf] < margin / np.abs(w).max() <= best[math.inf]
    assert margin / np.linalg.norm(w) < 0.9 * best[2]


def as_pixels(X):
    return X.astype(np.float32) / 16


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_robust_training_pays_on_digits():
    X, y = load_digits(return_X_y=True)
    X, X_test, y, y_test = train_test_split(
        X, y, random_state=0, stratify=y, train_size=400, test_size=200
    )
    network = RobustMLPClassifier(
        (60,),
        math.inf,
        clip=(0, 1),
        batch_size=50,
        attack_steps=4,
        max_iter=40,
        loss_tol=0.05,
        random_state=0,
    )
    threat, bounds = make_robust_scorer(eps=0.1), []
    for eps in (0.1, 0.0):
        trained = clone(network).set_params(eps=eps)
        pipeline = make_pipeline(FunctionTransformer(as_pixels), trained).fit(X, y)
        certified, attacked = pipeline[-1].robust_bounds(as_pixels(X_test), y_test, eps=0.1)
        assert certified <= attacked <= pipeline.score(X_test, y_test)
        assert (
            attacked
            == robust_accuracy_score(pipeline, X_test, y_test, eps=0.1)
            == threat(pipeline, X_test, y_test)
        )
        bounds.append((certified, attacked))
    assert bounds[0][0] > bounds[1][0] + 0.15
    assert bounds[0][1] > bounds[1][1] + 0.07


def test_history_of_a_homogeneous_network():
    X, y = make_blobs(60, centers=2, random_state=0, cluster_std=0.5)
    X = (X - X.mean(0)) / X.std(0)
    network = RobustMLPClassifier((20,), bias=False, random_state=0, loss_tol=1e-2).fit(X, y)
    history = network.history_
    assert {len(values) for values in history.values()} == {network.n_iter_}
    assert set(history) == {
        "log_risk",
        "accuracy",
        "robust_accuracy",
        "margin_l1",
        "margin_l2",
        "margin_linf",
    }
    assert history["log_risk"][-1] < math.log(1e-2) <= history["log_risk"][-2]
    assert network.loss_ == pytest.approx(math.exp(history["log_risk"][-1]))
    assert history["margin_l2"][-1] > history["margin_l2"][0]
    assert np.all(np.array(history["robust_accuracy"]) <= np.array(history["accuracy"]))
    biased = RobustMLPClassifier((20,), random_state=0, loss_tol=1e-2).fit(X, y)
    assert set(biased.history_) == {"log_risk", "accuracy", "robust_accuracy"}


@pytest.mark.slow
def test_a_network_that_is_left_where_it_started_warns():
    X, y = make_moons(60, noise=0.1, random_state=0)
    options = {"eps": 0.05, "init_scale": 1e-4, "max_iter": 15, "learning_rate": 1e-6}
    with pytest.warns(
        ConvergenceWarning, match=r"after max_iter=15 epochs .* 100 % .* log-risk -0.36"
    ):
        network = RobustMLPClassifier((20,), random_state=0, **options).fit(X, y)
    assert network.n_iter_ == 15
    assert np.ptp(network.history_["log_risk"]) < 0.02


@pytest.mark.parametrize("kind", ["raw", "standardised"])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_defaults_learn_features_of_any_unit(kind, n_classes):
    X, y = make_blobs(80, n_features=6, centers=n_classes, random_state=0)
    X = (X - X.mean(0)) / X.std(0)
    unit = 10.0 ** np.arange(-3, 3) if kind == "raw" else 1.0
    network = RobustMLPClassifier((20,), eps=1e-4, random_state=0).fit(X * unit + 5 * unit, y)
    assert network.score(X * unit + 5 * unit, y) == 1


def test_standardised_coordinates_are_the_same_network_and_threat():
    X, y = make_blobs(40, n_features=3, centers=2, random_state=0)
    X[:, 2] = 7.0  # varies not at all
    options = {"eps": 0.3, "scale": [1.0, 2.0, 0.0], "clip": (-50, 50), "max_iter": 1}
    network = RobustMLPClassifier((4,), random_state=0, **options)
    network = ignoring_convergence(network.fit, X, y)
    z, module = network._coordinates, copy.deepcopy(network.module_)
    z.enter(module)
    with torch.no_grad():
        inside = module(torch.from_numpy(z.rows(X)))[:, 0].numpy()
    np.testing.assert_allclose(inside, network.decision_function(X), rtol=1e-9)
    samples = network._samples(X, np.searchsorted(network.classes_, y), np.ones(len(X)))
    low, high = (samples.region.place(end) for end in (samples.region.low, samples.region.high))
    for ends, sign in ((low, -1), (high, 1)):
        raw = ends.numpy() * z.spread + z.centre
        np.testing.assert_allclose(raw, X + sign * 0.3 * np.array([1, 2, 0]), rtol=1e-12)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_without_bias_the_coordinates_keep_the_origin():
    X, y = make_blobs(40, n_features=3, centers=2, random_state=0)
    network = RobustMLPClassifier((4,), bias=False, max_iter=1, random_state=0).fit(X, y)
    assert network.decision_function(np.zeros((1, 3))) == 0


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"learning_rate": 0.1}, r'schedule="curvature" finds the rate itself, got 0.1'),
        ({"optimizer": torch.optim.SGD}, r'is for optimizer="steepest_descent"'),
        ({"p_algo": "spectral"}, r"a number as p_algo, got .*'spectral'"),
        ({"schedule": "cosine"}, "schedule must be one of"),
    ],
)
def test_schedules_that_have_no_meaning_are_refused(parameters, message):
    with pytest.raises(ValueError, match=message):
        RobustMLPClassifier(**{"schedule": "curvature", **parameters}).fit([[0.0], [1.0]], [0, 1])


def test_a_risk_that_is_not_finite_ends_training():
    X, y = make_moons(40, random_state=0)
    with pytest.warns(ConvergenceWarning, match="became nan"):
        RobustMLPClassifier((5, 5), learning_rate=1e200, random_state=0).fit(X, y)


@pytest.mark.slow
def test_so_does_one_that_has_learnt_the_shares_of_the_classes_alone():
    X, y = make_moons((20, 60), noise=0.1, random_state=0)
    with pytest.warns(ConvergenceWarning, match="of that of constant scores"):
        RobustMLPClassifier((20,), eps=3.0, max_iter=30, random_state=0).fit(X, y)


def test_a_constant_rate_that_might_go_on_warns():
    X, y = make_blobs(60, centers=2, random_state=0)
    with pytest.warns(ConvergenceWarning, match="max_iter=30 epochs ended before loss_tol"):
        RobustMLPClassifier((20,), schedule="constant", max_iter=30, random_state=0).fit(X, y)


@pytest.mark.parametrize("shares", [[1, 1], [1, 3], [1, 2, 5]])
@pytest.mark.parametrize("loss", ["exponential", "logistic"])
def test_risk_of_the_best_constant_scores(shares, loss):
    y = torch.repeat_interleave(torch.arange(len(shares)), torch.tensor(shares))
    uniform = np.full(len(y), -math.log(len(y)))

    def log_risk(scores):
        outputs = torch.from_numpy(np.tile(scores, (len(y), 1)))
        return float(
            LOSSES[loss].log_risk_and_weights(soft_margins(outputs, y).numpy(), uniform)[0]
        )

    found = optimize.minimize(log_risk, np.zeros(len(shares)), method="BFGS")
    assert constant_log_risk(LOSSES[loss], np.array(shares)) == pytest.approx(found.fun, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["logistic", "exponential", "cross_entropy"])
@pytest.mark.parametrize("centers", [2, 3])
def test_losses_and_probabilities(loss, centers):
    X, y = make_blobs(90, centers=centers, random_state=3)
    X = (X - X.mean(0)) / X.std(0)
    network = RobustMLPClassifier(
        (10,), eps=0.05, loss=loss, attack_steps=3, loss_tol=0.2, max_iter=400, random_state=0
    ).fit(X, y)
    probabilities = network.predict_proba(X)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    np.testing.assert_array_equal(probabilities.argmax(axis=1), network.predict(X))
    assert network.score(X, y) > 0.85
    if loss == "logistic":
        named = RobustMLPClassifier(
            (10,),
            eps=0.05,
            loss="cross_entropy",
            attack_steps=3,
            loss_tol=0.2,
            max_iter=400,
            random_state=0,
        ).fit(X, y)
        np.testing.assert_array_equal(named.predict_proba(X), probabilities)


@pytest.mark.parametrize("attack", ["fgsm", None])
def test_other_inner_maximisations(attack):
    X, y = make_blobs(60, centers=2, random_state=0)
    X = (X - X.mean(0)) / X.std(0)
    network = RobustMLPClassifier((10,), attack=attack, loss_tol=0.2, random_state=0).fit(X, y)
    clean, robust = network.history_["accuracy"], network.history_["robust_accuracy"]
    assert (clean == robust) == (attack is None)


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.LBFGS])
def test_torch_optimisers(optimizer):
    X, y = make_blobs(60, centers=2, random_state=0)
    X = (X - X.mean(0)) / X.std(0)
    options = {
        "optimizer": optimizer,
        "optimizer_params": {"lr": 0.05},
        "schedule": "constant",
        "batch_size": None,
        "loss_tol": 0.2,
        "random_state": 0,
    }
    assert RobustMLPClassifier((10,), **options).fit(X, y).score(X, y) > 0.9


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            {"hidden_layer_sizes": 100},
            r"hidden_layer_sizes must be a sequence of integers, got 100. Use \(100,\)",
        ),
        ({"hidden_layer_sizes": (0,)}, "hidden_layer_sizes must be an integer >= 1, got 0"),
        ({"activation": "sine"}, "activation must be one of"),
        ({"init_scale": 0.0}, "init_scale must be a finite number > 0"),
        ({"eps": -1}, "eps must be a finite number >= 0"),
        ({"p_algo": 0}, "p_algo must be a real number"),
        ({"loss": "hinge"}, "loss must be one of"),
        ({"attack": "square"}, "attack must be one of"),
        (
            {"clip": (1, 0)},
            r"clip must be None or a pair \(low, high\) of numbers with low < high, got \(1, 0\)",
        ),
        ({"p_algo": "muon"}, r"p_algo must be a real number in \[1, inf\] or 'spectral'"),
        ({"optimizer": "sgd"}, r"optimizer must be .* a class of torch optimisers, .*, got 'sgd'"),
        ({"learning_rate": 0}, "learning_rate must be a finite number > 0"),
        ({"scale": "training"}, "scale must hold a number >= 0 for each feature, got 'training'"),
        ({"batch_size": 0}, "batch_size must be an integer >= 1"),
        ({"device": "nowhere"}, "device='nowhere' is not available"),
        ({"clip": (0.2, 0.8)}, r"X spans \[0, 1\]. Widen clip=\(0.2, 0.8\)"),
    ],
)
def test_bad_parameters_are_refused(parameters, message):
    with pytest.raises(ValueError, match=message):
        RobustMLPClassifier(**parameters).fit([[0.0], [1.0]], [0, 1])
