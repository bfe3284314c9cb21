import cvxpy as cp
import numpy as np
import pytest
import torch

from sklearn_robust.norms import LpNorm
from sklearn_robust.scaled_norms import ScaledNorm, WeightedNorm

EXPONENTS = [1, 1.5, 2, 3, np.inf]
PAIRS = [(q, r) for q in EXPONENTS for r in EXPONENTS]
G = np.array([0.3, -1.2, 0.7, 2.1, -0.05, 1.4])
SCALES = {
    "positive": np.array([1.0, 0.3, 2.0, 0.7, 1.5, 1.0]),
    "zeros": np.array([1.0, 0.0, 2.0, 0.7, 0.0, 1.0]),
    "one": np.array([0.0, 0.0, 0.0, 0.7, 0.0, 0.0]),
}


def solved_distance(g, radius, s, q, r):
    """min ||g - delta||_r over ||delta / s||_q <= radius, by a cone solver: with delta = s u
    nothing is divided by."""
    u = cp.Variable(len(g))
    problem = cp.Problem(cp.Minimize(cp.norm(g - cp.multiply(s, u), r)), [cp.norm(u, q) <= radius])
    return problem.solve(solver=cp.CLARABEL)


@pytest.mark.slow
@pytest.mark.pairwise
@pytest.mark.parametrize("s", SCALES.values(), ids=SCALES)
@pytest.mark.parametrize("q", EXPONENTS)
@pytest.mark.parametrize("r", EXPONENTS)
def test_residual_is_the_distance_to_the_ball(q, r, s):
    for radius in (0.2, 1.0, 4.0):
        residual = ScaledNorm(q, s).residual(G, radius, LpNorm(r))
        assert ScaledNorm(q, s).value(G - residual) <= radius * (1 + 1e-12)
        assert LpNorm(r).value(residual) == pytest.approx(
            solved_distance(G, radius, s, q, r), abs=1e-6
        )
        np.testing.assert_array_equal(residual[s == 0], G[s == 0])


@pytest.mark.pairwise
@pytest.mark.parametrize("q", EXPONENTS)
@pytest.mark.parametrize("r", EXPONENTS)
@pytest.mark.parametrize("c", [0.3, 1.0, 7.0])
def test_a_uniform_scale_is_a_radius(q, r, c):
    scaled, g = ScaledNorm(q, np.full(6, c)), np.stack([G, G**3, np.zeros(6)])
    norm = LpNorm(r)
    radius = np.array([0.5, 0.2, 1.0])
    residual, expected = scaled.residual(g, radius, norm), LpNorm(q).residual(g, c * radius, norm)
    if q == r == 1:  # where it is not unique
        residual, expected = norm.value(residual), norm.value(expected)
    np.testing.assert_allclose(residual, expected, atol=1e-13)
    np.testing.assert_allclose(scaled.value(g), LpNorm(q).value(g) / c, atol=1e-14)
    np.testing.assert_allclose(
        scaled.steepest_direction(g), c * LpNorm(q).steepest_direction(g), atol=1e-14
    )
    for w in (G, np.round(G), np.zeros(6)):
        if q == r == 1:
            continue
        np.testing.assert_allclose(
            scaled.dual.min_norm_subgradient(w, -G, 0.8, norm),
            LpNorm(q).dual.min_norm_subgradient(w, -G, 0.8 * c, norm),
            atol=1e-12,
        )
        np.testing.assert_allclose(
            scaled.dual.prox(w, 0.8), LpNorm(q).dual.prox(w, 0.8 * c), atol=1e-13
        )


@pytest.mark.parametrize(("q", "r"), PAIRS)
def test_a_scale_of_zero_is_the_limit_of_tiny_ones(q, r):
    s = SCALES["zeros"]
    tiny = np.where(s == 0, 1e-9, s)
    expected = ScaledNorm(q, s).residual(G, 0.7, LpNorm(r))
    assert LpNorm(r).value(ScaledNorm(q, tiny).residual(G, 0.7, LpNorm(r))) == pytest.approx(
        LpNorm(r).value(expected), rel=1e-6
    )
    assert ScaledNorm(q, tiny).dual.value(G) == pytest.approx(
        ScaledNorm(q, s).dual.value(G), rel=1e-7
    )


@pytest.mark.parametrize("q", EXPONENTS)
@pytest.mark.parametrize("s", SCALES.values(), ids=SCALES)
def test_norms_are_dual(q, s):
    ball = ScaledNorm(q, s)
    u = ball.steepest_direction(G)
    assert ball.value(u) == pytest.approx(1, rel=1e-13)
    assert u @ G == pytest.approx(ball.dual.value(G), rel=1e-13)
    assert ball.dual.dual.value(u) == ball.value(u)
    # a subgradient of the ball's norm at u: of dual norm 1, and touching
    slope = ball.dual.steepest_direction(u)
    assert ball.dual.value(slope) == pytest.approx(1, rel=1e-13)
    assert slope @ u == pytest.approx(1, rel=1e-13)
    assert ball.value(np.eye(6))[0] == (np.inf if s[0] == 0 else 1 / s[0])


