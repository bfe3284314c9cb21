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
from dataclasses import dataclass

import numpy as np
from scipy.linalg import lapack

from sklearn_robust.certificates import proves_not_separable
from sklearn_robust.losses import MarginLoss
from sklearn_robust.norms import LpNorm
from sklearn_robust.problems import RobustProblem
from sklearn_robust.rows import BlockRows, DenseRows, GramRows, Rows
from sklearn_robust.solvers import _newton_rules as rules
from sklearn_robust.solvers._newton_columns import most_columns
from sklearn_robust.solvers.solution import Solution

# Entries of the data, and by q their columns, from which the method pays
_LEAST_ENTRIES = 100_000
_LEAST_COLUMNS = {1: 100, 2: 40}
# Iterations that take no longer than Newton's method: some, and so many for each column
_FEW_ITERATIONS = 10
_ITERATIONS_A_COLUMN = 0.1
_PAIRS = 12  # pairs of steps and gradient changes that L-BFGS keeps

# The smaller radius
_INSET_SHARE = 0.5  # share of the tolerance that it may cost
_MOST_INSET = 0.05  # share of the radius by which it is smaller at most
_INSET_CHANGE = 0.1  # relative change of that share from which it changes

# The search over the plane of a step, the ray of the coefficients and the intercept
_SEARCH_STEPS = 20
_MOST_CHANGE = 1e3  # change of u or v in a move at most, relative to the larger
_SMALL_DECREASE = 0.03  # predicted decrease, as a share of what the step has gained, that ends it

_ROUNDING = 1e-22  # predicted decrease of the log-risk that is rounding of its gradient
_RIDGE = 1e-12  # share of itself by which the diagonal of its Hessian is raised

_SAFE = 0.9  # share of the inset up to which the estimated error of the weights is tried as a proof
_TIE_ROUNDING = 1e-12  # sizes of coordinates that are tied at the largest
_LEAST_CURVATURE = 1e-8  # cosine of step and change of the gradient from which a pair is used

_LEAST_HALF = 2  # iterations from which the last half of them shows the rate of convergence
_KNOWN_CHANGE = 1e-4  # relative change of the gradient that single precision resolves
_SINGLE_SLACK = 1e-3  # slack from which single precision, where it stalls, gives way to double

# entries of dense rows from which the search starts in single precision, and up to which a copy of
# them is cheap
_SINGLE_FROM, _SINGLE_TO = 2**18, 2**26

_Record = Callable[[int, np.ndarray], None]
# at (u, v) the norm of u w + v d, its gradient (2,) and its Hessian (2, 2)
_Size = Callable[[float, float], tuple[float, np.ndarray, np.ndarray]]


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
    return _QuasiNewton(problem, loss, tol, certify).run(start, max_iter, record)


@dataclass(frozen=True)
class _Point:
    """A predictor, the loss at it and its gradient, in units in which the ball has radius 1.

    Attributes
    ----------
    coef : ndarray of shape (d,)
    size : float
        The norm of the coefficients.
    intercept : float
    scores : ndarray of shape (n,)
        Those of the signed rows, without the intercept.
    margins, weights : ndarray of shape (n,)
    log_risk : float
    weighted_sum : ndarray of shape (d,)
        Z^T a.
    total_weight : float
        r . a, with the factors r of the samples on the radius.
    """

    coef: np.ndarray
    size: float
    intercept: float
    scores: np.ndarray
    margins: np.ndarray
    weights: np.ndarray
    log_risk: float
    weighted_sum: np.ndarray
    total_weight: float


