"""The program that every exact solver here takes, in one form, and what it hands back."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from sklearn_robust.norms import LpNorm
from sklearn_robust.scaled_norms import WeightedNorm

Vector = NDArray[np.float64]

_BALANCE = 1e-14  # difference of the classes' shares that is rounding


@dataclass(frozen=True)
class MarginProgram:
    r"""Maximise :math:`\gamma` with :math:`z_i \cdot w + y_i b - \epsilon \|s w\|_{q^*} \ge \gamma`, :math:`\|w\|_p \le 1`.

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
    shift : float
        Where p = q* the adversary lowers every margin of a unit vector by its radius: eps is then 0 and the radius stands here.
    scale : ndarray of shape (d,) or None
        The s_j >= 0, not all of them equal; None is 1.
    """

    rows: Any
    labels: Vector | None
    p: float
    dual_q: float
    eps: float
    shift: float = 0.0
    scale: Vector | None = None

    @cached_property
    def norm(self) -> LpNorm:
        """The norm of the margin."""
        return LpNorm(self.p)

    @cached_property
    def toll(self) -> LpNorm | WeightedNorm:
        """The norm by which the adversary lowers margins, ||s w||_q*."""
        return LpNorm(self.dual_q) if self.scale is None else WeightedNorm(self.dual_q, self.scale)

    def dense(self) -> MarginProgram:
        """The same program with its rows as an ndarray."""
        return replace(self, rows=self.rows.toarray()) if sparse.issparse(self.rows) else self


class PrimalDual(NamedTuple):
    """A direction w of shape (d,) and weights of shape (n,), as exact as the solver made them."""

    coef: Vector
    weights: Vector


class SolverFailure(RuntimeError):
    """A solver that ended without an answer; the message holds its status."""


def best_intercept(scores: Vector, labels: Vector) -> float:
    """The b that makes the smallest of scores + labels b largest: it levels the two classes."""
    return 0.5 * float(scores[labels < 0].min() - scores[labels > 0].min())


def feasible(weights: Vector, labels: Vector | None) -> Vector:
    """The weights, negative ones cut off, scaled to sum 1, with labels to 1/2 in each class; uniform where all are 0."""
    weights = np.maximum(weights, 0)
    classes = [np.full(weights.shape, True)] if labels is None else [labels > 0, labels < 0]
    for members in classes:
        largest = weights[members].max()
        weights[members] = weights[members] / largest if largest > 0 else 1.0  # no sum under- or overflows
        weights[members] /= len(classes) * weights[members].sum()
    return weights


def certified_margin(program: MarginProgram, point: PrimalDual, scores: Vector, pull: Vector) -> tuple[float, float]:
    """What a point proves on the program's own rows but for rounding, which `certificates.margin_certificate` charges to what
    leaves: the margin that it has (<= 0: none) and the bound on every margin.

    Parameters
    ----------
    program : MarginProgram
    point : PrimalDual
        Of any scale; the weights are positive.
    scores : ndarray of shape (n,)
        Rows times coef.
    pull : ndarray of shape (d,)
        Weights times rows.
    """
    norm, toll, total = program.norm, program.toll, point.weights.sum()
    if program.labels is not None:
        scores = scores + program.labels * best_intercept(scores, program.labels)
        up = point.weights[program.labels > 0].sum() / total
        if abs(up - 0.5) > _BALANCE:  # the weights bound nothing before each class has half of them
            share = np.where(program.labels > 0, 0.5 / up, 0.5 / (1 - up))
            pull = (point.weights * share) @ program.rows
    size = norm.value(point.coef)
    margin = (scores.min() - program.eps * toll.value(point.coef)) / size - program.shift if size > 0 else -math.inf
    bound = norm.dual.value(toll.dual.residual(pull / total, program.eps, norm.dual)) - program.shift
    return float(margin), max(0.0, float(bound))
