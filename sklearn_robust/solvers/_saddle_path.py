r"""The largest robust margin as the value of a saddle point, for p = 1 and p > 2.

The dual :math:`D(a)` of `accelerated` is not smooth for these p. The margin and its bound are the
two sides of

.. math:: \min_{a,\; \|\delta\|_q \le \epsilon} \; \max_{\|w\|_p \le 1} \;
    \langle Z^T a - \delta, w \rangle

over feasible weights a of the samples. Both sides move by gradient steps and projections, the
second against where the first is heading (Chambolle and Pock 2011). The means of the iterates
approach the saddle point; they take the place of the iterates whenever their gap has become small
enough, so that the method converges linearly where all sets are polyhedra (Applegate et al. 2023).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Self

import numpy as np

from sklearn_robust._array_api import Array, like, namespace
from sklearn_robust.certificates import best_intercept, over_size
from sklearn_robust.norms import LpNorm, shave_level
from sklearn_robust.problems import RobustProblem

_CERTIFY_EVERY = 8  # iterations; each certificate is of the last iterates and of their mean
_SHORTEN = 0.9  # factor at least on a step that was too long
_POWERS = 4  # power iterations for the first step
_UNIT = 0.5  # the unit of perturbations, as a share of the largest singular value
# the least estimate of it, relative to ||Z^T a||_2: rows of a class may be alike, or one
_LEAST_SIZE = 1e-4

# A mean or an iterate takes over where its gap is this share of that at the last restart; or this
# share, if it grows again; or after this share of all iterations.
_ENOUGH = 0.2
_SOME = 0.8
_LONG = 0.36


@dataclass(frozen=True)
class _Sides:
    """The two sides of the saddle point, and their products; the first axis is the problem.

    Attributes
    ----------
    coef : array of shape (k, d)
        Inside the unit ball of the p-norm.
    weights : array of shape (k, n)
        Feasible.
    taken : array of shape (k, d)
        A perturbation of the threat.
    scores : array of shape (k, n)
        Z w.
    weighted_sum : array of shape (k, d)
        Z^T a.
    """

    coef: Array
    weights: Array
    taken: Array
    scores: Array
    weighted_sum: Array

    def mapped(self, function: Callable[..., Array], *others: _Sides) -> _Sides:
        """The function of each array, and of those of others."""
        names = [f.name for f in fields(self)]
        return _Sides(*(function(*(getattr(x, name) for x in (self, *others))) for name in names))


class SaddlePath:
    r"""Problems under way; the methods are those of `_descent.Path`.

    Attributes
    ----------
    now, total, anchor : _Sides
        The last iterates, the sum of those since the last restart, and those at it.
    age : array of shape (k,)
        Iterations since the last restart.
    step : array of shape (k,)
        The product of both step sizes is its square.
    balance : array of shape (k,)
        The square root of the quotient of the step sizes, of the weights' over the predictor's.
    unit : array of shape (k,)
        The unit of perturbations, beside weights of the samples.
    gap_at_anchor, last_gap : array of shape (k,)
        Bound minus margin, at the last restart and at the last certificate.
    coef : array of shape (k, d)
        The best predictor so far.
    intercept, margin : array of shape (k,)
        Its intercept and its margin.
    proof : array of shape (k, n)
        The best weights so far, or weights that prove the data not to be separable.
    bound : array of shape (k,)
        :math:`\|Z^T a - \delta\|_{p^*} \ge D(a)` of the best weights, with their perturbation.
    not_separable : array of bool of shape (k,)
        Whether `proof` proves it.
    is_certified : bool
        Whether the certificates are those of the last iteration.
    """

    is_certified = False
    iterations = 0

    def __init__(self, problem: RobustProblem, norm: LpNorm) -> None:
        xp, weights = namespace(problem.y), problem.class_shares()
        weighted_sum = problem.weighted_sum(weights)
        zero, zeros = xp.zeros_like(weighted_sum[:, 0]), xp.zeros_like(weighted_sum)
        self.problem = problem
        self.norm = norm
        self.now = _Sides(zeros, weights, zeros, xp.zeros_like(weights), weighted_sum)
        size = _largest_singular_value(problem, weighted_sum)
        self.step, self.unit = 1 / size, _UNIT * size
        # the Euclidean radius of the unit ball, beside that of the simplex
        self.balance = zero + problem.n_features ** -max(0.0, 0.5 - 1 / norm.p)
        self.total, self.anchor = self.now.mapped(xp.zeros_like), self.now
        self.age = zero
        self.gap_at_anchor = self.last_gap = self.bound = zero + math.inf
        self.margin = zero - math.inf
        self.coef, self.intercept = zeros, zero
        self.proof = weights
        self.not_separable = zero > 0

    @property
    def weights(self) -> Array:
        """The weights of the last iterates, of shape (k, n)."""
        return self.now.weights

    @property
    def weighted_sum(self) -> Array:
        """Their weighted sums Z^T a, of shape (k, d)."""
        return self.now.weighted_sum

    def advance(self) -> None:
        """One step of both sides of every problem."""
        problem, now = self.problem, self.now
        up, down = (self.step / self.balance)[:, None], (self.step * self.balance)[:, None]
        # w+ = P(w + tau (Z^T a - delta)); the others move against 2 w+ - w
        coef = self.norm.project(now.coef + up * (now.weighted_sum - now.taken))
        scores = problem.signed_scores(coef)
        weights = feasible_projection(problem, now.weights - down * (2 * scores - now.scores))
        unit = self.unit[:, None]
        against = now.taken + (down * unit) * unit * (2 * coef - now.coef)
        taken = problem.threat.project(against, problem.radius)
        moved = _Sides(coef, weights, taken, scores, problem.weighted_sum(weights))
        self._shorten(now.mapped(lambda old, new: new - old, moved))
        self.now, self.total = moved, self.total.mapped(lambda old, new: old + new, moved)
        self.age = self.age + 1
        self.iterations += 1
        self.is_certified = False
        if self.iterations % _CERTIFY_EVERY == 0:
            self._certify()

    def iterate(self) -> SaddlePath:
        """The iterates of the problems, with their certificates."""
        if not self.is_certified:
            self._certify()
        return self

    def select(self, rows: np.ndarray) -> Self:
        """The path of the problems at these indices."""
        self.problem = self.problem.select(rows)
        for name, value in vars(self).items():
            if isinstance(value, _Sides):
                setattr(self, name, value.mapped(lambda array: array[rows]))
            elif name not in ("problem", "norm", "iterations", "is_certified"):
                setattr(self, name, value[rows])
        return self

    def _size(self, move: _Sides) -> tuple[Array, Array]:
        """The squares of the moves of the two sides, (k,) each."""
        xp = namespace(move.coef)
        of_weights = xp.sum(move.weights**2, axis=-1)
        of_taken = xp.sum((move.taken / self.unit[:, None]) ** 2, axis=-1)
        return xp.sum(move.coef**2, axis=-1), of_weights + of_taken

    def _shorten(self, move: _Sides) -> None:
        r"""Shorten steps that are too long for the products of the two moves.

        Steps converge where :math:`2 \eta |\langle da, Z dw \rangle - \langle d\delta, dw \rangle|
        \le \omega \|dw\|^2 + \|(da, d\delta)\|^2 / \omega`. They grow never: few are too long.
        """
        xp = namespace(move.coef)
        of_coef, of_others = self._size(move)
        product = xp.abs(
            xp.sum(move.weights * move.scores, axis=-1) - xp.sum(move.taken * move.coef, axis=-1)
        )
        room = 0.5 * (self.balance * of_coef + of_others / self.balance)
        too_long = self.step * product > room
        limit = room / xp.where(too_long, product, xp.ones_like(product))
        self.step = xp.where(too_long, xp.minimum(limit, _SHORTEN * self.step), self.step)

    def _certify(self) -> None:
        """Certify the iterates and their means, and restart where either is far enough."""
        xp = namespace(self.age)
        self.is_certified = True
        age = self.age[:, None]
        mean = self.total.mapped(lambda total: total / age)
        gap_now, gap_of_mean = self._keep_best(self.now), self._keep_best(mean)
        gap = xp.minimum(gap_now, gap_of_mean)
        restarts = (
            (gap <= _ENOUGH * self.gap_at_anchor)
            | ((gap <= _SOME * self.gap_at_anchor) & (gap > self.last_gap))
            | (self.age >= _LONG * self.iterations)
        )
        self.last_gap = xp.where(restarts, xp.full_like(gap, math.inf), gap)
        self.gap_at_anchor = xp.where(restarts, gap, self.gap_at_anchor)
        takes_mean = (restarts & (gap_of_mean < gap_now))[:, None]
        self.now = self.now.mapped(lambda old, new: xp.where(takes_mean, new, old), mean)
        # the steps of the two sides are in proportion to their ways since the last restart
        of_coef, of_others = self._size(self.now.mapped(lambda new, old: new - old, self.anchor))
        moved = restarts & (of_coef > 0) & (of_others > 0)
        ratio = xp.where(moved, of_others, 1.0) / xp.where(moved, of_coef, 1.0)
        self.balance = xp.where(moved, xp.sqrt(self.balance * xp.sqrt(ratio)), self.balance)
        again = restarts[:, None]
        self.anchor = self.anchor.mapped(lambda old, new: xp.where(again, new, old), self.now)
        self.total = self.total.mapped(lambda total: xp.where(again, 0 * total, total))
        self.age = xp.where(restarts, 0 * self.age, self.age)

    def _keep_best(self, at: _Sides) -> Array:
        """Keep the predictors and the weights that are better than those so far; bound minus
        margin, (k,).
        """
        xp, problem = namespace(at.coef), self.problem
        intercept, smallest = best_intercept(at.scores, problem.classes)
        margin = over_size(smallest - problem.penalty(at.coef), self.norm.value(at.coef))
        bound = self.norm.dual.value(at.weighted_sum - at.taken)
        better, tighter = margin > self.margin, bound < self.bound
        self.coef = xp.where(better[:, None], at.coef, self.coef)
        self.intercept = xp.where(better, intercept, self.intercept)
        self.margin = xp.where(better, margin, self.margin)
        self.proof = xp.where(tighter[:, None], at.weights, self.proof)
        self.bound = xp.where(tighter, bound, self.bound)
        return bound - margin


def _largest_singular_value(problem: RobustProblem, weighted_sum: Array) -> Array:
    """About the largest singular value of Z, on the differences of feasible weights, (k,); at least
    a share of the size of Z^T a, and 1 where that is 0.
    """
    xp, (k, n) = namespace(problem.y), problem.y.shape
    signs = np.random.default_rng(0).choice([-1.0, 1.0], size=n)
    unlike = signs + np.linspace(0, 1e-3, n)  # so that the weights of a small class differ too
    weights = like(problem.y, np.repeat(unlike[None], k, axis=0))
    least = _LEAST_SIZE * LpNorm(2).value(weighted_sum)
    least = xp.where(least > 0, least, xp.ones_like(least))
    for _ in range(_POWERS):
        centred = xp.zeros_like(weights)
        for members in problem.classes:
            share = xp.where(members, xp.ones_like(weights), 0 * weights)
            mean = xp.sum(share * weights, axis=-1) / xp.sum(share, axis=-1)
            centred = xp.where(members, weights - mean[:, None], centred)
        size = LpNorm(2).value(centred)
        centred = centred / xp.where(size > 0, size, xp.ones_like(size))[:, None]
        weighted_sum = problem.weighted_sum(centred)
        value = xp.maximum(LpNorm(2).value(weighted_sum), least)
        weights = problem.signed_scores(weighted_sum / value[:, None])
    return value


def feasible_projection(problem: RobustProblem, x: Array) -> Array:
    """The Euclidean projection on the feasible weights.

    They are the simplex, or a simplex of total weight 1/2 for each class with an intercept.
    """
    xp = namespace(x)
    projected = zero = xp.zeros_like(x)
    for members in problem.classes:
        total = xp.ones_like(x[:, :1]) / len(problem.classes)
        level = shave_level(xp.where(members, x, -math.inf), total, 1.0)
        projected = xp.where(members, xp.maximum(x - level, zero), projected)
    return projected