@dataclass(frozen=True)
class _Evaluated:
    """A point of the plane of a step: theta = (u, v, b) is the predictor (u w + v d, b)."""

    theta: np.ndarray
    size: float
    margins: np.ndarray
    weights: np.ndarray
    log_risk: float


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
    basis : ndarray of shape (4, n)
        Scores, their change in a step, labels, and the factors of the samples on the radius.
    centre : ndarray of shape (d,) or None
        The mean of the rows, where it is far from zero.
    single : DenseRows or None
        The rows in single precision, in which the search starts.
    steps, changes : ndarray of shape (k, m)
        The last changes of the variables, and of the gradient of the log-risk.
    """

    def __init__(
        self, problem: RobustProblem, loss: MarginLoss, tol: float, certify: Callable[..., Solution]
    ) -> None:
        self.problem, self.loss = problem, loss
        self.tol, self.certify = tol, certify
        self.log_weight = problem.log_weight[0]
        used = self.log_weight > -math.inf
        self.used: np.ndarray | slice = slice(None) if used.all() else used
        self.inset = 0.0
        self.norm = LpNorm(problem.threat.q).dual
        scale = problem.threat.scale
        self.unit: np.ndarray | float = float(problem.radius[0]) * (1.0 if scale is None else scale)
        self.basis = np.zeros((4, problem.y.shape[1]))
        self.basis[2], self.basis[3] = problem.y[0], problem.factors
        self.centre: np.ndarray | None = None
        self.single = _in_single_precision(problem.rows)
        self.steps = self.changes = np.empty((0, problem.n_features + (self.norm.p == math.inf)))

    # what overflows, in single precision or at units far from 1, is not finite, and ends the method
    @np.errstate(over="ignore", divide="ignore", invalid="ignore")
    def run(
        self, start: np.ndarray, max_iter: int, record: _Record
    ) -> tuple[Solution | None, np.ndarray, int]:
        """Iterate: certificate, step, search, gradient."""
        at = self._start(start)
        slacks: list[float] = []
        iteration = 0
        for iteration in range(1, max_iter + 1):
            self._adapt_inset(at)
            slacks.append(self._slack(at))
            if not math.isfinite(slacks[-1]):
                break
            separates = bool(at.margins[self.used].min() > 0)
            ends = separates or slacks[-1] <= _SAFE * self.inset
            if ends:
                solution = self._separator(at) if separates else self._proven(at)
                if solution is not None:
                    return solution, self._coef(at), iteration
            slow = self._expected(slacks) > max_iter or self._at_floor(slacks)
            moved = None if ends or slow else self._moved(at)
            if moved is not None:
                self._remember(at, moved)
                at = moved
            elif self.single is not None and slacks[-1] < _SINGLE_SLACK:
                at = self._in_double(at)
                slacks.clear()
            else:
                break
            record(iteration, self._coef(at))
        return None, self._coef(at), iteration

    def _at_floor(self, slacks: list[float]) -> bool:
        """Whether single precision has no more to give."""
        return (
            self.single is not None
            and slacks[-1] < _SINGLE_SLACK
            and len(slacks) > 1
            and slacks[-1] > 0.5 * slacks[-2]
        )

    def _expected(self, slacks: list[float]) -> float:
        """The iterations that are needed in all, at the rate of the last half of them."""
        half = len(slacks) // 2
        if half < _LEAST_HALF or slacks[-1] <= self.inset or not self.inset:
            return 0.0
        rate = math.log(slacks[-1 - half] / slacks[-1]) / half
        return len(slacks) + math.log(slacks[-1] / self.inset) / rate if rate > 0 else math.inf

    def _start(self, start: np.ndarray) -> _Point:
        problem = self.problem
        coef = start[0] * self.unit
        scores = self._scores(coef)[None] if start.any() else np.zeros_like(problem.y)
        at_zero = None if start.any() else rules.intercept_at_zero(problem, self.loss)
        near = None if at_zero is None else np.array([at_zero])
        now = problem.evaluate_scores(self.loss, scores, problem.penalty(start), near=near)
        self.basis[0] = scores[0]
        theta = np.array([1.0, 0.0, now.intercept[0]])
        size, log_risk = float(self.norm.value(coef)), float(now.log_risk[0])
        return self._reached(
            coef, _Evaluated(theta, size, now.margins[0], now.weights[0], log_risk)
        )

    def _reached(self, coef: np.ndarray, found: _Evaluated) -> _Point:
        """The point of these coefficients that a search has found, with its gradient."""
        u, v, intercept = found.theta.tolist()
        weighted_sum = self._weighted_sum(found.weights)
        if self.centre is not None:  # an intercept that is not quite the best one shows
            weighted_sum -= float(self.basis[2] @ found.weights) * self.centre
        return _Point(
            coef,
            found.size,
            intercept,
            u * self.basis[0] + v * self.basis[1],
            found.margins,
            found.weights,
            found.log_risk,
            weighted_sum,
            float(self.basis[3] @ found.weights),
        )

    def _coef(self, at: _Point) -> np.ndarray:
        """The coefficients of a point in the units of the data, (1, d)."""
        coef: np.ndarray = (at.coef / self.unit)[None]
        return coef

    @property
    def _inner(self) -> float:
        """The radius of the search."""
        return 1 - self.inset

    def _in_double(self, at: _Point) -> _Point:
        """The point in double precision, in which the search goes on."""
        self.single = None
        known = np.linalg.norm(self.changes, axis=1) > _KNOWN_CHANGE * np.linalg.norm(
            at.weighted_sum
        )
        self.steps, self.changes = self.steps[known], self.changes[known]
        self.basis[0], self.basis[1] = self._scores(at.coef), 0.0
        intercept = self._free(at, ray=False, step=False)
        start = np.array([1.0, 0.0, at.intercept])
        return self._reached(at.coef, self._search(start, None, _linear(at.size, 0.0), intercept))

    # -- products

    def _scores(self, coef: np.ndarray) -> np.ndarray:
        """Z w for coefficients in the units of the ball."""
        coef = (coef / self.unit)[None]
        if self.single is None:
            scores = self.problem.rows.scores(coef)
        else:
            with np.errstate(all="ignore"):
                scores = self.single.scores(coef.astype(np.float32))
        return self.basis[2] * scores[0]

    def _weighted_sum(self, weights: np.ndarray) -> np.ndarray:
        """Z^T a in the units of the ball."""
        weights = (self.basis[2] * weights)[None]
        if self.single is None:
            weighted_sum = self.problem.rows.weighted_sum(weights)
        else:
            with np.errstate(all="ignore"):
                weighted_sum = self.single.weighted_sum(weights.astype(np.float32))
        return weighted_sum[0].astype(np.float64) / self.unit

    # -- certificate

    def _adapt_inset(self, at: _Point) -> None:
        """Let the inset cost its share of the tolerance, unless it nearly does."""
        pressure = at.size * at.total_weight
        inset = min(_INSET_SHARE * self.tol / pressure, _MOST_INSET) if pressure > 0 else 0.0
        if abs(inset - self.inset) > _INSET_CHANGE * inset:
            self.inset = inset

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
        self.basis[0], self.basis[1] = at.scores, 0.0
        ray = self._free(at, ray=True, step=False)
        start = np.array([1.0, 0.0, at.intercept])
        found = self._search(start, None, _linear(at.size, 0.0), ray)
        feasible = problem.balanced(found.weights[None])
        near = np.array([found.log_risk + math.log(found.weights.sum())])
        bound = self.loss.log_risk_bound(feasible, problem.log_weight, near)
        if -math.expm1(min(float(bound[0]) - found.log_risk, 0.0)) > self.tol:
            return None  # even if they were feasible
        if not proves_not_separable(problem, feasible)[0]:
            return None
        stretch, _, intercept = found.theta.tolist()
        solution = self.certify(stretch * coef, feasible, near=intercept, bound=bound)
        return solution if solution.gap[0] <= self.tol else None

    # -- step

    def _moved(self, at: _Point) -> _Point | None:
        """The point after the next step; None where none lowers the log-risk."""
        if at.size == 0:
            residual = self.norm.dual.residual(
                at.weighted_sum, self._inner * at.total_weight, LpNorm(2)
            )
            step, size = residual, _linear(0.0, float(self.norm.value(residual)))
            bounded = False
        elif self.norm.p == 2:
            step = self._smooth_step(at)
            size, bounded = _euclidean(at.coef, step), False
        else:
            step, growth = self._level_step(at)
            size, bounded = _linear(at.size, growth), True
        if not step.any():
            return None
        self.basis[0] = at.scores
        self.basis[1] = self._scores(step)
        if not np.isfinite(self.basis[1]).all():
            return None
        free = self._free(at, ray=True, step=True)
        first = np.array([1.0, 0.0, at.intercept])
        if len(self.steps):
            first[1] = 1.0
            if self.problem.fit_intercept:
                first[2] -= self._absorbed(at.weights)
        found = self._search(first, at.log_risk, size, free, bounded=bounded)
        if not found.log_risk <= at.log_risk + _rounding(at.log_risk):
            return None
        return self._reached(found.theta[0] * at.coef + found.theta[1] * step, found)

    def _absorbed(self, weights: np.ndarray) -> float:
        """The mean of the change of the scores, which the intercept absorbs; where it outweighs the
        rest of the change, the rows have a centre that counts in the gradient.
        """
        shares = weights / weights.sum()
        mean = float((shares * self.basis[2]) @ self.basis[1])
        if self.centre is None and 2 * mean**2 > float(shares @ self.basis[1] ** 2):
            self.centre = self._weighted_sum(shares * self.basis[2])
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

    # -- search

    def _free(self, at: _Point, *, ray: bool, step: bool) -> np.ndarray:
        """The variables of a search that move: those along ray and step, and the intercept."""
        return np.flatnonzero([ray and at.size > 0, step, self.problem.fit_intercept])

    def _search(
        self,
        theta: np.ndarray,
        log_risk: float | None,
        size: _Size,
        free: np.ndarray,
        *,
        bounded: bool = False,
    ) -> _Evaluated:
        """Newton's method over the plane of a step from theta, until it predicts little more.

        The margins are linear in theta but for the penalty. Little is a share of the decrease from
        log_risk, or rounding where that is None.
        """
        basis = self.basis
        found: _Evaluated | None = None
        decrease = math.inf
        for _ in range(_SEARCH_STEPS):
            norm, slope, curvature = size(theta[0], theta[1])
            margins = theta @ basis[:3] - self._inner * norm * basis[3]
            now, weights = self.loss.log_risk_and_weights(margins, self.log_weight)
            if found is not None and not now <= found.log_risk + _rounding(found.log_risk):
                theta = 0.5 * (theta + found.theta)
                continue
            surprise = math.inf if found is None else abs(found.log_risk - now - decrease)
            found = _Evaluated(theta, norm, margins, weights, float(now))
            gain = 0.0 if log_risk is None else log_risk - found.log_risk
            enough = max(_SMALL_DECREASE * gain, _ROUNDING)
            if surprise <= enough:
                break
            gradient, hessian = self._derivatives(
                found, self._inner * slope, self._inner * curvature
            )
            move = _newton_move(gradient, hessian, free)
            if bounded and theta[1] >= theta[0] and move[1] > move[0]:
                # along the side v = u
                side = np.array([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
                move = (
                    _newton_move(side @ gradient, side @ hessian @ side.T, np.arange(len(free) - 1))
                    @ side
                )
            decrease = 0.5 * float(gradient @ move)
            endless = decrease > rules.LONG_STEP_DECREASE and margins[self.used].min() > 0
            if endless or not decrease > enough:
                break
            furthest = _MOST_CHANGE * max(1.0, float(np.abs(theta[:2]).max()))
            move *= min(1.0, furthest / (float(np.abs(move[:2]).max()) or 1.0))
            theta = theta + move
            theta[:2] = np.maximum(theta[:2], 0.0)  # beyond, linear norms are not norms
            if bounded:
                theta[1] = min(theta[1], theta[0])
        assert found is not None
        return found

    def _derivatives(
        self, found: _Evaluated, slope: np.ndarray, curvature: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Minus the gradient of the log-risk by theta, and the Hessian."""
        weights = found.weights
        c = rules.curvatures(self.loss, found.margins, weights)
        theta = rules.largest_theta(c, weights)
        sums, products = self.basis @ weights, (self.basis * c) @ self.basis.T
        products -= theta * np.outer(sums, sums)
        rates = np.eye(3, 4)  # the margins move with scores and labels, less the penalty
        rates[:2, 3] = -slope
        hessian = rates @ products @ rates.T
        hessian[:2, :2] += sums[3] * curvature
        return rates @ sums, hessian


