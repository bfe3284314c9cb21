r"""A network as a list of layers, each of which knows two things about its output.

`interval`: bounds on the output h' of the layer from bounds l <= h <= u on its input, elementwise.

`backward`: a linear lower bound moves from output to input. Given coefficients c and constants b, it returns c', b' with
:math:`\langle c, h'\rangle + b \ge \langle c', h\rangle + b'` wherever l <= h <= u.

Shapes: bounds are (n, \*shape) for n samples; coefficients are (n, s, \*shape) and constants (n, s) for s linear functions of
each sample, with n = 1 where they are the same for all samples.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

_MIXING = (nn.Linear, nn.Conv2d, nn.AvgPool2d)
_AFFINE = (*_MIXING, nn.BatchNorm1d, nn.BatchNorm2d, nn.Flatten, nn.Unflatten)
_IDENTITY = (nn.Identity, nn.Dropout, nn.Dropout2d)  # of a network that predicts
_SUPPORTED = (nn.Sequential, *_AFFINE, *_IDENTITY, nn.ReLU, nn.MaxPool2d)


class Affine:
    """Linear, convolutional, averaging, normalising and reshaping layers in a row: h' = A h + b.

    Nothing but the modules themselves is needed: A^T c is the derivative of <c, A h + b>, and |A| is the same row of modules
    with the absolute values of their weights.
    """

    def __init__(self, modules: list[nn.Module]) -> None:
        self.module = nn.Sequential(*modules)
        self.magnitude = copy.deepcopy(self.module)
        for layer in self.magnitude.modules():
            for name, parameter in layer.named_parameters(recurse=False):
                parameter.copy_(parameter.abs() if name == "weight" else torch.zeros_like(parameter))
            if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
                cast(Tensor, layer.running_mean).zero_()
        self.mixes = sum(isinstance(layer, _MIXING) for layer in modules)

    def __call__(self, h: Tensor) -> Tensor:
        return self.module(h)

    def interval(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Exact for each unit if only one layer of the row mixes units."""
        centre, radius = self.module((lower + upper) / 2), self.magnitude((upper - lower) / 2)
        return centre - radius, centre + radius

    def backward(self, coef: Tensor, constant: Tensor, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Exact: c' = A^T c, b' = b + <c, A 0 + b>."""
        offset, transpose, *_ = torch.func.vjp(self.module, torch.zeros_like(lower[:1]))
        (pulled,) = torch.vmap(transpose)(coef.flatten(0, 1).unsqueeze(1))
        return pulled.view(*coef.shape[:2], *lower.shape[1:]), constant + coef.flatten(2) @ offset.flatten()


class ReLU:
    """h' = max(h, 0), between a line through the origin and the chord, where the sign of h is not known."""

    def __call__(self, h: Tensor) -> Tensor:
        return h.clamp(min=0)

    def interval(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Exact: the function increases."""
        return self(lower), self(upper)

    def backward(self, coef: Tensor, constant: Tensor, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """max(h, 0) >= h or 0, whichever leaves the smaller area; max(h, 0) <= u (h - l) / (u - l) where l < 0 < u."""
        below = lower.clamp(max=0)
        height = upper.clamp(min=0)
        width = height - below
        chord = height / torch.where(width > 0, width, torch.ones_like(width))  # 1 for active units, 0 for inactive ones
        line = (upper > -lower).to(coef.dtype)
        constant = constant - (coef.clamp(max=0) * (chord * below).unsqueeze(1)).flatten(2).sum(dim=2)
        return coef * torch.where(coef > 0, line.unsqueeze(1), chord.unsqueeze(1)), constant


class MaxPool:
    """h' = the largest entry of each window."""

    def __init__(self, module: nn.MaxPool2d) -> None:
        self.module = module

    def __call__(self, h: Tensor) -> Tensor:
        return self.module(h)

    def interval(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Exact: the function increases."""
        return self.module(lower), self.module(upper)

    def backward(self, coef: Tensor, constant: Tensor, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """The maximum is at least the entry with the largest l, and at most that entry if it dominates, else the largest u."""
        largest, index = functional.max_pool2d(lower, **self._window(), ceil_mode=self.module.ceil_mode, return_indices=True)
        chosen = index.flatten(2)
        own = upper.flatten(2).gather(2, chosen).view_as(largest) > largest
        rivals = (self._windows(upper, largest.shape[2:]) > largest.flatten(2).unsqueeze(2)).sum(dim=2).view_as(largest)
        on_entry = (coef > 0) | (rivals == own).unsqueeze(1)
        constant = constant + torch.where(on_entry, 0, coef * self.module(upper).unsqueeze(1)).flatten(2).sum(dim=2)
        moved = torch.where(on_entry, coef, 0).flatten(3)
        pulled = moved.new_zeros(*moved.shape[:3], lower[0, 0].numel())
        pulled.scatter_add_(3, chosen.unsqueeze(1).expand_as(moved), moved)
        return pulled.view(*moved.shape[:2], *lower.shape[1:]), constant

    def _window(self) -> dict[str, Any]:
        return {name: getattr(self.module, name) for name in ("kernel_size", "stride", "padding", "dilation")}

    def _windows(self, h: Tensor, out: torch.Size) -> Tensor:
        """The entries of each window, of shape (n, channels, entries, windows); -inf beyond the border."""
        kernel, stride, padding, dilation = (_pair(value) for value in self._window().values())
        border = []
        for axis in (1, 0):
            reach = (out[axis] - 1) * stride[axis] + dilation[axis] * (kernel[axis] - 1) + 1
            border += [padding[axis], reach - h.shape[2 + axis] - padding[axis]]
        padded = functional.pad(h, border, value=-torch.inf)
        return functional.unfold(padded, kernel, dilation, 0, stride).unflatten(1, (h.shape[1], -1))


Layer = Affine | ReLU | MaxPool


def read_network(module: nn.Module) -> list[Layer]:
    """The layers of a network in evaluation mode, as copies in float64; the module itself is left as it is.

    Parameters
    ----------
    module : torch.nn.Sequential
        Nested as you like; or a single layer.

    Raises
    ------
    TypeError
        If the module or one of its layers is not supported.
    """
    layers: list[Layer] = []
    for affine, row in itertools.groupby(_leaves(module), key=lambda leaf: type(leaf) in _AFFINE):
        if affine:
            layers.append(Affine([_in_float64(leaf) for leaf in row]))
        else:
            layers += [ReLU() if type(leaf) is nn.ReLU else MaxPool(cast(nn.MaxPool2d, leaf)) for leaf in row]
    return layers


def _leaves(module: nn.Module) -> Iterator[nn.Module]:
    """The layers that do something when the network predicts, in order."""
    if type(module).forward is nn.Sequential.forward:
        for child in module.children():
            yield from _leaves(child)
    elif type(module) not in _SUPPORTED:
        names = ", ".join(kind.__name__ for kind in _SUPPORTED)
        raise TypeError(f"{type(module).__name__} is not supported: no bounds are known for it. Supported are {names}.")
    elif isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)) and module.running_mean is None:
        raise TypeError(f"{type(module).__name__} without running statistics mixes samples: use track_running_stats=True.")
    elif type(module) not in _IDENTITY:
        yield module


def _in_float64(module: nn.Module) -> nn.Module:
    copied = copy.deepcopy(module).eval().requires_grad_(False)
    return (copied.cpu() if any(p.device.type == "mps" for p in copied.parameters()) else copied).double()  # mps has no float64


def _pair(value: Any) -> tuple[int, int]:
    return value if isinstance(value, tuple) else (value, value)
