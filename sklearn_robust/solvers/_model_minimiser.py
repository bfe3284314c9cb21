"""The minimiser of the quadratic model of the log-risk (`_risk_model`), with the norm kept exact.

It lies on a face of the norm, on which the norm is smooth: the nonzero coordinates and their signs
(q = inf), the coordinates tied at the largest size and their signs (q = 1), everything (1 < q <
inf). An active-set method (Nocedal and Wright, Numerical Optimization, 2006, 16.5) finds it: it
solves on a face, and reads the next face off the signs of the optimality conditions, until the face
stays.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Protocol

import numpy as np
from scipy.linalg import LinAlgError, blas, lapack
from scipy.special import expit

from sklearn_robust.norms import LpNorm
from sklearn_robust.scaled_norms import WeightedNorm
from sklearn_robust.solvers._risk_model import Curvature, Gradient

# Share of eps by which the model's weights stay inside the ball at least, so that rounding does not
# decide
LEAST_INSET = 1e-10

# Rounding, as a share of the numbers compared
_TIE_ROUNDING = 1e-15  # sizes of tied coordinates, where units were changed
_BOUND_ROUNDING = 1e-12  # a coordinate of the weighted sum against its bound
_VALUE_ROUNDING = 1e-14  # values of the model

_BLOCK_ROUNDS = 2  # rounds without fewer changes after which block pivoting ends

# The search along a step
# Shares of a step that are tried together; where all raise the model, each times the last
_SHARES = 0.4 ** np.arange(8)[:, None]
_LEAST_SHARE = 1e-8  # share of the whole step below which the search ends at its start

# Newton's method for 1 < q < inf; coordinates are relative to the norm of x
_LEAST_RATIO = 1e-100  # size that a smaller coordinate has in the norm's Hessian: it does not move
_CORNER = 1e-6  # size up to which a coordinate counts as next to zero
_LEAST_PRESSURE = 1e-2  # least eps rho in the norm's Hessian, relative to ||p||_q
_MOST_SHRINKAGE = 0.1  # the norm falls to no smaller share of itself in a step
_CONVERGED = 1e-12  # relative change of x, and of the model, at which the method ends
# change of x in a whole step of Newton's method at q = 2, whose square is the next change
_CONVERGES = 1e-7
_SLOW = 0.2  # ratio of successive changes of x above which the Cholesky factor is renewed
_CHEAP_FACTOR = 100  # coordinates up to which a factor costs less than a step without it
_STALLS = 2  # shortened steps without a decrease after which the method ends
_STEPS_A_FACE = 4  # steps at most, for each face that an active-set method might try
_FACES_A_STEP = 4  # at q = 2 one step does as much for the risk as so many faces
_MAX_SUM_STEPS = 100  # Newton steps at most in `_split_sum`, which takes a few

_NOT_DEFINITE = "The model's Hessian is not positive definite on this face."

_Clip = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class ModelStep:
    """The minimiser of a model on its columns.

    Attributes
    ----------
    coef : ndarray of shape (f,)
    intercept : float
        The change of the intercept.
    penalty : float
    settled : bool
        Whether the search for the minimiser ended.
    """

    coef: np.ndarray
    intercept: float
    penalty: float
    settled: bool


def minimise_model(
    hessian: Curvature,
    norm: LpNorm | WeightedNorm,
    eps: float,
    coef: np.ndarray,
    penalty: float,
    gradient: Gradient,
    damping: float,
    max_faces: int,
    inset: float = LEAST_INSET,
) -> ModelStep:
    """The minimiser of the model around coef.

    Parameters
    ----------
    hessian : Curvature
    norm : LpNorm or WeightedNorm
        The norm of the penalty, on the columns of the Hessian.
    eps : float
    coef : ndarray of shape (f,)
        On the columns of the Hessian.
    penalty : float
        That of coef: eps times its norm.
    gradient : Gradient
        On all columns.
    damping : float
        Levenberg's: this share of the Hessian's diagonal is added to it.
    max_faces : int
        Faces to try; the best point so far is a step downhill too.
    inset : float
        Share of eps by which the weights stay inside the ball: the model is that of a radius
        smaller by this share.

    Raises
    ------
    LinAlgError
        If the damped Hessian is not positive definite on a face.
    """
    outer, eps = eps, eps * (1 - inset)
    level = (1 - inset) * penalty
    diagonal = hessian.coef.diagonal()
    if not diagonal.min() > 0:
        largest = float(diagonal.max())
        diagonal = np.where(diagonal > 0, diagonal, largest if largest > 0 else 1.0)
    A = hessian.coef.copy()
    A.flat[:: len(A) + 1] += damping * diagonal
    # p0 and rho0: Z^T a' and sum a' at x = 0 and penalty 0, the intercept eliminated
    k = hessian.penalty
    label_sum = gradient.label_sum
    weighted_sum = gradient.weighted_sum[hessian.columns]
    p0 = weighted_sum - label_sum * hessian.label_row[:-1] + A @ coef - level * k
    rho0 = (
        gradient.total_weight - label_sum * hessian.label_row[-1] + k @ coef - level * hessian.total
    )
    diagonal = (1 + damping) * diagonal
    if isinstance(norm, LpNorm):
        seen = np.ones(len(p0), dtype=bool)
        model = _Model(eps, norm, seen, A, k, hessian.total, p0, float(rho0), diagonal)
        x, settled = model.minimiser(coef, max_faces)
    else:  # in units in which the weights of the norm are 1, or 0
        seen = norm.scale > 0
        unit = np.where(seen, norm.scale, 1.0)
        model = _Model(
            eps,
            norm.plain,
            seen,
            A / np.outer(unit, unit),
            k / unit,
            hessian.total,
            p0 / unit,
            float(rho0),
            diagonal / unit**2,
        )
        x, settled = model.minimiser(coef * unit, max_faces)
        x = x / unit
    size = float(norm.value(x))
    intercept = (
        label_sum / hessian.label_curvature
        - hessian.label_row[:-1] @ (x - coef)
        + hessian.label_row[-1] * (eps * size - level)
    )
    return ModelStep(x, float(intercept), outer * size, settled)


@dataclass(frozen=True)
class _Model:
    r"""A model in the coefficients x alone.

    At x, of penalty :math:`\nu = \epsilon \|x\|`, the weights have

    .. math:: Z^T a' = p = p_0 - A x + k \nu, \qquad \sum_i a'_i = \rho = \rho_0 - k \cdot x +
        \kappa \nu,

    and x is optimal where p is in :math:`\epsilon \rho\, \partial \|x\|`. On a face where the norm
    is :math:`s \cdot x` that is the linear system

    .. math:: (A - \epsilon (k s^T + s k^T) + \epsilon^2 \kappa\, s s^T)\, x = p_0 - \epsilon \rho_0
        s.

    Attributes
    ----------
    eps : float
    norm : LpNorm
    seen : ndarray of shape (f,), bool
        Whether each coefficient is in the norm.
    A : ndarray of shape (f, f)
    k : ndarray of shape (f,)
    kappa : float
    p0 : ndarray of shape (f,)
    rho0 : float
    diagonal : ndarray of shape (f,)
        The diagonal of A: the units in which changes of x are measured.
    """

    eps: float
    norm: LpNorm
    seen: np.ndarray
    A: np.ndarray
    k: np.ndarray
    kappa: float
    p0: np.ndarray
    rho0: float
    diagonal: np.ndarray

    def minimiser(self, x: np.ndarray, max_faces: int) -> tuple[np.ndarray, bool]:
        """The minimiser, and whether the search for it ended; x is the first guess."""
        if self.eps == 0:
            return self.solve(self.factor(self.A, self.k, x, 0.0, None), self.p0), True
        unpenalised = self._unpenalised_minimiser()
        if self.alike:
            p, bound = self.p0, self.eps * self.rho0
        else:
            p, bound, _ = self.weighted_sum(unpenalised)
        if self.dual_size(p) <= bound:
            return unpenalised, True
        if self.norm.p == 1:
            return self._on_faces(_SignFaces(self), x, max_faces)
        if self.norm.p == math.inf:
            return self._on_faces(_TieFaces(self), x, max_faces)
        steps = max_faces // _FACES_A_STEP if self.norm.p == 2 else _STEPS_A_FACE * max_faces
        return _SmoothNorm(self).minimiser(x, unpenalised, steps)

    def _on_faces(self, faces: _Faces, x: np.ndarray, max_faces: int) -> tuple[np.ndarray, bool]:
        """The active-set method, from x."""
        found = self._pivoted(faces, faces.read(x))
        if found is not None:
            return found, True
        value = float(self.value(x))
        face = np.empty(0)
        exact = False
        for _ in range(max_faces):
            last, face = face, faces.read(x)
            if exact and np.array_equal(face, last):
                return x, True
            target, _ = faces.solve(face)
            ahead = partial(_clipped, x, target, partial(faces.clip, face))
            moved, value = self.downhill(x, ahead, value)
            if moved is x:  # and would be again
                break
            exact = np.array_equal(moved, target)
            x = moved
        return x, False

    def _pivoted(self, faces: _Faces, face: np.ndarray) -> np.ndarray | None:
        """The minimiser by block principal pivoting: from face to face, each with all the changes
        that the minimiser on the plane of the last one asks for; None where it comes to no end.
        """
        fewest, patience = len(face) + 1, _BLOCK_ROUNDS
        while patience > 0 and face.any():
            try:
                target, size = faces.solve(face)
            except LinAlgError:
                return None
            moved = faces.pivot(face, target, size)
            changes = int(np.count_nonzero(moved != face))
            if not changes:
                return target
            if changes < fewest:
                fewest, patience = changes, _BLOCK_ROUNDS
            else:
                patience -= 1
            face = moved
        return None

    @cached_property
    def alike(self) -> bool:
        """Whether all coefficients are in the norm."""
        return bool(self.seen.all())

    def _unpenalised_minimiser(self) -> np.ndarray:
        """The minimiser over the coefficients outside the norm; zero where there are none."""
        x = np.zeros_like(self.p0)
        if not self.alike:
            free = np.flatnonzero(~self.seen)
            nothing = np.zeros(len(free))
            factor = self.factor(self.A[np.ix_(free, free)], self.k[free], nothing, 0.0, None)
            x[free] = self.solve(factor, self.p0[free])
        return x

    def value(self, x: np.ndarray) -> np.ndarray:
        """The model at x (..., f), less its value at zero: (...)."""
        nu = self.eps * self.size(x)
        quadratic = 0.5 * (x @ self.A) - self.p0
        quadratic -= nu[..., None] * self.k
        return np.vecdot(quadratic, x) + nu * (0.5 * self.kappa * nu + self.rho0)

    def size(self, x: np.ndarray) -> np.ndarray:
        """The norm of x, (..., f) -> (...)."""
        x = x if self.alike else self.seen * x
        if self.norm.p == 1:
            return np.abs(x).sum(axis=-1)
        if self.norm.p == math.inf:
            return np.abs(x).max(axis=-1)
        return np.sqrt(np.vecdot(x, x)) if self.norm.p == 2 else self.norm.value(x)

    def dual_size(self, p: np.ndarray) -> float:
        """The dual norm of p, (f,)."""
        p = p if self.alike else self.seen * p
        return math.sqrt(p @ p) if self.norm.p == 2 else float(self.norm.dual.value(p))

    def part(self, columns: np.ndarray) -> np.ndarray:
        """A copy of A on some columns."""
        return self.A[columns[:, None], columns]

    def weighted_sum(
        self, x: np.ndarray, size: float | None = None
    ) -> tuple[np.ndarray, float, float]:
        """p and eps rho of the weights at x; and the norm of x, where another is not given."""
        size = float(self.size(x)) if size is None else size
        nu = self.eps * size
        p = self.p0 - self.A @ x + nu * self.k
        return p, self.eps * (self.rho0 - self.k @ x + self.kappa * nu), size

    def downhill(
        self, x: np.ndarray, ahead: Callable[[np.ndarray], np.ndarray], value: float
    ) -> tuple[np.ndarray, float]:
        """The least point of the model among shares of a step, and its value; x where all raise it.

        The whole step is taken where no other is lower by more than rounding.
        """
        rounding = _VALUE_ROUNDING * abs(value)
        shares = _SHARES
        while True:
            points = ahead(shares)
            values = self.value(points)
            least = int(np.argmin(values))
            if values[0] <= values[least] + rounding:
                least = 0
            if values[least] <= value + rounding:
                return points[least], float(values[least])
            shares = shares * shares[-1]
            if shares[0, 0] < _LEAST_SHARE:
                return x, value

    def factor(
        self,
        A: np.ndarray,
        k: np.ndarray,
        slope: np.ndarray,
        norm_curvature: float,
        ratio: np.ndarray | None,
    ) -> np.ndarray:
        """Cholesky factor of the model's Hessian where the norm has gradient s = slope.

        That is A - eps (k s^T + s k^T) + eps^2 kappa s s^T + h (diag(ratio) - s s^T), the last term
        with h = norm_curvature the norm's own Hessian times eps rho.
        """
        across = 0.5 * (self.eps**2 * self.kappa - norm_curvature) * slope - self.eps * k
        # a copy, of which one triangle counts
        matrix = blas.dsyr2(1.0, slope, across, a=A.T, lower=1)
        if ratio is not None:
            matrix.T.flat[:: len(A) + 1] += norm_curvature * ratio
        factor, info = lapack.dpotrf(matrix, lower=1, overwrite_a=1)
        if info != 0:
            raise LinAlgError(_NOT_DEFINITE)
        return factor

    @staticmethod
    def solve(factor: np.ndarray, right: np.ndarray) -> np.ndarray:
        """The solution of the system with this Cholesky factor."""
        return lapack.dpotrs(factor, right, lower=1)[0]


class _Faces(Protocol):
    """The faces of a polyhedral norm, each an array of signs (f,)."""

    def read(self, x: np.ndarray) -> np.ndarray:
        """The face on which the search goes on from x."""
        ...

    def solve(self, face: np.ndarray) -> tuple[np.ndarray, float]:
        """The minimiser of the model on the plane of a face, and the norm there, which is linear on
        the plane.
        """
        ...

    def clip(self, face: np.ndarray, moved: np.ndarray) -> np.ndarray:
        """Points of the plane of a face (..., f), moved back to the face."""
        ...

    def pivot(self, face: np.ndarray, target: np.ndarray, size: float) -> np.ndarray:
        """The face after the changes that the minimiser on its plane asks for; the same face where
        this is the minimiser of the model.
        """
        ...


@dataclass(frozen=True)
class _SignFaces:
    """The l1 norm: the nonzero coordinates and their signs, s = sign(x) there."""

    model: _Model

    def read(self, x: np.ndarray) -> np.ndarray:
        """The signs of x; at zeros the sign of p_j where it exceeds its bound, |p_j| > eps rho."""
        model = self.model
        p, bound, _ = model.weighted_sum(x)
        leaves = np.abs(p) > bound * model.seen * (1 + _BOUND_ROUNDING)
        return np.where(x != 0, np.sign(x), np.where(leaves, np.sign(p), 0.0))

    def solve(self, face: np.ndarray) -> tuple[np.ndarray, float]:
        """The minimiser over the nonzero coordinates."""
        model = self.model
        free = np.flatnonzero(face)
        slope = face[free] if model.alike else model.seen[free] * face[free]
        across = (0.5 * model.eps**2 * model.kappa) * slope - model.eps * model.k[free]
        matrix = blas.dsyr2(1.0, slope, across, a=model.part(free).T, lower=1, overwrite_a=1)
        found = _solved(matrix, model.p0[free] - (model.eps * model.rho0) * slope)
        target = np.zeros_like(face)
        target[free] = found
        return target, float(slope @ found)

    def clip(self, face: np.ndarray, moved: np.ndarray) -> np.ndarray:
        """A coordinate that would change its sign stops at 0."""
        return np.where((moved * face > 0) | ~self.model.seen, moved, 0.0)

    def pivot(self, face: np.ndarray, target: np.ndarray, size: float) -> np.ndarray:
        """Coordinates of the wrong sign leave, and zeros beyond their bound enter."""
        model = self.model
        p, bound, _ = model.weighted_sum(target, size)
        stays = (target * face > 0) | ~model.seen
        enters = (face == 0) & (np.abs(p) > bound * model.seen * (1 + _BOUND_ROUNDING))
        return np.where(enters, np.sign(p), np.where(stays, face, 0.0))


@dataclass(frozen=True)
class _TieFaces:
    """The maximum norm: the coordinates tied at the largest size, and their signs.

    With x = t ties + (the free coordinates) the norm is t: s is 1 for t and 0 for the others.
    """

    model: _Model

    def read(self, x: np.ndarray) -> np.ndarray:
        """The signs of the coordinates tied at the largest size that do not shrink.

        A tied coordinate shrinks where its weighted sum has the opposite sign.
        """
        model = self.model
        p, _, size = model.weighted_sum(x)
        tied = model.seen & (np.abs(x) >= size * (1 - _TIE_ROUNDING))
        ties = np.where(tied, np.sign(x) if size > 0 else np.sign(p), 0.0)
        inward = ties * p < self._slack
        if inward.sum() < np.count_nonzero(ties):
            ties[inward] = 0.0
        return ties

    def solve(self, face: np.ndarray) -> tuple[np.ndarray, float]:
        """The minimiser over t and the free coordinates."""
        model, eps = self.model, self.model.eps
        free = np.flatnonzero(face == 0)
        sums = self._rows @ face
        across, (k, p0) = sums[:-2], sums[-2:].tolist()
        matrix, right = np.empty((len(free) + 1,) * 2), np.empty(len(free) + 1)
        matrix[0, 0] = float(face @ across) - 2 * eps * k + eps**2 * model.kappa
        matrix[0, 1:] = across[free] - eps * model.k[free]
        matrix[1:, 1:] = model.part(free)
        right[0], right[1:] = p0 - eps * model.rho0, model.p0[free]
        found = _solved(matrix.T, right)
        target = found[0] * face
        target[free] = found[1:]
        return target, float(found[0])

    def clip(self, face: np.ndarray, moved: np.ndarray) -> np.ndarray:
        """No free coordinate grows beyond t."""
        level = np.maximum(np.max(moved * face, axis=-1, keepdims=True), 0.0)
        inside = np.minimum(np.maximum(moved, -level), level)
        if not self.model.alike:
            inside = np.where(self.model.seen, inside, moved)
        return np.where(face != 0, level * face, inside)

    def pivot(self, face: np.ndarray, target: np.ndarray, size: float) -> np.ndarray:
        """Tied coordinates that shrink become free, and free ones beyond the level tied."""
        model = self.model
        p, _, _ = model.weighted_sum(target, size)
        beyond = (face == 0) & (np.abs(target) > max(size, 0.0) * (1 + _TIE_ROUNDING))
        if not model.alike:
            beyond &= model.seen
        moved = np.where(face * p < self._slack, 0.0, face)
        return np.where(beyond, np.sign(target), moved)

    @cached_property
    def _rows(self) -> np.ndarray:
        """The rows of A, k and p0."""
        return np.vstack([self.model.A, self.model.k, self.model.p0])

    @cached_property
    def _slack(self) -> np.ndarray:
        """The rounding of weighted sums, below zero."""
        return -_BOUND_ROUNDING * np.abs(self.model.p0)


@dataclass(frozen=True)
class _SmoothNorm:
    """Newton's method for 1 < q < inf, where the norm is smooth but at zero.

    It keeps its Cholesky factor while it converges fast.
    """

    model: _Model

    def minimiser(
        self, x: np.ndarray, unpenalised: np.ndarray, max_steps: int
    ) -> tuple[np.ndarray, bool]:
        """The minimiser, and whether the search for it ended."""
        model = self.model
        value = float(model.value(x))
        # no better than where the norm is zero and has no curvature
        at_zero = 0.0 if model.alike else float(model.value(unpenalised))
        if model.size(x) == 0 or value >= at_zero:
            x = self._along_steepest_ray(unpenalised)
            value = float(model.value(x))
        factor: np.ndarray | None = None
        root = np.sqrt(model.diagonal)
        last = math.inf
        stalled = 0
        for _ in range(max_steps):
            fresh = factor is None
            factor, ahead = self._step(x, factor)
            whole = ahead(_SHARES[:1])[0]
            before = value
            moved, reached = root * (whole - x), root * x
            reach = float(reached @ reached)
            change = math.sqrt(float(moved @ moved) / reach) if reach > 0 else math.inf
            x, value = model.downhill(x, ahead, value)
            if change <= (_CONVERGES if fresh and model.norm.p == 2 else _CONVERGED):
                return x, True
            still = before - value <= _CONVERGED * abs(value)
            stalled += still and not np.array_equal(x, whole)
            if stalled > _STALLS:
                break
            if change > _SLOW * last or len(x) <= _CHEAP_FACTOR:
                factor = None
            last = change
        return x, False

    def _step(
        self, x: np.ndarray, factor: np.ndarray | None
    ) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]:
        """Newton's step from x on p = eps rho u, u the norm's gradient.

        Returns the factor, renewed if it is None, and the points at shares of the step.
        """
        model, norm = self.model, self.model.norm
        p, pressure, size = model.weighted_sum(x)
        seen = x if model.alike else model.seen * x
        slope = norm.dual.steepest_direction(seen) if norm.p != 2 else seen / size
        # eps rho and ||p||_q agree at the minimiser
        weight = max(pressure, _LEAST_PRESSURE * model.dual_size(p))
        if factor is None:
            ratio = model.seen
            if norm.p != 2:
                ratio = ratio * np.maximum(np.abs(seen) / size, _LEAST_RATIO) ** (norm.p - 2)
            norm_curvature = (norm.p - 1) * weight / size
            factor = model.factor(model.A, model.k, slope, norm_curvature, ratio)
        residual = p - pressure * slope
        step = model.solve(factor, residual)
        if norm.p == 2:
            return factor, partial(_straight, x, step)
        # the residual after the step, to first order, without the turn of the gradient
        growth = model.eps * float(slope @ step)
        residual += (
            growth * model.k
            - model.A @ step
            - model.eps * float(model.kappa * growth - model.k @ step) * slope
        )
        turn, relative = model.seen * residual / weight, model.seen * p / weight
        return factor, partial(self._on_curve, x, step, slope, turn, relative)

    def _along_steepest_ray(self, unpenalised: np.ndarray) -> np.ndarray:
        """The minimiser on the steepest ray, in the norm, from the unpenalised minimiser.

        On this ray the model is quadratic.
        """
        model = self.model
        p, bound, _ = model.weighted_sum(unpenalised)
        ray = model.norm.steepest_direction(model.seen * p)
        terms = ray @ model.A @ ray, model.eps**2 * model.kappa, -2 * model.eps * (model.k @ ray)
        ray_curvature = max(sum(terms), np.finfo(float).eps * sum(abs(term) for term in terms))
        if ray_curvature == 0:
            raise LinAlgError("The model has no curvature.")
        return unpenalised + (p @ ray - bound) / ray_curvature * ray

    def _on_curve(
        self,
        x: np.ndarray,
        step: np.ndarray,
        slope: np.ndarray,
        turn: np.ndarray,
        weighted_sum: np.ndarray,
        shares: np.ndarray,
    ) -> np.ndarray:
        """The points (m, f) at shares (m, 1) of a curve along which the norm's gradient u turns as
        in Newton's method.

        With r = x / ||x||, |u_j| = |r_j|^(q*-1). Where q is large, u_j is undetermined while r_j is
        next to zero; where q is next to 1, r_j is undetermined while u_j is. Their sum s moves
        straight, and r follows from it: the step of Newton's method to first order, and far from
        the minimiser that of an active-set method.
        """
        seen, norm = self.model.seen, self.model.norm
        size = float(self.model.size(x))
        growth = float(slope @ step)
        r = seen * x / size
        s = r + slope
        ahead = s + (seen * step - growth * r) / size + turn
        # a coordinate that would leave zero starts where it is about to
        corner = _CORNER ** (norm.p - 1)
        rises = (np.sign(ahead) * weighted_sum > corner) & (np.abs(ahead) > corner)
        s = np.where((np.abs(s) < corner) & rises, np.sign(ahead) * corner, s)
        s = s + shares * (ahead - s)
        r = np.sign(s) * _split_sum(np.abs(s), norm.p)
        new_size = np.maximum(size + shares * growth, _MOST_SHRINKAGE * size)
        return np.where(seen, r * (new_size / norm.value(r)[:, None]), x + shares * step)


def _solved(matrix: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The solution of a system, of whose matrix one triangle counts; both may be overwritten."""
    solution: np.ndarray
    solution, info = lapack.dposv(matrix, right, lower=1, overwrite_a=1, overwrite_b=1)[1:]
    if info != 0:
        raise LinAlgError(_NOT_DEFINITE)
    return solution


