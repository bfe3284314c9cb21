"""The path of steepest descent on NumPy data: an iteration costs little more than two products.

It serves l_p geometries and l_q balls. For the exponential loss the weights are exp(-m_i) over the
risk before the step: they need no shift of their own, and their sum is the quotient of the two
risks. The weighted sum Z^T a is taken with these weights, without normalising them.
"""

from __future__ import annotations

import math
from typing import Self, cast

import numpy as np

from sklearn_robust.losses import MarginLoss, is_exponential
from sklearn_robust.norms import LpNorm
from sklearn_robust.problems import Evaluation, RobustProblem
from sklearn_robust.rows import ArrayRows
from sklearn_robust.solvers._closed_form_steps import Room, closed_form_step
from sklearn_robust.solvers._descent import Iterate
from sklearn_robust.solvers._geometry import Geometry
from sklearn_robust.solvers._rule_path import SHRINK, Rule, evaluations
from sklearn_robust.solvers._vectors import SignedRows, room_like
from sklearn_robust.threats import is_ball


def serves(problem: RobustProblem, geometry: Geometry) -> bool:
    """Whether the fast path serves: NumPy or SciPy data, an unscaled l_q ball, l_p geometries."""
    threat = problem.threat
    return (
        isinstance(problem.rows, ArrayRows)
        and is_ball(threat)
        and threat.scale is None
        and all(isinstance(norm, LpNorm) for norm in geometry.norms)
    )


class FastPaths:
    """k problems under way, each on its own; the methods are those of `_descent.DescentPath`.

    A problem in a batch moves as it does alone, and all of them are certified together. Batches in
    one matrix product were 1.1 to 1.8 times as fast, but not whole fits of several classes.

    Parameters
    ----------
    problem : RobustProblem
        Problems that the fast path serves.
    loss : MarginLoss
    geometry : Geometry
    rule : Rule
        The rule of steepest descent in this geometry: it proposes the steps without closed form.
    coef : ndarray of shape (k, d)
        Where to start.
    step : ndarray of shape (k,)
        First step.
    growth : float or None
        Factor on the step after an accepted trial; a refused one shrinks it by 0.7. None keeps the
        step constant and accepts every trial.
    """

    def __init__(
        self,
        problem: RobustProblem,
        loss: MarginLoss,
        geometry: Geometry,
        rule: Rule,
        coef: np.ndarray,
        step: np.ndarray,
        growth: float | None,
    ) -> None:
        rows = SignedRows.of(problem)
        self.problem = problem
        self.geometry = geometry
        self.paths = [
            FastPath(
                problem.select(slice(i, i + 1)),
                loss,
                cast(LpNorm, norm).p,
                rule.select(np.array([i])),
                rows.one(i),
                coef[i],
                float(step[i]),
                growth,
            )
            for i, norm in enumerate(geometry.norms)
        ]

    def advance(self) -> None:
        """One trial step of every problem, accepted if it descends enough."""
        for path in self.paths:
            path.advance()

    def any_below(self, log_risk: np.ndarray) -> bool:
        """Whether the log-risk of a problem is at most its entry of this array (k,)."""
        return any(path.here.log_risk <= log_risk.item(i) for i, path in enumerate(self.paths))

    def iterate(self) -> Iterate:
        """The iterates of the problems; the rounding errors of the scores are removed here."""
        at = [path.iterate() for path in self.paths]
        if len(at) == 1:
            return at[0]
        coef, weighted_sum, subgradient_norm, step = (
            np.concatenate([getattr(one, name) for one in at])
            for name in ("coef", "weighted_sum", "subgradient_norm", "step")
        )
        now = evaluations(lambda *parts: np.concatenate(parts), *(one.now for one in at))
        return Iterate(coef, now, weighted_sum, subgradient_norm, step)

    def view(self) -> tuple[np.ndarray, Evaluation]:
        """The coefficients and the loss at them, for a record: nothing of the path changes."""
        coef, nows = zip(*(path.view() for path in self.paths), strict=True)
        return np.concatenate(coef), evaluations(lambda *parts: np.concatenate(parts), *nows)

    def require_decrease(self, share: np.ndarray) -> None:
        """From now on accept a trial if it brings this share (k,) of the predicted decrease."""
        for path, of_path in zip(self.paths, share.tolist(), strict=True):
            path.sufficient_decrease = of_path

    def select(self, rows: np.ndarray) -> Self:
        """The path of the problems at these indices."""
        self.problem = self.problem.select(rows)
        self.geometry = self.geometry.select(rows)
        self.paths = [self.paths[i] for i in rows]
        return self


