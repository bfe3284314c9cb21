"""Bounds of single layers against random and extreme points."""

import copy

import pytest
import torch
from torch import nn

from sklearn_robust.verification.layers import Affine, MaxPool, ReLU, read_network


def batch_norm(cls):
    layer = cls(3).eval()
    with torch.no_grad():
        layer.running_mean.copy_(torch.tensor([0.5, -1.0, 2.0]))
        layer.running_var.copy_(torch.tensor([0.5, 2.0, 1.0]))
        layer.weight.copy_(torch.tensor([1.5, -2.0, 0.3]))
        layer.bias.copy_(torch.tensor([0.1, 0.2, -0.3]))
    return layer


IMAGE = (3, 5, 6)
LAYERS = {
    "linear": (lambda: nn.Linear(6, 4), (6,)),
    "linear, no bias": (lambda: nn.Linear(6, 4, bias=False), (6,)),
    "conv": (lambda: nn.Conv2d(3, 4, 3, padding=1, stride=2), IMAGE),
    "grouped, dilated, circular conv": (
        lambda: nn.Conv2d(3, 6, 2, groups=3, dilation=2, padding=1, padding_mode="circular"),
        IMAGE,
    ),
    "average": (lambda: nn.AvgPool2d(3, 2, padding=1, ceil_mode=True), IMAGE),
    "batch norm": (lambda: batch_norm(nn.BatchNorm1d), (3,)),
    "batch norm 2d": (lambda: batch_norm(nn.BatchNorm2d), IMAGE),
    "flatten": (lambda: nn.Flatten(), IMAGE),
    "unflatten": (lambda: nn.Unflatten(1, (2, 3)), (6,)),
    "relu": (lambda: nn.ReLU(), (6,)),
    "pool": (lambda: nn.MaxPool2d(2), IMAGE),
    "overlapping pool": (lambda: nn.MaxPool2d(3, stride=2, padding=1), IMAGE),
    "dilated, oblong pool": (
        lambda: nn.MaxPool2d((2, 3), stride=(1, 2), dilation=(2, 1), padding=(1, 0)),
        IMAGE,
    ),
    "ceiled pool": (lambda: nn.MaxPool2d(2, ceil_mode=True), IMAGE),
}


@pytest.fixture(params=LAYERS, ids=str)
def case(request):
    """The layer, random bounds of its input, and points between them: corners and others."""
    torch.manual_seed(0)
    module, shape = LAYERS[request.param]
    (layer,) = read_network(module().double())
    centre, radius = torch.randn(2, 4, *shape, dtype=torch.float64)
    radius = radius.abs() * torch.tensor([0.0, 0.1, 1.0, 3.0], dtype=torch.float64).view(
        -1, *[1] * len(shape)
    )
    share = torch.rand(300, 1, *shape, dtype=torch.float64) * 2 - 1
    share[:150] = share[:150].sign()
    return layer, centre - radius, centre + radius, centre + share * radius


def test_intervals_contain_every_output(case):
    layer, lower, upper, points = case
    outputs = layer(points.flatten(0, 1)).unflatten(0, points.shape[:2])
    least, largest = layer.interval(lower, upper)
    assert torch.all(outputs >= least - 1e-12)
    assert torch.all(outputs <= largest + 1e-12)


def test_intervals_are_attained(case):
    layer, lower, upper, _ = case
    least, largest = layer.interval(lower, upper)
    if not isinstance(layer, Affine):
        torch.testing.assert_close(layer(lower), least)
        torch.testing.assert_close(layer(upper), largest)
        return
    jacobian = torch.func.vmap(torch.func.jacrev(lambda h: layer(h[None])[0].flatten()))(lower)
    worst = torch.where(jacobian > 0, upper.unsqueeze(1), lower.unsqueeze(1))  # (n, units, *shape)
    highest = torch.stack([layer(rows).flatten(1).diagonal() for rows in worst])
    torch.testing.assert_close(highest, largest.flatten(1))


@pytest.mark.parametrize("shared", [True, False])
def test_linear_bounds_hold(case, shared):
    layer, lower, upper, points = case
    outputs = layer(points.flatten(0, 1)).unflatten(0, points.shape[:2]).flatten(2)
    coef = torch.randn(1 if shared else 4, 7, *layer(lower).shape[1:], dtype=torch.float64)
    constant = torch.randn(len(coef), 7, dtype=torch.float64)
    moved, offset = layer.backward(coef, constant, lower, upper)
    value = torch.einsum("nsd,mnd->mns", coef.flatten(2).expand(4, -1, -1), outputs) + constant
    bound = (
        torch.einsum("nsd,mnd->mns", moved.flatten(2).expand(4, -1, -1), points.flatten(2)) + offset
    )
    assert torch.all(value >= bound - 1e-11)
    torch.testing.assert_close(value[:, 0], bound[:, 0])  # exact where the input is known
    if isinstance(layer, Affine):
        torch.testing.assert_close(value, bound)


