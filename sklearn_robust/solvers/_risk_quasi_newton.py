r"""A quasi-Newton method on the log-risk for many columns, where the set is an l_q ball, q 1 or 2.

A step costs two products with the data, where a Hessian costs as many as there are columns. The
method minimises at a radius a little smaller than that of the problem: the weights of a nearly
converged point, which miss the smaller ball by the error of the point, are then inside the ball of
the problem, and certify the risk as they stand.

- q = 2: the norm is smooth away from zero; L-BFGS on the whole log-risk.
- q = 1: L-BFGS on the face of the maximum norm, in the coordinates that are not tied at the largest
  size, and that size.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import lapack

from sklearn_robust.certificates import proves_not_separable
from sklearn_robust.losses import MarginLoss
from sklearn_robust.norms import LpNorm
from sklearn_robust.problems import RobustProblem
from sklearn_robust.rows import BlockRows, DenseRows, GramRows, Rows
from sklearn_robust.solvers import _newton_rules as rules
from sklearn_robust.solvers._newton_columns import most_columns
from sklearn_robust.solvers._plane_search import (
    Plane,
    PlaneNorm,
    PlanePoint,
    euclidean,
    linear,
    rounding_of,
)
from sklearn_robust.solvers.solution import Solution, risk_gap

# Entries of the data, and by q their columns, from which the method pays
_LEAST_ENTRIES = 100_000
_LEAST_COLUMNS = {1: 100, 2: 48}
# Iterations that take no longer than Newton's method: some, and so many for each column
_FEW_ITERATIONS = 10
_ITERATIONS_A_COLUMN = 0.1
_PAIRS = 12  # pairs of steps and gradient changes that L-BFGS keeps

# The smaller radius
_INSET_SHARE = 0.8  # share of the tolerance that it may cost
_MOST_INSET = 0.05  # share of the radius by which it is smaller at most
_INSET_CHANGE = 0.1  # relative change of that share from which it changes

_SAFE = 0.9  # share of the inset up to which the estimated error of the weights is tried as a proof
_ROUNDING = 1e-13  # slack that is rounding
_TIE_ROUNDING = 1e-12  # sizes of coordinates that are tied at the largest
_LEAST_CURVATURE = 1e-8  # cosine of step and change of the gradient from which a pair is used

_LEAST_HALF = 2  # iterations from which the last half of them shows the rate of convergence
_KNOWN_CHANGE = 1e-4  # relative change of the gradient that single precision resolves
_SINGLE_SLACK = 1e-3  # slack from which single precision, where it stalls, gives way to double
_SINGLE_FLOOR = 1e-5  # slack from which a weighted sum of all weights in it does not help

# entries of dense rows from which the search starts in single precision, and up to which a copy of
# them is cheap
_SINGLE_FROM, _SINGLE_TO = 2**18, 2**26

_Record = Callable[[int, np.ndarray], None]


def serves(problem: RobustProblem) -> bool:
    """Whether the method pays for a problem against an l_q ball: q is 1 or 2, the adversary moves
    every feature, and Hessians cost more than some products, as they do not where rows are read.
    """
    rows, scale = problem.rows, problem.threat.scale
    if isinstance(rows, BlockRows) or not problem.radius[0] > 0:
        return False
    moves = scale is None or bool((scale > 0).all())
    many = problem.n_features >= _LEAST_COLUMNS.get(problem.threat.q, math.inf)
    return moves and many and math.prod(rows.shape) >= _LEAST_ENTRIES


def affordable_iterations(problem: RobustProblem) -> float:
    """The iterations that take no longer than Newton's method; any number where it does not serve.

    A Hessian costs as much as its columns have products.
    """
    rows, d = problem.rows, problem.n_features
    if not isinstance(rows, GramRows) or d > most_columns(rows.most_gram_columns()):
        return math.inf
    return _FEW_ITERATIONS + _ITERATIONS_A_COLUMN * d


def quasi_newton(
    problem: RobustProblem,
    loss: MarginLoss,
    start: np.ndarray,
    *,
    max_iter: int,
    tol: float,
    certify: Callable[..., Solution],
    record: _Record,
    near: float | None = None,
) -> tuple[Solution | None, np.ndarray, int]:
    r"""Minimise the log-risk of one problem that it `serves`.

    Parameters
    ----------
    problem : RobustProblem
        One problem, in double arithmetic.
    loss : MarginLoss
    start : ndarray of shape (1, d)
    max_iter : int
        The method also stops short where it is not going to need fewer.
    tol : float
        Certified gap of the risk to reach.
    certify : callable
        The solution of coefficients (1, d), with the gap that weights (1, n) prove if they are
        given.
    record : callable
        Called with the iteration and the coefficients (1, d).
    near : float, optional
        A guess of the intercept at the start.

    Returns
    -------
    solution : Solution or None
        It reached tol, or separates the data; None where the method stops short of both.
    coef : ndarray of shape (1, d)
        The last iterate.
    n_iter : int

    Notes
    -----
    Byrd, Nocedal and Schnabel, Math. Programming 63 (1994), for the compact form of L-BFGS. At a
    radius smaller by the share tau the minimum falls by :math:`\tau P` to first order, P the
    penalty times the total weight.
    """
    return _QuasiNewton(problem, loss, tol, certify).run(start, max_iter, record, near)


@dataclass(frozen=True)
class _Point:
    """A predictor, the loss at it and its gradient, in units in which the ball has radius 1.

    Attributes
    ----------
    coef : ndarray of shape (d,)
    scores : ndarray of shape (n,)
        Those of the signed rows, without the intercept.
    here : PlanePoint
        The intercept, the norm of the coefficients and the loss, in a plane through the point.
    weighted_sum : ndarray of shape (d,)
        Z^T a.
    total_weight : float
        r . a, with the factors r of the samples on the radius.
    """

    coef: np.ndarray
    scores: np.ndarray
    here: PlanePoint
    weighted_sum: np.ndarray
    total_weight: float

    @property
    def size(self) -> float:
        """The norm of the coefficients."""
        return self.here.size

    @property
    def intercept(self) -> float:
        return float(self.here.theta[2])


class _QuasiNewton:
    r"""The method of `quasi_newton`, with its parameters.

    An iteration takes a step d, then minimises over the plane of the predictors (u w + v d, b), on
    scores that are known. Where the predictor is stationary along its ray and in b, the weights
    exceed the ball of the search by the share :math:`(\|g\|_q - g \cdot w / \|w\|_{q^*}) / (r
    \cdot a)`, g = Z^T a: the slack.

    Attributes
    ----------
    used : ndarray of shape (n,), bool, or slice
        Samples of positive weight.
    inset : float
        The share by which the radius of the search is smaller.
    unit : float or ndarray of shape (d,)
        How far the adversary moves each feature, at most: in these units the ball has radius 1.
    plane : Plane
        That of the next step.
    centre : ndarray of shape (d,) or None
        The mean of the rows, where it is far from zero.
    single : DenseRows or None
        The rows in single precision, in which the search starts.
    exact : tuple of two ndarrays, or None
        Weights (n,) whose weighted sum (d,) is known in double precision.
    steps, changes : ndarray of shape (k, m)
        The last changes of the variables, and of the gradient of the log-risk.
    """

    def __init__(
        self, problem: RobustProblem, loss: MarginLoss, tol: float, certify: Callable[..., Solution]
    ) -> None:
        self.problem, self.loss = problem, loss
        self.tol, self.certify = tol, certify
        log_weight = problem.log_weight[0]
        used = log_weight > -math.inf
        self.used: np.ndarray | slice = slice(None) if used.all() else used
        self.inset = 0.0
        self.norm = LpNorm(problem.threat.q).dual
        scale = problem.threat.scale
        self.unit: np.ndarray | float = float(problem.radius[0]) * (1.0 if scale is None else scale)
        self.plane = Plane(loss, log_weight, self.used, problem.y[0], problem.factors)
        self.centre: np.ndarray | None = None
        self.single = _in_single_precision(problem.rows)
        self.exact: tuple[np.ndarray, np.ndarray] | None = None
        self.steps = self.changes = np.empty((0, problem.n_features + (self.norm.p == math.inf)))

    # what overflows, in single precision or at units far from 1, is not finite, and ends the method
    @np.errstate(over="ignore", divide="ignore", invalid="ignore")
    def run(
        self, start: np.ndarray, max_iter: int, record: _Record, near: float | None
    ) -> tuple[Solution | None, np.ndarray, int]:
        """Iterate: certificate, step, search, gradient."""
        at = self._start(start, near)
        slacks: list[float] = []
        iteration = 0
        for iteration in range(1, max_iter + 1):
            inset, at = self.inset, self._inset_adapted(at)
            if self.inset < 0.5 * inset:  # the size of the coefficients is not known yet
                slacks.clear()
            slacks.append(self._slack(at))
            if not math.isfinite(slacks[-1]):
                break
            separates = bool(at.here.margins[self.used].min() > 0)
            if separates or slacks[-1] <= _SAFE * self.inset:
                solution = self._separator(at) if separates else self._proven(at)
                if solution is not None:
                    return solution, self._coef(at), iteration
            slow = self._expected(slacks) > max_iter or self._at_floor(slacks)
            exact = slacks[-1] <= _ROUNDING  # and yet no proof
            moved = None if separates or exact or slow else self._moved(at)
            if moved is not None:
                self._remember(at, moved)
                at = moved
            elif self.single is not None and slacks[-1] < _SINGLE_SLACK:
                at = self._sharpened(at)
                slacks.clear()
            else:
                break
            record(iteration, self._coef(at))
        return None, self._coef(at), iteration

    def _at_floor(self, slacks: list[float]) -> bool:
        """Whether single precision has no more to give."""
        if self.single is None or slacks[-1] >= _SINGLE_SLACK:
            return False
        stalls = len(slacks) > 1 and slacks[-1] > 0.5 * slacks[-2]
        return stalls or (self.exact is None and slacks[-1] < _SINGLE_FLOOR)

    def _expected(self, slacks: list[float]) -> float:
        """The iterations that are needed in all, at the rate of the last half of them."""
        half = len(slacks) // 2
        if half < _LEAST_HALF or slacks[-1] <= self.inset or not self.inset:
            return 0.0
        rate = math.log(slacks[-1 - half] / slacks[-1]) / half
        return len(slacks) + math.log(slacks[-1] / self.inset) / rate if rate > 0 else math.inf

    def _start(self, start: np.ndarray, near: float | None) -> _Point:
        problem = self.problem
        coef = start[0] * self.unit
        scores = self._scores(coef)[None] if start.any() else np.zeros_like(problem.y)
        intercept = near if start.any() else rules.intercept_at_zero(problem, self.loss)
        if intercept is None:
            now = problem.evaluate_scores(self.loss, scores, problem.penalty(start))
            intercept = float(now.intercept[0])
        size = float(self.norm.value(coef))
        return self._reached(coef, scores[0], self._evaluated(scores[0], size, intercept))

    def _evaluated(self, scores: np.ndarray, size: float, intercept: float) -> PlanePoint:
        """The loss at a predictor of these scores, in a plane through it."""
        self.plane.basis[0], self.plane.basis[1] = scores, 0.0
        return self.plane.evaluated(np.array([1.0, 0.0, intercept]), size, self._inner)

    def _reached(self, coef: np.ndarray, scores: np.ndarray, here: PlanePoint) -> _Point:
        """The point of these coefficients, with its gradient."""
        weighted_sum = self._weighted_sum(here.weights)
        if self.centre is not None:  # an intercept that is not quite the best one shows
            weighted_sum -= float(self.problem.y[0] @ here.weights) * self.centre
        total_weight = float(self.plane.basis[3] @ here.weights)
        return _Point(coef, scores, here, weighted_sum, total_weight)

    def _coef(self, at: _Point) -> np.ndarray:
        """The coefficients of a point in the units of the data, (1, d)."""
        coef: np.ndarray = (at.coef / self.unit)[None]
        return coef

    @property
    def _inner(self) -> float:
        """The radius of the search."""
        return 1 - self.inset

    def _sharpened(self, at: _Point) -> _Point:
        """The point with scores and gradient in double precision. What changes from there on is
        known in single precision relative to the change; in double, the second time.
        """
        known = np.linalg.norm(self.changes, axis=1) > _KNOWN_CHANGE * np.linalg.norm(
            at.weighted_sum
        )
        self.steps, self.changes = self.steps[known], self.changes[known]
        single, self.single = self.single, None
        scores = self._scores(at.coef)
        here = self._evaluated(scores, at.size, at.intercept)
        here = self._best(here, linear(at.size, 0.0), ray=False, step=False)
        at = self._reached(at.coef, scores, here)
        if self.exact is None:
            self.single, self.exact = single, (here.weights, at.weighted_sum)
        return at

    # -- products

    def _scores(self, coef: np.ndarray) -> np.ndarray:
        """Z w for coefficients in the units of the ball."""
        coef = (coef / self.unit)[None]
        if self.single is None:
            scores = self.problem.rows.scores(coef)
        else:
            with np.errstate(all="ignore"):
                scores = self.single.scores(coef.astype(np.float32))
        return self.problem.y[0] * scores[0]

    def _weighted_sum(self, weights: np.ndarray) -> np.ndarray:
        """Z^T a in the units of the ball."""
        y = self.problem.y[0]
        if self.single is None:
            return self.problem.rows.weighted_sum((y * weights)[None])[0] / self.unit
        known, weighted_sum = (0.0, 0.0) if self.exact is None else self.exact
        change = (y * (weights - known))[None]
        with np.errstate(all="ignore"):
            change = self.single.weighted_sum(change.astype(np.float32))[0]
        return weighted_sum + change.astype(np.float64) / self.unit

    # -- certificate

    def _inset_adapted(self, at: _Point) -> _Point:
        """The point, after the inset was set to cost its share of the tolerance, unless it nearly
        does.
        """
        pressure = at.size * at.total_weight
        inset = min(_INSET_SHARE * self.tol / pressure, _MOST_INSET) if pressure > 0 else 0.0
        if abs(inset - self.inset) <= _INSET_CHANGE * inset:
            return at
        self.inset = inset
        return replace(at, here=self._evaluated(at.scores, at.size, at.intercept))

    def _slack(self, at: _Point) -> float:
        """How far the weights are outside the ball, as a share of it, once they are stationary
        along the ray of the coefficients.
        """
        bound = max(at.total_weight, np.finfo(float).tiny)
        g = at.weighted_sum
        size = math.sqrt(g @ g) if self.norm.p == 2 else float(np.abs(g).sum())
        if at.size == 0:
            return size / bound - 1
        return (size - float(at.weighted_sum @ at.coef) / at.size) / bound

    def _separator(self, at: _Point) -> Solution | None:
        """The point, if it separates the data: its margins here are sums over many steps."""
        solution = self.certify(self._coef(at), near=at.intercept)
        return solution if solution.separable[0] else None

    def _proven(self, at: _Point) -> Solution | None:
        """The point, made stationary along its ray, if its own weights prove it."""
        problem, coef = self.problem, self._coef(at)
        self.plane.basis[0], self.plane.basis[1] = at.scores, 0.0
        found = self._best(at.here, linear(at.size, 0.0), ray=at.size > 0, step=False)
        feasible = problem.balanced(found.weights[None])
        near = np.array([found.log_risk + math.log(found.weights.sum())])
        bound = self.loss.log_risk_bound(feasible, problem.log_weight, near)
        if risk_gap(float(bound[0]), found.log_risk) > self.tol:
            return None  # even if they were feasible
        if not proves_not_separable(problem, feasible)[0]:
            return None
        stretch, _, intercept = found.theta.tolist()
        solution = self.certify(stretch * coef, feasible, near=intercept, bound=bound)
        return solution if solution.gap[0] <= self.tol else None

    # -- step

    def _moved(self, at: _Point) -> _Point | None:
        """The point after the next step; None where none lowers the log-risk."""
        bounded = False
        if at.size == 0:
            residual = self.norm.dual.residual(
                at.weighted_sum, self._inner * at.total_weight, LpNorm(2)
            )
            step, norm = residual, linear(0.0, float(self.norm.value(residual)))
        elif self.norm.p == 2:
            step = self._smooth_step(at)
            norm = euclidean(at.coef, step)
        else:
            step, growth = self._level_step(at)
            norm, bounded = linear(at.size, growth), True
        if not step.any():
            return None
        change = self._scores(step)
        if not np.isfinite(change).all():
            return None
        self.plane.basis[0], self.plane.basis[1] = at.scores, change
        start = at.here
        if len(self.steps):
            # the whole step: it reaches the ties of the norm, and is often the best
            absorbed = self._absorbed(start.weights, change) if self.problem.fit_intercept else 0.0
            whole = np.array([1.0, 1.0, at.intercept - absorbed])
            start = self.plane.evaluated(whole, norm(1.0, 1.0)[0], self._inner)
        found = self._best(
            start, norm, ray=at.size > 0, step=True, bounded=bounded, log_risk=at.here.log_risk
        )
        if not found.log_risk <= at.here.log_risk + rounding_of(at.here.log_risk):
            return None
        u, v, intercept = found.theta.tolist()
        here = replace(found, theta=np.array([1.0, 0.0, intercept]))
        return self._reached(u * at.coef + v * step, u * at.scores + v * change, here)

    def _best(
        self,
        start: PlanePoint,
        norm: PlaneNorm,
        *,
        ray: bool,
        step: bool,
        bounded: bool = False,
        log_risk: float | None = None,
    ) -> PlanePoint:
        """The least log-risk over the plane, from one of its points."""
        return self.plane.minimised(
            start,
            norm,
            self._inner,
            ray=ray,
            step=step,
            intercept=self.problem.fit_intercept,
            bounded=bounded,
            log_risk=log_risk,
        )

    def _absorbed(self, weights: np.ndarray, change: np.ndarray) -> float:
        """The mean of a change of the scores, which the intercept absorbs; where it outweighs the
        rest of the change, the rows have a centre that counts in the gradient.
        """
        weighted, total = weights * change, float(weights.sum())
        mean = float(self.problem.y[0] @ weighted) / total
        if self.centre is None and 2 * mean**2 > float(weighted @ change) / total:
            self.centre = self._weighted_sum(self.problem.y[0] * weights / total)
        return mean

    def _smooth_step(self, at: _Point) -> np.ndarray:
        """The step of L-BFGS where the norm is smooth."""
        downhill = at.weighted_sum - self._inner * at.total_weight / at.size * at.coef
        return self._quasi_newton_step(self.steps, self.changes, downhill, at.coef)

    def _level_step(self, at: _Point) -> tuple[np.ndarray, float]:
        """The step of L-BFGS on the face of the maximum norm, and how the norm grows in it."""
        sizes = np.abs(at.coef)
        tied = (sizes >= at.size * (1 - _TIE_ROUNDING)) & (at.coef * at.weighted_sum >= 0)
        free = np.flatnonzero(~tied)
        signs = np.where(tied, np.sign(at.coef), 0.0)
        root = math.sqrt(np.count_nonzero(tied) or 1)
        level = float(signs @ at.weighted_sum) - self._inner * at.total_weight
        downhill = np.append(at.weighted_sum[free], level / root)
        steps = np.column_stack([self.steps[:, free], root * self.steps[:, -1]])
        changes = self.changes[:, :-1] @ signs + self.changes[:, -1]
        changes = np.column_stack([self.changes[:, free], changes / root])
        moves = self._quasi_newton_step(steps, changes, downhill, at.coef)
        size = max(at.size + moves[-1] / root, 0.0)
        target = size * signs
        target[free] = np.clip(at.coef[free] + moves[:-1], -size, size)
        return target - at.coef, size - at.size

    @staticmethod
    def _quasi_newton_step(
        steps: np.ndarray, changes: np.ndarray, downhill: np.ndarray, coef: np.ndarray
    ) -> np.ndarray:
        """L-BFGS's approximation of the inverse Hessian times a vector (m,), from pairs (k, m)."""
        products = steps @ changes.T
        curved = np.diag(products) > _LEAST_CURVATURE * np.linalg.norm(
            steps, axis=1
        ) * np.linalg.norm(changes, axis=1)
        if not curved.any():
            scale = np.linalg.norm(coef) / (np.linalg.norm(downhill) or 1.0)
            return scale * downhill
        if not curved.all():
            steps, changes = steps[curved], changes[curved]
            products = products[np.ix_(curved, curved)]
        squares = changes @ changes.T
        unit = products[-1, -1] / squares[-1, -1]
        upper = np.triu(products)
        inner = lapack.dtrtrs(upper, steps @ downhill)[0]
        outer = (np.diag(products) * inner) + unit * (squares @ inner - changes @ downhill)
        outer = lapack.dtrtrs(upper, outer, trans=1)[0]
        step: np.ndarray = unit * (downhill - inner @ changes) + outer @ steps
        return step

    def _remember(self, at: _Point, moved: _Point) -> None:
        """Keep the pair of a step and the change of the gradient."""
        before, after = self._variables(at), self._variables(moved)
        step, change = after[0] - before[0], before[1] - after[1]
        self.steps = np.vstack([self.steps[1 - _PAIRS :], step])
        self.changes = np.vstack([self.changes[1 - _PAIRS :], change])

    def _variables(self, at: _Point) -> tuple[np.ndarray, np.ndarray]:
        """The variables, and minus the gradient by them; under the maximum norm its level is a
        variable of its own.
        """
        inner = self._inner * at.total_weight
        if self.norm.p == math.inf:
            return np.append(at.coef, at.size), np.append(at.weighted_sum, -inner)
        size = at.size or 1.0
        return at.coef, at.weighted_sum - inner / size * at.coef


def _in_single_precision(rows: Rows) -> DenseRows | None:
    """Rows of many entries, dense, in single precision: a product takes half the time."""
    if not isinstance(rows, DenseRows):
        return None
    held = rows.dtype == np.float32
    if not held and not _SINGLE_FROM <= math.prod(rows.shape) <= _SINGLE_TO:
        return None
    with np.errstate(all="ignore"):  # what overflows ends the search in single precision
        return DenseRows(rows.X.astype(np.float32, copy=False))
