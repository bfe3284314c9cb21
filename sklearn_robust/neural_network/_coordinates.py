r"""The coordinates z = (x - c) / s in which a network is trained.

A network whose first layer is linear is the same function in the coordinates of the features and in
z, with

.. math:: W_z = W s, \qquad b_z = b + W c.

The threat is the same too: a perturbation of x by :math:`\delta` is one of z by :math:`\delta / s`.
Training alone differs, because steps are taken on :math:`W_z, b_z`. The threat is an l_q ball.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sklearn_robust.neural_network._sets import CutBalls

# Total weight, and mean, standard deviation and size of each feature.
Moments = tuple[float, np.ndarray, np.ndarray, np.ndarray]

_ROUNDING = 16 * np.finfo(np.float32).eps  # share of the size: a deviation below it is none


def moments(rows: np.ndarray, weight: np.ndarray) -> Moments:
    """Those of rows (n, d) with weights (n,); the size is the largest absolute value, or 1."""
    share = (weight / weight.sum()).astype(np.float64)
    size = np.abs(rows).max(axis=0).astype(np.float64)  # squares of it might overflow
    size[size == 0] = 1
    scaled = rows / size
    mean = share @ scaled
    return float(weight.sum()), mean * size, size * np.sqrt(share @ (scaled - mean) ** 2), size


@dataclass(frozen=True)
class Coordinates:
    """Centre c and spread s of each feature, as arrays of shape (d,)."""

    centre: np.ndarray
    spread: np.ndarray

    @classmethod
    def of(cls, parts: Sequence[Moments], sets: CutBalls, *, centred: bool) -> Coordinates:
        r"""Those in which features and perturbations are of size 1 at most.

        s is the standard deviation, or where that is less the largest of half the upper quartile of
        the non-zero ones, so that a feature that hardly varies is not blown up, and the size
        :math:`\epsilon s_j d^{-1/q}` of a perturbation of the threat that moves all features. It is
        1 for a feature that neither varies nor moves.

        Parameters
        ----------
        parts : sequence of Moments
            Sums of parts of the samples.
        sets : CutBalls
            Where the adversary may move the samples.
        centred : bool
            Whether c is the mean; else it is zero.
        """
        weights, means, deviations, sizes = (
            np.stack(values) for values in zip(*parts, strict=True)
        )
        share = weights / weights.sum()
        mean, size = share @ means, sizes.max(axis=0)
        deviation = size * np.sqrt(
            share @ ((deviations / size) ** 2 + (means / size - mean / size) ** 2)
        )
        varying = deviation > _ROUNDING * size
        floor = 0.5 * np.quantile(deviation[varying], 0.75) if varying.any() else 0.0
        moved = sets.reach(len(mean))
        spread = np.maximum(np.maximum(np.where(varying, deviation, 0.0), floor), moved)
        spread[spread == 0] = 1
        return cls(mean if centred else np.zeros_like(mean), spread)

    def rows(self, rows: np.ndarray) -> np.ndarray:
        """z of rows of features, in their dtype."""
        z = (rows - self.centre) / self.spread
        return z.astype(rows.dtype)

    def scale(self, scale: np.ndarray | None) -> np.ndarray:
        """The scale of the adversary in z."""
        return (1.0 if scale is None else scale) / self.spread

    def clip(self, clip: Any) -> Any:
        """The box of the perturbed samples in z."""
        if clip is None:
            return None
        return tuple((bound - self.centre) / self.spread for bound in clip)

    @torch.no_grad()
    def leave(self, module: nn.Module) -> None:
        """Turn a network of z into the same network of x."""
        weight, bias, centre, spread = self._tensors(module)
        weight /= spread
        if bias is not None:
            bias -= weight @ centre

    @torch.no_grad()
    def enter(self, module: nn.Module) -> None:
        """Turn a network of x into the same network of z."""
        weight, bias, centre, spread = self._tensors(module)
        if bias is not None:
            bias += weight @ centre
        weight *= spread

    @contextmanager
    def inside(self, module: nn.Module) -> Iterator[None]:
        """The network takes z for a while."""
        self.enter(module)
        try:
            yield
        finally:
            self.leave(module)

    def _tensors(self, module: nn.Module) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
        """Weight and bias of the first layer; centre and spread like them."""
        layer = next(part for part in module.modules() if isinstance(part, nn.Linear))
        centre, spread = (
            torch.as_tensor(values).to(layer.weight) for values in (self.centre, self.spread)
        )
        return layer.weight, layer.bias, centre, spread
