r"""The worst point of a set in cones, some of whose variables are integers.

The set is :math:`\{x : \exists s,\ h - E x - F s \in K\}` with :math:`s_k \in \{0, 1\}` for some k.
Without integers the worst point is that of one program, linear or over second-order cones. With
them it is found by branch and bound: a program whose solution has a fraction is split in two, in
which that integer is 0 or 1. So is one that its solver does not solve, as where the set is hardly
more than a point; a point that the integers determine needs no solver.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from scipy import sparse

from sklearn_robust._clarabel import SolverFailure, run_clarabel
from sklearn_robust._highs import run_highs
from sklearn_robust.threats._interface import ConicSet

_TOL = 1e-11  # gaps and residuals that clarabel is to reach
_CLARABEL_ITER = 100
_FRACTION = 1e-6  # how far from an integer a number may be that stands for it
_MAX_PROGRAMS = 2000  # programs of a branch and bound; most end after a few
_ROUNDING = 1e-12  # what a point may lack in a cone, relative to its size
_SURE = 1e-9  # gain, relative to the best, below which a branch is not followed


class Program:
    """The worst points of a conic set, some of whose s are integers, 0 or 1.

    Parameters
    ----------
    rows : ConicSet
    integer : bool array of shape (number of s,), optional
        Which s are integers; none by default.
    """

    def __init__(self, rows: ConicSet, integer: np.ndarray | None = None) -> None:
        E, F, h, cones = rows
        self.A = sparse.hstack([sparse.csr_array(E), sparse.csr_array(F)], format="csr")
        self.h = np.asarray(h, dtype=np.float64)
        self.d = E.shape[1]
        self.integer = np.zeros(F.shape[1], dtype=bool) if integer is None else integer
        self.cones = [(kind, size) for kind, size in cones if size]
        self.is_linear = all(kind != "second_order" for kind, _ in self.cones)

    def worst(self, v: np.ndarray, *, bounded: bool = True) -> tuple[np.ndarray, float]:
        r"""A point at which :math:`\langle v, x \rangle` is largest, and that value; the value is
        infinite where there is no bound, and the point then a ray.

        Parameters
        ----------
        v : ndarray of shape (d,)
        bounded : bool
            Whether the set is known to have no ray.

        Raises
        ------
        RuntimeError
            Where a program has no solution that its solver finds, or the branch and bound does not
            end.
        """
        size = float(np.max(np.abs(v), initial=0.0))
        if size == 0:
            return np.zeros(self.d), 0.0
        v = v / size
        ray = None if bounded else self._ray(v)
        if ray is not None:
            return np.where(ray == 0, 0.0, np.copysign(np.inf, ray)), np.inf
        # the fixed integers of the programs to solve, the last first
        waiting: list[dict[int, int]] = [{}]
        best, value = np.zeros(self.d), 0.0  # 0 is in the set
        for _ in range(_MAX_PROGRAMS):
            if not waiting:
                return best, size * value
            fixed = waiting.pop()
            try:
                found = self._solve(v, fixed)
            except SolverFailure:
                rest = [int(k) for k in np.flatnonzero(self.integer) if k not in fixed]
                if not rest:
                    raise
                waiting += [{**fixed, rest[0]: value} for value in (0, 1)]
                continue
            if found is None or found[: self.d] @ v <= value + _SURE * max(value, _SURE):
                continue
            s = found[self.d :]
            fractions = np.where(self.integer, np.abs(s - np.round(s)), 0.0)
            if np.max(fractions, initial=0.0) <= _FRACTION:
                whole = {int(k): round(s[k]) for k in np.flatnonzero(self.integer)}
                exact = self._solve(v, whole) if whole and whole != fixed else found
                if exact is not None and exact[: self.d] @ v > value:
                    best, value = exact[: self.d], float(exact[: self.d] @ v)
                continue
            k = int(np.argmax(fractions))
            near = round(s[k])
            waiting += [{**fixed, k: 1 - near}, {**fixed, k: near}]
        raise RuntimeError(
            f"The worst point of an intersection was not found: the branch and bound over its "
            f"integers has not ended after {_MAX_PROGRAMS} programs. Use fewer changes, or fewer "
            f"features that may change."
        )

    def _ray(self, v: np.ndarray) -> np.ndarray | None:
        """A direction in which the set goes on without end and <v, x> grows; None without one."""
        n = self.A.shape[1]
        unit = sparse.eye_array(n)
        cut = sparse.vstack([self.A, unit, -unit], format="csr")  # the directions, in a box
        rows = ConicSet(
            cut[:, : self.d],
            cut[:, self.d :],
            np.append(np.zeros_like(self.h), np.ones(2 * n)),
            [*self.cones, ("nonnegative", 2 * n)],
        )
        found = Program(rows)._solve(v, {})
        if found is None or found[: self.d] @ v <= 1e-7:
            return None
        ray = found[: self.d]
        return np.where(np.abs(ray) > 1e-9, ray, 0.0)

    def _solve(self, v: np.ndarray, fixed: dict[int, int]) -> np.ndarray | None:
        """The solution (x, s) with some of s fixed; None where there is none."""
        if fixed and len(fixed) == np.sum(self.integer):
            known = self._determined(fixed)
            if known is not None:
                return known if self._holds(known) else None
        loss = np.append(-v, np.zeros(self.A.shape[1] - self.d))
        if self.is_linear:
            return self._linear(loss, fixed)
        A, h = self.A, self.h
        cones = self.cones
        if fixed:
            places = self.d + np.array(list(fixed))
            unit = sparse.eye_array(A.shape[1], format="csr")[places]
            A = sparse.vstack([unit, A])
            h = np.append(np.array(list(fixed.values()), dtype=np.float64), h)
            cones = [("zero", len(fixed)), *cones]
        n = A.shape[1]
        nothing = sparse.csc_array((n, n))
        x, _, status = run_clarabel(nothing, loss, A, h, cones, _TOL, max_iter=_CLARABEL_ITER)
        if "Infeasible" in status and fixed:  # without integers 0 is in the set
            return None
        if status not in ("Solved", "AlmostSolved"):
            raise SolverFailure(f"clarabel: {status}")
        return x

    def _determined(self, fixed: dict[int, int]) -> np.ndarray | None:
        """The point (x, s) where equations of one unknown each determine what is not fixed."""
        known = np.zeros(self.A.shape[1])
        unknown = np.ones(len(known), dtype=bool)
        places = self.d + np.array(list(fixed))
        known[places], unknown[places] = list(fixed.values()), False
        equal = np.concatenate([np.full(size, kind == "zero") for kind, size in self.cones])
        rows, h = self.A[equal], self.h[equal]
        entries = sparse.coo_array(rows[:, unknown])
        lone = np.bincount(entries.row, minlength=len(h)) == 1
        of_lone = lone[entries.row] & (entries.data != 0)
        row, column = entries.row[of_lone], np.flatnonzero(unknown)[entries.col[of_lone]]
        known[column] = (h - rows @ known)[row] / entries.data[of_lone]
        unknown[column] = False
        return None if unknown.any() else known

    def _holds(self, point: np.ndarray) -> bool:
        """Whether a point (x, s) is in the set, up to rounding."""
        slack, start = self.h - self.A @ point, 0
        room = _ROUNDING * (1 + float(np.max(np.abs(point), initial=0.0)))
        for kind, size in self.cones:
            part, start = slack[start : start + size], start + size
            if kind == "zero":
                least = -np.max(np.abs(part))
            elif kind == "nonnegative":
                least = np.min(part)
            else:
                least = part[0] - np.linalg.norm(part[1:])
            if least < -room:
                return False
        return True

    def _linear(self, loss: np.ndarray, fixed: dict[int, int]) -> np.ndarray | None:
        bounds = np.full((len(loss), 2), [-np.inf, np.inf])
        for k, value in fixed.items():
            bounds[self.d + k] = value
        try:
            return np.asarray(run_highs({"c": loss, "bounds": bounds, **self._linear_rows}).x)
        except SolverFailure as failure:
            if "infeasible" in str(failure) and fixed:
                return None
            raise

    @cached_property
    def _linear_rows(self) -> dict[str, Any]:
        """The rows of a set without second-order cones, as `linprog` takes them."""
        equal = np.concatenate(
            [np.full(size, kind == "zero") for kind, size in self.cones] or [np.zeros(0, bool)]
        )
        rows = {"A_ub": self.A[~equal], "b_ub": self.h[~equal]}
        if equal.any():
            rows |= {"A_eq": self.A[equal], "b_eq": self.h[equal]}
        return rows
