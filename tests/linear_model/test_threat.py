"""RobustLinearClassifier against a set of perturbations that is given as an object."""

import math
import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_iris
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from sklearn.preprocessing import scale

from sklearn_robust import RobustLinearClassifier, implicit_bias_report, make_robust_scorer
from sklearn_robust.norms import LpNorm
from sklearn_robust.threats import LpBall


class Worst:
    """A box with a bound for each feature, by its worst point alone."""

    symmetric = True

    def __init__(self, bound):
        self.bound = np.asarray(bound)

    def worst(self, v):
        return np.sign(v) * self.bound


class Projected(Worst):
    def project(self, x, radius=1.0):
        reach = np.asarray(radius)[..., None] * self.bound
        return np.clip(x, -reach, reach)


class Conic(Projected):
    def conic(self):
        d = len(self.bound)
        E = np.concatenate([np.eye(d), -np.eye(d)])
        return E, np.zeros((2 * d, 0)), np.tile(self.bound, 2), [("nonnegative", 2 * d)]


@pytest.fixture(scope="module")
def cancer():
    X, y = load_breast_cancer(return_X_y=True)
    return scale(X), y


def bounds(d, eps):
    return eps * np.linspace(0.5, 1.5, d)


def assert_same_fit(one, other, attributes=("coef_", "intercept_", "dual_gap_", "log_risk_")):
    for name in attributes:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


@pytest.mark.slow
@pytest.mark.parametrize("q", [1, 2, math.inf])
@pytest.mark.parametrize("solver", ["auto", "exact"])
def test_a_ball_is_its_q_eps_and_scale(gaussian, q, solver):
    X, y = gaussian(30, 40)
    s = np.linspace(0.5, 1.5, 40)
    options = {"solver": solver, "loss_tol": 0.1}
    named = RobustLinearClassifier(2, q, 0.05, scale=s, **options).fit(X, y)
    ball = LpBall(q, 0.05, s)
    given = RobustLinearClassifier(2, threat=ball, **options).fit(X, y)
    assert_same_fit(given, named)
    assert given.threat_ is ball
    np.testing.assert_array_equal(given.scale_, named.scale_)
    assert given.robust_score(X, y) == named.robust_score(X, y)
    assert given.robust_score(X, y, eps=0.2) == named.robust_score(X, y, eps=0.2)
    np.testing.assert_array_equal(given.perturb(X, y, q=2), named.perturb(X, y, q=2))
    np.testing.assert_array_equal(given.certified_radius(X, y), named.certified_radius(X, y))
    assert implicit_bias_report(given, X, y).margin == implicit_bias_report(named, X, y).margin


def test_a_ball_of_several_classes_in_single_precision():
    X, y = load_iris(return_X_y=True)
    X = X.astype(np.float32)
    named = RobustLinearClassifier(q_pert=2, eps=0.1, scale=[1, 0, 2, 1]).fit(X, y)
    given = RobustLinearClassifier(threat=LpBall(2, 0.1, [1, 0, 2, 1])).fit(X, y)
    assert_same_fit(given, named)
    assert given.coef_.dtype == np.float32


def test_not_separable(cancer):
    """The minimiser of the risk against a box is that against the scaled ball."""
    X, y = cancer
    bound = bounds(30, 0.2)
    ball = RobustLinearClassifier(eps=1, scale=bound).fit(X, y)
    box = RobustLinearClassifier(threat=Conic(bound)).fit(X, y)
    assert ball.separable_ is box.separable_ is False
    assert box.dual_gap_ < 1e-3
    assert box.log_risk_ == pytest.approx(ball.log_risk_, abs=1e-3)
    assert box.robust_score(X, y) == pytest.approx(ball.robust_score(X, y), abs=0.01)


def test_without_cones_the_path_goes_on_to_the_minimiser(cancer):
    X, y = cancer
    bound = bounds(30, 0.2)
    ball = RobustLinearClassifier(eps=1, scale=bound).fit(X, y)
    box = RobustLinearClassifier(threat=Projected(bound)).fit(X, y)
    assert box.separable_ is False
    assert box.dual_gap_ < 1e-3
    assert box.log_risk_ == pytest.approx(ball.log_risk_, abs=1e-3)


