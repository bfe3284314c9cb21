r"""Exact separators of several classes whose samples are known by sums: constraint generation.

The rounds are those of two classes (`working_sets`). A set of samples is solved in memory against
all rivals; one sweep finds the least margin of all samples, and those of least margin below that of
the set. The weights of a set prove the bound for all. Threats are l_q balls.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklearn_robust._documentation import see
from sklearn_robust.certificates import Certified
from sklearn_robust.joint import JointProblem
from sklearn_robust.joint_certificates import best_intercept, certify, robust_margin
from sklearn_robust.norms import Norm
from sklearn_robust.separators._engine_choice import DEFAULT_TOL
from sklearn_robust.separators._joint_ratio import certified_ratio, ratio_intercept
from sklearn_robust.separators.joint import (
    largest_joint_distance,
    maximise_joint_margin,
    reachable_tol,
    solve_joint_separator,
)
from sklearn_robust.separators.separator import NotSeparableError
from sklearn_robust.separators.summed import Least, LeastRows, SummedSeparator, drawn_rows
from sklearn_robust.separators.working_sets import RowSet, places_to_keep, solve_in_rounds
from sklearn_robust.summed import Samples, SummedJointProblem

# norm of a pair of classes that differ in features of scale 0 only: their ratio is beyond any other
_NO_SIZE = 1e-200


def separate_joint_sums(
    problem: SummedJointProblem, norm: Norm, tol: float = DEFAULT_TOL
) -> SummedSeparator:
    """The robust separator of least norm of several classes, of samples in blocks.

    Parameters
    ----------
    problem : SummedJointProblem
    norm : Norm
        An `LpNorm` or a `SchattenNorm` on the K d coefficients.
    tol : float
        Certified relative gap of the margin to reach; the caller judges what was reached.

    Raises
    ------
    NotSeparableError
        If no robust separator exists; its weights are of a few samples, which prove it for all.
    RuntimeError
        If neither a separator nor a proof was found.
    """
    tol = reachable_tol(norm, tol)

    def solve(part: JointProblem, gap: float) -> Certified:
        return maximise_joint_margin(part, norm, max(gap, tol))

    best, rows = solve_in_rounds(_RowsOfMargins(problem, norm), tol, solve)
    found = _of_least_norm(problem, norm, SummedSeparator(best, rows))
    if found.certified.margin > 0:
        return found
    star = largest_joint_summed_distance(problem, tol)
    if star.certified.coef.any():  # below eps* its separator is robust, if not that of least norm
        weights = star.certified.weights
        part = problem_of_joint_rows(problem, star.rows)
        on_part = certify(part, norm, star.certified.coef, weights)
        at_radius = _of_least_norm(problem, norm, replace(star, certified=on_part))
        if at_radius.certified.margin > 0:
            return at_radius
    try:  # no separator of a few samples is none of all
        solve_joint_separator(problem_of_joint_rows(problem, rows), norm, tol)
    except NotSeparableError as error:
        raise NotSeparableError(
            error.eps,
            max(star.certified.margin, 0.0),
            error.weights,
            error.fit_intercept,
            error.perturbations,
        ) from None
    raise RuntimeError(
        f"The solvers neither found a robust separator for eps={problem.radius:.8g} nor proved "
        f"that there is none: eps* lies between {star.certified.margin:.8g} and "
        f"{star.certified.bound:.8g}. Scale the features to similar sizes."
        f" {see('questions', 'separable_-is-none')}"
    )


def largest_joint_summed_distance(
    problem: SummedJointProblem, tol: float = DEFAULT_TOL
) -> SummedSeparator:
    """eps* of several classes, of samples in blocks; the radius of the problem is not read.

    Margin and bound enclose it; the coefficients are zero where nothing separates the samples.
    Margin and bound are inf where features of scale 0 alone separate them.

    Raises
    ------
    RuntimeError
        If every solver failed.
    """
    plain = replace(problem, radius=0.0)
    best, rows = solve_in_rounds(_RowsOfRatios(plain), tol, largest_joint_distance)
    coef = best.coef
    margins = _pair_margins(plain, coef)
    intercept = np.zeros(len(coef))
    if plain.fit_intercept:
        intercept = ratio_intercept(margins, plain.form.at_radius(1.0).penalties(coef))
    smallest = _smallest(margins, intercept)
    if smallest > 0:
        coef, intercept = coef / smallest, intercept / smallest
    margin = float(plain.total_of_parts(_RatioOf(coef, intercept)).value)
    if margin > 0 and best.margin == math.inf:
        margin = math.inf
    if not margin > 0:
        coef, intercept = np.zeros_like(coef), np.zeros(len(coef))
        margin = 0.0
    return SummedSeparator(replace(best, coef=coef, intercept=intercept, margin=margin), rows)


def problem_of_joint_rows(problem: SummedJointProblem, rows: RowSet) -> JointProblem:
    """The problem of some of the samples, in memory."""
    n = len(rows.y)
    log_weight = np.full(n, -math.log(n))
    return replace(problem.form, X=rows.X, y=rows.y, log_weight=log_weight)


def _of_least_norm(
    problem: SummedJointProblem, norm: Norm, found: SummedSeparator
) -> SummedSeparator:
    """The predictor with its best intercepts, and its margin on all samples less its rounding."""
    coef = found.certified.coef
    margins = _pair_margins(problem, coef)
    intercept = best_intercept(margins)[0] if problem.fit_intercept else np.zeros(len(coef))
    smallest = _smallest(margins, intercept)
    if smallest > 0:
        coef, intercept = coef / smallest, intercept / smallest
    margin = float(problem.total_of_parts(_MarginOf(norm, coef, intercept)).value)
    certified = replace(found.certified, coef=coef, intercept=intercept, margin=margin)
    return replace(found, certified=certified)


def _pair_margins(problem: SummedJointProblem, coef: np.ndarray) -> np.ndarray:
    """The least robust margin of each class against each rival, without intercepts, (K, K)."""
    margins: np.ndarray = problem.total_of_parts(_PairMargins(coef)).value
    return margins


def _smallest(margins: np.ndarray, intercept: np.ndarray) -> float:
    """The least margin with intercepts."""
    return float(np.min(margins + intercept[:, None] - intercept))


class _Rows(ABC):
    """The samples of a problem that is known by sums; see `Sweeps`."""

    whole: SummedJointProblem

    @property
    def shape(self) -> tuple[int, int]:
        survey, K = self.whole.survey, len(self.whole.classes)
        return survey.n, survey.n_features * (K - 1)

    def problem(self, chosen: RowSet) -> JointProblem:
        """The problem of some of the rows alone."""
        return problem_of_joint_rows(self.whole, chosen)

    def first(self, count: int) -> RowSet:
        """Rows at random, the same at every call, alike many of each class."""
        return drawn_rows(self.whole, tuple(self.whole.codes), count)

    def kept(self, part: JointProblem, answer: Certified, n_near: int) -> NDArray[np.intp]:
        """See `Sweeps.kept`."""
        least = self._sweep_of(part, answer, 0).margins(part)
        classes = [part.y == k for k in range(part.n_classes)]
        return places_to_keep(answer.weights.sum(axis=0), least, classes, n_near)

    def sweep(self, part: JointProblem, answer: Certified, count: int) -> tuple[float, RowSet]:
        """The margin on all rows, and the rows of least margin below that of the set."""
        if not answer.coef.any():
            return -math.inf, RowSet.of(np.empty((0, part.n_features)), np.empty(0, dtype=int))
        swept = self.whole.total_of_parts(self._sweep_of(part, answer, count))
        return min(answer.margin, swept.least), swept.below.rows()

    @abstractmethod
    def _sweep_of(self, part: JointProblem, answer: Certified, count: int) -> _SweepOf:
        """The sweep of the answer of a set over samples."""


@dataclass(frozen=True)
class _RowsOfMargins(_Rows):
    """Samples whose margins are robust, and relative to a norm."""

    whole: SummedJointProblem
    norm: Norm

    def _sweep_of(self, part: JointProblem, answer: Certified, count: int) -> _SweepOf:
        size = np.full((part.n_classes,) * 2, float(self.norm.value(answer.coef.ravel())))
        penalties = part.penalties(answer.coef)
        return _SweepOf(answer.coef, answer.intercept, penalties, size, answer.margin, count)


@dataclass(frozen=True)
class _RowsOfRatios(_Rows):
    """Samples whose margins are plain, and relative to the dual norms of the pairs of classes."""

    whole: SummedJointProblem

    def sweep(self, part: JointProblem, answer: Certified, count: int) -> tuple[float, RowSet]:
        """See `Sweeps.sweep`."""
        least, below = super().sweep(part, answer, count)
        if answer.margin == math.inf:
            least = math.inf if least > 0 else -math.inf
        return least, below

    def _sweep_of(self, part: JointProblem, answer: Certified, count: int) -> _SweepOf:
        if answer.margin == math.inf:  # features of scale 0 alone: the smallest margin is 1
            level, sizes = 1.0, np.ones((part.n_classes,) * 2)
        else:
            level, sizes = answer.margin, part.at_radius(1.0).penalties(answer.coef)
            sizes = np.where(sizes > 0, sizes, _NO_SIZE)
        nothing = np.zeros_like(sizes)
        return _SweepOf(answer.coef, answer.intercept, nothing, sizes, level, count)


@dataclass(frozen=True)
class _Swept:
    """The least margin, and the rows of least margin below a level."""

    least: float
    below: LeastRows

    def __add__(self, other: _Swept) -> _Swept:
        return _Swept(min(self.least, other.least), self.below + other.below)


@dataclass(frozen=True)
class _SweepOf:
    """The sweep of a predictor (K, d), (K,) over samples; see `_Swept`.

    Margins are less the penalties of the pairs, over their sizes, both (K, K).
    """

    coef: np.ndarray
    intercept: np.ndarray
    penalties: np.ndarray
    sizes: np.ndarray
    level: float
    count: int

    def __call__(self, problem: JointProblem) -> _Swept:
        margins = self.margins(problem)
        rows: Any = problem.rows  # arrays
        samples = Samples(rows, problem.y, problem.log_weight)
        below = np.flatnonzero(margins < self.level)
        return _Swept(float(margins.min()), LeastRows.of(self.count, margins, samples, below))

    def margins(self, problem: JointProblem) -> np.ndarray:
        """The margin of each sample against its closest rival, (m,)."""
        least = np.empty(len(problem.y))
        for at, rows in problem.row_blocks():
            scores = rows.scores(self.coef)
            places = np.arange(scores.shape[1])
            losses = problem.losses(scores, self.penalties, self.intercept, at, places)
            least[at] = np.min(-losses / self.sizes[:, problem.y[at]], axis=0)
        return least


@dataclass(frozen=True)
class _PairMargins:
    """The least robust margins of the pairs of classes on samples, without intercepts."""

    coef: np.ndarray

    def __call__(self, problem: JointProblem) -> Least:
        return Least(problem.pair_margins(self.coef, problem.penalties(self.coef)))


@dataclass(frozen=True)
class _MarginOf:
    """The robust margin of a predictor on samples, less its rounding."""

    norm: Norm
    coef: np.ndarray
    intercept: np.ndarray

    def __call__(self, problem: JointProblem) -> Least:
        return Least(robust_margin(problem, self.norm, self.coef, self.intercept))


@dataclass(frozen=True)
class _RatioOf:
    """The least ratio of plain margin and norm of a pair on samples, less its rounding."""

    coef: np.ndarray
    intercept: np.ndarray

    def __call__(self, problem: JointProblem) -> Least:
        return Least(certified_ratio(problem, self.coef, self.intercept))
