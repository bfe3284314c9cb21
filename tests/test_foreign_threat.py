"""A threat written here, a box with a bound for each feature, goes through everything that takes a
threat.
"""

import math
import re

import numpy as np
import pytest
import torch
from array_api_compat import array_namespace
from scipy import sparse

from sklearn_robust import RobustLinearClassifier, splitting, threats
from sklearn_robust.certificates import (
    certify,
    log_risk_bound,
    non_separability_slack,
    proves_not_separable,
    repaired_weights,
    robust_margin,
    sum_rounding,
)
from sklearn_robust.losses import LOSSES
from sklearn_robust.norms import LpNorm
from sklearn_robust.problems import RobustProblem
from sklearn_robust.scaled_norms import ScaledNorm, WeightedNorm
from sklearn_robust.solvers import (
    accelerated_margin,
    diagonal_descent,
    minimise_robust_risk,
    steepest_descent,
)
from sklearn_robust.threats import LpBall

LOSS = LOSSES["exponential"]


class Box:
    """|delta_j| <= b_j, and nothing but the methods of the protocols."""

    symmetric = True

    def __init__(self, b):
        self.b = np.asarray(b, dtype=float)

    def bounds(self, x, radius=1.0):
        xp = array_namespace(x)
        b = xp.asarray(self.b, dtype=x.dtype)
        return b * (radius[..., None] if hasattr(radius, "ndim") and radius.ndim else radius)

    def worst(self, v):
        return self.bounds(v) * array_namespace(v).sign(v)

    def project(self, x, radius=1.0):
        bounds = self.bounds(x, radius)
        xp = array_namespace(x)
        return xp.minimum(xp.maximum(x, -bounds), bounds)

    def min_norm_subgradient(self, w, g, radius, norm):
        xp = array_namespace(w)
        smooth = g + self.bounds(w, radius) * xp.sign(w)
        return xp.where(w == 0, g - self.project(g, radius), smooth)

    def stop_at_kinks(self, w, moved):
        xp = array_namespace(w)
        crosses = (w * moved < 0) & (self.bounds(w) > 0)
        return xp.where(crosses, xp.zeros_like(moved), moved)

    def conic(self):
        unit = np.eye(len(self.b))
        h = np.concatenate([self.b, self.b])
        return np.vstack([unit, -unit]), np.empty((len(h), 0)), h, [("nonnegative", len(h))]


class Worst:
    """A box that offers its worst point and nothing else."""

    symmetric = True

    def __init__(self, b):
        self.box = Box(b)

    def worst(self, v):
        return self.box.worst(v)


class Projected(Worst):
    """A box that knows its projection, and not its kinks."""

    def project(self, x, radius=1.0):
        return self.box.project(x, radius)


def data(n=30, d=40, noise=0.3):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, d))
    y = np.sign(X[:, 0] + noise * rng.normal(size=n))
    b = rng.uniform(0, 0.05, size=d)
    b[3] = 0.0
    return X, y, b


def pair(X, y, b, factor=1.0, *, fit_intercept=True):
    """The problem of the box, and of the ball that is the same set."""
    box = RobustProblem.from_data(X, y, threat=Box(factor * b), fit_intercept=fit_intercept)
    ball = RobustProblem.from_data(
        X, y, threat=LpBall(math.inf, factor, b), fit_intercept=fit_intercept
    )
    return box, ball


