"""A loss written here, the squared hinge, goes through everything that takes a loss."""

import math
import pickle
import re
from pathlib import Path

import cvxpy as cp
import numpy as np
import pytest
import torch
from array_api_compat import array_namespace
from scipy import optimize, sparse
from scipy.special import softmax
from sklearn.base import clone
from sklearn.datasets import make_blobs
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import FixedThresholdClassifier, GridSearchCV

import sklearn_robust
from sklearn_robust import (
    RobustDiagonalNet,
    RobustLinearClassifier,
    RobustLinearClassifierCV,
    RobustMLPClassifier,
    RobustNetClassifier,
    make_robust_scorer,
    min_norm_separator,
    register_onnx_converters,
    robust_accuracy_score,
    robust_linear_path,
)
from sklearn_robust.losses import LOSSES, Exponential, class_log_probabilities, conjugate_bound
from sklearn_robust.neural_network._objective import constant_log_risk, soft_margins


class Silent:
    """l(m) = max(0, 1 - m)^2: no tail, and no weight on margins beyond 1; it says nothing of
    probabilities."""

    name = "silent squared hinge"

    def log_risk_and_weights(self, margins, log_weight):
        xp = array_namespace(margins)
        short, share = xp.clip(1 - margins, min=0.0), xp.exp(log_weight)
        risk = xp.sum(share * short**2, axis=-1, keepdims=True)
        positive = risk > 0
        risk = xp.where(positive, risk, xp.ones_like(risk))
        log_risk = xp.where(positive, xp.log(risk), xp.full_like(risk, -math.inf))
        return log_risk[..., 0], xp.where(positive, 2 * share * short / risk, share)

    def intercept(self, margins, y, log_weight, near=None):
        """The mean of the kinks of the samples that are short of margin 1, found by Newton's method
        in a bracket."""
        xp = array_namespace(margins)
        share, kinks = xp.exp(log_weight), y * (1 - margins)
        low, high = xp.min(kinks, axis=-1), xp.max(kinks, axis=-1)
        b = (low + high) / 2
        for _ in range(100):
            short = xp.where(y * (kinks - b[..., None]) > 0, share, xp.zeros_like(share))
            rise, rate = xp.sum(short * (kinks - b[..., None]), axis=-1), xp.sum(short, axis=-1)
            low, high = xp.where(rise >= 0, b, low), xp.where(rise <= 0, b, high)
            moved = b + rise / xp.where(rate > 0, rate, xp.ones_like(rate))
            moved = xp.where((moved >= low) & (moved <= high), moved, (low + high) / 2)
            if bool(xp.all(moved == b)):
                break
            b = moved
        return b

    def curvature(self, margins, weights):
        xp = array_namespace(margins)
        short = margins < 1
        return xp.where(
            short,
            weights / xp.where(short, 1 - margins, xp.ones_like(margins)),
            xp.zeros_like(margins),
        )

    def log_risk_bound(self, weights, log_weight, near=None):
        """max_c c - c^2 Q / 4, Q = sum_i a_i^2 / s_i: the conjugate of the loss at -t is t^2/4 -
        t."""
        xp = array_namespace(weights)
        used = weights > 0
        share = xp.exp(xp.where(used, log_weight, xp.zeros_like(log_weight)))
        return -xp.log(xp.sum(weights**2 / share, axis=-1))


class SquaredHinge(Silent):
    """The same with its probabilities."""

    name = "squared hinge"

    def log_odds(self, scores):
        """P(y = 1 | f) = (1 + f) / 2 between -1 and 1, where the risk of a sample is least at 2 P -
        1."""
        xp = array_namespace(scores)
        inside = xp.abs(scores) < 1
        certain = xp.where(
            scores > 0, xp.full_like(scores, math.inf), xp.full_like(scores, -math.inf)
        )
        return xp.where(
            inside, 2 * xp.atanh(xp.where(inside, scores, xp.zeros_like(scores))), certain
        )


