"""Modules as names and numbers: what copies, pickles and files of skops hold of them.

A module is a structure, and arrays of its parameters and buffers. The structure of a
`torch.nn.Sequential` of common layers is a list of their names and options, so that anything that
saves dicts and arrays saves the network. That of any other module is a copy of the module without
the data of its tensors, which needs pickle.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sklearn_robust.neural_network._passes import is_plain

Layers = list[tuple[str, dict[str, Any]]]  # the kind and the options of each

_BATCH_NORM = ("num_features", "eps", "momentum", "affine", "track_running_stats")
_OPTIONS: dict[type[nn.Module], tuple[str, ...]] = {
    nn.Linear: ("in_features", "out_features", "bias"),
    nn.Conv2d: (
        "in_channels",
        "out_channels",
        "kernel_size",
        "stride",
        "padding",
        "dilation",
        "groups",
        "bias",
        "padding_mode",
    ),
    nn.BatchNorm1d: _BATCH_NORM,
    nn.BatchNorm2d: _BATCH_NORM,
    nn.MaxPool2d: ("kernel_size", "stride", "padding", "dilation", "return_indices", "ceil_mode"),
    nn.AvgPool2d: (
        "kernel_size",
        "stride",
        "padding",
        "ceil_mode",
        "count_include_pad",
        "divisor_override",
    ),
    nn.Flatten: ("start_dim", "end_dim"),
    nn.Dropout: ("p", "inplace"),
    nn.ReLU: ("inplace",),
    nn.LeakyReLU: ("negative_slope", "inplace"),
    nn.Tanh: (),
    nn.GELU: ("approximate",),
    nn.Identity: (),
}
_KINDS = {kind.__name__: kind for kind in _OPTIONS}


def packed(module: nn.Module) -> dict[str, Any]:
    """A module as a dict of its structure and arrays.

    Parameters
    ----------
    module : torch.nn.Module

    Returns
    -------
    dict
        "structure", "arrays", the names of the "frozen" parameters, and whether the module is
        "training".
    """
    layers = _layers(module)
    return {
        "structure": _without_data(module) if layers is None else layers,
        "arrays": {name: as_arrays(tensor) for name, tensor in _tensors(module).items()},
        "frozen": [
            name for name, parameter in module.named_parameters() if not parameter.requires_grad
        ],
        "training": module.training,
    }


def unpacked(state: dict[str, Any]) -> nn.Module:
    """The module of a dict that `packed` made, on the CPU."""
    structure = state["structure"]
    skeleton = (
        structure
        if isinstance(structure, nn.Module)
        else _sequential(structure).train(state["training"])
    )
    data: dict[int, Any] = {}
    for name, tensor in _tensors(skeleton).items():
        value = torch.from_numpy(np.array(state["arrays"][name]))
        is_parameter = isinstance(tensor, nn.Parameter)
        data[id(tensor)] = (
            nn.Parameter(value, requires_grad=name not in state["frozen"])
            if is_parameter
            else value
        )
    return copy.deepcopy(skeleton, data)


def copied(module: nn.Module) -> nn.Module:
    """A copy, of a module too that keeps results of its last pass, as those of
    `torch.nn.utils.prune` do.
    """
    return copy.deepcopy(module, _results(module))


def as_arrays(value: Any) -> Any:
    """Tensors as arrays, anywhere in dicts, lists and tuples."""
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        # NumPy has no bfloat16
        return (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    return _mapped(as_arrays, value)


def as_tensors(value: Any) -> Any:
    """Arrays as tensors with memory of their own, anywhere in dicts, lists and tuples."""
    if isinstance(value, np.ndarray):
        return torch.from_numpy(np.array(value))
    return _mapped(as_tensors, value)


def _mapped(function: Any, value: Any) -> Any:
    if isinstance(value, dict):
        return {key: function(entry) for key, entry in value.items()}
    return (
        type(value)(function(entry) for entry in value) if type(value) in (list, tuple) else value
    )


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _results(module: nn.Module) -> dict[int, Any]:
    """Copies of the tensors with a history among the attributes of a module and its parts, by
    id.
    """
    attributes = [value for part in module.modules() for value in vars(part).values()]
    return {
        id(value): value.detach().clone()
        for value in attributes
        if isinstance(value, Tensor) and not value.is_leaf
    }


def _without_data(module: nn.Module) -> nn.Module:
    empty: dict[int, Any] = _results(module)
    for tensor in _tensors(module).values():
        like = torch.empty_like(tensor, device="meta")
        empty[id(tensor)] = (
            nn.Parameter(like, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else like
        )
    return copy.deepcopy(module, empty)


def _layers(module: nn.Module) -> Layers | None:
    """The kind and options of each layer of a plain sequence of common ones; None for other
    modules.
    """
    if type(module) is not nn.Sequential or any(type(layer) not in _OPTIONS for layer in module):
        return None
    layers = [
        (type(layer).__name__, {name: _option(layer, name) for name in _OPTIONS[type(layer)]})
        for layer in module
    ]
    parts, same = list(module.modules()), list(_sequential(layers).modules())
    plain = len(parts) == len(same) and all(  # a layer that occurs twice is one part
        is_plain(part)
        and part.training == module.training
        and vars(part).keys() == vars(like).keys()
        and {n: t.shape for n, t in _tensors(part).items()}
        == {n: t.shape for n, t in _tensors(like).items()}
        for part, like in zip(parts, same, strict=True)
    )
    tied = len(dict(module.named_parameters())) < len(
        list(module.named_parameters(remove_duplicate=False))
    )
    return layers if plain and not tied else None


def _option(layer: nn.Module, name: str) -> Any:
    return layer.bias is not None if name == "bias" else getattr(layer, name)


def _sequential(layers: Layers) -> nn.Sequential:
    """The network of these layers, without data."""
    with torch.device("meta"):
        return nn.Sequential(*[_KINDS[kind](**options) for kind, options in layers])