class _Point:
    """A predictor and the robust loss at it.

    The dual weights are weights / total; their sum is total_weight.
    """

    __slots__ = (
        "coef",
        "intercept",
        "log_risk",
        "penalty",
        "scores",
        "total",
        "total_weight",
        "weights",
    )

    intercept: float
    log_risk: float
    total_weight: float
    penalty: float
    total: float

    def __init__(self, coef: np.ndarray, y: np.ndarray) -> None:
        self.coef = room_like(coef)
        self.scores = room_like(y)
        self.weights = room_like(y)
        self.coef[...] = coef
        self.intercept = 0.0


class FastPath:
    """One problem under way, from coefficients of shape (d,).

    Parameters
    ----------
    problem : RobustProblem
        A single one.
    loss : MarginLoss
    p : float
        The geometry.
    rule : Rule
    rows : SignedRows
    coef : ndarray of shape (d,)
    step : float
    growth : float or None
        As in `FastPaths`.
    """

    stale: bool  # whether the weighted sum is that of weights before these

    def __init__(
        self,
        problem: RobustProblem,
        loss: MarginLoss,
        p: float,
        rule: Rule,
        rows: SignedRows,
        coef: np.ndarray,
        step: float,
        growth: float | None,
    ) -> None:
        self.problem = problem
        self.loss = loss
        self.rule = rule
        self.rows = rows
        self.step = self.first_step = step
        self.growth = growth
        self.sufficient_decrease = 0.5
        self.q = problem.threat.q
        self.eps = float(problem.radius[0]) * problem.threat.eps
        self.room = Room.like(p, self.q, coef)
        self.blas = self.room.blas
        self.closed_form = self.room.has_closed_form
        self.weighted_sum = self.room.weighted_sum
        # where only a coordinate moves, scores are kept by columns
        self.by_column = self.closed_form and p == 1 and not rows.sparse
        self.exponential = is_exponential(loss)

        # labels and weights of the samples; a float where the weights are equal
        y, log_weight = problem.y[0], problem.log_weight[0]
        self.y = y
        self.positive = (y > 0).astype(y.dtype)
        self.negative = 1 - self.positive
        equal = bool((log_weight == log_weight[0]).all())
        self.log_share = float(log_weight[0]) if equal else 0.0
        self.log_weight = None if equal else log_weight
        # sums below it have lost digits to underflow
        self.lowest = math.sqrt(np.finfo(y.dtype).tiny)

        self.subgradient: np.ndarray | None = None
        self.subgradient_norm = 0.0
        self.row = room_like(y)
        self.number = np.empty((), y.dtype)  # in arithmetic with vectors
        self.here, self.there = _Point(coef, y), _Point(coef, y)
        self._refresh()

    def advance(self) -> None:
        """One trial step, accepted if it descends enough."""
        here, there = self.here, self.there
        if self.stale:
            self._weighted_sum()
        predicted_decrease = self._step_in_closed_form(here, there)
        if predicted_decrease is None:
            predicted_decrease = self._step_by_rule(here, there)
        self._evaluate(there, here)
        if self.growth is not None:
            goal = here.log_risk - self.sufficient_decrease * predicted_decrease
            if not there.log_risk <= goal:
                self.step *= SHRINK
                return
            self.step *= self.growth
        self.here, self.there = there, here
        self.stale = True

    def iterate(self) -> Iterate:
        """The iterate of the problem; the rounding errors of the scores are removed here."""
        if self.by_column:
            self._refresh()
        if self.stale:
            self._weighted_sum()
        here, problem = self.here, self.problem
        margins = here.scores - here.penalty
        if problem.fit_intercept:
            self.blas.axpy(self.y, margins, a=here.intercept)
        subgradient_norm = (
            np.array([self.subgradient_norm])
            if self.subgradient is None
            else self.rule.subgradient_norm(self.subgradient)
        )
        dtype, share = self.y.dtype, 1 / here.total
        now = Evaluation(
            np.array([here.intercept], dtype),
            margins[None],
            np.array([here.log_risk], dtype),
            (here.weights * share)[None],
        )
        weighted_sum = (self.weighted_sum * share)[None]
        step = np.array([self.step / self.first_step])
        return Iterate(here.coef[None].copy(), now, weighted_sum, subgradient_norm, step)

    def view(self) -> tuple[np.ndarray, Evaluation]:
        """The coefficients and the loss at them, for a record: nothing of the path changes."""
        coef = self.here.coef[None].copy()
        near = np.array([self.here.intercept], self.y.dtype)
        return coef, self.problem.evaluate(self.loss, coef, near=near)

    def _weighted_sum(self) -> None:
        self.rows.weighted_sum(self.here.weights, work=self.row, out=self.weighted_sum)
        self.stale = False

    def _refresh(self) -> None:
        """The loss at the coefficients, from them alone."""
        self.rows.scores(self.here.coef, out=self.here.scores)
        self.here.penalty = self._penalty(self.here.coef)
        self._evaluate_with_shift(self.here, self.here)
        self.stale = True

    # -- the robust loss

    def _penalty(self, coef: np.ndarray) -> float:
        if self.q == math.inf:
            return self.eps * self.blas.size(coef)
        if self.q == 2 and self._is_usual(square := self.blas.dot(coef, coef)):
            return self.eps * math.sqrt(square)
        return float(self.problem.penalty(coef[None])[0])

    def _evaluate(self, there: _Point, here: _Point) -> None:
        """The robust loss at `there`, from its scores and the loss at `here`."""
        there.penalty = self._penalty(there.coef)
        if not (self.exponential and self._evaluate_quotient(there, here)):
            self._evaluate_with_shift(there, here)

    def _evaluate_quotient(self, there: _Point, here: _Point) -> bool:
        """The exponential loss by the quotient of the risks; False where it under- or overflows.

        The weights s_i exp(-m_i) / L, with the margins at `there` and the risk L at `here`, have
        the quotient of the two risks as their sum.
        """
        weights = there.weights
        number = self.number
        number[...] = there.penalty - here.log_risk + self.log_share
        np.subtract(number, there.scores, weights)
        if self.log_weight is not None:
            weights += self.log_weight
        if self.problem.fit_intercept:
            self.blas.axpy(self.y, weights, a=-here.intercept)
        np.exp(weights, weights)
        if not self.problem.fit_intercept:
            total = self.blas.size(weights)
            if not self._is_usual(total):
                return False
            there.intercept = here.intercept
        else:
            up, down = self.blas.dot(weights, self.positive), self.blas.dot(weights, self.negative)
            if not (self._is_usual(up) and self._is_usual(down)):
                return False
            # the best intercept gives both classes the same weight
            ratio = math.sqrt(down / up)
            number[...] = ratio - 1 / ratio
            np.multiply(self.positive, number, self.row)
            number[...] = 1 / ratio
            np.add(self.row, number, self.row)
            np.multiply(weights, self.row, weights)
            there.intercept = here.intercept - math.log(ratio)
            total = 2 * math.sqrt(up * down)
        there.total, there.total_weight = total, here.total_weight
        there.log_risk = here.log_risk + math.log(total)
        return True

    def _is_usual(self, number: float) -> bool:
        """Whether a sum has neither overflowed nor lost digits to underflow."""
        return self.lowest < number < 1 / self.lowest

    def _evaluate_with_shift(self, there: _Point, here: _Point) -> None:
        """The robust loss at `there`, for any loss and any distance from `here`."""
        near, penalty = (np.array([x], self.y.dtype) for x in (here.intercept, there.penalty))
        now = self.problem.evaluate_scores(self.loss, there.scores[None], penalty, near=near)
        there.weights[...] = now.weights[0]
        there.log_risk, there.intercept = float(now.log_risk[0]), float(now.intercept[0])
        there.total_weight, there.total = float(now.weights[0].sum()), 1.0

    # -- steps: they set the coefficients and scores of `there` and return the predicted decrease

    def _step_by_rule(self, here: _Point, there: _Point) -> float:
        """Any step, as the rule proposes it."""
        dtype, none = self.y.dtype, np.empty(0)
        total = dtype.type(here.total)
        coef = here.coef[None]
        now = Evaluation(none, none, none, here.weights[None] / total)
        (moved,), self.subgradient = self.rule.propose(
            self.problem,
            (coef,),
            coef,
            now,
            self.weighted_sum[None] / total,
            np.array([self.step], dtype),
        )
        there.coef[...] = moved[0]
        self.rows.scores(there.coef, out=there.scores)
        np.subtract(here.coef, there.coef, out=self.room.work)
        return self.blas.dot(self.subgradient[0], self.room.work)

    def _step_in_closed_form(self, here: _Point, there: _Point) -> float | None:
        """The step of this pair of norms; None where it has no closed form."""
        if not self.closed_form:
            return None
        penalty_weight = self.eps * here.total_weight
        taken = closed_form_step(
            self.room, here.coef, there.coef, here.total, penalty_weight, self.step
        )
        if taken is None:
            return None
        self.subgradient, self.subgradient_norm = None, taken.subgradient_norm
        if taken.coordinate is None or not self.by_column:
            self.rows.scores(there.coef, out=there.scores)
        else:
            np.copyto(there.scores, here.scores)
            self.blas.axpy(self.rows.column(taken.coordinate), there.scores, a=taken.change)
        return taken.predicted_decrease
