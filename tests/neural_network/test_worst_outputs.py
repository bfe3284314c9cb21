"""Outputs that bound those of a network, and training on them."""

import math

import numpy as np
import pytest
from sklearn.datasets import load_digits, make_moons

from sklearn_robust import RobustMLPClassifier, RobustNetClassifier

torch = pytest.importorskip("torch")
from torch import nn

from sklearn_robust.attacks.losses import logit_margins
from sklearn_robust.neural_network._inner_maximisation import InnerMaximisation, Samples
from sklearn_robust.neural_network._objective import NETWORK_LOSSES
from sklearn_robust.neural_network._passes import passes
from sklearn_robust.neural_network._training import Trainer
from sklearn_robust.neural_network._worst_outputs import worst_outputs
from sklearn_robust.neural_network.modules import make_mlp
from sklearn_robust.regions import Region
from sklearn_robust.verification import certified_margins


def images():
    convolution = nn.Conv2d(1, 2, 3, stride=2, padding=1)
    hidden = nn.Sequential(convolution, nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(0.5))
    return nn.Sequential(hidden, nn.Linear(8, 3))


@pytest.mark.parametrize(
    ("make", "shape", "q", "clip", "scaled"),
    [
        (lambda: make_mlp(6, 3, (8, 7)), (6,), math.inf, (0, 1), False),
        (lambda: make_mlp(6, 1, (8,), bias=False), (6,), 1, None, True),
        (lambda: make_mlp(6, 3, ()), (6,), 2, None, True),
        (images, (1, 8, 8), math.inf, (0, 1), False),
    ],
)
def test_margins_are_those_of_intervals(make, shape, q, clip, scaled):
    torch.manual_seed(0)
    module, x = make().double().eval(), torch.rand(5, *shape).double()
    y = torch.arange(5) % 2
    scale = np.linspace(0, 1, 6) if scaled else None
    found = worst_outputs(module, Region(x, q, 0.1, clip, scale), y)
    options = {"eps": 0.1, "q": q, "clip": clip, "scale": scale, "method": "interval"}
    known = certified_margins(module, x, y.numpy(), **options)
    np.testing.assert_allclose(logit_margins(found.detach(), y), known, rtol=1e-9, atol=1e-12)


def test_a_first_layer_may_act_on_rows():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)).double()
    x, y = torch.rand(5, 2, 3).double(), torch.arange(5) % 3
    margins = logit_margins(worst_outputs(module, Region(x, 2, 0.1), y), y).detach()
    crown = certified_margins(module, x, y.numpy(), eps=0.1, q=2)
    assert (margins.numpy() <= crown + 1e-9).all()
    assert (margins.numpy() > -1).all()


@pytest.mark.parametrize("q", [1, 2, 3])
def test_zero_coefficients_have_a_derivative(q):
    module, x = make_mlp(3, 3, (), init_scale=0), torch.rand(3, 3)
    worst_outputs(module, Region(x, q, 0.1), torch.arange(3)).sum().backward()
    assert torch.isfinite(module[0].weight.grad).all()


@pytest.mark.parametrize("mean_weight", [None, 2.0])
def test_gradients_are_those_of_the_mixed_risk(mean_weight):
    torch.manual_seed(0)
    x, y = torch.rand(4, 3).double(), torch.tensor([0, 1, 2, 1])
    weight = torch.tensor([1.0, 2.0, 1.0, 1.0]).double()
    samples = Samples(x, y, weight, Region(x, math.inf, 0.1))
    module, kappa = make_mlp(3, 3, (5,)).double(), 0.3
    no_attack = InnerMaximisation(n_steps=0)
    trainer = Trainer(
        passes(module),
        torch.optim.SGD(module.parameters(), lr=0.0),
        no_attack,
        NETWORK_LOSSES["logistic"],
        torch.Generator(),
        certified_weight=kappa,
    )
    figures = trainer._step(samples, mean_weight)
    worst = worst_outputs(module, samples.region, y)
    risks = [
        weight @ nn.functional.cross_entropy(scores, y, reduction="none") / 5
        for scores in (module(x), worst)
    ]
    risk = (1 - kappa) * risks[0] + kappa * risks[1]
    objective = risk.log() if mean_weight is None else 5 / mean_weight * risk
    expected = torch.autograd.grad(objective, list(module.parameters()))
    for parameter, gradient in zip(module.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)
    assert figures["log_risk"] == pytest.approx(math.log(risk.item()))
    right = logit_margins(worst, y) > 0
    assert figures["certified_accuracy"] == pytest.approx(float(weight @ right.double()) / 5)


def test_more_is_proved_where_certified_margins_are_trained():
    X, y = load_digits(n_class=3, return_X_y=True)
    X, y = X[:60] / 16, y[:60]
    proved = {}
    for weight in (0.0, 0.2):
        network = RobustMLPClassifier(
            (30,), eps=0.1, certified_weight=weight, attack_steps=1, max_iter=60, random_state=0
        ).fit(X, y)
        proved[weight] = network.certified_score(X, y, method="interval")
        assert ("certified_accuracy" in network.history_) == (weight > 0)

    assert proved[0.2] > proved[0.0] + 0.2


def test_layers_without_intervals_are_refused():
    X, y = make_moons(20, random_state=0)
    for module, message in (
        (nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1)), "got a Tanh"),
        (nn.Sequential(nn.Linear(2, 1), nn.ReLU()), "ends in a linear layer"),
    ):
        with pytest.raises(TypeError, match=f"certified_weight > 0 .*{message}"):
            RobustNetClassifier(module, certified_weight=0.1).fit(X, y)
    with pytest.raises(ValueError, match=r"certified_weight must be a weight in \[0, 1\], got 2"):
        RobustMLPClassifier(certified_weight=2).fit(X, y)
