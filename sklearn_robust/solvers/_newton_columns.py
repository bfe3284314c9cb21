"""The columns of a Newton method's Hessian, and how far its model is trusted."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from sklearn_robust.norms import LpNorm
from sklearn_robust.scaled_norms import WeightedNorm
from sklearn_robust.solvers import _newton_rules as rules
from sklearn_robust.solvers._risk_model import Gradient

# share of the bound eps s_j sum a, above which |Z^T a|_j brings column j into the Hessian
_NEAR_BOUND = 0.8
_COLUMNS = 400  # columns that are always allowed; otherwise twice those of nonzero coefficients
_MOST_COLUMNS = 3000  # columns above which the method stops short
_ALL_COLUMNS = 100  # features up to which the Hessian has every column
_NEARLY_ALL = 0.7  # share of the features above which the Hessian has every column
_KEEP = 0.3  # ratio of successive predicted decreases up to which an expensive Hessian is kept


@dataclass
class Trust:
    """How far the model is trusted.

    Attributes
    ----------
    damping : float
        Levenberg's, as a share of the Hessian's diagonal.
    exact : bool
        Whether Gram matrices must be in double precision.
    cautious : bool
        Whether curvatures must not vanish.
    decrease, decrease_before : float
        The predicted decreases of the last two models.
    """

    damping: float = rules.LEAST_DAMPING
    exact: bool = False
    cautious: bool = False
    decrease: float = math.inf
    decrease_before: float = math.inf

    def fail(self, *, damped: bool) -> None:
        """Ask for an exact Hessian, and damp it more if that is wanted."""
        self.exact = True
        if damped:
            self.damping = rules.more_damping(self.damping)

    def succeed(self) -> None:
        """Damp the next Hessian less."""
        self.damping = rules.less_damping(self.damping)
        self.cautious &= not self.close

    @property
    def lost(self) -> bool:
        """Whether no damping is left to try."""
        return self.damping >= rules.MOST_DAMPING

    @property
    def converges(self) -> bool:
        """Whether the last Hessian has served well enough to be used again."""
        return self.decrease <= _KEEP * self.decrease_before

    @property
    def faces(self) -> int:
        """The faces to try in a model at most."""
        return rules.FACES if self.close else rules.FACES_FAR

    @property
    def close(self) -> bool:
        """Whether the minimiser of the risk is close."""
        return self.decrease <= rules.CLOSE_DECREASE


def most_columns(afforded: int | None) -> int:
    """The columns of the largest Hessian of data that afford so many; None: any number."""
    return min(_MOST_COLUMNS, afforded or _MOST_COLUMNS)


@dataclass(frozen=True)
class ColumnChoice:
    """The choice of a Hessian's columns.

    Attributes
    ----------
    norm : LpNorm or WeightedNorm
        The norm in the penalty, eps times the norm of the coefficients.
    eps : float
    scale : ndarray of shape (d,)
        How far the adversary moves each feature, relative to the others.
    most : int
        Columns of the largest Hessian.
    """

    norm: LpNorm | WeightedNorm
    eps: float
    scale: np.ndarray
    most: int

    @classmethod
    def of(
        cls,
        norm: LpNorm | WeightedNorm,
        eps: float,
        scale: np.ndarray | None,
        n_features: int,
        most: int | None,
    ) -> ColumnChoice:
        """The choice among so many features; `most` are the columns that the data afford."""
        scale = np.ones(n_features) if scale is None else scale
        return cls(norm, eps, scale, most_columns(most))

    def chosen(self, coef: np.ndarray, gradient: Gradient) -> np.ndarray | slice | None:
        """The columns of the next Hessian; None where there are too many for one.

        On the l1 norm a coefficient leaves zero where |Z^T a|_j > eps s_j sum a: columns in use,
        and those near this bound.
        """
        d = len(coef)
        if d <= min(_ALL_COLUMNS, self.most):
            return slice(None)
        if self.norm.p > 1 or self.eps == 0:
            return slice(None) if d <= self.most else None
        size = np.abs(gradient.weighted_sum)
        in_use = coef != 0
        bound = self._bound(gradient)
        if self.most < _MOST_COLUMNS and np.sum(in_use | (size > bound)) > self.most:
            return None  # not on sparse data, on which about as many remain
        needed = in_use | (size > _NEAR_BOUND * bound)
        limit = max(_COLUMNS, 2 * int(in_use.sum()))
        if needed.sum() > limit:  # those of the largest weighted sums, relative to their bounds
            strength = size / np.where(self.scale > 0, self.scale, 1.0)
            order = np.argsort(np.where(in_use | (self.scale == 0), math.inf, strength))[::-1]
            needed = np.zeros(d, dtype=bool)
            needed[order[:limit]] = True
        if not needed.any():  # the model is then constant, and one column will do
            needed[0] = True
        chosen = np.flatnonzero(needed)
        if len(chosen) > self.most:
            return None
        return slice(None) if len(chosen) > _NEARLY_ALL * d else chosen

    def covers(self, columns: np.ndarray | slice, coef: np.ndarray, gradient: Gradient) -> bool:
        """Whether the columns are all that a step can move."""
        left_out = np.ones(len(coef), dtype=bool)
        left_out[columns] = False
        active = (coef != 0) | (np.abs(gradient.weighted_sum) > self._bound(gradient))
        return not np.any(active & left_out)

    def _bound(self, gradient: Gradient) -> np.ndarray:
        """The size of a weighted sum above which a coefficient leaves zero, (d,)."""
        return self.eps * gradient.total_weight * self.scale
