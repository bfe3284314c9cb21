r"""A network as a list of layers, each of which knows two things about its output.

`interval`: bounds on the output h' of the layer from bounds l <= h <= u on its input, elementwise.

`backward`: a linear lower bound moves from output to input. Given coefficients c and constants b,
it returns c', b' with :math:`\langle c, h'\rangle + b \ge \langle c', h\rangle + b'` wherever l <=
h <= u.

Both hold for the network as it runs. In floating point an affine layer computes :math:`h' = A h + b
+ \rho` with, for sums of m products in any order and unit roundoff u,

.. math:: |\rho| \le \big((1 + u)^m - 1\big)\, (|A| |h| + |b|),

so that :math:`\rho` is bounded like any other perturbation. ReLU and maximum are exact.

Shapes: bounds are (n, \*shape) for n samples; coefficients are (n, s, \*shape) and constants (n, s)
for s linear functions of each sample, with n = 1 where they are the same for all samples.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules import module as torch_module
from torch.nn.utils import parametrize

from sklearn_robust._documentation import see
from sklearn_robust.regions import products

_MIXING = (nn.Linear, nn.Conv2d, nn.AvgPool2d)
_AFFINE = (*_MIXING, nn.BatchNorm1d, nn.BatchNorm2d, nn.Flatten, nn.Unflatten)
_IDENTITY = (nn.Identity, nn.Dropout, nn.Dropout2d)  # identities in a network that predicts
_SUPPORTED = (nn.Sequential, *_AFFINE, *_IDENTITY, nn.ReLU, nn.MaxPool2d)
_WEIGHTED = (nn.Linear, nn.Conv2d, nn.BatchNorm1d, nn.BatchNorm2d)
_DOUBLE = 2.0**-53  # unit roundoff of float64
# roundings of a bound beyond those of its sums: of the region, of the lines around a ReLU
_EXTRA_TERMS = 32


class Affine:
    """Linear, convolutional, averaging, normalising and reshaping layers in a row: h' = A h + b +
    rho.

    Nothing but the modules themselves is needed: A^T c is the derivative of <c, A h + b>, and |A|
    is the same row of modules with the absolute values of their weights.

    Parameters
    ----------
    modules : list of torch.nn.Module
        In float64.
    unit : float
        Unit roundoff of the arithmetic in which the network runs.
    """

    def __init__(self, modules: list[nn.Module], unit: float) -> None:
        self.module = nn.Sequential(*modules)
        # |A| h and |A| h + |b|
        self.magnitude = copy.deepcopy(self.module)
        self.absolute = copy.deepcopy(self.module)
        for layer in [*self.magnitude.children(), *self.absolute.children()]:
            for parameter in layer.parameters():
                parameter.abs_()
            if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
                cast(Tensor, layer.running_mean).abs_().neg_()  # it is subtracted
        for layer in self.magnitude.children():
            if getattr(layer, "bias", None) is not None:
                cast(Tensor, layer.bias).zero_()
            if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
                cast(Tensor, layer.running_mean).zero_()
        self.mixes = sum(isinstance(layer, _MIXING) for layer in modules)
        self.unit = unit
        self.terms = sum(_terms(layer) for layer in modules)

    def __call__(self, h: Tensor) -> Tensor:
        return self.module(h)

    def rounding(self, lower: Tensor, upper: Tensor) -> Tensor:
        """The largest |rho| over l <= h <= u: rounding of the network, and of the bounds computed
        here in float64.
        """
        size = self.absolute(torch.maximum(lower.abs(), upper.abs()))
        in_bounds = 2 * (self.terms + lower[0].numel() + size[0].numel()) + _EXTRA_TERMS
        return (math.expm1(self.unit * self.terms) + math.expm1(_DOUBLE * in_bounds)) * size

    def interval(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Exact for each unit, but for rounding, if only one layer of the row mixes units."""
        centre, radius = self.module((lower + upper) / 2), self.magnitude((upper - lower) / 2)
        radius = radius + self.rounding(lower, upper)
        return centre - radius, centre + radius

    def backward(
        self, coef: Tensor, constant: Tensor, lower: Tensor, upper: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Exact, but for rounding: c' = A^T c, b' = b + <c, A 0 + b> - <|c|, |rho|>."""
        offset, transpose, *_ = torch.func.vjp(self.module, torch.zeros_like(lower[:1]))
        (moved,) = torch.vmap(transpose)(coef.flatten(0, 1).unsqueeze(1))
        rounding = products(coef.abs().flatten(2), self.rounding(lower, upper).flatten(1))
        constant = constant + coef.flatten(2) @ offset.flatten() - rounding
        return moved.view(*coef.shape[:2], *lower.shape[1:]), constant


class ReLU:
    """h' = max(h, 0), between a line through the origin and the chord, where the sign of h is not
    known.
    """

    def __call__(self, h: Tensor) -> Tensor:
        return h.clamp(min=0)

    def interval(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Exact: the function increases."""
        return self(lower), self(upper)

    def slope(self, lower: Tensor, upper: Tensor) -> Tensor:
        """The slope, 0 or 1, of the line through the origin that leaves the smaller area."""
        return (upper > -lower).to(lower.dtype)

    def backward(
        self,
        coef: Tensor,
        constant: Tensor,
        lower: Tensor,
        upper: Tensor,
        slope: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """max(h, 0) >= a h, with slopes 0 <= a <= 1 for each function, by default those of
        `slope`; max(h, 0) <= u (h - l) / (u - l) where l < 0 < u.
        """
        below = lower.clamp(max=0)
        height = upper.clamp(min=0)
        width = height - below
        # 1 for active units, 0 for inactive ones
        chord = height / torch.where(width > 0, width, torch.ones_like(width))
        line = self.slope(lower, upper).unsqueeze(1) if slope is None else slope
        constant = constant - (coef.clamp(max=0) * (chord * below).unsqueeze(1)).flatten(2).sum(
            dim=2
        )
        return coef * torch.where(coef > 0, line, chord.unsqueeze(1)), constant


class MaxPool:
    """h' = the largest entry of each window."""

    def __init__(self, module: nn.MaxPool2d) -> None:
        self.module = module

    def __call__(self, h: Tensor) -> Tensor:
        return self.module(h)

    def interval(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Exact: the function increases."""
        return self.module(lower), self.module(upper)

    def backward(
        self, coef: Tensor, constant: Tensor, lower: Tensor, upper: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The maximum is at least the entry with the largest l, and at most that entry if it
        dominates, else the largest u.
        """
        largest, index = functional.max_pool2d(
            lower, **self._window(), ceil_mode=self.module.ceil_mode, return_indices=True
        )
        chosen = index.flatten(2)
        own = upper.flatten(2).gather(2, chosen).view_as(largest) > largest
        rivals = (
            (self._windows(upper, largest.shape[2:]) > largest.flatten(2).unsqueeze(2))
            .sum(dim=2)
            .view_as(largest)
        )
        on_entry = (coef > 0) | (rivals == own).unsqueeze(1)
        constant = constant + torch.where(
            on_entry, 0, coef * self.module(upper).unsqueeze(1)
        ).flatten(2).sum(dim=2)
        kept = torch.where(on_entry, coef, 0).flatten(3)
        moved = kept.new_zeros(*kept.shape[:3], lower[0, 0].numel())
        moved.scatter_add_(3, chosen.unsqueeze(1).expand_as(kept), kept)
        return moved.view(*kept.shape[:2], *lower.shape[1:]), constant

    def _window(self) -> dict[str, Any]:
        return {
            name: getattr(self.module, name)
            for name in ("kernel_size", "stride", "padding", "dilation")
        }

    def _windows(self, h: Tensor, out: torch.Size) -> Tensor:
        """The entries of each window, of shape (n, channels, entries, windows); -inf beyond the
        border.
        """
        kernel, stride, padding, dilation = (_pair(value) for value in self._window().values())
        border = []
        for axis in (1, 0):
            reach = (out[axis] - 1) * stride[axis] + dilation[axis] * (kernel[axis] - 1) + 1
            border += [padding[axis], reach - h.shape[2 + axis] - padding[axis]]
        padded = functional.pad(h, border, value=-torch.inf)
        return functional.unfold(padded, kernel, dilation, 0, stride).unflatten(1, (h.shape[1], -1))


Layer = Affine | ReLU | MaxPool


def read_network(module: nn.Module, dtype: torch.dtype = torch.float64) -> list[Layer]:
    """The layers of a network in evaluation mode, as copies in float64; the module itself is left
    as it is.

    Weights are those that the module applies: those of `torch.nn.utils.parametrize` are computed.

    Parameters
    ----------
    module : torch.nn.Sequential
        Nested as you like; or a single layer.
    dtype : torch.dtype, default=torch.float64
        The type in which a module without parameters runs.

    Raises
    ------
    TypeError
        If the module or one of its layers is not supported, or something may change what it
        computes.
    """
    layers: list[Layer] = []
    kinds = [parameter.dtype for parameter in module.parameters() if parameter.is_floating_point()]
    unit = max(torch.finfo(kind).eps / 2 for kind in kinds or [dtype])
    for affine, row in itertools.groupby(
        list(_leaves(module, "")), key=lambda leaf: type(leaf) in _AFFINE
    ):
        if affine:
            layers.append(Affine(list(row), unit))
        else:
            layers += [
                ReLU() if type(leaf) is nn.ReLU else MaxPool(cast(nn.MaxPool2d, leaf))
                for leaf in row
            ]
    return layers


def alteration(module: nn.Module) -> str | None:
    """What may keep a module, its parts aside, from computing what its type says it computes; None
    if nothing does.
    """
    if torch_module._global_forward_hooks or torch_module._global_forward_pre_hooks:
        return "a forward hook on all modules"
    hooks = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
    if hooks:
        names = ", ".join(
            sorted({getattr(hook, "__name__", type(hook).__name__) for hook in hooks})
        )
        return f"a forward hook ({names})"
    kind = parametrize.type_before_parametrizations(module)
    # a subclass of it may build, and not compute
    base = nn.Sequential if issubclass(kind, nn.Sequential) else kind
    replaced = [
        name
        for name in ("forward", "__call__", "__iter__")
        if getattr(kind, name, None) is not getattr(base, name, None)
    ]
    replaced += [name for name in ("forward", "__call__") if name in vars(module)]
    return f"a {replaced[0]} of its own" if replaced else None


def _leaves(module: nn.Module, name: str) -> Iterator[nn.Module]:
    """The layers that do something when the network predicts, in order, as copies in float64."""
    kind = parametrize.type_before_parametrizations(module)
    layer = f"Layer {name!r}: {kind.__name__}" if name else kind.__name__
    if kind not in _SUPPORTED and not issubclass(kind, nn.Sequential):
        names = ", ".join(kind.__name__ for kind in _SUPPORTED)
        raise TypeError(
            f"{layer} is not supported: no bounds are known for it. Supported are {names}."
            f" {see('guide/verification')}"
        )
    altered = alteration(module)
    if altered:
        raise TypeError(
            f"{layer} has {altered}, so that no bounds are known for it. Remove what was added "
            f"(torch.nn.utils.prune.remove, "
            "remove_weight_norm, remove_spectral_norm, or the remove() of a hook's handle), or use "
            "torch.nn.utils.parametrizations, whose weights are read."
            f" {see('guide/verification')}"
        )
    if issubclass(kind, nn.Sequential):
        for child_name, child in module.named_children():
            yield from _leaves(child, f"{name}.{child_name}" if name else child_name)
    elif kind not in _IDENTITY:
        yield _applied(module, layer)


def _applied(module: nn.Module, layer: str) -> nn.Module:
    """A copy in evaluation mode and float64, whose parameters are the weights that it applies."""
    if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)) and module.running_mean is None:
        raise TypeError(
            f"{layer} without running statistics mixes samples: use track_running_stats=True."
            f" {see('guide/verification')}"
        )
    copied = copy.deepcopy(module).eval()
    # remove_parametrizations would change the class, which the user's module shares
    if parametrize.is_parametrized(copied):
        weights = {
            name: nn.Parameter(getattr(copied, name).detach())
            for name in cast(nn.ModuleDict, copied.parametrizations)
        }
        copied.__class__ = parametrize.type_before_parametrizations(copied)
        del copied.parametrizations
        for name, weight in weights.items():
            copied.register_parameter(name, weight)
    known = {"weight", "bias"} if type(copied) in _WEIGHTED else set()
    found = set(copied._parameters)
    if found != known:
        strange = sorted(found ^ known)
        raise TypeError(
            f"{layer} has parameters that are not known, or lacks those that are: {strange}. Use a "
            f"plain layer."
            f" {see('guide/verification')}"
        )
    copied = copied.requires_grad_(False)
    on_mps = any(parameter.device.type == "mps" for parameter in copied.parameters())
    return (copied.cpu() if on_mps else copied).double()  # mps has no float64


def _terms(layer: nn.Module) -> int:
    """How many roundings an output of the layer goes through: those of its sum, of the bias, and of
    the input's type.
    """
    if isinstance(layer, nn.Linear):
        return layer.in_features + 4
    if isinstance(layer, nn.Conv2d):
        return layer.weight[0].numel() + 4
    if isinstance(layer, nn.AvgPool2d):
        return math.prod(_pair(layer.kernel_size)) + 4
    return 8 if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)) else 0


def _pair(value: Any) -> tuple[int, int]:
    return value if isinstance(value, tuple) else (value, value)
