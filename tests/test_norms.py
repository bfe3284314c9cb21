import pickle
from fractions import Fraction

import cvxpy as cp
import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sklearn_robust.norms import LpNorm, SchattenNorm, shave_level

EXPONENTS = [1, 1.5, 2, 3, np.inf]
exponents = st.sampled_from(EXPONENTS)

VECTORS = {
    "generic": [0.3, -1.2, 0.7, 2.1, -0.05],
    "zeros": [0.0, -1.2, 0.0, 2.1, 0.4],
    "ties": [1.5, -1.5, 0.2, 1.5, -0.2],
    "all tied": [-0.7, 0.7, 0.7, -0.7],
    "single": [-0.9],
    "one non-zero": [0.0, 0.0, 1.3],
}


def vectors(size=4):
    entries = st.floats(-10, 10).map(lambda v: 0.0 if abs(v) < 1e-6 else v)
    return arrays(np.float64, size, elements=entries)


def distance_to_ball(g, radius, q, r):
    """min ||g - delta||_r over ||delta||_q <= radius, by a cone solver."""
    delta = cp.Variable(len(g))
    problem = cp.Problem(cp.Minimize(cp.norm(g - delta, r)), [cp.norm(delta, q) <= radius])
    return problem.solve(solver=cp.CLARABEL)


# --- the norm itself


@pytest.mark.parametrize("p", EXPONENTS)
@pytest.mark.parametrize("scale", [1e-200, 1.0, 1e200])
def test_value_equals_numpy_at_every_scale(p, scale):
    x = np.random.default_rng(0).standard_normal(20)
    assert LpNorm(p).value(scale * x) == pytest.approx(scale * np.linalg.norm(x, p), rel=1e-13)


@pytest.mark.parametrize("p", EXPONENTS)
def test_value_of_zero_is_zero(p):
    assert LpNorm(p).value(np.zeros(3)) == 0


@pytest.mark.parametrize(("p", "dual"), [(1, np.inf), (np.inf, 1), (2, 2), (1.5, 3), (3, 1.5)])
def test_dual_exponent(p, dual):
    assert LpNorm(p).dual == LpNorm(dual)


@pytest.mark.parametrize("p", [0.5, 0, -1, np.nan, True, "2", None, 2j, [2]])
def test_invalid_exponents_are_refused(p):
    with pytest.raises(ValueError, match=r"real number in \[1, inf\]"):
        LpNorm(p)


@pytest.mark.parametrize("p", [np.int64(2), np.float32(2), Fraction(2)])
def test_any_real_type_is_an_exponent(p):
    assert LpNorm(p) == LpNorm(2)
    assert type(LpNorm(p).p) is float


@pytest.mark.slow
@given(exponents, vectors(), vectors())
def test_triangle_and_dual_inequality(p, x, y):
    norm = LpNorm(p)
    assert norm.value(x + y) <= (norm.value(x) + norm.value(y)) * (1 + 1e-12)
    assert abs(x @ y) <= norm.value(x) * norm.dual.value(y) * (1 + 1e-12)


# --- steepest direction


@pytest.mark.pairwise
@pytest.mark.parametrize("p", EXPONENTS)
@pytest.mark.parametrize("g", VECTORS.values(), ids=VECTORS)
@pytest.mark.parametrize("scale", [1e-200, 1.0, 1e200])
def test_steepest_direction_attains_the_dual_norm(p, g, scale):
    norm, g = LpNorm(p), np.array(g)
    u = norm.steepest_direction(scale * g)
    assert norm.value(u) == pytest.approx(1, abs=1e-13)
    assert u @ g == pytest.approx(norm.dual.value(g), rel=1e-13)


def test_steepest_direction_is_symmetric_where_it_is_not_unique():
    np.testing.assert_allclose(
        LpNorm(1).steepest_direction(np.array([2.0, -2.0, 1.0])), [0.5, -0.5, 0]
    )
    np.testing.assert_array_equal(
        LpNorm(np.inf).steepest_direction(np.array([2.0, 0.0, -1.0])), [1, 0, -1]
    )


@pytest.mark.parametrize("p", EXPONENTS)
def test_steepest_direction_of_zero_is_zero(p):
    np.testing.assert_array_equal(LpNorm(p).steepest_direction(np.zeros(3)), np.zeros(3))


