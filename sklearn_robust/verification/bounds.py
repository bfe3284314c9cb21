"""Interval and linear bounds on what a network computes over a region of inputs."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sklearn_robust.regions import Region, box_minimum
from sklearn_robust.verification.layers import Affine, Layer, MaxPool, ReLU

MAX_ENTRIES = 2**23  # entries of the coefficients in memory at one time

Bounds = list[tuple[Tensor, Tensor]]  # the ends of the input of each layer


def input_bounds(layers: list[Layer], region: Region, *, linear: bool) -> Bounds:
    """Bounds on the input of each layer, elementwise.

    Parameters
    ----------
    layers : list of layers
    region : Region
        The regions of n samples.
    linear : bool
        Whether to tighten the intervals of deeper layers by linear bounds. Those of the first
        affine layer are exact either way, in any norm.

    Returns
    -------
    list of pairs of tensors of shape (n, *shape)
    """
    bounds: Bounds = [region.ends]
    for depth, layer in enumerate(layers[:-1], start=1):
        lower, upper = layer.interval(*bounds[-1])
        exact = (
            depth == 1
            and region.norm.p == math.inf
            and isinstance(layer, Affine)
            and layer.mixes <= 1
        )
        if isinstance(layer, Affine) and (linear or depth == 1) and not exact:
            least, largest = _unit_bounds(layers[:depth], bounds, region, lower.shape[1:])
            lower, upper = torch.maximum(lower, least), torch.minimum(upper, largest)
        bounds.append((lower, upper))
    return bounds


def interval_bound(layers: list[Layer], bounds: Bounds, region: Region, coef: Tensor) -> Tensor:
    """A lower bound on <c, f(x')> from the bounds on the last layer's input, (n, s), for coef of
    shape (n, s, K).
    """
    if len(layers) == 1:
        return linear_bound(layers, bounds, region, coef)
    coef, constant = layers[-1].backward(coef, coef.new_zeros(1, 1), *bounds[-1])
    return box_minimum(coef, *bounds[-1]) + constant


def linear_bound(
    layers: list[Layer],
    bounds: Bounds,
    region: Region,
    coef: Tensor,
    slopes: list[Tensor] | None = None,
) -> Tensor:
    """A lower bound on <c, f(x')> from a linear bound moved to the input, (n, s), for coef (n
    or 1, s, *shape), with slopes of the lower lines of each ReLU in turn, or its own.
    """
    constant, left = coef.new_zeros(1, 1), list(slopes or ())
    for layer, (lower, upper) in zip(reversed(layers), reversed(bounds), strict=True):
        own = (left.pop(),) if left and isinstance(layer, ReLU) else ()
        coef, constant = layer.backward(coef, constant, lower, upper, *own)
    return region.minimum(coef) + constant


def output_rounding(layers: list[Layer], bounds: Bounds) -> Tensor:
    r"""How far rounding can move each output of the network as it runs from that of exact
    arithmetic, (n, K).

    With e the bound so far, :math:`|A| e + |\rho|` after an affine layer; ReLU and maximum add
    nothing.
    """
    rounding = torch.zeros_like(bounds[0][0])
    for layer, (lower, upper) in zip(layers, bounds, strict=True):
        if isinstance(layer, Affine):
            rounding = layer.magnitude(rounding) + layer.rounding(lower, upper)
        elif isinstance(layer, MaxPool):
            rounding = layer(rounding)
    return rounding


def largest_layer(layers: list[Layer], x: Tensor) -> int:
    """Number of units of the widest layer, the input included."""
    x, widest = x[:1], x[0].numel()
    for layer in layers:
        x = layer(x)
        widest = max(widest, x.numel())
    return widest


def _unit_bounds(
    layers: list[Layer], bounds: Bounds, region: Region, shape: torch.Size
) -> tuple[Tensor, Tensor]:
    """Linear lower and upper bounds of each unit of the last layer's output, a few units at a
    time.
    """
    n_units = shape.numel()
    step = max(1, MAX_ENTRIES // (2 * len(region.x) * largest_layer(layers, bounds[0][0])))
    least, largest = [], []
    for start in range(0, n_units, step):
        units = torch.arange(start, min(start + step, n_units), device=region.x.device)
        coef = torch.nn.functional.one_hot(units, n_units).to(region.x.dtype).view(1, -1, *shape)
        both = linear_bound(layers, bounds, region, torch.cat([coef, -coef], dim=1))
        least.append(both[:, : len(units)])
        largest.append(-both[:, len(units) :])
    return torch.cat(least, dim=1).view(-1, *shape), torch.cat(largest, dim=1).view(-1, *shape)