def _newton_move(gradient: np.ndarray, hessian: np.ndarray, free: np.ndarray) -> np.ndarray:
    """Newton's step in these variables, those along which the Hessian is not positive left out."""
    move = np.zeros(len(gradient))
    diagonal = np.diag(hessian)[free]
    free = free[diagonal > 0]
    if len(free):
        matrix = hessian[np.ix_(free, free)]
        matrix.flat[:: len(free) + 1] *= 1 + _RIDGE
        solved, info = lapack.dposv(matrix, gradient[free])[1:]
        if info == 0:
            move[free] = solved
    return move


def _in_single_precision(rows: Rows) -> DenseRows | None:
    """Rows of many entries, dense, in single precision: a product takes half the time."""
    if not isinstance(rows, DenseRows):
        return None
    held = rows.dtype == np.float32
    if not held and not _SINGLE_FROM <= math.prod(rows.shape) <= _SINGLE_TO:
        return None
    with np.errstate(all="ignore"):  # what overflows ends the search in single precision
        return DenseRows(rows.X.astype(np.float32, copy=False))


def _rounding(log_risk: float) -> float:
    """The rounding of a log-risk."""
    return 8 * float(np.finfo(float).eps) * (1 + abs(log_risk))


def _linear(size: float, growth: float) -> _Size:
    """The norm u size + v growth at (u, v), with its gradient and Hessian."""

    def value(u: float, v: float) -> tuple[float, np.ndarray, np.ndarray]:
        return u * size + v * growth, np.array([size, growth]), np.zeros((2, 2))

    return value


def _euclidean(coef: np.ndarray, step: np.ndarray) -> _Size:
    """The 2-norm of u coef + v step at (u, v), with its gradient and Hessian."""
    pair = np.stack([coef, step])
    products = pair @ pair.T

    def value(u: float, v: float) -> tuple[float, np.ndarray, np.ndarray]:
        at = products @ (u, v)
        square = float(at @ (u, v))
        if not square > 0:
            return 0.0, np.zeros(2), np.zeros((2, 2))
        size = math.sqrt(square)
        slope = at / size
        return size, slope, (products - np.outer(slope, slope)) / size

    return value