def test_functions_that_are_derived_equal_the_closed_forms_of_the_ball():
    b = np.array([0.5, 1.0, 2.0, 0.0])
    box, ball = Box(b), LpBall(math.inf, 1.0, b)
    x = np.array([[1.0, -3.0, 0.5, 0.0], [0.1, 0.2, -8.0, 0.0], [0.0, 0.0, 0.0, 1.0], [0.0] * 4])
    radius = np.array([0.5, 1.0, 2.0, 0.0])
    np.testing.assert_allclose(threats.support(box, x), ball.penalty(x))
    np.testing.assert_allclose(threats.gauge(box, x), ball.gauge(x))
    np.testing.assert_array_equal(threats.gauge(box, x), [3.0, 4.0, math.inf, 0.0])
    np.testing.assert_array_equal(threats.inside(box, x, radius), threats.inside(ball, x, radius))
    room = np.full_like(x, 2.5)
    np.testing.assert_array_equal(
        threats.inside(box, x, radius, room), ball.inside(x, radius, room)
    )
    assert threats.reach(box, x[:1]) == ball.reach() == 2.0
    for p in (1, 2, 3, math.inf):
        np.testing.assert_allclose(
            threats.residual(box, x, radius, LpNorm(p)), ball.residual(x, radius, LpNorm(p))
        )


@pytest.mark.slow
@pytest.mark.pairwise
@pytest.mark.parametrize("q", [1, 2, math.inf])
@pytest.mark.parametrize("r", [1, 2, math.inf])
@pytest.mark.parametrize("like", [np.asarray, torch.as_tensor], ids=["numpy", "torch"])
def test_splitting_finds_the_nearest_point(q, r, like):
    rng = np.random.default_rng(1)
    ball = LpBall(q, 1.0, like(rng.uniform(0.1, 2, size=12)))
    g, radius, norm = (
        like(3 * rng.normal(size=(4, 12))),
        like(np.array([0, 0.5, 1, 50.0])),
        LpNorm(r),
    )
    found = splitting.split(lambda x: ball.project(x, radius), g, norm)[0]
    closed = ball.residual(g, radius, norm)
    np.testing.assert_allclose(norm.value(found), norm.value(closed), rtol=1e-8, atol=1e-12)
    assert bool((ball.gauge(g - found) <= radius * (1 + 1e-12)).all())


@pytest.mark.parametrize("q", [1, 2, math.inf])
def test_the_least_subgradient_in_a_foreign_norm_is_found_by_splitting(q):
    class Foreign:
        """The 3-norm, whose exponent nobody knows."""

        def __init__(self, p=3.0):
            self.norm = LpNorm(p)

        @property
        def dual(self):
            return Foreign(self.norm.dual.p)

        def value(self, x):
            return self.norm.value(x)

        def steepest_direction(self, g):
            return self.norm.steepest_direction(g)

        def project(self, x, radius=1.0):
            return self.norm.project(x, radius)

    rng = np.random.default_rng(2)
    w = rng.normal(size=(3, 6))
    w[0], w[1, :3] = 0.0, 0.0
    w[2, :4] = [2.0, -2.0, 2.0, -2.0]
    g, radius, norm = rng.normal(size=(3, 6)), np.array([0.3, 0.6, 0.9]), Foreign()
    ball = LpBall(q, 1.0)
    found, direction = threats.steepest_subgradient(ball, w, g, radius, norm)
    closed, _ = threats.steepest_subgradient(ball, w, g, radius, norm.norm)
    size = norm.dual.value(found)
    np.testing.assert_allclose(size, norm.dual.value(closed), rtol=1e-9)
    np.testing.assert_allclose(np.sum(found * direction, axis=-1), size, rtol=1e-9)
    np.testing.assert_allclose(norm.value(direction), 1.0)


def test_projection_on_the_ball_of_a_weighted_norm():
    s = np.array([0.5, 2.0, 0.0])
    x = np.array([3.0, -4.0, 7.0])
    projected = WeightedNorm(1, s).project(x, 1.0)
    expected = ScaledNorm(1, 1 / s[:2]).project(x[:2], 1.0)
    np.testing.assert_allclose(projected, [*expected, 7.0])
    assert WeightedNorm(1, s).value(projected) <= 1 + 1e-12


