r"""The positive and the negative part of the coefficients, in which boxes of samples are linear.

With :math:`w = v^+ - v^-` and :math:`v = (v^+, v^-) \ge 0` the robust margins of `Boxes` are

.. math:: m = M v + y b, \qquad M = [Z - P,\; -Z - N],

P and N what the boxes take for each unit of :math:`v^+` and :math:`v^-`. A column with an infinite
entry is left out: its part of w is 0. Weights :math:`a \ge 0` with :math:`M^T a \le 0` and :math:`y
\cdot a = 0` prove that nothing separates: on v >= 0 the sum :math:`a \cdot m` is at most 0.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sklearn_robust._adversaries import Boxes, Slot, Slots, row_blocks
from sklearn_robust.problems import RobustProblem
from sklearn_robust.rows import require_array

# Rounding of a sum at most, relative to the sum of its terms' sizes: 64 machine epsilons.
_TERM_ROUNDING = 64 * float(np.finfo(np.float64).eps)


class Orthant:
    r"""The vectors :math:`\delta \ge 0`: :math:`\sigma(v) = 0` for :math:`v \le 0`, else inf."""

    symmetric = False

    def __init__(self, d: int) -> None:
        self.d = d

    def worst(self, v: np.ndarray) -> np.ndarray:
        return np.where(v > 0, np.inf, 0.0)

    def support(self, v: np.ndarray) -> np.ndarray:
        return np.where((v > 0).any(axis=-1), np.inf, 0.0)

    def conic(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[tuple[str, int]]]:
        """-x <= 0."""
        d = self.d
        return -np.eye(d), np.zeros((d, 0)), np.zeros(d), [("nonnegative", d)]


class SplitForm:
    """The matrix M of one problem whose samples have boxes, and its parts of w.

    Parameters
    ----------
    problem : RobustProblem
        One problem, in double arithmetic, on an array; its adversary is `Boxes`.
    scaled : bool
        Whether columns are in units of their root mean square.

    Attributes
    ----------
    M : ndarray of shape (n, m)
        With an intercept of centred rows: the intercept of the form is then that of these.
    parts : list of two index arrays
        The features of the columns of v+, and of v-.
    units : ndarray of shape (m,)
        The unit of each column.
    centre : ndarray of shape (d,)
        What is subtracted from the rows.
    """

    def __init__(self, problem: RobustProblem, *, scaled: bool = True) -> None:
        boxes, factor = problem.adversary, float(problem.radius[0])
        assert isinstance(boxes, Boxes)
        X = require_array(problem.rows, "A box for each sample").X
        X = X.toarray() if hasattr(X, "toarray") else X
        self.y = problem.y[0]
        self.centre = X.mean(axis=0) if problem.fit_intercept else np.zeros(X.shape[1])
        n, squares = len(X), np.zeros(X.shape[1])
        for rows in row_blocks(*X.shape):
            Z = X[rows] - self.centre
            squares += np.einsum("ij,ij->j", Z, Z)
        units = np.sqrt(squares / n)
        units[units == 0] = float(np.max(units, initial=0.0)) or 1.0
        units = units if scaled else np.ones_like(units)
        self.parts = [np.flatnonzero(mask) for mask in boxes.bounded]
        self.units = np.concatenate([units[part] for part in self.parts])
        ends = np.cumsum([0, *(len(part) for part in self.parts)])
        self.M = np.empty((n, len(self.units)))
        for rows in row_blocks(*X.shape):
            Z = X[rows] - self.centre
            Z *= self.y[rows, None] / units
            for k, (sign, loss) in enumerate(
                zip((1, -1), (boxes.positive, boxes.negative), strict=True)
            ):
                part = self.parts[k]
                every = len(part) == Z.shape[1]
                taken, own = (loss[rows], Z) if every else (loss[rows][:, part], Z[:, part])
                columns = self.M[rows, ends[k] : ends[k + 1]]
                np.multiply(taken, -factor / units[part], out=columns)
                (np.add if sign > 0 else np.subtract)(columns, own, out=columns)

    def coef(self, v: np.ndarray) -> np.ndarray:
        """w of the parts."""
        coef, size = np.zeros(len(self.centre)), len(self.parts[0])
        v = v / self.units
        coef[self.parts[0]] += v[:size]
        coef[self.parts[1]] -= v[size:]
        return coef

    def split(self, coef: np.ndarray) -> np.ndarray:
        """The parts of w, without those that are left out."""
        positive, negative = self.parts
        return self.units * np.maximum(np.concatenate([coef[positive], -coef[negative]]), 0)

    def feasible(self, weights: np.ndarray) -> bool:
        """Whether M^T a <= 0, up to the rounding of the sum."""
        sums = weights @ self.M
        up = np.flatnonzero(~(sums <= 0))
        terms = np.zeros(len(up))
        for rows in row_blocks(*self.M.shape):
            terms += weights[rows] @ np.abs(self.M[rows, up])
        room = _TERM_ROUNDING * terms
        return bool(np.all(sums[up] <= room))

    def as_problem(self, problem: RobustProblem) -> RobustProblem:
        """The problem of M as its signed rows, of coefficients v >= 0.

        An adversary that raises v without limit where it is negative keeps it so.
        """
        n, m = self.M.shape
        orthant = Orthant(m)
        adversary = Slots((Slot(orthant, -1.0, np.ones(n)),))
        X = self.y[:, None] * self.M
        return replace(problem, X=X, threat=orthant, radius=np.ones(1), adversary=adversary)
