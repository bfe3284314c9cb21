"""Linear bounds with optimised slopes: between those of crown and the truth."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from sklearn_robust.verification import certified_margins


def test_lines_meet_where_they_add_up_to_nothing():
    # |x| + x / 2 >= (a - b + 1 / 2) x for all slopes a, b in [0, 1], zero for a = 0 and b = 1 / 2;
    # intervals know -1 / 2
    net = nn.Sequential(nn.Linear(1, 3), nn.ReLU(), nn.Linear(3, 1)).double()
    values = [[1.0], [-1.0], [1.0]], [0.0, 0.0, 5.0], [[1.0, 1.0, 0.5]], [-2.5]
    for parameter, value in zip(net.parameters(), values, strict=True):
        parameter.data = torch.tensor(value).double()
    bounds = [
        certified_margins(net, [[0.1]], [1], eps=1.1, method=method)[0]
        for method in ("crown", "alpha-crown")
    ]
    np.testing.assert_allclose(bounds, [-0.5, 0], atol=0.05)


def test_without_units_there_is_nothing_to_optimise():
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(4, 3)).double(), torch.rand(6, 4).double()
    crown, found = (
        certified_margins(net, x, [0, 1, 2] * 2, eps=0.5, method=method)
        for method in ("crown", "alpha-crown")
    )
    assert crown.min() < 0
    np.testing.assert_array_equal(found, crown)


@pytest.mark.parametrize(
    ("q", "clip"), [(math.inf, (0, 1)), (2, (0, 1)), (1, (0, 1)), (1.5, None), (1, None)]
)
def test_no_point_of_the_threat_has_a_smaller_margin(lowest_margin, q, clip):
    torch.manual_seed(2)
    net = nn.Sequential(nn.Linear(4, 10), nn.ReLU(), nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 3))
    net, x = net.double(), torch.rand(20, 4).double()
    for layer in net[::2]:
        layer.weight.data *= 3
    y = net(x).argmax(1)
    options = {"eps": 0.1 if q == math.inf else 0.3, "q": q, "clip": clip}
    crown, found = (
        certified_margins(net, x, y.numpy(), method=method, **options)
        for method in ("crown", "alpha-crown")
    )
    proved = crown > 0
    np.testing.assert_array_equal(found[proved], crown[proved])
    assert (found >= crown).all()
    assert (found > crown + 1e-3).any()
    attacked = lowest_margin(net, x, y.numpy(), **options)
    assert (found <= np.asarray(attacked) + 1e-9).all()
