"""The sets of single samples: what a threat resolves to, and penalties against enumeration."""

import math
from dataclasses import replace

import numpy as np
import pytest

from sklearn_robust._adversaries import Boxes, OwnSets, Slot, Slots, resolve
from sklearn_robust.losses import LOSSES
from sklearn_robust.norms import LpNorm
from sklearn_robust.problems import RobustProblem
from sklearn_robust.solvers import minimise_robust_risk
from sklearn_robust.threats import (
    Box,
    Ellipsoid,
    FeatureBudget,
    LpBall,
    OneHot,
    at,
)

LABELS = ("benign", "malware")


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(30, 4)).clip(-2, 2)
    y = np.where(X[:, 0] + rng.normal(size=30) > 0, 1.0, -1.0)
    return X, y, rng


def problem_of(X, y, threat, **options):
    return RobustProblem.from_data(
        X, y, threat=threat, fit_intercept=True, classes=LABELS, **options
    )


def least_margins(X, y, coef, corners):
    """min over the corners of the set of sample i of y <w, x_i + delta>, by enumeration."""
    return np.array(
        [
            min(label * coef @ (x + delta) for delta in corners(i, x, label))
            for i, (x, label) in enumerate(zip(X, y, strict=True))
        ]
    )


def box_corners(lower, upper):
    ends = np.stack(np.meshgrid(*zip(lower, upper, strict=True)), axis=-1)
    return ends.reshape(-1, len(lower))


LOWER, UPPER = np.array([-0.1, 0.0, -0.3, -0.2]), np.array([0.4, 0.2, 0.0, 0.2])
CORNERS = {
    "asymmetric": (Box(LOWER, UPPER), lambda i, x, label: box_corners(LOWER, UPPER)),
    "one class": (
        Box(LOWER, UPPER).only("malware"),
        lambda i, x, label: box_corners(LOWER, UPPER) if label > 0 else np.zeros((1, 4)),
    ),
    "limits": (
        LpBall(math.inf, 0.5, clip=(-2, 2)),
        lambda i, x, label: box_corners(np.maximum(-0.5, -2 - x), np.minimum(0.5, 2 - x)),
    ),
    "radii": (
        LpBall(math.inf, {"malware": 0.3, "benign": 0.1}),
        lambda i, x, label: box_corners(*np.outer([-1, 1], np.full(4, 0.3 if label > 0 else 0.1))),
    ),
    "sum": (
        Box(LOWER, UPPER) + LpBall(1, 0.3),
        lambda i, x, label: (
            box_corners(LOWER, UPPER)[:, None] + 0.3 * np.vstack([np.eye(4), -np.eye(4)])
        ).reshape(-1, 4),
    ),
}


@pytest.mark.parametrize("name", CORNERS)
def test_margins_equal_the_least_over_the_corners(data, name):
    X, y, rng = data
    threat, corners = CORNERS[name]
    problem = problem_of(X, y, threat)
    for coef in rng.normal(size=(5, 4)):
        least = least_margins(X, y, coef, corners)
        found = problem.margins(coef[None], np.zeros(1))[0]
        np.testing.assert_allclose(found, least, atol=1e-12)
        moved = X - y[:, None] * problem.radius[0] * problem.adversary.perturbations(coef)
        np.testing.assert_allclose(y * (moved @ coef), least, atol=1e-12)


def test_radii_of_samples_multiply_the_set(data):
    X, y, rng = data
    radius = rng.uniform(0, 2, size=30)
    for threat in (LpBall(3, 0.2), Box(LOWER, UPPER), FeatureBudget(2, 0.3)):
        problem = problem_of(X, y, threat, sample_radius=radius)
        coef = rng.normal(size=4)
        worst = np.where(y > 0, threat.support(-coef), threat.support(coef))
        expected = y * (X @ coef) - radius * worst
        np.testing.assert_allclose(problem.margins(coef[None], np.zeros(1))[0], expected)


def test_a_threat_takes_the_form_that_serves_it_fastest(data):
    X, y, _ = data
    assert problem_of(X, y, LpBall(2, 0.1)).adversary is None
    symmetric = problem_of(X, y, Box(-UPPER, UPPER))
    assert symmetric.adversary is None
    assert symmetric.threat.q == math.inf
    np.testing.assert_array_equal(symmetric.threat.scale, UPPER)
    assert problem_of(X, y, FeatureBudget(2, 0.1)).adversary is None
    of_classes = problem_of(X, y, LpBall(2, {"malware": 0.2, "benign": 0.1}))
    assert of_classes.radius == [0.2]
    np.testing.assert_array_equal(of_classes.factors, np.where(y > 0, 1.0, 0.5))
    assert isinstance(problem_of(X, y, Box(LOWER, UPPER)).adversary, Boxes)
    assert len(problem_of(X, y, Ellipsoid(np.eye(4), 0.1).only("malware")).adversary.slots) == 1
    binary = (X > 0).astype(float)
    flips = problem_of(binary, y, FeatureBudget(1, 1.0, binary=True)).adversary
    distinct = {(label, *row) for label, row in zip(y, map(tuple, binary), strict=True)}
    assert len(flips.slots) == len(distinct)


def test_at_radius_0_sets_without_end_are_gone(data):
    X, y, _ = data
    problem = problem_of(X, y, Box(0.0, math.inf)).at_radii([0.0])
    clean = RobustProblem.from_data(X, y, q=2, eps=0.0, fit_intercept=True)
    loss = LOSSES["logistic"]
    found, expected = (minimise_robust_risk(p, loss, LpNorm(2)) for p in (problem, clean))
    np.testing.assert_allclose(found.log_risk, expected.log_risk, atol=1e-9)


