r"""Exact separators of samples that are known by sums alone: constraint generation over blocks.

A round solves a set of rows in memory, and one total over all blocks answers with the least score
of each class and the rows of least score below that of the set. The weights of a set bound the
margin of all rows, so the gap is certified on data that nobody has whole. Threats are l_q balls.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklearn_robust._documentation import see
from sklearn_robust.certificates import Certified, certify, robust_margin
from sklearn_robust.norms import LpNorm
from sklearn_robust.problems import RobustProblem
from sklearn_robust.scaled_norms import WeightedNorm
from sklearn_robust.separators._engine_choice import DEFAULT_TOL, maximise_rows
from sklearn_robust.separators.critical_radius import largest_distance
from sklearn_robust.separators.min_norm import solve_separator
from sklearn_robust.separators.separator import NotSeparableError
from sklearn_robust.separators.working_sets import (
    RowSet,
    Scale,
    kept_rows,
    least_places,
    row_blocks,
    solve_in_rounds,
)
from sklearn_robust.summed import Samples, SummedProblem, SummedSamples
from sklearn_robust.threats import LpBall


@dataclass(frozen=True)
class SummedSeparator:
    """A certified predictor, and the few samples that its bound is of.

    Attributes
    ----------
    certified : Certified
        The margin is measured on all samples; the weights are those of the rows below.
    rows : RowSet
    """

    certified: Certified
    rows: RowSet


def separate_sums(
    problem: SummedProblem, norm: LpNorm, tol: float = DEFAULT_TOL
) -> SummedSeparator:
    """The robust separator of least norm, of samples in blocks.

    Parameters
    ----------
    problem : SummedProblem
    norm : LpNorm
    tol : float
        Certified relative gap of the margin to reach; the caller judges what was reached.

    Raises
    ------
    NotSeparableError
        If no robust separator exists; its weights are of a few samples, which prove it for all.
    RuntimeError
        If neither a separator nor a proof was found.
    """
    best, proof = solve_in_rounds(
        _RowsOfSums(problem, norm), tol, lambda part, gap: maximise_rows(part, norm, gap)
    )
    found = _certified(problem, norm, SummedSeparator(best, proof))
    if found.certified.margin > 0:
        return found
    star = largest_summed_distance(problem, tol)
    at_radius = _certified(problem, norm, star)
    if at_radius.certified.margin > 0:
        return at_radius
    try:  # no separator of a few samples is none of all
        solve_separator(problem_of_rows(problem, found.rows), norm, tol)
    except NotSeparableError as error:
        raise NotSeparableError(
            error.eps, max(star.certified.margin, 0.0), error.weights, error.fit_intercept
        ) from None
    raise RuntimeError(
        f"The solvers neither found a robust separator for eps={problem.radius:.8g} nor proved "
        f"that there is none: eps* lies between {star.certified.margin:.8g} and "
        f"{star.certified.bound:.8g}. Scale the features to similar sizes."
        f" {see('questions', 'separable_-is-none')}"
    )


def largest_summed_distance(problem: SummedProblem, tol: float = DEFAULT_TOL) -> SummedSeparator:
    """eps*, the largest ||s w||_q* margin without adversary, of samples in blocks.

    Its margin is negative or zero where nothing separates them. Margin and bound are inf where
    features of scale 0 alone do.
    """
    rows = _RowsOfDistances(replace(problem, radius=0.0), problem.threat.dual_norm)
    best, proof = solve_in_rounds(rows, tol, largest_distance)
    found = SummedSeparator(best, proof)
    plain = replace(rows.whole, threat=LpBall(problem.threat.q, 1.0))
    if best.margin < math.inf:
        return _certified(plain, rows.norm, found)
    # no weights bound the margin; whether it is positive does not depend on the norm
    certified = _certified(plain, LpNorm(2), found).certified
    unbounded = math.inf if certified.margin > 0 else 0.0
    return SummedSeparator(replace(certified, margin=unbounded, bound=math.inf), proof)


def _certified(
    problem: SummedProblem, norm: LpNorm | WeightedNorm, found: SummedSeparator
) -> SummedSeparator:
    """The predictor with its best intercept, its margin and its bound, and all rounding charged."""
    direction, weights = found.certified.coef, found.certified.weights
    down, up = problem.total(_SweepOf(direction, 0.0, -math.inf, 0)).least
    b = 0.5 * (down - up) if problem.fit_intercept else 0.0
    smallest = min(down - b, up + b) - problem.penalty(direction)
    size = smallest if smallest > 0 else 1.0
    coef, intercept = direction / size, b / size
    part = problem_of_rows(problem, found.rows)
    on_part = certify(
        part, norm, coef[None], weights[None], np.array([intercept]), extended=True
    ).single(f"{found.certified.solver} on row sets")
    margin = summed_margin(problem, found.rows, norm, coef, intercept)
    return SummedSeparator(replace(on_part, margin=min(on_part.margin, margin)), found.rows)


def summed_margin(
    problem: SummedProblem,
    rows: RowSet,
    norm: LpNorm | WeightedNorm,
    coef: np.ndarray,
    intercept: float,
) -> float:
    """The least robust margin of all samples over the norm of the coefficients, less its rounding;
    the rows are some of them.
    """
    one = problem_of_rows(problem, rows).select(slice(0, 1))
    one = replace(one, X=one.X[:1], y=one.y[:, :1], log_weight=one.log_weight[:, :1])
    return float(problem.total(_MarginOf(one, norm, coef, intercept)).value)


def problem_of_rows(problem: SummedProblem, rows: RowSet) -> RobustProblem:
    """The problem of some of the samples, in memory."""
    return RobustProblem.from_data(
        rows.X,
        rows.y,
        q=problem.threat.q,
        eps=problem.radius,
        scale=problem.threat.scale,
        fit_intercept=problem.fit_intercept,
    )


@dataclass(frozen=True)
class _RowsOfSums:
    """The samples of a problem that is known by sums, whose keys are digests of rows."""

    whole: SummedProblem
    norm: LpNorm | WeightedNorm

    @property
    def shape(self) -> tuple[int, int]:
        return self.whole.survey.n, self.whole.survey.n_features

    def problem(self, chosen: RowSet) -> RobustProblem:
        """The problem of some of the rows alone."""
        return problem_of_rows(self.whole, chosen)

    def first(self, count: int) -> RowSet:
        """Rows at random, the same at every call; with an intercept alike many of both classes."""
        return drawn_rows(self.whole, (-1.0, 1.0) if self.whole.fit_intercept else (None,), count)

    def sweep(self, part: RobustProblem, answer: Certified, count: int) -> tuple[float, RowSet]:
        """The margin on all rows, and the rows of least margin below that of the set."""
        scale = Scale.of(part, self.norm, answer)
        swept = self.whole.total(_SweepOf(answer.coef, answer.intercept, scale.level, count))
        return scale.margin(float(swept.least.min())), swept.below.rows()

    def kept(self, part: RobustProblem, answer: Certified, n_near: int) -> NDArray[np.intp]:
        """See `Sweeps.kept`."""
        return kept_rows(part, answer, n_near)


class _RowsOfDistances(_RowsOfSums):
    """The same without an adversary; the norm does not see features of scale 0."""

    def sweep(self, part: RobustProblem, answer: Certified, count: int) -> tuple[float, RowSet]:
        """See `Sweeps.sweep`."""
        if answer.margin < math.inf:
            return super().sweep(part, answer, count)
        # features of scale 0 alone separate the set: its smallest score is 1
        swept = self.whole.total(_SweepOf(answer.coef, answer.intercept, 1.0, count))
        return (math.inf if swept.least.min() > 0 else -math.inf), swept.below.rows()


@dataclass(frozen=True)
class LeastRows:
    """The rows of least value, `count` at most; of more rows these are found by adding."""

    count: int
    values: np.ndarray
    X: np.ndarray
    y: np.ndarray

    @classmethod
    def of(cls, count: int, values: np.ndarray, samples: Samples, among: np.ndarray) -> LeastRows:
        """Those of the samples at the places `among`, which ascend."""
        places = np.sort(among[least_places(values[among], count)])
        X = samples.rows.take(places).astype(np.float64, copy=False)
        return cls(count, values[places], X, samples.y[places])

    def __add__(self, other: LeastRows) -> LeastRows:
        values = np.concatenate([self.values, other.values])
        places = least_places(values, self.count)
        X, y = np.concatenate([self.X, other.X]), np.concatenate([self.y, other.y])
        return LeastRows(self.count, values[places], X[places], y[places])

    def rows(self) -> RowSet:
        """Each row once."""
        return RowSet.of(self.X, self.y)


@dataclass(frozen=True)
class _Swept:
    """The least score of each class, (2,), and the rows of least score below a level."""

    least: np.ndarray
    below: LeastRows

    def __add__(self, other: _Swept) -> _Swept:
        return _Swept(np.minimum(self.least, other.least), self.below + other.below)


@dataclass(frozen=True)
class _SweepOf:
    """The sweep of a predictor over the samples of a block; see `_Swept`."""

    coef: np.ndarray
    intercept: float
    level: float
    count: int

    def __call__(self, samples: Samples) -> _Swept:
        coef = self.coef[None]
        scores = np.concatenate([rows.scores(coef)[0] for _, rows in row_blocks(samples.rows)])
        scores = samples.y * (scores + self.intercept)
        least = [float(scores.min(where=samples.y == y, initial=math.inf)) for y in (-1.0, 1.0)]
        below = np.flatnonzero(scores < self.level)
        return _Swept(np.array(least), LeastRows.of(self.count, scores, samples, below))


def drawn_rows(problem: SummedSamples, classes: tuple[float | None, ...], count: int) -> RowSet:
    """About so many rows at random, alike many of each class; None is all classes together."""
    first, *rest = problem.total(_Drawn(classes, -(-count // len(classes))))
    return reduce(RowSet.joined, (drawn.rows() for drawn in rest), first.rows())


@dataclass(frozen=True)
class _Drawn:
    """Rows at random of each of some classes, of both together for None; see `LeastRows`."""

    classes: tuple[float | None, ...]
    count: int

    def __call__(self, samples: Samples) -> np.ndarray:
        # another draw for every block, the same at every call
        rng = np.random.default_rng(zlib.crc32(samples.rows.take(np.arange(1)).tobytes()))
        order = rng.random(len(samples.y))
        drawn = np.empty(len(self.classes), dtype=object)  # which adds up entry by entry
        for i, label in enumerate(self.classes):
            among = np.flatnonzero((samples.y == label) | (label is None))
            drawn[i] = LeastRows.of(self.count, order, samples, among)
        return drawn


@dataclass(frozen=True)
class Least:
    """A number or an array; those of more blocks add up to the least."""

    value: Any

    def __add__(self, other: Least) -> Least:
        return Least(np.minimum(self.value, other.value))


@dataclass(frozen=True)
class _MarginOf:
    """The margin of a predictor on the samples of a block, less its rounding; `part` is the problem
    of one sample.
    """

    part: RobustProblem
    norm: LpNorm | WeightedNorm
    coef: np.ndarray
    intercept: float

    def __call__(self, samples: Samples) -> Least:
        problem = replace(
            self.part, X=samples.rows.X, y=samples.y[None], log_weight=samples.log_weight[None]
        ).in_double_arithmetic()
        margin = robust_margin(problem, self.norm, self.coef[None], np.array([self.intercept]))
        return Least(float(margin[0]))
