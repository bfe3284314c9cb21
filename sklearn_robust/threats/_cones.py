r"""The algebra of sets in cones: multiples, boxes, sums, hulls of unions, intersections.

A set is :math:`\{x : \exists s,\ h - E x - F s \in K\}`. The *program* of a set that is not convex
are rows, and which of the s are integers, 0 or 1; without that they are the rows of the hull.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import sparse

from sklearn_robust._documentation import see
from sklearn_robust.threats._interface import ConicSet


def scaled_cones(rows: Any, radius: float) -> ConicSet:
    """The rows of a set times a radius."""
    E, F, h, cones = rows
    return ConicSet(E, F, radius * np.asarray(h), cones)


def box_rows(lower: np.ndarray, upper: np.ndarray) -> ConicSet:
    """The rows of lower <= x <= upper, of shape (d,), in cones; infinite bounds have none."""
    fixed = (lower == 0) & (upper == 0)
    above = np.flatnonzero(~fixed & (upper < math.inf))
    below = np.flatnonzero(~fixed & (lower > -math.inf))
    still = np.flatnonzero(fixed)
    unit = sparse.eye_array(len(lower), format="csr")
    E = sparse.vstack([unit[above], -unit[below], unit[still]], format="csr")
    h = np.concatenate([upper[above], -lower[below], np.zeros(len(still))])
    cones = [("nonnegative", len(above) + len(below)), ("zero", len(still))]
    return ConicSet(E, sparse.csr_array((len(h), 0)), h, cones)


def ball_rows(q: float, eps: float, scale: np.ndarray) -> ConicSet:
    r"""The rows of :math:`\|x / s\|_q \le \epsilon` for q in {1, 2, inf}, with x_j = 0 where s_j is
    0.
    """
    rows = sparse.eye_array(len(scale), format="csr")
    free, fixed = np.flatnonzero(scale > 0), np.flatnonzero(scale == 0)
    moved, s = rows[free], scale[free]
    n = len(free)
    nothing = np.zeros(n)
    if q == math.inf:
        E, F = sparse.vstack([moved, -moved]), sparse.csr_array((2 * n, 0))
        h, cone = eps * np.concatenate([s, s]), ("nonnegative", 2 * n)
    elif q == 2:
        E = sparse.vstack([sparse.csr_array((1, len(scale))), sparse.diags_array(1 / s) @ moved])
        F = sparse.csr_array((n + 1, 0))
        h, cone = np.append(eps, nothing), ("second_order", n + 1)
    else:
        bound = sparse.eye_array(n)
        E = sparse.vstack([moved, -moved, sparse.csr_array((1, len(scale)))])
        F = sparse.vstack([-bound, -bound, sparse.csr_array(1 / s[None])])
        h, cone = np.concatenate([nothing, nothing, [eps]]), ("nonnegative", 2 * n + 1)
    if len(fixed) == 0:
        return ConicSet(E, F, h, [cone])
    F = sparse.vstack([F, sparse.csr_array((len(fixed), F.shape[1]))])
    h = np.append(h, np.zeros(len(fixed)))
    return ConicSet(sparse.vstack([E, rows[fixed]]), F, h, [cone, ("zero", len(fixed))])


def sum_of(parts: Sequence[ConicSet]) -> ConicSet:
    """The sum of sets: x = x_1 + x_2 + .., where x_2, .. and then the s of each set are its s."""
    d, others = parts[0].E.shape[1], len(parts) - 1
    of_parts = sparse.block_diag([sparse.csr_array(part.E) for part in parts], format="csr")
    unit = sparse.eye_array(d * others)
    first = sparse.hstack([-sparse.eye_array(d)] * others) if others else sparse.csr_array((d, 0))
    F = sparse.block_diag([sparse.csr_array(part.F) for part in parts], format="csr")
    return ConicSet(
        of_parts[:, :d],
        sparse.hstack([of_parts @ sparse.vstack([first, unit]), F], format="csr"),
        np.concatenate([np.asarray(part.h) for part in parts]),
        [cone for part in parts for cone in part.cones],
    )


def hull_of(parts: Sequence[ConicSet]) -> ConicSet:
    r"""The hull of the union of sets: x is the sum of :math:`x_k` in :math:`\theta_k` times each,
    with :math:`\theta \ge 0` of sum 1, the last s.
    """
    E, F, h, cones = sum_of(parts)
    m, d = len(parts), E.shape[1]
    sizes = sparse.block_diag([sparse.csr_array(part.h[:, None]) for part in parts], format="csr")
    shares = np.vstack([np.ones((1, m)), -np.eye(m)])
    F = sparse.block_array([[F, -sizes], [None, sparse.csr_array(shares)]], format="csr")
    E = sparse.vstack([E, sparse.csr_array((m + 1, d))], format="csr")
    h = np.concatenate([0 * h, [1.0], np.zeros(m)])
    return ConicSet(E, F, h, [*cones, ("zero", 1), ("nonnegative", m)])


def stacked(parts: Sequence[ConicSet]) -> ConicSet:
    """The intersection of sets: the rows of all, each with its s."""
    return ConicSet(
        sparse.vstack([sparse.csr_array(part.E) for part in parts], format="csr"),
        sparse.block_diag([sparse.csr_array(part.F) for part in parts], format="csr"),
        np.concatenate([np.asarray(part.h) for part in parts]),
        [cone for part in parts for cone in part.cones],
    )


def program_of(threat: Any) -> tuple[ConicSet, np.ndarray]:
    """The set itself in cones and integers, of which `conic` is the hull."""
    if hasattr(threat, "program"):
        rows, integer = threat.program()
        return rows, integer
    if not hasattr(threat, "conic") or not getattr(threat, "convex", True):
        raise ValueError(
            f"An intersection needs conic of the sets in it, which {threat!r} does not offer: use "
            f"boxes, l_q balls of q = 1, 2 or inf, or sets that have it."
            f" {see('guide/adversaries')}"
        )
    rows = ConicSet(*threat.conic())
    return rows, np.zeros(rows.F.shape[1], dtype=bool)


def intersected(parts: Sequence[Any]) -> tuple[ConicSet, np.ndarray]:
    """The intersection of threats in cones and integers."""
    programs = [program_of(part) for part in parts]
    integer = np.concatenate([whole for _, whole in programs])
    return stacked([rows for rows, _ in programs]), integer
