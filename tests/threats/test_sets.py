"""Every set, and pairs of them under |, + and &, against enumeration, as threat_soak.py does it."""

import zlib

import numpy as np
import pytest

from sklearn_robust.threats import Box, FeatureBudget, LpBall, OneHot, at, bind
from sklearn_robust.threats._categories import Changes
from sklearn_robust.threats._programs import Program

FAMILIES = [
    "ball_1",
    "ball_2",
    "ball_inf",
    "clipped_1",
    "clipped_2",
    "clipped_inf",
    "box",
    "box_clipped",
    "budget",
    "binary",
    "onehot",
    "image",
    "ellipsoid",
    "relations",
]
CURVED = {"ball_2", "clipped_2", "ellipsoid"}  # whose references are cone programs
PAIRS = [
    ("box", "ball_1"),
    ("box_clipped", "ball_2"),
    ("box", "budget"),
    ("budget", "relations"),
    ("image", "clipped_1"),
    ("binary", "onehot"),
    ("binary", "box_clipped"),
    ("onehot", "relations"),
    ("ellipsoid", "budget"),
]


def largest_errors(threat_soak, names, operation, n_cases):
    # a seed that is the same in every run, and another one for each set
    rng = np.random.default_rng(zlib.crc32(repr((names, operation)).encode()))
    found = {}
    for _ in range(n_cases):
        for name, value in threat_soak.one_case(names, operation, rng, 4, 10).items():
            found[name] = max(found.get(name, 0.0), value)
    return found


def test_all_families_are_here(threat_soak):
    assert threat_soak.FAMILIES == FAMILIES


@pytest.mark.parametrize("name", FAMILIES)
def test_a_set_against_enumeration(threat_soak, name):
    errors = largest_errors(threat_soak, (name,), "", 1 if name in {*CURVED, "relations"} else 4)
    assert max(errors.values()) < 1e-8, errors


@pytest.mark.parametrize("operation", ["|", "+", "&"])
@pytest.mark.parametrize("names", PAIRS, ids=" ".join)
def test_a_pair_against_enumeration(threat_soak, names, operation):
    rng = np.random.default_rng(len(operation) + sum(map(len, names)))
    n, m = (1, 3) if CURVED & set(names) or "relations" in names else (2, 5)
    errors = threat_soak.one_case(names, operation, rng, n, m)
    assert max(errors.values()) < 1e-8, errors


def test_budgets_of_one_and_of_all_features_are_balls():
    v = np.random.default_rng(0).normal(size=(20, 5))
    scale = np.array([0.5, 1.0, 2.0, 0.0, 1.5])
    one, several = FeatureBudget(1, 0.3 * scale), FeatureBudget(5, 0.3 * scale)
    np.testing.assert_allclose(one.support(v), LpBall(1, 0.3, scale).support(v))
    np.testing.assert_allclose(several.support(v), LpBall(np.inf, 0.3, scale).support(v))
    np.testing.assert_allclose(one.project(v), LpBall(1, 0.3, scale).project(v), atol=1e-15)
    box = Box(-0.3 * scale, 0.3 * scale)
    np.testing.assert_array_equal(box.support(v), several.support(v))
    np.testing.assert_allclose(box.project(v, 0.5), several.project(v, 0.5), atol=1e-15)


def test_an_infinite_bound_is_an_infinite_support_and_a_zero_radius_none():
    box = Box([0.0, -1.0], [np.inf, 2.0])
    v = np.array([[1.0, 1.0], [-1.0, 1.0], [0.0, -1.0]])
    np.testing.assert_array_equal(box.support(v), [np.inf, 2.0, 1.0])
    np.testing.assert_array_equal(box.worst(v), [[np.inf, 2.0], [0.0, 2.0], [0.0, -1.0]])
    radii = np.array([0.0, 1.0, 2.0])
    np.testing.assert_array_equal(
        box.at(np.zeros((3, 2)), radii).support(v[0]), [0, np.inf, np.inf]
    )
    np.testing.assert_array_equal(bind(box & Box(-5, 5), 2).support(v[0]), 7.0)
    kept = bind(box, 2).conic()
    assert len(kept.h) == 3  # x_0 >= 0, and both bounds of x_1


def test_limits_are_kept_in_floating_point():
    rng = np.random.default_rng(0)
    low, high = -rng.random(50) / 3, rng.random(50) / 3 + 0.1
    X = np.clip(rng.normal(size=(200, 50)) / 5, low, high)
    for threat in (Box(-0.3, 0.7, clip=(low, high)), LpBall(2, 2.0, clip=(low, high))):
        sets = threat.bind(50).at(X)
        moved = X + sets.worst(rng.normal(size=50))
        assert (moved >= low).all()
        assert (moved <= high).all()
        assert (moved == high).any()


