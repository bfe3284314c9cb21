r"""Outputs that bound those of a network over a region, as functions of its parameters.

Training on them makes the margins large that intervals prove: the intervals of the hidden units go
through every layer, :math:`l \le h \le u` to

.. math:: A \tfrac{l + u}{2} + b \pm |A| \tfrac{u - l}{2},

and the last layer is bounded for the differences of outputs, which are what decides. They are those
of exact arithmetic: certificates of a trained network, which charge rounding, come from
`sklearn_robust.verification`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from sklearn_robust._documentation import see
from sklearn_robust.regions import Region
from sklearn_robust.verification.layers import alteration

_INCREASING = (nn.ReLU, nn.Flatten, nn.Unflatten, nn.MaxPool2d, nn.AvgPool2d)
_CONVOLUTION = ("stride", "padding", "dilation", "groups")
_STILL = (nn.Identity, nn.Dropout, nn.Dropout2d)  # identities in evaluation mode


def worst_outputs(module: nn.Module, region: Region, y: Tensor) -> Tensor:
    """Outputs whose margins are lower bounds of the margins over the region.

    Parameters
    ----------
    module : torch.nn.Sequential
        Linear and convolutional layers, ReLUs, pooling and flattening; the last one is linear.
    region : Region
        The regions of n samples.
    y : int tensor of shape (n,)
        Index of the true class.

    Returns
    -------
    tensor of shape (n, K), or (n, 1) for two classes
        Zero for the true class, and for each other class k an upper bound on :math:`f_k - f_y`.

    Raises
    ------
    TypeError
        If no intervals are known for a layer.
    """
    hidden, last = _layers(module)
    lower, upper = region.ends
    ball = None if region.norm.p == math.inf else region  # while layers see the input itself
    for layer in hidden:
        lower, upper = _interval(layer, lower, upper, ball)
        ball = ball if isinstance(layer, nn.Flatten) else None
    # <c, f> with the rows c of f_y - f_k, or the sign of y for a single output
    single = len(last.weight) == 1
    true = (2 * y - 1)[:, None].to(lower) if single else functional.one_hot(y, len(last.weight))
    rows = true[:, :, None] if single else true[:, None] - torch.eye(len(last.weight)).to(true)
    coef = rows.to(lower) @ last.weight
    centre, radius = (lower + upper)[:, :, None] / 2, (upper - lower)[:, :, None] / 2
    least = (coef @ centre - coef.abs() @ radius)[:, :, 0]
    if ball is not None:
        reach = _reach(ball, coef)
        least = torch.maximum(least, (coef @ ball.x[:, :, None])[:, :, 0] - reach)
    if last.bias is not None:
        least = least + rows.to(lower) @ last.bias
    return true * least if single else -least


def _interval(
    layer: nn.Module, lower: Tensor, upper: Tensor, ball: Region | None
) -> tuple[Tensor, Tensor]:
    """The ends of a layer's output; those of a linear layer on a ball by its dual norm too."""
    if isinstance(layer, _INCREASING):
        return layer(lower), layer(upper)
    layer = cast(nn.Linear | nn.Conv2d, layer)
    centre, radius = layer((lower + upper) / 2), (upper - lower) / 2
    if isinstance(layer, nn.Linear):
        reach = functional.linear(radius, layer.weight.abs())
    else:
        shape = {name: getattr(layer, name) for name in _CONVOLUTION}
        reach = functional.conv2d(radius, layer.weight.abs(), **shape)
    lower, upper = centre - reach, centre + reach
    if ball is not None and isinstance(layer, nn.Linear) and lower.ndim == 2:
        middle, reach = layer(ball.x), _reach(ball, layer.weight)
        lower, upper = torch.maximum(lower, middle - reach), torch.minimum(upper, middle + reach)
    return lower, upper


def _reach(ball: Region, coef: Tensor) -> Tensor:
    """How far the functions of these coefficients, (..., d), move on the ball; the derivative at
    zero coefficients is zero.
    """
    sizes = torch.linalg.vector_norm(ball.gradient_in_units(coef), ball.norm.dual.p, dim=-1)
    reach: Tensor = ball.eps * sizes
    return reach


def _layers(module: nn.Module) -> tuple[list[nn.Module], nn.Linear]:
    """The layers that do something: those before the last one, and that one, which is linear."""
    layers = list(_leaves(module))
    if not layers or not isinstance(layers[-1], nn.Linear):
        raise TypeError(
            "certified_weight > 0 needs a torch.nn.Sequential that ends in a linear layer."
            f" {see('guide/networks')}"
        )
    return layers[:-1], layers[-1]


def _leaves(module: nn.Module) -> Iterator[nn.Module]:
    kind = type(module)
    plain = alteration(module) is None
    if plain and isinstance(module, nn.Sequential):
        for child in module:
            yield from _leaves(child)
    elif plain and (
        kind in (nn.Linear, *_INCREASING)
        or (isinstance(module, nn.Conv2d) and module.padding_mode == "zeros")
    ):
        yield module
    elif not plain or kind not in _STILL:
        raise TypeError(
            f"certified_weight > 0 is for torch.nn.Sequential of linear and convolutional layers, "
            f"ReLUs, pooling and flattening, got a {kind.__name__}. Use certified_weight=0."
            f" {see('guide/networks')}"
        )