@pytest.mark.pairwise
@pytest.mark.parametrize("p", [1, 1.5, 2, math.inf])
@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("convert", [np.asarray, sparse.csr_array, torch.as_tensor])
def test_a_certificate_equals_that_of_the_ball(p, fit_intercept, convert):
    X, y, b = data()
    like = torch.as_tensor if convert is torch.as_tensor else np.asarray
    box, ball = pair(convert(X), like(y), b, 2.0, fit_intercept=fit_intercept)
    rng = np.random.default_rng(1)
    coef, weights = like(rng.normal(size=(1, 40)) + 3 * (y @ X)), like(rng.random((1, 30)))
    proven, other = (certify(problem, LpNorm(p), coef, weights) for problem in (box, ball))
    np.testing.assert_allclose(proven.margin, other.margin, rtol=1e-12)
    np.testing.assert_allclose(proven.bound, other.bound, rtol=1e-10)
    assert bool((proven.bound >= proven.margin).all())
    np.testing.assert_allclose(proven.coef, other.coef)


def test_certificates_charge_rounding():
    X, y, b = data()
    box, _ = pair(X, y, b)
    coef = steepest_descent(box, LOSS, LpNorm(2), max_iter=20).coef
    proven = certify(box, LpNorm(2), coef, np.ones((1, 30)))
    exact = (box.margins(proven.coef, proven.intercept).min() / LpNorm(2).value(proven.coef))[0]
    assert exact * (1 - 1e-12) < proven.margin[0] < exact
    weighted_sum = box.weighted_sum(proven.weights)
    distance = LpNorm(2).value(weighted_sum - Box(b).project(weighted_sum))
    charge = LpNorm(2).value(sum_rounding(30, float) * box.sizes(proven.weights))
    assert distance[0] + charge[0] < proven.bound[0] < distance[0] * (1 + 1e-12)


