"""The mathematics of one step: the log-risk and its gradient, the inner maximisation, the step
rule."""

import math

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sklearn_robust.neural_network import SteepestDescent
from sklearn_robust.neural_network._inner_maximisation import InnerMaximisation, Samples
from sklearn_robust.neural_network._objective import (
    NETWORK_LOSSES,
    log_risk_and_slopes,
    soft_margins,
)
from sklearn_robust.neural_network._optimizer import step_size_rule
from sklearn_robust.neural_network._passes import AutogradPasses, passes
from sklearn_robust.neural_network._training import Trainer, margin_units, merged
from sklearn_robust.neural_network.modules import homogeneity, make_mlp
from sklearn_robust.norms import LpNorm
from sklearn_robust.regions import Region


def seeded():
    return torch.Generator().manual_seed(0)


def samples(x, y, q=math.inf, eps=0.1, clip=None, weight=None):
    weight = torch.ones(len(x), dtype=x.dtype) if weight is None else weight
    return Samples(x, y, weight, Region(x, q, eps, clip))


def trainer(network, *, kind=passes, loss="logistic", lr=0.01, attack=None, **options):
    optimizer = options.pop("optimizer", None) or SteepestDescent(network.parameters(), lr=lr)
    attack = attack or InnerMaximisation()
    return Trainer(kind(network), optimizer, attack, NETWORK_LOSSES[loss], seeded(), **options)


def draw(n=12, d=5, classes=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64)
    y = torch.arange(n) % classes
    network = make_mlp(d, 1 if classes == 2 else classes, (7,), generator=generator).double()
    return network, x, y


@pytest.mark.parametrize("loss", ["exponential", "logistic"])
def test_losses_of_the_margin_are_the_known_ones(loss):
    network, x, y = draw(classes=3)
    outputs, weight = network(x).detach().requires_grad_(), torch.ones(12, dtype=torch.float64)
    value, slopes = log_risk_and_slopes(NETWORK_LOSSES[loss], outputs.detach(), y, weight)
    if loss == "logistic":
        expected = torch.nn.functional.cross_entropy(outputs, y)
    else:
        leads = outputs.gather(1, y[:, None]) - outputs
        expected = (torch.exp(-leads).sum(dim=1) - 1).mean()
    assert float(value) == pytest.approx(math.log(float(expected.detach())))
    (gradient,) = torch.autograd.grad(expected.log(), outputs)
    torch.testing.assert_close(slopes, gradient)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("loss", ["exponential", "logistic"])
