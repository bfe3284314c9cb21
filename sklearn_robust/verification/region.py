"""Where the adversary may move each sample: an l_q ball, cut by a box."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from sklearn_robust.norms import LpNorm


@dataclass(frozen=True)
class Region:
    r"""The sets :math:`\{x' : \|x' - x\|_q \le \epsilon,\; low \le x' \le high\}` of n samples.

    Attributes
    ----------
    x : tensor of shape (n, *shape)
    eps : tensor of shape (n,)
    norm : LpNorm
    lower, upper : tensors of shape (n, *shape)
        The smallest box around each set.
    clipped : bool
        Whether there is a box apart from the ball.
    """

    x: Tensor
    eps: Tensor
    norm: LpNorm
    lower: Tensor
    upper: Tensor
    clipped: bool

    @classmethod
    def around(cls, x: Tensor, eps: Tensor, norm: LpNorm, clip: tuple[Tensor, Tensor] | None) -> Self:
        """The sets around x, in the box `clip` = (low, high), both broadcast to the shape of x."""
        reach = eps.view(-1, *[1] * (x.ndim - 1))
        lower, upper = x - reach, x + reach
        if clip is not None:
            lower, upper = torch.maximum(lower, clip[0]), torch.minimum(upper, clip[1])
        return cls(x, eps, norm, lower, upper, clip is not None)

    @property
    def is_box(self) -> bool:
        """Whether the sets equal the boxes around them."""
        return self.norm.p == math.inf

    def minimum(self, coef: Tensor) -> Tensor:
        r"""A lower bound on min <c, x'>: exact for the box alone (q = inf) and for the ball alone (no clip).

        Otherwise the better of two: the minimum over the box, and the minimum over the ball without the coordinates that
        the box forbids to move, :math:`\langle c, x\rangle - \epsilon \|c\|_{q^*}`.

        Parameters
        ----------
        coef : tensor of shape (n, s, *shape), or (1, s, *shape) for the same functions on all samples

        Returns
        -------
        tensor of shape (n, s)
        """
        over_box = box_minimum(coef, self.lower, self.upper)
        if self.is_box:
            return over_box
        c = coef.flatten(2)
        size = self._movable_size(c) if self.clipped else self.norm.dual.value(c)
        over_ball = products(c, self.x.flatten(1)) - self.eps.unsqueeze(1) * size
        return torch.maximum(over_box, over_ball) if self.clipped else over_ball

    def _movable_size(self, c: Tensor) -> Tensor:
        """||c||_q* over the coordinates that the box lets move against c, of shape (n, s)."""
        down, up = (self.lower < self.x).flatten(1), (self.upper > self.x).flatten(1)
        p = self.norm.dual.p
        if p == math.inf:
            return torch.where(torch.where(c > 0, down.unsqueeze(1), up.unsqueeze(1)), c.abs(), 0).amax(dim=2)
        scale = c.abs().amax(dim=2)
        c = c / torch.where(scale > 0, scale, 1).unsqueeze(2)  # no power overflows
        falls, rises = c.clamp(min=0) ** p, (-c).clamp(min=0) ** p  # products: no array of n times s times d entries
        return scale * (products(falls, down.to(c.dtype)) + products(rises, up.to(c.dtype))) ** (1 / p)


def box_minimum(coef: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """The least <c, h> over lower <= h <= upper, of shape (n, s), for coef (n, s, *shape) or (1, s, *shape)."""
    c = coef.flatten(2)
    return products(c, ((lower + upper) / 2).flatten(1)) - products(c.abs(), ((upper - lower) / 2).flatten(1))


def products(coef: Tensor, x: Tensor) -> Tensor:
    """<c, x> of each sample and function, (n, s), for coef (n or 1, s, d) and x (n, d)."""
    return x @ coef[0].T if len(coef) == 1 else torch.einsum("nsd,nd->ns", coef, x)