class Sharp(Exponential):
    """l(m) = exp(-beta m): a subclass whose methods are not those of its parent."""

    name = "sharp"

    def __init__(self, beta):
        self.beta = beta
        self.log_odds_slope = 2 * beta

    def log_risk_and_weights(self, margins, log_weight):
        log_risk, weights = super().log_risk_and_weights(self.beta * margins, log_weight)
        return log_risk, self.beta * weights

    def intercept(self, margins, y, log_weight, near=None):
        return super().intercept(self.beta * margins, y, log_weight) / self.beta

    def curvature(self, margins, weights):
        return self.beta * weights


def name_of(estimator):
    return type(estimator).__name__


LOSS = SquaredHinge()
SOLVERS = ("auto", "steepest_descent", "accelerated", "exact")
LINEAR = [
    RobustLinearClassifier(eps=0.1),
    RobustDiagonalNet(eps=0.1),
    RobustLinearClassifierCV(p_algo=2, eps=[0.1, 0.2], threat_eps=0.1, cv=2),
]
NETWORKS = [
    RobustMLPClassifier((6,), eps=0.1, random_state=0),
    RobustNetClassifier(eps=0.1, random_state=0),
]
each_linear = pytest.mark.parametrize("estimator", LINEAR, ids=name_of)
each_estimator = pytest.mark.parametrize("estimator", [*LINEAR, *NETWORKS], ids=name_of)


def blobs(distance, n_classes=2, n=40):
    centers = distance * np.eye(3)[:n_classes]
    return make_blobs(n, centers=centers, cluster_std=1.0, random_state=0)


OVERLAPPING, APART = blobs(1.0), blobs(9.0)


def least_risk(X, y, eps, weight=None):
    """The least mean squared hinge of the margins less eps ||w||_1, by a cone solver."""
    w, b = cp.Variable(X.shape[1]), cp.Variable()
    margins = cp.multiply(np.where(y == y.max(), 1.0, -1.0), X @ w + b) - eps * cp.norm1(w)
    weight = np.full(len(y), 1 / len(y)) if weight is None else weight / weight.sum()
    return cp.Problem(cp.Minimize(weight @ cp.square(cp.pos(1 - margins)))).solve(
        solver=cp.CLARABEL
    )


# --- linear classifiers


@pytest.mark.slow
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("kind", ["dense", "sparse", "single", "torch", "weighted"])
def test_inseparable_data_have_the_least_risk(solver, kind):
    X, y = OVERLAPPING
    weight = np.arange(1.0, len(y) + 1) if kind == "weighted" else None
    data = {"sparse": sparse.csr_array(X), "single": X.astype(np.float32)}.get(kind, X)
    device = "cpu" if kind == "torch" and solver != "exact" else None
    model = RobustLinearClassifier(eps=0.1, loss=LOSS, solver=solver, device=device).fit(
        data, y, weight
    )
    assert model.separable_ is False
    assert model.dual_gap_ < 1e-6
    assert np.exp(model.log_risk_) == pytest.approx(least_risk(X, y, 0.1, weight), rel=1e-6)


@pytest.mark.parametrize("p", [1, 1.5, 2, np.inf])
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_path_to_separable_data_ends_cleanly(solver, p):
    X, y = APART
    # without a warning
    model = RobustLinearClassifier(p, eps=0.1, loss=LOSS, solver=solver).fit(X, y)
    assert model.separable_ is True
    assert np.exp(model.log_risk_) * len(y) <= 1.001e-3
    largest = 1 / np.linalg.norm(
        min_norm_separator(X, y, p=p, q=np.inf, eps=0.1, fit_intercept=True).coef, p
    )
    assert model.margin_ <= largest * (1 + 1e-9) <= model.margin_bound_ * (1 + 2e-9)
    assert model.robust_score(X, y) == 1


def test_the_limit_does_not_depend_on_the_loss():
    X, y = APART
    ours, exponential = (
        RobustLinearClassifier(eps=0.1, loss=loss, solver="exact", loss_tol=0).fit(X, y)
        for loss in (LOSS, "exponential")
    )
    np.testing.assert_allclose(ours.coef_, exponential.coef_, rtol=1e-6)
    # to zero, and then the limit
    followed = RobustLinearClassifier(eps=0.1, loss=LOSS, loss_tol=0).fit(X, y)
    np.testing.assert_allclose(followed.coef_, exponential.coef_, rtol=1e-6)