@pytest.mark.parametrize("p", [1, 2, math.inf])
@pytest.mark.parametrize("step_size", ["adaptive", "paper"])
def test_the_path_is_that_of_the_ball(p, step_size):
    options = {"max_iter": 60, "loss_tol": 0, "step_size": step_size}
    found, expected = (
        steepest_descent(problem, LOSS, LpNorm(p), **options) for problem in pair(*data(), 5.0)
    )
    assert found.separable == expected.separable
    np.testing.assert_allclose(found.coef, expected.coef, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(found.margin, expected.margin, rtol=1e-7)
    np.testing.assert_allclose(found.margin_bound, expected.margin_bound, rtol=1e-7)


@pytest.mark.parametrize("p", [1, math.inf])
def test_the_path_asks_the_threat_where_to_stop(p):
    class Frozen(Box):
        def stop_at_kinks(self, w, moved):
            return w

    X, y, b = data()
    problem = RobustProblem.from_data(X, y, threat=Frozen(b), fit_intercept=True)
    start = np.full((1, 40), 0.1)
    solution = steepest_descent(problem, LOSS, LpNorm(p), coef_init=start, max_iter=5)
    np.testing.assert_array_equal(solution.coef, start)


def test_hyperplanes_that_hold_a_point_in_the_box_gather():
    box = Box([1.0, 2.0])
    first, change = threats.face(box, np.array([3.0, 0.0]), 0.5)
    np.testing.assert_allclose(first, [[1.0, 0.0]])
    np.testing.assert_allclose(change, [-2.5])
    rows, change = threats.face(box, np.array([0.25, -4.0]), 0.5, first)
    np.testing.assert_allclose(rows, [[1.0, 0.0], [0.0, -1.0]])
    np.testing.assert_allclose(change, [0.0, -3.0])


@pytest.mark.parametrize("convert", [sparse.csr_array, torch.as_tensor])
def test_the_path_on_other_arrays(convert):
    X, y, b = data()
    like = torch.as_tensor if convert is torch.as_tensor else np.asarray
    problem = RobustProblem.from_data(convert(X), like(y), threat=Box(b), fit_intercept=True)
    dense = RobustProblem.from_data(X, y, threat=Box(b), fit_intercept=True)
    options = {"max_iter": 40, "loss_tol": 0}
    found, expected = (
        steepest_descent(one, LOSS, [LpNorm(1)], **options) for one in (problem, dense)
    )
    np.testing.assert_allclose(found.coef, expected.coef, rtol=1e-9)
    np.testing.assert_allclose(found.margin_bound, expected.margin_bound, rtol=1e-9)


def test_radii_multiply_the_set():
    X, y, b = data()
    problem = RobustProblem.from_data(X, y, threat=Box(b), fit_intercept=True)
    radii = [0.0, 1.0, 3.0]
    several = problem.at_radii(radii)
    solution = steepest_descent(several, LOSS, LpNorm(2), max_iter=100)
    for i, radius in enumerate(radii):
        alone = RobustProblem.from_data(X, y, threat=Box(radius * b), fit_intercept=True)
        expected = steepest_descent(alone, LOSS, LpNorm(2), max_iter=100)
        np.testing.assert_allclose(solution.margin[i], expected.margin[0], rtol=1e-6)
    standard, unit = problem.standardised()
    coef = np.random.default_rng(0).normal(size=(1, 40))
    np.testing.assert_allclose(standard.penalty(coef), problem.penalty(coef) / unit)
    assert problem.simplified() is problem
    assert problem.mapped(lambda array: array.astype(np.float32)).threat is problem.threat


@pytest.mark.parametrize(("n", "d", "more"), [(80, 8, 0.05), (20, 30, 0.4), (20, 30, 1.0)])
def test_data_that_the_box_makes_inseparable_are_proven_so(n, d, more):
    X, y, b = data(n, d, noise=2.0)
    box, ball = pair(X, y, b + more)
    solution = steepest_descent(box, LOSS, LpNorm(2), loss_tol=0, tol=1e-3)
    assert solution.separable == [False]
    assert solution.converged[0]
    assert solution.gap[0] < 1e-3
    # the proof holds for the ball, which is the same set
    assert proves_not_separable(ball, solution.weights)[0]
    bound = log_risk_bound(ball, LOSS, solution.weights)
    assert -1e-3 <= bound[0] - solution.log_risk[0] <= 1e-12
    assert robust_margin(box, LpNorm(2), solution.coef, solution.intercept)[0] <= 0


def test_weights_are_moved_into_the_box_or_mixed_with_those_of_its_interior():
    X, y, b = data(80, 8, noise=2.0)
    box, ball = pair(X, y, b + 0.05)
    exact = steepest_descent(box, LOSS, LpNorm(2), loss_tol=0, tol=1e-6).weights
    assert non_separability_slack(ball, exact)[0] >= -1e-14
    noise = 1 + 1e-3 * np.random.default_rng(0).normal(size=exact.shape)
    moved = repaired_weights(box, exact * noise)
    assert proves_not_separable(ball, moved)[0]
    np.testing.assert_allclose(moved, exact, atol=1e-3)
    # only positive weights are moved, and two are too few
    spoilt = np.where(
        (exact == exact[y[None] > 0].max()) | (exact == exact[y[None] < 0].max()), 1.0, 0.0
    )
    assert np.isnan(repaired_weights(box, spoilt)).all()
    wider = RobustProblem.from_data(X, y, threat=Box(b + 0.1), fit_intercept=True)
    mixed = repaired_weights(wider, spoilt, exact)
    assert proves_not_separable(wider, mixed)[0]


@pytest.mark.parametrize(
    ("threat", "p", "message"),
    [
        (
            Worst,
            2,
            "steepest_descent in LpNorm(p=2.0) needs project of a threat, which threat=Worst does "
            "not offer: write it, as `worst` alone gives margins but no certificate.",
        ),
        (
            Worst,
            1,
            "steepest_descent in LpNorm(p=1.0) needs project and min_norm_subgradient and "
            "stop_at_kinks of a threat, which threat=Worst does not offer: write them, or use "
            "steepest_descent in LpNorm(2).",
        ),
        (
            Projected,
            math.inf,
            "steepest_descent in LpNorm(p=inf) needs min_norm_subgradient and stop_at_kinks of a "
            "threat, which threat=Projected does not offer: write them, or use steepest_descent in "
            "LpNorm(2).",
        ),
    ],
)
def test_a_solver_that_needs_more_refuses_in_one_sentence(threat, p, message):
    X, y, b = data()
    problem = RobustProblem.from_data(X, y, threat=threat(b), fit_intercept=True)
    with pytest.raises(ValueError, match=re.escape(message)):
        steepest_descent(problem, LOSS, LpNorm(p))


def test_a_projection_is_all_that_gradient_descent_needs():
    X, y, b = data()
    solutions = [
        steepest_descent(
            RobustProblem.from_data(X, y, threat=threat, fit_intercept=True),
            LOSS,
            LpNorm(2),
            max_iter=100,
        )
        for threat in (Projected(b), Box(b))
    ]
    np.testing.assert_array_equal(solutions[0].coef, solutions[1].coef)


class Asymmetric(Worst):
    symmetric = False


class Wrong(Worst):
    def worst(self, v):
        return v[..., :2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"threat": 0.1}, "threat must be an LpBall or an object with `symmetric` and `worst"),
        ({"threat": LpBall}, "threat must be an LpBall or an object with `symmetric` and `worst"),
        ({"threat": Asymmetric([1.0] * 40)}, "a set that is not symmetric, needs conic of"),
        ({"threat": Wrong([1.0] * 40)}, "threat.worst must return an array of the shape of its"),
        ({"threat": LpBall(2, 1.0, [1.0, 2.0])}, "scale must hold a number for each of the 40"),
        ({}, "needs either threat, or q and eps"),
        ({"q": 2}, "needs either threat, or q and eps"),
        ({"threat": LpBall(2, 1.0), "eps": 0.1}, "needs either threat, or q and eps"),
    ],
)
def test_what_is_no_threat_is_refused(arguments, message):
    X, y, _ = data()
    with pytest.raises(ValueError, match=re.escape(message)):
        RobustProblem.from_data(X, y, fit_intercept=True, **arguments)


