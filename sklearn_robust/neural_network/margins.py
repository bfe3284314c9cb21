r"""Normalised margins of networks that are homogeneous in their parameters.

A network homogeneous of degree L has :math:`f(x; c\theta) = c^L f(x; \theta)`, so that its margins
compare between networks, and along training, only over the L-th power of a norm:

.. math:: \gamma = \frac{\min_i \min_{k \ne y_i} f_{y_i}(x_i) - f_k(x_i)}{\|\theta\|^L}.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from sklearn.utils import check_array
from torch import Tensor, nn

from sklearn_robust._documentation import see
from sklearn_robust.attacks.losses import logit_margins
from sklearn_robust.attacks.target import class_of_each, evaluating, off_device
from sklearn_robust.neural_network.modules import homogeneity

_IDENTITIES = (nn.Sequential, nn.Flatten, nn.Identity)  # they leave flat inputs as they are


@torch.no_grad()
def normalised_margins(
    module: nn.Module, X: Any, y: Any, norms: Sequence[float | str]
) -> np.ndarray:
    r"""The smallest margin of a homogeneous network over the L-th power of each norm of its
    parameters.

    Parameters
    ----------
    module : torch.nn.Module
        Homogeneous, see `homogeneity`.
    X : array-like or tensor of shape `(n, *shape)`
    y : int array-like of shape (n,)
        Index of the class of each sample, from 0.
    norms : sequence of float, "spectral" or "nuclear"
        An exponent is that of the norm of all parameters as one vector. "spectral" is the largest
        singular value of any layer, "nuclear" the sum of the singular values of all layers.

    Returns
    -------
    ndarray of shape (len(norms),)

    Raises
    ------
    ValueError
        If the module is not known to be homogeneous, or y does not hold indices of its classes.

    Examples
    --------
    >>> import torch
    >>> from sklearn_robust.neural_network.margins import normalised_margins
    >>> linear = torch.nn.Linear(2, 1, bias=False)
    >>> with torch.no_grad():
    ...     _ = linear.weight.copy_(torch.tensor([[3.0, 4.0]]))
    >>> normalised_margins(torch.nn.Sequential(linear), [[1.0, 0.5], [0.0, -2.0]], [1, 0], [1, 2])
    array([0.71428571, 1.        ])
    """
    degree = degree_of(module)
    like = next(module.parameters())
    samples = check_array(off_device(X), allow_nd=True, dtype=np.float64, input_name="X")
    with evaluating(module):
        outputs = module(torch.as_tensor(samples).to(like))
    index = class_of_each(y, len(samples), outputs.shape[1]).to(like.device)
    least = float(logit_margins(outputs, index).min())
    matrices = [p.detach().double().flatten(1) for p in module.parameters()]
    return np.array([least / _norm(matrices, norm) ** degree for norm in norms])


def degree_of(module: nn.Module) -> int:
    """The degree of a homogeneous network of finite parameters, or an error."""
    degree = homogeneity(module if type(module) is nn.Sequential else nn.Sequential(module))
    if degree is None:
        raise ValueError(
            f"model must be homogeneous in its parameters, which {type(module).__name__} is not "
            "known to be: use a torch.nn.Sequential of layers with bias=False, ReLUs and pooling, "
            "and a column of ones in X in place of biases."
            f" {see('guide/networks')}"
        )
    if not all(bool(torch.isfinite(parameter).all()) for parameter in module.parameters()):
        raise ValueError("model must have finite parameters, got nan or inf: training diverged.")
    return degree


def linear_coef(module: nn.Module) -> np.ndarray | None:
    """The coefficients of a module that is one linear layer, of shape (K, d), or (1, d) for two
    classes; None of others.
    """
    layers = [part for part in module.modules() if type(part) not in _IDENTITIES]
    if len(layers) != 1 or not isinstance(layers[0], nn.Linear):
        return None
    coef: np.ndarray = layers[0].weight.detach().cpu().double().numpy()
    if len(coef) == 2:
        raise ValueError(
            "model must have one output for two classes, positive for class 1, got a linear layer "
            "with 2: give it the difference of the two rows."
        )
    return coef


def _norm(matrices: list[Tensor], norm: float | str) -> float:
    if isinstance(norm, str):
        values = [torch.linalg.svdvals(matrix) for matrix in matrices]
        total = torch.stack([v.amax() if norm == "spectral" else v.sum() for v in values])
        return float(total.amax() if norm == "spectral" else total.sum()) or math.nan
    parts = torch.stack([torch.linalg.vector_norm(matrix, norm) for matrix in matrices])
    return float(torch.linalg.vector_norm(parts, norm)) or math.nan