# --- projection and proximal point


@pytest.mark.slow
@pytest.mark.pairwise
@pytest.mark.parametrize("p", EXPONENTS)
@pytest.mark.parametrize("x", VECTORS.values(), ids=VECTORS)
@pytest.mark.parametrize("radius", [0.5, 2.0])
def test_projection_is_the_nearest_point_of_the_ball(p, x, radius):
    x = np.array(x)
    projected = LpNorm(p).project(x, radius)
    assert LpNorm(p).value(projected) <= radius * (1 + 1e-12)
    assert np.linalg.norm(x - projected) == pytest.approx(
        distance_to_ball(x, radius, p, 2), abs=1e-6
    )


@pytest.mark.slow
@pytest.mark.pairwise
@pytest.mark.parametrize("p", EXPONENTS)
@pytest.mark.parametrize("x", [VECTORS["generic"], VECTORS["ties"]], ids=["generic", "ties"])
@pytest.mark.parametrize("scale", [0.4, 5.0])
def test_prox_minimises_its_objective(p, x, scale):
    x = np.array(x)
    u = cp.Variable(len(x))
    problem = cp.Problem(cp.Minimize(cp.sum_squares(u - x) / 2 + scale * cp.norm(u, p)))
    problem.solve(solver=cp.CLARABEL)
    np.testing.assert_allclose(LpNorm(p).prox(x, scale), u.value, atol=1e-4)
    ours = LpNorm(p).prox(x, scale)
    assert np.sum((ours - x) ** 2) / 2 + scale * LpNorm(p).value(ours) <= problem.value + 1e-7


@given(exponents, vectors(), st.floats(0, 10))
def test_moreau_identity(p, x, scale):
    norm = LpNorm(p)
    np.testing.assert_allclose(norm.prox(x, scale) + norm.dual.project(x, scale), x, atol=1e-12)


@pytest.mark.slow
@given(exponents, vectors(), vectors(), st.floats(0, 10))
def test_projection_is_inside_and_nonexpansive(p, x, y, radius):
    norm = LpNorm(p)
    px, py = norm.project(x, radius), norm.project(y, radius)
    assert norm.value(px) <= radius * (1 + 1e-12) + 1e-14
    assert np.linalg.norm(px - py) <= np.linalg.norm(x - y) * (1 + 1e-9) + 1e-9


# --- residual of the ball in another norm


@pytest.mark.slow
@pytest.mark.pairwise
@pytest.mark.parametrize("q", EXPONENTS)
@pytest.mark.parametrize("r", EXPONENTS)
@pytest.mark.parametrize("g", VECTORS.values(), ids=VECTORS)
def test_residual_is_the_least_over_the_ball(q, r, g):
    g = np.array(g)
    for radius in (0.25, 0.8 * LpNorm(q).value(g)):
        residual = LpNorm(q).residual(g, radius, LpNorm(r))
        assert LpNorm(q).value(g - residual) <= radius * (1 + 1e-12)
        assert LpNorm(r).value(residual) == pytest.approx(
            distance_to_ball(g, radius, q, r), abs=2e-6
        )


@pytest.mark.pairwise
@pytest.mark.parametrize("q", EXPONENTS)
@pytest.mark.parametrize("r", EXPONENTS)
@pytest.mark.parametrize("g", VECTORS.values(), ids=VECTORS)
def test_residual_at_the_ends_of_the_radius(q, r, g):
    g, norm = np.array(g), LpNorm(q)
    np.testing.assert_allclose(norm.residual(g, 0.0, LpNorm(r)), g, rtol=1e-15)
    np.testing.assert_array_equal(
        norm.residual(g, 1.01 * norm.value(g), LpNorm(r)), np.zeros_like(g)
    )
    np.testing.assert_allclose(
        norm.residual(g, norm.value(g), LpNorm(r)), np.zeros_like(g), atol=1e-13
    )
    np.testing.assert_array_equal(norm.residual(0 * g, 0.3, LpNorm(r)), np.zeros_like(g))
    np.testing.assert_array_equal(norm.residual(0 * g, 0.0, LpNorm(r)), np.zeros_like(g))


