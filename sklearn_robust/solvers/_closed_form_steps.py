r"""Steps of steepest descent in place, for p = 1, 2 and inf against q = 2 and inf: those of
`steepest_descent`, in few calls.

Each step takes the problems of one p from `coef` to `moved` along the weighted_sum :math:`Z^T a`.
The path keeps :math:`Z^T a` by weights of sum `total` times the total_weight that is meant, and
`penalty_weight` is eps times this total_weight. A step is None where there is no short cut: at w =
0 against q = 2, and where coordinates tie for p = 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from sklearn_robust.solvers._batch import Number, Shape

# the decrease of the log-risk that the slope promises; the subgradient_norm, the dual norm of the
# subgradient that was followed; where only one coordinate moved, which and how far
Step = tuple[Number, Number, Any, Number]


@dataclass(frozen=True)
class Part:
    """The problems of one geometry in a batch, and room to compute in.

    Attributes
    ----------
    p, q : float
    rows : slice
    shape : Shape
    weighted_sum : vectors of length d
        Of the path; filled by it.
    work, other : vectors of length d
    flags : vectors of bool of length d
    high, low : factors
    """

    p: float
    q: float
    rows: slice
    shape: Shape
    weighted_sum: np.ndarray
    work: np.ndarray
    other: np.ndarray
    flags: np.ndarray
    high: np.ndarray
    low: np.ndarray


def closed_form_step(
    part: Part,
    coef: np.ndarray,
    moved: np.ndarray,
    total: Number,
    penalty_weight: Number,
    step: Number,
) -> Step | None:
    """One step of every problem of the part, into `moved`."""
    if part.p == 2 and part.q == math.inf:
        return _proximal_step(part, coef, moved, total, penalty_weight, step)
    if not _subgradient(part, coef, total, penalty_weight, spare=moved):
        return None
    return {1: _coordinate_step, 2: _gradient_step, math.inf: _sign_step}[part.p](
        part, coef, moved, step
    )


def _proximal_step(
    part: Part,
    coef: np.ndarray,
    moved: np.ndarray,
    total: Number,
    penalty_weight: Number,
    step: Number,
) -> Step:
    """p = 2, q = inf: a step along the weighted_sum, then the soft threshold, the proximal step of
    the
    penalty.
    """
    shape, work, cut = part.shape, part.work, step * penalty_weight
    np.copyto(moved, coef)
    shape.add(moved, step / total, part.weighted_sum)
    part.high[...], part.low[...] = cut, -cut
    np.minimum(moved, part.high, out=work)
    np.maximum(work, part.low, out=work)
    np.subtract(moved, work, moved)
    np.subtract(moved, coef, work)
    square = shape.dot(work, work)
    return square / step, shape.sqrt(square) / step, None, 0.0


def _gradient_step(part: Part, coef: np.ndarray, moved: np.ndarray, step: Number) -> Step:
    """p = 2, q = 2: a step against the gradient."""
    shape, subgradient = part.shape, part.work
    np.copyto(moved, coef)
    shape.add(moved, -step, subgradient)
    square = shape.dot(subgradient, subgradient)
    return step * square, shape.sqrt(square), None, 0.0


def _sign_step(part: Part, coef: np.ndarray, moved: np.ndarray, step: Number) -> Step:
    """p = inf: all coordinates move equally far; against q = inf they stop at zero."""
    shape, subgradient, change = part.shape, part.work, part.other
    subgradient_norm = shape.size(subgradient)
    np.sign(subgradient, change)
    np.copyto(moved, coef)
    shape.add(moved, -step * subgradient_norm, change)
    if part.q == 2:
        return step * subgradient_norm * subgradient_norm, subgradient_norm, None, 0.0
    np.multiply(coef, moved, change)
    np.less(change, 0, part.flags)
    np.copyto(moved, 0, where=part.flags)
    np.subtract(coef, moved, change)
    return shape.dot(subgradient, change), subgradient_norm, None, 0.0


def _coordinate_step(part: Part, coef: np.ndarray, moved: np.ndarray, step: Number) -> Step | None:
    """p = 1: the steepest coordinate moves; against q = inf it stops at zero."""
    shape, subgradient, size = part.shape, part.work, part.other
    np.abs(subgradient, size)
    j, at = shape.largest(size)
    subgradient_norm, slope, before = (
        shape.entry(size, at),
        shape.entry(subgradient, at),
        shape.entry(coef, at),
    )
    part.high[...] = subgradient_norm * (1 - 16 * np.finfo(size.dtype).eps)
    np.greater_equal(size, part.high, part.flags)
    if np.count_nonzero(part.flags) > size.size // size.shape[-1]:
        return None
    after = before - step * slope
    if part.q == math.inf:
        after = after * (after * before >= 0)
    np.copyto(moved, coef)
    shape.put(moved, at, after)
    change = after - before
    return -slope * change, subgradient_norm, j, change


def _subgradient(
    part: Part, coef: np.ndarray, total: Number, penalty_weight: Number, *, spare: np.ndarray
) -> bool:
    """The subgradient of the log-risk of least size, into part.work; False where there is no short
    cut.
    """
    shape, subgradient = part.shape, part.work
    part.high[...] = penalty_weight
    if part.q == math.inf:
        weighted_sum = part.other
        part.low[...] = 1 / total
        np.multiply(part.weighted_sum, part.low, weighted_sum)
        part.low[...] = -penalty_weight
        # at zero the penalty cancels of the weighted_sum what it can
        np.minimum(weighted_sum, part.high, out=subgradient)
        np.maximum(subgradient, part.low, out=subgradient)
        np.sign(coef, spare)
        np.multiply(spare, part.high, spare)
        np.copyto(subgradient, spare, where=np.not_equal(coef, 0, part.flags))
        np.subtract(subgradient, weighted_sum, subgradient)
        return True
    square = shape.dot(coef, coef)
    if not shape.all_between(0, square, math.inf):
        return False
    part.high[...] = penalty_weight / shape.sqrt(square)
    np.multiply(coef, part.high, subgradient)
    shape.add(subgradient, -1 / total, part.weighted_sum)
    return True