@pytest.mark.parametrize(
    "estimator",
    [RobustLinearClassifier(eps=0.1, solver="steepest_descent"), LINEAR[1]],
    ids=["linear", "diagonal"],
)
def test_a_path_whose_loss_has_reached_zero_says_how_far_the_limit_is(estimator):
    X, y = APART
    with pytest.warns(
        ConvergenceWarning, match=r"stopped before it reached tol=0.001 or loss_tol=0"
    ):
        model = clone(estimator).set_params(loss=LOSS, loss_tol=0).fit(X, y)
    assert model.n_iter_ < 1000
    assert model.log_risk_ == -math.inf
    assert 1e-3 < model.dual_gap_ < 1
    p = getattr(model, "p_algo", 1)
    largest = 1 / np.linalg.norm(
        min_norm_separator(X, y, p=p, q=np.inf, eps=0.1, fit_intercept=True).coef, p
    )
    assert model.margin_ <= largest <= model.margin_bound_


def test_the_bound_of_several_classes_from_slopes_is_that_of_the_named_losses():
    weights = np.random.default_rng(0).dirichlet(np.ones(30))
    log_weight = np.log(np.full(30, 1 / 30))
    for loss in LOSSES.values():
        expected = loss.log_risk_bound(weights, log_weight, entropy=0.4)
        assert conjugate_bound(loss, weights, log_weight, 0.4) == pytest.approx(expected, rel=1e-9)


def least_joint_risk(X, y, eps):
    """The least mean squared hinge of the soft margins of three classes, by a cone solver."""
    W, b = cp.Variable((3, X.shape[1])), cp.Variable(3)
    risk = 0
    for i in range(3):
        margins = [
            X[y == i] @ (W[i] - W[k]) + b[i] - b[k] - eps * cp.norm1(W[i] - W[k])
            for k in range(3)
            if k != i
        ]
        risk += cp.sum_squares(cp.pos(1 + cp.log_sum_exp(-cp.vstack(margins), axis=0)))
    return cp.Problem(cp.Minimize(risk / len(y))).solve(solver=cp.CLARABEL)


@pytest.mark.slow
@each_linear
@pytest.mark.parametrize("distance", [1.0, 9.0])
def test_several_classes(estimator, distance):
    X, y = blobs(distance, n_classes=3, n=30)
    model = clone(estimator).set_params(loss=LOSS).fit(X, y)
    if distance == 1:
        assert model.separable_ is False
        assert model.dual_gap_ <= 1e-3  # certified by the conjugate of the loss
        eps = getattr(model, "best_params_", {"eps": 0.1})["eps"]
        assert np.exp(model.log_risk_) == pytest.approx(least_joint_risk(X, y, eps), rel=1e-3)
    else:
        assert model.separable_ is True
        assert model.score(X, y) == 1
    proba = model.predict_proba(np.vstack([X, 100 * X]))
    np.testing.assert_allclose(proba.sum(axis=1), 1)


def test_the_diagonal_network_has_the_least_risk():
    X, y = OVERLAPPING
    model = RobustDiagonalNet(eps=0.1, loss=LOSS).fit(X, y)
    assert np.exp(model.log_risk_) == pytest.approx(least_risk(X, y, 0.1), rel=1e-6)


def test_the_path_is_that_of_single_fits():
    for X, y in (OVERLAPPING, APART):
        path = robust_linear_path(X, y, p=[1, 2], q=np.inf, eps=[0.05, 0.2], loss=LOSS)
        assert path.converged.all()
        for i, p in enumerate(path.p):
            for j, eps in enumerate(path.eps):
                one = RobustLinearClassifier(p, eps=eps, loss=LOSS).fit(X, y)
                np.testing.assert_allclose(path.coef[i, j], one.coef_, rtol=1e-5, atol=1e-7)