def test_samples_of_radius_0_are_not_attacked(data):
    """Within limits each sample has a set of its own, and one of radius 0 has no interior."""
    X, y, _ = data
    for radius in (np.arange(30) % 2, np.zeros(30)):
        limited = problem_of(X, y, LpBall(2, 0.1, clip=(-9, 9)), sample_radius=radius)
        plain = problem_of(X, y, LpBall(2, 0.1), sample_radius=radius)
        loss = LOSSES["logistic"]
        found, expected = (minimise_robust_risk(p, loss, LpNorm(2)) for p in (limited, plain))
        assert found.gap[0] <= 1e-8
        np.testing.assert_allclose(found.log_risk, expected.log_risk, atol=1e-8)


def test_boxes_without_end_are_infinite_on_one_side_only():
    boxes = Boxes(np.array([[1.0, math.inf]]), np.array([[math.inf, 2.0]]))
    coef = np.array([[1.0, -1.0], [-1.0, -1.0], [0.0, 1.0], [0.0, 0.0]])
    np.testing.assert_array_equal(boxes.penalties(coef)[:, 0], [3.0, math.inf, math.inf, 0.0])


def test_parts_of_samples(data):
    X, y, rng = data
    for threat in (Box(LOWER, UPPER), Box(LOWER, UPPER) + LpBall(2, 0.1)):
        problem, index = problem_of(X, y, threat), np.arange(0, 30, 3)
        part = problem.adversary.take(index)
        coef = rng.normal(size=(2, 4))
        np.testing.assert_array_equal(
            part.penalties(coef), problem.adversary.penalties(coef)[:, index]
        )


def one_hot(n):
    values = np.random.default_rng(1).integers(0, 3, size=(n, 8))
    return np.concatenate([np.eye(3)[column] for column in values.T], axis=1)


@pytest.mark.parametrize(
    ("threat", "options", "message"),
    [
        (LpBall(2, {"malware": 0.1}), {}, "eps must hold a radius for each class"),
        (LpBall(2, 0.1), {"sample_radius": [1.0]}, "sample_radius must hold .* each of the 30"),
        (LpBall(2, 0.1), {"sample_radius": np.full(30, -1.0)}, "sample_radius must hold a finite"),
        (LpBall(3, 0.1, clip=(-2, 2)), {}, "needs conic of the set, which threat=LpBall"),
        (LpBall(2, 0.1).only("spam"), {}, "names the class 'spam'"),
    ],
)
def test_messages(data, threat, options, message):
    X, y, _ = data
    with pytest.raises(ValueError, match=message):
        problem_of(X, y, threat, **options)


def test_very_many_sets_of_samples_are_evaluated_at_once():
    X = one_hot(900)
    y = np.where(np.arange(900) % 2, 1.0, -1.0)
    groups = np.arange(24).reshape(8, 3).tolist()
    threat, radius = OneHot(groups), np.arange(900) % 3
    sets = RobustProblem.from_data(
        X, y, threat=threat, fit_intercept=True, sample_radius=radius
    ).adversary
    assert isinstance(sets, OwnSets)
    w, index = np.random.default_rng(0).normal(size=24), np.arange(0, 900, 7)
    some = sets.take(index)
    taken, moved = some.penalties(np.stack([w, -w])), some.perturbations(w)
    np.testing.assert_allclose(sets.penalties(w[None])[0, index], taken[0])
    np.testing.assert_allclose(moved @ w, taken[0], atol=1e-12)
    for k, i in enumerate(index[:20]):
        one = at(threat, X[i], float(radius[i]))
        assert taken[0, k] == pytest.approx(float(one.support(-y[i] * w)))
        assert taken[1, k] == pytest.approx(float(one.support(y[i] * w)))


def test_slots_of_one_set_and_sign_are_one(data):
    _, y, _ = data
    ball = LpBall(2, 1.0)
    slots = Slots.by_class(y, (ball, ball), np.ones(30)).slots
    assert slots == (Slot(ball, 1.0, slots[0].radius),)
    np.testing.assert_array_equal(slots[0].radius, 1.0)
    assert Slots(slots).factors is slots[0].radius
    assert Slots.by_class(y, (Box(LOWER, UPPER),) * 2, np.ones(30)).factors is None


def test_rows_without_an_array_are_refused(data):
    class Products:
        shape, dtype, n_terms = (30, 4), np.dtype(float), 4

        def __init__(self, X):
            self.X = X

        def scores(self, coef):
            return coef @ self.X.T

        def weighted_sum(self, weights):
            return weights @ self.X

        def score_sizes(self, coef):
            return np.abs(coef) @ np.abs(self.X).T

        def sum_sizes(self, weights):
            return np.abs(weights) @ np.abs(self.X)

    X, y, _ = data
    with pytest.raises((TypeError, ValueError), match="set for each sample or class"):
        RobustProblem.from_data(Products(X), y, threat=Box(LOWER, UPPER), fit_intercept=True)
    assert replace(problem_of(X, y, LpBall(2, 0.1)), fit_intercept=False).adversary is None


def test_a_class_of_radius_0_has_no_sets_within_limits():
    X, y = np.random.default_rng(0).uniform(-1, 1, (6, 2)), np.resize([1.0, -1.0], 6)
    threat = LpBall(2, {-1.0: 0.0, 1.0: 0.2}, clip=(-1, 1))
    _, adversary = resolve(threat, X, y, [-1.0, 1.0], None)
    assert len(adversary.slots) == 3
    with pytest.raises(ValueError, match="clip must hold every sample"):
        resolve(threat, np.where(y[:, None] < 0, 2.0, X), y, [-1.0, 1.0], None)
