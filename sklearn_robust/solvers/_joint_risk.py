r"""The minimiser of the joint robust risk of several classes, certified.

With :math:`t_{lk} = \|s (w_l - w_k)\|_{q^*}` the risk is a smooth convex function of the scores and
of t, in which it increases; a primal-dual interior point minimises it under the cones :math:`t_{lk}
\ge \|s (w_l - w_k)\|_{q^*}` (`_joint_interior_point`). L-BFGS on a smoothed risk finds its start
(`_joint_start`). It ends at a gap of tol, or where all margins are positive.

Where the method ends short of both it is decided whether the risk has a minimiser, and otherwise
what its infimum is (`_joint_recession`).

It serves l_q balls with q = 1 up to 3000 unknowns, with q = 2 and inf also more, of which the
preconditioner of the Newton systems has as many in a dense matrix (`_joint_preconditioner`).
Elsewhere, with any threat that has a projection, L-BFGS minimises the smoothed risk in stages
(`_joint_stages`). Sets that differ from sample to sample, or are not symmetric, are in one cone
program (`_risk_programs`).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import numpy as np

from sklearn_robust._clarabel import SolverFailure
from sklearn_robust.joint import JointProblem
from sklearn_robust.losses import MarginLoss
from sklearn_robust.rows import BlockRows, DenseRows, SparseRows
from sklearn_robust.solvers import _joint_boxes as against_boxes
from sklearn_robust.solvers._joint_cones import CONES
from sklearn_robust.solvers._joint_interior_point import SMOOTHING, InteriorPoint
from sklearn_robust.solvers._joint_model import ROWS_PER_UNKNOWN, JointModel
from sklearn_robust.solvers._joint_newton import MOST_DENSE
from sklearn_robust.solvers._joint_run import JointRun, JointSolution
from sklearn_robust.solvers._joint_stages import minimise_in_stages
from sklearn_robust.solvers._joint_start import with_reachable
from sklearn_robust.solvers._risk_programs import has_cones, minimise_by_program, takes_program
from sklearn_robust.solvers.solution import Monitor, Monitoring, risk_gap
from sklearn_robust.threats import ProximalThreat, is_ball, require

_START_ITERATIONS = 60  # iterations of L-BFGS on the smoothed risk
# entries of what joins the features that are not in the dense factor to the pairs, at most
_MOST_JOINED = 5_000_000
_DOUBLINGS = 60  # doublings of the way along a direction in which it does, at most
# Newton steps at most: so many in any case, and as many as have so many multiplications in their
# estimates of the Hessian
_FEWEST_STEPS, _MOST_WORK = 40, 2_000_000_000_000
# excess of the log-risk of the coefficients 0 up to which they take the place of those of a program
_CONSTANT_ROOM = 1e-9
# classes times samples times features up to which a set in cones that has a projection too is in
# one cone program, which takes seconds
_MOST_IN_CONES = 50_000


def minimise_joint_risk(
    problem: JointProblem,
    loss: MarginLoss,
    *,
    tol: float = 1e-6,
    max_iter: int = 100,
    start: tuple[np.ndarray, np.ndarray] | None = None,
    monitors: Sequence[Monitor] = (),
) -> JointSolution:
    r"""Minimise the joint robust risk, or find a predictor that separates the classes.

    Parameters
    ----------
    problem : JointProblem
        On NumPy or scipy.sparse data or rows of one's own, with a threat that has a projection.
    loss : MarginLoss
        Exponential or logistic.
    tol : float, default=1e-6
        Certified relative gap of the risk to reach.
    max_iter : int, default=100
        Newton steps at most, fewer of thousands of coefficients; L-BFGS has at most 20 iterations
        for each of them.
    start : tuple of ndarray of shape (K, d), (K,), optional
        Coefficients and intercepts to start from, in place of 0.
    monitors : sequence of Monitor, optional
        Shown coef (1, K, d), intercept (1, K), log_risk and gap (1,) at iterations of their choice,
        as one problem; the gap is inf while nothing is proven. They change no iteration; each may
        stop the solver.

    Returns
    -------
    JointSolution
        Its gap may exceed tol where max_iter or rounding ended the method.

    Raises
    ------
    ValueError
        If the threat has no projection.

    Notes
    -----
    The method is a primal-dual interior point for l_q balls of q = 2 and inf where coefficients
    times pairs of classes are up to 5 million, and of q = 1 up to 3000 unknowns, and L-BFGS on a
    smoothed risk otherwise, with fewer iterations where classes times samples, or pairs of classes
    times features, are many millions. The first decides whether the
    risk has a minimiser where its iterates leave that open; where it has none the predictor nears
    the infimum. Data of very unlike scales may end without a bound: the gap is then 1.

    Against sets that differ from sample to sample, or are not symmetric, smoothing and cone
    programs end at an accuracy of their own, about 1e-8: tol, max_iter and start do not change it.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_wine
    >>> from sklearn.preprocessing import StandardScaler
    >>> from sklearn_robust.joint import JointProblem
    >>> from sklearn_robust.losses import LOSSES
    >>> from sklearn_robust.solvers import minimise_joint_risk
    >>> X, y = load_wine(return_X_y=True)
    >>> X = StandardScaler().fit_transform(X)
    >>> problem = JointProblem.from_data(X, y, q=np.inf, eps=0.2, fit_intercept=True)
    >>> solution = minimise_joint_risk(problem, LOSSES["logistic"], tol=1e-4)
    >>> solution.coef.shape, solution.separable, solution.gap < 1e-4
    ((3, 13), False, True)
    """
    in_cones = problem.in_cones()
    small = problem.n_features * problem.n_classes * len(problem.y) <= _MOST_IN_CONES
    if in_cones is not None and (problem.adversary is not None or (small and has_cones(loss))):
        return _minimise_against_sets(in_cones.in_double_arithmetic(), loss, monitors)
    require(problem.threat, ProximalThreat, "the minimiser of the joint risk")
    problem = with_reachable(problem.in_double_arithmetic())
    run = JointMinimisation(JointModel(problem, loss), tol, Monitoring(0, monitors))
    return run.run(max_iter, start)


def _minimise_against_sets(
    problem: JointProblem, loss: MarginLoss, monitors: Sequence[Monitor]
) -> JointSolution:
    """The minimiser where the sets differ from sample to sample: against boxes by smoothing, else,
    or where this ends without a proof, by one cone program.
    """
    try:
        coef, weights, bound = _minimiser_against_sets(problem, loss)
    except SolverFailure as failure:
        from sklearn.exceptions import ConvergenceWarning  # workers spare its memory

        warnings.warn(
            f"The cone program of the robust risk failed ({failure}). Standardise the features.",
            ConvergenceWarning,
            stacklevel=2,
        )
        coef = np.zeros((problem.n_classes, problem.n_features))
        weights, bound = None, -math.inf
    now = problem.evaluate(loss, coef)
    constant = problem.evaluate(loss, np.zeros_like(coef))
    if float(constant.log_risk) <= float(now.log_risk) + _CONSTANT_ROOM and bound > -math.inf:
        coef, now = np.zeros_like(coef), constant  # what the program has left is its error
    log_risk = float(now.log_risk)
    gap = risk_gap(bound, log_risk)
    monitoring = Monitoring(0, monitors)
    figures = {"log_risk": np.full(1, log_risk), "gap": np.full(1, gap if gap < 1 else math.inf)}
    zero = np.zeros(1, dtype=int)
    monitoring(1, zero, coef[None], now.intercept[None], last=True, **figures)
    separable = True if float(now.margins.min()) > 0 else None
    return JointSolution(
        coef,
        now.intercept,
        problem.balanced(now.weights) if weights is None else weights,
        log_risk,
        bound,
        gap,
        separable if bound == -math.inf else False,
        1,
    )


def _minimiser_against_sets(
    problem: JointProblem, loss: MarginLoss
) -> tuple[np.ndarray, np.ndarray | None, float]:
    """Coefficients, and the weights that prove a bound on the log-risk, if any."""
    if not against_boxes.serves(problem):
        return minimise_by_program(problem, loss)
    found = against_boxes.minimise(problem, loss)
    separates = float(problem.evaluate(loss, found[0]).margins.min()) > 0
    if found[1] is not None or separates or not takes_program(problem, loss):
        return found
    return minimise_by_program(problem, loss)


class JointMinimisation(JointRun):
    """One run."""

    def run(self, max_iter: int, start: tuple[np.ndarray, np.ndarray] | None) -> JointSolution:
        """Start, then the interior point where it serves, or L-BFGS in stages."""
        if start is not None:
            self.coef = self.model.from_predictor(*start)
        if self.has_interior_point():
            max_iter = min(max_iter, self._affordable_steps())
            self.approach(max_iter)
            if not self.stopped:
                self.minimise(max_iter)
            if not self.ended and self.recedes():
                self._follow_recession(max_iter)
        else:
            self.descend_in_stages(20 * max_iter)
        return self.solution()

    def has_interior_point(self) -> bool:
        """Whether the interior point serves the problem."""
        threat, n_pairs = self.problem.threat, len(self.model.low)
        if not isinstance(self.problem.rows, DenseRows | SparseRows | BlockRows):
            return False
        if n_pairs and not (is_ball(threat) and threat.q in CONES):
            return False
        if self.coef.size + n_pairs <= MOST_DENSE:
            return True
        joins = n_pairs > 0 and threat.q in (2, math.inf)
        return joins and 2 * n_pairs <= MOST_DENSE and self.coef.size * n_pairs <= _MOST_JOINED

    def _affordable_steps(self) -> int:
        """Newton steps that take some minutes at most, if each has an estimate of the Hessian."""
        size = min(self.coef.size, MOST_DENSE)
        return max(
            _FEWEST_STEPS, _MOST_WORK // (size**2 * min(self.n_samples, ROWS_PER_UNKNOWN * size))
        )

    def approach(self, max_iter: int) -> None:
        """The start of the interior point."""
        self.descend(SMOOTHING, 0.0, min(_START_ITERATIONS, 20 * max_iter))

    def minimise(self, max_iter: int) -> None:
        """The Newton steps."""
        InteriorPoint(self, max_iter).minimise()

    def descend_in_stages(self, max_iter: int) -> None:
        """L-BFGS, where the interior point does not serve."""
        minimise_in_stages(self, max_iter)

    def _follow_recession(self, max_iter: int) -> None:
        """The infimum of the risk: that of the pairs of a sample and a rival whose margins do not
        grow, from the minimiser of which the direction leads on.
        """
        found, before = self.recession, self.bounds
        assert found is not None
        if found.separates:
            self.best = -math.inf, found.coef
            return
        self.judge(JointModel(self.problem, self.model.loss, found.grows))
        self.coef = np.zeros_like(self.coef)
        self.descend(SMOOTHING, 0.0, min(_START_ITERATIONS, 20 * max_iter))
        if not self.stopped:
            InteriorPoint(self, max_iter).minimise()
        bounds = max(self.bounds, before, key=lambda bounds: bounds.bound)
        last = math.inf
        for doubling in range(_DOUBLINGS):
            coef = self.coef + 2.0**doubling * found.coef
            log_risk = self.log_risk(coef)
            if not log_risk < last:
                break
            last = log_risk
            if log_risk < self.best[0]:
                self.best = log_risk, coef
            # further on rounding grows with the coefficients
            if log_risk - bounds.bound <= self.tol:
                break
        self.judge(self.whole)
        self.bounds, self.proving = bounds, False
        if not self.stopped and self.best[0] - bounds.bound > self.tol:
            # the direction has the error of its solver
            self.coef = self.best[1]
            InteriorPoint(self, max_iter).minimise()
