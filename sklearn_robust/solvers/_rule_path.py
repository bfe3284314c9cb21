"""The path of a rule, on any arrays: each step that the rule proposes is accepted or refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any, Protocol, Self

import numpy as np

from sklearn_robust._array_api import Array, namespace
from sklearn_robust.losses import MarginLoss
from sklearn_robust.problems import Evaluation, RobustProblem
from sklearn_robust.solvers._descent import Iterate

SHRINK = 0.7  # factor on the adaptive step after a refused trial

# The parameters of the k problems under way; the first axis of each array is the problem.
State = tuple[Array, ...]


class Rule(Protocol):
    """The parameters and the step of a path, by which paths differ."""

    def coef(self, state: State) -> Array:
        """The linear predictors (k, d) that the parameters stand for."""
        ...

    def propose(
        self,
        problem: RobustProblem,
        state: State,
        coef: Array,
        now: Evaluation,
        weighted_sum: Array,
        step: Array,
    ) -> tuple[State, Array]:
        """The parameters after a step of this size (k,), and the subgradient (k, d) followed."""
        ...

    def select(self, rows: np.ndarray) -> Self:
        """The rule for the problems at these indices."""
        ...

    def subgradient_norm(self, subgradient: Array) -> Array:
        """The dual norm of the subgradients: (k, d) -> (k,)."""
        ...


class RulePath:
    """The path of any rule, on any arrays.

    Parameters
    ----------
    problem : RobustProblem
    loss : MarginLoss
    rule : Rule
    state : tuple of arrays
        Where to start.
    step : array of shape (k,)
        First step.
    growth : float or None
        Factor on the step after an accepted trial; a refused one shrinks it by 0.7. None keeps the
        step constant and accepts every trial.
    """

    def __init__(
        self,
        problem: RobustProblem,
        loss: MarginLoss,
        rule: Rule,
        state: State,
        step: Array,
        growth: float | None,
    ) -> None:
        self.problem = problem
        self.loss = loss
        self.rule = rule
        self.growth = growth
        self.state = state
        self.step = self.first_step = step
        self.coef = rule.coef(state)
        self.now = problem.evaluate(loss, self.coef)
        self.weighted_sum = problem.weighted_sum(self.now.weights)
        self.subgradient = namespace(step).zeros_like(self.coef)
        self.sufficient_decrease = namespace(step).full_like(step, 0.5)

    def advance(self) -> None:
        """One trial step of every problem, accepted if it descends enough."""
        xp = namespace(self.coef)
        trial, self.subgradient = self.rule.propose(
            self.problem, self.state, self.coef, self.now, self.weighted_sum, self.step
        )
        coef = self.rule.coef(trial)
        then = self.problem.evaluate(self.loss, coef, near=self.now.intercept)
        if self.growth is None:
            self.state, self.coef = trial, coef
            self.now = then
        else:
            predicted_decrease = xp.sum(self.subgradient * (self.coef - coef), axis=-1)
            accepted = (
                then.log_risk <= self.now.log_risk - self.sufficient_decrease * predicted_decrease
            )
            self.step = xp.where(accepted, self.growth * self.step, SHRINK * self.step)
            self.state = tuple(
                _pick(xp, accepted, new, old) for new, old in zip(trial, self.state, strict=True)
            )
            self.coef = _pick(xp, accepted, coef, self.coef)
            self.now = evaluations(lambda new, old: _pick(xp, accepted, new, old), then, self.now)
        self.weighted_sum = self.problem.weighted_sum(self.now.weights)

    def any_below(self, log_risk: Array) -> bool:
        """Whether the log-risk of a problem is at most its entry of this array (k,)."""
        return bool(namespace(log_risk).any(self.now.log_risk <= log_risk))

    def iterate(self) -> Iterate:
        """The iterates of the problems."""
        return Iterate(
            self.coef,
            self.now,
            self.weighted_sum,
            self.rule.subgradient_norm(self.subgradient),
            self.step / self.first_step,
        )

    def view(self) -> tuple[Array, Evaluation]:
        """The coefficients and the loss at them, for a record: nothing of the path changes."""
        return self.coef, self.now

    def require_decrease(self, share: Array) -> None:
        """From now on accept a trial if it brings this share (k,) of the predicted decrease."""
        self.sufficient_decrease = share

    def select(self, rows: np.ndarray) -> Self:
        """The path of the problems at these indices."""
        self.problem, self.rule = self.problem.select(rows), self.rule.select(rows)
        self.state = tuple(array[rows] for array in self.state)
        self.now = evaluations(lambda array: array[rows], self.now)
        for name in (
            "step",
            "first_step",
            "coef",
            "weighted_sum",
            "subgradient",
            "sufficient_decrease",
        ):
            setattr(self, name, getattr(self, name)[rows])
        return self


def _pick(xp: Any, accepted: Array, new: Array, old: Array) -> Array:
    """The new rows where the trial was accepted, the old ones elsewhere."""
    if accepted.shape[0] == 1:
        return new if bool(accepted[0]) else old
    return xp.where(accepted[:, None] if new.ndim == 2 else accepted, new, old)


def evaluations(function: Callable[..., Array], *evaluations: Evaluation) -> Evaluation:
    """The function of each field of these evaluations."""
    return Evaluation(
        *(function(*(getattr(e, f.name) for e in evaluations)) for f in fields(Evaluation))
    )
