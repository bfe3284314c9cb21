"""Projection and steepest step on a ball cut by a box."""

import math

import cvxpy as cp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sklearn_robust.attacks._ball import Ball

QS = [1, 2, math.inf]


def draw(seed, n=6, d=5, dtype=torch.float64):
    """Points in the unit box, some of them on its faces, and directions of varied size with zeros and ties."""
    rng = np.random.default_rng(seed)
    x = np.clip(rng.uniform(-0.3, 1.3, (n, d)), 0, 1)
    v = rng.normal(size=(n, d)) * 10.0 ** rng.uniform(-2, 1, (n, 1))
    v[rng.random((n, d)) < 0.1] = 0.0
    v[rng.random(n) < 0.2] = 0.7
    return torch.tensor(x, dtype=dtype), torch.tensor(v, dtype=dtype)


@pytest.mark.parametrize("q", QS)
@pytest.mark.parametrize("eps", [0.05, 0.5, 3.0])
def test_projection_and_worst_case_solve_their_programs(q, eps):
    x, v = draw(int(10 * eps))
    ball = Ball(x, q, eps, (0, 1))
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
    ball = Ball(x, 1, 2.0, (0, 1))
    start = ball.project(-v.flip(0))
    step = ball.step(start, v, length) - start
    assert (step.abs().sum(1) <= length * (1 + 1e-12)).all()
    for i in range(len(x)):
        u, here = cp.Variable(x.shape[1]), (x[i] + start[i]).numpy()
        inside = [cp.norm(u, 1) <= length, here + u >= 0, here + u <= 1]
        best = cp.Problem(cp.Maximize(v[i].numpy() @ u), inside).solve(solver=cp.CLARABEL)
        assert float(v[i] @ step[i]) == pytest.approx(best, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("q", QS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(seed=st.integers(0, 10**6), eps=st.floats(0, 5), scale=st.sampled_from([1e-3, 1.0, 1e3]), d=st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_nothing_leaves_the_ball_or_the_box(q, dtype, seed, eps, scale, d):
    x, v = draw(seed, d=d, dtype=dtype)
    ball = Ball(x, q, eps, (0, 1))
    moves = ball.project(scale * v), ball.farthest(v), ball.random(torch.Generator().manual_seed(seed))
    for delta in (*moves, ball.project(ball.step(moves[0], v, 0.3 * eps))):
        point = ball.place(delta)
        assert point.min() >= 0
        assert point.max() <= 1
        size = torch.linalg.vector_norm(point.double() - x.double(), q, dim=1)
        assert size.max() <= eps * (1 + 1e-6) + 1e-44  # float32 has nothing finer


@pytest.mark.parametrize("q", QS)
@given(seed=st.integers(0, 10**6), eps=st.floats(0.01, 5))
@settings(max_examples=30, deadline=None)
def test_projection_is_idempotent_and_a_box_far_away_changes_nothing(q, seed, eps):
    x, v = draw(seed)
    free = Ball(x, q, eps)
    torch.testing.assert_close(Ball(x, q, eps, (-1e3, 1e3)).project(v), free.norm.project(v, eps), atol=1e-12, rtol=1e-12)
    for ball in (free, Ball(x, q, eps, (0, 1))):
        once = ball.project(v)
        torch.testing.assert_close(ball.project(once), once, atol=1e-12, rtol=1e-12)


def test_other_exponents_go_without_a_box_only():
    x, v = draw(0)
    assert (Ball(x, 3, 0.5).norm.value(Ball(x, 3, 0.5).project(v)) <= 0.5 * (1 + 1e-12)).all()
    with pytest.raises(ValueError, match="clip goes with q = 1, 2 or inf"):
        Ball(x, 3, 0.5, (0, 1))


def test_the_box_must_hold_the_samples():
    with pytest.raises(ValueError, match="clip must hold every sample"):
        Ball(torch.tensor([[1.5]]), 2, 0.1, (0, 1))


@pytest.mark.parametrize("q", QS)
def test_random_points_fill_the_ball(q):
    delta = Ball(torch.zeros(4000, 3), q, 2.0).random(torch.Generator().manual_seed(0))
    size = torch.linalg.vector_norm(delta, q, dim=1)
    assert size.max() <= 2 * (1 + 1e-6)
    # uniform in volume: half of the points lie beyond 2^(-1/3) of the radius
    assert (size > 2 * 0.5 ** (1 / 3)).float().mean() == pytest.approx(0.5, abs=0.03)
    torch.testing.assert_close(delta.mean(0), torch.zeros(3), atol=0.1, rtol=0)