@pytest.mark.pairwise
@pytest.mark.parametrize("q", EXPONENTS)
@pytest.mark.parametrize("r", EXPONENTS)
@pytest.mark.parametrize("scale", [1e-100, 1e100])
def test_residual_scales_with_its_arguments(q, r, scale):
    g = np.array(VECTORS["generic"])
    expected = LpNorm(q).residual(g, 0.6, LpNorm(r))
    scaled = LpNorm(q).residual(scale * g, scale * 0.6, LpNorm(r))
    np.testing.assert_allclose(scaled / scale, expected, rtol=1e-10, atol=1e-13)


@pytest.mark.slow
@settings(max_examples=100)
@given(exponents, exponents, vectors(), vectors(), st.floats(1e-3, 20))
@example(3, 1, np.array([0.0002, 9.0, 0.001, 9.0]), np.ones(4), 0.0015)
@example(3, 1, np.array([8.0, 0.0006, 0.0002, 0.0001]), np.ones(4), 0.0012)
def test_residual_is_no_larger_than_from_any_point_of_the_ball(q, r, g, other, radius):
    assume(LpNorm(q).value(other) > 0)
    point = other * min(1, radius / LpNorm(q).value(other))
    residual = LpNorm(q).residual(g, radius, LpNorm(r))
    assert LpNorm(q).value(g - residual) <= radius * (1 + 1e-9)
    assert LpNorm(r).value(residual) <= LpNorm(r).value(g - point) * (1 + 1e-9) + 1e-9


@pytest.mark.parametrize("q", [1, 1.5, 2, 3, 4, 10, np.inf])
@pytest.mark.parametrize("r", [1, 1.5, 2, 3, np.inf])
def test_residual_lies_in_a_ball_that_is_far_smaller_than_some_entries(q, r):
    g = np.array([0.4, 0.42, 0.45, 1e5, 2e5])
    residual = LpNorm(q).residual(g, 1.0, LpNorm(r))
    assert LpNorm(q).value(g - residual) <= 1 + 1e-13
    u = LpNorm(r).dual.steepest_direction(residual)
    distance = LpNorm(r).value(residual)
    if 1 < r < np.inf:  # elsewhere the direction is not unique
        assert distance == pytest.approx(u @ g - LpNorm(q).dual.value(u), rel=1e-13)
    if r == 1 < q:  # what is taken is as much as the sum of min(g, t) allows
        taken = g - residual
        level = taken.max()
        np.testing.assert_allclose(taken, np.minimum(g, level), atol=1e-10)


LARGE = [5, 10, 100, 1e4, 1e6]


@pytest.mark.parametrize(
    ("q", "r"),
    [(q, r) for q in LARGE for r in [1, 1.2, 2, *LARGE, np.inf]] + [(1.2, q) for q in LARGE],
)
def test_large_exponents_neither_overflow_nor_leave_the_ball(q, r):
    for g in ([0.3, -1.2, 0.7, 2.1, -0.05], [1e-8, 3.0, -2e8, 2e8]):
        g, ball, norm = np.array(g), LpNorm(q), LpNorm(r)
        for share in (1e-3, 0.4, 0.99):
            radius = share * ball.value(g)
            residual = ball.residual(g, radius, norm)
            assert ball.value(g - residual) <= radius * (1 + 1e-12)
            assert np.all(np.abs(residual) <= np.abs(g))
            # the ball of this radius holds the q = inf ball of radius / d^(1/q), and lies in that
            # of the radius
            near, far = (
                LpNorm(np.inf).residual(g, radius * factor, norm)
                for factor in (1.0, len(g) ** (-1 / q))
            )
            distance, tolerance = norm.value(residual), 1e-9 * norm.value(g)
            assert norm.value(near) - tolerance <= distance <= norm.value(far) + tolerance
            if 1 < r < np.inf and distance > tolerance:
                u = norm.dual.steepest_direction(residual)
                assert distance == pytest.approx(u @ g - radius * ball.dual.value(u), abs=tolerance)


