r"""Linear bounds with optimised slopes.

A ReLU whose sign is not known lies above :math:`\alpha h` for every slope :math:`0 \le \alpha \le
1`. Each choice gives a lower bound of a margin; ascent on the slopes makes it large.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sklearn_robust.regions import Region
from sklearn_robust.verification.bounds import Bounds, linear_bound
from sklearn_robust.verification.layers import Layer, ReLU

_STEPS = 20  # a hundred give no more
_FIRST_STEP = 0.3  # a slope moves by; the steps fall linearly


def optimised_bound(layers: list[Layer], bounds: Bounds, region: Region, coef: Tensor) -> Tensor:
    """A lower bound on <c, f(x')> from linear bounds with slopes of their own for each sample and
    function, (n, s), for coef of shape (n, s, K).

    The bounds on the units stay as they are. The ascent starts at the slopes of `linear_bound` and
    moves by the signs of the gradient; of a ball that a box cuts it sees the ball alone. What is
    returned is the bound at the best slopes found.
    """
    steered = region if region.norm.p == math.inf else region.uncut()
    slopes, undecided = [], []
    for layer, (lower, upper) in zip(layers, bounds, strict=True):
        if isinstance(layer, ReLU):
            start = layer.slope(lower, upper).unsqueeze(1)
            slopes.append(start.expand(-1, coef.shape[1], *start.shape[2:]).clone())
            undecided.append(((lower < 0) & (upper > 0)).unsqueeze(1))
    if not slopes:
        return linear_bound(layers, bounds, region, coef)
    best, largest = slopes, coef.new_full(coef.shape[:2], -math.inf)
    for step in range(_STEPS):
        with torch.enable_grad():
            tried = [slope.requires_grad_() for slope in slopes]
            values = linear_bound(layers, bounds, steered, coef, tried)
        gradients = torch.autograd.grad(values.sum(), tried)
        better, largest = values.detach() > largest, torch.maximum(values.detach(), largest)
        best = [_where(better, new, old) for new, old in zip(tried, best, strict=True)]
        length = _FIRST_STEP * (1 - step / _STEPS)
        slopes = [
            (slope.detach() + length * gradient.sign() * free).clamp(0, 1)
            for slope, gradient, free in zip(tried, gradients, undecided, strict=True)
        ]
    return linear_bound(layers, bounds, region, coef, best)


def _where(chosen: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """The new slopes of the chosen samples and functions."""
    return torch.where(chosen.view(*chosen.shape, *[1] * (new.ndim - 2)), new, old).detach()