def test_a_ball_is_split_into_its_unit_ball_and_its_radius():
    X, y, b = data()
    problem = RobustProblem.from_data(X, y, threat=LpBall(2, 0.3, b), fit_intercept=True)
    same = RobustProblem.from_data(X, y, q=2, eps=0.3, scale=b, fit_intercept=True)
    assert (problem.threat.q, problem.threat.eps, problem.radius.tolist()) == (2, 1.0, [0.3])
    coef = np.random.default_rng(0).normal(size=(1, 40))
    np.testing.assert_array_equal(problem.penalty(coef), same.penalty(coef))


@pytest.mark.parametrize("q", [1, 2, math.inf])
def test_the_cones_of_a_ball_are_the_ball(q):
    """Every random point obeys the rows with the best s where it is in the ball, and no s else."""
    s = np.array([0.5, 1.0, 0.0, 2.0])
    ball = LpBall(q, 0.7, s)
    E, F, h, cones = ball.conic()
    assert [kind for kind, _ in cones] == ["second_order" if q == 2 else "nonnegative", "zero"]
    assert sum(size for _, size in cones) == len(h) == E.shape[0] == F.shape[0]
    rng = np.random.default_rng(0)
    for scale in (0.2, 0.9, 1.1, 3.0):
        x = rng.normal(size=4) * (s > 0)
        x *= scale * 0.7 / ball.norm.value(x)
        slack = h - E @ x - (F @ np.abs(x[s > 0]) if F.shape[1] else 0)
        inside = slack[0] >= np.linalg.norm(slack[1:4]) if q == 2 else (slack[:-1] >= -1e-15).all()
        assert inside == (scale < 1)
        np.testing.assert_allclose(slack[-1], 0.0)


@pytest.mark.parametrize("ball", [LpBall(1.5, 1.0, [1.0, 2.0]), LpBall(2, 1.0)])
def test_a_ball_without_cones_says_so(ball):
    assert not threats.offers(ball, threats.ConicThreat)
    with pytest.raises(ValueError, match="The conic Newton method needs conic of a threat, which"):
        threats.require(ball, threats.ConicThreat, "the conic Newton method")


