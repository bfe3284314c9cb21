"""The least value of linear functions over balls and boxes."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from sklearn_robust.norms import LpNorm
from sklearn_robust.verification.region import Region

EXPONENTS = [1, 1.5, 2, 3, math.inf]


@pytest.fixture
def draw():
    rng = np.random.default_rng(0)
    x = torch.as_tensor(rng.uniform(size=(6, 2, 3)))
    x[0, 0] = 0.0  # on the border of the box
    x[1, 1] = 1.0
    return x, torch.as_tensor(rng.standard_normal((6, 4, 2, 3))), torch.linspace(0, 1, 6, dtype=torch.float64)


def unit_box(x):
    return torch.zeros_like(x[0]), torch.ones_like(x[0])


@pytest.mark.parametrize("q", EXPONENTS)
def test_the_ball_alone_is_exact(draw, q):
    x, coef, eps = draw
    norm = LpNorm(q)
    least = Region.around(x, eps, norm, None).minimum(coef)
    moves = -eps.view(-1, 1, 1) * norm.steepest_direction(coef.flatten(2))
    attained = (coef.flatten(2) * (x.flatten(1).unsqueeze(1) + moves)).sum(dim=2)
    torch.testing.assert_close(least, attained)
    shared = Region.around(x, eps, norm, None).minimum(coef[:1])
    torch.testing.assert_close(shared, Region.around(x, eps, norm, None).minimum(coef[:1].expand(6, -1, -1, -1)))


@pytest.mark.parametrize("q", EXPONENTS)
def test_ball_and_box_together(draw, q):
    x, coef, eps = draw
    norm, box = LpNorm(q), unit_box(x)
    least = Region.around(x, eps, norm, box).minimum(coef)
    assert torch.all(least >= Region.around(x, eps, norm, None).minimum(coef) - 1e-12)
    rng = np.random.default_rng(1)
    noise = torch.as_tensor(rng.standard_normal((500, 6, 6)))
    directions = torch.cat([noise, -coef.flatten(2).transpose(0, 1)])
    moves = eps.unsqueeze(1) * norm.steepest_direction(directions)
    points = (x.flatten(1) + moves).clamp(0, 1)
    values = torch.einsum("nsd,mnd->mns", coef.flatten(2), points)
    assert torch.all(values >= least - 1e-12)


@pytest.mark.parametrize("q", [1, math.inf])
def test_ball_and_box_against_a_linear_program(draw, q):
    x, coef, eps = draw
    least = Region.around(x, eps, LpNorm(q), unit_box(x)).minimum(coef)
    for i, s in np.ndindex(6, 4):
        c, centre = coef[i, s].flatten().numpy(), x[i].flatten().numpy()
        reach = np.minimum(np.concatenate([1 - centre, centre]), float(eps[i]))
        budget = {} if q == math.inf else {"A_ub": np.ones((1, 12)), "b_ub": [float(eps[i])]}
        value = c @ centre + linprog(np.concatenate([c, -c]), bounds=list(zip(0 * reach, reach, strict=True)), **budget).fun
        assert value >= least[i, s] - 1e-9
        if q == math.inf:
            assert value == pytest.approx(float(least[i, s]), abs=1e-9)


@pytest.mark.parametrize(("q", "loss"), [(1, 4.0), (2, 5.0)])
def test_moves_that_the_box_forbids_cost_nothing(q, loss):
    x = torch.zeros(1, 3, dtype=torch.float64)
    coef = torch.tensor([[[3.0, 4.0, 5.0], [-3.0, 5.0, -4.0]]], dtype=torch.float64)
    expected = torch.tensor([[0.0, -loss]], dtype=torch.float64)
    region = Region.around(x, torch.ones(1, dtype=torch.float64), LpNorm(q), unit_box(x))
    torch.testing.assert_close(region.minimum(coef), expected)
    region = Region.around(x + 1, torch.ones(1, dtype=torch.float64), LpNorm(q), unit_box(x))
    torch.testing.assert_close(region.minimum(-coef), expected - coef.sum(dim=2))