def test_limits_out_of_reach_have_no_rows():
    ball, x = LpBall(1, 0.2, np.ones(3)), np.array([0.0, 0.5, 0.95])
    within = LpBall(1, 0.2, np.ones(3), clip=(-30, 1)).at(x)
    assert len(within.conic().h) == len(ball.conic().h) + 1
    v = np.array([1.0, 2.0, 5.0])
    assert Program(within.conic()).worst(v)[1] == pytest.approx(within.support(v), abs=1e-8)


def test_an_intersection_with_limits_is_that_of_a_sample():
    both = bind(LpBall(2, 0.5) & Box(-1, 1, clip=(0, 1)), 2)
    assert both.at(np.array([0.9, 0.5])).support(np.ones(2)) == pytest.approx(0.1 + 0.24**0.5)
    assert not hasattr(both, "conic")
    with pytest.raises(ValueError, match="has no worst point of its own: use at"):
        both.support(np.ones(2))


def test_weights_of_very_different_sizes_within_limits():
    """No overflow: the weight of the second feature is zero beside that of the first."""
    balls = LpBall(2, 1.0, clip=(0, 1)).at(np.array([0.9, 0.5]))
    moved = balls.worst(np.array([1.0, 1e-160]))
    assert moved[0] == pytest.approx(0.1)
    assert 0 <= moved[1] <= 0.5


def test_the_projection_on_a_budget_where_the_sum_stays_at_the_number():
    """Between the entries that are at their bounds and those that are 0 there may be none."""
    rng = np.random.default_rng(1)
    for k in range(5):
        budget = FeatureBudget(k, rng.uniform(0.1, 1.5, 4) * (rng.random(4) < 0.8))
        v = rng.normal(size=(500, 4))
        radius = rng.choice([0.0, 0.3, 1.0], 500)
        moved = budget.project(v, radius)
        rest = v - moved
        taken = radius * budget.support(rest)
        np.testing.assert_allclose(np.sum(rest * moved, axis=-1), taken, atol=1e-12)


def test_an_l_inf_ball_in_an_intersection_is_a_box():
    """It has a closed form with categories, and no program."""
    X, v = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]), np.array([1.0, 3.0, 5.0])
    both = bind(OneHot([[0, 1, 2]]) & LpBall(np.inf, 0.5, [2.0, 2.0, 1.0]), 3)
    for radius, gains in ((1.0, [2.0, 0.0]), (np.array([0.5, 2.0]), [0.0, 2.0])):
        sets = at(both, X, radius)
        assert isinstance(sets, Changes)
        np.testing.assert_array_equal(sets.support(v), gains)


@pytest.mark.parametrize("clip", [None, (0, 1)])
def test_categories_in_a_box_against_enumeration(clip):
    """The changes whose columns may move so far."""
    rng = np.random.default_rng(0)
    ends = np.array([[*a, *b] for a in np.eye(3) for b in ([0, 0], [1, 0], [0, 1])])
    threat = OneHot([[0, 1, 2], [4, 3]], 2, baseline=[False, True])
    radii = rng.choice([0.5, 1.0, 2.0], len(ends))
    for _ in range(20):
        lower, upper = -rng.choice([0.3, 0.5, 1.0, np.inf], 5), rng.choice([0.3, 0.6, 1.0], 5)
        sets = at(bind(threat & Box(lower, upper, clip=clip), 5), ends, radii)
        v = rng.normal(size=5)
        for x, r, found, delta in zip(ends, radii, sets.support(v), sets.worst(v), strict=True):
            changes = (x[:3] != ends[:, :3]).any(axis=1) * 1 + (x[3:] != ends[:, 3:]).any(axis=1)
            moves = ends[changes <= 2 * r] - x
            held = moves[((moves >= r * lower) & (moves <= r * upper)).all(axis=1)]
            assert found == pytest.approx((held @ v).max())
            assert (held == delta).all(axis=1).any()
            assert delta @ v == pytest.approx(found)


def test_flips_that_just_reach_the_boundary_of_a_ball():
    """The set is a few points then, of which an interior-point method has no interior."""
    x, scale = np.array([1.0, 0.0, 1.0, 0.0]), np.array([0.5, 0.5, 0.5, 1.0])
    both = bind(LpBall(2, 0.7, scale) & FeatureBudget(2, 1.0, binary=True), 4)
    sets = at(both, x, (1 + 1e-11) / (0.7 * 0.5))  # one flip, or the last one and none beside
    for seed in range(20):
        v = np.random.default_rng(seed).normal(size=4)
        assert sets.support(v) == pytest.approx(max(0, ((1 - 2 * x) * v).max()))


def test_what_a_set_shows_is_short():
    assert repr(LpBall(2, 0.1)) == "LpBall(q=2.0, eps=0.1)"
    assert repr(OneHot([[0, 1]])) == "OneHot(groups=[[0, 1]], n_changes=1)"
    assert len(repr(FeatureBudget(2, np.ones(900)))) < 80
    assert len(repr(Box(np.zeros(900), np.ones(900)) | LpBall(2, 0.1, np.ones(900)))) < 250