def test_gradient_of_the_log_risk_against_finite_differences(classes, loss):
    network, x, y = draw(classes=classes)
    weight = torch.linspace(0.5, 2, 12, dtype=torch.float64)
    parameter = network[0].weight

    def log_risk():
        return float(log_risk_and_slopes(NETWORK_LOSSES[loss], network(x).detach(), y, weight)[0])

    passes(network).parameter_gradients(
        x, lambda f: log_risk_and_slopes(NETWORK_LOSSES[loss], f, y, weight)
    )
    gradient, base = parameter.grad.clone(), parameter.detach().clone()
    direction = torch.randn(
        base.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    values = []
    for step in (1e-6, -1e-6):
        parameter.data = base + step * direction
        values.append(log_risk())
    assert (values[0] - values[1]) / 2e-6 == pytest.approx(
        float((gradient * direction).sum()), rel=1e-6
    )


@pytest.mark.parametrize("loss", ["exponential", "logistic"])
def test_nothing_underflows_where_the_risk_does(loss):
    outputs = torch.tensor([[3000.0], [3001.0]])
    value, slopes = log_risk_and_slopes(
        NETWORK_LOSSES[loss], outputs, torch.tensor([1, 1]), torch.ones(2)
    )
    assert float(value) == pytest.approx(-3000 + math.log((1 + math.exp(-1)) / 2), abs=1e-3)
    torch.testing.assert_close(
        slopes[:, 0], -torch.softmax(torch.tensor([0.0, -1.0]), 0), rtol=1e-3, atol=0
    )


@pytest.mark.parametrize("q", [1, 2, math.inf])
def test_inner_maximisation_of_a_linear_module_is_its_closed_form(q):
    network = make_mlp(5, 1, (), generator=torch.Generator().manual_seed(0)).double()
    _, x, y = draw()
    worst, clean = InnerMaximisation(30)(passes(network), samples(x, y, q, 0.3))
    sign = (2 * y - 1).double()
    torch.testing.assert_close(clean, (network(x)[:, 0] * sign).detach())
    fall = 0.3 * LpNorm(q).dual.value(network[0].weight.detach())
    torch.testing.assert_close(
        (network(worst)[:, 0] * sign).detach(), clean - fall, rtol=1e-5, atol=1e-8
    )


def test_restarts_only_help_and_keep_the_box():
    network, x, y = draw(40)
    network[0].weight.data *= 4
    x = torch.sigmoid(x)
    one, many = (
        InnerMaximisation(n_restarts=k)(
            passes(network), samples(x, y, eps=0.3, clip=(0.0, 1.0)), seeded()
        )[0]
        for k in (1, 5)
    )
    margins = [soft_margins(network(points), y).detach() for points in (one, many)]
    assert bool((margins[1] <= margins[0]).all())
    assert bool((margins[1] < margins[0] - 1e-6).any())
    assert float(many.min()) >= 0
    assert float(many.max()) <= 1


def test_the_module_is_attacked_in_evaluation_mode_and_trained_in_training_mode():
    network, x, y = draw()
    network = torch.nn.Sequential(network[0], torch.nn.BatchNorm1d(7), *network[1:]).double()
    expected, _ = InnerMaximisation()(passes(network.eval()), samples(x, y))
    network.train()
    seen = []
    network.register_forward_hook(lambda module, args, _: seen.append((module.training, args[0])))
    trainer(network).epoch(samples(x, y))
    assert [training for training, _ in seen] == [False] * 10 + [True]
    torch.testing.assert_close(seen[-1][1], expected)
    assert int(network[1].num_batches_tracked) == 1
    assert not network.training


def test_an_attack_does_not_depend_on_the_batch():
    network, x, y = draw()
    network = torch.nn.Sequential(network[0], torch.nn.BatchNorm1d(7), *network[1:]).double().eval()
    attack = InnerMaximisation()
    whole, _ = attack(passes(network), samples(x, y))
    parts = [
        attack(passes(network), samples(x, y).rows(rows))[0] for rows in (slice(5), slice(5, 12))
    ]
    torch.testing.assert_close(whole, torch.cat(parts))


class Products(TorchDispatchMode):
    """Counts the operations of matrix products."""

    flops = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm):
            left, right = args[-2:]
            self.flops += 2 * left.shape[0] * left.shape[1] * right.shape[1]
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", [passes, AutogradPasses])
def test_attack_steps_form_no_weight_gradient(kind):
    network, x, y = draw(n=10, d=20, classes=3)
    with Products() as products:
        trainer(network, kind=kind).epoch(samples(x, y))
    first, second = 2 * 10 * 20 * 7, 2 * 10 * 7 * 3  # of one product with each layer
    attack = 10 * (2 * first + 2 * second)
    # the second layer also hands its gradient down
    assert products.flops == attack + 2 * first + 3 * second


@pytest.mark.parametrize(("p", "momentum"), [(2, 0.0), (2, 0.9), (1.5, 0.0), (math.inf, 0.0)])
@pytest.mark.parametrize("start", [2.0, 70.0])
def test_step_rule(p, momentum, start):
    network, x, y = draw()
    optimizer = SteepestDescent(
        network.parameters(), lr=1.0, p=p, normalized=p > 2, momentum=momentum
    )
    ones, loss = torch.ones(12, dtype=torch.float64), NETWORK_LOSSES["exponential"]
    passes(network).parameter_gradients(x, lambda f: log_risk_and_slopes(loss, f, y, ones))
    weight = torch.linspace(1, 2, 12, dtype=torch.float64)
    step_size_rule(optimizer, start, samples(x, y, weight=weight).mean)()
    share = weight / weight.sum()
    theta = torch.cat([q.detach().flatten() for q in network.parameters()])
    gradient = torch.cat([q.grad.flatten() for q in network.parameters()])
    if p > 2:
        expected = 0.03 / (1 + float(share @ x.abs().sum(1)))
    else:
        expected = min(
            1.5
            / (1 + float(share @ (x**2).sum(1)))
            / max(1, (float(theta @ theta) - start + min(start, 30)) / 10),
            0.5 / float(LpNorm(p).dual.value(gradient)) ** 2,
        )
    assert optimizer.param_groups[0]["lr"] == pytest.approx(expected * (1 - momentum))