def test_a_search_over_losses():
    X, y = OVERLAPPING
    losses = ["exponential", LOSS, Silent()]
    search = GridSearchCV(
        RobustLinearClassifier(eps=0.1), {"loss": losses}, scoring=make_robust_scorer(eps=0.1), cv=2
    ).fit(X, y)
    alone = [
        GridSearchCV(
            RobustLinearClassifier(eps=0.1, loss=loss),
            {"eps": [0.1]},
            scoring=make_robust_scorer(eps=0.1),
            cv=2,
        )
        for loss in losses
    ]
    np.testing.assert_array_equal(
        search.cv_results_["mean_test_score"], [one.fit(X, y).best_score_ for one in alone]
    )


def test_the_cross_validated_classifier_is_a_search():
    X, y = OVERLAPPING
    radii = [0.05, 0.3]
    ours = RobustLinearClassifierCV(p_algo=2, eps=radii, threat_eps=0.1, loss=LOSS, cv=2).fit(X, y)
    grid = GridSearchCV(
        RobustLinearClassifier(loss=LOSS), {"eps": radii}, scoring=make_robust_scorer(eps=0.1), cv=2
    ).fit(X, y)
    np.testing.assert_array_equal(
        ours.cv_results_["mean_test_score"], grid.cv_results_["mean_test_score"]
    )
    np.testing.assert_allclose(ours.coef_, grid.best_estimator_.coef_, rtol=1e-9)


def test_a_subclass_of_the_exponential_loss_is_not_mistaken_for_it():
    X, y = APART
    plain = RobustLinearClassifier(eps=0.1, solver="steepest_descent", loss_tol=1e-4).fit(X, y)
    for beta in (0.5, 3.0):
        sharp = RobustLinearClassifier(
            eps=0.1, solver="steepest_descent", loss=Sharp(beta), loss_tol=1e-4
        ).fit(X, y)
        assert sharp.log_risk_ == pytest.approx(
            Sharp(beta).log_risk_and_weights(robust_margins(sharp, X, y), uniform(y))[0]
        )
        assert sharp.margin_ == pytest.approx(plain.margin_, rel=0.1)


def test_separators_are_scaled_to_loss_tol_however_slowly_a_loss_falls():
    X, y = APART
    model = RobustLinearClassifier(eps=0.1, solver="exact", loss=Sharp(0.01)).fit(X, y)
    assert np.exp(model.log_risk_) * len(y) == pytest.approx(1e-3, rel=1e-6)


def robust_margins(model, X, y):
    return (
        np.where(y == 1, 1, -1) * model.decision_function(X) - model.eps * np.abs(model.coef_).sum()
    )


def uniform(y):
    return np.full(len(y), -np.log(len(y)))


# --- probabilities


@each_linear
def test_the_probabilities_of_the_squared_hinge(estimator):
    X, y = OVERLAPPING
    model = clone(estimator).set_params(loss=LOSS).fit(X, y)
    X = np.vstack([X, 10 * X])
    expected = np.clip((1 + model.decision_function(X)) / 2, 0, 1)
    np.testing.assert_allclose(
        model.predict_proba(X), np.column_stack([1 - expected, expected]), atol=1e-12
    )
    assert (np.isin(expected, [0, 1])).any()


@pytest.mark.slow
@each_estimator
def test_without_log_odds_there_are_no_probabilities(estimator):
    X, y = OVERLAPPING
    model = clone(estimator).set_params(loss=Silent())
    assert not hasattr(model, "predict_proba")
    model.fit(X, y)
    for method in ("predict_proba", "predict_log_proba"):
        assert not hasattr(model, method)
    assert not hasattr(model.set_params(loss=LOSS), "predict_proba")  # until it is fitted anew
    assert set(model.predict(X)) <= {0, 1}
    assert model.robust_score(X, y) <= model.score(X, y)


@pytest.mark.slow
@pytest.mark.parametrize("loss", [*LOSSES.values(), LOSS, Sharp(3.0)], ids=lambda loss: loss.name)
@pytest.mark.parametrize("n_classes", [2, 4])
def test_probabilities_of_several_classes_are_those_whose_risk_the_scores_minimise(loss, n_classes):
    expected = np.random.default_rng(0).dirichlet(np.ones(n_classes), 2)

    def risk(scores, share):
        margins = soft_margins(
            torch.from_numpy(scores).expand(n_classes, -1), torch.arange(n_classes)
        )
        return float(loss.log_risk_and_weights(margins, torch.from_numpy(np.log(share)))[0])

    for share in expected:
        found = optimize.minimize(
            risk, np.log(share) / 2, args=(share,), method="BFGS", options={"gtol": 1e-8}
        )
        logs = class_log_probabilities(loss, found.x[None])
        np.testing.assert_allclose(np.exp(logs[0]), share, atol=1e-5)
        assert constant_log_risk(loss, 7 * share) == pytest.approx(found.fun, abs=1e-7)


