"""The mixed-integer program against brute force over activation patterns, and against attacks."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from torch import nn

from sklearn_robust.verification import certified_margins


def network(*sizes, seed=0):
    torch.manual_seed(seed)
    layers = []
    for n_in, n_out in itertools.pairwise(sizes):
        layers += [nn.Linear(n_in, n_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1]).double()


def least_over_patterns(net, x, difference, *, eps, q, clip):
    """min of difference @ f over the threat: one linear program for each activation pattern of the
    hidden units."""
    weights = [
        (layer.weight.detach().numpy(), layer.bias.detach().numpy())
        for layer in net
        if isinstance(layer, nn.Linear)
    ]
    d = len(x)
    low, high = (
        (np.full(d, -np.inf), np.full(d, np.inf)) if clip is None else (clip[0] - x, clip[1] - x)
    )
    reach = np.minimum(np.concatenate([high, -low]), eps)
    # the move is its positive part less its negative part
    parts = np.hstack([np.eye(d), -np.eye(d)])
    least = np.inf
    widths = [len(b) for _, b in weights[:-1]]
    for pattern in itertools.product([0, 1], repeat=sum(widths)):
        active = np.split(np.array(pattern), np.cumsum(widths)[:-1])
        rows, limits = ([np.ones((1, 2 * d))], [[eps]]) if q == 1 else ([], [])
        a, a0 = parts, x
        for (w, b), on in zip(weights[:-1], active, strict=True):
            h, h0 = w @ a, w @ a0 + b
            sign = np.where(on, -1, 1)  # h >= 0 where active, h <= 0 elsewhere
            rows.append(sign[:, None] * h)
            limits.append(-sign * h0)
            a, a0 = on[:, None] * h, on * h0
        h, h0 = weights[-1][0] @ a, weights[-1][0] @ a0 + weights[-1][1]
        program = linprog(
            difference @ h,
            A_ub=np.vstack(rows),
            b_ub=np.concatenate(limits),
            bounds=list(zip(np.zeros(2 * d), reach, strict=True)),
        )
        if program.status == 0:
            least = min(least, program.fun + difference @ h0)
    return least


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sizes", "q", "clip"),
    [
        ((1, 5, 1), 1, (0.0, 1.0)),
        ((2, 5, 1), 1, (0.0, 1.0)),
        ((2, 4, 3), math.inf, None),
        ((2, 3, 3, 1), math.inf, None),
    ],
    ids=str,
)
def test_equals_brute_force_on_tiny_networks(sizes, q, clip):
    net = network(*sizes)
    for parameter in net.parameters():
        nn.init.normal_(parameter)
    rng = np.random.default_rng(0)
    X, y = rng.uniform(size=(3, sizes[0])), rng.integers(max(sizes[-1], 2), size=3)
    exact = certified_margins(net, X, y, eps=0.7, q=q, clip=clip, method="exact")
    crown = certified_margins(net, X, y, eps=0.7, q=q, clip=clip)
    assert np.all(exact >= crown)
    for i in range(3):
        if sizes[-1] == 1:
            differences = np.array([[2 * y[i] - 1]])
        else:
            differences = np.eye(sizes[-1])[y[i]] - np.delete(np.eye(sizes[-1]), y[i], axis=0)
        brute = min(least_over_patterns(net, X[i], c, eps=0.7, q=q, clip=clip) for c in differences)
        # the solver's tolerance is charged
        assert brute - 1e-5 * (1 + abs(brute)) <= exact[i] <= brute


@pytest.mark.slow
def test_the_rival_with_the_lowest_linear_bound_need_not_be_the_worst():
    net = network(2, 8, 8, 6)
    for parameter in net.parameters():
        nn.init.normal_(parameter)
    rng = np.random.default_rng(0)
    X, y = rng.uniform(size=(15, 2)), rng.integers(6, size=15)
    exact = certified_margins(net, X, y, eps=0.7, method="exact")
    grid = 0.7 * np.array(list(itertools.product(np.linspace(-1, 1, 101), repeat=2)))
    scores = net(torch.as_tensor(X[:, None] + grid)).detach().numpy()
    true = np.take_along_axis(scores, y[:, None, None], axis=2)
    margins = (
        np.where(np.arange(6) == y[:, None, None], np.inf, true - scores).min(axis=2).min(axis=1)
    )
    assert np.all(exact <= margins + 1e-6)
    np.testing.assert_allclose(exact, margins, atol=0.1)


@pytest.mark.slow
def test_lies_between_linear_bounds_and_attacks_on_digits(lowest_margin):
    X, y = load_digits(return_X_y=True)
    X, y = X[np.isin(y, (2, 7))] / 16, (y[np.isin(y, (2, 7))] == 7).astype(int)
    net = network(64, 50, 1)
    inputs, signs = torch.as_tensor(X[40:]), torch.as_tensor(2.0 * y[40:] - 1)
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.softplus(-signs * net(inputs)[:, 0]).mean().backward()
        optimizer.step()
    X, y = X[:12], y[:12]
    crown = certified_margins(net, X, y, eps=0.1, clip=(0, 1))
    exact = certified_margins(net, X, y, eps=0.1, clip=(0, 1), method="exact")
    found = lowest_margin(net, X, y, eps=0.1, q=math.inf, clip=(0, 1), n_steps=60)
    assert np.all(exact >= crown)
    assert np.all(exact <= found + 1e-6)
    # the search finds the worst point of nearly every image
    assert np.sum(found - exact < 1e-4) >= 10
    assert np.any(exact > crown + 1e-3)


def test_without_time_it_returns_a_valid_bound_and_says_so():
    net = network(40, 200, 1)
    X, y = np.random.default_rng(0).uniform(size=(3, 40)), [0, 1, 1]
    crown = certified_margins(net, X, y, eps=0.3)
    with pytest.warns(
        ConvergenceWarning,
        match=r"3 of 3 samples were not solved within 0\.1 seconds each.*Increase time_limit",
    ):
        bound = certified_margins(net, X, y, eps=0.3, method="exact", time_limit=0.1)
    assert np.all(bound >= crown)
    corners = X[:, None] + 0.3 * np.random.default_rng(1).choice([-1, 1], size=(3, 1000, 40))
    scores = net(torch.as_tensor(corners)).detach().numpy()[..., 0]
    assert np.all(bound <= (np.array([-1, 1, 1])[:, None] * scores).min(axis=1))


def test_what_it_does_not_support_is_named():
    pool = nn.Sequential(nn.Unflatten(1, (1, 2, 2)), nn.MaxPool2d(2), nn.Flatten())
    with pytest.raises(
        TypeError, match=r"method='exact' supports no MaxPool2d\. Use method='crown'"
    ):
        certified_margins(pool, np.zeros((1, 4)), [0], eps=0.1, method="exact")
    with pytest.raises(ValueError, match=r"method='exact' supports q = 1 and q = inf.*got q=2"):
        certified_margins(network(2, 3, 1), np.zeros((1, 2)), [0], eps=0.1, q=2, method="exact")
