r"""The max-margin form of several classes against an l_q ball."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from sklearn_robust._conic_programs import unit_rows
from sklearn_robust.joint import JointProblem
from sklearn_robust.joint_certificates import best_intercept
from sklearn_robust.norms import LpNorm, Norm
from sklearn_robust.rows import require_array
from sklearn_robust.separators._max_margin_form import SOLVER, Vector
from sklearn_robust.threats import is_ball, require_ball

Indices = NDArray[np.intp]
Chosen = NDArray[np.bool_]


@dataclass(frozen=True)
class GivenClasses:
    """Some of the classes, whose coefficients are given up to a common factor t and a shift.

    Attributes
    ----------
    classes : ndarray of int of shape (m,)
    coef : ndarray of shape (m, d)
    """

    classes: Indices
    coef: Vector


@dataclass(frozen=True)
class JointMarginForm:
    r"""Maximise :math:`\gamma` with :math:`\langle w_y - w_k, x_i \rangle + b_y - b_k - \epsilon
    \|s (w_y - w_k)\|_{q^*} \ge u_{yk} \gamma` for all rivals k, and with :math:`\|W\|_p \le 1`
    or :math:`\langle H, W \rangle = 1`.

    It is feasible, and bounded whatever the data, with a norm; with H where H is the weighted sum
    of positive weights. The multipliers of its rows are weights of the rivals, those of the norms
    are the perturbations of the pairs.

    Attributes
    ----------
    X : ndarray or scipy.sparse array of shape (n, d)
    y : ndarray of int of shape (n,)
    n_classes : int
    norm : Norm or None
        On the K d coefficients.
    dual_q : float
    eps : float
    scale : ndarray of shape (d,) or None
    fit_intercept : bool
    pair_units : ndarray of shape (K, K) or None
        The u > 0 of the pairs of classes, symmetric; None is 1.
    normal : ndarray of shape (K, d) or None
        H, where there is no norm.
    given : GivenClasses or None
        Classes whose coefficients are given; the pairs of two of these have no rows, and t is at
        least :math:`\gamma`.
    size : float
        The bound on the norm in place of 1: a solver's tolerances are absolute.
    at_vertex : bool
        Whether linear programs are solved at a vertex, by HiGHS; clarabel is faster on large ones.
    """

    X: Any
    y: Indices
    n_classes: int
    norm: Any  # Norm or None
    dual_q: float
    eps: float
    scale: Vector | None
    fit_intercept: bool
    pair_units: Vector | None = None
    normal: Vector | None = None
    given: GivenClasses | None = None
    size: float = 1.0
    at_vertex: bool = True

    @classmethod
    def of(cls, problem: JointProblem, norm: Norm | None) -> JointMarginForm:
        """The form of a problem with an l_q ball, without samples of weight zero.

        Its rows are in units of their root mean square, and centred where intercepts absorb that.
        """
        threat, factor = require_ball(problem.threat, SOLVER).simplified()
        rows = require_array(problem.rows, "An exact separator")
        X, unit = rows.standardised(centred=problem.fit_intercept)
        used = problem.log_weight > -math.inf
        eps = factor * problem.radius / unit
        return cls(
            X if used.all() else X[used],
            problem.y[used],
            problem.n_classes,
            norm,
            threat.dual_norm.p,
            eps,
            threat.scale if eps > 0 else None,
            problem.fit_intercept,
        )

    @property
    def pairs(self) -> tuple[Indices, Indices]:
        """The classes l < k of the K(K-1)/2 pairs."""
        low, high = np.triu_indices(self.n_classes, 1)
        return low, high

    @property
    def n_entries(self) -> int:
        """Entries of the rows of all rivals and of the differences of two classes."""
        rows = len(self.y) * (self.n_classes - 1) + len(self.pairs[0])
        return 2 * int(self.X.shape[1]) * rows

    @property
    def rivals(self) -> Chosen:
        """The rivals of each sample that have rows, (K, n)."""
        classes = np.arange(self.n_classes)
        rivals: Chosen = self.y != classes[:, None]
        if self.given is not None:
            inside = np.isin(classes, self.given.classes)
            rivals &= ~(inside[:, None] & inside[self.y])
        return rivals

    def margins(self, coef: Vector, intercept: Vector) -> Vector:
        """The robust margins of the rivals in units of their pairs, (K, n); inf where a rival has
        no row.
        """
        low, high = self.pairs
        differences = coef[low] - coef[high]
        if self.scale is not None:
            differences = self.scale * differences
        penalties = np.zeros((self.n_classes, self.n_classes))
        penalties[low, high] = penalties[high, low] = LpNorm(self.dual_q).value(differences)
        scores = (self.X @ coef.T).T + intercept[:, None]
        own = np.arange(len(self.y))
        margins: Vector = scores[self.y, own] - scores - self.eps * penalties[self.y].T
        if self.pair_units is not None:
            margins /= np.where(self.pair_units > 0, self.pair_units, 1.0)[self.y].T
        margins[~self.rivals] = math.inf
        return margins

    def given_intercept(self) -> Vector:
        """The best intercepts (m,) of the given classes alone."""
        assert self.given is not None
        classes = self.given.classes
        coef = np.zeros((self.n_classes, self.X.shape[1]))
        coef[classes] = self.given.coef
        margins = replace(self, given=None).margins(coef, np.zeros(self.n_classes))
        smallest = [margins[:, self.y == c].min(axis=1)[classes] for c in classes]
        return best_intercept(np.array(smallest))[0]

    def at_mean_margin(self) -> JointMarginForm:
        """The form with the mean plain margin, over samples of a class and pairs of classes, at 1
        in place of a norm.
        """
        members = unit_rows(self.y, self.n_classes)
        means = (members.T @ self.X) / members.sum(axis=0)[:, None]
        means = means.toarray() if sparse.issparse(means) else means
        return replace(self, norm=None, normal=(means - means.mean(axis=0)) / (len(means) - 1))


def in_float64(problem: JointProblem) -> JointProblem:
    """The same problem, on NumPy or scipy.sparse data, in double precision."""
    X = require_array(problem.rows, SOLVER).X.astype(np.float64, copy=False)
    threat = problem.threat
    if is_ball(threat):
        threat = require_ball(threat, SOLVER).mapped(lambda scale: scale.astype(np.float64))
    log_weight = problem.log_weight.astype(np.float64, copy=False)
    return replace(problem, X=X, threat=threat, log_weight=log_weight)


def on_all_samples(problem: JointProblem, weights: Vector) -> Vector:
    """Weights (K, m) of the samples of positive weight, with zeros for the others: (K, n)."""
    used = problem.log_weight > -math.inf
    if used.all():
        return weights
    spread = np.zeros((problem.n_classes, len(used)))
    spread[:, used] = weights
    return spread
