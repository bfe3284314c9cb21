"""Scores against a set of perturbations that is given as an object."""

import math
import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_robust import (
    certified_radius,
    make_robust_scorer,
    robust_accuracy_score,
    threats,
)
from sklearn_robust.threats import LpBall

BOUND = np.array([0.3, 0.1, 0.0, 0.5])


class Box:
    """Every feature moves by at most its own bound."""

    symmetric = True

    def __init__(self, bound):
        self.bound = bound

    def worst(self, v):
        return np.sign(v) * self.bound


class Unfinished(threats.ThreatMixin):
    """Operators, and no worst point."""

    symmetric = True


class Slab:
    """The first two features move together, by at most eps: no box and no ball."""

    symmetric = True

    def __init__(self, eps):
        self.eps = eps  # not the radius of a ball

    def worst(self, v):
        delta = np.zeros_like(v)
        delta[..., :2] = self.eps * np.sign(v[..., :2].sum(axis=-1))[..., None]
        return delta


@pytest.fixture(scope="module")
def iris():
    X, y = load_iris(return_X_y=True)
    return X, y, LogisticRegression(max_iter=1000).fit(X, y)


def test_a_ball_is_its_eps_q_and_scale(iris):
    X, y, model = iris
    for q in (1, 2, 3, math.inf):
        ball = LpBall(q, 0.4, BOUND)
        named = robust_accuracy_score(model, X, y, eps=0.4, q=q, scale=BOUND)
        assert robust_accuracy_score(model, X, y, threat=ball) == named
        assert make_robust_scorer(threat=ball)(model, X, y) == named
        radius = certified_radius(model, X, y, q=q, scale=BOUND)
        np.testing.assert_array_equal(certified_radius(model, X, y, threat=ball), radius)


def test_the_worst_point_is_all_that_a_score_needs(iris):
    X, y, model = iris
    box = robust_accuracy_score(model, X, y, threat=Box(BOUND))
    assert box == robust_accuracy_score(model, X, y, eps=1, scale=BOUND)
    assert 0 < box < model.score(X, y)
    expected = certified_radius(model, X, y, scale=BOUND)
    np.testing.assert_allclose(certified_radius(model, X, y, threat=Box(BOUND)), expected)


def test_the_score_is_that_of_the_corners_of_the_set(iris):
    X, y, model = iris
    threat = Slab(0.4)
    corners = np.array([[0.4, 0.4, 0, 0], [-0.4, -0.4, 0, 0]])
    answers = np.stack([model.predict(X + corner) for corner in corners])
    robust = ((answers == y) & (model.predict(X) == y)).all(axis=0)
    assert robust_accuracy_score(model, X, y, threat=threat) == robust.mean()
    factor = certified_radius(model, X, y, threat=threat)
    np.testing.assert_array_equal(factor > 1, robust)
    right = np.isfinite(factor) & (factor > 0)
    moves = factor[right, None, None] * corners
    for share, kept in ((0.999, True), (1.001, False)):
        points = (X[right][:, None] + share * moves).reshape(-1, 4)
        same = (model.predict(points).reshape(-1, 2) == y[right, None]).all(axis=1)
        assert (same == kept).all()


def test_pipelines(iris):
    X, y, _ = iris
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, y)
    for space in ("model", "input"):
        score = robust_accuracy_score(model, X, y, threat=Box(BOUND), space=space)
        assert score == robust_accuracy_score(model, X, y, eps=1, scale=BOUND, space=space)


def test_what_no_perturbation_changes_is_refused_beside_a_set_of_ones_own(iris):
    X, y, _ = iris
    missing = X.copy()
    missing[::7, 1] = np.nan
    model = make_pipeline(SimpleImputer(), LogisticRegression(max_iter=1000)).fit(missing, y)
    with pytest.raises(ValueError, match="threat=Box meets entries without a value"):
        robust_accuracy_score(model, missing, y, threat=Box(BOUND), space="input")
    assert robust_accuracy_score(model, missing, y, threat=LpBall(2, 0.1), space="input") > 0


@pytest.mark.slow
def test_a_search_scores_by_the_object(iris):
    X, y, _ = iris
    scorer = make_robust_scorer(threat=Box(BOUND))
    again = pickle.loads(pickle.dumps(scorer))
    search = GridSearchCV(
        LogisticRegression(max_iter=1000), {"C": [0.1, 1.0]}, scoring=clone(again, safe=False)
    ).fit(X, y)
    expected = GridSearchCV(
        LogisticRegression(max_iter=1000),
        {"C": [0.1, 1.0]},
        scoring=make_robust_scorer(eps=1, scale=BOUND),
    ).fit(X, y)
    np.testing.assert_array_equal(
        search.cv_results_["mean_test_score"], expected.cv_results_["mean_test_score"]
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "eps, the radius of the l_q ball, or threat must be given, got neither"),
        ({"threat": LpBall(2, 0.1), "eps": 0.1}, "threat takes the place of eps, q and scale"),
        ({"threat": LpBall(2, 0.1), "q": 2}, "threat takes the place of eps, q and scale"),
        ({"threat": Box(BOUND), "scale": BOUND}, "threat takes the place of eps, q and scale"),
        ({"threat": "box"}, "threat must be an LpBall or an object with `symmetric` and `worst"),
        ({"threat": Unfinished()}, "Unfinished object at .*, which lacks worst: for an l_q ball"),
        ({"threat": LpBall(2, 0.1, [1.0, 2.0])}, "scale must hold a number for each of the 4"),
    ],
)
def test_messages(iris, options, message):
    X, y, model = iris
    with pytest.raises(ValueError, match=message):
        robust_accuracy_score(model, X, y, **options)
    if "threat" not in options or "takes the place" in message or "LpBall" in message:
        with pytest.raises(ValueError, match=message):
            make_robust_scorer(**options)
    if "threat" in options and "eps" not in options:
        with pytest.raises(ValueError, match=message):
            certified_radius(model, X, y, **options)


def test_a_network_is_scored_against_balls_and_boxes():
    torch = pytest.importorskip("torch")
    from sklearn_robust import RobustNetClassifier

    X, y = [[0.0], [1.0]], [0, 1]
    network = RobustNetClassifier(torch.nn.Linear(1, 1), loss_tol=10.0).fit(X, y)
    message = "Networks serve l_q balls and boxes, .* got threat=<.*Box"
    with pytest.raises(ValueError, match=message):
        robust_accuracy_score(network, X, y, threat=Box([1.0]))  # one of another library
    score = robust_accuracy_score(network, X, y, threat=LpBall(math.inf, 0.1))
    assert score == robust_accuracy_score(network, X, y, eps=0.1)
    assert score == robust_accuracy_score(network, X, y, threat=threats.Box(-0.1, 0.1))