@pytest.mark.parametrize("kind", [Projected, Conic])
def test_separable(gaussian, kind):
    """The path against a box tends to the robust separator against the scaled ball."""
    X, y = gaussian(30, 40)
    bound = bounds(40, 0.05)
    limit = RobustLinearClassifier(eps=1, scale=bound, solver="exact").fit(X, y)
    box = RobustLinearClassifier(threat=kind(bound), loss_tol=0, tol=1e-2).fit(X, y)
    assert box.separable_
    assert box.dual_gap_ < 1e-2
    assert box.margin_ == pytest.approx(limit.margin_, rel=0.01)
    assert limit.margin_ <= box.margin_bound_
    assert box.robust_score(X, y) == 1
    accelerated = RobustLinearClassifier(threat=kind(bound), solver="accelerated").fit(X, y)
    assert accelerated.margin_ == pytest.approx(limit.margin_, rel=2e-3)


@pytest.mark.parametrize("threat", [LpBall(2, 0.05), None], ids=["ball", "box"])
def test_what_is_given_takes_the_place_of_the_threat_of_training(gaussian, threat):
    X, y = gaussian(30, 40)
    threat = threat or Projected(bounds(40, 0.05))
    model = RobustLinearClassifier(threat=threat).fit(X, y)
    least = model.certified_radius(X, y, q=2).min()
    assert model.robust_score(X, y, q=2, eps=0.99 * least) == 1
    assert model.robust_score(X, y, q=2, eps=1.01 * least) < 1
    assert model.robust_score(X, y, threat=LpBall(2, 1.01 * least)) < 1
    moved = model.perturb(X, y, q=2, eps=0.3)
    np.testing.assert_allclose(np.linalg.norm(moved - X, axis=1), 0.3)


def test_no_exact_separator_is_sought(gaussian):
    X, y = gaussian(30, 40)
    model = RobustLinearClassifier(threat=Projected(bounds(40, 0.05)), loss_tol=0, max_iter=20)
    with pytest.warns(ConvergenceWarning, match="increase max_iter=20") as caught:
        model.fit(X, y)
    assert "exact" not in str(caught[0].message)
    assert model.separable_


def test_what_the_fit_says_of_its_own_threat(gaussian):
    X, y = gaussian(30, 40)
    bound = bounds(40, 0.05)
    threat = Projected(bound)
    model = RobustLinearClassifier(threat=threat).fit(X, y)
    assert model.threat_ is threat
    assert model.scale_ is None
    moved = model.perturb(X, y)
    assert (np.abs(moved - X) <= bound + 1e-12).all()
    margins = np.where(y > 0, 1, -1) * model.decision_function(moved)
    np.testing.assert_array_equal(margins > 0, model.certified_radius(X, y) > 1)
    expected = np.where(y > 0, 1, -1) * model.decision_function(X) / (np.abs(model.coef_) @ bound)
    np.testing.assert_allclose(model.certified_radius(X, y), expected)
    # another threat than that of training
    ball = LpBall(math.inf, 1.0, bound)
    assert model.robust_score(X, y, threat=ball) == model.robust_score(X, y)
    assert model.robust_score(X, y, q=math.inf, eps=1, scale=bound) == model.robust_score(X, y)
    np.testing.assert_allclose(
        model.certified_radius(X, y, q=math.inf, scale=bound), model.certified_radius(X, y)
    )


def test_several_classes():
    X, y = load_iris(return_X_y=True)
    bound = np.array([0.3, 0.1, 0.0, 0.2])
    ball = RobustLinearClassifier(eps=1, scale=bound).fit(X, y)
    box = RobustLinearClassifier(threat=Conic(bound)).fit(X, y)
    assert ball.separable_ is box.separable_ is False
    assert box.dual_gap_ <= box.tol
    assert box.log_risk_ == pytest.approx(ball.log_risk_, abs=0.002)
    assert box.robust_score(X, y) == pytest.approx(ball.robust_score(X, y), abs=0.02)


