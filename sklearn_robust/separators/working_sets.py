r"""Problems with far more rows than columns, or the reverse, by a sequence of small ones.

Few samples carry weight at a solution, and for p = 1, or p = 2 against l_inf perturbations, few
features are used. The problem is solved on a set of rows (or columns) that is likely to hold them,
its answer is certified on all of them, and the violated rows (or columns) are added, until the gap
is reached. Early rounds are solved roughly.

**Rows: constraint generation.** The weights of a set bound the margin of all rows,

.. math:: \min_i m_i(w) / \|w\|_p \;\le\; \gamma \;\le\; D(a), \qquad a_i = 0
   \text{ outside the set},

and one sweep over blocks of rows measures the left side: it returns the least margin and the rows
of least margin below that of the set. A set that cannot be separated proves that nothing separates
all rows. Rows leave a set only after D(a) has fallen below that of all rounds before, and rows that
carry weight stay: so no set comes back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from sklearn_robust.certificates import Certified, Point, relative_gap
from sklearn_robust.norms import LpNorm
from sklearn_robust.problems import RobustProblem
from sklearn_robust.rows import ArrayRows, BlockRows, DenseRows
from sklearn_robust.rows.arrays import slices
from sklearn_robust.scaled_norms import WeightedNorm
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
# bound on the margin, in units of the rows' root mean square, that is zero up to rounding
_ZERO_FORM_BOUND = 1e-12

# Sets of columns: violated ones, relative to min(n, d), up to which the set is nearly right
_FEW_VIOLATIONS = 0.02

# Sets of rows
_FIRST_ROWS = 2  # rows of the first set, relative to d
_FEW_ADDED = 0.3  # rows that a round adds, relative to d, up to which the set is nearly right
_CARRIED_WEIGHT = 1e-3  # weight, relative to the largest, above which a row stays in a set
_FALLEN = 1e-6  # relative fall of the bound that lets rows leave
_KEY_BYTES = 16  # length of the digest that stands for a row
_SWEEP_ENTRIES = 2**19  # entries of dense rows in a block of a sweep: four megabytes


Part = TypeVar("Part")  # the problem of some rows in memory


class _SetSizes(NamedTuple):
    """Numbers of rows relative to d: that a round adds at most; of a set from which on rows leave
    it; and of rows of least margin that stay then.
    """

    added: float
    crowded: float
    near: float


# From this many rows for each column sweeps take longer than solutions on sets: larger sets then
# take fewer rounds, 13 instead of 20 on 1 000 000 x 20.
_VERY_TALL_RATIO = 500
# From this many rows for each column the first set comes from a share of the rows.
_SAMPLED_RATIO, _SAMPLED_SHARE = 8000, 16
_LARGE_SETS, _SMALL_SETS = _SetSizes(2, 12, 2), _SetSizes(1, 2, 1.5)


def suits_row_sets(problem: RobustProblem) -> bool:
    """Whether there are many entries, and many more rows than columns, or rows in blocks."""
    n, d = problem.X.shape
    tall = n * d >= _LARGE_ENTRIES and n > _TALL_RATIO * d
    return isinstance(problem.rows, BlockRows) or (tall and isinstance(problem.rows, ArrayRows))


def suits_column_sets(program: MaxMarginForm) -> bool:
    """Whether there are many entries, many more columns than rows, and few in the solution."""
    n, d = program.rows.shape
    few_used = program.scale is None and (
        program.p == 1 or (program.soft_threshold and program.eps > 0)
    )
    return n * d >= _LARGE_ENTRIES and d > _WIDE_RATIO * n and few_used


def solve_on_row_sets(
    problem: RobustProblem,
    norm: LpNorm,
    tol: float,
    solve: Callable[[RobustProblem, float], Certified],
) -> Certified:
    """Solve a problem with many more rows than columns on sets of its rows.

    Parameters
    ----------
    problem : RobustProblem
        A single one in float64, on arrays or on `BlockRows`, of either precision.
    norm : LpNorm
    tol : float
        Certified relative gap on all rows.
    solve : callable
        The answer of a small problem in memory, to a certified relative gap.

    Returns
    -------
    Certified
        The best predictor and the best weights of all rounds. Its margin is measured on all rows,
        without a charge for rounding. The gap is above tol where the rounds did not suffice.
    """
    rows = _RowsOfProblem(problem, norm)
    n, d = rows.shape
    start = None
    if n > _SAMPLED_RATIO * d and isinstance(problem.rows, ArrayRows):
        # the rows that carry weight in a sample: sweeps over all rows then begin near the answer
        sample = rows.first(n // _SAMPLED_SHARE)
        within = _RowsOfProblem(rows.problem(sample), norm)
        _, near = solve_in_rounds(within, _ROUGH_GAP, solve)
        start = sample.at(near.key)
    best, proof = solve_in_rounds(rows, tol, solve, start)
    weights = np.zeros(n)
    weights[proof.key] = best.weights
    return replace(best, weights=weights)


class Sweeps(Protocol[Part]):
    """All rows of a problem, as constraint generation asks for them."""

    @property
    def shape(self) -> tuple[int, int]:
        """The numbers of rows and of columns: of coefficients, but for a common shift of those of
        several classes.
        """
        ...

    def first(self, count: int) -> RowSet:
        """The rows of the first set, of all classes where there is an intercept."""
        ...

    def sweep(self, part: Part, answer: Certified, count: int) -> tuple[float, RowSet]:
        """The margin of a set's answer on all rows, at most that on the set, and the rows of least
        margin below that of the set, `count` at most.
        """
        ...

    def problem(self, chosen: RowSet) -> Part:
        """The problem of some of the rows alone."""
        ...

    def kept(self, part: Part, answer: Certified, n_near: int) -> NDArray[np.intp]:
        """The places of the rows of a set that carry weight, and of n_near rows of least margin.

        Without a row that carries weight the next bound would rise, and the row would come back.
        With an intercept rows of all classes carry weight; a row of each class is kept in any case,
        for the program would be unbounded without.
        """
        ...


def solve_in_rounds(
    rows: Sweeps[Part],
    tol: float,
    solve: Callable[[Part, float], Certified],
    start: RowSet | None = None,
) -> tuple[Certified, RowSet]:
    """The rounds of constraint generation, of rows wherever they are, from a set or from rows at
    random; see `solve_on_row_sets`.

    Returns
    -------
    best : Certified
        The best predictor of all rounds, and the best weights.
    proof : RowSet
        The rows that the weights are of.
    """
    n, d = rows.shape
    sizes = _LARGE_SETS if n > _VERY_TALL_RATIO * d else _SMALL_SETS
    chosen = proof = rows.first(_FIRST_ROWS * d) if start is None else start
    gap, lowest = _ROUGH_GAP, math.inf
    best: Certified | None = None
    for _ in range(_MAX_SET_ROUNDS):
        part = rows.problem(chosen)
        small = solve(part, gap)
        margin, violated = rows.sweep(part, small, int(sizes.added * d))
        if best is None or small.bound <= best.bound:
            proof = chosen
        best = replace(small, margin=margin).merged(best)
        violated = violated.at(~np.isin(violated.key, chosen.key))
        n_added = len(violated.key)
        reached = relative_gap(best.margin, best.bound) - small.rounding <= tol
        if small.margin <= 0 or reached or (not n_added and gap < tol):
            break
        if len(chosen.key) > sizes.crowded * d and small.bound < (1 - _FALLEN) * lowest:
            chosen = chosen.at(rows.kept(part, small, int(sizes.near * d)))
        lowest = min(lowest, small.bound)
        chosen = chosen.joined(violated)
        gap = _ROUGH_GAP if n_added > _FEW_ADDED * d else _FINE_GAP_SHARE * tol
    assert best is not None  # there is a round
    return best, proof


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
        small = refined(part, solve_interior_point(part, rough), rough)[0]
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


def _is_solved(certified: Certified, tol: float) -> bool:
    return certified.bound <= _ZERO_FORM_BOUND or certified.gap <= tol


def _next_gap(program: MaxMarginForm, n_violated: int, tol: float) -> float:
    """The gap of the next round: rough while the set misses many columns."""
    many = n_violated > _FEW_VIOLATIONS * min(program.rows.shape)
    return _ROUGH_GAP if many else _FINE_GAP_SHARE * tol


def problem_on_rows(problem: RobustProblem, index: NDArray[np.intp]) -> RobustProblem:
    """The problem of the rows at these places alone, which ascend, in memory."""
    rows = _RowsOfProblem(problem, LpNorm(2))
    return rows.problem(rows.at(problem.rows, index))


@dataclass(frozen=True)
class RowSet:
    """Some rows: a key of each, a dense copy in float64, and their labels: in {-1, +1}, or 0..K-1
    of several classes.
    """

    key: NDArray[Any]
    X: Vector
    y: Vector

    @classmethod
    def of(cls, X: Vector, y: Vector) -> RowSet:
        """Each of these rows once; the keys are digests of a row and its label."""
        digests = [
            blake2b(label.tobytes() + x.tobytes(), digest_size=_KEY_BYTES).digest()
            for x, label in zip(X, y, strict=True)
        ]
        key, places = np.unique(np.array(digests, f"S{_KEY_BYTES}"), return_index=True)
        return cls(key, X[places], y[places])

    def at(self, places: NDArray[Any]) -> RowSet:
        """Some of them."""
        return RowSet(self.key[places], self.X[places], self.y[places])

    def joined(self, other: RowSet) -> RowSet:
        """The rows of both."""
        return RowSet(
            np.concatenate([self.key, other.key]),
            np.concatenate([self.X, other.X]),
            np.concatenate([self.y, other.y]),
        )


@dataclass(frozen=True)
class _RowsOfProblem:
    """The rows of a problem in memory or in blocks, whose keys are their places."""

    whole: RobustProblem
    norm: LpNorm

    @property
    def shape(self) -> tuple[int, int]:
        n, d = self.whole.X.shape
        return n, d

    def at(self, rows: Any, places: NDArray[np.intp], first: int = 0) -> RowSet:
        """The rows at these places, which ascend, of a block that starts at row `first`."""
        X, key = rows.take(places).astype(np.float64, copy=False), first + places
        return RowSet(key, X, self.whole.y[0, key].astype(np.float64, copy=False))

    def problem(self, chosen: RowSet) -> RobustProblem:
        """The problem of some of the rows alone."""
        log_weight = self.whole.log_weight[:, chosen.key]
        return replace(self.whole, X=chosen.X, y=chosen.y[None], log_weight=log_weight)

    def first(self, count: int) -> RowSet:
        """Rows at random, the same at every call; with an intercept alike many of both classes."""
        rng = np.random.default_rng(0)
        classes = [np.flatnonzero(members[0]) for members in self.whole.classes]
        size = -(-count // len(classes))
        index = np.concatenate(
            [rng.choice(members, min(size, len(members)), replace=False) for members in classes]
        )
        index.sort()
        return self.at(self.whole.rows, index)

    def sweep(self, part: RobustProblem, answer: Certified, count: int) -> tuple[float, RowSet]:
        """The margin on all rows, and the rows of least margin below that of the set.

        Each block of rows answers with its own, below the level of those that the blocks before it
        found.
        """
        scale = Scale.of(part, self.norm, answer)
        level = scale.level
        y, unused = self.whole.y[0], self.whole.log_weight[0] == -math.inf
        coef, some_unused = answer.coef[None], bool(unused.any())
        least, low = math.inf, np.empty(0)
        found = self.at(self.whole.rows, np.empty(0, np.intp))
        for at, rows in row_blocks(self.whole.rows):
            scores = y[at] * (rows.scores(coef)[0] + answer.intercept)
            if some_unused:
                scores[unused[at]] = math.inf
            least = min(least, float(scores.min()))
            below = np.flatnonzero(scores < level)
            if not len(below):
                continue
            below = np.sort(below[least_places(scores[below], count)])
            found = found.joined(self.at(rows, below, at.start))
            low = np.concatenate([low, scores[below]])
            if len(low) > count:
                first = least_places(low, count)
                found, low = found.at(first), low[first]
                level = float(low.max())
        return scale.margin(least), found

    def kept(self, part: RobustProblem, answer: Certified, n_near: int) -> NDArray[np.intp]:
        """See `Sweeps.kept`."""
        return kept_rows(part, answer, n_near)


class Scale(NamedTuple):
    """How scores y (<w, x> + b) and the margin of the answer of a set go together.

    Attributes
    ----------
    of_set : float
        The margin on the set.
    size, penalty : float
        The norm of the coefficients, and what the adversary takes of a score.
    """

    of_set: float
    size: float
    penalty: float

    @classmethod
    def of(cls, part: RobustProblem, norm: LpNorm | WeightedNorm, answer: Certified) -> Scale:
        """Those of the answer of a problem of two classes."""
        penalty = float(part.penalty(answer.coef[None])[0])
        return cls(answer.margin, float(norm.value(answer.coef)), penalty)

    @property
    def level(self) -> float:
        """The score at the margin on the set."""
        return self.of_set * self.size + self.penalty if self.size > 0 else -math.inf

    def margin(self, least: float) -> float:
        """The margin on all rows, of this least score."""
        if not self.size > 0:
            return -math.inf
        return min(self.of_set, (least - self.penalty) / self.size)


def least_places(values: Vector, count: int) -> NDArray[np.intp]:
    """The places of the least values, `count` at most."""
    if len(values) <= count:
        return np.arange(len(values))
    return np.argpartition(values, count)[:count]


def row_blocks(rows: Any) -> Iterator[tuple[slice, Any]]:
    """Blocks of rows, and where they lie; dense ones of a size that a cache holds."""
    for at, held in rows.row_blocks():
        if not isinstance(held, DenseRows):
            yield at, held
            continue
        n, d = held.shape
        for part in slices(n, max(1, _SWEEP_ENTRIES // d)):
            yield slice(at.start + part.start, at.start + part.stop), DenseRows(held.X[part])


def kept_rows(part: RobustProblem, small: Certified, n_near: int) -> NDArray[np.intp]:
    """`Sweeps.kept` of two classes."""
    scores = part.signed_scores(small.coef[None])[0] + part.y[0] * small.intercept
    return places_to_keep(small.weights, scores, [m[0] for m in part.classes], n_near)


def places_to_keep(
    weights: Vector, margins: Vector, classes: Sequence[NDArray[np.bool_]], n_near: int
) -> NDArray[np.intp]:
    """The places of the rows with weight (m,), of n_near rows of least margin (m,), and of one row
    of each class, of which the members are given.
    """
    stay = weights > _CARRIED_WEIGHT * weights.max()
    stay[least_places(margins, n_near)] = True
    for members in classes:
        stay[np.argmax(np.where(members, weights, -1.0))] = True
    return np.flatnonzero(stay)
