r"""Steps of steepest descent in closed form, for p = 1, 2 and inf against q = 2 and inf.

Each step takes one problem from `coef` to `moved` along the weighted sum :math:`Z^T a`. The path
keeps :math:`Z^T a` for weights that are `total` times the dual weights a, and `penalty_weight` is
eps times the sum of a. A step is None where there is no closed form: at w = 0 against q = 2, and
where coordinates tie for p = 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from sklearn_robust.solvers._vectors import Blas, room_like

# Machine epsilons: entries that differ by less from the largest, relative to it, are tied with it.
_TIED = 16


class Step(NamedTuple):
    """The outcome of a step.

    Attributes
    ----------
    predicted_decrease : float
        The decrease of the log-risk that the slope predicts.
    subgradient_norm : float
        The dual norm of the subgradient that was followed.
    coordinate : int or None
        The coordinate that moved, where it is the only one.
    change : float
        The change of this coordinate.
    """

    predicted_decrease: float
    subgradient_norm: float
    coordinate: int | None = None
    change: float = 0.0


@dataclass(frozen=True)
class Room:
    """The pair of norms of one problem, and room to compute in.

    Attributes
    ----------
    p, q : float
    blas : Blas
    weighted_sum : vector of length d
        The path's weighted sum Z^T a, which it fills before each step.
    work, other : vectors of length d
    flags : vector of bool of length d
    high, low : arrays without axes
        Numbers in arithmetic with vectors, which takes less time than with a float.
    """

    p: float
    q: float
    blas: Blas
    weighted_sum: np.ndarray
    work: np.ndarray
    other: np.ndarray
    flags: np.ndarray
    high: np.ndarray
    low: np.ndarray

    @classmethod
    def like(cls, p: float, q: float, coef: np.ndarray) -> Room:
        """Room for vectors like the coefficients."""
        weighted_sum, work, other = (room_like(coef) for _ in range(3))
        flags = np.empty(coef.shape, dtype=bool)
        high, low = (np.empty((), coef.dtype) for _ in range(2))
        return cls(p, q, Blas.of(coef.dtype), weighted_sum, work, other, flags, high, low)

    @property
    def has_closed_form(self) -> bool:
        """Whether steps of this pair have a closed form at most points."""
        return self.q in (2, math.inf) and self.p in (1, 2, math.inf)


def closed_form_step(
    room: Room,
    coef: np.ndarray,
    moved: np.ndarray,
    total: float,
    penalty_weight: float,
    step: float,
) -> Step | None:
    """One step from `coef`, into `moved`."""
    if room.p == 2 and room.q == math.inf:
        return _proximal_step(room, coef, moved, total, penalty_weight, step)
    subgradient_into = _box_subgradient if room.q == math.inf else _ball_subgradient
    if not subgradient_into(room, coef, total, penalty_weight, spare=moved):
        return None
    take = {1: _coordinate_step, 2: _gradient_step, math.inf: _sign_step}[room.p]
    return take(room, coef, moved, step)


def _proximal_step(
    room: Room,
    coef: np.ndarray,
    moved: np.ndarray,
    total: float,
    penalty_weight: float,
    step: float,
) -> Step:
    """p = 2, q = inf: a step along the weighted sum, then the soft threshold, the proximal step of
    the penalty: w+ = v - clip(v, -t, t) with v = w + eta Z^T a and t = eta eps.
    """
    work, cut = room.work, step * penalty_weight
    np.copyto(moved, coef)
    room.blas.axpy(room.weighted_sum, moved, a=step / total)
    room.high[...], room.low[...] = cut, -cut
    np.minimum(moved, room.high, out=work)
    np.maximum(work, room.low, out=work)
    np.subtract(moved, work, moved)
    np.subtract(moved, coef, work)
    square = room.blas.dot(work, work)
    return Step(square / step, math.sqrt(square) / step)


def _gradient_step(room: Room, coef: np.ndarray, moved: np.ndarray, step: float) -> Step:
    """p = 2, q = 2: a step against the gradient."""
    subgradient = room.work
    np.copyto(moved, coef)
    room.blas.axpy(subgradient, moved, a=-step)
    square = room.blas.dot(subgradient, subgradient)
    return Step(step * square, math.sqrt(square))


def _sign_step(room: Room, coef: np.ndarray, moved: np.ndarray, step: float) -> Step:
    """p = inf: all coordinates move equally far; against q = inf they stop at zero."""
    subgradient, change = room.work, room.other
    subgradient_norm = room.blas.size(subgradient)
    np.sign(subgradient, change)
    np.copyto(moved, coef)
    room.blas.axpy(change, moved, a=-step * subgradient_norm)
    if room.q == 2:
        return Step(step * subgradient_norm * subgradient_norm, subgradient_norm)
    np.multiply(coef, moved, change)
    np.less(change, 0, room.flags)
    np.copyto(moved, 0, where=room.flags)
    np.subtract(coef, moved, change)
    return Step(room.blas.dot(subgradient, change), subgradient_norm)


def _coordinate_step(room: Room, coef: np.ndarray, moved: np.ndarray, step: float) -> Step | None:
    """p = 1: the steepest coordinate moves; against q = inf it stops at zero."""
    subgradient, size = room.work, room.other
    np.abs(subgradient, size)
    j = int(size.argmax())
    subgradient_norm = size.item(j)
    slope, before = subgradient.item(j), coef.item(j)
    room.high[...] = subgradient_norm * (1 - _TIED * np.finfo(size.dtype).eps)
    np.greater_equal(size, room.high, room.flags)
    if np.count_nonzero(room.flags) > 1:
        return None
    after = before - step * slope
    if room.q == math.inf and after * before < 0:
        after = 0.0
    np.copyto(moved, coef)
    moved[j] = after
    change = after - before
    return Step(-slope * change, subgradient_norm, j, change)


def _box_subgradient(
    room: Room, coef: np.ndarray, total: float, penalty_weight: float, *, spare: np.ndarray
) -> bool:
    """q = inf: the least subgradient of the log-risk, eps s - Z^T a, into room.work.

    There s = sign(w) where w is not zero; elsewhere s in [-1, 1] makes the entry least in size.
    """
    subgradient, weighted_sum = room.work, room.other
    room.low[...] = 1 / total
    np.multiply(room.weighted_sum, room.low, weighted_sum)
    room.high[...], room.low[...] = penalty_weight, -penalty_weight
    np.minimum(weighted_sum, room.high, out=subgradient)
    np.maximum(subgradient, room.low, out=subgradient)
    np.sign(coef, spare)
    np.multiply(spare, room.high, spare)
    np.copyto(subgradient, spare, where=np.not_equal(coef, 0, room.flags))
    np.subtract(subgradient, weighted_sum, subgradient)
    return True


def _ball_subgradient(
    room: Room, coef: np.ndarray, total: float, penalty_weight: float, *, spare: np.ndarray
) -> bool:
    """q = 2: the gradient eps w / ||w||_2 - Z^T a, into room.work; False at w = 0, without one."""
    subgradient = room.work
    square = room.blas.dot(coef, coef)
    if not 0 < square < math.inf:
        return False
    room.high[...] = penalty_weight / math.sqrt(square)
    np.multiply(coef, room.high, subgradient)
    room.blas.axpy(room.weighted_sum, subgradient, a=-1 / total)
    return True