@pytest.mark.slow
@settings(max_examples=80)
@given(st.floats(1.05, 20), st.floats(1.5, 20), vectors(6), st.floats(0.01, 0.99))
def test_residual_satisfies_duality_for_odd_exponents(q, r, g, share):
    """The distance is max <u, g> - radius ||u||_q* over ||u||_r* <= 1: the residual's steepest
    direction attains it."""
    assume(LpNorm(q).value(g) > 0)
    radius = share * LpNorm(q).value(g)
    residual = LpNorm(q).residual(g, radius, LpNorm(r))
    u = LpNorm(r).dual.steepest_direction(residual)
    dual = u @ g - radius * LpNorm(q).dual.value(u)
    size = LpNorm(r).value(g)
    assert LpNorm(q).value(g - residual) <= radius * (1 + 1e-12) + 1e-15 * size
    assert LpNorm(r).value(residual) == pytest.approx(dual, abs=1e-8 * size)


def test_residual_of_a_ball_that_is_nearly_the_cross_polytope():
    """The split between the coordinates is all but discontinuous there: Newton's method alone
    crawls."""
    g, q, r = np.array([0.0, 3, 4, 4, 5, 5]), LpNorm(1.0625), LpNorm(12)
    radius = q.value(g) / 64
    residual = q.residual(g, radius, r)
    u = r.dual.steepest_direction(residual)
    assert r.value(residual) == pytest.approx(u @ g - radius * q.dual.value(u), rel=1e-12)


@pytest.mark.parametrize("q", [1, 1.5, 2, 3])
def test_shave_level_solves_its_equation(q):
    a = np.random.default_rng(1).standard_normal((5, 8))
    radius = np.array([1e-9, 0.1, 1.0, 5.0, 100.0])[:, None]
    above = np.maximum(a - shave_level(a, radius, q), 0)
    np.testing.assert_allclose(
        np.linalg.norm(above, q, axis=-1), radius[:, 0], rtol=1e-6, atol=1e-15
    )


def test_shave_level_of_no_radius_is_the_largest_entry_and_skips_minus_infinity():
    a = np.array([[3.0, -np.inf, 2.0, 1.0]])
    assert shave_level(a, np.zeros((1, 1)), 1.0) == 3
    assert shave_level(a, np.full((1, 1), 2.0), 1.0) == pytest.approx(1.5)
    assert shave_level(a, np.full((1, 1), 2.0), np.inf) == 1


# --- subgradient of least norm

POINTS = {
    "origin": [0.0, 0.0, 0.0, 0.0],
    "generic": [0.5, -1.0, 0.2, 0.3],
    "some zeros": [0.0, -1.0, 0.0, 0.3],
    "ties": [1.0, -1.0, 0.2, 1.0],
    "all tied": [-1.0, 1.0, 1.0, -1.0],
}


def least_subgradient_norm(w, g, scale, p, r):
    s = cp.Variable(len(w))
    in_subdifferential = [cp.norm(s, LpNorm(p).dual.p) <= 1]
    if np.any(w):
        in_subdifferential.append(s @ w >= np.linalg.norm(w, p) * (1 - 1e-9))
        if p in (1, np.inf):  # the same set, without the degenerate cone constraint
            top = np.abs(w) == np.max(np.abs(w))
            signed = cp.multiply(np.sign(w), s)
            if p == 1:
                in_subdifferential = [cp.abs(s) <= 1, signed[w != 0] == 1]
            else:
                in_subdifferential = [
                    signed[top] >= 0,
                    cp.sum(signed[top]) == 1,
                    cp.multiply(~top, s) == 0,
                ]
        else:
            in_subdifferential = [s == np.sign(w) * (np.abs(w) / np.linalg.norm(w, p)) ** (p - 1)]
    return cp.Problem(cp.Minimize(cp.norm(g + scale * s, r)), in_subdifferential).solve(
        solver=cp.CLARABEL
    )


@pytest.mark.slow
@pytest.mark.pairwise
@pytest.mark.parametrize("p", EXPONENTS)
@pytest.mark.parametrize("r", EXPONENTS)
@pytest.mark.parametrize("w", POINTS.values(), ids=POINTS)
def test_min_norm_subgradient(p, r, w):
    w, norm = np.array(w), LpNorm(p)
    g = np.random.default_rng(3).standard_normal(4)
    for scale in (0.3, 1.7):
        v = norm.min_norm_subgradient(w, g, scale, LpNorm(r))
        s = (v - g) / scale
        assert norm.dual.value(s) <= 1 + 1e-12
        assert s @ w == pytest.approx(norm.value(w), abs=1e-12)
        assert LpNorm(r).value(v) == pytest.approx(
            least_subgradient_norm(w, g, scale, p, r), abs=2e-6
        )


