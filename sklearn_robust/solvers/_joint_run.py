"""One run of the minimiser of the joint risk: its predictor, and what is proven about it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sklearn_robust.solvers._joint_bounds import DualBounds
from sklearn_robust.solvers._joint_model import JointModel, RiskPoint
from sklearn_robust.solvers._joint_recession import Recession, recession
from sklearn_robust.solvers._joint_start import PairDifferences, SmoothedRisk, descend
from sklearn_robust.solvers._joint_ties import on_kinks
from sklearn_robust.solvers.solution import Monitoring, risk_gap


@dataclass(frozen=True)
class JointSolution:
    """The predictor at which a solver ended, and what is proven about it.

    Attributes
    ----------
    coef : ndarray of shape (K, d)
        Coefficients, with column sums 0.
    intercept : ndarray of shape (K,)
        Intercepts, with sum 0.
    weights : ndarray of shape (K, n)
        Dual weights, of sum 1: they prove the bound where there is one, and are those of the loss
        otherwise.
    log_risk : float
        Logarithm of the robust risk.
    bound : float
        A lower bound on the log-risk of every predictor; -inf if nothing is proven.
    gap : float
        1 - exp(bound - log_risk); 1 if nothing is proven.
    separable : {True, False, None}
        Whether the data are robustly separable: True is proven by the predictor, False by the
        weights.
    n_iter : int
        Iterations of L-BFGS and Newton steps.
    """

    coef: np.ndarray
    intercept: np.ndarray
    weights: np.ndarray
    log_risk: float
    bound: float
    gap: float
    separable: bool | None
    n_iter: int


class JointRun:
    """The state of one run.

    Parameters
    ----------
    model : JointModel
        The risk of all pairs of a sample and a rival.
    tol : float
    monitoring : Monitoring

    Attributes
    ----------
    model : JointModel
        The risk that is minimised: of all pairs, or of some.
    differences : PairDifferences
    bounds : DualBounds
        Its lower bounds.
    coef : ndarray of shape (K, d + 1)
        The current predictor, in units of the model.
    best : tuple of float, ndarray of shape (K, d + 1)
        An upper bound on the log-risk of the best predictor so far, and the predictor.
    n_iter : int
        Iterations so far.
    proving : bool
        Whether iterates are tried for the lower bound.
    ended : bool
        Whether the method has ended at the gap, a separator or a monitor's request.
    stopped : bool
        Whether a monitor has stopped the solver.
    recession : Recession or None
        The direction in which the risk falls without end, once it is known.
    """

    precision: ClassVar[float] = 1e-3  # see NewtonSystems
    starts_centred: ClassVar[bool] = False  # whether the interior point centres its start

    def __init__(self, model: JointModel, tol: float, monitoring: Monitoring) -> None:
        self.problem = problem = model.problem
        self.monitoring = monitoring
        self.whole = model
        self.judge(self.whole)
        self.pairs_of_whole = self.differences
        self.recession: Recession | None = None
        self._decided = False
        self.tol = tol
        self.coef = np.zeros((problem.n_classes, problem.n_features + 1))
        self.best = math.inf, self.coef
        self.n_iter = 0
        self.stopped = self.ended = False
        self.proving = True

    @property
    def n_samples(self) -> int:
        """The number of samples, n."""
        return len(self.problem.y)

    def judge(self, model: JointModel) -> None:
        """Take a model of the risk, of all pairs of a sample and a rival or of some."""
        self.model = model
        self.differences = PairDifferences(model)
        self.bounds = self.bounds_of(model)

    def bounds_of(self, model: JointModel) -> DualBounds:
        """The lower bounds on a risk, none so far."""
        return DualBounds(model, self.differences)

    def descend(
        self,
        smoothing: float,
        shrink: float,
        max_iter: int,
        ends: Callable[[np.ndarray, RiskPoint], bool] | None = None,
    ) -> SmoothedRisk:
        """L-BFGS on the smoothed risk."""
        self.coef, smoothed = descend(
            self.model,
            self.differences,
            self.coef,
            smoothing=smoothing,
            shrink=shrink,
            max_iter=max_iter,
            stop=ends or self.ends_descent,
        )
        return smoothed

    def ends_descent(self, coef: np.ndarray, point: RiskPoint) -> bool:
        """Whether L-BFGS ends after an iteration."""
        self.n_iter += 1
        self.show(coef)
        return self.stopped or separates(point)

    def show(self, coef: np.ndarray) -> None:
        """Show the predictor to the monitors where an iteration is due."""
        if self.monitoring.due(self.n_iter):
            self.report(*self.model.predictor(coef), self.log_risk(coef))

    def log_risk(self, coef: np.ndarray) -> float:
        """The log-risk of all pairs of a sample and a rival."""
        return self.whole.log_risk(coef, self.pairs_of_whole.norms(coef))

    def report(
        self, coef: np.ndarray, intercept: np.ndarray, log_risk: float, *, last: bool = False
    ) -> None:
        """Show a predictor, with its gap to the bound."""
        bound = self.bounds.bound
        gap = math.inf if bound == -math.inf else risk_gap(bound, log_risk)
        self.stopped |= self.monitoring(
            self.n_iter,
            np.zeros(1, dtype=int),
            coef[None],
            intercept[None],
            last=last,
            log_risk=np.full(1, log_risk),
            gap=np.full(1, gap),
        )

    def ends(self, at: RiskPoint, slopes: np.ndarray) -> bool:
        """Whether the method ends at an iterate, of which the bound and the monitors learn; its
        flows of the pairs are in proportion to slopes (P, r).
        """
        if self.model is self.whole:
            self.keep(at.log_risk)
        if separates(at):
            self.ended = True
        else:
            if self.proving:
                self.bounds.update(at, slopes)
            self.show(self.coef)
            self.ended = self.stopped or self._reached(at)
        return self.ended

    def keep(self, log_risk: float) -> None:
        """Remember the predictor if its log-risk is the least so far."""
        if log_risk <= self.best[0]:
            self.best = log_risk, self.coef

    def _reached(self, at: RiskPoint) -> bool:
        """Whether the predictor's risk is within tol of the bound."""
        bound = self.bounds.bound
        if bound == -math.inf:
            return False
        if at.log_risk - bound <= self.tol:
            return True
        # t exceeds the norms: the risk is convex in it, and not lower than its tangent
        norms = self.differences.norms(self.coef)
        tangent = at.value - float(at.gradient.pairs @ (at.pairs - norms))
        log_tangent = tangent if self.model.logarithmic else math.log(max(tangent, 1e-300))
        if log_tangent - bound > self.tol:
            return False
        return self.model.log_risk(self.coef, norms) - bound <= self.tol

    def recedes(self) -> bool:
        """Whether the risk falls without end in some direction, which is decided once, of all
        pairs: the risk of those that such a direction leaves has a minimiser.
        """
        if self.model is not self.whole:
            return False
        if not self._decided:
            self._decided = True
            self.recession = recession(self.whole, self.pairs_of_whole)
        return self.recession is not None

    def solution(self) -> JointSolution:
        """What is proven about the predictor, in the units of the rows."""
        problem, bounds = self.problem, self.bounds
        self.keep(self.log_risk(self.coef))
        coef, intercept = self.model.predictor(self.best[1])
        # intercepts of less risk need not separate
        separated = bool(problem.robust_margins(coef, intercept).min() > 0)
        now = problem.evaluate(
            self.model.loss, coef, intercept if separated else None, near=intercept
        )
        if float(now.log_risk) > self.best[0]:  # the search for better intercepts ended short
            del now
            now = problem.evaluate(self.model.loss, coef, intercept)
        if not separated:
            coef, now = on_kinks(problem, self.model.loss, coef, now, self.model.unit)
        intercept, log_risk = now.intercept, float(now.log_risk)
        separable: bool | None = True if bool(now.margins.min() > 0) else None
        if separable is None and bounds.proven:
            separable = False
        weights = None if bounds.proven else problem.balanced(now.weights, overwrite=True)
        del now  # the weights of the loss, before those of the proof take as much memory
        if weights is None:
            weights = bounds.weights()
        gap = risk_gap(bounds.bound, log_risk)
        self.report(coef, intercept, log_risk, last=True)
        return JointSolution(
            coef, intercept, weights, log_risk, bounds.bound, gap, separable, self.n_iter
        )


def separates(point: RiskPoint) -> bool:
    """Whether all margins are positive."""
    return point.smallest_margin > 0


def size_of(at: RiskPoint) -> float:
    """What a gap in the value of the risk is relative to."""
    return max(abs(at.value), np.finfo(float).tiny) if at.value != at.log_risk else 1.0
