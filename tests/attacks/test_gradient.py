"""Attacks by gradients against closed forms, brute force and what their documentation says."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC

from sklearn_robust.attacks import apgd, pgd, projected_ascent, square
from sklearn_robust.attacks.linear import robust_margins
from sklearn_robust.attacks.losses import logit_margins
from sklearn_robust.threats import LpBall

QS = [1, 2, math.inf]


def linear_module(n_outputs, d, *, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    module = torch.nn.Linear(d, n_outputs, dtype=dtype)
    module.weight.data = torch.randn(n_outputs, d, generator=generator, dtype=dtype)
    module.bias.data = torch.randn(n_outputs, generator=generator, dtype=dtype)
    return module


def relu_net(d, n_outputs, *, width=8, seed=0, dtype=torch.float64):
    first, last = (
        linear_module(width, d, seed=seed, dtype=dtype),
        linear_module(n_outputs, width, seed=seed + 1, dtype=dtype),
    )
    return torch.nn.Sequential(first, torch.nn.ReLU(), last)


def margins(module, X, y):
    with torch.no_grad():
        return logit_margins(module(torch.as_tensor(X)), torch.as_tensor(y)).numpy()


ASCENTS = {pgd: {"n_steps": 40, "step_size": 0.3}, apgd: {"n_steps": 60}}


@pytest.mark.slow
@pytest.mark.pairwise
@pytest.mark.parametrize("attack", ASCENTS)
@pytest.mark.parametrize("q", QS)
@pytest.mark.parametrize(
    ("n_outputs", "loss", "random_start"),
    [(1, "margin", True), (1, "cross_entropy", False), (2, "dlr", False), (4, "margin", True)],
)
def test_linear_modules_are_solved(attack, q, n_outputs, loss, random_start):
    module = linear_module(n_outputs, 6)
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(30, 6)), rng.integers(max(n_outputs, 2), size=30)
    start = {"random_start": random_start, "random_state": 0}
    points = attack(
        module,
        X,
        y,
        eps=0.3,
        q=q,
        loss=loss,
        n_targets=3,
        stop_when_broken=False,
        **start,
        **ASCENTS[attack],
    )
    coef, intercept = module.weight.detach().numpy(), module.bias.detach().numpy()
    exact = robust_margins(X, y, coef, intercept, LpBall(q, 0.3))
    np.testing.assert_allclose(margins(module, points, y), exact, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("attack", "q"), [(pgd, 1), (pgd, 2), (apgd, 1), (apgd, math.inf)])
def test_linear_modules_are_solved_in_a_box(attack, q):
    """The exact worst case of the estimator with the same scores."""
    rng = np.random.default_rng(1)
    X, y = rng.uniform(size=(30, 8)), rng.integers(3, size=30)
    model = LogisticRegression(C=100).fit(X, y)
    module = linear_module(3, 8)
    module.weight.data, module.bias.data = (
        torch.as_tensor(model.coef_),
        torch.as_tensor(model.intercept_),
    )
    clip = (np.zeros(8), np.linspace(1, 2, 8))
    # l1 steps this long would circle around the corner
    long = {"step_size": 0.3} if attack is pgd and q == 2 else {}
    exact = margins(module, attack(model, X, y, eps=0.7, q=q, clip=clip), y)
    found = attack(
        module,
        X,
        y,
        eps=0.7,
        q=q,
        clip=clip,
        n_targets=2,
        stop_when_broken=False,
        n_steps=200,
        **long,
    )
    np.testing.assert_allclose(margins(module, found, y), exact, atol=1e-5)
    assert np.all(
        exact >= robust_margins(X, y, model.coef_, model.intercept_, LpBall(q, 0.7)) - 1e-12
    )


@pytest.mark.parametrize("q", [1, 2, 3, math.inf])
def test_linear_estimators_get_their_exact_worst_case(q):
    rng = np.random.default_rng(2)
    X, y = rng.normal(size=(50, 4)), rng.choice(["a", "b", "c"], size=50)
    for keep in (y != "c", y != "d"):  # two classes, then three
        model = LogisticRegression().fit(X[keep], y[keep])
        index = np.searchsorted(model.classes_, y[keep])
        exact = robust_margins(X[keep], index, model.coef_, model.intercept_, LpBall(q, 0.4))
        moved = pgd(model, X[keep], y[keep], eps=0.4, q=q)
        found = robust_margins(moved, index, model.coef_, model.intercept_, LpBall(q, 0.0))
        np.testing.assert_allclose(found, exact, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("q", QS)
@pytest.mark.parametrize(("attack", "n_outputs", "clip"), [(pgd, 1, (-1.0, 1.0)), (apgd, 3, None)])
def test_brute_force_in_the_plane(attack, q, n_outputs, clip):
    net = relu_net(2, n_outputs)
    rng = np.random.default_rng(3)
    X, y = rng.uniform(-1, 1, (20, 2)), rng.integers(max(n_outputs, 2), size=20)
    side = np.linspace(-1, 1, 81)
    grid = 0.5 * np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)
    grid = grid[np.linalg.norm(grid, q, axis=1) <= 0.5]
    found = attack(
        net,
        X,
        y,
        eps=0.5,
        q=q,
        clip=clip,
        n_steps=30,
        n_restarts=8,
        n_targets=2,
        stop_when_broken=False,
        random_state=0,
    )
    gaps = []
    for x, label, margin in zip(X, y, margins(net, found, y), strict=True):
        around = x + grid
        if clip is not None:
            around = around[(np.abs(around) <= 1).all(1)]
        gaps.append(margin - margins(net, around, np.full(len(around), label)).min())
    assert min(gaps) >= -0.1  # the grid is 0.0125 wide
    assert sorted(gaps)[-2] <= 0.01  # one of the 20 may end at a local maximum


SETTINGS = {pgd: {"n_steps": 4}, apgd: {"n_steps": 6}, square: {"n_queries": 8}}


@pytest.mark.slow
@pytest.mark.parametrize("attack", SETTINGS)
@pytest.mark.parametrize("q", QS)
@given(
    seed=st.integers(0, 10**6),
    eps=st.floats(0, 3),
    image=st.booleans(),
    single=st.booleans(),
    box=st.booleans(),
)
@settings(max_examples=5, deadline=None)
def test_points_stay_in_the_ball_and_the_box(attack, q, seed, eps, image, single, box):
    rng = np.random.default_rng(seed)
    X = np.clip(rng.uniform(-0.3, 1.3, (4, 2, 3, 3) if image else (4, 18)), 0, 1)
    X = X.astype(np.float32 if single else np.float64)
    net = torch.nn.Sequential(
        torch.nn.Flatten(), relu_net(18, 3, seed=seed % 7, dtype=torch.float32)
    )
    y = rng.integers(3, size=4)
    more = SETTINGS[attack] | ({} if attack is square else {"n_restarts": 2})
    points = attack(
        net,
        X,
        y,
        eps=eps,
        q=q,
        clip=(0, 1) if box else None,
        random_state=seed,
        stop_when_broken=False,
        **more,
    )
    assert points.shape == X.shape
    assert points.dtype == X.dtype
    if box:
        assert points.min() >= 0
        assert points.max() <= 1
    size = np.linalg.norm((points.astype(float) - X.astype(float)).reshape(4, -1), q, axis=1)
    assert np.all(size <= eps * (1 + 1e-6) + 1e-44)


@pytest.mark.slow
@pytest.mark.pairwise
@pytest.mark.parametrize("attack", SETTINGS)
@pytest.mark.parametrize("q", QS)
@pytest.mark.parametrize("stop_when_broken", [True, False])
def test_batches_and_seeds(attack, q, stop_when_broken, digits):
    net, X, y = digits
    before = torch.get_rng_state()
    more = SETTINGS[attack] | ({} if attack is square else {"n_restarts": 2, "random_start": True})
    eps = {1: 3.0, 2: 0.7, math.inf: 0.1}[q]

    def run(batch_size, seed):
        kwargs = {"eps": eps, "q": q, "clip": (0, 1), "stop_when_broken": stop_when_broken}
        return attack(
            net, X[:20], y[:20], batch_size=batch_size, random_state=seed, **kwargs, **more
        )

    whole = run(None, 0)
    np.testing.assert_allclose(run(7, 0), whole, atol=1e-9)
    np.testing.assert_array_equal(run(None, 0), whole)
    assert not np.array_equal(run(None, 1), whole)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.slow
@pytest.mark.parametrize("attack", SETTINGS)
def test_the_module_is_left_as_it_was(attack):
    net = torch.nn.Sequential(
        torch.nn.Linear(4, 5), torch.nn.BatchNorm1d(5), torch.nn.Dropout(), torch.nn.Linear(5, 2)
    )
    net[2].eval()
    net[0].bias.requires_grad_(False)
    state, modes = copy.deepcopy(net.state_dict()), [m.training for m in net.modules()]
    attack(net, np.random.default_rng(0).normal(size=(6, 4)), np.arange(6) % 2, eps=0.1)
    assert all(torch.equal(state[name], value) for name, value in net.state_dict().items())
    assert [m.training for m in net.modules()] == modes == [True, True, True, False, True]
    assert [p.requires_grad for p in net.parameters()] == [True, False, True, True, True, True]
    assert all(p.grad is None for p in net.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("attack", SETTINGS)
def test_tensors_and_arrays(attack):
    net = relu_net(3, 1, dtype=torch.float32)
    X, y = np.random.default_rng(0).normal(size=(5, 3)), [0, 1, 1, 0, 1]
    given_y = torch.tensor(y)
    X.flags.writeable = False
    options = SETTINGS[attack] | {"eps": 0.2, "random_state": 0}
    array = attack(net, X, y, **options)
    tensor = attack(net, torch.tensor(X), given_y, **options)
    single = attack(net, X.astype(np.float32), y, **options)
    assert isinstance(array, np.ndarray)
    assert array.dtype == np.float64
    assert tensor.dtype == torch.float64
    assert not tensor.requires_grad
    assert single.dtype == np.float32
    np.testing.assert_array_equal(array, tensor.numpy())
    np.testing.assert_allclose(array, single, atol=1e-6)


@pytest.mark.parametrize("given", [np.int64, np.int32, np.uint8, bool])
def test_integers_are_attacked_in_the_type_of_the_model(given):
    rng = np.random.default_rng(0)
    X = rng.integers(0, 2, size=(30, 4)).astype(given)
    y = (X[:, 0] + 2 * X[:, 1].astype(int) + rng.integers(2, size=30) > 1).astype(int)
    model = LogisticRegression().fit(X, y)
    moved = pgd(model, X, y, eps=0.1)
    assert moved.dtype == np.float64
    np.testing.assert_array_equal(moved, pgd(model, X.astype(float), y, eps=0.1))
    assert pgd(model, torch.as_tensor(X), y, eps=0.1).dtype == torch.float64
    for dtype in (torch.float32, torch.float64):
        assert pgd(relu_net(4, 2, dtype=dtype), torch.as_tensor(X), y, eps=0.1).dtype == dtype


def test_random_search_is_not_exact_on_linear_classifiers():
    rng = np.random.default_rng(2)
    X = rng.normal(size=(50, 4))
    y = (X[:, 0] > 0).astype(int)
    model = LogisticRegression().fit(X, y)
    worst = {}
    for attack in (pgd, apgd, square):
        options = (
            {"n_queries": 20, "random_state": 0, "stop_when_broken": False}
            if attack is square
            else {}
        )
        moved = attack(model, X, y, eps=0.4, q=2, **options)
        worst[attack] = np.where(y, 1, -1) * model.decision_function(moved)
    np.testing.assert_array_equal(worst[pgd], worst[apgd])
    assert np.all(worst[square] >= worst[pgd] - 1e-12)
    assert worst[square].mean() > worst[pgd].mean() + 1e-3


@pytest.mark.parametrize("attack", [pgd, apgd, square, "linear"])
def test_exponents_and_boxes_of_the_wrong_kind_are_named(attack):
    X, y = np.random.default_rng(0).normal(size=(20, 4)), [0, 1] * 10
    model = relu_net(4, 2)
    if attack == "linear":
        model, attack = LogisticRegression().fit(X, y), pgd
    for q in ("two", None, True, 0.5, math.nan, [2]):
        with pytest.raises(ValueError, match=r"q must be a real number in \[1, inf\], got"):
            attack(model, X, y, eps=0.1, q=q)
    for clip in (
        3,
        "ab",
        (0,),
        (0, None),
        (0, math.nan),
        (1, 0),
        (np.zeros(4), "a"),
        (-9, np.zeros(4) - 10),
    ):
        with pytest.raises(ValueError, match="clip must be None or a pair"):
            attack(model, X, y, eps=0.1, clip=clip)
    with pytest.raises(
        ValueError,
        match=r"clip must hold numbers, or arrays that broadcast to X of shape \(20, 4\)",
    ):
        attack(model, X, y, eps=0.1, clip=(np.zeros(3) - 9, np.zeros(3) + 9))


def test_estimators_with_a_module_use_their_own_labels():
    class Fitted:
        module_, classes_ = relu_net(3, 3), np.array(["ant", "bee", "cat"])

    X, y = np.random.default_rng(0).normal(size=(9, 3)), np.arange(9) % 3
    np.testing.assert_array_equal(
        pgd(Fitted(), X, Fitted.classes_[y], eps=0.2), pgd(Fitted.module_, X, y, eps=0.2)
    )


def test_the_best_iterate_is_kept_and_broken_samples_are_left_alone(digits):
    net, X, y = digits
    wild = {"eps": 0.1, "clip": (0, 1), "step_size": 0.2, "n_steps": 9}  # overshoots
    last = projected_ascent(
        lambda x: -logit_margins(net(x), torch.as_tensor(y)), torch.as_tensor(X), q=math.inf, **wild
    )
    best = margins(net, pgd(net, X, y, stop_when_broken=False, **wild), y)
    assert np.all(best <= margins(net, last, y))
    first = margins(net, pgd(net, X, y, **wild), y)
    np.testing.assert_array_equal(first <= 0, best <= 0)
    assert np.any(first > best)
    wrong = (y + 1) % 10
    np.testing.assert_array_equal(pgd(net, X, wrong, **wild), X)


def test_a_step_is_one_forward_and_one_backward_pass_to_the_input():
    calls, weight = (
        [],
        torch.nn.Parameter(torch.randn(3, generator=torch.Generator().manual_seed(0))),
    )

    def objective(x):
        calls.append(x.shape)
        return (x * weight).sum((1, 2))

    with torch.no_grad():  # as a caller may be
        moved = projected_ascent(objective, torch.zeros(2, 4, 3), q=2, eps=1.0, n_steps=7)
    assert calls == [(2, 4, 3)] * 7
    assert weight.grad is None
    assert weight.requires_grad
    assert not moved.requires_grad
    torch.testing.assert_close(moved, (weight / (weight.norm() * 2)).detach().expand(2, 4, 3))


def test_random_starts_follow_the_generator():
    def flat(x):
        return 0 * x.sum(1)

    def run(seed):
        generator = torch.Generator().manual_seed(seed)
        return projected_ascent(
            flat, torch.zeros(3, 5), q=2, eps=1.0, random_start=True, generator=generator
        )

    assert torch.equal(run(0), run(0))
    assert not torch.equal(run(0), run(1))


def test_messages():
    net, X = relu_net(3, 3), np.zeros((2, 3))
    with pytest.raises(ValueError, match="loss must be one of"):
        pgd(net, X, [0, 1], eps=0.1, loss="hinge")
    with pytest.raises(ValueError, match="eps must be a finite number >= 0"):
        pgd(net, X, [0, 1], eps=-0.1)
    with pytest.raises(ValueError, match="y must hold class indices"):
        pgd(net, X, [-1, 1], eps=0.1)
    with pytest.raises(ValueError, match="y must be below"):
        pgd(net, X, [0, 3], eps=0.1)
    with pytest.raises(ValueError, match="X and y must have"):
        pgd(net, X, [0, 1, 2], eps=0.1)
    with pytest.raises(ValueError, match="n_steps must be an integer >= 1"):
        apgd(net, X, [0, 1], eps=0.1, n_steps=0)
    with pytest.raises(ValueError, match="n_restarts must be an integer >= 1"):
        apgd(net, X, [0, 1], eps=0.1, n_restarts=0)
    with pytest.raises(TypeError, match="cannot be attacked"):
        pgd("a network", X, [0, 1], eps=0.1)
    with pytest.raises(TypeError, match="has no input gradient"):
        pgd(lambda X: X, X, [0, 1], eps=0.1)
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(30, 3)), np.arange(30) % 3
    with pytest.raises(TypeError, match="does not score by"):
        pgd(SVC(kernel="linear").fit(X, y), X, y, eps=0.1)
    with pytest.raises(ValueError, match="y holds labels that were not seen in fit"):
        pgd(LogisticRegression().fit(X, y), X, y + 1, eps=0.1)


@pytest.mark.parametrize("attack", [pgd, apgd, square])
@pytest.mark.parametrize("q", [0.5, "inf", True, None, 10**400])
def test_exponents_are_named(attack, q):
    with pytest.raises(
        ValueError, match=r"q must be a real number in \[1, inf\], got .*Use numpy.inf"
    ):
        attack(linear_module(2, 3), np.zeros((2, 3)), [0, 1], eps=0.1, q=q)
