r"""The separator of least 2-norm against l_inf perturbations, or none, by semismooth Newton steps.

The dual of :math:`\min \tfrac12 \|w\|_2^2` subject to :math:`z_i \cdot w - \epsilon \|w\|_1 \ge 1`
has one unknown a sample,

.. math:: \min_{l \ge 0} \; \tfrac12 \|w(l)\|_2^2 - \sum_i l_i, \qquad
   w(l) = \mathrm{soft}\big(Z^T l, \; \epsilon \textstyle\sum_i l_i\big),

piecewise quadratic with gradient :math:`z_i \cdot w - \epsilon \|w\|_1 - 1`. A Newton step solves a
system over the samples that carry weight and the features that w uses; once both sets are right the
next step is the exact solution. It takes a handful of steps where the samples are no more than the
features and eps is not close to eps*.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import sparse
from scipy.linalg import LinAlgError, cho_factor, cho_solve
from scipy.linalg.blas import dsyrk, ssyrk

from sklearn_robust.certificates import Point, relative_gap
from sklearn_robust.separators._max_margin_form import MaxMarginForm, SolverFailure, Vector

_MAX_NEWTON_STEPS = 30  # a handful is usual; the interior-point method takes the time of as many
# Next to eps* steps are many, and the bound falls far in the first of them: to less than this share
# after so many steps the method gives up, where there is an adversary.
_FIRST_STEPS, _FALLEN_FAR = 4, 0.27
_LAST_GAP = 1e-12  # relative gap up to which no step is left to make
# Share of the mean pivot that is added to each pivot: the system is singular where rows repeat.
_MEAN_PIVOT_RIDGE = 1e-10
# Entries of the rows from which their products are of single precision, and steps with these
_SINGLE_ENTRIES, _SINGLE_STEPS = 500_000, 8
# 2-norm of w, relative to the sum of the weights, that is zero, for rows of size 1
_ZERO_NORM = 1e-40

# Line search
_MAX_HALVINGS = 40
_ROUNDING = 1e-14  # predicted decrease, relative to the dual, that rounding hides
_DUAL_DECREASE = 1e-4  # share of the predicted decrease of the dual that a step must bring


def suits(program: MaxMarginForm) -> bool:
    """Whether it is dense, n <= d, without intercept, p = 2, and q = inf or no adversary."""
    n, d = program.rows.shape
    return (
        program.soft_threshold
        and program.labels is None
        and n <= d
        and not sparse.issparse(program.rows)
    )


def solve_semismooth_newton(
    program: MaxMarginForm, tol: float = 1e-9, start: Vector | None = None
) -> Point:
    """Solve to a certified relative gap of tol.

    Parameters
    ----------
    program : MaxMarginForm
        Dense, with p = 2, no intercept, and dual_q = 1 or eps = 0.
    tol : float
    start : ndarray of shape (n,), optional
        Weights to start from, such as those of a smaller eps.

    Returns
    -------
    Point

    Raises
    ------
    SolverFailure
        If the gap is not reached, as near eps* or with more samples than features: the
        interior-point method serves these programs better.
    """
    Z, eps = program.rows, program.eps
    weights = np.full(len(Z), 1 / len(Z)) if start is None else start
    w, reached = _primal(Z, weights, eps), False
    first = math.inf  # the first bound
    # with eps = 0 the products Z Z^T of all rows stay the same; large ones are of single precision
    # until that no longer suffices for a step, for margins are computed anew in double precision
    single = eps == 0 and Z.size >= _SINGLE_ENTRIES
    gram = None if eps > 0 else _gram(Z, single=single)
    for i in range(_MAX_NEWTON_STEPS):
        square, total_weight = float(w @ w), float(weights.sum())
        if square <= (_ZERO_NORM * total_weight) ** 2:
            # the weights prove that no separator exists, or only one of no margin to speak of
            return Point(w, weights)
        # the point of least dual value on the ray through the weights
        scale = total_weight / square
        weights, w = scale * weights, scale * w
        square, total_weight = scale**2 * square, scale * total_weight
        margins = Z @ w - eps * np.abs(w).sum()
        size = np.sqrt(square)
        bound = size / total_weight
        gap = relative_gap(float(margins.min()) / size, bound)
        if gap <= _LAST_GAP or reached:
            return Point(w, weights)
        reached = gap <= tol  # one more step makes it exact
        first = bound if i == 0 else first
        if i == _FIRST_STEPS and eps > 0 and bound < _FALLEN_FAR * first:
            raise SolverFailure("semismooth Newton: eps is close to eps*")
        gradient = margins - 1
        free = (weights > 0) | (gradient < 0)
        step = _newton_step(
            _used_gram(Z, w, eps, free) if gram is None else gram[np.ix_(free, free)],
            gradient[free],
        )
        moved, value = None, 0.5 * square - total_weight
        if step is not None:
            moved = _line_search(Z, eps, weights, gradient, free, step, value)
        if moved is None and reached:  # rounding alone is left
            return Point(w, weights)
        if moved is None and not single:
            raise SolverFailure("semismooth Newton: no step decreases the dual")
        if single and (moved is None or i == _SINGLE_STEPS):
            single, gram = False, _gram(Z, single=False)
        weights, w = moved or (weights, w)
    raise SolverFailure(f"semismooth Newton: not converged in {_MAX_NEWTON_STEPS} steps")


def _primal(Z: Vector, weights: Vector, eps: float) -> Vector:
    """The predictor w(l) of weights l."""
    weighted_sum = weights @ Z
    if eps == 0:
        return weighted_sum
    return weighted_sum - np.clip(weighted_sum, -eps * weights.sum(), eps * weights.sum())


def _gram(Z: Vector, *, single: bool) -> Vector:
    """Z Z^T; lower triangle."""
    rows = np.ascontiguousarray(Z, dtype=np.float32 if single else None)
    syrk = ssyrk if single else dsyrk
    return syrk(1.0, rows.T, trans=1, lower=1)


def _used_gram(Z: Vector, w: Vector, eps: float, free: Vector) -> Vector:
    """The Gram matrix of the free rows less eps sign(w), where w is not zero; lower triangle."""
    used = np.flatnonzero(w)
    rows = (Z if free.all() else Z[free]).take(used, axis=1)
    rows -= eps * np.sign(w[used])
    return dsyrk(1.0, rows.T, trans=1, lower=1)


def _newton_step(gram: Vector, gradient: Vector) -> Vector | None:
    """The step of the free weights to margins of 1, if the features in use stay the same; None
    where the system is singular.
    """
    pivots = np.einsum("ii->i", gram)
    pivots += _MEAN_PIVOT_RIDGE * pivots.mean()
    try:
        factor = cho_factor(gram, lower=True, overwrite_a=True, check_finite=False)
    except LinAlgError:
        return None
    return -cho_solve(factor, gradient, check_finite=False)


def _line_search(
    Z: Vector,
    eps: float,
    weights: Vector,
    gradient: Vector,
    free: Vector,
    step: Vector,
    value: float,
) -> tuple[Vector, Vector] | None:
    """Weights and their w after a step with a sufficient decrease of the dual; None without one.

    Steps are halved from the first, and projected on l >= 0.
    """
    length = 1.0
    for _ in range(_MAX_HALVINGS):
        moved = weights.copy()
        moved[free] = np.maximum(weights[free] + length * step, 0)
        w = _primal(Z, moved, eps)
        predicted = float(gradient @ (moved - weights))
        decreases = 0.5 * float(w @ w) - moved.sum() <= value + _DUAL_DECREASE * predicted
        # the last steps change the dual by less than its rounding, but margins by more than theirs
        if decreases or abs(predicted) <= _ROUNDING * abs(value):
            return moved, w
        length *= 0.5
    return None
