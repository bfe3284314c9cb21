r"""Steps of steepest descent against q = inf in place, for p = 1, 2 and inf: those of `steepest_descent`, in few calls.

Each step takes the problems of one p from `coef` to `moved` along the pull :math:`Z^T a`. The path keeps :math:`Z^T a` by
weights of sum `total` times the mass that is meant, and `toll` is eps times this mass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from sklearn_robust.solvers._batch import Number, Shape


@dataclass(frozen=True)
class Part:
    """The problems of one geometry in a batch, and room to compute in.

    Attributes
    ----------
    p : float
    rows : slice
    shape : Shape
    pull : vectors of length d
        Of the path; filled by it.
    work, other : vectors of length d
    flags : vectors of bool of length d
    """

    p: float
    rows: slice
    shape: Shape
    pull: np.ndarray
    work: np.ndarray
    other: np.ndarray
    flags: np.ndarray


def gradient_step(
    part: Part, coef: np.ndarray, moved: np.ndarray, *, total: Number, toll: Number, step: Number
) -> tuple[Number, Number]:
    """p = 2: a step along the pull, then the proximal step of the penalty. Returns the promised decrease and the speed."""
    shape, work = part.shape, part.work
    np.multiply(part.pull, shape.factor(step / total), out=moved)
    moved += coef
    cut = shape.factor(step * toll)
    np.minimum(moved, cut, out=work)
    np.maximum(work, -cut, out=work)
    moved -= work
    np.subtract(moved, coef, out=work)
    square = shape.dot(work, work)
    return square / step, shape.sqrt(square) / step


def sign_step(
    part: Part, coef: np.ndarray, moved: np.ndarray, *, total: Number, toll: Number, step: Number
) -> tuple[Number, Number]:
    """p = inf: all coordinates move equally far and stop at zero. Returns the promised decrease and the speed."""
    shape, velocity, change = part.shape, part.work, part.other
    _velocity(part, coef, total, toll, spare=moved)
    np.sign(velocity, out=change)
    speed = shape.dot(velocity, change)
    change *= shape.factor(step * speed)
    np.subtract(coef, change, out=moved)
    np.multiply(coef, moved, out=change)
    np.less(change, 0, out=part.flags)
    np.copyto(moved, 0, where=part.flags)
    np.subtract(coef, moved, out=change)
    return shape.dot(velocity, change), speed


def coordinate_step(
    part: Part, coef: np.ndarray, moved: np.ndarray, *, total: Number, toll: Number, step: Number
) -> tuple[Number, Number, Any, Number] | None:
    """p = 1: the steepest coordinate moves, and stops at zero; None if several tie.

    Returns the promised decrease, the speed, the coordinates and their changes.
    """
    velocity, size = part.work, part.other
    _velocity(part, coef, total, toll, spare=moved)
    np.abs(velocity, out=size)
    j = size.argmax(axis=-1)
    at = j if coef.ndim == 1 else (np.arange(len(j)), j)
    speed = part.shape.number(np.atleast_1d(size[at]))
    np.greater_equal(size, part.shape.factor(speed * (1 - 16 * np.finfo(coef.dtype).eps)), out=part.flags)
    if np.count_nonzero(part.flags) > size.size // size.shape[-1]:
        return None
    before, slope = (part.shape.number(np.atleast_1d(x[at])) for x in (coef, velocity))
    after = before - step * slope
    after = after * (after * before >= 0)
    np.copyto(moved, coef)
    moved[at] = part.shape.array(after)[0] if coef.ndim == 1 else after[:, 0]
    change = after - before
    return -slope * change, speed, j, change


def _velocity(part: Part, coef: np.ndarray, total: Number, toll: Number, *, spare: np.ndarray) -> None:
    """The subgradient of least size, into part.work."""
    velocity, pull, toll = part.work, part.other, part.shape.factor(toll)
    np.multiply(part.pull, part.shape.factor(1 / total), out=pull)
    np.minimum(pull, toll, out=velocity)  # at zero the penalty cancels of the pull what it can
    np.maximum(velocity, -toll, out=velocity)
    np.sign(coef, out=spare)
    spare *= toll
    np.not_equal(coef, 0, out=part.flags)
    np.copyto(velocity, spare, where=part.flags)
    velocity -= pull
