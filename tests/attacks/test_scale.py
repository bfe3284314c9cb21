"""Attacks with a budget for each feature, inside ball and box."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.optimize import LinearConstraint, minimize
from sklearn.linear_model import LogisticRegression

from sklearn_robust.attacks import apgd, pgd, projected_ascent, square
from sklearn_robust.attacks.linear import worst_case_perturbations
from sklearn_robust.metrics import robust_accuracy_score
from sklearn_robust.neural_network import RobustMLPClassifier, RobustNetClassifier
from sklearn_robust.regions import Region
from sklearn_robust.threats import LpBall

EXPONENTS = [1, 2, math.inf]
SCALE = np.array([1.0, 0.0, 2.0, 0.5, 0.0])
ATTACKS = {"pgd": pgd, "apgd": apgd, "square": square}
MOVABLE = SCALE > 0


def sizes(moved, X, q, scale=SCALE):
    movable = scale > 0
    return np.linalg.norm((moved - X)[:, movable] / scale[movable], q, axis=1)


def data(n=30, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.uniform(0.1, 0.9, (n, 5))
    return X, (X @ [1.0, 2.0, -1.0, 1.0, -2.0] + 0.1 * rng.standard_normal(n) > 0.2).astype(int)


def network(seed=0, n_outputs=2):
    torch.manual_seed(seed)
    return torch.nn.Sequential(
        torch.nn.Linear(5, 16), torch.nn.ReLU(), torch.nn.Linear(16, n_outputs)
    ).double()


@pytest.mark.slow
@pytest.mark.parametrize(("q", "clip"), [(1, (0, 1)), (2, None), (math.inf, (0, 1))])
@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_attacks_stay_in_the_scaled_ball_and_the_box_and_do_harm(attack, q, clip):
    X, y = data()
    net = network()
    with torch.no_grad():
        y = net(torch.tensor(X)).argmax(1).numpy()  # so that every sample is right at first
    options = {"n_queries": 300} if attack is square else {}
    options |= {"random_state": 0, "stop_when_broken": False}
    moved = attack(net, X, y, eps=0.3, q=q, clip=clip, scale=SCALE, **options)
    np.testing.assert_array_equal(moved[:, ~MOVABLE], X[:, ~MOVABLE])
    assert np.all(sizes(moved, X, q) <= 0.3 * (1 + 1e-9))
    if clip is not None:
        assert moved.min() >= 0
        assert moved.max() <= 1
    with torch.no_grad():
        before, after = (net(torch.tensor(x)) for x in (X, moved))
    lead = [(z[range(30), y] - z[range(30), 1 - y]).numpy() for z in (before, after)]
    assert np.all(lead[1] <= lead[0])
    assert lead[1].mean() < 0.8 * lead[0].mean()


@pytest.mark.parametrize("q", EXPONENTS)
def test_random_starts_do_not_spend_on_what_cannot_move(q):
    ball = Region(torch.zeros(2000, 5, dtype=torch.float64), q, 2.0, scale=SCALE)
    points = ball.place(ball.random(torch.Generator().manual_seed(0))).numpy()
    assert np.all(points[:, ~MOVABLE] == 0)
    reach = sizes(points, 0, q)
    assert np.all(reach <= 2 * (1 + 1e-12))
    # uniform in three dimensions
    assert np.median(reach) == pytest.approx(2 * 0.5 ** (1 / 3), rel=0.03)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("attack", "q"), [(pgd, 1), (pgd, 2), (apgd, math.inf), (apgd, 1), (square, 2)]
)
def test_a_uniform_scale_is_a_radius(attack, q):
    X, y = data(n=8)
    options = {"q": q, "clip": (0, 1), "random_state": 0, "stop_when_broken": False}
    if attack is square:
        options["n_queries"] = 200
    scaled = attack(network(), X, y, eps=0.4, scale=np.full(5, 0.5), **options)
    plain = attack(network(), X, y, eps=0.2, **options)
    with torch.no_grad():
        margins = [network()(torch.tensor(x)).numpy() for x in (scaled, plain)]
    np.testing.assert_allclose(margins[0], margins[1], atol=1e-6)


@pytest.mark.parametrize("q", EXPONENTS)
def test_linear_classifiers_get_their_exact_worst_case(q):
    X, y = data()
    model = LogisticRegression().fit(X, y)
    moved = pgd(model, X, y, eps=0.3, q=q, scale=SCALE)
    exact = X + worst_case_perturbations(X, y, model.coef_, model.intercept_, LpBall(q, 0.3, SCALE))
    sign = 2 * y - 1
    np.testing.assert_allclose(
        sign * model.decision_function(moved), sign * model.decision_function(exact), atol=1e-9
    )
    boxed = pgd(model, X, y, eps=0.3, q=q, scale=SCALE, clip=(0, 1))
    assert boxed.min() >= 0
    assert boxed.max() <= 1
    # the same linear program or cone program by scipy, for a few samples
    w = model.coef_[0]
    for i in range(4):
        constraints = [LinearConstraint(np.diag(SCALE), -X[i], 1 - X[i])]
        if q == 1:
            signs = np.array(list(itertools.product([-1, 1], repeat=5)))
            constraints.append(LinearConstraint(signs, -np.inf, 0.3))
        elif q == 2:
            constraints.append({"type": "ineq", "fun": lambda u: 0.09 - u @ u})
        bounds = [(-0.3, 0.3)] * 5
        worst = minimize(
            lambda u, i=i: sign[i] * (w @ (SCALE * u)),
            np.zeros(5),
            bounds=bounds,
            constraints=constraints,
        )
        assert sign[i] * (w @ (boxed[i] - X[i])) <= worst.fun + 1e-6


def test_projected_ascent_takes_scales_of_a_sample_shape():
    x = torch.zeros(2, 1, 2, 2)
    scale = torch.tensor([[[1.0, 0.0], [2.0, 0.5]]])
    moved = projected_ascent(lambda z: z.sum((1, 2, 3)), x, q=math.inf, eps=0.1, scale=scale)
    torch.testing.assert_close(moved, 0.1 * scale.expand(2, 1, 2, 2))


@pytest.mark.parametrize("q", EXPONENTS)
def test_float32_points_stay_inside_in_their_own_type(q):
    X, y = data()
    moved = pgd(
        network().float(),
        X.astype(np.float32),
        y,
        eps=0.3,
        q=q,
        scale=SCALE,
        stop_when_broken=False,
    )
    assert moved.dtype == np.float32
    np.testing.assert_array_equal(moved[:, ~MOVABLE], X.astype(np.float32)[:, ~MOVABLE])
    assert np.all(
        sizes(moved.astype(float), X.astype(np.float32).astype(float), q) <= 0.3 * (1 + 1e-6)
    )


@pytest.mark.parametrize("bad", [np.ones(4), -np.ones(5), 2.0, [np.nan] * 5])
@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_bad_scales_are_refused(attack, bad):
    X, y = data()
    with pytest.raises(ValueError, match="scale must hold"):
        attack(network(), X, y, eps=0.1, scale=bad)


@pytest.mark.slow
@pytest.mark.parametrize("q", [1, math.inf])
def test_networks_train_and_are_judged_by_their_scale(q):
    X, y = data(60)
    scale = np.array([0.0, 1.0, 1.0, 1.0, 1.0])
    options = {
        "q_pert": q,
        "eps": 0.2,
        "max_iter": 8,
        "loss_tol": 0,
        "random_state": 0,
    }
    model = RobustMLPClassifier((8,), scale=scale, **options)
    with pytest.warns(match="max_iter"):
        model.fit(X, y)
    moved = model.perturb(X, y, n_steps=10)
    np.testing.assert_array_equal(moved[:, 0], X[:, 0])
    assert np.all(sizes(moved, X, q, scale) <= 0.2 * (1 + 1e-9))
    assert model.robust_score(X, y, scale=None, n_steps=10) <= model.robust_score(X, y, n_steps=10)
    assert model.robust_score(X, y, scale=np.zeros(5), n_steps=10) == model.score(X, y)
    for judged in ("training", None, 2 * scale):
        certified, attacked = model.robust_bounds(X, y, scale=judged, n_steps=10)
        assert 0 <= certified <= attacked
    assert model.certified_score(X, y, scale=None) <= model.certified_score(X, y)
    assert model.certified_score(X, y, scale=np.zeros(5)) == model.score(X, y)
    radius = model.certified_radius(X, y, max_radius=100)
    np.testing.assert_allclose(
        model.certified_radius(X, y, scale=2 * scale, max_radius=50), radius / 2, atol=1e-4
    )


def test_a_network_trained_with_scale_zero_is_trained_without_adversary():
    X, y = data(60)
    options = {"max_iter": 5, "loss_tol": 0, "random_state": 0}
    models = [
        RobustNetClassifier(lambda *_: network(3, 1), **options, **threat)
        for threat in ({"eps": 0.5, "scale": np.zeros(5)}, {"eps": 0.0})
    ]
    for model in models:
        with pytest.warns(match="max_iter"):
            model.fit(X, y)
    np.testing.assert_allclose(
        models[0].decision_function(X), models[1].decision_function(X), rtol=1e-12
    )


@pytest.mark.slow
def test_scores_of_networks_name_their_scale_and_not_that_of_training():
    X, y = data(60)
    model = RobustMLPClassifier(
        (8,), eps=0.1, scale=np.zeros(5), loss_tol=0.5, max_iter=300, random_state=0
    ).fit(X, y)
    assert robust_accuracy_score(model, X, y, eps=0.1) == model.robust_score(X, y, scale=None)
    assert robust_accuracy_score(model, X, y, eps=0.1) < robust_accuracy_score(
        model, X, y, eps=0.1, scale=np.zeros(5)
    )
