"""Architectures: fully connected networks and the convolutional network of the paper."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from sklearn_robust.verification.layers import alteration

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "identity": nn.Identity,
}


def make_mlp(
    n_inputs: int,
    n_outputs: int,
    hidden_layer_sizes: Sequence[int] = (100,),
    *,
    activation: str = "relu",
    bias: bool = True,
    init_scale: float = 1.0,
    generator: torch.Generator | None = None,
) -> nn.Sequential:
    r"""A fully connected network on flat inputs.

    Every weight and bias starts uniform on :math:`\pm \text{init_scale} / \sqrt{\text{number of
    inputs of its layer}}`.

    Parameters
    ----------
    n_inputs, n_outputs : int
    hidden_layer_sizes : sequence of int, default=(100,)
        Width of each hidden layer; () gives a linear model.
    activation : {"relu", "leaky_relu", "tanh", "gelu", "identity"}, default="relu"
    bias : bool, default=True
        False with "relu" gives a homogeneous network.
    init_scale : float, default=1.0
    generator : torch.Generator, optional
        Source of the initial values; torch's global one by default.

    Returns
    -------
    torch.nn.Sequential

    Examples
    --------
    >>> from sklearn_robust.neural_network.modules import make_mlp
    >>> make_mlp(784, 1, (200,), bias=False)
    Sequential(
      (0): Linear(in_features=784, out_features=200, bias=False)
      (1): ReLU()
      (2): Linear(in_features=200, out_features=1, bias=False)
    )
    """
    sizes = [n_inputs, *hidden_layer_sizes, n_outputs]
    layers: list[nn.Module] = []
    for n_in, n_out in itertools.pairwise(sizes):
        layers += [
            _uniform(
                nn.utils.skip_init(nn.Linear, n_in, n_out, bias=bias), n_in, init_scale, generator
            )
        ]
        layers += [ACTIVATIONS[activation]()]
    return nn.Sequential(*layers[:-1])


def madry_cnn(
    input_shape: Sequence[int] = (1, 28, 28),
    n_outputs: int = 10,
    *,
    channels: tuple[int, int] = (32, 64),
    width: int = 1024,
    bias: bool = True,
    init_scale: float = 1.0,
    generator: torch.Generator | None = None,
) -> nn.Sequential:
    """The convolutional network of Madry et al. (2018) for MNIST, which the paper trains.

    Two 5 x 5 convolutions with ReLU and 2 x 2 max pooling, then a hidden layer of ReLU units.

    Parameters
    ----------
    input_shape : sequence of three int, default=(1, 28, 28)
        Channels, height and width; height and width multiples of 4.
    n_outputs : int, default=10
    channels : pair of int, default=(32, 64)
        Output channels of the two convolutions; fewer are quicker on a CPU.
    width : int, default=1024
        Units of the hidden layer.
    bias, init_scale, generator
        As in `make_mlp`.

    Returns
    -------
    torch.nn.Sequential

    References
    ----------
    Madry, Makelov, Schmidt, Tsipras, Vladu, "Towards deep learning models resistant to adversarial
    attacks", ICLR 2018.

    Examples
    --------
    >>> import torch
    >>> from sklearn_robust.neural_network import madry_cnn
    >>> madry_cnn((1, 28, 28), 10)(torch.zeros(5, 1, 28, 28)).shape
    torch.Size([5, 10])
    """
    if len(input_shape) != 3 or input_shape[1] % 4 or input_shape[2] % 4:
        raise ValueError(
            f"input_shape must be (channels, height, width), height and width multiples of 4, got "
            f"{tuple(input_shape)!r}."
        )
    n_channels, height, breadth = input_shape
    first, second = channels
    flat = second * (height // 4) * (breadth // 4)
    conv1 = nn.utils.skip_init(nn.Conv2d, n_channels, first, 5, padding=2, bias=bias)
    conv2 = nn.utils.skip_init(nn.Conv2d, first, second, 5, padding=2, bias=bias)
    hidden = nn.utils.skip_init(nn.Linear, flat, width, bias=bias)
    output = nn.utils.skip_init(nn.Linear, width, n_outputs, bias=bias)
    for layer, n_in in (
        (conv1, 25 * n_channels),
        (conv2, 25 * first),
        (hidden, flat),
        (output, width),
    ):
        _uniform(layer, n_in, init_scale, generator)
    return nn.Sequential(
        conv1,
        nn.ReLU(),
        nn.MaxPool2d(2),
        conv2,
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        hidden,
        nn.ReLU(),
        output,
    )


def homogeneity(module: nn.Module) -> int | None:
    """The L with f(x; c theta) = c^L f(x; theta) for all c > 0; None if the module is not known to
    be homogeneous.

    Known are chains of linear and convolutional layers without biases, ReLUs, pooling and
    flattening.

    Parameters
    ----------
    module : torch.nn.Module

    Returns
    -------
    int or None
    """
    neutral = (
        nn.ReLU,
        nn.LeakyReLU,
        nn.Identity,
        nn.Flatten,
        nn.Unflatten,
        nn.MaxPool2d,
        nn.AvgPool2d,
    )
    if type(module) is not nn.Sequential:
        return None
    depth = 0
    for layer in module:
        if type(layer) in (nn.Linear, nn.Conv2d) and layer.bias is None:
            depth += 1
        elif type(layer) not in neutral:
            return None
    return None if not depth or any(alteration(part) for part in module.modules()) else depth


@torch.no_grad()
def _uniform(
    layer: nn.Module, n_in: int, scale: float, generator: torch.Generator | None
) -> nn.Module:
    bound = scale / math.sqrt(n_in)
    for parameter in layer.parameters():
        _: Tensor = parameter.uniform_(-bound, bound, generator=generator)
    return layer