def test_probabilities_of_the_named_losses_are_a_softmax():
    scores = np.array([[1.0, 2.0, -3.0], [500.0, -500.0, 0.0], [80.0, 80.0, 80.0]])
    for loss in LOSSES.values():
        logs = class_log_probabilities(loss, scores)
        np.testing.assert_allclose(
            np.exp(logs), softmax(loss.log_odds_slope * scores, axis=1), rtol=1e-12, atol=1e-300
        )
        assert np.isfinite(logs).all()


def test_a_class_beyond_the_last_margin_is_certain():
    logs = class_log_probabilities(LOSS, np.array([[9.0, 0.0, 1.0]]))
    assert logs.tolist() == [[0.0, -math.inf, -math.inf]]


def test_thresholds_on_probabilities_need_a_known_inverse():
    X, y = OVERLAPPING
    known = FixedThresholdClassifier(
        RobustLinearClassifier(eps=0.1, loss=Sharp(3.0)), threshold=0.7
    ).fit(X, y)
    score = robust_accuracy_score(known, X, y, eps=0.1)
    inner = known.estimator_
    lead = (
        np.where(y == 1, 1, -1) * (inner.decision_function(X) - np.log(0.7 / 0.3) / 6)
        - 0.1 * np.abs(inner.coef_).sum()
    )
    assert score == pytest.approx((lead > 0).mean())
    unknown = FixedThresholdClassifier(
        RobustLinearClassifier(eps=0.1, loss=LOSS), threshold=0.7
    ).fit(X, y)
    with pytest.raises(TypeError, match="known function of its score"):
        robust_accuracy_score(unknown, X, y, eps=0.1)


# --- networks


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("estimator", NETWORKS, ids=name_of)
def test_networks_learn(estimator, n_classes):
    X, y = blobs(9.0, n_classes)
    network = clone(estimator).set_params(loss=LOSS, loss_tol=1e-2).fit(X, y)  # without a warning
    assert network.loss_ < 1e-2
    assert network.score(X, y) == 1
    np.testing.assert_allclose(network.predict_proba(X).sum(axis=1), 1)


def test_a_network_whose_risk_is_zero_has_ended():
    X, y = blobs(30.0)
    network = RobustMLPClassifier((6,), eps=0.1, loss=LOSS, loss_tol=0, random_state=0).fit(X, y)
    assert network.loss_ == 0
    assert network.n_iter_ < network.max_iter


def test_a_network_that_has_learnt_nothing_is_on_no_plateau():
    X, y = blobs(0.0)
    with pytest.warns(ConvergenceWarning, match="max_iter=30"):
        RobustNetClassifier(
            eps=5.0, loss=LOSS, max_iter=30, n_iter_no_change=3, learning_rate=1e-6, random_state=0
        ).fit(X, y)


# --- among others


@pytest.mark.slow
@each_estimator
def test_fitted_estimators_copy_and_pickle(estimator):
    X, y = APART
    model = clone(estimator).set_params(loss=SquaredHinge()).fit(X, y)
    for copy in (pickle.loads(pickle.dumps(model)), clone(model).fit(X, y)):
        assert type(copy.loss) is SquaredHinge
        np.testing.assert_allclose(copy.predict_proba(X), model.predict_proba(X), rtol=1e-9)


def test_a_fit_keeps_its_loss():
    X, y = OVERLAPPING
    model = RobustLinearClassifier(eps=0.1, loss=Sharp(1.0)).fit(X, y)
    proba = model.predict_proba(X)
    model.loss.log_odds_slope = 9.0
    np.testing.assert_array_equal(model.predict_proba(X), proba)
    np.testing.assert_array_equal(model.set_params(loss=LOSS).predict_proba(X), proba)


