"""Repair of weights: nearby weights that prove non-separability or cancel features."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy import sparse
from scipy.linalg import LinAlgError, cho_factor, cho_solve
from scipy.sparse.linalg import LinearOperator, minres

from sklearn_robust._array_api import Array
from sklearn_robust.certificates._certify import (
    cleared_sum,
    non_separability_slack,
    proves_not_separable,
)
from sklearn_robust.problems import RobustProblem
from sklearn_robust.threats import face, inner_point, inside, reachable

_MAX_REPAIRS = 5  # moves of the weights, each a least-squares problem
_QUICK_REPAIRS = 2  # the first moves, by normal equations
_RIDGE = 1e-14  # share of the mean pivot that is added to each pivot of these
_NO_LACK = 1e-17  # relative lack of a condition that is below the rounding of float64 weights
# Share of the radius by which the point that a repair aims at lies inside the threat's set.
_REPAIR_INSET = 1e-12
# Share of itself below which a weight that cancelling moved is zero: it has nothing to cancel it.
_VANISHED = 1e-9
# Singular value, relative to the largest, up to which a condition on the weights repeats others.
_REPEATED_CONDITION = 1e-13


def cancelling_weights(problem: RobustProblem, weights: Array, features: Array) -> Array:
    r"""Feasible weights (n,) near given ones that cancel these features up to rounding.

    The coordinates of :math:`Z^T a` of these features are then rounding. The weights change by
    :math:`\delta` of least :math:`\sum_i \delta_i^2 / a_i`: only positive weights move, and they
    stay positive where the change is small. The sums are taken in extended arithmetic. A weight
    that no other can cancel, such as that of the only sample of a category, becomes zero.
    """
    if not len(features):
        return weights
    long = np.longdouble
    columns = problem.X[:, features]
    columns = columns.toarray() if sparse.issparse(columns) else columns
    classes = np.concatenate(problem.classes).T
    terms = np.concatenate([columns * problem.y[0][:, None], classes], axis=1).astype(long)
    n_classes = classes.shape[1]
    goal = np.append(np.zeros(columns.shape[1]), np.full(n_classes, 1 / n_classes))
    moved, plain = weights.astype(long), terms.astype(np.float64)
    term_sizes = np.abs(plain)
    for attempt in range(_MAX_REPAIRS):
        sizes = moved.astype(np.float64) @ term_sizes
        sizes = np.where(sizes > 0, sizes, 1)
        root = np.sqrt(moved).astype(np.float64)
        lack = ((goal - moved @ terms) / sizes).astype(np.float64)
        if np.abs(lack).max() <= _NO_LACK:
            break
        conditions = (root[:, None] * plain / sizes).T
        moved = np.maximum(moved + root * _least_change(conditions, lack, attempt), 0)
    moved[moved <= _VANISHED * weights] = 0
    if not all((moved @ classes) > 0):
        return weights
    return problem.balanced(moved.astype(np.float64)[None])[0]


def _least_change(conditions: Array, lack: Array, attempt: int) -> Array:
    """The change of least 2-norm that meets the conditions: by normal equations at first, whose
    error later attempts mend, then by a singular value decomposition.
    """
    if attempt < _QUICK_REPAIRS:
        gram = conditions @ conditions.T
        np.einsum("ii->i", gram)[:] += _RIDGE * gram.trace() / len(gram)
        try:
            factor = cho_factor(gram, lower=True, overwrite_a=True, check_finite=False)
            return cho_solve(factor, lack, check_finite=False) @ conditions
        except LinAlgError:
            pass
    return np.linalg.lstsq(conditions, lack, rcond=_REPEATED_CONDITION)[0]


def repaired_weights(
    problem: RobustProblem, weights: Array, interior: Array | None = None
) -> Array:
    r"""Nearby weights with :math:`Z^T a` in the threat's set; nan where none are near.

    For a ball the condition is :math:`\|Z^T a\|_q \le \epsilon`.

    Near the minimiser of the risk the weights violate this slightly. The correction
    :math:`\delta` that mends it with :math:`\sum_i \delta_i = 0` (in each class, with an intercept)
    and least :math:`\sum_i \delta_i^2 / a_i` keeps small weights small, so that a + delta stays
    non-negative.

    Parameters
    ----------
    problem : RobustProblem
        On NumPy or scipy.sparse data; the arithmetic is in float64.
    weights : ndarray of shape (k, n)
        Non-negative; scaled to the simplex (per class with an intercept) first.
    interior : ndarray of shape (k, n), optional
        Weights in the interior of the inequality. Where the correction fails, the least share of
        them that satisfies it is mixed in.

    Returns
    -------
    ndarray of shape (k, n)
        Each row proves that its problem is not robustly separable, or is nan.
    """
    problem, weights = (
        problem.simplified().in_double_arithmetic(),
        weights.astype(np.float64, copy=False),
    )
    repaired = []
    for i in range(problem.n_problems):
        row = slice(i, i + 1)
        one = problem.select(row)
        moved = _repair(one, weights[row])
        if not np.isfinite(moved).all() and interior is not None:
            moved = _mix(one, weights[row], interior[row].astype(np.float64))
        repaired.append(moved)
    return np.concatenate(repaired)


def _mix(problem: RobustProblem, weights: Array, interior: Array) -> Array:
    """The weights of one problem (1, n), mixed with the least sufficient share of interior ones."""
    weights, interior = problem.balanced(weights), problem.balanced(interior)
    violation = -non_separability_slack(problem, weights)
    room = non_separability_slack(problem, interior)
    if not room > 0 or violation == math.inf:
        proven = proves_not_separable(problem, interior)[0]
        return interior if proven else np.full_like(weights, np.nan)
    share = np.clip(violation / (violation + room), 0, 1)[:, None]
    mixed = (1 - share) * weights + share * interior
    return mixed if proves_not_separable(problem, mixed)[0] else interior


def _repair(problem: RobustProblem, weights: Array) -> Array:
    """Repaired weights of one problem, (1, n)."""
    # with this many weights Z^T a can move anywhere
    straight = problem.n_features + 2 <= weights.shape[1] or problem.radius[0] == 0
    ones = np.ones(problem.n_features)
    alike = bool(np.all(reachable(problem.threat, ones) == ones))
    # with equalities, weights at a vertex, which are few, move along its face first
    for way in (straight,) if alike or not straight else (False, True):
        repaired = _moved_inside(problem, weights, straight=way)
        if proves_not_separable(problem, repaired)[0]:
            return repaired
    return np.full_like(weights, np.nan)


def _moved_inside(problem: RobustProblem, weights: Array, *, straight: bool) -> Array:
    """The weights moved until Z^T a is in the threat's set, straight or along the nearest face."""
    threat = problem.threat
    repaired, tight = problem.balanced(weights), None
    for _ in range(_MAX_REPAIRS):
        radius = problem.attacked_radius(repaired)[0]
        inner = radius * (1 - _REPAIR_INSET)
        weighted_sum = cleared_sum(problem, repaired)[0]
        if inside(threat, weighted_sum, radius):
            break
        if straight:
            tight = sparse.eye_array(len(weighted_sum), format="csr")
            change = inner_point(threat, weighted_sum, inner) - weighted_sum
        else:
            tight, change = face(threat, weighted_sum, inner, tight)
        moved = np.maximum(repaired + _lightest_change(problem, repaired[0], tight, change), 0)
        if not all(moved[members].any() for members in problem.classes):
            break
        # negative entries are cut off: the caller checks whether that matters
        repaired = problem.balanced(moved)
    return repaired