def test_clones_copies_and_searches(cancer):
    X, y = cancer
    threat = Conic(bounds(30, 0.2))
    model = RobustLinearClassifier(threat=threat)
    assert model.get_params()["threat"] is threat
    np.testing.assert_array_equal(clone(model).threat.bound, threat.bound)
    fitted = model.fit(X, y)
    copy = pickle.loads(pickle.dumps(fitted))
    assert copy.robust_score(X, y) == fitted.robust_score(X, y)
    threats = [LpBall(math.inf, 0.1), LpBall(2, 0.5), threat, None]
    search = GridSearchCV(
        RobustLinearClassifier(eps=0.2),
        {"threat": threats},
        scoring=make_robust_scorer(eps=0.2),
        cv=2,
    ).fit(X, y)
    assert search.cv_results_["mean_test_score"].shape == (4,)
    assert search.best_params_["threat"] is None or hasattr(search.best_params_["threat"], "worst")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": np.ones(40)}, "threat takes the place of q_pert, eps, scale and clip"),
        ({"clip": (0, 1)}, "threat takes the place of q_pert, eps, scale and clip"),
        ({"solver": "exact"}, "he exact solver needs conic of a threat, which threat=Projected"),
        ({"p_algo": 1}, r"teepest_descent in LpNorm\(p=1.0\) needs .*min_norm_subgradient"),
        ({"threat": Worst(np.ones(40))}, "needs project of a threat, which threat=Worst"),
        ({"threat": Projected(np.ones(7))}, "threat=Projected must serve vectors of the 40 feat"),
        ({"threat": "box"}, "threat must be an LpBall or an object"),
        ({"threat": Projected}, "threat must be an LpBall or an object"),
        ({"threat": "box", "solver": "exact"}, "object with .*, got 'box'"),
    ],
)
def test_messages(gaussian, options, message):
    X, y = gaussian(30, 40)
    model = RobustLinearClassifier(threat=Projected(bounds(40, 0.05))).set_params(**options)
    with pytest.raises(ValueError, match=message):
        model.fit(X, y)


def test_messages_after_the_fit(gaussian):
    X, y = gaussian(30, 40)
    model = RobustLinearClassifier(threat=Projected(bounds(40, 0.05))).fit(X, y)
    with pytest.raises(ValueError, match=r"^q must be given for an l_q ball"):
        model.robust_score(X, y, eps=0.1)
    with pytest.raises(ValueError, match=r"^eps and q must be given for an l_q ball"):
        model.robust_score(X, y, scale=None)
    with pytest.raises(ValueError, match=r"^q must be given for an l_q ball"):
        model.certified_radius(X, scale=None)
    with pytest.raises(ValueError, match="takes the place of eps"):
        model.perturb(X, y, threat=LpBall(2, 0.1), eps=0.1)
    with pytest.raises(ValueError, match="needs conic of a threat, which threat=Projected"):
        implicit_bias_report(model, X, y)


class Heavy:
    """The 2-norm of x after a scale of each coordinate: a geometry of one's own."""

    def __init__(self, weight):
        self.weight = np.asarray(weight)

    @property
    def dual(self):
        return Heavy(1 / self.weight)

    def value(self, x):
        return np.linalg.norm(self.weight * x, axis=-1)

    def steepest_direction(self, g):
        size = self.dual.value(g)[..., None]
        return g / self.weight**2 / np.where(size > 0, size, 1)

    def project(self, x, radius=1.0):
        radius = np.asarray(radius, dtype=float)
        low, high = np.zeros_like(radius), np.full_like(radius, 1e6)
        for _ in range(200):  # x / (1 + t weight^2), with the multiplier t by bisection
            t = (low + high) / 2
            outside = self.value(x / (1 + t[..., None] * self.weight**2)) > radius
            low, high = np.where(outside, t, low), np.where(outside, high, t)
        inside = (self.value(x) <= radius)[..., None]
        return np.where(inside, x, x / (1 + high[..., None] * self.weight**2))


@pytest.mark.slow
def test_a_norm_as_the_geometry(gaussian):
    X, y = gaussian(30, 40)
    weight = np.linspace(0.5, 2, 40)
    options = {"q_pert": 2, "eps": 0.0, "loss_tol": 0, "tol": 1e-2}
    model = RobustLinearClassifier(Heavy(weight), **options).fit(X, y)
    # descent in ||D w||_2 is gradient descent in D w, on the data X / D
    plain = RobustLinearClassifier(2, solver="exact", **options).fit(X / weight, y)
    assert model.separable_
    assert model.dual_gap_ < 1e-2
    assert model.margin_ == pytest.approx(plain.margin_, rel=0.01)
    same = RobustLinearClassifier(LpNorm(2), **options).fit(X, y)
    assert_same_fit(same, RobustLinearClassifier(2, **options).fit(X, y))
    for solver in ("exact", "accelerated"):
        with pytest.raises(ValueError, match=f"solver='{solver}' needs .*p_algo"):
            RobustLinearClassifier(Heavy(weight), solver=solver).fit(X, y)
