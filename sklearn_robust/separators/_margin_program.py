"""The program that every exact solver here takes, in one form, and what it hands back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class MarginProgram:
    r"""Maximise :math:`\gamma` subject to :math:`z_i \cdot w + y_i b - \epsilon \|w\|_{q^*} \ge \gamma`, :math:`\|w\|_p \le 1`.

    It is feasible and bounded whatever the data: at :math:`\epsilon \ge \epsilon^*` its solution is w = 0. The multipliers of
    its n rows are the weights of the simplex that bound the margin.

    Attributes
    ----------
    rows : ndarray or scipy.sparse.csr_array of shape (n, d)
        The signed rows z_i.
    labels : ndarray of shape (n,) or None
        The labels y_i where the intercept b is free; None fixes b = 0.
    p : float
        Norm of the margin, in [1, inf].
    dual_q : float
        The exponent q*; of no account where eps = 0.
    eps : float
    """

    rows: Any
    labels: Vector | None
    p: float
    dual_q: float
    eps: float


class PrimalDual(NamedTuple):
    """A direction w of shape (d,) and weights of shape (n,), as exact as the solver made them."""

    coef: Vector
    weights: Vector


class SolverFailure(RuntimeError):
    """A solver that ended without an answer; the message holds its status."""


def best_intercept(scores: Vector, labels: Vector) -> float:
    """The b that makes the smallest of scores + labels b largest: it levels the two classes."""
    return 0.5 * float(scores[labels < 0].min() - scores[labels > 0].min())
