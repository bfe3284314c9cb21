r"""The minimiser of the log-risk by SciPy's L-BFGS-B.

It serves l_q balls: more columns than a Hessian can hold, rows that offer products only, and
problems on which Newton's method stops short. The log-risk is smooth once the norm in it is, by one
of three forms:

- q = inf: w = u - v with u, v >= 0, and :math:`\|s w\|_1 = s \cdot (u + v)` at the minimiser.
- q = 1: w = t c / s with |c_j| <= 1 and t >= 0, and :math:`\|s w\|_\infty = t`.
- 1 < q < inf, and without an adversary: w as it stands; the norm is smooth away from w = 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import scipy

from sklearn_robust.losses import MarginLoss
from sklearn_robust.norms import LpNorm
from sklearn_robust.problems import RobustProblem
from sklearn_robust.rows import mean_square, on_columns
from sklearn_robust.threats import LpBall

# Pairs of steps and gradient changes that L-BFGS keeps, each as long as two predictors
_PAIRS = 20
_PAIRS_WIDE = 4  # with more than _WIDE_FEATURES features, where they take much memory
_WIDE_FEATURES = 10_000
# Rounds of columns under an l1 norm at most; the last one has all
_MAX_ROUNDS = 20
_NEAR_BOUND = 0.9  # share of the bound above which a column may soon leave zero
# Ends of the method
_LEAST_DECREASE = 1e-15  # relative decrease of the log-risk in an iteration
# largest entry of the projected gradient, in units of the rows' root mean square
_LEAST_GRADIENT = 1e-10

_Bounds = Sequence[tuple[float | None, float | None]]


def lbfgs(
    problem: RobustProblem,
    loss: MarginLoss,
    start: np.ndarray,
    *,
    max_iter: int,
    record: Callable[[int, np.ndarray], None],
) -> tuple[np.ndarray, int]:
    """Minimise the log-risk of one problem in double arithmetic, from a start of shape (1, d).

    Returns
    -------
    coef : ndarray of shape (1, d)
    n_iter : int
    """
    coef = start
    n_iter = 0
    descend = _descend_by_columns if _has_l1_penalty(problem) else _descend
    if start.any():
        coef, n_iter = descend(problem, loss, start, max_iter, record)
    if problem.threat.dual_norm.value(coef)[0] == 0:
        # the norm has no gradient there, and the form for q = 1 is stationary: a poor start can
        # lead there
        unpenalised = _unpenalised_minimiser(problem, loss, max_iter)
        start = _first_step(problem, loss, unpenalised)
        if not np.array_equal(start, unpenalised):
            return descend(problem, loss, start, max_iter, record)
        coef = unpenalised  # the minimiser
    return coef, n_iter


def _unpenalised_minimiser(problem: RobustProblem, loss: MarginLoss, max_iter: int) -> np.ndarray:
    """The minimiser over the features that the adversary cannot touch; zero where there is none."""
    coef = np.zeros((1, problem.n_features))
    scale = problem.threat.scale
    if scale is not None and not scale.all():
        free = np.flatnonzero(scale == 0)
        X = on_columns(problem.X, free)
        alone = replace(problem, X=X, threat=LpBall(2, 1.0), radius=np.zeros(1), adversary=None)
        start = np.zeros((1, len(free)))
        coef[:, free], _ = _descend(alone, loss, start, max_iter, lambda *_: None)
    return coef


def _first_step(problem: RobustProblem, loss: MarginLoss, unpenalised: np.ndarray) -> np.ndarray:
    """The unpenalised minimiser after a step that lowers the log-risk, or itself if none does.

    It is the start where the norm has no gradient.

    The step is along minus the subgradient of least 2-norm: the residual of Z^T a in eps (sum a) B,
    B the unit ball of the adversary's norm.
    """
    here = problem.evaluate(loss, unpenalised)
    weighted_sum = problem.weighted_sum(here.weights)
    radius = problem.radius * problem.attacked_weight(here.weights)
    down = problem.threat.norm.residual(weighted_sum, radius, LpNorm(2))
    down = problem.threat.reachable(down)
    if not down.any():
        return unpenalised
    step = 1 / (float(np.max(np.abs(down))) * _unit(problem) + np.finfo(float).tiny)
    while step > 0:
        moved = unpenalised + step * down
        if problem.evaluate(loss, moved).log_risk[0] < here.log_risk[0]:
            return moved
        step *= 0.5
    return unpenalised


def _has_l1_penalty(problem: RobustProblem) -> bool:
    return float(problem.radius[0]) > 0 and problem.threat.q == math.inf


def _descend_by_columns(
    problem: RobustProblem,
    loss: MarginLoss,
    start: np.ndarray,
    max_iter: int,
    record: Callable[[int, np.ndarray], None],
) -> tuple[np.ndarray, int]:
    """L-BFGS-B under an l1 norm, from a start (1, d): on the columns in use and those near leaving
    zero, until no other leaves it.

    A coefficient leaves zero where |Z^T a|_j > eps s_j sum a. The method keeps vectors over its
    columns; over all columns of sparse data they would outweigh the data.
    """
    coef, n_iter = start, 0
    columns = np.zeros(problem.n_features, dtype=bool)
    for round_ in range(_MAX_ROUNDS):
        strength, least_margin = _column_strength(problem, loss, coef)
        moves = (coef[0] != 0) | (strength > 1)
        if n_iter >= max_iter or least_margin > 0 or not np.any(moves & ~columns):
            break
        columns |= moves | (strength > _NEAR_BOUND) | (round_ + 1 == _MAX_ROUNDS)

        def record_after(iteration: int, coef: np.ndarray, before: int = n_iter) -> None:
            record(before + iteration, coef)

        at = np.flatnonzero(columns)
        coef, more = _descend(problem, loss, coef, max_iter - n_iter, record_after, at)
        n_iter += more
    return coef, n_iter


def _column_strength(
    problem: RobustProblem, loss: MarginLoss, coef: np.ndarray
) -> tuple[np.ndarray, float]:
    """|Z^T a|_j over its bound eps s_j sum a, (d,), and the least margin, of one predictor."""
    now = problem.evaluate(loss, coef)
    size = np.abs(problem.weighted_sum(now.weights)[0])
    scale = 1.0 if problem.threat.scale is None else problem.threat.scale
    bound = problem.radius * problem.attacked_weight(now.weights) * scale
    strength = np.divide(size, bound, out=np.full_like(size, math.inf), where=bound > 0)
    return strength, float(now.margins.min())


def _descend(
    problem: RobustProblem,
    loss: MarginLoss,
    start: np.ndarray,
    max_iter: int,
    record: Callable[[int, np.ndarray], None],
    columns: np.ndarray | None = None,
) -> tuple[np.ndarray, int]:
    """L-BFGS-B from a start (1, d) at which the norm is not zero, unless it is smooth there; under
    an l1 norm on these columns.
    """
    objective = _LogRisk(problem, loss, _unit(problem), columns)
    iteration = 0

    def after_iteration(intermediate_result: scipy.optimize.OptimizeResult) -> None:
        nonlocal iteration
        iteration += 1
        record(iteration, objective.coef(intermediate_result.x))
        if objective.least_margin > 0:
            raise StopIteration  # the risk has no minimiser

    # not by `minimize`: it makes a tuple of two numbers for every coordinate, which outweighs
    # sparse data
    x, _, result = scipy.optimize.fmin_l_bfgs_b(
        objective,
        objective.start(start),
        bounds=objective.form.bounds,
        callback=after_iteration,
        maxiter=max_iter,
        maxfun=2 * max_iter,
        factr=_LEAST_DECREASE / np.finfo(float).eps,
        pgtol=_LEAST_GRADIENT,
        m=_PAIRS if problem.n_features <= _WIDE_FEATURES else _PAIRS_WIDE,
    )
    return objective.coef(x), int(result["nit"])


class _LogRisk:
    """The log-risk and its gradient in the variables x of a form.

    Parameters
    ----------
    problem : RobustProblem
    loss : MarginLoss
    unit : float
        The variables are those of unit * w, so that they are of order one.
    columns : ndarray of int, optional
        Those that move, under an l1 norm; all by default.

    Attributes
    ----------
    form : _Form
    least_margin : float
        At the last x.
    """

    def __init__(
        self,
        problem: RobustProblem,
        loss: MarginLoss,
        unit: float,
        columns: np.ndarray | None = None,
    ) -> None:
        self.problem, self.loss = problem, loss
        self.unit = unit
        self.form = _form(problem, unit, columns)
        self.least_margin = -math.inf

    def __call__(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        coef, penalty = self.form.unpack(x)
        now = self.problem.evaluate(self.loss, coef / self.unit, penalty=penalty)
        self.least_margin = float(now.margins.min())
        weighted_sum = self.problem.weighted_sum(now.weights)[0] / self.unit
        attacked = float(self.problem.attacked_weight(now.weights)[0])
        return float(now.log_risk[0]), self.form.gradient(x, weighted_sum, attacked)

    def start(self, coef: np.ndarray) -> np.ndarray:
        """The variables of coefficients (1, d)."""
        return self.form.start(coef[0] * self.unit)

    def coef(self, x: np.ndarray) -> np.ndarray:
        """The coefficients (1, d) of variables."""
        return self.form.unpack(x)[0] / self.unit


class _Form(Protocol):
    """Variables x in which the penalty is smooth; coefficients w are in units of `_LogRisk`."""

    @property
    def bounds(self) -> _Bounds | None:
        """The bounds of each variable."""
        ...

    def start(self, coef: np.ndarray) -> np.ndarray:
        """The variables of coefficients (d,)."""
        ...

    def unpack(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The coefficients (1, d) of the variables, and their penalty (1,)."""
        ...

    def gradient(self, x: np.ndarray, weighted_sum: np.ndarray, total_weight: float) -> np.ndarray:
        """The gradient of the log-risk by x, from Z^T a (d,) and sum a at x.

        By w and the penalty nu the log-risk has the gradients -Z^T a and sum a.
        """
        ...