def _straight(x: np.ndarray, step: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """The points at shares (m, 1) of a step, (m, f)."""
    return x + shares * step


def _clipped(x: np.ndarray, target: np.ndarray, clip: _Clip, shares: np.ndarray) -> np.ndarray:
    """The points at shares (m, 1) of the way to a target, on the face, (m, f)."""
    points = x + shares * (target - x)
    points[shares[:, 0] == 1] = target
    return clip(points)


def _split_sum(s: np.ndarray, p: float) -> np.ndarray:
    """The r >= 0 with r + r^(p-1) = s >= 0, by Newton's method in log r.

    log(r + r^(p-1)) = log s is convex and increasing in log r, and the start lies above the root.
    """
    log_s = np.log(np.maximum(s, np.finfo(float).tiny))
    level = np.minimum(log_s, log_s / (p - 1))
    for _ in range(_MAX_SUM_STEPS):
        error = np.logaddexp(level, (p - 1) * level) - log_s
        share = expit((2 - p) * level)  # r / (r + r^(p-1))
        moved = level - np.maximum(error, 0) / (share + (1 - share) * (p - 1))
        if np.all(moved >= level - 4 * np.finfo(float).eps * (1 + np.abs(level))):
            break
        level = moved
    return np.where(s > 0, np.exp(level), 0.0)
