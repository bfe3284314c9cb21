"""Projected ascent against closed forms, brute force and its own promises."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from sklearn_robust.attacks import pgd, projected_ascent
from sklearn_robust.attacks._losses import logit_margins
from sklearn_robust.attacks.linear import robust_margins
from sklearn_robust.threats import LpBall

QS = [1, 2, math.inf]


def linear_module(n_outputs, d, *, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    module = torch.nn.Linear(d, n_outputs, dtype=dtype)
    module.weight.data = torch.randn(n_outputs, d, generator=generator, dtype=dtype)
    module.bias.data = torch.randn(n_outputs, generator=generator, dtype=dtype)
    return module


def relu_net(d, n_outputs, *, width=16, seed=0, dtype=torch.float64):
    first, last = linear_module(width, d, seed=seed, dtype=dtype), linear_module(n_outputs, width, seed=seed + 1, dtype=dtype)
    return torch.nn.Sequential(first, torch.nn.ReLU(), last)


def margins(module, X, y):
    with torch.no_grad():
        return logit_margins(module(torch.as_tensor(X)), torch.as_tensor(y)).numpy()


@pytest.mark.parametrize("q", QS)
@pytest.mark.parametrize("n_outputs", [1, 2, 4])
@pytest.mark.parametrize("loss", ["margin", "cross_entropy", "dlr"])
def test_pgd_is_exact_on_linear_modules(q, n_outputs, loss):
    if loss != "margin" and n_outputs == 4:
        pytest.skip("these losses do not rank rivals by the margin")
    module = linear_module(n_outputs, 6)
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(50, 6)), rng.integers(max(n_outputs, 2), size=50)
    points = pgd(module, X, y, eps=0.3, q=q, n_steps=30, n_restarts=4, loss=loss, stop_when_broken=False, random_state=0)
    coef, intercept = module.weight.detach().numpy(), module.bias.detach().numpy()
    exact = robust_margins(X, y, coef, intercept, LpBall(q, 0.3))
    np.testing.assert_allclose(margins(module, points, y), exact, atol=1e-5)
