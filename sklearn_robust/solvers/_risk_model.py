r"""The quadratic model of the log-risk around a predictor, and its minimiser.

In the margins the log-risk has gradient -a and, nearly, Hessian C = diag(c) - theta a a^T. With the
margins' change :math:`\delta = Z u + y \beta - \nu`, where w moves by u, the intercept by beta and
the penalty :math:`\epsilon \|w\|_{q^*}` by nu, the model is :math:`-a \cdot \delta + \tfrac12
\delta^T C \delta`: the norm in it is exact.

At its minimiser the weights :math:`a' = a - C \delta` obey :math:`\|Z^T a'\|_q \le \epsilon \sum_i
a'_i` and :math:`y \cdot a' = 0`: they are dual feasible. So each Newton step brings the weights
that certify it.

The minimiser lies on a face of the norm, on which the norm is smooth: the nonzero coordinates and
their signs (q = inf), the coordinates tied at the largest size and their signs (q = 1), everything
(1 < q < inf). An active-set method finds it: solve on a face, read off the next one from the signs
of the optimality conditions, until it stays.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
from scipy import sparse
from scipy.linalg import LinAlgError, blas, lapack
from scipy.special import expit

from sklearn_robust.norms import LpNorm
from sklearn_robust.problems import RobustProblem
from sklearn_robust.scaled_norms import WeightedNorm

# share of eps by which the model's weights stay inside the ball, so that rounding does not decide
_INSIDE = 1e-10
_BLOCK_ENTRIES = 2**18  # of the rows at a time
_ROUNDING = 1e-15  # of ties, where units were changed
_SINGLE_FROM = 1e8  # products in a Gram matrix from which it is computed in single precision
# of a coordinate to the norm, in the norm's Hessian: a smaller one does not move in either case
_LEAST_RATIO = 1e-100
_CORNER = 1e-6  # of a coordinate to the norm, up to which it counts as next to zero
_LEAST_PRESSURE = 1e-2  # eps rho in the norm's Hessian, relative to ||p||_q
_STALLS = 2  # short steps that bring nothing
_MAX_NEWTON = 100


_Clip = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Curvature:
    """The Hessian of the log-risk by the coefficients of some columns, the intercept and the
    penalty.

    Attributes
    ----------
    columns : ndarray of shape (f,) or slice
        The columns of X that it covers.
    c, a : ndarray of shape (n,)
        Of C = diag(c) - theta a a^T.
    theta : float
    coef : ndarray of shape (f, f)
        Z^T C Z on these columns, with the intercept's row centred out.
    penalty : ndarray of shape (f,)
        Z^T C 1.
    total : float
        1^T C 1.
    label_row : ndarray of shape (f + 1,)
        y^T C (Z, 1) over y^T C y, the move of the intercept that a move of the others asks for;
        zero without an intercept.
    label_curvature : float
        y^T C y; inf without an intercept, and where it has no curvature: it then stays.
    """

    columns: np.ndarray | slice
    c: np.ndarray
    a: np.ndarray
    theta: float
    coef: np.ndarray
    penalty: np.ndarray
    total: float
    label_row: np.ndarray
    label_curvature: float

    def apply(self, change: np.ndarray) -> np.ndarray:
        """C times a change of the margins."""
        return self.c * change - (self.theta * (self.a @ change)) * self.a


@dataclass(frozen=True)
class ModelStep:
    """The minimiser of a model: coefficients of its columns, the intercept's change, and whether it
    is exact.
    """

    coef: np.ndarray
    intercept: float
    settled: bool


def curvature(
    problem: RobustProblem,
    columns: np.ndarray | slice,
    centre: np.ndarray,
    c: np.ndarray,
    a: np.ndarray,
    weighted_sum: np.ndarray,
    *,
    exact: bool,
) -> Curvature:
    """The Hessian at weights a with Z^T a = weighted_sum and curvatures c.

    `centre` is subtracted from the rows, which an intercept absorbs: no digits are lost to a large
    mean. `exact` asks for double precision however long it takes.
    """
    y = problem.y[0]
    # the largest theta that leaves C positive semidefinite; it is 1 for the exponential loss, whose
    # log-risk has this Hessian
    theta = 1 / max(1.0, float(np.sum(a * (a / np.maximum(c, np.finfo(float).tiny)))))
    gram, by_label, by_penalty = _products(problem, columns, centre[columns], c, exact=exact)
    total_weight, label_sum = a.sum(), y @ a
    weighted_sum = weighted_sum[columns] - label_sum * centre[columns]
    gram -= np.outer(theta * weighted_sum, weighted_sum)
    by_penalty -= theta * total_weight * weighted_sum
    total = c.sum() - theta * total_weight**2
    label_row, label_curvature = np.zeros(len(weighted_sum) + 1), c.sum() - theta * label_sum**2
    if not problem.fit_intercept or label_curvature <= 0:
        label_curvature = math.inf
    else:
        label_row = (
            np.append(
                by_label - theta * label_sum * weighted_sum,
                c @ y - theta * label_sum * total_weight,
            )
            / label_curvature
        )
        gram -= np.outer(label_curvature * label_row[:-1], label_row[:-1])
        by_penalty -= label_curvature * label_row[-1] * label_row[:-1]
        total -= label_curvature * label_row[-1] ** 2
        label_row[:-1] += centre[columns]
    return Curvature(columns, c, a, theta, gram, by_penalty, total, label_row, label_curvature)


def _products(
    problem: RobustProblem,
    columns: np.ndarray | slice,
    centre: np.ndarray,
    c: np.ndarray,
    *,
    exact: bool,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Z^T diag(c) times Z, y and 1, on these columns of the centred rows."""
    y, X, f = problem.y[0], problem.X, len(centre)
    if sparse.issparse(X):
        X = X[:, columns]
        weighted = X.multiply(c[:, None]).T.tocsr()
        gram, by_label, by_penalty = (
            (weighted @ X).toarray().astype(np.float64),
            weighted @ np.ones_like(c),
            weighted @ y,
        )
        return gram, by_label, by_penalty
    kind = np.float64 if exact or f * f * X.shape[0] < _SINGLE_FROM else np.float32
    gram, by_label, by_penalty = np.zeros((f, f)), np.zeros(f), np.zeros(f)
    length = max(1, _BLOCK_ENTRIES // max(1, f))
    for start in range(0, X.shape[0], length):
        at = slice(start, start + length)
        block = np.subtract(X[at, columns], centre, dtype=kind, casting="same_kind")
        weighted = c[at, None].astype(kind) * block
        gram += weighted.T @ block
        by_label += weighted.sum(axis=0, dtype=np.float64)
        by_penalty += y[at].astype(kind) @ weighted
    return 0.5 * (gram + gram.T), by_label, by_penalty  # symmetric to the last digit


def minimise_model(
    hessian: Curvature,
    norm: LpNorm | WeightedNorm,
    eps: float,
    coef: np.ndarray,
    weighted_sum: np.ndarray,
    total_weight: float,
    label_sum: float,
    damping: float,
    max_faces: int,
) -> ModelStep:
    """The minimiser of the model around coef, for weights a with Z^T a = weighted_sum, sum
    total_weight and y.a =
    label_sum.

    Parameters
    ----------
    hessian : Curvature
    norm : LpNorm or WeightedNorm
        Of the penalty, eps times the norm of the coefficients.
    eps : float
    coef, weighted_sum : ndarray of shape (f,)
        On the columns of the Hessian.
    total_weight, label_sum : float
    damping : float
        Levenberg's: this share of the Hessian's diagonal is added to it.
    max_faces : int
        Faces to try; the best point so far is a step downhill too.

    Raises
    ------
    LinAlgError
        If the damped Hessian is not positive definite on a face.
    """
    eps = eps * (1 - _INSIDE)
    level = eps * float(norm.value(coef))
    diagonal = np.diag(hessian.coef)
    diagonal = np.where(diagonal > 0, diagonal, 1.0)
    A = hessian.coef.copy()
    A.flat[:: len(A) + 1] += damping * diagonal
    p0 = weighted_sum - label_sum * hessian.label_row[:-1] + A @ coef - level * hessian.penalty
    rho0 = (
        total_weight
        - label_sum * hessian.label_row[-1]
        + hessian.penalty @ coef
        - level * hessian.total
    )
    diagonal = (1 + damping) * diagonal
    if isinstance(norm, LpNorm):
        model = _Model(
            eps,
            norm,
            np.ones(len(p0), dtype=bool),
            A,
            hessian.penalty,
            hessian.total,
            p0,
            float(rho0),
            diagonal,
        )
        x, settled = model.minimiser(coef, max_faces)
    else:  # in units in which the weights are 1, or 0
        seen = norm.scale > 0
        unit = np.where(seen, norm.scale, 1.0)
        A, k, p0, diagonal = (
            A / np.outer(unit, unit),
            hessian.penalty / unit,
            p0 / unit,
            diagonal / unit**2,
        )
        model = _Model(eps, norm.plain, seen, A, k, hessian.total, p0, float(rho0), diagonal)
        x, settled = model.minimiser(coef * unit, max_faces)
        x = x / unit
    rise = eps * float(norm.value(x)) - level
    intercept = (
        label_sum / hessian.label_curvature
        - hessian.label_row[:-1] @ (x - coef)
        + hessian.label_row[-1] * rise
    )
    return ModelStep(x, float(intercept), settled)


@dataclass(frozen=True)
class _Model:
    """A model in the coefficients x alone.

    At x of penalty nu the weights have Z^T a' = p = p0 - A x + k nu and sum a' = rho = rho0 - k.x +
    kappa nu, and x is optimal where p is in eps rho times the subdifferential of the norm at x.
    """

    eps: float
    norm: LpNorm
    seen: np.ndarray  # (d,), bool: the coefficients whose norm it is
    A: np.ndarray
    k: np.ndarray
    kappa: float
    p0: np.ndarray
    rho0: float
    diagonal: np.ndarray

    def minimiser(self, x: np.ndarray, max_faces: int) -> tuple[np.ndarray, bool]:
        """The minimiser, and whether the search for it ended; x is the first guess."""
        if self.eps == 0:
            return self._solved(self._factor(self.A, self.k, x, 0.0, None), self.p0), True
        unpenalised = self._unpenalised_minimiser()
        p, bound = (
            (self.p0, self.eps * self.rho0) if self.alike else self._weighted_sum(unpenalised)[:2]
        )
        if self.norm.dual.value(self.seen * p) <= bound:
            return unpenalised, True
        if self.norm.p not in (1, math.inf):
            return self._on_smooth_norm(x, unpenalised, 4 * max_faces)
        read, solve = (
            (self._signs, self._on_signs) if self.norm.p == 1 else (self._ties, self._on_ties)
        )
        value, face, exact = self.value(x), np.empty(0), False
        for _ in range(max_faces):
            last, face = face, read(x)
            if exact and np.array_equal(face, last):
                return x, True
            target, clip = solve(face)
            moved, value = self._downhill(x, partial(_clipped, x, target, clip), value)
            if moved is x:  # and would be again
                break
            exact = np.array_equal(moved, target)
            x = moved
        return x, False

    @cached_property
    def alike(self) -> bool:
        """Whether the norm sees all coefficients."""
        return bool(self.seen.all())

    def _unpenalised_minimiser(self) -> np.ndarray:
        """The minimiser over the coefficients that the norm does not see; zero where it sees them
        all.
        """
        x = np.zeros_like(self.p0)
        if not self.alike:
            free = np.flatnonzero(~self.seen)
            nothing = np.zeros(len(free))
            factor = self._factor(self.A[np.ix_(free, free)], self.k[free], nothing, 0.0, None)
            x[free] = self._solved(factor, self.p0[free])
        return x

    def value(self, x: np.ndarray) -> float:
        """The model at x, less its value at zero."""
        nu = self.eps * self._size(x)
        return float(
            x @ (0.5 * (self.A @ x) - self.p0 - nu * self.k)
            + nu * (0.5 * self.kappa * nu + self.rho0)
        )

    def _size(self, x: np.ndarray) -> float:
        x = x if self.alike else self.seen * x
        if self.norm.p == 1:
            return float(np.abs(x).sum())
        return math.sqrt(x @ x) if self.norm.p == 2 else float(self.norm.value(x))

    def _weighted_sum(self, x: np.ndarray) -> tuple[np.ndarray, float, float]:
        """Of the weights at x: p and eps rho; and the norm of x."""
        size = self._size(x)
        nu = self.eps * size
        return (
            self.p0 - self.A @ x + nu * self.k,
            self.eps * (self.rho0 - self.k @ x + self.kappa * nu),
            size,
        )

    def _downhill(
        self, x: np.ndarray, ahead: Callable[[float], np.ndarray], value: float
    ) -> tuple[np.ndarray, float]:
        """The point ahead of x, by the whole step or a share of it, at which the model is no
        larger; and the model there.
        """
        share = 1.0
        while True:
            moved = ahead(share)
            new = self.value(moved)
            if new <= value + 1e-14 * abs(value):
                return moved, new
            share *= 0.4
            if share < 1e-8:
                return x, value

    def _signs(self, x: np.ndarray) -> np.ndarray:
        """l1: coordinates keep their signs; those at zero take the sign in which the weights
        weighted_sum
        them, if they weighted_sum enough.
        """
        p, bound, _ = self._weighted_sum(x)
        return np.where(
            x != 0,
            np.sign(x),
            np.where(np.abs(p) > bound * self.seen * (1 + 1e-12), np.sign(p), 0.0),
        )

    def _on_signs(self, signs: np.ndarray) -> tuple[np.ndarray, _Clip]:
        free = np.flatnonzero(signs)
        target = np.zeros_like(signs)
        slope = self.seen[free] * signs[free]
        factor = self._factor(self.A[np.ix_(free, free)], self.k[free], slope, 0.0, None)
        target[free] = self._solved(factor, self.p0[free] - self.eps * self.rho0 * slope)
        return target, lambda moved: np.where((moved * signs > 0) | ~self.seen, moved, 0.0)

    def _ties(self, x: np.ndarray) -> np.ndarray:
        """Maximum norm: the signs of the coordinates tied at the largest size, unless the weights
        weighted_sum them back.
        """
        p, _, size = self._weighted_sum(x)
        ties = np.where(
            self.seen & (np.abs(x) >= size * (1 - _ROUNDING)),
            np.sign(x) if size > 0 else np.sign(p),
            0.0,
        )
        inward = ties * p < -1e-12 * np.abs(self.p0)
        if inward.sum() < np.count_nonzero(ties):
            ties[inward] = 0.0
        return ties

    def _on_ties(self, ties: np.ndarray) -> tuple[np.ndarray, _Clip]:
        free = np.flatnonzero(ties == 0)
        across = self.A @ ties
        A = np.empty((len(free) + 1,) * 2)
        A[0, 0], A[0, 1:], A[1:, 0], A[1:, 1:] = (
            ties @ across,
            across[free],
            across[free],
            self.A[np.ix_(free, free)],
        )
        slope = np.zeros(len(A))
        slope[0] = 1.0
        factor = self._factor(A, np.append(self.k @ ties, self.k[free]), slope, 0.0, None)
        found = self._solved(
            factor, np.append(self.p0 @ ties, self.p0[free]) - self.eps * self.rho0 * slope
        )
        target = found[0] * ties
        target[free] = found[1:]

        def clip(moved: np.ndarray) -> np.ndarray:
            level = max(float(np.max(moved * ties)), 0.0)
            return np.where(
                ties != 0, level * ties, np.where(self.seen, np.clip(moved, -level, level), moved)
            )

        return target, clip

    def _on_smooth_norm(
        self, x: np.ndarray, unpenalised: np.ndarray, max_steps: int
    ) -> tuple[np.ndarray, bool]:
        """1 < q < inf: Newton's method, that keeps its factor while it converges fast."""
        value = self.value(x)
        # no better than where the norm is zero and has no curvature
        if self._size(x) == 0 or value >= self.value(unpenalised):
            x = self._along_steepest_ray(unpenalised)
            value = self.value(x)
        factor, last, stalled = None, math.inf, 0
        for _ in range(max_steps):
            p, pressure, size = self._weighted_sum(x)
            seen = self.seen * x
            slope = self.norm.dual.steepest_direction(seen) if self.norm.p != 2 else seen / size
            # they agree at the minimiser
            weight = max(pressure, _LEAST_PRESSURE * float(self.norm.dual.value(self.seen * p)))
            if factor is None:
                ratio = self.seen * np.maximum(np.abs(seen) / size, _LEAST_RATIO) ** (
                    self.norm.p - 2
                )
                factor = self._factor(
                    self.A, self.k, slope, (self.norm.p - 1) * weight / size, ratio
                )
            wanted = p - pressure * slope
            step = self._solved(factor, wanted)
            if self.norm.p == 2:
                ahead = partial(_straight, x, step)
            else:
                growth = self.eps * float(slope @ step)
                wanted += (
                    growth * self.k
                    - self.A @ step
                    - self.eps * float(self.kappa * growth - self.k @ step) * slope
                )
                ahead = partial(
                    self._bent, x, step, slope, self.seen * wanted / weight, self.seen * p / weight
                )
            whole, before = ahead(1.0), value
            change = math.sqrt(self.diagonal @ (whole - x) ** 2 / (self.diagonal @ x**2))
            x, value = self._downhill(x, ahead, value)
            if change <= 1e-12:
                return x, True
            stalled += before - value <= 1e-12 * abs(value) and not np.array_equal(x, whole)
            if stalled > _STALLS:
                break
            if change > 0.2 * last:
                factor = None
            last = change
        return x, False

    def _along_steepest_ray(self, unpenalised: np.ndarray) -> np.ndarray:
        """The minimiser on the ray from the unpenalised along which the model falls most by the
        norm; it
        is quadratic there.
        """
        p, bound, _ = self._weighted_sum(unpenalised)
        ray = self.norm.steepest_direction(self.seen * p)
        terms = ray @ self.A @ ray, self.eps**2 * self.kappa, -2 * self.eps * (self.k @ ray)
        norm_curvature = max(sum(terms), np.finfo(float).eps * sum(abs(term) for term in terms))
        if norm_curvature == 0:
            raise LinAlgError("The model has no curvature.")
        return unpenalised + (p @ ray - bound) / norm_curvature * ray

    def _bent(
        self,
        x: np.ndarray,
        step: np.ndarray,
        slope: np.ndarray,
        turn: np.ndarray,
        weighted_sum: np.ndarray,
        share: float,
    ) -> np.ndarray:
        """Ahead of x by a share of a step, on a curve along which the norm's gradient turns as
        Newton's method has it.

        Let r = x / ||x|| and u the gradient, |u_j| = |r_j|^(q*-1). Where q is large u_j may be
        anything while r_j is next to zero, where q is next to 1 the other way round. Their sum s
        moves straight, and r follows from it: the step of Newton's method to first order, and far
        from the minimiser that of an active-set method.
        """
        size = self._size(x)
        growth = float(slope @ step)
        r = self.seen * x / size
        s = r + slope
        ahead = s + (self.seen * step - growth * r) / size + turn
        # a coordinate that would leave zero starts where it is about to
        corner = _CORNER ** (self.norm.p - 1)
        leaves = (
            (np.abs(s) < corner)
            & (np.sign(ahead) * weighted_sum > corner)
            & (np.abs(ahead) > corner)
        )
        s = np.where(leaves, np.sign(ahead) * corner, s)
        s += share * (ahead - s)
        r = np.sign(s) * _split_sum(np.abs(s), self.norm.p)
        new_size = max(size + share * growth, 0.1 * size)
        return np.where(self.seen, r * (new_size / float(self.norm.value(r))), x + share * step)

    def _factor(
        self,
        A: np.ndarray,
        k: np.ndarray,
        slope: np.ndarray,
        norm_curvature: float,
        ratio: np.ndarray | None,
    ) -> np.ndarray:
        """Cholesky factor of the model's Hessian where the norm has gradient slope.

        The norm's own Hessian, times eps rho, is norm_curvature (diag(ratio) - slope slope^T).
        """
        across = 0.5 * (self.eps**2 * self.kappa - norm_curvature) * slope - self.eps * k
        # a copy, of which one triangle counts
        matrix = blas.dsyr2(1.0, slope, across, a=A.T, lower=1)
        if ratio is not None:
            matrix.T.flat[:: len(A) + 1] += norm_curvature * ratio
        factor, info = lapack.dpotrf(matrix, lower=1, overwrite_a=1)
        if info != 0:
            raise LinAlgError("The model's Hessian is not positive definite on this face.")
        return factor

    @staticmethod
    def _solved(factor: np.ndarray, right: np.ndarray) -> np.ndarray:
        return lapack.dpotrs(factor, right, lower=1)[0]


def _straight(x: np.ndarray, step: np.ndarray, share: float) -> np.ndarray:
    return x + share * step


def _clipped(x: np.ndarray, target: np.ndarray, clip: _Clip, share: float) -> np.ndarray:
    return clip(target if share == 1 else x + share * (target - x))


def _split_sum(s: np.ndarray, p: float) -> np.ndarray:
    """The r >= 0 with r + r^(p-1) = s >= 0: Newton in log r on log(r + r^(p-1)) = log s, convex and
    increasing, from above.
    """
    log_s = np.log(np.maximum(s, np.finfo(float).tiny))
    level = np.minimum(log_s, log_s / (p - 1))
    for _ in range(_MAX_NEWTON):
        error = np.logaddexp(level, (p - 1) * level) - log_s
        share = expit((2 - p) * level)  # of r in the sum
        moved = level - np.maximum(error, 0) / (share + (1 - share) * (p - 1))
        if np.all(moved >= level - 4 * np.finfo(float).eps * (1 + np.abs(level))):
            break
        level = moved
    return np.where(s > 0, np.exp(level), 0.0)