@each_linear
def test_onnx(estimator):
    skl2onnx, onnxruntime = pytest.importorskip("skl2onnx"), pytest.importorskip("onnxruntime")
    register_onnx_converters()
    X, y = OVERLAPPING

    def run(model, **options):
        onnx = skl2onnx.to_onnx(model, X[:1], options={id(model): {"zipmap": False, **options}})
        session = onnxruntime.InferenceSession(
            onnx.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        return session.run(None, {"X": X})

    right = clone(estimator).set_params(loss=Sharp(1.5)).fit(X, y)
    np.testing.assert_allclose(run(right)[1], right.predict_proba(X), rtol=1e-9)
    none = clone(estimator).set_params(loss=Silent()).fit(X, y)
    np.testing.assert_allclose(run(none)[1][:, 1], none.decision_function(X), rtol=1e-9)
    curved = clone(estimator).set_params(loss=LOSS).fit(X, y)
    labels, scores = run(curved, raw_scores=True)
    np.testing.assert_array_equal(labels, curved.predict(X))
    np.testing.assert_allclose(scores[:, 1], curved.decision_function(X), rtol=1e-9)
    with pytest.raises(
        TypeError, match=r"loss 'squared hinge' have no form in ONNX.*raw_scores=True"
    ):
        run(curved)


class Forgetful(Sharp):
    """Its parent's parent speaks of odds that are not its own."""

    def __init__(self, beta, slope=2.0):
        super().__init__(beta)
        self.log_odds_slope = slope


def test_odds_that_are_not_those_of_the_slopes_are_refused():
    X, y = OVERLAPPING
    with pytest.raises(
        ValueError,
        match=r"loss=.*Forgetful.* claims log-odds 1 at the score 0.5, where its slopes give 3\.",
    ):
        RobustLinearClassifier(eps=0.1, loss=Forgetful(3.0)).fit(X, y)
    assert not hasattr(
        RobustLinearClassifier(eps=0.1, loss=Forgetful(3.0, None)).fit(X, y), "predict_proba"
    )


class OfNumPy(Silent):
    def log_risk_and_weights(self, margins, log_weight):
        largest = np.max(margins, axis=-1, keepdims=True)  # which torch does not understand
        return super().log_risk_and_weights(margins + 0 * largest, log_weight)


@pytest.mark.parametrize(
    "estimator", [*NETWORKS, *(clone(e).set_params(device="cpu") for e in LINEAR[:2])], ids=name_of
)
def test_a_loss_for_numpy_alone_is_refused_where_torch_computes(estimator):
    with pytest.raises(
        ValueError, match=r"loss=.*OfNumPy.* must compute on torch tensors.*array_namespace"
    ):
        clone(estimator).set_params(loss=OfNumPy()).fit(*APART)


def test_no_module_but_that_of_the_losses_asks_which_loss_it_has():
    question = re.compile(
        r'[!=]= "(?:exponential|logistic|cross_entropy)"|isinstance\(.*(?:Exponential|Logistic)\b'
    )
    for path in Path(sklearn_robust.__file__).parent.rglob("*.py"):
        assert path.name == "losses.py" or not question.search(path.read_text()), path


class Half:
    name = "half"

    def log_risk_and_weights(self, margins, log_weight):
        raise NotImplementedError

    def intercept(self, margins, y, log_weight, near=None):
        raise NotImplementedError


@each_estimator
@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ("hinge", r"loss must be one of \['.*'\] or a MarginLoss, got 'hinge'\."),
        (3, r"or a MarginLoss, got 3\."),
        (None, r"or a MarginLoss, got None\."),
        (SquaredHinge, r"got the class SquaredHinge\. Use an instance, SquaredHinge\(\.\.\.\)\."),
        (Half(), r"but .*Half.* lacks curvature, log_risk_bound\. Add it"),
    ],
)
def test_what_is_no_loss_is_refused_by_name(estimator, loss, message):
    with pytest.raises(ValueError, match=message):
        clone(estimator).set_params(loss=loss).fit(*APART)
