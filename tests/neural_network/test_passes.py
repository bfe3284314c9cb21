"""Passes by hand give what autograd gives, and are used only where they hold."""

import math

import pytest
import torch
from torch import nn

from sklearn_robust.neural_network._objective import margin_slopes, soft_margins
from sklearn_robust.neural_network._passes import AutogradPasses, ChainPasses, passes
from sklearn_robust.neural_network.modules import madry_cnn, make_mlp


def chain(*hidden, outputs=1, bias=True, first=()):
    mlp = make_mlp(
        12, outputs, hidden, bias=bias, generator=torch.Generator().manual_seed(0)
    ).double()
    return nn.Sequential(*first, *mlp)


CHAINS = {
    "linear": chain(),
    "one layer": chain(9),
    "no bias": chain(9, bias=False),
    "deep": chain(9, 7, 8, outputs=4),
    "narrow": chain(9, 1, 5, outputs=3),
    "images": chain(9, outputs=3, first=[nn.Flatten()]),
    "no ReLU": nn.Sequential(
        *(part for part in chain(9, 7, outputs=2) if isinstance(part, nn.Linear))
    ),
    "frozen": chain(9, 7),
}
CHAINS["frozen"][0].weight.requires_grad_(False)
CHAINS["frozen"][2].bias.requires_grad_(False)


@pytest.mark.parametrize("module", CHAINS.values(), ids=CHAINS)
def test_gradients_are_those_of_autograd(module):
    by_hand, auto = passes(module), AutogradPasses(module)
    assert isinstance(by_hand, ChainPasses)
    generator = torch.Generator().manual_seed(1)
    for n in (6, 11, 4, 4):  # memory is used again
        x = torch.randn(
            n, *((3, 4) if isinstance(module[0], nn.Flatten) else (12,)), generator=generator
        ).double()
        y = torch.arange(n) % max(module[-1].out_features, 2)
        expected, wanted_gradient = auto.input_gradient(x, lambda f, y=y: margin_slopes(f, y))
        given = x.clone()
        outputs, gradient = by_hand.input_gradient(given, lambda f, y=y: margin_slopes(f, y))
        assert torch.equal(given, x)
        torch.testing.assert_close(outputs, expected)
        torch.testing.assert_close(gradient, wanted_gradient)
        torch.testing.assert_close(by_hand.outputs(x), expected)
        value, _ = auto.parameter_gradients(x, lambda f, y=y: (f, margin_slopes(f, y)))
        torch.testing.assert_close(value, expected)
        wanted = [None if p.grad is None else p.grad.clone() for p in module.parameters()]
        for last in (None, torch.nan):  # gradients are replaced, not added up
            for p in module.parameters():
                p.grad = None if last is None or p.grad is None else torch.full_like(p, last)
            results = by_hand.parameter_gradients(x, lambda f, y=y: (f, margin_slopes(f, y)))
            torch.testing.assert_close(results, (expected, expected))
            for p, gradient in zip(module.parameters(), wanted, strict=True):
                torch.testing.assert_close(p.grad, gradient)


def hooked(module):
    module[0].register_forward_hook(lambda layer, x, out: 2 * out)
    return module


OTHERS = {
    "hook": hooked(chain(5)),
    "weight norm": nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Linear(12, 5)), nn.ReLU(), nn.Linear(5, 1)
    ),
    "other activation": make_mlp(12, 1, (5,), activation="tanh"),
    "first a ReLU": nn.Sequential(nn.ReLU(), nn.Linear(12, 1)),
    "last a ReLU": nn.Sequential(nn.Linear(12, 1), nn.ReLU()),
    "convolutions": madry_cnn((1, 4, 4), 1, channels=(2, 2), width=4),
    "own forward": type("Own", (nn.Sequential,), {"forward": lambda self, x: 2 * self[0](x)})(
        nn.Linear(12, 1)
    ),
    "empty": nn.Sequential(),
}
OTHERS["shared"] = nn.Sequential(
    nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 1)
)
OTHERS["shared"][2].weight = OTHERS["shared"][0].weight


@pytest.mark.parametrize("module", OTHERS.values(), ids=OTHERS)
def test_other_modules_go_by_autograd(module):
    assert isinstance(passes(module), AutogradPasses)


@pytest.mark.parametrize("classes", [2, 5])
def test_slopes_of_the_soft_margin(classes):
    outputs = torch.randn(
        7, 1 if classes == 2 else classes, dtype=torch.float64, requires_grad=True
    )
    y = torch.arange(7) % classes
    (expected,) = torch.autograd.grad(soft_margins(outputs, y).sum(), outputs)
    torch.testing.assert_close(margin_slopes(outputs.detach(), y), expected)
    assert math.isfinite(float(margin_slopes(1e4 * outputs.detach(), y).abs().sum()))