def _form(problem: RobustProblem, unit: float, columns: np.ndarray | None) -> _Form:
    """The form that suits the adversary's norm; under an l1 norm on these columns, or on all."""
    eps = float(problem.radius[0]) / unit
    threat = problem.threat
    scale = np.ones(problem.n_features) if threat.scale is None else threat.scale
    if eps > 0 and threat.q == math.inf:
        columns = np.arange(len(scale)) if columns is None else columns
        return _Split(eps, scale[columns], columns, len(scale))
    if eps > 0 and threat.q == 1:
        return _Level(eps, scale)
    return _Smooth(problem, unit)


@dataclass(frozen=True)
class _Split:
    """The l1 norm (q = inf): x = (u, v) >= 0, w = u - v on some columns of d, nu = eps s.(u + v).

    `scale` is that of the columns, (f,).
    """

    eps: float
    scale: np.ndarray
    columns: np.ndarray
    n_features: int

    @property
    def bounds(self) -> _Bounds:
        return [(0.0, None)] * (2 * len(self.scale))  # one tuple for all: they take no memory

    def start(self, coef: np.ndarray) -> np.ndarray:
        moving = coef[self.columns]
        return np.concatenate([np.maximum(moving, 0), np.maximum(-moving, 0)])

    def unpack(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        u, v = x.reshape(2, -1)
        coef = np.zeros((1, self.n_features))
        coef[0, self.columns] = u - v
        return coef, np.array([self.eps * (self.scale @ (u + v))])

    def gradient(self, x: np.ndarray, weighted_sum: np.ndarray, total_weight: float) -> np.ndarray:
        penalty_weight = self.eps * total_weight * self.scale
        moving = weighted_sum[self.columns]
        return np.concatenate([penalty_weight - moving, penalty_weight + moving])


@dataclass(frozen=True)
class _Level:
    """The maximum norm (q = 1): x = (c, t) with |c_j| <= 1 and t >= 0, w = t c / s, nu = eps t.

    Where s_j = 0 the adversary cannot touch the feature: c_j is free, and w_j = c_j.
    """

    eps: float
    scale: np.ndarray

    @property
    def bounds(self) -> _Bounds:
        free: list[tuple[float | None, float | None]] = [(None, None), (-1.0, 1.0)]
        return [*(free[tied] for tied in (self.scale > 0).tolist()), (0.0, None)]

    def start(self, coef: np.ndarray) -> np.ndarray:
        level = np.max(self.scale * np.abs(coef)) or 1.0
        return np.append(coef / self._per_variable(level), level)

    def unpack(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        c, level = x[:-1], x[-1]
        return (self._per_variable(level) * c)[None], np.array([self.eps * level])

    def gradient(self, x: np.ndarray, weighted_sum: np.ndarray, total_weight: float) -> np.ndarray:
        c, level = x[:-1], x[-1]
        by_c = -self._per_variable(level) * weighted_sum
        by_level = self.eps * total_weight - self._per_level(c) @ weighted_sum
        return np.append(by_c, by_level)

    def _per_variable(self, level: float) -> np.ndarray:
        """The derivatives dw_j / dc_j: t / s_j, or 1 where s_j = 0."""
        tied = self.scale > 0
        return np.where(tied, level / np.where(tied, self.scale, 1.0), 1.0)

    def _per_level(self, c: np.ndarray) -> np.ndarray:
        """The derivatives dw_j / dt: c_j / s_j, or 0 where s_j = 0."""
        tied = self.scale > 0
        return np.where(tied, c / np.where(tied, self.scale, 1.0), 0.0)


@dataclass(frozen=True)
class _Smooth:
    """Any other norm: x = w, nu = eps ||s w||_q* with the gradient of the adversary's point."""

    problem: RobustProblem
    unit: float

    bounds: _Bounds | None = None

    def start(self, coef: np.ndarray) -> np.ndarray:
        return coef

    def unpack(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return x[None], self.problem.penalty(x[None] / self.unit)

    def gradient(self, x: np.ndarray, weighted_sum: np.ndarray, total_weight: float) -> np.ndarray:
        worst = self.problem.perturbation(x[None])[0]
        return total_weight / self.unit * worst - weighted_sum


def _unit(problem: RobustProblem) -> float:
    """The rows' root mean square, around their mean with an intercept: its inverse is w's unit."""
    square = mean_square(problem.rows, centred=problem.fit_intercept)
    return math.sqrt(square) if square > 0 else 1.0
