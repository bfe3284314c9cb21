"""What a certificate is computed from: the weights that a module applies, as it runs; or it is
refused by name."""

import copy
import functools
import math
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from sklearn_robust.regions import Region
from sklearn_robust.verification import certified_margins, certified_radius
from sklearn_robust.verification.bounds import input_bounds, output_rounding
from sklearn_robust.verification.layers import Affine, read_network

METHODS = ["interval", "crown-ibp", "crown", "exact"]


def one_unit():
    """max(x, 0) - 0.9: at x = 1 the worst margin for eps = 0.5 is -0.4."""
    net = nn.Sequential(nn.Linear(1, 1, bias=False), nn.ReLU(), nn.Linear(1, 1)).double()
    with torch.no_grad():
        for parameter, value in zip(net.parameters(), (1.0, 1.0, -0.9), strict=True):
            parameter.fill_(value)
    return net


def old(name, layer, **options):
    """A reparametrisation by hooks, which torch deprecates."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return getattr(nn.utils, name)(layer, **options)


def add(value):
    def hook(module, args, *outputs):
        return outputs[0] + value if outputs else (args[0] + value,)

    return hook


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


class Backwards(nn.Sequential):
    def __iter__(self):
        return reversed(list(super().__iter__()))


class Half(nn.Module):
    def forward(self, weight):
        return weight / 2


def alter(net, how):
    """Change what the first layer of a network computes; returns the network and the cause that is
    named."""
    layer = net[0]
    if how == "forward hook":
        layer.register_forward_hook(add(-1.0))
    elif how == "forward pre hook":
        layer.register_forward_pre_hook(add(-1.0))
    elif how == "hook of the container":
        net.register_forward_hook(add(-1.0))
    elif how == "pruned":
        prune.identity(layer, "weight")
    elif how == "pruned to nothing":
        prune.l1_unstructured(layer, "weight", amount=1.0)
    elif how == "pruned and called":
        prune.random_unstructured(layer, "weight", amount=0.5)
        net.eval()(torch.zeros(2, layer.in_features).to(layer.weight_orig))
    elif how in ("weight_norm", "spectral_norm"):
        old(how, layer)
    elif how == "a forward of its own":
        net[0] = Doubled(layer.in_features, layer.out_features, bias=layer.bias is not None).to(
            layer.weight
        )
    elif how == "a forward on the instance":
        layer.forward = functools.partial(torch.add, torch.ones(1))
    elif how == "a parameter":
        layer.register_parameter("gain", nn.Parameter(torch.ones(1)))
    elif how == "a weight that is no parameter":
        weight = layer.weight.detach().clone()
        del layer.weight
        layer.weight = weight
    return net


ALTERED = {
    "forward hook": r"Layer '0': Linear has a forward hook \(hook\)",
    "forward pre hook": r"Layer '0': Linear has a forward hook \(hook\)",
    "hook of the container": r"Sequential has a forward hook",
    "pruned": r"Layer '0': Linear has a forward hook \(Identity\).*prune\.remove",
    "pruned to nothing": r"Layer '0': Linear has a forward hook \(L1Unstructured\)",
    "pruned and called": r"Layer '0': Linear has a forward hook \(RandomUnstructured\)",
    "weight_norm": r"Layer '0': Linear has a forward hook \(WeightNorm\)",
    "spectral_norm": r"Layer '0': Linear has a forward hook \(SpectralNorm\)",
    "a forward of its own": r"Layer '0': Doubled is not supported",
    "a forward on the instance": r"Layer '0': Linear has a forward of its own",
    "a parameter": r"Layer '0': Linear has parameters that are not known.*\['gain'\]",
    "a weight that is no parameter": r"Layer '0': Linear .*\['weight'\]",
}


@pytest.mark.parametrize("how", ALTERED)
@pytest.mark.parametrize("method", METHODS)
def test_what_may_change_a_layer_is_refused_by_name(how, method):
    with pytest.raises(TypeError, match=ALTERED[how]):
        certified_margins(alter(one_unit(), how), [[1.0]], [1], eps=0.5, method=method)


def test_containers_that_compute_otherwise_are_refused():
    with pytest.raises(TypeError, match="Backwards has a __iter__ of its own"):
        certified_margins(Backwards(nn.Linear(2, 2), nn.ReLU()), [[1.0, 1.0]], [1], eps=0.5)
    handle = nn.modules.module.register_module_forward_hook(lambda *args: None)
    try:
        with pytest.raises(TypeError, match="Sequential has a forward hook on all modules"):
            certified_margins(one_unit(), [[1.0]], [1], eps=0.5)
    finally:
        handle.remove()


@pytest.mark.parametrize("method", METHODS)
def test_pruning_made_permanent_is_certified(method):
    net = one_unit()
    for layer in (net[0], net[2]):
        prune.identity(layer, "weight")
        prune.remove(layer, "weight")
    np.testing.assert_allclose(
        certified_margins(net, [[1.0]], [1], eps=0.5, method=method), [-0.4], atol=1e-5
    )


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("form", ["weight_norm", "spectral_norm", "orthogonal", "half"])
def test_parametrised_weights_are_those_that_the_layer_applies(form, method):
    torch.manual_seed(0)
    plain, net = (
        nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2)).double() for _ in range(2)
    )
    for layer in (net[0], net[2]):
        if form == "half":
            parametrize.register_parametrization(layer, "weight", Half())
        else:
            getattr(parametrizations, form)(layer, "weight")
    net.eval()
    with torch.no_grad():
        for mine, layer in ((plain[0], net[0]), (plain[2], net[2])):
            mine.weight.copy_(layer.weight)
            mine.bias.copy_(layer.bias)
    X, y = np.random.default_rng(0).standard_normal((6, 3)), [0, 1] * 3
    state = copy.deepcopy(net.state_dict())
    expected = certified_margins(plain, X, y, eps=0.2, method=method)
    np.testing.assert_allclose(
        certified_margins(net.train(), X, y, eps=0.2, method=method), expected, atol=1e-12
    )
    assert net.training
    assert parametrize.is_parametrized(net[0], "weight")
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())


def test_scores_that_the_layers_do_not_give_are_refused():
    class Unsteady(nn.Module):
        def forward(self, weight):
            return weight * torch.rand(())

    net = one_unit()
    parametrize.register_parametrization(net[0], "weight", Unsteady())
    with pytest.raises(TypeError, match="Sequential does not compute what its layers say"):
        certified_margins(net, [[1.0]], [1], eps=0.5)


# --- rounding


def random_module(seed):
    """A network of random layers, some altered; inputs, labels, and the number of its inputs."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    n_in, width, n_outputs = (int(rng.integers(1, 6)) for _ in range(3))
    layers = [nn.Linear(n_in, width, bias=bool(rng.integers(2)))]
    if rng.integers(2):
        layers += [nn.BatchNorm1d(width, affine=bool(rng.integers(2)))]
    layers += [[nn.ReLU()], [nn.ReLU(), nn.Dropout(0.5)], []][rng.integers(3)]
    if rng.integers(2):
        layers += [nn.Sequential(nn.Linear(width, width), nn.ReLU())]
    net = nn.Sequential(*layers, nn.Linear(width, n_outputs))
    for part in net.modules():
        if isinstance(part, nn.BatchNorm1d):
            part.running_mean.normal_()
            part.running_var.uniform_(0.1, 3)
        part.register_buffer("counter", torch.tensor(seed))
    form = rng.integers(6)
    if form == 1:
        parametrizations.weight_norm(net[0])
    elif form == 2:
        parametrizations.spectral_norm(net[-1])
    elif form == 3:
        net = alter(net, list(ALTERED)[rng.integers(len(ALTERED))])
    elif form == 4:
        prune.random_unstructured(net[0], "weight", amount=0.5)
        if rng.integers(2):
            prune.remove(net[0], "weight")
    if rng.integers(2):
        net = net.double()
    return (
        net,
        rng.standard_normal((4, n_in)) * 10.0 ** rng.integers(-1, 2),
        rng.integers(max(n_outputs, 2), size=4),
    )


