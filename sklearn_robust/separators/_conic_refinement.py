r"""Newton's method on the optimality conditions of a conic program, from a solver's answer.

With :math:`s = A x + b` in a cone and multipliers z in its dual, :math:`v = z / \tau - s` holds
both: :math:`z = \tau \Pi(v)` and :math:`s = \Pi(v) - v` with the projection :math:`\Pi` on the
dual. Then

.. math:: P x + c - \tau A^T \Pi(v) = 0, \quad A x + b + v - \Pi(v) = 0

are equations in (x, v), smooth but for the faces of the cones. A row of a linear cone is an
equation where it carries a multiplier, and drops out where it does not: one sparse system serves
linear, quadratic, second-order cone and semidefinite programs.

Notes
-----
E. Busseti, W. Moursi and S. Boyd, Solution refinement at regular points of conic problems,
Computational Optimization and Applications 74 (2019).
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import MatrixRankWarning, splu

from sklearn_robust._clarabel import Cone, n_rows
from sklearn_robust._conic_programs import ConicProgram
from sklearn_robust.separators._max_margin_form import Vector

_LINEAR = ("zero", "nonnegative")
_SERVED = (*_LINEAR, "second_order", "semidefinite")
_MAX_UNKNOWNS = 30_000  # larger systems are not solved
_MAX_BLOCK_ENTRIES = 5_000_000  # entries of the blocks of cones that are not linear at most
_FARTHEST = 1e50  # length of a step, relative to v, from which the system counts as singular
# added to the diagonal: the system then has a solution where faces do not determine the point;
# later steps correct the error
_RIDGE = 1e-6
_CORRECTIONS = 3  # residuals for which the factor is used again


def serves(conic: ConicProgram) -> bool:
    """Whether the cones are linear, of second order, or of semidefinite matrices of moderate
    order.
    """
    semidefinite = (n_rows(*cone) ** 2 for cone in conic.cones if cone[0] == "semidefinite")
    served = all(kind in _SERVED for kind, _ in conic.cones)
    return served and sum(semidefinite) <= _MAX_BLOCK_ENTRIES


def newton_step(conic: ConicProgram, x: Vector, z: Vector) -> tuple[Vector, Vector] | None:
    """One Newton step from a point x and multipliers z of a program.

    Returns
    -------
    tuple or None
        x and z; None where the system is singular or too large. The step may lead away from the
        solution: the caller judges it.
    """
    squares, c, A, b = conic.arrays()
    s = A @ x + b
    tau = np.abs(z).max() / max(np.abs(s).max(), np.finfo(np.float64).tiny)
    if not tau > 0:
        return None
    v = z / tau - s
    projected, jacobian, kept = _projection(conic.cones, v)
    n_unknowns = len(x) + len(kept)
    if n_unknowns > _MAX_UNKNOWNS or jacobian.nnz > _MAX_BLOCK_ENTRIES:
        return None
    # rows without a multiplier drop out
    A_kept, of_kept = A[kept], jacobian[kept][:, kept]
    system = sparse.block_array(
        [
            [sparse.diags_array(squares / tau), -A_kept.T @ of_kept],
            [A_kept, sparse.eye_array(len(kept)) - of_kept],
        ],
        format="csc",
    )
    slope = (squares * x + c) / tau - A.T @ projected
    step = _solve(system, -np.concatenate([slope, (s + v - projected)[kept]]))
    if step is None:
        return None
    moved = np.zeros_like(v)
    moved[kept] = v[kept] + step[len(x) :]
    if not np.abs(moved).max(initial=0.0) <= _FARTHEST * np.abs(v).max():
        return None
    return x + step[: len(x)], tau * _projection(conic.cones, moved)[0]


def _projection(cones: list[Cone], v: Vector) -> tuple[Vector, Any, NDArray[np.intp]]:
    """The projection of v on the dual cones, its Jacobian, and the rows that it leaves."""
    projected, diagonal = np.zeros_like(v), np.zeros_like(v)
    blocks: list[tuple[slice, Vector]] = []
    kept = np.zeros(len(v), dtype=bool)
    start = 0
    for kind, size in cones:
        at = slice(start, start + n_rows(kind, size))
        start = at.stop
        if kind == "zero":
            projected[at], diagonal[at] = v[at], 1.0
            kept[at] = True
        elif kind == "nonnegative":
            kept[at] = v[at] > 0
            projected[at], diagonal[at] = np.maximum(v[at], 0), kept[at]
        else:
            project = _second_order if kind == "second_order" else _semidefinite
            projected[at], block = project(v[at])
            kept[at] = block is not None
            if block is not None:
                blocks.append((at, block))
    rows = [np.arange(at.start, at.stop) for at, _ in blocks]
    if not rows:
        return projected, sparse.csr_array(sparse.diags_array(diagonal)), np.flatnonzero(kept)
    row = np.concatenate([np.repeat(place, len(place)) for place in rows])
    column = np.concatenate([np.tile(place, len(place)) for place in rows])
    entries = np.concatenate([block.ravel() for _, block in blocks])
    jacobian = sparse.csr_array((entries, (row, column)), shape=(len(v), len(v)))
    return projected, jacobian + sparse.diags_array(diagonal), np.flatnonzero(kept)


def _second_order(v: Vector) -> tuple[Vector, Vector | None]:
    """The projection on the second-order cone, and its Jacobian; None where it is 0."""
    size = float(np.linalg.norm(v[1:]))
    if size <= v[0]:
        return v.copy(), np.eye(len(v))
    if size <= -v[0]:
        return np.zeros_like(v), None
    u = v[1:] / size
    share = v[0] / size
    projected = 0.5 * (v[0] + size) * np.concatenate([[1.0], u])
    jacobian = np.empty((len(v), len(v)))
    jacobian[0, 0] = 1.0
    jacobian[0, 1:] = jacobian[1:, 0] = u
    jacobian[1:, 1:] = (1 + share) * np.eye(len(u)) - share * np.outer(u, u)
    return projected, 0.5 * jacobian


def _semidefinite(v: Vector) -> tuple[Vector, Vector | None]:
    r"""The projection on the semidefinite matrices, and its Jacobian; None where it is 0.

    With eigenvalues :math:`\lambda` and eigenvectors Q the derivative in the direction H is
    :math:`Q (\Omega \circ Q^T H Q) Q^T`, :math:`\Omega_{ij} = (\lambda_i^+ - \lambda_j^+) /
    (\lambda_i - \lambda_j)`.
    """
    order = round((math.sqrt(8 * len(v) + 1) - 1) / 2)
    # the upper triangle column by column, with entries off the diagonal times the root of 2
    j, i = np.tril_indices(order)
    root = np.where(i == j, 1.0, math.sqrt(2))
    matrix = np.zeros((order, order))
    matrix[i, j] = matrix[j, i] = v / root
    values, Q = np.linalg.eigh(matrix)
    positive = np.maximum(values, 0)
    if not positive.any():
        return np.zeros_like(v), None
    projected = root * ((Q * positive) @ Q.T)[i, j]
    # the coordinates of the matrices q_k q_l^T, symmetrised, for k <= l
    basis = Q[i][:, i] * Q[j][:, j] + Q[i][:, j] * Q[j][:, i]
    basis *= root[:, None] * root / 2
    gaps = values[i] - values[j]
    far = np.abs(gaps) > np.finfo(np.float64).eps * np.abs(values).max()
    rates = np.where(far, (positive[i] - positive[j]) / np.where(far, gaps, 1.0), values[i] > 0)
    return projected, (basis * rates) @ basis.T


def _solve(system: Any, goal: Vector) -> Vector | None:
    """The solution of the system by its factor with a ridge, corrected by residuals; None where it
    is singular.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", MatrixRankWarning)
            factor = splu(sparse.csc_array(system + _RIDGE * sparse.eye_array(len(goal))))
    except RuntimeError:  # exactly singular
        return None
    step = factor.solve(goal)
    for _ in range(_CORRECTIONS):
        step = step + factor.solve(goal - system @ step)
    return step if np.isfinite(step).all() else None
