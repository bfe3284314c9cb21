r"""Programs with far more rows than columns, or the reverse, by a sequence of small programs.

Few samples carry weight at a solution, and for p = 1, or p = 2 against l_inf perturbations, few
features are used. The program is solved on a set of rows (or columns) that is likely to hold them,
its answer is certified on all of them, and the violated rows (or columns) are added, until the gap
is reached. Early rounds are solved roughly.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sklearn_robust.certificates import Certified, Point, best_intercept
from sklearn_robust.separators._max_margin_form import (
    MaxMarginForm,
    SolverFailure,
    Vector,
)
from sklearn_robust.separators.interior_point import solve_interior_point
from sklearn_robust.separators.refinement import refined

# Sizes from which working sets pay, by the measurements in docs/guide/solvers.md
_TALL_RATIO = 8  # rows for each column
_WIDE_RATIO = 4  # columns for each row
_LARGE_ENTRIES = 500_000  # entries of X

# Rounds
_MAX_SET_ROUNDS = 40
_ROUGH_GAP = 1e-3  # certified relative gap of early rounds
_FINE_GAP_SHARE = 0.3  # certified relative gap of the last rounds, relative to tol
# violated rows or columns, relative to min(n, d), up to which the set is nearly right
_FEW_VIOLATIONS = 0.02
# violated rows, relative to d, above which rows without weight leave the set
_CROWDED = 0.05
_CARRIED_WEIGHT = 1e-3  # weight, relative to the largest, above which a row carries weight then
# bound on the margin, in units of the rows' root mean square, that is zero up to rounding
_ZERO_FORM_BOUND = 1e-12


def suits_row_sets(program: MaxMarginForm) -> bool:
    """Whether there are many entries, and many more rows than columns."""
    n, d = program.rows.shape
    return n * d >= _LARGE_ENTRIES and n > _TALL_RATIO * d


def suits_column_sets(program: MaxMarginForm) -> bool:
    """Whether there are many entries, many more columns than rows, and few in the solution."""
    n, d = program.rows.shape
    few_used = program.scale is None and (
        program.p == 1 or (program.soft_threshold and program.eps > 0)
    )
    return n * d >= _LARGE_ENTRIES and d > _WIDE_RATIO * n and few_used


def solve_on_row_sets(program: MaxMarginForm, tol: float = 1e-9) -> Point:
    """Solve a program with many more rows than columns, by the interior point on sets of rows.

    Parameters
    ----------
    program : MaxMarginForm
        Dense or sparse.
    tol : float
        Certified relative gap on all rows.

    Returns
    -------
    Point

    Raises
    ------
    SolverFailure
        If too many rounds pass before the gap is reached.
    """
    n, d = program.rows.shape
    chosen, rough = _first_rows(program, 2 * d), _ROUGH_GAP
    for _ in range(_MAX_SET_ROUNDS):
        labels = None if program.labels is None else program.labels[chosen]
        part = replace(program, rows=program.rows[chosen], labels=labels).dense()
        small = _solve_part(part, rough)
        point = Point(small.coef, np.zeros(n))
        point.weights[chosen] = small.weights
        scores = program.rows @ small.coef
        if _is_solved(program.certify(point, scores, small.weights @ part.rows), tol):
            return point
        if program.labels is not None:
            scores = scores + program.labels * best_intercept(scores[chosen], part.classes)[0]
        inside = np.zeros(n, dtype=bool)
        inside[chosen] = True
        violated = np.flatnonzero(~inside & (scores < scores[chosen].min()))
        if not len(violated) and rough < tol:
            return point  # as far as rounding allows
        if len(violated) > _CROWDED * d:
            chosen = _kept(program, chosen, small.weights, scores[chosen], int(1.5 * d))
        chosen = np.concatenate([chosen, violated[np.argsort(scores[violated])][:d]])
        rough = _next_gap(program, len(violated), tol)
    raise SolverFailure("row sets: the gap was not reached")


def solve_on_column_sets(program: MaxMarginForm, tol: float = 1e-9) -> Point:
    """Solve a program with many more columns than rows, by the interior point on sets of columns.

    Parameters
    ----------
    program : MaxMarginForm
        With p = 1, or with p = 2, dual_q = 1 and eps > 0; dense or sparse.
    tol : float
        Certified relative gap with all columns.

    Returns
    -------
    Point

    Raises
    ------
    SolverFailure
        If too many rounds pass before the gap is reached.
    """
    n, d = program.rows.shape
    chosen = np.argsort(-np.abs(np.ones(n) @ program.rows))[: 4 * n]
    rough = _ROUGH_GAP
    for _ in range(_MAX_SET_ROUNDS):
        part = replace(program, rows=program.rows[:, chosen]).dense()
        small = _solve_part(part, rough)
        point = Point(np.zeros(d), small.weights)
        point.coef[chosen] = small.coef
        scores, weighted_sum = part.rows @ small.coef, small.weights @ program.rows
        if _is_solved(program.certify(point, scores, weighted_sum), tol):
            return point
        # |Z^T a|_j of an unused feature is at most the answer's bound (p = 1), or eps (p = 2)
        allowed = program.eps
        if program.p == 1:
            allowed = part.certify(small, scores, weighted_sum[chosen]).bound
        strength = np.abs(weighted_sum) / small.weights.sum()
        strength[chosen] = 0
        violated = np.flatnonzero(strength > allowed)
        if not len(violated) and rough < tol:
            return point  # as far as rounding allows
        strongest = violated[np.argsort(-strength[violated])]
        chosen = np.concatenate([chosen, strongest[: max(2 * n, len(violated) // 2)]])
        rough = _next_gap(program, len(violated), tol)
    raise SolverFailure("column sets: the gap was not reached")


def _solve_part(part: MaxMarginForm, gap: float) -> Certified:
    """The answer on a set of rows or columns, to this gap."""
    return refined(part, solve_interior_point(part, gap), gap)[0]


def _is_solved(certified: Certified, tol: float) -> bool:
    return certified.bound <= _ZERO_FORM_BOUND or certified.gap <= tol


def _next_gap(program: MaxMarginForm, n_violated: int, tol: float) -> float:
    """The gap of the next round: rough while the set misses many rows or columns."""
    many = n_violated > _FEW_VIOLATIONS * min(program.rows.shape)
    return _ROUGH_GAP if many else _FINE_GAP_SHARE * tol


def _first_rows(program: MaxMarginForm, size: int) -> Vector:
    """Rows at random, the same at every call, of both classes."""
    order = np.random.default_rng(0).permutation(program.rows.shape[0])
    return _keeping_both_classes(program, order, size)


def _kept(
    program: MaxMarginForm, chosen: Vector, weights: Vector, scores: Vector, size: int
) -> Vector:
    """The chosen rows that carry weight, and those of least score up to `size` rows in all.

    Without a row that carries weight the next bound would rise, and the row would come back.
    """
    carries = weights > _CARRIED_WEIGHT * weights.max()
    order = np.lexsort([scores, ~carries])
    return _keeping_both_classes(program, chosen[order], max(size, int(carries.sum())))


def _keeping_both_classes(program: MaxMarginForm, order: Vector, size: int) -> Vector:
    """The first rows in this order; with an intercept also the first row of each class.

    Without rows of both classes the program is unbounded.
    """
    chosen = order[:size]
    if program.labels is not None:
        for side in (-1, 1):
            if not (program.labels[chosen] == side).any():
                chosen = np.append(chosen, order[program.labels[order] == side][:1])
    return chosen
