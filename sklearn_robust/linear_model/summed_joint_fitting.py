"""The fit of a linear classifier of several classes against an l_q ball, from sums over its
samples.

The stages are those of `summed_fitting`, and the solutions have the form of `joint_fitting`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from sklearn_robust.certificates import Certified, relative_gap
from sklearn_robust.linear_model.fitting import RISK_TOL, find_scale
from sklearn_robust.linear_model.joint_fitting import constant_predictor
from sklearn_robust.linear_model.monitoring import FitMonitor
from sklearn_robust.losses import SummableLoss
from sklearn_robust.norms import Norm
from sklearn_robust.separators import NotSeparableError
from sklearn_robust.separators.summed_joint import separate_joint_sums
from sklearn_robust.solvers import Solution, joint_figures, minimise_summed_joint_risk
from sklearn_robust.solvers.solution import risk_gap
from sklearn_robust.summed import SummedJointProblem

_ONE = np.zeros(1, dtype=int)  # the index of the one problem

# coefficients (K, d), intercepts (K,) and the log-risk
Found = tuple[np.ndarray, np.ndarray, float]


@dataclass
class SummedJointFit:
    """The fit of one problem of several classes; see `SummedFit`.

    Attributes
    ----------
    problem : SummedJointProblem
    loss : SummableLoss
    tol : float
        Certified relative gap to reach.
    monitor : FitMonitor
    start : tuple of ndarray of shape (K, d), (K,), or None
        Coefficients and intercepts at which the search for a minimiser of the risk starts.
    last : tuple or None
        The last predictor of the search, and its log-risk.
    """

    problem: SummedJointProblem
    loss: SummableLoss
    tol: float
    monitor: FitMonitor
    start: tuple[np.ndarray, np.ndarray] | None = None
    last: Found | None = None

    def solve(self, norm: Norm, *, loss_tol: float, tol: float | None = None) -> Solution:
        """The minimiser of the risk, or the exact separator where the samples are separable, to a
        gap of `tol`, by default that of the fit.

        The coefficients 0 come first: they are the minimiser for a large radius.
        """
        constant = self._constant(norm)
        if constant.converged[0] or self.monitor.stopped:
            return constant
        solution = self.minimise_risk(norm)
        if solution.separable[0] is False or self.monitor.stopped:
            return solution
        fit = replace(self, tol=self.tol if tol is None else tol)
        return fit.separate(norm, solution, loss_tol=loss_tol)

    def minimise_risk(self, norm: Norm) -> Solution:
        """The minimiser of the risk, or a predictor that separates the samples robustly."""

        def record(*found: np.ndarray | float) -> None:
            self.last = found  # type: ignore[assignment]

        with self.monitor.solver("robust_risk", _ONE) as monitors:
            end = minimise_summed_joint_risk(
                self.problem,
                self.loss,
                tol=max(self.tol, RISK_TOL),
                start=self.start,
                monitors=monitors,
                record=record,
            )
        found = self._seen(norm, end.coef, end.intercept, end.bound)
        return replace(found, n_iter=np.array([end.n_iter]))

    def separate(self, norm: Norm, solution: Solution, *, loss_tol: float) -> Solution:
        """The exact separator, scaled so that the sum of its robust losses is loss_tol.

        Samples of which no separator is found keep their solution; without a separator, proven,
        they are not separable.
        """
        with self.monitor.stage("exact separator"):
            try:
                found = separate_joint_sums(self.problem, norm).certified
            except NotSeparableError:
                return solution.not_separable(math.inf, converged=False)
            except RuntimeError:
                return solution
            scale = self._scale(norm, found, loss_tol)
            # the certificate is that of the coefficients as the user sees them
            seen = self._seen(norm, scale * found.coef, scale * found.intercept)
        gap = relative_gap(seen.margin.astype(np.float64), np.array([found.bound]))
        return replace(
            seen,
            margin_bound=np.full_like(seen.margin_bound, found.bound),
            gap=gap,
            separable=[True],
            converged=gap <= self.tol,
            n_iter=np.array([1]),
        )

    def _scale(self, norm: Norm, found: Certified, loss_tol: float) -> float:
        """The factor at which the sum of the robust losses of a separator, whose smallest margin is
        1, is loss_tol; 1 for 0.
        """
        if loss_tol == 0:
            return 1.0
        goal = math.log(loss_tol) - math.log(self.problem.total_weight)

        def excess(scale: float) -> float:
            at = scale * found.coef, scale * found.intercept
            return joint_figures(self.problem, self.loss, norm, *at)[0] - goal

        # (K - 1) exp(-scale) bounds the loss
        return find_scale(excess, math.log(len(found.coef) - 1) - goal, 1.0)

    def _constant(self, norm: Norm) -> Solution:
        """The coefficients 0 with the best intercepts, which may minimise the risk."""
        now, bound = constant_predictor(self.problem.at_class_means(), self.loss)
        coef = np.zeros((len(now.intercept), self.problem.n_features))
        found = self.solution((coef, now.intercept, float(now.log_risk)))
        return self._certified(found, bound)

    def _seen(
        self, norm: Norm, coef: np.ndarray, intercept: np.ndarray, bound: float = -math.inf
    ) -> Solution:
        """A predictor as the user sees it, rounded to the type of the data, with its figures there
        and the gap to a lower bound on the log-risk.
        """
        dtype = self.problem.survey.dtype
        coef, intercept = (array.astype(dtype).astype(np.float64) for array in (coef, intercept))
        log_risk, margin = joint_figures(self.problem, self.loss, norm, coef, intercept)
        found = self.solution((coef, intercept, log_risk))
        found = replace(
            found, margin=np.array([margin], dtype), separable=[True if margin > 0 else None]
        )
        return self._certified(found, bound)

    def _certified(self, found: Solution, bound: float) -> Solution:
        """The solution with a proof that no predictor separates, and has a lower log-risk."""
        if bound == -math.inf or found.separable[0]:
            return found
        gap = np.array([risk_gap(bound, float(found.log_risk[0]))])
        return replace(
            found,
            gap=gap,
            separable=[False],
            margin_bound=np.zeros_like(found.margin_bound),
            converged=gap <= self.tol,
        )

    def last_solution(self) -> Solution:
        """The last predictor of the search."""
        assert self.last is not None
        return self.solution(self.last)

    def solution(self, found: Found) -> Solution:
        """A predictor, of the dtype of the data, without weights, of which nothing is proven."""
        coef, intercept, log_risk = found
        dtype = self.problem.survey.dtype
        return Solution(
            coef=coef[None].astype(dtype),
            intercept=intercept[None].astype(dtype),
            weights=np.zeros((1, len(coef), 0)),
            log_risk=np.array([log_risk], dtype),
            margin=np.full(1, -math.inf, dtype),
            margin_bound=np.full(1, math.inf, dtype),
            gap=np.array([math.inf]),
            separable=[None],
            converged=np.array([False]),
            n_iter=np.array([0]),
        )
