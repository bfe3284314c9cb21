"""Architectures: shapes, initial values, homogeneity."""

import math

import pytest
import torch
from torch import nn

from sklearn_robust.neural_network import madry_cnn
from sklearn_robust.neural_network.modules import homogeneity, make_mlp


def seeded():
    return torch.Generator().manual_seed(0)


def test_initial_values_fill_their_range_and_follow_the_generator():
    state = torch.get_rng_state()
    network = make_mlp(400, 3, (100, 50), init_scale=0.3, generator=seeded())
    assert torch.equal(torch.get_rng_state(), state)
    for layer in network:
        if isinstance(layer, nn.Linear):
            bound = 0.3 / math.sqrt(layer.in_features)
            assert bound * 0.95 < float(layer.weight.detach().abs().max()) <= bound
            assert float(layer.bias.detach().abs().max()) <= bound
    again = make_mlp(400, 3, (100, 50), init_scale=0.3, generator=seeded())
    assert all(
        torch.equal(a, b) for a, b in zip(network.parameters(), again.parameters(), strict=True)
    )


def test_the_network_of_madry():
    network = madry_cnn(generator=seeded())
    assert sum(p.numel() for p in network.parameters()) == 3_274_634
    assert network(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
    assert madry_cnn((3, 8, 12), 1, channels=(2, 4), width=5)(torch.zeros(2, 3, 8, 12)).shape == (
        2,
        1,
    )
    with pytest.raises(ValueError, match=r"multiples of 4, got \(1, 27, 27\)"):
        madry_cnn((1, 27, 27))


@pytest.mark.parametrize(
    ("network", "degree"),
    [
        (make_mlp(5, 1, (4,), bias=False, generator=seeded()), 2),
        (make_mlp(5, 1, (), bias=False, generator=seeded()), 1),
        (madry_cnn((1, 8, 8), 3, channels=(2, 2), width=4, bias=False, generator=seeded()), 4),
        (make_mlp(5, 1, (4,), generator=seeded()), None),
        (make_mlp(5, 1, (4,), bias=False, activation="tanh", generator=seeded()), None),
        (nn.Bilinear(2, 2, 1), None),
    ],
)
def test_homogeneity(network, degree):
    assert homogeneity(network) == degree
    if degree is not None:
        x = torch.randn((3, 1, 8, 8) if degree == 4 else (3, 5), generator=seeded())
        before = network(x)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter *= 1.5
        torch.testing.assert_close(network(x), 1.5**degree * before)