def test_the_chord_and_the_adaptive_line():
    lower, upper = (
        torch.tensor([[-1.0, -1.0, 1.0, -2.0, 0.0]]),
        torch.tensor([[3.0, 0.5, 2.0, -1.0, 0.0]]),
    )
    coef, constant = ReLU().backward(-torch.ones(1, 1, 5), torch.zeros(1, 1), lower, upper)
    torch.testing.assert_close(coef[0, 0], -torch.tensor([3 / 4, 1 / 3, 1, 0, 0]))
    torch.testing.assert_close(constant[0, 0], -torch.tensor(3 / 4 + 1 / 3))
    coef, constant = ReLU().backward(torch.ones(1, 1, 5), torch.zeros(1, 1), lower, upper)
    torch.testing.assert_close(coef[0, 0], torch.tensor([1.0, 0, 1, 0, 0]))
    assert constant == 0


@pytest.mark.parametrize(
    "upper", [[0.9, 2.0, 0.5, 0.0], [0.9, 2.0, 1.1, 0.0], [0.9, 1.0, 1.1, 0.0]], ids=str
)
def test_a_window_with_one_dominating_entry_is_linear(upper):
    lower, upper = (
        torch.tensor([0.0, 1.0, -1.0, -1.0]).view(1, 1, 2, 2),
        torch.tensor(upper).view(1, 1, 2, 2),
    )
    coef, constant = MaxPool(nn.MaxPool2d(2)).backward(
        -torch.ones(1, 1, 1, 1, 1), torch.zeros(1, 1), lower, upper
    )
    dominates = upper[0, 0, 1, 0] < 1  # no other entry can exceed the second one
    torch.testing.assert_close(
        coef.flatten(), torch.tensor([0.0, -1, 0, 0]) if dominates else torch.zeros(4)
    )
    assert constant == (0 if dominates else -upper.max())


def test_networks_are_read_in_order_and_rows_of_affine_layers_joined():
    module = nn.Sequential(
        nn.Sequential(
            nn.Unflatten(1, (1, 4, 4)),
            nn.Conv2d(1, 3, 3),
            batch_norm(nn.BatchNorm2d),
            nn.Identity(),
            nn.ReLU(),
        ),
        nn.Sequential(nn.MaxPool2d(2), nn.ReLU(), nn.Dropout()),
        nn.Flatten(),
        nn.Linear(3, 2),
    ).eval()
    layers = read_network(module)
    assert [type(layer) for layer in layers] == [Affine, ReLU, MaxPool, ReLU, Affine]
    x = torch.randn(5, 16)
    h = x.double()
    for layer in layers:
        h = layer(h)
    torch.testing.assert_close(h.float(), module(x))


def test_the_module_is_left_as_it_is():
    module = nn.Sequential(
        nn.Conv2d(1, 3, 2),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(),
        nn.Linear(12, 2),
    )
    module(torch.randn(4, 1, 3, 3)).sum().backward()
    before = copy.deepcopy(module.state_dict())
    layers = read_network(module)
    layers[0].backward(
        torch.ones(1, 1, 3, 2, 2).double(), torch.zeros(1, 1), *torch.zeros(2, 1, 1, 3, 3).double()
    )
    layers[0].interval(*torch.zeros(2, 1, 1, 3, 3).double())
    assert all(part.training for part in module.modules())
    assert all(
        p.dtype == torch.float32 and p.requires_grad and p.grad is not None
        for p in module.parameters()
    )
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name])


class Residual(nn.Sequential):
    def forward(self, x):
        return x + super().forward(x)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Sigmoid(),
        nn.LeakyReLU(),
        nn.MultiheadAttention(4, 1),
        nn.LazyLinear(2),
        nn.Conv1d(1, 1, 1),
    ],
)
def test_unsupported_layers_are_named(layer):
    with pytest.raises(
        TypeError,
        match=(
            rf"Layer '1\.0': {type(layer).__name__} is not supported.*Supported are Sequential, "
            rf"Linear.*ReLU"
        ),
    ):
        read_network(nn.Sequential(nn.Linear(4, 4), nn.Sequential(layer)))


def test_batch_norm_that_mixes_samples_is_refused():
    with pytest.raises(
        TypeError, match=r"BatchNorm1d without running statistics.*track_running_stats=True"
    ):
        read_network(nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False)))
