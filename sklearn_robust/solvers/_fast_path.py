"""The path of steepest descent on NumPy data, in place and in few calls: an iteration is little
more than its two products.

For the exponential loss the weights are exp(-m_i) over the risk before the step: they need no shift
of their own, their sum is the quotient of the two risks, and a step takes the weighted_sum Z^T a by
weights that are not normalised.
"""

from __future__ import annotations

import math
from typing import Self

import numpy as np

from sklearn_robust.losses import MarginLoss, is_exponential
from sklearn_robust.problems import Evaluation, RobustProblem
from sklearn_robust.solvers._batch import Number, One, Several, SignedRows, room_like
from sklearn_robust.solvers._closed_form_steps import Part, closed_form_step
from sklearn_robust.solvers._descent import SHRINK, Iterate, Rule
from sklearn_robust.solvers._geometry import Geometry


class _Point:
    """Predictors and the robust loss at them; the dual weights are weights / total, of sum
    total_weight.
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

    intercept: Number
    log_risk: Number
    total_weight: Number
    penalty: Number
    total: Number

    def __init__(self, coef: np.ndarray, y: np.ndarray) -> None:
        self.coef, self.scores, self.weights = room_like(coef), room_like(y), room_like(y)
        self.coef[...] = coef


class FastPath:
    """k problems under way, from coefficients of shape (k, d); the methods are those of
    `_descent.Path`.

    Parameters
    ----------
    problem : RobustProblem
        On NumPy or scipy.sparse data.
    loss : MarginLoss
    geometry : Geometry
    rule : Rule
        Of steepest descent in this geometry; it proposes the steps that have no short cut.
    coef : ndarray of shape (k, d)
    step : ndarray of shape (k,)
        First step.
    growth : float or None
        Factor on the step after an accepted trial; a refused one shrinks it by 0.7. None keeps the
        step constant and accepts every trial.
    """

    stale: bool  # whether the weighted_sum is that of weights before these

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
        self.loss, self.growth, self.first_step = loss, growth, step
        self.signed_rows = SignedRows.of(problem)
        self._open(
            problem, geometry, rule, coef, np.zeros_like(step), step, np.full_like(step, 0.5)
        )

    def _open(
        self,
        problem: RobustProblem,
        geometry: Geometry,
        rule: Rule,
        coef: np.ndarray,
        intercept: np.ndarray,
        step: np.ndarray,
        sufficient_decrease: np.ndarray,
    ) -> None:
        self.problem, self.geometry, self.rule = problem, geometry, rule
        dtype = problem.y.dtype
        shape = self.shape = (
            One(dtype) if problem.n_problems == 1 else Several(problem.n_problems, dtype)
        )
        self.eps, self.step, self.sufficient_decrease = (
            shape.number(x) for x in (problem.radius, step, sufficient_decrease)
        )
        coef = shape.vector(coef)
        self.here, self.there = (_Point(coef, shape.vector(problem.y)) for _ in range(2))
        self.weighted_sum, self.work, self.other = (room_like(coef) for _ in range(3))
        self.flags, self.row = np.empty(coef.shape, dtype=bool), room_like(self.here.scores)
        self.factor = shape.factor()
        room = self.weighted_sum, self.work, self.other, self.flags, shape.factor(), shape.factor()
        self.parts = [
            Part(
                getattr(norm, "p", math.nan),
                problem.threat.q,
                rows,
                shape,
                *(shape.part(x, rows) for x in room),
            )
            for norm, rows in geometry.groups
        ]
        self.subgradient: np.ndarray | None = None
        self.subgradient_norm = 0 * self.step

        exponents = {part.p for part in self.parts}
        self.closed_form = problem.threat.q in (2, math.inf) and exponents <= {1, 2, math.inf}
        self.by_column = self.closed_form and 1 in exponents and not self.signed_rows.sparse
        self.exponential = is_exponential(self.loss)
        equal = (problem.log_weight == problem.log_weight[:, :1]).all()
        self.log_share = shape.number(problem.log_weight[:, 0]) if equal else 0 * self.step
        self.log_weight = None if equal else shape.vector(problem.log_weight)
        self.y, self.positive = shape.vector(problem.y), shape.vector((problem.y > 0).astype(dtype))
        self.negative = 1 - self.positive
        self.lowest = math.sqrt(np.finfo(dtype).tiny)

        self.here.intercept = self.there.intercept = shape.number(intercept)
        self._refresh()

    def advance(self) -> None:
        """One trial step of every problem, accepted if it descends enough."""
        here, there = self.here, self.there
        if self.stale:
            self._weighted_sum()
        predicted_decrease = self._step_in_closed_form(here, there) if self.closed_form else None
        if predicted_decrease is None:
            predicted_decrease = self._step_by_rule(here, there)
        self._evaluate(there, here)
        if self.growth is not None and not self._accepts(
            here, there, predicted_decrease, self.growth
        ):
            return
        self.here, self.there, self.stale = there, here, True

    def any_below(self, log_risk: np.ndarray) -> bool:
        """Whether the log-risk of a problem is at most its entry of this array (k,)."""
        if isinstance(self.here.log_risk, float):
            return bool(self.here.log_risk <= log_risk[0])
        return bool((self.here.log_risk[:, 0] <= log_risk).any())

    def iterate(self) -> Iterate:
        """Where the problems are; what the scores have gathered in rounding ends here."""
        if self.by_column:
            self._refresh()
        if self.stale:
            self._weighted_sum()
        here, shape, problem = self.here, self.shape, self.problem
        intercept, log_risk = (
            shape.array(x).astype(problem.y.dtype) for x in (here.intercept, here.log_risk)
        )
        self.factor[...] = here.penalty
        margins = here.scores - self.factor
        if problem.fit_intercept:
            shape.add(margins, here.intercept, self.y)
        self.factor[...] = 1 / here.total
        weights, weighted_sum = here.weights * self.factor, self.weighted_sum * self.factor
        subgradient_norm = (
            shape.array(self.subgradient_norm)
            if self.subgradient is None
            else self.rule.subgradient_norm(self.subgradient)
        )
        now = Evaluation(intercept, shape.rows(margins), log_risk, shape.rows(weights))
        step = shape.array(self.step) / self.first_step
        return Iterate(
            shape.rows(here.coef).copy(), now, shape.rows(weighted_sum), subgradient_norm, step
        )

    def view(self) -> tuple[np.ndarray, Evaluation]:
        """The coefficients and the loss at them, for a record: nothing of the path changes."""
        shape, problem = self.shape, self.problem
        coef, near = (
            shape.rows(self.here.coef).copy(),
            shape.array(self.here.intercept).astype(problem.y.dtype),
        )
        return coef, problem.evaluate(self.loss, coef, near=near)

    def require_decrease(self, share: np.ndarray) -> None:
        """From now on accept a trial if it brings this share (k,) of the decrease that its slope
        promises.
        """
        self.sufficient_decrease = self.shape.number(share)

    def select(self, rows: np.ndarray) -> Self:
        """The path of the problems at these indices."""
        coef = self.shape.rows(self.here.coef)[rows]
        intercept, step, sufficient_decrease = (
            self.shape.array(x)[rows]
            for x in (self.here.intercept, self.step, self.sufficient_decrease)
        )
        self.first_step, self.signed_rows = self.first_step[rows], self.signed_rows.select(rows)
        parts = self.problem.select(rows), self.geometry.select(rows), self.rule.select(rows)
        self._open(*parts, coef, intercept, step, sufficient_decrease)
        return self

    def _weighted_sum(self) -> None:
        self.signed_rows.weighted_sum(self.here.weights, work=self.row, out=self.weighted_sum)
        self.stale = False

    def _refresh(self) -> None:
        """The loss at the coefficients, from them alone."""
        self.signed_rows.scores(self.here.coef, slice(None), out=self.here.scores)
        self.here.penalty = self._penalty(self.here.coef)
        self._evaluate_with_shift(self.here, self.here)
        self.stale = True

    def _accepts(
        self, here: _Point, there: _Point, predicted_decrease: Number, growth: float
    ) -> bool:
        """Adapt the steps; False if no trial is accepted, else `there` holds what each problem goes
        on from.
        """
        if isinstance(predicted_decrease, float):
            if there.log_risk <= here.log_risk - self.sufficient_decrease * predicted_decrease:
                self.step *= growth
                return True
            self.step *= SHRINK
            return False
        refused = np.flatnonzero(
            ~(there.log_risk <= here.log_risk - self.sufficient_decrease * predicted_decrease)
        )
        self.step *= growth
        if len(refused):
            self.step[refused] *= SHRINK / growth
            for name in _Point.__slots__:
                getattr(there, name)[refused] = getattr(here, name)[refused]
        return True

    # -- the robust loss

    def _penalty(self, coef: np.ndarray) -> Number:
        shape, q = self.shape, self.problem.threat.q
        if q == math.inf:
            return self.eps * shape.size(coef)
        if q == 2 and self._is_usual(square := shape.dot(coef, coef)):
            return self.eps * shape.sqrt(square)
        return shape.number(self.problem.penalty(shape.rows(coef)))

    def _evaluate(self, there: _Point, here: _Point) -> None:
        """The robust loss at `there`, from its scores and the loss at `here`."""
        there.penalty = self._penalty(there.coef)
        if not self.exponential:
            return self._evaluate_with_shift(there, here)
        shape, weights, factor = self.shape, there.weights, self.factor
        factor[...] = there.penalty - here.log_risk + self.log_share
        np.subtract(factor, there.scores, weights)
        if self.log_weight is not None:
            weights += self.log_weight
        if not self.problem.fit_intercept:
            np.exp(weights, weights)
            total = shape.size(weights)
            if not self._is_usual(total):
                return self._evaluate_with_shift(there, here)
            there.intercept = here.intercept
        else:
            shape.add(weights, -here.intercept, self.y)
            np.exp(weights, weights)
            up, down = shape.dot(weights, self.positive), shape.dot(weights, self.negative)
            if not (self._is_usual(up) and self._is_usual(down)):
                return self._evaluate_with_shift(there, here)
            ratio = shape.sqrt(down / up)  # the best intercept gives both classes the same weight
            factor[...] = ratio - 1 / ratio
            np.multiply(self.positive, factor, self.row)
            factor[...] = 1 / ratio
            np.add(self.row, factor, self.row)
            np.multiply(weights, self.row, weights)
            there.intercept = here.intercept - shape.log(ratio)
            total = 2 * shape.sqrt(up * down)
        there.total, there.total_weight = total, here.total_weight
        there.log_risk = here.log_risk + shape.log(total)
        return None

    def _is_usual(self, number: Number) -> bool:
        """Whether a sum has neither overflowed nor lost digits to underflow."""
        return self.shape.all_between(self.lowest, number, 1 / self.lowest)

    def _evaluate_with_shift(self, there: _Point, here: _Point) -> None:
        """The same for any loss and any distance between the two."""
        shape = self.shape
        near, penalty = (
            shape.array(x).astype(self.weighted_sum.dtype) for x in (here.intercept, there.penalty)
        )
        now = self.problem.evaluate_scores(self.loss, shape.rows(there.scores), penalty, near=near)
        there.weights[...] = shape.vector(now.weights)
        there.log_risk, there.intercept = shape.number(now.log_risk), shape.number(now.intercept)
        there.total_weight = shape.number(now.weights.sum(axis=1))
        there.total = 0 * there.total_weight + 1

    # -- steps: they set the coefficients and scores of `there` and return the decrease that the
    # slope promises

    def _step_by_rule(self, here: _Point, there: _Point) -> Number:
        """Any step, as the rule proposes it."""
        shape, dtype = self.shape, self.weighted_sum.dtype
        total, step = (
            shape.array(here.total).astype(dtype)[:, None],
            shape.array(self.step).astype(dtype),
        )
        coef, weights = shape.rows(here.coef), shape.rows(here.weights) / total
        none = np.empty(0)
        now = Evaluation(intercept=none, margins=none, log_risk=none, weights=weights)
        (moved,), self.subgradient = self.rule.propose(
            self.problem, (coef,), coef, now, shape.rows(self.weighted_sum) / total, step
        )
        there.coef[...] = shape.vector(moved)
        self.signed_rows.scores(there.coef, slice(None), out=there.scores)
        np.subtract(here.coef, there.coef, out=self.work)
        return shape.dot(shape.vector(self.subgradient), self.work)

    def _step_in_closed_form(self, here: _Point, there: _Point) -> Number | None:
        """The step of every part; None where one has no short cut."""
        self.subgradient = None
        state = (
            here.coef,
            there.coef,
            here.scores,
            there.scores,
            here.total,
            self.eps * here.total_weight,
            self.step,
        )
        if len(self.parts) == 1:
            taken = self._step_of(self.parts[0], *state)
            if taken is None:
                return None
            predicted_decrease, self.subgradient_norm = taken
            return predicted_decrease
        steps = [
            self._step_of(part, *(self.shape.part(x, part.rows) for x in state))
            for part in self.parts
        ]
        if None in steps:
            return None
        predicted_decrease, self.subgradient_norm = (
            np.concatenate(numbers) for numbers in zip(*steps, strict=True)
        )
        return predicted_decrease

    def _step_of(
        self,
        part: Part,
        coef: np.ndarray,
        moved: np.ndarray,
        scores: np.ndarray,
        new_scores: np.ndarray,
        total: Number,
        penalty_weight: Number,
        step: Number,
    ) -> tuple[Number, Number] | None:
        """Promised decrease and subgradient_norm of the step of one part."""
        taken = closed_form_step(part, coef, moved, total, penalty_weight, step)
        if taken is None:
            return None
        predicted_decrease, subgradient_norm, coordinate, change = taken
        if coordinate is None or not self.by_column:
            self.signed_rows.scores(moved, part.rows, out=new_scores)
        else:
            np.copyto(new_scores, scores)
            self.shape.add(new_scores, change, self.signed_rows.columns(coordinate, part.rows))
        return predicted_decrease, subgradient_norm