def test_the_accelerated_solver_treats_the_box_as_the_ball():
    found, expected = (
        accelerated_margin(problem, LOSS, LpNorm(2), tol=1e-2) for problem in pair(*data())
    )
    assert found.separable == expected.separable == [True]
    np.testing.assert_allclose(found.margin, expected.margin, rtol=1e-6)
    np.testing.assert_allclose(found.margin_bound, expected.margin_bound, rtol=1e-6)


@pytest.mark.parametrize("convert", [np.asarray, sparse.csr_array])
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_the_minimiser_of_the_risk_of_the_box_is_that_of_the_ball(convert, loss):
    X, y, b = data(80, 8, noise=2.0)
    found, expected = (
        minimise_robust_risk(problem, loss, LpNorm(2)) for problem in pair(convert(X), y, b + 0.05)
    )
    assert found.separable == expected.separable == [False]
    assert found.gap[0] < 1e-8
    np.testing.assert_allclose(found.coef, expected.coef, atol=1e-3)
    np.testing.assert_allclose(found.log_risk, expected.log_risk, atol=1e-8)


@pytest.mark.parametrize("solver", ["auto", "steepest_descent"])
@pytest.mark.parametrize(("n", "d"), [(30, 40), (80, 8)], ids=["separable", "not separable"])
def test_a_classifier_takes_the_box(solver, n, d):
    X, y, b = data(n, d, noise=0.3 if n < d else 2.0)
    options = {"loss": "logistic", "loss_tol": 0.1}
    found = RobustLinearClassifier(threat=Box(b), solver=solver, **options).fit(X, y)
    # against a set in cones "auto" computes the limit at once
    of_ball = "exact" if solver == "auto" else solver
    ball = LpBall(math.inf, 1.0, b)
    expected = RobustLinearClassifier(threat=ball, solver=of_ball, **options).fit(X, y)
    assert found.separable_ == expected.separable_
    np.testing.assert_allclose(found.margin_, expected.margin_, rtol=1e-2)
    assert found.robust_score(X, y) == expected.robust_score(X, y)


NEEDS = "of a threat, which threat=Worst does not offer"
BALLS = "serves l_q balls only, got threat="


@pytest.mark.parametrize(
    ("threat", "solve", "message"),
    [
        (
            Worst,
            lambda problem: accelerated_margin(problem, LOSS, LpNorm(2)),
            f"The accelerated solver needs project {NEEDS}",
        ),
        (
            Worst,
            lambda problem: minimise_robust_risk(problem, LOSS, LpNorm(2)),
            f"The minimiser of the robust risk needs conic {NEEDS}",
        ),
        (
            Box,
            lambda problem: diagonal_descent(problem, LOSS),
            f"The diagonal parametrisation {BALLS}Box: use an LpBall, or steepest_descent.",
        ),
    ],
)
def test_other_solvers_that_need_more_refuse_in_one_sentence(threat, solve, message):
    X, y, b = data()
    problem = RobustProblem.from_data(X, y, threat=threat(b), fit_intercept=True)
    with pytest.raises(ValueError, match=re.escape(message)):
        solve(problem)


@pytest.mark.parametrize(
    ("threat", "options", "message"),
    [
        (Worst, {}, f"The search for a separator needs project {NEEDS}"),
        (Projected, {"solver": "exact"}, "The exact solver needs conic of a threat, which"),
    ],
)
def test_a_classifier_refuses_in_one_sentence(threat, options, message):
    X, y, b = data()
    with pytest.raises(ValueError, match=re.escape(message)):
        RobustLinearClassifier(threat=threat(b), **options).fit(X, y)


def test_engines_for_balls_refuse_another_threat():
    with pytest.raises(
        ValueError,
        match=re.escape(
            "The interior point serves l_q balls only, got threat=Box: use an LpBall, or "
            "steepest_descent."
        ),
    ):
        threats.require_ball(Box([1.0]), "the interior point")
    assert threats.require_ball(LpBall(2, 1.0), "the interior point") == LpBall(2, 1.0)
