r"""Steps of steepest descent in place, for p = 1, 2 and inf against q = 2 and inf: those of
`steepest_descent`, in few calls.

Each step takes the problems of one p from `coef` to `moved` along the pull :math:`Z^T a`. The path
keeps :math:`Z^T a` by weights of sum `total` times the mass that is meant, and `toll` is eps times
this mass. A step is None where there is no short cut: at w = 0 against q = 2, and where coordinates
tie for p = 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from sklearn_robust.solvers._batch import Number, Shape

# the decrease of the log-risk that the slope promises; the speed, the dual norm of the subgradient
# that was followed; where only one coordinate moved, which and how far
Step = tuple[Number, Number, Any, Number]


@dataclass(frozen=True)
class Part:
    """The problems of one geometry in a batch, and room to compute in.

    Attributes
    ----------
    p, q : float
    rows : slice
    shape : Shape
    pull : vectors of length d
        Of the path; filled by it.
    work, other : vectors of length d
    flags : vectors of bool of length d
    high, low : factors
    """

    p: float
    q: float
    rows: slice
    shape: Shape
    pull: np.ndarray
    work: np.ndarray
    other: np.ndarray
    flags: np.ndarray
    high: np.ndarray
    low: np.ndarray


def step_in_place(
    part: Part, coef: np.ndarray, moved: np.ndarray, total: Number, toll: Number, step: Number
) -> Step | None:
    """One step of every problem of the part, into `moved`."""
    if part.p == 2 and part.q == math.inf:
        return _proximal_step(part, coef, moved, total, toll, step)
    if not _velocity(part, coef, total, toll, spare=moved):
        return None
    return {1: _coordinate_step, 2: _gradient_step, math.inf: _sign_step}[part.p](
        part, coef, moved, step
    )


def _proximal_step(
    part: Part, coef: np.ndarray, moved: np.ndarray, total: Number, toll: Number, step: Number
) -> Step:
    """p = 2, q = inf: a step along the pull, then the soft threshold, the proximal step of the
    penalty.
    """
    shape, work, cut = part.shape, part.work, step * toll
    np.copyto(moved, coef)
    shape.add(moved, step / total, part.pull)
    part.high[...], part.low[...] = cut, -cut
    np.minimum(moved, part.high, out=work)
    np.maximum(work, part.low, out=work)
    np.subtract(moved, work, moved)
    np.subtract(moved, coef, work)
    square = shape.dot(work, work)
    return square / step, shape.sqrt(square) / step, None, 0.0


def _gradient_step(part: Part, coef: np.ndarray, moved: np.ndarray, step: Number) -> Step:
    """p = 2, q = 2: a step against the gradient."""
    shape, velocity = part.shape, part.work
    np.copyto(moved, coef)
    shape.add(moved, -step, velocity)
    square = shape.dot(velocity, velocity)
    return step * square, shape.sqrt(square), None, 0.0


def _sign_step(part: Part, coef: np.ndarray, moved: np.ndarray, step: Number) -> Step:
    """p = inf: all coordinates move equally far; against q = inf they stop at zero."""
    shape, velocity, change = part.shape, part.work, part.other
    speed = shape.size(velocity)
    np.sign(velocity, change)
    np.copyto(moved, coef)
    shape.add(moved, -step * speed, change)
    if part.q == 2:
        return step * speed * speed, speed, None, 0.0
    np.multiply(coef, moved, change)
    np.less(change, 0, part.flags)
    np.copyto(moved, 0, where=part.flags)
    np.subtract(coef, moved, change)
    return shape.dot(velocity, change), speed, None, 0.0


def _coordinate_step(part: Part, coef: np.ndarray, moved: np.ndarray, step: Number) -> Step | None:
    """p = 1: the steepest coordinate moves; against q = inf it stops at zero."""
    shape, velocity, size = part.shape, part.work, part.other
    np.abs(velocity, size)
    j, at = shape.largest(size)
    speed, slope, before = shape.entry(size, at), shape.entry(velocity, at), shape.entry(coef, at)
    part.high[...] = speed * (1 - 16 * np.finfo(size.dtype).eps)
    np.greater_equal(size, part.high, part.flags)
    if np.count_nonzero(part.flags) > size.size // size.shape[-1]:
        return None
    after = before - step * slope
    if part.q == math.inf:
        after = after * (after * before >= 0)
    np.copyto(moved, coef)
    shape.put(moved, at, after)
    change = after - before
    return -slope * change, speed, j, change


def _velocity(
    part: Part, coef: np.ndarray, total: Number, toll: Number, *, spare: np.ndarray
) -> bool:
    """The subgradient of the log-risk of least size, into part.work; False where there is no short
    cut.
    """
    shape, velocity = part.shape, part.work
    part.high[...] = toll
    if part.q == math.inf:
        pull = part.other
        part.low[...] = 1 / total
        np.multiply(part.pull, part.low, pull)
        part.low[...] = -toll
        # at zero the penalty cancels of the pull what it can
        np.minimum(pull, part.high, out=velocity)
        np.maximum(velocity, part.low, out=velocity)
        np.sign(coef, spare)
        np.multiply(spare, part.high, spare)
        np.copyto(velocity, spare, where=np.not_equal(coef, 0, part.flags))
        np.subtract(velocity, pull, velocity)
        return True
    square = shape.dot(coef, coef)
    if not shape.all_between(0, square, math.inf):
        return False
    part.high[...] = toll / shape.sqrt(square)
    np.multiply(coef, part.high, velocity)
    shape.add(velocity, -1 / total, part.pull)
    return True
