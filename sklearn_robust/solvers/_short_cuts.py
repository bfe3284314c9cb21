r"""Steps of steepest descent in place, for p = 1, 2 and inf against q = 2 and inf: those of `steepest_descent`, in few calls.

Each step takes the problems of one p from `coef` to `moved` along the pull :math:`Z^T a`. The path keeps :math:`Z^T a` by
weights of sum `total` times the mass that is meant, and `toll` is eps times this mass. A step returns None where it has no
short cut: at w = 0 against q = 2, and where coordinates tie for p = 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from sklearn_robust.solvers._batch import Number, Shape


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
    """

    p: float
    q: float
    rows: slice
    shape: Shape
    pull: np.ndarray
    work: np.ndarray
    other: np.ndarray
    flags: np.ndarray


class Step(NamedTuple):
    """What is known of a step.

    Attributes
    ----------
    promised : Number
        Decrease of the log-risk along the slope.
    speed : Number
        Dual norm of the subgradient that was followed.
    coordinate, change : index and Number, or None
        Where only one coordinate moved: which, and how far.
    """

    promised: Number
    speed: Number
    coordinate: Any = None
    change: Number = None


def step_in_place(
    part: Part, coef: np.ndarray, moved: np.ndarray, *, total: Number, toll: Number, step: Number
) -> Step | None:
    """One step of every problem of the part, into `moved`."""
    if part.p == 2 and part.q == math.inf:
        return _proximal_step(part, coef, moved, total, toll, step)
    if not _velocity(part, coef, total, toll, spare=moved):
        return None
    return {1: _coordinate_step, 2: _gradient_step, math.inf: _sign_step}[part.p](part, coef, moved, step)


def _proximal_step(part: Part, coef: np.ndarray, moved: np.ndarray, total: Number, toll: Number, step: Number) -> Step:
    """p = 2, q = inf: a step along the pull, then the soft threshold, the proximal step of the penalty."""
    shape, work = part.shape, part.work
    np.multiply(part.pull, shape.factor(step / total), out=moved)
    moved += coef
    cut = shape.factor(step * toll)
    np.minimum(moved, cut, out=work)
    np.maximum(work, -cut, out=work)
    moved -= work
    np.subtract(moved, coef, out=work)
    square = shape.dot(work, work)
    return Step(square / step, shape.sqrt(square) / step)


def _gradient_step(part: Part, coef: np.ndarray, moved: np.ndarray, step: Number) -> Step:
    """p = 2, q = 2: a step against the gradient."""
    np.multiply(part.work, part.shape.factor(-step), out=moved)
    moved += coef
    square = part.shape.dot(part.work, part.work)
    return Step(step * square, part.shape.sqrt(square))


def _sign_step(part: Part, coef: np.ndarray, moved: np.ndarray, step: Number) -> Step:
    """p = inf: all coordinates move equally far; against q = inf they stop at zero."""
    shape, velocity, change = part.shape, part.work, part.other
    np.sign(velocity, out=change)
    speed = shape.dot(velocity, change)
    change *= shape.factor(step * speed)
    np.subtract(coef, change, out=moved)
    if part.q == math.inf:
        np.multiply(coef, moved, out=change)
        np.less(change, 0, out=part.flags)
        np.copyto(moved, 0, where=part.flags)
        np.subtract(coef, moved, out=change)
    return Step(shape.dot(velocity, change), speed)


def _coordinate_step(part: Part, coef: np.ndarray, moved: np.ndarray, step: Number) -> Step | None:
    """p = 1: the steepest coordinate moves; against q = inf it stops at zero."""
    shape, velocity, size = part.shape, part.work, part.other
    np.abs(velocity, out=size)
    j, at = shape.largest(size)
    speed, slope, before = (shape.entry(x, at) for x in (size, velocity, coef))
    np.greater_equal(size, shape.factor(speed * (1 - 16 * np.finfo(size.dtype).eps)), out=part.flags)
    if np.count_nonzero(part.flags) > size.size // size.shape[-1]:
        return None
    after = before - step * slope
    if part.q == math.inf:
        after = after * (after * before >= 0)
    np.copyto(moved, coef)
    shape.put(moved, at, after)
    change = after - before
    return Step(-slope * change, speed, j, change)


def _velocity(part: Part, coef: np.ndarray, total: Number, toll: Number, *, spare: np.ndarray) -> bool:
    """The subgradient of the log-risk of least size, into part.work; False where there is no short cut."""
    shape, velocity, pull = part.shape, part.work, part.other
    np.multiply(part.pull, shape.factor(1 / total), out=pull)
    if part.q == 2:
        square = shape.dot(coef, coef)
        if not shape.all_between(0, square, math.inf):
            return False
        np.multiply(coef, shape.factor(toll / shape.sqrt(square)), out=velocity)
    else:
        toll = shape.factor(toll)
        np.minimum(pull, toll, out=velocity)  # at zero the penalty cancels of the pull what it can
        np.maximum(velocity, -toll, out=velocity)
        np.sign(coef, out=spare)
        spare *= toll
        np.not_equal(coef, 0, out=part.flags)
        np.copyto(velocity, spare, where=part.flags)
    velocity -= pull
    return True