def test_units_of_normalised_margins():
    network = make_mlp(5, 1, (7,), bias=False, generator=torch.Generator().manual_seed(0))
    theta = np.concatenate([q.detach().numpy().ravel() for q in network.parameters()]).astype(float)
    units = margin_units(network, homogeneity(network))
    for name, r in (("margin_l1", 1), ("margin_l2", 2), ("margin_linf", math.inf)):
        assert units[name] == pytest.approx(np.linalg.norm(theta, r) ** 2)
    biased = draw()[0]
    assert margin_units(biased, homogeneity(biased)) == {}


def test_figures_are_those_of_the_parameters_before_the_step():
    network, x, y = draw(classes=3)
    network = make_mlp(5, 3, (7,), bias=False, generator=seeded()).double()
    worst, _ = InnerMaximisation()(passes(network), samples(x, y))
    outputs, clean = network(worst).detach(), network(x).detach()
    leads, clean_leads = (
        (f.gather(1, y[:, None]) - f.scatter(1, y[:, None], -math.inf)).amin(1)
        for f in (outputs, clean)
    )
    theta = torch.cat([q.detach().flatten() for q in network.parameters()])
    least = float(leads.min() / (theta @ theta))
    figures = trainer(network, lr=10.0, degree=2).epoch(samples(x, y))
    assert figures["accuracy"] == pytest.approx(float((clean_leads > 0).double().mean()))
    assert figures["robust_accuracy"] == pytest.approx(float((leads > 0).double().mean()))
    risk = torch.nn.functional.cross_entropy(outputs, y)
    assert figures["log_risk"] == pytest.approx(math.log(float(risk)))
    assert figures["margin_l2"] == pytest.approx(least)


def test_figures_of_an_epoch_are_those_of_all_batches_together():
    network, x, y = draw(40)
    weight = torch.linspace(0.5, 2, 40, dtype=torch.float64)
    data = samples(x, y, weight=weight)
    whole = trainer(network, lr=1e-12, degree=2).epoch(data)
    parts = trainer(network, lr=1e-12, degree=2, batch_size=7).epoch(data)
    assert parts == pytest.approx(whole, rel=1e-6)
    assert merged([1.0, 3.0], [{"log_risk": -math.inf}] * 2) == {"log_risk": -math.inf}


@pytest.mark.parametrize(("n", "n_batches"), [(40, 6), (36, 5)])  # 36 are 4 batches of 7, and 8
def test_the_steps_of_an_epoch_follow_the_risk_of_all_samples(n, n_batches):
    network, x, y = draw(n)
    data = samples(x, y, weight=torch.logspace(-2, 2, n, dtype=torch.float64))
    assert data.n_batches(7) == n_batches == len(list(data.batches(7, seeded())))
    first = [q.detach().clone() for q in network.parameters()]
    trainer(network, lr=1e-7, batch_size=7).epoch(data)
    moved = [(q.detach() - p) / 1e-7 for q, p in zip(network.parameters(), first, strict=True)]
    worst, _ = InnerMaximisation()(passes(network), data)
    losses = torch.nn.functional.softplus(-soft_margins(network(worst), y))
    risk = (data.weight * losses).sum() / data.weight.sum()
    slopes = torch.autograd.grad(risk, list(network.parameters()))
    for change, slope in zip(moved, slopes, strict=True):
        torch.testing.assert_close(change, -n_batches * slope, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("scale", "bound"), [(1.0, None), (1e3, 10.0)])
def test_the_gradient_of_a_large_risk_is_bounded(scale, bound):
    network, x, y = draw(20)
    network[-1].weight.data *= scale
    data = samples(x, y, eps=0.0)
    train = trainer(network, loss="exponential", batch_size=10)
    (value, log_slope), (_, slope) = (
        (train._evaluate(x, data, share, []), network[-1].weight.grad.clone())
        for share in (None, 1.0)
    )
    assert (float(value.exp()) > 10) == (bound is not None)
    torch.testing.assert_close(slope, log_slope * (bound or value.exp()))


def test_an_epoch_that_is_interrupted_leaves_the_module_in_evaluation_mode():
    network, x, y = draw()

    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer(network, set_step_size=interrupted).epoch(samples(x, y))
    assert not any(part.training for part in network.modules())
    network.train()
    trainer(network).epoch(samples(x, y))
    assert not any(part.training for part in network.modules())