def margins_as_it_runs(net, points, y):
    """In the type of the network."""
    like = next(net.parameters())
    with torch.no_grad():
        scores = net.eval()(torch.as_tensor(points).to(like)).double().numpy()
    if scores.shape[1] == 1:
        return scores[:, 0] * (2 * y - 1)
    rivals = np.where(np.arange(scores.shape[1]) == y[:, None], -np.inf, scores)
    return scores[np.arange(len(y)), y] - rivals.max(axis=1)


@pytest.mark.slow
def test_random_modules_are_refused_or_never_certified_beyond_their_worst_point():
    refused = 0
    for seed in range(20):
        net, X, y = random_module(seed)
        rng = np.random.default_rng(seed)
        eps, q = rng.choice([0.0, 1e-3, 0.1, 1.0]), rng.choice([1, 2, math.inf])
        try:
            proved = {
                method: certified_margins(net, X, y, eps=eps, q=q, method=method)
                for method in METHODS[:3]
            }
        except TypeError:
            refused += 1
            continue
        moves = (
            rng.standard_normal((200, *X.shape)) if q == 2 else rng.laplace(size=(200, *X.shape))
        )
        moves = (
            np.sign(moves)
            if q == math.inf
            else moves / np.linalg.norm(moves, q, axis=2, keepdims=True)
        )
        points = X + eps * moves * rng.choice([0.0, 0.5, 1.0], size=(200, 1, 1))
        found = np.min([margins_as_it_runs(net, part, y) for part in points], axis=0)
        for method, margins in proved.items():
            assert np.all(margins <= found), (seed, method, margins - found)
    assert 0 < refused < 10


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rounding_of_a_network_is_within_what_is_charged(dtype):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(200, 150),
        nn.BatchNorm1d(150),
        nn.ReLU(),
        nn.Linear(150, 100),
        nn.ReLU(),
        nn.Linear(100, 3),
    )
    net = net.to(dtype).eval()
    x = 100 + torch.randn(50, 200, dtype=torch.float64)
    layers = read_network(net)
    region = Region(x, 2, 0.0)
    charged = output_rounding(layers, input_bounds(layers, region, linear=False))
    exact = x
    for layer in layers:
        exact = layer(exact)
    with torch.no_grad():
        moved = (net(x.to(dtype)).double() - exact).abs()
    assert torch.all(moved <= charged)
    assert float(charged.max()) < {torch.float32: 1.0, torch.float64: 1e-8}[dtype]
    first = layers[0]
    assert isinstance(first, Affine)
    assert first.terms == 200 + 4 + 8


def test_a_margin_that_rounding_decides_is_not_certified():
    """x - x + 0.001 in float32, where x has a last digit of 2."""
    net = nn.Linear(2, 1)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[1.0, 1.0]]))
        net.bias.fill_(1e-3)
    X = np.array([[3e7, -3e7]])
    for method in METHODS:
        assert (
            certified_margins(net, X, [1], eps=0.0, method=method)
            < 0
            < certified_margins(net.double(), X, [1], eps=0.0)
        )
        net.float()
    assert certified_radius(net, X, [1]) == 0


@pytest.mark.parametrize("eps", [True, [True], "0.1", ["a"], None, 1j, math.nan])
def test_radii_that_are_no_numbers_are_refused(eps):
    with pytest.raises(
        ValueError, match="eps must be a finite number >= 0, or one for each of the 1 samples"
    ):
        certified_margins(one_unit(), [[1.0]], [1], eps=eps)
