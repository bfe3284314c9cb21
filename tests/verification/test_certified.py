"""Certified margins and radii: never above what an attack finds, exact where a closed form
exists."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sklearn_robust.attacks.linear import robust_margins, signed_distances
from sklearn_robust.norms import LpNorm
from sklearn_robust.threats import LpBall
from sklearn_robust.verification import certified_margins, certified_radius

EXPONENTS = [1, 1.5, 2, 3, math.inf]
METHODS = ["interval", "crown-ibp", "crown"]


def dense(sizes, *, nested=False):
    layers = []
    for n_in, n_out in itertools.pairwise(sizes):
        layers += [nn.Linear(n_in, n_out), nn.ReLU()]
    return (
        nn.Sequential(nn.Sequential(*layers[:2]), nn.Dropout(), *layers[2:-1])
        if nested
        else nn.Sequential(*layers[:-1])
    )


def convolutional(n_outputs):
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2, padding=1),
        nn.Conv2d(4, 5, 2),
        nn.ReLU(),
        nn.AvgPool2d(2, stride=1),
        nn.Flatten(),
        nn.Linear(5, 6),
        nn.ReLU(),
        nn.Linear(6, n_outputs),
    )
    net(torch.randn(50, 1, 6, 6) + 0.5)  # running statistics that are not 0 and 1
    return net


@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    hidden=st.lists(st.integers(1, 8), max_size=3),
    n_outputs=st.integers(1, 4),
    eps=st.sampled_from([0.0, 0.01, 0.1, 0.5, 2.0]),
    q=st.sampled_from(EXPONENTS),
    clip=st.sampled_from([None, (0.0, 1.0)]),
)
def test_no_point_of_the_threat_has_a_smaller_margin(
    lowest_margin, seed, hidden, n_outputs, eps, q, clip
):
    torch.manual_seed(seed)
    net = dense([4, *hidden, n_outputs], nested=bool(hidden)).double()
    rng = np.random.default_rng(seed)
    X, y = rng.uniform(size=(5, 4)), rng.integers(max(n_outputs, 2), size=5)
    found = lowest_margin(copy.deepcopy(net), X, y, eps=eps, q=q, clip=clip, n_steps=8)
    proved = {
        method: certified_margins(net, X, y, eps=eps, q=q, clip=clip, method=method)
        for method in METHODS
    }
    for margins in proved.values():
        assert np.all(margins <= found + 1e-9)
        if eps == 0:
            np.testing.assert_allclose(margins, found, atol=1e-9)
    assert np.all(proved["crown"] >= proved["interval"] - 1e-12)
    assert np.all(proved["crown-ibp"] >= proved["interval"] - 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("q", "clip", "n_outputs"), [(1, None, 3), (2, (0.0, 1.0), 1), (math.inf, (0.0, 1.0), 3)]
)
def test_convolutions_and_pooling(lowest_margin, q, clip, n_outputs):
    torch.manual_seed(n_outputs)
    net = convolutional(n_outputs)
    rng = np.random.default_rng(0)
    X, y = rng.uniform(size=(4, 1, 6, 6)), rng.integers(max(n_outputs, 2), size=4)
    loosest = certified_margins(net, X, y, eps=0.1, q=q, clip=clip, method="interval")
    found = lowest_margin(copy.deepcopy(net), X, y, eps=0.1, q=q, clip=clip)
    for method in METHODS:
        margins = certified_margins(net, X, y, eps=0.1, q=q, clip=clip, method=method)
        assert np.all(margins <= found + 1e-9)
        assert np.all(margins >= loosest)
    assert np.all(margins > loosest)


@pytest.mark.slow
@pytest.mark.pairwise
@pytest.mark.parametrize("method", [*METHODS, "exact"])
@pytest.mark.parametrize("q", EXPONENTS)
@pytest.mark.parametrize("n_outputs", [1, 4])
def test_linear_networks_have_the_closed_form(method, q, n_outputs):
    if method == "exact" and q not in (1, math.inf):
        return
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((20, 5)), rng.integers(max(n_outputs, 2), size=20)
    one = nn.Linear(5, n_outputs).double()
    coef, intercept = one.weight.detach().numpy(), one.bias.detach().numpy()
    expected = robust_margins(X, y, coef, intercept, LpBall(q, 0.3))
    np.testing.assert_allclose(
        certified_margins(one, X, y, eps=0.3, q=q, method=method), expected, atol=1e-13
    )

    two = nn.Sequential(nn.Linear(5, 7), nn.Linear(7, n_outputs)).double()
    coef = (two[1].weight @ two[0].weight).detach().numpy()
    intercept = two(torch.zeros(1, 5).double()).detach().numpy()[0]
    expected = robust_margins(X, y, coef, intercept, LpBall(q, 0.3))
    np.testing.assert_allclose(
        certified_margins(two, X, y, eps=0.3, q=q, method=method), expected, atol=1e-13
    )


@pytest.mark.parametrize("q", EXPONENTS)
@pytest.mark.parametrize(
    "affine", [(nn.Linear(5, 7),), (nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 7))], ids=len
)
def test_intervals_of_the_first_hidden_layer_are_exact_in_every_norm(affine, q):
    torch.manual_seed(0)
    first, last = nn.Sequential(*affine).double().eval(), nn.Linear(7, 1).double()
    X = np.random.default_rng(0).standard_normal((6, 5))
    with torch.no_grad():
        offset, values = (
            first(torch.zeros(1, 5).double()).numpy(),
            first(torch.as_tensor(X)).numpy(),
        )
        weight = first(torch.eye(5).double()).numpy().T - offset.T
        v, b = last.weight.numpy()[0], last.bias.numpy()
    reach = 0.2 * np.linalg.norm(weight, LpBall(q, 0.2).dual_norm.p, axis=1)
    expected = (
        np.minimum(v * np.maximum(values - reach, 0), v * np.maximum(values + reach, 0)).sum(axis=1)
        + b
    )
    net = nn.Sequential(first, nn.ReLU(), last)
    np.testing.assert_allclose(
        certified_margins(net, X, np.ones(6, int), eps=0.2, q=q, method="interval"),
        expected,
        atol=1e-13,
    )


def test_batches_devices_and_formats_do_not_matter():
    torch.manual_seed(0)
    net = dense([6, 8, 8, 3])
    rng = np.random.default_rng(0)
    X, y = rng.uniform(size=(13, 6)).astype(np.float32), rng.integers(3, size=13)
    whole = certified_margins(net, X, y, eps=0.1)
    assert whole.dtype == np.float64
    for batch_size in (1, 5, 100):
        np.testing.assert_allclose(
            certified_margins(net, X, y, eps=0.1, batch_size=batch_size), whole, atol=1e-14
        )
    np.testing.assert_array_equal(
        certified_margins(net, torch.as_tensor(X), torch.as_tensor(y), eps=np.full(13, 0.1)), whole
    )
    np.testing.assert_array_equal(
        certified_margins(net, X.tolist(), y.tolist(), eps=0.1, clip=(-9.0, np.full(6, 9.0))), whole
    )


@pytest.mark.slow
def test_few_units_at_a_time_give_the_same_bounds(monkeypatch):
    torch.manual_seed(0)
    net, X, y = convolutional(3), np.random.default_rng(0).uniform(size=(4, 1, 6, 6)), [0, 1, 2, 0]
    whole = certified_margins(net, X, y, eps=0.05, q=2)
    monkeypatch.setattr("sklearn_robust.verification.bounds.MAX_ENTRIES", 1000)
    np.testing.assert_allclose(certified_margins(net, X, y, eps=0.05, q=2), whole, atol=1e-14)


def test_the_module_is_judged_in_evaluation_mode_and_left_as_it_is():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 2)
    )
    net(torch.randn(30, 4)).sum().backward()
    before = copy.deepcopy(net)
    X, y = np.random.default_rng(0).uniform(size=(5, 4)), [0, 1, 0, 1, 0]
    margins = certified_margins(net, X, y, eps=0.0)
    assert all(part.training for part in net.modules())
    for part, original in zip(net.parameters(), before.parameters(), strict=True):
        assert part.dtype == torch.float32
        assert torch.equal(part, original)
        assert part.requires_grad
        assert part.grad is not None
    scores = net.eval()(torch.as_tensor(X, dtype=torch.float32)).detach().numpy()
    np.testing.assert_allclose(
        margins, (scores[:, 0] - scores[:, 1]) * np.where(y, -1, 1), atol=1e-5
    )


@pytest.mark.parametrize(("q", "expected"), [(1, 1.2), (2, 0.7268), (math.inf, 0.5)])
@pytest.mark.parametrize("method", METHODS)
def test_ball_and_box_are_not_judged_apart(method, q, expected):
    """At q = 1 and 2 the box stops x_2 before the ball does, and x_1 takes what is left of the
    radius."""
    net = nn.Linear(3, 1, bias=False).double()
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[3.0, 4.0, 1.0]]))
    margins = certified_margins(
        net, [[0.2, 0.3, 0.9]], [1], eps=0.4, q=q, clip=(0, 1), method=method
    )
    np.testing.assert_allclose(margins, [expected], atol=1e-4)


@pytest.mark.slow
@pytest.mark.pairwise
@pytest.mark.parametrize("clipped", [False, True])
@pytest.mark.parametrize("method", [*METHODS, "exact"])
@pytest.mark.parametrize("q", [1, 2, math.inf])
def test_a_scale_is_another_unit_of_each_feature(q, method, clipped):
    """x = s u: the network of u, in its own box, has the same margins without a scale."""
    if method == "exact" and q == 2:
        return
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    scale, X, y = np.array([0.5, 1.0, 2.0, 4.0]), rng.uniform(size=(3, 4)), rng.integers(3, size=3)
    net = dense([4, 6, 5, 3]).double()
    in_units = copy.deepcopy(net)
    with torch.no_grad():
        in_units[0].weight.mul_(torch.as_tensor(scale))
    expected = certified_margins(
        in_units,
        X / scale,
        y,
        eps=0.3,
        q=q,
        clip=(0 / scale, 1 / scale) if clipped else None,
        method=method,
    )
    margins = certified_margins(
        net, X, y, eps=0.3, q=q, clip=(0, 1) if clipped else None, scale=scale, method=method
    )
    np.testing.assert_allclose(margins, expected, atol=1e-5 if method == "exact" else 1e-11)


@pytest.mark.slow
@pytest.mark.parametrize("method", [*METHODS, "exact"])
@pytest.mark.parametrize("q", [1, 1.5, 2, 3, math.inf])
def test_no_point_of_a_scaled_threat_has_a_smaller_margin(q, method):
    if method == "exact" and q not in (1, math.inf):
        return
    for seed in range(2):
        torch.manual_seed(seed)
        rng = np.random.default_rng(seed)
        scale = rng.permutation([0.0, 0.01, 1.0, 30.0])
        net, X, y = dense([4, 8, 6, 3]).double(), rng.uniform(size=(4, 4)), rng.integers(3, size=4)
        margins = certified_margins(
            net, X, y, eps=0.5, q=q, clip=(0, 1), scale=scale, method=method
        )
        noise = rng.standard_normal((1000, 4, 4))
        moves = 0.5 * scale * LpNorm(q).steepest_direction(noise)
        scores = net(torch.as_tensor(np.clip(X + moves, 0, 1))).detach().numpy()
        true = np.take_along_axis(scores, np.broadcast_to(y[:, None], (1000, 4, 1)), axis=2)
        leads = np.where(np.arange(3) == y[:, None], np.inf, true - scores).min(axis=2)
        assert np.all(margins <= leads.min(axis=0) + 1e-9)


# --- radii


@pytest.mark.slow
@pytest.mark.parametrize("q", EXPONENTS)
@pytest.mark.parametrize("n_outputs", [1, 4])
def test_the_radius_of_a_linear_network_is_its_distance(q, n_outputs):
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((30, 3)), rng.integers(max(n_outputs, 2), size=30)
    net = nn.Linear(3, n_outputs).double()
    distance = signed_distances(X, y, net.weight.detach().numpy(), net.bias.detach().numpy(), q)
    assert 0 < np.sum(distance > 0) < 30
    radius = certified_radius(net, X, y, q=q, max_radius=1.5, tol=1e-5)
    np.testing.assert_allclose(radius, np.clip(distance, 0, 1.5), atol=1e-5)
    assert np.all((radius < distance) | (radius == 0))


@pytest.mark.parametrize("method", [*METHODS, "exact"])
def test_the_radius_is_certified_and_a_little_more_is_not(method):
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    X, net = rng.uniform(size=(15, 3)), dense([3, 6, 3])
    y = net(torch.as_tensor(X, dtype=torch.float32)).argmax(dim=1).numpy()
    y[:3] = (y[:3] + 1) % 3
    radius = certified_radius(net, X, y, clip=(0, 1), method=method, max_radius=0.3, tol=1e-3)
    assert np.all(radius[:3] == 0)
    assert np.all(radius[3:] > 0)
    inside = certified_margins(net, X, y, eps=radius, clip=(0, 1), method=method)
    beyond = certified_margins(net, X, y, eps=radius + 1e-3, clip=(0, 1), method=method)
    assert np.all(inside[3:] > 0)
    assert np.all((beyond <= 0) | (radius == 0.3))


@pytest.mark.slow
def test_better_bounds_certify_larger_radii():
    torch.manual_seed(1)
    rng = np.random.default_rng(0)
    X, net = rng.uniform(size=(8, 4)), dense([4, 10, 6, 2])
    y = net(torch.as_tensor(X, dtype=torch.float32)).argmax(dim=1).numpy()
    interval, crown, exact = (
        certified_radius(net, X, y, method=m, tol=1e-3) for m in ("interval", "crown", "exact")
    )
    assert np.all(interval <= crown + 1e-3)
    assert np.all(crown <= exact + 1e-3)
    assert interval.mean() < 0.8 * crown.mean()
    assert crown.mean() < exact.mean()


# --- contract


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"eps": -0.1},
            r"eps must be a finite number >= 0, or one for each of the 2 samples, got -0\.1",
        ),
        ({"eps": [0.1]}, "eps must be"),
        ({"eps": True}, "eps must be"),
        ({"eps": ["0", "1"]}, "eps must be"),
        ({"eps": 10**400}, "eps must be"),
        ({"eps": math.inf}, "eps must be"),
        ({"q": 0.5}, r"q must be a real number in \[1, inf\], got 0\.5"),
        ({"q": "two"}, r"q must be a real number in \[1, inf\], got 'two'"),
        (
            {"clip": 3},
            r"clip must be None or a pair \(low, high\) of numbers or arrays with low < high, got "
            r"3",
        ),
        ({"clip": (0, math.nan)}, "clip must be None or a pair"),
        (
            {"clip": (np.zeros(3), np.ones(3))},
            r"clip must hold numbers, or arrays that broadcast to X of shape \(2, 2\)",
        ),
        ({"scale": [1.0]}, "scale must hold a number for each of the 2 features, got 1"),
        ({"scale": [1.0, -1.0]}, "scale must hold"),
        ({"method": "smoothing"}, "method must be one of .*'crown'.*got 'smoothing'"),
        ({"batch_size": 0}, "batch_size must be an integer >= 1, got 0"),
        ({"time_limit": 0}, "time_limit must be a finite number > 0, got 0"),
        (
            {"X": np.array([[0.0, 2.0], [0.0, 0.0]])},
            r"clip must hold every sample .*X spans \[0, 2\]\. Widen clip=\(0, 1\)",
        ),
        ({"X": np.array([[0.0, math.nan], [0.0, 0.0]])}, "X must be finite"),
        (
            {"y": [0, 2]},
            "y must hold the class of each of the 2 samples, as an integer from 0 to 1",
        ),
        ({"y": [-1, 1]}, "y must hold"),
        ({"y": [0.0, 1.0]}, "y must hold"),
        ({"y": [0]}, "y must hold"),
        ({"module": nn.Unflatten(1, (1, 2))}, r"scores of shape \(n, n_outputs\), got \(1, 1, 2\)"),
    ],
)
def test_bad_parameters_are_refused(changes, message):
    good = {
        "module": dense([2, 3, 1]),
        "X": np.zeros((2, 2)),
        "y": [0, 1],
        "eps": 0.1,
        "clip": (0, 1),
    }
    certified_margins(**good)
    with pytest.raises(ValueError, match=message):
        certified_margins(**{**good, **changes})


@pytest.mark.parametrize("name", ["max_radius", "tol"])
def test_bad_brackets_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be a finite number > 0, got 0"):
        certified_radius(dense([2, 3, 1]), np.zeros((2, 2)), [0, 1], **{name: 0})


@pytest.mark.slow
@pytest.mark.parametrize(("max_radius", "tol"), [(1.0, 1e-300), (1e100, 1e-4)])
def test_brackets_narrower_than_rounding_end(max_radius, tol):
    with torch.no_grad():
        net = dense([1, 1]).double()
        net[0].weight.fill_(3)
        net[0].bias.fill_(0)
    options = {"method": "interval", "max_radius": max_radius, "tol": tol}
    radius = certified_radius(net, [[1.0], [2.0]], [1, 1], **options)
    np.testing.assert_allclose(radius, np.minimum([1.0, 2.0], max_radius), rtol=1e-12, atol=tol)


def test_unsupported_layers_are_named():
    with pytest.raises(TypeError, match="Tanh is not supported"):
        certified_margins(nn.Sequential(nn.Linear(2, 2), nn.Tanh()), np.zeros((1, 2)), [0], eps=0.1)