@pytest.mark.parametrize("p", EXPONENTS)
@pytest.mark.parametrize("w", POINTS.values(), ids=POINTS)
def test_min_norm_subgradient_without_penalty_is_the_gradient(p, w):
    g = np.array([1.0, -2.0, 0.0, 0.5])
    np.testing.assert_allclose(
        LpNorm(p).min_norm_subgradient(np.array(w), g, 0.0, LpNorm(2)), g, rtol=1e-15
    )


# --- batches, dtypes, torch


OPERATIONS = {
    "value": lambda n, x, radius: n.value(x),
    "steepest_direction": lambda n, x, radius: n.steepest_direction(x),
    "project": lambda n, x, radius: n.project(x, radius),
    "prox": lambda n, x, radius: n.prox(x, radius),
    "residual 1.5": lambda n, x, radius: n.residual(x, radius, LpNorm(1.5)),
    "residual inf": lambda n, x, radius: n.residual(x, radius, LpNorm(np.inf)),
    "residual 1": lambda n, x, radius: n.residual(x, radius, LpNorm(1)),
    "min_norm_subgradient": lambda n, x, radius: n.min_norm_subgradient(
        x, 0.5 - x, radius, LpNorm(3)
    ),
}


def batch():
    x = np.random.default_rng(2).standard_normal((6, 5)).astype(np.float64)
    x[1, 2] = 0
    x[2] = 0
    x[3, :3] = 2.5
    return x, np.array([0.1, 0.5, 0.3, 1.2, 0.0, 50.0])


@pytest.mark.parametrize("p", EXPONENTS)
@pytest.mark.parametrize("name", OPERATIONS)
def test_batched_equals_single(p, name):
    x, radius = batch()
    apply = OPERATIONS[name]
    together = apply(LpNorm(p), x, radius)
    for i in range(len(x)):
        np.testing.assert_allclose(
            together[i], apply(LpNorm(p), x[i], float(radius[i])), rtol=1e-10, atol=1e-12
        )
    stacked = apply(LpNorm(p), x.reshape(2, 3, 5), radius.reshape(2, 3))
    np.testing.assert_allclose(stacked.reshape(together.shape), together, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("p", EXPONENTS)
@pytest.mark.parametrize("name", OPERATIONS)
def test_float32_stays_float32(p, name):
    x, radius = batch()
    apply = OPERATIONS[name]
    single = apply(LpNorm(p), x.astype(np.float32), radius.astype(np.float32))
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, apply(LpNorm(p), x, radius), rtol=1e-4, atol=1e-5)
    assert apply(LpNorm(p), x.astype(np.float32), 0.5).dtype == np.float32


@pytest.mark.parametrize("p", EXPONENTS)
@pytest.mark.parametrize("name", OPERATIONS)
def test_torch_equals_numpy(p, name):
    x, radius = batch()
    apply = OPERATIONS[name]
    tensor = apply(LpNorm(p), torch.from_numpy(x), torch.from_numpy(radius))
    assert isinstance(tensor, torch.Tensor)
    assert tensor.dtype == torch.float64
    np.testing.assert_allclose(tensor.numpy(), apply(LpNorm(p), x, radius), rtol=1e-10, atol=1e-12)


# --- norms of the singular values

SCHATTEN = [1, 2, 3, np.inf]
each_schatten = pytest.mark.parametrize("p", SCHATTEN)
RNG = np.random.default_rng(4)
MATRICES = {
    "wide": RNG.standard_normal((3, 5)),
    "tall": RNG.standard_normal((4, 2)),
    "of low rank": np.outer([1.0, -2.0, 1.0], [0.3, 0.1, -1.0, 2.0]),
    "tied": np.eye(3, 4),
    "zero": np.zeros((2, 3)),
}
each_matrix = pytest.mark.parametrize("matrix", MATRICES.values(), ids=MATRICES)