@pytest.mark.parametrize("q", EXPONENTS)
@pytest.mark.parametrize("s", SCALES.values(), ids=SCALES)
def test_projection_is_the_nearest_point(q, s):
    projected = ScaledNorm(q, s).project(G, 0.6)
    assert np.linalg.norm(G - projected) == pytest.approx(
        solved_distance(G, 0.6, s, q, 2), abs=1e-6
    )


KINKS = {
    "zero": np.zeros(6),
    "sparse": np.array([0.0, 1.0, 0.0, -0.4, 0.0, 0.0]),
    # scale w is tied where the second scale is not zero
    "tied": np.array([1.0, 5.0, -0.5, 1 / 0.7, 3.0, -0.3]),
    "immutable only": np.array([0.0, 1.0, 0.0, 0.0, -2.0, 0.0]),
}


@pytest.mark.slow
@pytest.mark.pairwise
@pytest.mark.parametrize("w", KINKS.values(), ids=KINKS)
@pytest.mark.parametrize(
    "s", [SCALES["zeros"], np.array([1.0, 0.2, 2.0, 0.7, 0.0, 1.0])], ids=["zeros", "one zero"]
)
@pytest.mark.parametrize("p", EXPONENTS)
@pytest.mark.parametrize("r", EXPONENTS)
def test_subgradient_is_the_least_one(p, r, w, s):
    norm, penalty = LpNorm(r), WeightedNorm(p, s)
    for scale in (0.6, 3.0, 20.0):
        v = penalty.min_norm_subgradient(w, G, scale, norm)
        taken = (v - G) / scale
        assert penalty.dual.value(taken) <= 1 + 1e-9
        assert taken @ w == pytest.approx(penalty.value(w), abs=1e-9)
        if 1 < p < np.inf and np.any(s * w):
            continue  # then it is the only one
        u = cp.Variable(6)  # a subgradient is s u, with u in the dual ball, and touches
        touches = cp.sum(cp.multiply(u, s * w)) >= penalty.value(w) - 1e-9
        problem = cp.Problem(
            cp.Minimize(cp.norm(G + scale * cp.multiply(s, u), r)),
            [cp.norm(u, LpNorm(p).dual.p) <= 1, touches],
        )
        assert norm.value(v) == pytest.approx(problem.solve(solver=cp.CLARABEL), abs=2e-5 * scale)


@pytest.mark.parametrize(("q", "r"), PAIRS)
def test_batches_and_torch_agree_with_single_rows(q, r):
    rng = np.random.default_rng(0)
    g, w, radius, s = (
        rng.standard_normal((4, 6)),
        np.round(rng.standard_normal((4, 6))),
        rng.random(4),
        SCALES["zeros"],
    )
    ball, norm = ScaledNorm(q, s), LpNorm(r)
    on_torch = ScaledNorm(q, torch.tensor(s))
    residual, subgradient = (
        ball.residual(g, radius, norm),
        ball.dual.min_norm_subgradient(w, g, radius, norm),
    )
    for i in range(4):
        np.testing.assert_allclose(residual[i], ball.residual(g[i], radius[i], norm), atol=1e-13)
        np.testing.assert_allclose(
            subgradient[i], ball.dual.min_norm_subgradient(w[i], g[i], radius[i], norm), atol=1e-13
        )
    tensors = [torch.tensor(x) for x in (w, g, radius)]
    np.testing.assert_allclose(on_torch.residual(*tensors[1:], norm), residual, atol=1e-12)
    np.testing.assert_allclose(
        on_torch.dual.min_norm_subgradient(*tensors, norm), subgradient, atol=1e-12
    )
    np.testing.assert_allclose(
        on_torch.dual.steepest_direction(tensors[1]), ball.dual.steepest_direction(g), atol=1e-13
    )


@pytest.mark.parametrize("q", [1, 1.001, 1.5, 3, 1e4, np.inf])
@pytest.mark.parametrize("r", [1, 1.001, 2, 1e4, np.inf])
def test_extreme_exponents_and_scales_stay_in_the_ball(q, r):
    s, g = np.array([1e-3, 1.0, 1e3, 0.0, 2.0]), np.array([1e5, -0.3, 1e-4, 0.5, 2e5])
    ball = ScaledNorm(q, s)
    radius = 1e-3 * ball.value(np.where(s > 0, g, 0))
    residual = ball.residual(g, radius, LpNorm(r))
    assert np.all(np.abs(residual) <= np.abs(g))
    assert ball.value(g - residual) <= radius * (1 + 1e-12)


@pytest.mark.parametrize("dtype", [np.float64, np.longdouble])
def test_one_feature_that_fills_the_ball_alone(dtype):
    """What is left is what exceeds the radius, and nothing of the others."""
    s = np.array([23.70084922, 0.02984976, 1.44764646, 10.93306774, 0.10462172, 0.77682676], dtype)
    g = np.array(
        [
            3.72508143e02,
            1.29297441e06,
            4.18752628e-05,
            3.17840472e06,
            2.37970202e-08,
            2.53570584e-06,
        ],
        dtype,
    )
    radius = np.array([42882919.96085633], dtype)
    residual = ScaledNorm(10, s).residual(g[None], radius, LpNorm(1))[0]
    np.testing.assert_array_equal(np.delete(residual, 1), 0)
    np.testing.assert_allclose(
        float(residual[1]), 1.29297441e06 - 0.02984976 * 42882919.96085633, rtol=1e-10
    )