def _lightest_change(problem: RobustProblem, weights: Array, tight: Any, change: Array) -> Array:
    r"""The delta of least sum of delta^2 / weights with tight @ Z^T delta = change.

    Its sum is zero, in each class with an intercept, and so is that with the samples' factors on
    the radius. It is :math:`D A^T \lambda` with :math:`A D A^T \lambda` = change, D the weights, by
    MINRES: that holds arrays over the conditions alone, and one over the samples. Each condition is
    taken in units of its terms' sizes.
    """
    totals = [members[0] for members in problem.classes]
    if problem.adversary is not None:
        totals.append(problem.factors)
    spread, m = tight.T, tight.shape[0]
    rows, y = problem.rows, problem.y[0]
    sizes = abs(tight) @ problem.sizes(weights[None])[0]
    sizes = np.append(sizes, [weights @ total for total in totals])
    unit = 1 / np.where(sizes > 0, sizes, 1.0)

    def of_samples(v: Array) -> Array:
        v = unit * v
        delta = rows.scores((spread @ v[:m])[None])[0]
        delta *= y
        for multiplier, total in zip(v[m:].tolist(), totals, strict=True):
            if total.dtype == bool:
                np.add(delta, multiplier, out=delta, where=total)
            else:
                delta += multiplier * total
        delta *= weights
        return delta

    def product(v: Array) -> Array:
        delta = of_samples(v)
        sums = [
            delta.sum(where=total) if total.dtype == bool else total @ delta for total in totals
        ]
        delta *= y
        return unit * np.append(tight @ rows.weighted_sum(delta[None])[0], sums)

    goal = unit * np.concatenate([change, np.zeros(len(totals))])
    operator = LinearOperator((len(goal), len(goal)), matvec=product, dtype=np.float64)
    tiny = np.finfo(np.float64).eps
    return of_samples(minres(operator, goal, rtol=tiny, maxiter=5 * len(goal))[0])