@pytest.mark.pairwise
@each_schatten
@each_matrix
@pytest.mark.parametrize("scale", [1e-200, 1.0, 1e200])
def test_schatten_norms_and_their_directions(p, matrix, scale):
    """The norm is that of the singular values; the direction has norm 1 and attains the dual
    norm."""
    norm, flat = SchattenNorm(p, len(matrix)), matrix.ravel()
    values = np.linalg.svd(matrix)[1]
    assert norm.value(scale * flat) == pytest.approx(
        scale * np.linalg.norm(values, p), rel=1e-12, abs=0
    )
    direction = norm.steepest_direction(scale * flat)
    assert norm.value(direction) == pytest.approx(float(matrix.any()), abs=1e-12)
    assert direction @ flat == pytest.approx(norm.dual.value(flat), rel=1e-12)
    # it stays in the space of the matrix: what is rounding is not orthogonalised
    rank = np.linalg.matrix_rank(matrix)
    assert np.linalg.matrix_rank(direction.reshape(matrix.shape), tol=1e-8) <= rank


@pytest.mark.parametrize(("p", "of"), [(1, "nuc"), (2, "fro"), (np.inf, 2)])
def test_schatten_norms_are_numpys(p, of):
    matrix = MATRICES["wide"]
    assert SchattenNorm(p, 3).value(matrix.ravel()) == pytest.approx(np.linalg.norm(matrix, of))


@each_schatten
def test_schatten_direction_is_the_derivative_of_the_dual_norm(p):
    norm, x = SchattenNorm(p, 3), MATRICES["wide"].ravel()
    slopes = [
        (norm.dual.value(x + 1e-6 * unit) - norm.dual.value(x - 1e-6 * unit)) / 2e-6
        for unit in np.eye(15)
    ]
    np.testing.assert_allclose(slopes, norm.steepest_direction(x), atol=1e-8)


@each_schatten
def test_schatten_projection_is_nearest(p):
    norm, x = SchattenNorm(p, 3), MATRICES["wide"].ravel()
    projected = norm.project(x, 0.7)
    assert norm.value(projected) == pytest.approx(0.7)
    # the rest is normal to the ball there
    rest = x - projected
    assert rest @ projected == pytest.approx(0.7 * norm.dual.value(rest), rel=1e-9)
    np.testing.assert_allclose(norm.project(projected, 0.8), projected)


@each_schatten
def test_schatten_norm_of_sizes_bounds_all_signs(p):
    norm = SchattenNorm(p, 3)
    for _ in range(20):
        signs = np.sign(RNG.standard_normal(15))
        sizes = np.abs(RNG.standard_normal(15))
        assert norm.value(signs * sizes) <= norm.largest(sizes) * (1 + 1e-12)


@each_schatten
@pytest.mark.parametrize("name", ["value", "steepest_direction", "project"])
def test_schatten_batches_types_and_torch(p, name):
    norm, apply = SchattenNorm(p, 2), OPERATIONS[name]
    x, radius = RNG.standard_normal((6, 8)), np.full(6, 0.5)
    together = apply(norm, x, radius)
    for i in range(6):
        np.testing.assert_allclose(apply(norm, x[i], 0.5), together[i], atol=1e-12)
    stacked = apply(norm, x.reshape(2, 3, 8), radius.reshape(2, 3))
    np.testing.assert_allclose(stacked.reshape(together.shape), together, atol=1e-12)
    tensor = apply(norm, torch.from_numpy(x), torch.from_numpy(radius))
    np.testing.assert_allclose(tensor.numpy(), together, atol=1e-12)
    single = apply(norm, x.astype(np.float32), radius.astype(np.float32))
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, together, rtol=1e-4, atol=1e-5)


def test_schatten_norms_are_values():
    spectral = SchattenNorm(np.inf, 3)
    assert spectral.dual == SchattenNorm(1, np.int64(3))
    assert spectral.dual.dual == spectral != SchattenNorm(np.inf, 4)
    assert pickle.loads(pickle.dumps(spectral)) == spectral
    assert repr(spectral) == "SchattenNorm(p=inf, n_rows=3)"
    assert len({spectral, SchattenNorm(np.inf, 3)}) == 1


@pytest.mark.parametrize("n_rows", [0, -1, 2.0, True, None])
def test_rows_that_are_no_count_are_refused(n_rows):
    with pytest.raises(ValueError, match="n_rows must be an integer >= 1"):
        SchattenNorm(2, n_rows)


def test_vectors_that_hold_no_matrix_are_refused():
    with pytest.raises(ValueError, match="matrices of 3 rows, got 7 entries"):
        SchattenNorm(1, 3).value(np.ones(7))
