r"""Newton's method on the optimality conditions: from a solver's answer to one that is exact up to rounding.

At the solution of the margin program the rows that carry weight have one margin :math:`\gamma`, and w lies on a face of the
norms: a 1-norm holds coordinates at zero, a maximum norm ties coordinates in absolute value. On that face, :math:`w = B\theta`,
both norms are smooth, and for the active rows the optimality conditions are equations,

.. math::

    B^T \big( \gamma \nabla \tfrac12 \|w\|_p^2 + \epsilon \nabla \|w\|_{q^*} - Z^T a \big) = 0, \quad y^T a = 0, \quad
    z_i \cdot w + y_i b - \epsilon \|w\|_{q^*} = \gamma.

One linear system then serves linear, quadratic and cone programs alike.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import splu

from sklearn_robust.norms import LpNorm
from sklearn_robust.separators._margin_program import MarginProgram, PrimalDual, Vector, best_intercept

_REGULARISATION = 1e-11  # solves the system where rows repeat or the face leaves a freedom; repeated steps correct for it
_LEAST_ENTRY = 1e-12  # smaller entries, relative to the largest, count as this large in the curvature of a norm


def newton_step(program: MarginProgram, point: PrimalDual) -> PrimalDual | None:
    """One Newton step on the face that a point lies next to.

    Parameters
    ----------
    program : MarginProgram
    point : PrimalDual
        Of any scale; its weights are feasible (>= 0, of sum 1, and of equal class sums with an intercept).

    Returns
    -------
    PrimalDual or None
        None where the point has no margin, and so no face to step on, or where the system is singular. The step may lead
        away: only its certificate tells.
    """
    norm, toll = LpNorm(program.p), LpNorm(program.dual_q)
    a = point.weights
    pull = program.rows.T @ a
    left = toll.dual.residual(pull, program.eps, norm.dual)  # what the adversary leaves of Z^T a
    distance = norm.dual.value(left)
    if distance == 0 or not point.coef.any():
        return None

    # The weights imply subgradients of both norms, which choose the face, and w itself where the norm p is smooth
    w = norm.steepest_direction(left) if 1 < program.p < math.inf else point.coef
    faces = [(program.p, left / distance)]
    if program.eps > 0:
        faces.append((program.dual_q, (pull - left) / program.eps))
    B = _face(w, faces)
    w = B @ ((B.T @ w) / abs(B).sum(axis=0))
    if not w.any():
        return None
    w = w / norm.value(w)

    scores = program.rows @ w
    if program.labels is not None:
        scores = scores + program.labels * best_intercept(scores, program.labels)
    margins = scores - program.eps * toll.value(w)
    gamma = a @ margins
    slack = margins - gamma
    active = np.flatnonzero(a * max(gamma, slack.max()) > slack * a.max())
    if not len(active):
        return None
    labels = None if program.labels is None else program.labels[active]
    on_face = replace(program, rows=program.rows[active], labels=labels)
    step = _solve_conditions(on_face, w, a[active], B, gamma, slack[active])
    if step is None:
        return None
    weights = np.zeros_like(a)
    weights[active] = step.weights
    return PrimalDual(step.coef, weights)


def _solve_conditions(
    program: MarginProgram, w: Vector, a: Vector, B: sparse.csr_array, gamma: float, slack: Vector
) -> PrimalDual | None:
    """Newton's equations at (w, a) for a program of active rows only, on the face that B spans."""
    n = len(a)
    # gamma ||w||_p^2 / 2 + eps ||w||_q*: its gradient, and its curvature as a diagonal plus a rank for each norm
    u, diagonal, shrink = _derivatives(w, LpNorm(program.p))
    gradient, diagonal, directions, sizes = gamma * u, gamma * diagonal, [u], [gamma * (1 - shrink)]
    slope = np.zeros_like(w)
    if program.eps > 0:
        v, curvature, shrink = _derivatives(w, LpNorm(program.dual_q))
        slope, weight = program.eps * v, program.eps * a.sum()
        gradient, diagonal = gradient + a.sum() * slope, diagonal + weight * curvature
        directions.append(v)
        sizes.append(-weight * shrink)
    gradient = B.T @ (gradient - program.rows.T @ a)
    H = B.T @ sparse.diags_array(diagonal) @ B
    U = sparse.csr_array(B.T @ np.stack(directions, axis=1))[:, np.array(sizes) != 0]
    J = sparse.csr_array(program.rows @ B) - sparse.csr_array(np.outer(np.ones(n), B.T @ slope))
    if program.labels is not None:  # the intercept is one more unknown
        gradient = np.append(gradient, -program.labels @ a)
        H = sparse.block_diag([H, np.zeros((1, 1))])
        U = sparse.vstack([U, sparse.csr_array((1, U.shape[1]))])
        J = sparse.hstack([J, program.labels[:, None]])

    H = H + _REGULARISATION * sparse.eye_array(H.shape[0])
    inverse = sparse.diags_array([-1 / size for size in sizes if size != 0], shape=(U.shape[1],) * 2)
    soft = -_REGULARISATION * sparse.eye_array(n)
    system = sparse.block_array([[H, U, J.T], [U.T, inverse, None], [J, None, soft]], format="csc")
    try:
        step = splu(system).solve(-np.concatenate([gradient, np.zeros(U.shape[1]), slack]))
    except RuntimeError:  # exactly singular
        return None
    return PrimalDual(w + B @ step[: B.shape[1]], a - step[-n:]) if np.isfinite(step).all() else None


def _face(w: Vector, faces: list[tuple[float, Vector]]) -> sparse.csr_array:
    """B of shape (d, m) for exponents and subgradients at w: a column for each free coordinate, one for all tied ones.

    A coordinate is at zero, or tied, if its subgradient is further from leaving the face than its entry.
    """
    size = np.abs(w) / np.abs(w).max()
    zero, tied = np.zeros(w.shape, dtype=bool), np.zeros(w.shape, dtype=bool)
    for exponent, subgradient in faces:
        strength = np.abs(subgradient)
        if exponent == 1:
            zero |= size <= 1 - strength
        elif exponent == math.inf:
            tied |= strength / strength.max() > 1 - size
    free = ~zero & ~tied
    column = np.cumsum(free) - 1
    column[tied] = free.sum()
    used = np.flatnonzero(~zero)
    entries = np.where(tied, np.sign(w), 1.0)[used]
    shape = (len(w), int(free.sum()) + int((tied & ~zero).any()))
    return sparse.csr_array((entries, (used, column[used])), shape=shape)


def _derivatives(w: Vector, norm: LpNorm) -> tuple[Vector, Vector, float]:
    """Gradient u of a norm on the face of w, and its curvature diag(c) - k u u^T as c and k."""
    u = norm.dual.steepest_direction(w)
    if norm.p in (1, math.inf):
        return u, np.zeros_like(w), 0.0
    size = norm.value(w)
    ratio = np.abs(w) / size
    k = (norm.p - 1) / size
    return u, k * np.maximum(ratio, _LEAST_ENTRY * ratio.max()) ** (norm.p - 2), k
