"""A ball cut by a box: projection, steepest step, the farthest point, and the least value of linear
functions."""

import math

import cvxpy as cp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sklearn_robust.regions import Region

QS = [1, 2, math.inf]
EXPONENTS = [1, 1.5, 2, 3, math.inf]
SCALE = np.array([1.0, 0.0, 2.0, 0.5, 1e-3, 30.0])


def draw(seed, n=6, d=5, dtype=torch.float64):
    """Points in the unit box, some of them on its faces, and directions of varied size with zeros
    and ties."""
    rng = np.random.default_rng(seed)
    x = np.clip(rng.uniform(-0.3, 1.3, (n, d)), 0, 1)
    v = rng.normal(size=(n, d)) * 10.0 ** rng.uniform(-2, 1, (n, 1))
    v[rng.random((n, d)) < 0.1] = 0.0
    v[rng.random(n) < 0.2] = 0.7
    return torch.tensor(x, dtype=dtype), torch.tensor(v, dtype=dtype)


@pytest.mark.slow
@pytest.mark.parametrize("q", QS)
@pytest.mark.parametrize("eps", [0.05, 0.5, 3.0])
def test_projection_and_worst_case_solve_their_programs(q, eps):
    x, v = draw(int(10 * eps))
    ball = Region(x, q, eps, (0, 1))
    nearest, worst = ball.project(v), ball.farthest(v)
    for i in range(len(x)):
        u = cp.Variable(x.shape[1])
        inside = [cp.norm(u, q) <= eps, x[i].numpy() + u >= 0, x[i].numpy() + u <= 1]
        cp.Problem(cp.Minimize(cp.sum_squares(u - v[i].numpy())), inside).solve(solver=cp.CLARABEL)
        np.testing.assert_allclose(nearest[i], u.value, atol=2e-4)
        best = cp.Problem(cp.Maximize(v[i].numpy() @ u), inside).solve(solver=cp.CLARABEL)
        assert float(v[i] @ worst[i]) == pytest.approx(best, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("length", [0.05, 0.6, 4.0])
def test_a_steepest_l1_step_in_a_box_solves_its_program(length):
    x, v = draw(1, d=40)  # more coordinates than are looked at first
    ball = Region(x, 1, 2.0, (0, 1))
    start = ball.project(-v.flip(0))
    step = ball.step(start, v, length) - start
    assert (step.abs().sum(1) <= length * (1 + 1e-12)).all()
    for i in range(len(x)):
        u, here = cp.Variable(x.shape[1]), (x[i] + start[i]).numpy()
        inside = [cp.norm(u, 1) <= length, here + u >= 0, here + u <= 1]
        best = cp.Problem(cp.Maximize(v[i].numpy() @ u), inside).solve(solver=cp.CLARABEL)
        assert float(v[i] @ step[i]) == pytest.approx(best, rel=1e-6, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("q", QS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(
    seed=st.integers(0, 10**6),
    eps=st.floats(0, 5),
    scale=st.sampled_from([1e-3, 1.0, 1e3]),
    d=st.integers(1, 40),
)
@settings(max_examples=20, deadline=None)
def test_nothing_leaves_the_ball_or_the_box(q, dtype, seed, eps, scale, d):
    x, v = draw(seed, d=d, dtype=dtype)
    ball = Region(x, q, eps, (0, 1))
    moves = (
        ball.project(scale * v),
        ball.farthest(v),
        ball.random(torch.Generator().manual_seed(seed)),
    )
    for delta in (*moves, ball.project(ball.step(moves[0], v, 0.3 * eps))):
        point = ball.place(delta)
        assert point.min() >= 0
        assert point.max() <= 1
        size = torch.linalg.vector_norm(point.double() - x.double(), q, dim=1)
        assert size.max() <= eps * (1 + 1e-6) + 1e-44  # float32 has nothing finer


@pytest.mark.slow
@pytest.mark.parametrize("q", QS)
@given(seed=st.integers(0, 10**6), eps=st.floats(0.01, 5))
@settings(max_examples=30, deadline=None)
def test_projection_is_idempotent_and_a_box_far_away_changes_nothing(q, seed, eps):
    x, v = draw(seed)
    free = Region(x, q, eps)
    torch.testing.assert_close(
        Region(x, q, eps, (-1e3, 1e3)).project(v), free.norm.project(v, eps), atol=1e-12, rtol=1e-12
    )
    for ball in (free, Region(x, q, eps, (0, 1))):
        once = ball.project(v)
        torch.testing.assert_close(ball.project(once), once, atol=1e-12, rtol=1e-12)


def test_other_exponents_project_without_a_box_only():
    x, v = draw(0)
    assert (Region(x, 3, 0.5).norm.value(Region(x, 3, 0.5).project(v)) <= 0.5 * (1 + 1e-12)).all()
    with pytest.raises(ValueError, match="clip goes with q = 1, 2 or inf"):
        Region(x, 3, 0.5, (0, 1)).project(v)


def test_the_box_must_hold_the_samples():
    with pytest.raises(ValueError, match="clip must hold every sample"):
        Region(torch.tensor([[1.5]]), 2, 0.1, (0, 1))


@pytest.mark.parametrize("q", QS)
def test_random_points_fill_the_ball(q):
    delta = Region(torch.zeros(4000, 3), q, 2.0).random(torch.Generator().manual_seed(0))
    size = torch.linalg.vector_norm(delta, q, dim=1)
    assert size.max() <= 2 * (1 + 1e-6)
    # uniform in volume: half of the points lie beyond 2^(-1/3) of the radius
    assert (size > 2 * 0.5 ** (1 / 3)).float().mean() == pytest.approx(0.5, abs=0.03)
    torch.testing.assert_close(delta.mean(0), torch.zeros(3), atol=0.1, rtol=0)


# --- the least value of linear functions


def draw_functions(scaled):
    """Samples in the unit box, some on its border, functions of them, and a radius for each."""
    rng = np.random.default_rng(0)
    x = torch.as_tensor(rng.uniform(size=(6, 2, 3)))
    x[0, 0] = 0.0
    x[1, 1] = 1.0
    coef = torch.as_tensor(rng.standard_normal((6, 4, 2, 3)))
    coef[:, 1, 0, 0] = 0.0
    coef[:, 2] = coef[:, 2].sign()
    return x, coef, torch.linspace(0, 1, 6, dtype=torch.float64), SCALE if scaled else None


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("q", EXPONENTS)
def test_over_the_ball_alone_the_farthest_point_attains_it(q, scaled):
    x, coef, eps, scale = draw_functions(scaled)
    region = Region(x, q, eps, scale=scale)
    for s in range(4):
        points = region.place(region.farthest(region.gradient_in_units(-coef[:, s].flatten(1))))
        attained = (coef[:, s].flatten(1) * points).sum(1)
        torch.testing.assert_close(region.minimum(coef)[:, s], attained, atol=1e-12, rtol=0)
    torch.testing.assert_close(
        region.minimum(coef[:1]), region.minimum(coef[:1].expand(6, -1, -1, -1))
    )


@pytest.mark.pairwise
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("clip", [(0, 1), (-0.05, 1.3), (-50, 50)])
@pytest.mark.parametrize("q", EXPONENTS)
def test_over_ball_and_box_together_it_is_exact(q, clip, scaled):
    x, coef, eps, scale = draw_functions(scaled)
    region = Region(x, q, eps, clip, scale)
    least = region.minimum(coef)
    for s in range(4):
        points = region.place(region.farthest(region.gradient_in_units(-coef[:, s].flatten(1))))
        torch.testing.assert_close(
            least[:, s], (coef[:, s].flatten(1) * points).sum(1), atol=1e-11, rtol=0
        )
    torch.testing.assert_close(
        region.minimum(coef[:1]), region.minimum(coef[:1].expand(6, -1, -1, -1))
    )
    noise = torch.as_tensor(np.random.default_rng(1).standard_normal((500, 6, 6)))
    directions = torch.cat([noise, -region.gradient_in_units(coef.flatten(2)).transpose(0, 1)])
    moves = (
        eps.view(-1, 1)
        * region.norm.steepest_direction(directions)
        * (1 if scale is None else torch.as_tensor(scale))
    )
    points = (x.flatten(1) + moves).clamp(*clip)  # towards x: this stays in the ball
    values = torch.einsum("nsd,mnd->mns", coef.flatten(2), points)
    assert torch.all(values >= least - 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("q", EXPONENTS)
def test_over_ball_and_box_it_is_the_value_of_the_program(q, scaled):
    x, coef, eps, scale = draw_functions(scaled)
    x, coef, unit = (
        x.flatten(1).numpy(),
        coef.flatten(2).numpy(),
        np.ones(6) if scale is None else scale,
    )
    least = Region(torch.as_tensor(x), q, eps, (0, 1), scale).minimum(torch.as_tensor(coef))
    for i in range(1, 4):
        for s in range(2):
            u = cp.Variable(6)
            point = x[i] + cp.multiply(unit, u)
            program = cp.Problem(
                cp.Minimize(coef[i, s] @ point),
                [cp.norm(u, q) <= float(eps[i]), point >= 0, point <= 1],
            )
            assert program.solve(solver=cp.CLARABEL) == pytest.approx(float(least[i, s]), abs=1e-5)


@pytest.mark.slow
@given(
    q=st.sampled_from([1, 1.0001, 1.1, 2, 7.5, 300, math.inf]),
    seed=st.integers(0, 10**6),
    eps=st.sampled_from([0.0, 1e-300, 1e-6, 0.3, 2.0, 1e6]),
    size=st.sampled_from([1e-300, 1.0, 1e300]),
)
@settings(max_examples=60, deadline=None)
def test_no_allowed_point_has_a_smaller_value(q, seed, eps, size):
    rng = np.random.default_rng(seed)
    x, coef = (
        torch.as_tensor(rng.uniform(size=(4, 6))),
        torch.as_tensor(size * rng.standard_normal((4, 3, 6))),
    )
    x[0, :3], x[1, 3:] = 0.0, 1.0
    scale = rng.choice([0.0, 1e-8, 1.0, 5.0], size=6)
    region = Region(x, q, eps, (0, 1), scale)
    least = region.minimum(coef)
    assert torch.isfinite(least).all()
    directions = torch.cat(
        [
            torch.as_tensor(rng.standard_normal((50, 4, 6))),
            -region.gradient_in_units(coef / size).transpose(0, 1),
        ]
    )
    moves = eps * region.norm.steepest_direction(directions)
    points = (x + torch.as_tensor(scale) * moves).clamp(0, 1)
    values = torch.einsum("nsd,mnd->mns", coef / size, points)
    assert torch.all(values >= least / size - 1e-12)
    upper = torch.maximum(torch.zeros(1), (coef / size * x[:, None]).sum(2) - least / size)
    assert torch.all(upper >= 0)  # a sample is in its own region


@pytest.mark.parametrize(("q", "loss"), [(1, 4.0), (2, 5.0)])
def test_moves_that_the_box_forbids_cost_nothing(q, loss):
    x = torch.zeros(1, 3, dtype=torch.float64)
    coef = torch.tensor([[[3.0, 4.0, 5.0], [-3.0, 5.0, -4.0]]], dtype=torch.float64)
    expected = torch.tensor([[0.0, -loss]], dtype=torch.float64)
    torch.testing.assert_close(Region(x, q, 1.0, (0, 1)).minimum(coef), expected)
    torch.testing.assert_close(
        Region(x + 1, q, 1.0, (0, 1)).minimum(-coef), expected - coef.sum(dim=2)
    )
