r"""The minimiser of the joint robust risk of several classes, certified.

With :math:`t_{lk} = \|s (w_l - w_k)\|_{q^*}` the risk is a smooth convex function of the scores and
of t, in which it increases; a primal-dual interior point minimises it under the cones :math:`t_{lk}
\ge \|s (w_l - w_k)\|_{q^*}`:

1. L-BFGS on a smoothed risk finds the start (`_joint_start`).
2. The slacks and multipliers of the cones start at those of the smoothing, with one :math:`\mu` for
   each pair (`_joint_cones`).
3. A step solves the Newton system for smaller products of slacks and multipliers (`_joint_newton`).
   Where the cones allow a short one only, the iterate is centred: Newton's method with sufficient
   decrease minimises the smoothed risk, with more smoothing from time to time.
4. The weights at each iterate bound the risk from below (`_joint_bounds`); the method ends at a gap
   of tol, or where all margins are positive.

Where the method ends short of both it is decided whether the risk has a minimiser, and otherwise
what its infimum is (`_joint_recession`).

The condition :math:`\epsilon A_{lk} = \lambda_{lk}` on the multipliers is taken with :math:`(1 -
\tau) \epsilon`, so that iterates become strictly feasible for the bound at :math:`\epsilon`;
:math:`\tau` falls with the gap, of which it costs a tenth.

It serves l_q balls with q = 1 up to 3000 unknowns, with q = 2 and inf also more, of which the
preconditioner of the Newton systems has as many in a dense matrix (`_joint_preconditioner`).
Elsewhere, with any threat that has a projection, L-BFGS minimises the smoothed risk at the radius
:math:`(1 - \tau) \epsilon`, with the same bounds at :math:`\epsilon`, for smaller and smaller
:math:`\tau` and smoothing. Sets that differ from sample to sample, or are not symmetric, are in one
cone program (`_risk_programs`).
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from sklearn_robust._clarabel import SolverFailure
from sklearn_robust.joint import JointProblem
from sklearn_robust.losses import MarginLoss
from sklearn_robust.rows import BlockRows, DenseRows, SparseRows
from sklearn_robust.solvers import _joint_boxes as against_boxes
from sklearn_robust.solvers._joint_bounds import DualBounds
from sklearn_robust.solvers._joint_cones import CONES, PairCones, Scaling
from sklearn_robust.solvers._joint_model import Direction, JointModel, RiskPoint
from sklearn_robust.solvers._joint_newton import MOST_DENSE, NewtonSystems
from sklearn_robust.solvers._joint_recession import Recession, recession
from sklearn_robust.solvers._joint_start import (
    PairDifferences,
    SmoothedRisk,
    descend,
    smoothed_risk,
    with_reachable,
)
from sklearn_robust.solvers._joint_ties import on_kinks
from sklearn_robust.solvers._risk_programs import has_cones, minimise_by_program, takes_program
from sklearn_robust.solvers.solution import Monitor, Monitoring
from sklearn_robust.threats import ProximalThreat, is_ball, require

_SMOOTHING = 0.03  # smoothing of the norms at the start, in units of the data
_START_ITERATIONS = 60  # iterations of L-BFGS on the smoothed risk
# entries of what joins the features that are not in the dense factor to the pairs, at most
_MOST_JOINED = 5_000_000
_REDUCTION = 0.15  # target of the products after a long step, relative to today's
_CAUTIOUS_REDUCTION = 0.4  # and after a short one
_LONG = 0.7  # share of a step to the boundary from which it counts as long
_LEAST_PRODUCT = 0.1  # least product of a pair over its multiplier, relative to that of all pairs
_SHORT = 0.05  # share of a step that is short: two in a row have the iterate centred
_STUCK = 0.01  # and one of this share by itself
_CENTRINGS = 6  # in one run at most; short steps after them end the method
_WIDER = 4.0  # factor of the smoothing of one centring over that of the last
_CENTRED = 0.1  # predicted decrease that ends it, relative to the sum of products
_CENTRING_STEPS = 50  # Newton steps in one at most
_PATIENCE = 30  # Newton steps without a bound after which it is decided whether the risk recedes
_GROWTH = 4.0  # change of the coefficients, relative to them, that is suspicious
_DOUBLINGS = 60  # doublings of the way along a direction in which it does, at most
_SUFFICIENT = 1e-4  # share of the predicted decrease that a step has to reach
_BIAS = 0.1  # share of the sum of products that shrinking the dual cone costs
_MOST_SHRINK = 0.2  # largest relative shrinking of the dual cone
_LEAST_MULTIPLIER = 1e-5  # least multiplier of a pair at the start, relative to the largest
# what products and bias are held to at least, as shares of the gap asked for: iterates converge
# there to points that are strictly feasible for the bound
_LEAST_PRODUCTS = 0.01
_LEAST_BIAS = 0.05
_WIDEN = 1.5  # factor of the two after a step that finds the products so small, and no bound
_MAX_QUARTERINGS = 10  # largest number of times that a step is quartered
_STEP_HALVINGS = 30  # largest number of times that a step without cones is halved

_SHRINKS = (0.03, 0.01, 3e-3, 1e-3, 3e-4, 1e-4)  # shrinking of the radius, by stage of L-BFGS
_SMOOTHING_OF_SHRINK = 0.3  # smoothing in a stage, in units of the data, relative to the shrinking
_PROVE_EVERY = 25  # iterations of a stage between attempts at a bound
_PRICES = 1.5  # times the price of its smaller radius: the gap at which a stage ends
_LEAST_ITERATIONS = 30  # iterations of a stage at least
# excess of the log-risk of the coefficients 0 up to which they take the place of those of a program
_CONSTANT_ROOM = 1e-9
# classes times samples times features up to which a set in cones that has a projection too is in
# one cone program, which takes seconds
_MOST_IN_CONES = 50_000
# entries of arrays over classes and samples, and over pairs and features, that all iterations of
# L-BFGS may compute: some minutes, and enough for a thousand classes
_MOST_ENTRIES = 10_000_000_000


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
        Newton steps at most; L-BFGS has at most 20 iterations for each of them.
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
    gap = 1.0 if bound == -math.inf else _gap(log_risk, bound)
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


class JointMinimisation:
    """One run.

    Parameters
    ----------
    model : JointModel
        The risk of all pairs of a sample and a rival.
    tol : float
    monitoring : Monitoring

    Attributes
    ----------
    coef : ndarray of shape (K, d + 1)
        The current predictor, in units of the model.
    widened : float
        By how much the least products and bias were raised.
    best : tuple of float, ndarray of shape (K, d + 1)
        An upper bound on the log-risk of the best predictor so far, and the predictor.
    n_newton : int
        Newton steps so far.
    proving : bool
        Whether iterates are tried for the lower bound.
    ended : bool
        Whether the method has ended at the gap, a separator or a monitor's request.
    stopped : bool
        Whether a monitor has stopped the solver.
    """

    precision: ClassVar[float] = 1e-3  # see NewtonSystems

    def __init__(self, model: JointModel, tol: float, monitoring: Monitoring) -> None:
        self.problem = problem = model.problem
        self.monitoring = monitoring
        self.whole = model
        self._judge(self.whole)
        self.pairs_of_whole = self.differences
        self.recession: Recession | None = None
        self._decided = False
        self.tol = tol
        self.coef = np.zeros((problem.n_classes, problem.n_features + 1))
        self.best = math.inf, self.coef
        self.widened = 1.0
        self.n_iter = self.n_newton = 0
        self.stopped = self.ended = False
        self.proving = True

    @property
    def n_samples(self) -> int:
        """The number of samples, n."""
        return len(self.problem.y)

    def _judge(self, model: JointModel) -> None:
        """Take a model of the risk, of all pairs of a sample and a rival or of some."""
        self.model = model
        self.differences = PairDifferences(model)
        self.bounds = self._bounds_of(model)

    def _bounds_of(self, model: JointModel) -> DualBounds:
        """The lower bounds on a risk, none so far."""
        return DualBounds(model, self.differences)

    def run(self, max_iter: int, start: tuple[np.ndarray, np.ndarray] | None) -> JointSolution:
        """Start, then the interior point where it serves, or L-BFGS in stages."""
        if start is not None:
            self.coef = self.model.from_predictor(*start)
        if self._has_interior_point():
            self._approach(max_iter)
            if not self.stopped:
                self._interior_point(max_iter)
            if not self.ended and self._recedes():
                self._follow_recession(max_iter)
        else:
            self._stages(20 * max_iter)
        return self._solution()

    def _has_interior_point(self) -> bool:
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

    def _approach(self, max_iter: int) -> None:
        """The start of the interior point."""
        self._descend(_SMOOTHING, 0.0, min(_START_ITERATIONS, 20 * max_iter))

    def _descend(
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
            stop=ends or self._ends_descent,
        )
        return smoothed

    def _ends_descent(self, coef: np.ndarray, point: RiskPoint) -> bool:
        """Whether L-BFGS ends after an iteration."""
        self.n_iter += 1
        self._show(coef)
        return self.stopped or _separates(point)

    def _show(self, coef: np.ndarray) -> None:
        """Show the predictor to the monitors where an iteration is due."""
        if self.monitoring.due(self.n_iter):
            self._report(*self.model.predictor(coef), self._log_risk(coef))

    def _log_risk(self, coef: np.ndarray) -> float:
        """The log-risk of all pairs of a sample and a rival."""
        return self.whole.log_risk(coef, self.pairs_of_whole.norms(coef))

    def _report(
        self, coef: np.ndarray, intercept: np.ndarray, log_risk: float, *, last: bool = False
    ) -> None:
        """Show a predictor, with its gap to the bound."""
        bound = self.bounds.bound
        gap = math.inf if bound == -math.inf else _gap(log_risk, bound)
        self.stopped |= self.monitoring(
            self.n_iter,
            np.zeros(1, dtype=int),
            coef[None],
            intercept[None],
            last=last,
            log_risk=np.full(1, log_risk),
            gap=np.full(1, gap),
        )

    # -- the interior point

    # slacks may round to 0 at the boundary of a cone: a step that is not finite is refused
    @np.errstate(over="ignore", divide="ignore", invalid="ignore")
    def _interior_point(self, max_iter: int) -> None:
        systems = NewtonSystems(self.model, self.differences, self.precision)
        cones = self._first_cones(systems, _SMOOTHING, max_iter)
        last_length, n_centrings = 1.0, 0
        at = self.model.at(self.coef, self._norms(cones))
        while not self._ends(at, cones) and self.n_newton < max_iter:
            if self.n_newton >= _PATIENCE and not self.bounds.proven and self._recedes():
                return
            self._count_newton_step()
            if cones is None:
                if not self._newton_step(systems, at):
                    return
                at = self.model.at(self.coef, at.pairs)
                continue
            moved = self._cone_step(systems, at, cones, last_length >= _LONG)
            length = 0.0
            if moved is not None:
                at, cones, length = moved
            is_short = length < _STUCK or max(length, last_length) < _SHORT
            last_length = length
            if is_short:
                if n_centrings == _CENTRINGS:
                    return
                smoothing = _WIDER**n_centrings * self._smoothing_like(cones)
                cones = self._centred(systems, smoothing, max_iter)
                at = self.model.at(self.coef, cones.t)
                n_centrings += 1
                last_length = self.widened = 1.0

    def _first_cones(
        self, systems: NewtonSystems, smoothing: float, max_iter: int
    ) -> PairCones | None:
        """The cones at the start; None without adversary."""
        return self._cones(smoothing)

    def _ends(self, at: RiskPoint, cones: PairCones | None) -> bool:
        """Whether the method ends at an iterate, of which the bound and the monitors learn."""
        if self.model is self.whole:
            self._keep(at.log_risk)
        if _separates(at):
            self.ended = True
        else:
            self._bound(at, cones)
            self._show(self.coef)
            self.ended = self.stopped or self._reached(at)
        return self.ended

    def _count_newton_step(self) -> None:
        self.n_newton += 1
        self.n_iter += 1

    def _centred(self, systems: NewtonSystems, smoothing: float, max_iter: int) -> PairCones:
        """Cones whose slacks and multipliers fit together, near the minimiser of the smoothed risk,
        to which Newton's method with sufficient decrease leads from any start.
        """
        now = smoothed_risk(self.model, self.differences, self.coef, smoothing)
        last = min(max_iter, self.n_newton + _CENTRING_STEPS)
        while True:
            cones = self._cones(smoothing)
            assert cones is not None
            products = cones.products()
            if self.n_newton >= last or not systems.factorise(
                now.point, cones.scaling(products / cones.degree)
            ):
                return cones
            self._count_newton_step()
            step = systems.solve(Direction(-now.gradient, np.zeros(len(products)))).coef
            decrease = -float(np.vdot(now.gradient, step))
            if not decrease > _CENTRED * float(products.sum()):
                return cones
            value, length = now.point.release().value, 1.0
            for _ in range(_STEP_HALVINGS):
                coef = self.coef + length * step
                moved = smoothed_risk(self.model, self.differences, coef, smoothing)
                if moved.point.value <= value - _SUFFICIENT * length * decrease:
                    break
                length *= 0.5
            else:
                return cones
            self.coef, now = coef, moved
            self._show(coef)
            if self.stopped or _separates(now.point):
                return self._cones(smoothing) or cones

    def _smoothing_like(self, cones: PairCones) -> float:
        """The smoothing of the start, or a smaller one with products like those of the cones where
        a bound shows that the minimiser is near.
        """
        start = self._cones(_SMOOTHING) if self.bounds.proven else None
        if start is None:
            return _SMOOTHING
        return _SMOOTHING * min(1.0, float(cones.products().sum() / start.products().sum()))

    def _keep(self, log_risk: float) -> None:
        """Remember the predictor if its log-risk is the least so far."""
        if log_risk <= self.best[0]:
            self.best = log_risk, self.coef

    def _cones(self, smoothing: float) -> PairCones | None:
        """The cones with slacks and multipliers of the smoothed risk; None without adversary."""
        D = self.differences.of(self.coef)
        if not D.size:
            return None
        norms = self.differences.smoothed(self.coef, smoothing)[0]
        multipliers = self.model.at(self.coef, norms).gradient.pairs
        least = max(_LEAST_MULTIPLIER * float(multipliers.max()), np.finfo(float).tiny)
        cone = CONES[self.problem.threat.q]
        return cone(D, np.maximum(multipliers, least), smoothing)

    def _norms(self, cones: PairCones | None) -> np.ndarray:
        return np.zeros(len(self.model.low)) if cones is None else cones.t

    def _bound(self, at: RiskPoint, cones: PairCones | None) -> None:
        """Try the weights at a point for the lower bound."""
        if not self.proving:
            return
        slopes = np.zeros((0, 0))
        if cones is not None:
            delta, multipliers = cones.multipliers
            slopes = delta / np.maximum(multipliers, at.gradient.pairs)[:, None]
        self.bounds.update(at, slopes)

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

    def _newton_step(self, systems: NewtonSystems, at: RiskPoint) -> bool:
        """Newton's method where there is no adversary; whether it can go on."""
        if not systems.factorise(at, None):
            return False
        step = systems.solve(at.gradient * -1.0)
        # a step that leaves the scale of the coefficients is sign of a risk without minimiser
        longest = _GROWTH * max(1.0, float(np.abs(self.coef).max()))
        is_long = float(np.abs(step.coef).max()) > longest
        if is_long and not self.bounds.proven and self._recedes():
            return False
        length = 1.0
        for _ in range(_STEP_HALVINGS):
            moved = self.coef + length * step.coef
            value = self.model.at(moved, at.pairs).value
            # rounding is granted
            if value <= at.value + 1e-14 * max(1.0, abs(at.value)):
                self.coef = moved
                return True
            length *= 0.5
        return False

    def _cone_step(
        self, systems: NewtonSystems, at: RiskPoint, cones: PairCones, long_step: bool
    ) -> tuple[RiskPoint, PairCones, float] | None:
        """One step of the interior point: the point and the cones there, and the shorter of its two
        lengths; None where it fails.
        """
        products = cones.products()
        total, least = float(products.sum()), self.tol * _size(at) * self.widened
        if total <= 2 * _LEAST_PRODUCTS * least and not self.bounds.proven:
            self.widened *= _WIDEN
        penalty = max(float(at.gradient.pairs @ cones.t), np.finfo(float).tiny)
        shrink = min(_MOST_SHRINK, max(_BIAS * total, _LEAST_BIAS * least) / penalty)
        reduction = _REDUCTION if long_step else _CAUTIOUS_REDUCTION
        reduction = max(reduction, min(1.0, _LEAST_PRODUCTS * least / max(total, 1e-300)))
        multipliers = cones.multipliers[1]
        share = _LEAST_PRODUCT * total / float(multipliers.sum())
        mu = reduction * np.maximum(products, share * multipliers) / cones.degree
        scaling = cones.scaling(mu)
        if not systems.factorise(at, scaling):
            return None
        step, changes, lengths = self._solve(systems, at, cones, scaling, shrink)
        if min(lengths) < _LONG:
            corrected = cones.corrected(changes, step.pairs)
            if corrected is not None:
                other = self._solve(systems, at, cones, corrected, shrink)
                if sum(other[2]) > sum(lengths):
                    step, changes, lengths = other
                else:
                    cones.scaling(mu)
        if not (min(lengths) > 0 and np.isfinite(step.coef).all()):
            return None
        value = at.release().value
        share = 1.0
        for _ in range(_MAX_QUARTERINGS):
            moved = copy.copy(cones)
            coef = self.coef + moved.move(changes, step.pairs, share) * step.coef
            new = self.model.at(coef, moved.t)
            # the sum of products bounds what a step towards smaller ones may cost
            if new.value <= value + max(total, least):
                self.coef = coef
                return new, moved, share * min(lengths)
            share *= 0.25
        return None

    def _solve(
        self,
        systems: NewtonSystems,
        at: RiskPoint,
        cones: PairCones,
        scaling: Scaling,
        shrink: float,
    ) -> tuple[Direction, np.ndarray, tuple[float, float]]:
        """The step for the force of a scaling, its differences, and how far the cones allow it."""
        force = self.differences.adjoint(scaling.force, self.coef.shape)
        by_pair = (1 - shrink) * at.gradient.pairs + scaling.force_of_pair
        step = systems.solve(Direction(-(at.gradient.coef + force), -by_pair))
        changes = self.differences.of(step.coef)
        return step, changes, cones.lengths(changes, step.pairs)

    # -- without a minimiser

    def _recedes(self) -> bool:
        """Whether the risk falls without end in some direction, which is decided once."""
        if not self._decided:
            self._decided = True
            self.recession = recession(self.whole, self.pairs_of_whole)
        return self.recession is not None

    def _follow_recession(self, max_iter: int) -> None:
        """The infimum of the risk: that of the pairs of a sample and a rival whose margins do not
        grow, from the minimiser of which the direction leads on.
        """
        found, before = self.recession, self.bounds
        assert found is not None
        if found.separates:
            self.best = -math.inf, found.coef
            return
        self._judge(JointModel(self.problem, self.model.loss, found.grows))
        self.coef, self.n_newton = np.zeros_like(self.coef), 0
        self._descend(_SMOOTHING, 0.0, min(_START_ITERATIONS, 20 * max_iter))
        if not self.stopped:
            self._interior_point(max_iter)
        bounds = max(self.bounds, before, key=lambda bounds: bounds.bound)
        last = math.inf
        for doubling in range(_DOUBLINGS):
            coef = self.coef + 2.0**doubling * found.coef
            log_risk = self._log_risk(coef)
            if not log_risk < last:
                break
            last = log_risk
            if log_risk < self.best[0]:
                self.best = log_risk, coef
            # further on rounding grows with the coefficients
            if log_risk - bounds.bound <= self.tol:
                break
        self._judge(self.whole)
        self.bounds, self.proving = bounds, False
        if not self.stopped and self.best[0] - bounds.bound > self.tol:
            # the direction has the error of its solver
            self.coef, self.n_newton = self.best[1], 0
            self._interior_point(max_iter)

    # -- L-BFGS in stages

    def _stages(self, max_iter: int) -> None:
        """L-BFGS at a radius that approaches the problem's, until the bound closes the gap."""
        entries = self.coef.shape[0] * self.n_samples
        entries += len(self.model.low) * len(self.differences.columns)
        max_iter = min(max_iter, _MOST_ENTRIES // entries)
        for stage, shrink in enumerate(_SHRINKS):
            left = max_iter - self.n_iter
            of_stage = max(_LEAST_ITERATIONS, left // (len(_SHRINKS) - stage))
            if left <= 0 or self._end_stage(shrink, min(of_stage, left)):
                return

    def _end_stage(self, shrink: float, max_iter: int) -> bool:
        """One stage, until most of the gap is the price of the smaller radius; whether the method
        ends.
        """
        smoothing = _SMOOTHING_OF_SHRINK * shrink
        judged = False  # whether the last iterate was tried for the bound

        def gap(coef: np.ndarray, point: RiskPoint) -> float:
            """The gap between the logarithms of the risk and its bound, after the weights at the
            point were tried.
            """
            slopes = self.differences.smoothed(coef, smoothing)[1]
            self.bounds.update(point, (1 - shrink) * slopes)
            return self._log_risk(coef) - self.bounds.bound

        def ends(coef: np.ndarray, point: RiskPoint) -> bool:
            nonlocal judged
            if self._ends_descent(coef, point):
                return True
            if self.n_iter % _PROVE_EVERY:
                return False
            penalty = float(point.gradient.pairs @ point.pairs) / _size(point)
            judged = gap(coef, point) <= max(self.tol, _PRICES * shrink * penalty)
            return judged

        point = self._descend(smoothing, shrink, max_iter, ends).point.release()
        if self.stopped:
            return True
        if _separates(point):  # at a radius below the problem's
            return False
        if judged:
            return self._log_risk(self.coef) - self.bounds.bound <= self.tol
        return gap(self.coef, point) <= self.tol

    # -- the end

    def _solution(self) -> JointSolution:
        """What is proven about the predictor, in the units of the rows."""
        problem, bounds = self.problem, self.bounds
        self._keep(self._log_risk(self.coef))
        coef, intercept = self.model.predictor(self.best[1])
        # intercepts of less risk need not separate
        separates = bool(problem.robust_margins(coef, intercept).min() > 0)
        now = problem.evaluate(
            self.model.loss, coef, intercept if separates else None, near=intercept
        )
        if float(now.log_risk) > self.best[0]:  # the search for better intercepts ended short
            del now
            now = problem.evaluate(self.model.loss, coef, intercept)
        if not separates:
            coef, now = on_kinks(problem, self.model.loss, coef, now, self.model.unit)
        intercept, log_risk = now.intercept, float(now.log_risk)
        separable: bool | None = True if bool(now.margins.min() > 0) else None
        if separable is None and bounds.proven:
            separable = False
        weights = None if bounds.proven else problem.balanced(now.weights, overwrite=True)
        del now  # the weights of the loss, before those of the proof take as much memory
        if weights is None:
            weights = bounds.weights()
        gap = 1.0 if bounds.bound == -math.inf else _gap(log_risk, bounds.bound)
        self._report(coef, intercept, log_risk, last=True)
        return JointSolution(
            coef, intercept, weights, log_risk, bounds.bound, gap, separable, self.n_iter
        )


def _gap(log_risk: float, bound: float) -> float:
    """The relative gap of the risk."""
    return -math.expm1(min(bound - log_risk, 0.0))


def _separates(point: RiskPoint) -> bool:
    """Whether all margins are positive."""
    return point.smallest_margin > 0


def _size(at: RiskPoint) -> float:
    """What a gap in the value of the risk is relative to."""
    return max(abs(at.value), np.finfo(float).tiny) if at.value != at.log_risk else 1.0
