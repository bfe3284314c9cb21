r"""The minimiser of the robust risk where each sample has a box of its own.

The coefficients are split into :math:`v = (v^+, v^-) \ge 0`, in which the margins are linear
(`sign_split`).

**Certificate.** Weights :math:`a \ge 0` with :math:`M^T a \le 0` and :math:`y \cdot a = 0` bound
the risk of every predictor.

**Method.** Newton's method with the exact minimiser of its quadratic model over v >= 0. The model's
weights :math:`a - C \delta` at the margins' change :math:`\delta` then obey both conditions, up to
rounding. Where there are many columns L-BFGS-B goes near the minimiser first.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import scipy
from scipy.linalg import LinAlgError, cho_factor, cho_solve

from sklearn_robust._adversaries import row_blocks
from sklearn_robust._sign_split import SplitForm
from sklearn_robust.losses import MarginLoss
from sklearn_robust.problems import RobustProblem
from sklearn_robust.solvers import _newton_rules as rules
from sklearn_robust.solvers._nonnegative_quadratic import minimise_nonnegative_quadratic
from sklearn_robust.solvers._risk_conic import conic_newton
from sklearn_robust.solvers.solution import Solution

_WIDE = 1000  # columns of M from which on L-BFGS-B comes first
_PAIRS = 20  # pairs of steps and gradient changes that L-BFGS-B keeps
# Ends of L-BFGS-B
_LEAST_DECREASE = 1e-12  # relative decrease of the log-risk in an iteration
_LEAST_GRADIENT = 1e-7  # largest entry of the projected gradient, columns of mean square 1
# Columns of a model: those with an entry of M^T a above this share of the largest, below 0
_NEARLY_UP = 0.02
_MOST_COLUMNS = 3000  # above which a model is too large


@dataclass(frozen=True)
class _Step:
    """The minimiser of a model: v, the rise of the intercept, the change of M v and that of the
    margins, and weights (n,) that prove a bound, if they do and the gap may be small enough.
    """

    target: np.ndarray
    rise: float
    scores: np.ndarray
    change: np.ndarray
    weights: np.ndarray | None


def minimise_on_boxes(
    problem: RobustProblem,
    loss: MarginLoss,
    start: np.ndarray,
    *,
    max_iter: int,
    tol: float,
    certify: Callable[..., Solution],
    record: Callable[..., None],
) -> tuple[Solution | None, np.ndarray, int]:
    """Minimise the log-risk of one problem whose adversary is `Boxes`.

    Parameters
    ----------
    problem : RobustProblem
        One problem, in double arithmetic, on an array.
    loss : MarginLoss
    start : ndarray of shape (1, d)
    max_iter : int
    tol : float
        Certified gap of the risk to reach.
    certify : callable
        The solution of coefficients (1, d), with the gap that weights (1, n) prove if they are
        given.
    record : callable
        Called with the iteration, the coefficients (1, d), and weights (1, n) where they prove a
        gap.

    Returns
    -------
    solution : Solution or None
        It reached tol, or separates the data; None where the method stops short of both.
    coef : ndarray of shape (1, d)
        The last iterate.
    n_iter : int
    """
    return _BoxesRisk(problem, loss, tol, certify).run(start[0], max_iter, record)


def newton_on_boxes(
    problem: RobustProblem,
    loss: MarginLoss,
    start: np.ndarray,
    *,
    certify: Callable[..., Solution],
    record: Callable[..., None],
    **settings: Any,
) -> tuple[Solution | None, np.ndarray, int]:
    """The same by `conic_newton` on the problem of M: slower, and sure on ill-scaled data."""
    form = SplitForm(problem)

    def certify_parts(v: np.ndarray, *weights: np.ndarray, near: float | None = None) -> Solution:
        return certify(form.coef(v[0])[None], *weights)

    def record_parts(iteration: int, v: np.ndarray, *weights: np.ndarray) -> None:
        record(iteration, form.coef(v[0])[None], *weights)

    found, v, n_iter = conic_newton(
        form.as_problem(problem),
        loss,
        form.split(start[0])[None],
        certify=certify_parts,
        record=record_parts,
        **settings,
    )
    return found, form.coef(v[0])[None], n_iter


class _BoxesRisk:
    def __init__(
        self, problem: RobustProblem, loss: MarginLoss, tol: float, certify: Callable[..., Solution]
    ) -> None:
        self.problem, self.loss = problem, loss
        self.tol, self.certify = tol, certify
        self.form = SplitForm(problem)
        self.y, self.log_weight = problem.y[0], problem.log_weight[0]
        self.used = self.log_weight > -math.inf
        self.labels = self.y[:, None] if problem.fit_intercept else np.empty((len(self.y), 0))

    def run(
        self, start: np.ndarray, max_iter: int, record: Callable[..., None]
    ) -> tuple[Solution | None, np.ndarray, int]:
        v, n_iter = self.form.split(start), 0
        if len(v) > _WIDE:
            v, n_iter = self._descend(v, max_iter, record)
        at = self._evaluated(v, None)
        damping = rules.LEAST_DAMPING
        while n_iter < max_iter and damping <= rules.MOST_DAMPING and not self._separates(at):
            n_iter += 1
            step = self._step(at, damping)
            if step is None:
                damping = rules.more_damping(damping)
                continue
            decrease = float(at.weights @ step.change)
            if step.weights is not None:
                target = self._between(at, step, 1.0)
                coef, weights = self._coef(target), step.weights[None]
                solution = self.certify(coef, weights, near=self._near(target))
                if solution.gap[0] <= self.tol:
                    record(n_iter, coef, weights)
                    return solution, coef, n_iter
                if decrease <= rules.ROUNDING_DECREASE:
                    break  # what is left of the gap is rounding, of the predictor's type for one
            ahead = partial(self._between, at, step)
            first = at.first_share(step.change, self.used)
            moved = rules.line_search(at.log_risk, ahead, self._separates, decrease, first)
            if moved is None:
                if decrease <= rules.ROUNDING_DECREASE:
                    break
                damping = rules.more_damping(damping)
                continue
            at, damping = moved, rules.less_damping(damping)
            record(n_iter, self._coef(at))
        if self._separates(at):
            return self.certify(self._coef(at), near=self._near(at)), self._coef(at), n_iter
        return None, self._coef(at), n_iter

    def _separates(self, at: rules.NewtonPoint) -> bool:
        """Whether the margins of the samples in use are positive."""
        return at.separates(self.used)

    # points: the parts v >= 0 of w, with the best intercept

    def _coef(self, at: rules.NewtonPoint) -> np.ndarray:
        """The coefficients (1, d) of a point."""
        return self.form.coef(at.coef)[None]

    def _near(self, at: rules.NewtonPoint) -> float:
        """Its intercept on the rows as they are."""
        return at.intercept - float(self.form.centre @ self.form.coef(at.coef))

    def _evaluated(
        self, v: np.ndarray, near: float | None, scores: np.ndarray | None = None
    ) -> rules.NewtonPoint:
        """The point v, of scores M v."""
        scores = self.form.M @ v if scores is None else scores
        return rules.evaluated(self.problem, self.loss, v, scores, scores, near)

    def _between(self, at: rules.NewtonPoint, step: _Step, share: float) -> rules.NewtonPoint:
        """The point at a share of a step, or beyond it."""
        v = at.coef + share * (step.target - at.coef)
        # up to the end of the step v >= 0, and M v is linear in the share
        scores = at.scores + share * step.scores if share <= 1 else None
        return self._evaluated(np.maximum(v, 0), at.intercept + share * step.rise, scores)

    # steps

    def _step(self, at: rules.NewtonPoint, damping: float) -> _Step | None:
        """The model's minimiser over v >= 0, on the coordinates that are positive or may become so;
        None where it has none.
        """
        M, a = self.form.M, at.weights
        down = a @ M
        near = -_NEARLY_UP * float(np.max(np.abs(down), initial=0.0))
        chosen = np.flatnonzero((at.coef > 0) | (down > near))
        if len(chosen) > _MOST_COLUMNS:
            return None
        c = rules.curvatures(self.loss.curvature(at.margins, a), at.margins, a)
        c = np.where(self.used, c, 0.0)
        theta, slope = rules.largest_theta(c, a), np.append(down[chosen], a @ self.labels)
        H = self._gram(chosen, c) - theta * np.outer(slope, slope)
        diagonal = np.diag(H).copy()
        rules.damp(H, damping, diagonal)
        now = np.concatenate([at.coef[chosen], np.zeros(self.labels.shape[1])])
        bounded = np.arange(len(now)) < len(chosen)
        try:
            x = minimise_nonnegative_quadratic(H, slope + H @ now, bounded, now > 0)
            if x is not None:
                x = _undamped(H, (np.diag(H) - diagonal) * (x - now), bounded, x)
        except LinAlgError:
            return None
        if x is None or not np.isfinite(x).all():
            return None
        target = np.zeros_like(at.coef)
        target[chosen] = x[: len(chosen)]
        scores = M @ (target - at.coef)
        change = scores + self.labels @ x[len(chosen) :]
        model = a - rules.MarginHessian(c, a, theta).apply(change)
        weights, decrease = None, float(a @ change)
        # the next decrease, and the gap with it, is about the square of this one
        close = decrease <= math.sqrt(max(self.tol, rules.ROUNDING_DECREASE))
        if close and all((model[members[0]] > 0).any() for members in self.problem.classes):
            feasible = self.problem.balanced(np.maximum(model, 0)[None])[0]
            weights = feasible if self.form.feasible(feasible) else None
        return _Step(target, float(np.sum(x[len(chosen) :])), scores, change, weights)

    def _gram(self, chosen: np.ndarray, c: np.ndarray) -> np.ndarray:
        """A^T diag(c) A for some columns of M and the labels as A, summed over blocks of rows."""
        m = len(chosen) + self.labels.shape[1]
        H, root = np.zeros((m, m)), np.sqrt(c)[:, None]
        for rows in row_blocks(len(root), m):
            A = np.empty((len(root[rows]), m))
            np.take(self.form.M[rows], chosen, axis=1, out=A[:, : len(chosen)], mode="clip")
            A[:, len(chosen) :] = self.labels[rows]
            A *= root[rows]
            H += A.T @ A
        return H

    def _descend(
        self, v: np.ndarray, max_iter: int, record: Callable[..., None]
    ) -> tuple[np.ndarray, int]:
        """L-BFGS-B from v; it ends where the data are separated."""
        last = [self._evaluated(v, None)]
        iteration = 0

        def value(v: np.ndarray) -> tuple[float, np.ndarray]:
            last[0] = at = self._evaluated(v, last[0].intercept)
            return at.log_risk, -(at.weights @ self.form.M)

        def after_iteration(intermediate_result: scipy.optimize.OptimizeResult) -> None:
            nonlocal iteration
            iteration += 1
            record(iteration, self.form.coef(intermediate_result.x)[None])
            if self._separates(last[0]):
                raise StopIteration  # the risk has no minimiser

        v, _, result = scipy.optimize.fmin_l_bfgs_b(
            value,
            v,
            bounds=[(0.0, None)] * len(v),
            callback=after_iteration,
            maxiter=max_iter,
            maxfun=2 * max_iter,
            factr=_LEAST_DECREASE / np.finfo(float).eps,
            pgtol=_LEAST_GRADIENT,
            m=_PAIRS,
        )
        return v, int(result["nit"])


def _undamped(H: np.ndarray, excess: np.ndarray, bounded: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The minimiser moved towards that without damping, whose weights cancel the columns of its
    face; as it is, where that would leave the face.

    `excess` is what the damping leaves of each entry of the gradient.
    """
    on = np.flatnonzero((x > 0) | ~bounded)
    moved = x.copy()
    if len(on):
        moved[on] += cho_solve(cho_factor(H[np.ix_(on, on)]), excess[on])
    return moved if (moved[bounded] >= 0).all() else x
