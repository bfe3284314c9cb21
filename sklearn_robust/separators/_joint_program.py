r"""The conic program of a max-margin form of several classes.

The pairs of a sample and a rival class are rows over the coefficients of two classes and one norm
of their difference, which a column holds for each pair of classes: the rows stay sparse.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from sklearn_robust._conic_programs import (
    ConicProgram,
    MultipliersOf,
    scaled_identity,
    score_differences,
    unit_differences,
    unit_rows,
)
from sklearn_robust.norms import SchattenNorm
from sklearn_robust.separators import _conic_refinement as refinement
from sklearn_robust.separators._joint_margin_form import Chosen, Indices, JointMarginForm
from sklearn_robust.separators._max_margin_form import SolverFailure, Vector

# margin of a unit matrix, in units of the rows, below which a quadratic program is solved in units
# of the margin
_SMALL_MARGIN = 0.1
# settings of clarabel, tried in turn, where no Newton step refines its answer
_SETTINGS: list[dict[str, float]] = [
    {"static_regularization_constant": 1e-8},
    {"static_regularization_constant": 1e-8, "max_step_fraction": 0.99},
    {},
]


@dataclass(frozen=True)
class JointPoint:
    """Coefficients with weights and perturbations that may prove how good they are.

    Attributes
    ----------
    coef : ndarray of shape (K, d)
    weights : ndarray of shape (K, n)
        Weights of the samples and their rivals.
    perturbations : ndarray of shape (K(K-1)/2, d) or None
        Points of the unit set for the pairs of classes; None without adversary.
    gamma : float
        The smallest margin, as the program knows it.
    intercept : ndarray of shape (K,)
        The intercepts of the program; that of class 0 is 0.
    solver : str
        The name of the solver.
    """

    coef: Vector
    weights: Vector
    perturbations: Vector | None
    gamma: float
    intercept: Vector
    solver: str


@dataclass(frozen=True)
class JointProgram:
    """The conic program of a form, and where its answer stands.

    Attributes
    ----------
    conic : ConicProgram
    form : JointMarginForm
    w : slice
        The columns of W, row by row.
    gamma : int
        The column of the smallest margin.
    margins : slice
        The rows of the pairs of a sample and a rival.
    samples, rivals : ndarray of shape (m,)
        Those of each such row.
    subgradients : callable or None
        From all multipliers to the subgradients of the norms of the pairs.
    """

    conic: ConicProgram
    form: JointMarginForm
    w: slice
    gamma: int
    margins: slice
    samples: Indices
    rivals: Indices
    subgradients: MultipliersOf | None

    @classmethod
    def of(cls, form: JointMarginForm, chosen: Chosen | None = None) -> JointProgram:
        """The program of a form, of all rivals of all samples or of the chosen ones (K, n)."""
        (n, d), K = form.X.shape, form.n_classes
        conic = ConicProgram()
        w, gamma = conic.columns.take(K * d), conic.columns.take(1)
        if chosen is None:
            chosen = np.ones((K, n), dtype=bool)
        samples, rivals = np.nonzero((chosen & form.rivals).T)
        classes = form.y[samples]
        m = len(samples)
        units = np.ones(m) if form.pair_units is None else form.pair_units[classes, rivals]
        terms: list[tuple[slice, Any]] = [
            (w, score_differences(form.X, samples, classes, rivals, K)),
            (gamma, -units[:, None]),
        ]
        if form.fit_intercept:  # that of class 0 is 0
            terms.append((conic.columns.take(K - 1), unit_differences(classes, rivals, K)[:, 1:]))
        low, high = form.pairs
        subgradients = None
        if form.eps > 0:
            place = np.empty((K, K), dtype=np.intp)
            place[low, high] = place[high, low] = np.arange(len(low))
            tau = conic.columns.take(len(low))
            penalties = -form.eps * unit_rows(place[classes, rivals], len(low))
            terms.append((tau, penalties))
        margins = conic.add_rows([("nonnegative", m)], terms, np.zeros(m))
        if form.eps > 0:
            movable = scaled_identity(d, form.scale)
            rows = sparse.kron(unit_differences(low, high, K), movable, format="csr")
            subgradients = conic.add_norms(w, rows, tau, form.dual_q)
        if form.given is not None:
            _hold_given(conic, w, gamma, form)
        conic.linear[gamma.start] = -1.0
        _bound_matrix(conic, w, form)
        return cls(conic, form, w, gamma.start, margins, samples, rivals, subgradients)

    def points(self) -> Iterator[JointPoint]:
        """The solver's answer, and then those of Newton steps on the optimality conditions, each
        from the one before. Programs with other cones than linear ones and those of second order
        are solved again instead, with other settings.

        Raises
        ------
        SolverFailure
        """
        if not refinement.serves(self.conic):
            for settings in _SETTINGS:
                yield self.point(*self.conic.solve(**settings))
            return
        at_vertex = self.conic.is_linear and self.form.at_vertex
        solve = ConicProgram.solve_linear if at_vertex else ConicProgram.solve
        x, z = solve(self.conic)
        if self.conic.square is not None and 0 < x[self.gamma] < _SMALL_MARGIN:
            # W has the size of the margin: once more in units of it
            self.conic.square_weight = float(x[self.gamma])
            x, z = solve(self.conic)
        yield self.point(x, z)
        while True:
            moved = refinement.newton_step(self.conic, x, z)
            if moved is None:
                return
            x, z = moved
            yield self.point(x, z)

    @property
    def solver(self) -> str:
        """The name of the solver."""
        if self.conic.is_linear:
            return "linear program"
        return "cone program" if self.conic.square is None else "quadratic program"

    def point(self, x: Vector, z: Vector) -> JointPoint:
        """What a solution and multipliers of the program say."""
        form = self.form
        (n, d), K = form.X.shape, form.n_classes
        weights = np.zeros((K, n))
        weights[self.rivals, self.samples] = np.maximum(z[self.margins], 0)
        perturbations = None
        if self.subgradients is not None:
            low, high = form.pairs
            movable = scaled_identity(d, form.scale)
            moved = self.subgradients(z).reshape(len(low), -1) @ movable
            sums = np.zeros((K, K))
            np.add.at(sums, (form.y[self.samples], self.rivals), weights[self.rivals, self.samples])
            capacities = form.eps * (sums + sums.T)[low, high]
            used = capacities > 0
            perturbations = np.where(used, moved.T / np.where(used, capacities, 1.0), 0.0).T
        intercept = np.zeros(K)
        if form.fit_intercept:
            intercept[1:] = x[self.gamma + 1 : self.gamma + K]
        coef = x[self.w].reshape(K, d)
        gamma = float(x[self.gamma])
        return JointPoint(coef, weights, perturbations, gamma, intercept, self.solver)


def _bound_matrix(conic: ConicProgram, w: slice, form: JointMarginForm) -> None:
    """The bound on W: half the square of its norm is part of the objective for p = 2."""
    if form.norm is None:
        assert form.normal is not None
        conic.add_rows([("zero", 1)], [(w, form.normal.ravel()[None])], -np.ones(1))
        conic.add_zero_sum(w, form.n_classes)  # a common shift changes nothing
        return
    if form.norm.p == 2:
        conic.square = w
        return
    unit = conic.columns.take(1)
    conic.add_rows([("zero", 1)], [(unit, np.ones((1, 1)))], np.full(1, -form.size))
    if not isinstance(form.norm, SchattenNorm):
        conic.add_norms(w, sparse.eye_array(w.stop - w.start, format="csr"), unit, form.norm.p)
    elif form.norm.p == math.inf:
        conic.add_spectral_norm(w, form.n_classes, unit)
    elif form.norm.p == 1:
        conic.add_nuclear_norm(w, form.n_classes, unit)
    else:
        raise SolverFailure(
            f"exact separators have Schatten norms of exponent 1, 2 and inf, got {form.norm.p:g}"
        )


def _hold_given(conic: ConicProgram, w: slice, gamma: slice, form: JointMarginForm) -> None:
    """The coefficients and intercepts of the given classes, up to a factor t >= gamma and a
    shift.
    """
    assert form.given is not None
    classes, V = form.given.classes, form.given.coef
    K, d = form.n_classes, V.shape[1]
    m = len(classes) - 1
    t = conic.columns.take(1)
    incidence = unit_differences(classes[1:], np.full(m, classes[0]), K)
    rows = sparse.kron(incidence, sparse.eye_array(d), format="csr")
    conic.add_rows(
        [("zero", m * d)], [(w, rows), (t, (V[0] - V[1:]).reshape(-1, 1))], np.zeros(m * d)
    )
    if form.fit_intercept:
        b = slice(gamma.stop, gamma.stop + K - 1)
        beta = form.given_intercept()
        conic.add_rows(
            [("zero", m)], [(b, incidence[:, 1:]), (t, (beta[0] - beta[1:])[:, None])], np.zeros(m)
        )
    conic.add_rows(
        [("nonnegative", 1)], [(t, np.ones((1, 1))), (gamma, -np.ones((1, 1)))], np.zeros(1)
    )
