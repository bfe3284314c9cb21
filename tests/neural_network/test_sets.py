"""Networks against balls with a radius for each class, limits and boxes.

A network of one linear layer is a linear classifier, whose worst case is known exactly.
"""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from sklearn_robust import RobustMLPClassifier, RobustNetClassifier, robust_accuracy_score
from sklearn_robust.attacks import apgd, ensemble, pgd, square
from sklearn_robust.metrics import certified_radius
from sklearn_robust.threats import Box, FeatureBudget, LpBall

THREATS = {
    "limits of features": LpBall(2, 0.4, [1.0, 0.5, 2.0], clip=([0, 0, 0], [1, 2, 1])),
    "radii of classes": LpBall(np.inf, {"a": 0.3, "b": 0.0}),
    "radii and limits": LpBall(1, {"a": 0.6, "b": 0.2}, clip=(0, 1)),
    "grows": Box(0, [0.3, 0.0, 0.2]),
    "unlike bounds": Box([-0.1, -0.3, 0.0], [0.3, 0.1, 0.2], clip=(0, 1)),
    "one class, without end": Box(0, [np.inf, 0.1, 0.1], clip=(0, 1)).only("b"),
}


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(0)
    X = rng.random((60, 3))
    y = np.where(X @ [2.0, -1.0, 1.0] + 0.2 * rng.normal(size=60) > 1, "b", "a")
    return X, y


@pytest.fixture(scope="module")
def layer(table):
    """A network of one layer, and the same linear classifier."""
    network = RobustNetClassifier(torch.nn.Linear(3, 1), eps=0.02, max_iter=30, loss_tol=0.5)
    network.set_params(random_state=0, learning_rate=0.05).fit(*table)
    linear = LogisticRegression().fit(*table)
    with torch.no_grad():
        linear.coef_[:] = network.module_.weight.numpy()
        linear.intercept_[:] = network.module_.bias.numpy()
    return network, linear


@pytest.mark.parametrize("name", THREATS)
def test_bounds_of_one_layer_meet_at_the_exact_accuracy(table, layer, name):
    X, y = table
    network, linear = layer
    exact = robust_accuracy_score(linear, X, y, threat=THREATS[name])
    bounds = network.robust_bounds(X, y, threat=THREATS[name])
    assert bounds == (exact, exact)
    assert robust_accuracy_score(network, X, y, threat=THREATS[name]) == exact
    assert 0 < exact < network.score(X, y)
    assert network.certified_score(X, y, threat=THREATS[name]) == exact


@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("name", THREATS)
def test_training_and_points_keep_to_the_set(table, name, standardize):
    X, y = (values[:20] for values in table)
    X = X.astype(np.float32)
    threat = THREATS[name]
    options = {"max_iter": 3, "loss_tol": 10.0, "standardize": standardize, "random_state": 0}
    network = RobustMLPClassifier((5,), threat=threat, **options).fit(X, y)
    moved = network.perturb(X, y, attack="pgd", n_steps=5).astype(np.float64)
    delta = moved - X
    slack = 1e-6
    bound = threat.bind(3, None, ["a", "b"])
    for label in ("a", "b"):
        rows = y == label
        sets = bound.of_class(label).at(X[rows].astype(np.float64))
        v = np.random.default_rng(1).normal(size=(20, 3))
        inside = delta[rows] @ v.T <= np.stack([sets.support(one) for one in v], axis=-1) + slack
        assert inside.all()
    certified, attacked = network.robust_bounds(X, y, n_steps=5)
    assert certified <= attacked


@pytest.mark.parametrize(
    ("attack", "q"),
    [(pgd, 1), (pgd, 2), (apgd, np.inf), (apgd, 1), (ensemble, 2), (square, np.inf)],
)
def test_attacks_take_a_radius_for_each_sample(table, layer, attack, q):
    X, y = (values[:30] for values in table)
    network, linear = layer
    eps = np.linspace(0, 0.4, len(X))
    limits = (np.minimum(X, 0.5), np.maximum(X, 1.0))  # of each sample
    options = {"n_queries": 200, "random_state": 0} if attack is square else {}
    points = attack(network, X, y, eps=eps, q=q, clip=limits, stop_when_broken=False, **options)
    signs = np.where(y == "b", 1.0, -1.0)
    coef = linear.coef_[0]
    taken = signs * ((X - points) @ coef)
    sets = [LpBall(q, e, clip=(low, high)) for e, low, high in zip(eps, *limits, strict=True)]
    most = [one.at(x[None]).support(-s * coef)[0] for one, x, s in zip(sets, X, signs, strict=True)]
    assert taken[0] == 0
    assert (taken <= np.array(most) + 1e-9).all()
    share = {square: 0.5, pgd: 0.99}.get(attack, 1 - 1e-6)
    assert taken.sum() >= share * sum(most)


def test_a_ball_as_an_object_trains_as_its_parameters(table):
    X, y = table
    options = {"max_iter": 3, "loss_tol": 10.0, "random_state": 0}
    plain = RobustMLPClassifier((4,), q_pert=2, eps=0.1, clip=(0, 1), **options).fit(X, y)
    given = RobustMLPClassifier((4,), threat=LpBall(2, 0.1, clip=(0, 1)), **options).fit(X, y)
    np.testing.assert_array_equal(plain.decision_function(X), given.decision_function(X))
    assert plain.robust_bounds(X, y, n_steps=5) == given.robust_bounds(X, y, n_steps=5)
    # a single step is as long as the radius of each class
    fast = RobustMLPClassifier((4,), attack="fgsm", **options)
    fast.set_params(threat=LpBall(np.inf, {"a": 0.2, "b": 0.0})).fit(X, y)


def test_radii_are_factors_on_a_box(table, layer):
    X, y = table
    network, linear = layer
    box = Box(0, [0.3, 0.0, 0.2])
    trained = RobustNetClassifier(network.module_, threat=box, max_iter=1, loss_tol=10.0)
    trained.fit(X, y)
    with torch.no_grad():
        linear.coef_[:] = trained.module_.weight.numpy()
        linear.intercept_[:] = trained.module_.bias.numpy()
    right = linear.predict(X) == y
    exact = np.where(right, certified_radius(linear, X, threat=box), 0)
    found = trained.certified_radius(X, y, max_radius=3.0, tol=1e-6)
    np.testing.assert_allclose(found, np.minimum(exact, 3.0), atol=2e-6)
    with pytest.raises(ValueError, match="sets that reach alike in both directions"):
        trained.set_params(threat=Box(-0.1, 0.2)).fit(X, y).certified_radius(X)
    assert (trained.certified_radius(X, q=2) >= 0).all()
    with pytest.raises(ValueError, match="eps and q must be given for an l_q ball"):
        trained.robust_score(X, y, q=2)


def test_messages(table):
    X, y = table
    refused = {
        "Networks serve l_q balls and boxes": FeatureBudget(2, 0.1),
        "give the range of the features as clip": Box(0, np.inf),
        "eps must hold a radius for each class": LpBall(np.inf, {"a": 0.1}),
    }
    for message, threat in refused.items():
        with pytest.raises(ValueError, match=message):
            RobustMLPClassifier((3,), threat=threat).fit(X, y)
    with pytest.raises(ValueError, match="threat takes the place of q_pert, eps, scale and clip"):
        RobustMLPClassifier((3,), threat=Box(-0.1, 0.1), clip=(0, 1)).fit(X, y)
    with pytest.raises(ValueError, match="eps must be a finite number >= 0, or hold one for each"):
        pgd(torch.nn.Linear(3, 1).double(), X, y == "b", eps=np.full(3, 0.1))
