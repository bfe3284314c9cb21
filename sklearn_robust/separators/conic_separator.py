r"""Separators against the sets of samples: a cone program, and the certificate of its answer.

With the slots k of `adversaries`, the conic rows :math:`E_k, F_k, h_k, K_k` of their sets and the
radii R it is

.. math:: \max_{w, b, t, \lambda}\ \gamma \quad \text{with} \quad Z w + y b - R t \ge \gamma,
   \quad \|w\|_p \le 1, \quad E_k^T \lambda_k = g_k w,\ F_k^T \lambda_k = 0,\
   h_k \cdot \lambda_k \le t_k,\ \lambda_k \in K_k^*,

for :math:`t_k \ge \sigma_k(g_k w)`. With the multipliers a of the margins, and :math:`\nu, \eta,
\tau` of the three conic rows of a slot, :math:`u_k = \nu_k / \tau_k` is in its set. The
perturbations u make one data set that the adversary may choose, and so

.. math:: \gamma \le D(a, u) = \Big\| Z^T a - \sum_k (R_k \cdot a)\, g_k u_k \Big\|_{p^*}

for a of the simplex. Boxes of samples are linear in the signed parts of w (`sign_split`): the same
with the matrix M in place of Z.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from scipy import sparse

from sklearn_robust._adversaries import Boxes
from sklearn_robust._clarabel import SolverFailure
from sklearn_robust._conic_programs import ConicProgram, Vector
from sklearn_robust._conic_sets import TERM_ROUNDING, ConicSlot, Perturbation, slots_of
from sklearn_robust._own_sets import OwnSets
from sklearn_robust._sign_split import SplitForm
from sklearn_robust.certificates import Certified, best_intercept, robust_margin, sum_rounding
from sklearn_robust.joint import JointProblem
from sklearn_robust.norms import LpNorm
from sklearn_robust.problems import RobustProblem
from sklearn_robust.separators._conic_refinement import newton_step, serves
from sklearn_robust.separators._joint_sets import maximise_margin

_REFINEMENTS = 3  # Newton steps on the optimality conditions, at most

# Sets of rows
_ROWS_FROM = 2000  # rows from which on the program is solved on sets of them
_FIRST_ROWS = 3  # rows of the first set, relative to the columns
_ADDED_ROWS = 2  # rows that a round adds at most, relative to the columns
_MOST_ROUNDS = 60


def maximise_conic_margin(problem: RobustProblem, norm: LpNorm, tol: float) -> Certified:
    """The predictor of largest robust margin in a norm, against the sets of the samples.

    Parameters
    ----------
    problem : RobustProblem
        A single one in float64, on an array. Samples of weight zero are left out.
    norm : LpNorm
    tol : float
        Certified relative gap of the margin to reach.

    Returns
    -------
    Certified
        The margin is negative or 0 where nothing separates, and the gap is above
        tol where the solver stopped short.

    Raises
    ------
    RuntimeError
        If the solver failed.
    """
    used = np.flatnonzero(problem.log_weight[0] > -math.inf)
    part = on_rows(problem, used)
    if isinstance(problem.adversary, OwnSets):
        joint = maximise_margin(JointProblem.of_two_classes(part), norm, tol)
        # ||(-w/2, w/2)||_p = 2^(1/p - 1) ||w||_p
        found = replace(
            joint, bound=joint.bound * 2 ** (1 / norm.p - 1), weights=joint.weights.sum(axis=0)
        )
        found = certify_direction(part, norm, joint.coef[1] - joint.coef[0], found)
    elif isinstance(problem.adversary, Boxes):
        form = SplitForm(part, scaled=False)
        found = _maximised(form.as_problem(part), norm, tol)
        found = certify_direction(part, norm, form.coef(found.coef), found)
    else:
        found = _maximised(part, norm, tol)
    weights = np.zeros(problem.y.shape[1])
    weights[used] = found.weights
    return replace(found, weights=weights)


def on_rows(problem: RobustProblem, index: np.ndarray) -> RobustProblem:
    """The problem of some samples."""
    adversary = problem.adversary
    return replace(
        problem,
        X=problem.X[index],
        y=problem.y[:, index],
        log_weight=problem.log_weight[:, index],
        adversary=None if adversary is None else adversary.take(index),
    )


def _maximised(problem: RobustProblem, norm: LpNorm, tol: float) -> Certified:
    """The same for slots, on sets of rows where there are many."""
    n, d = problem.X.shape
    if n <= max(_ROWS_FROM, _FIRST_ROWS * d):
        return solve_on_all_rows(problem, norm, tol)[0]
    rng = np.random.default_rng(0)
    classes = [np.flatnonzero(members[0]) for members in problem.classes]
    size = _FIRST_ROWS * d // len(classes)
    chosen = np.concatenate(
        [rng.choice(rows, min(size, len(rows)), replace=False) for rows in classes]
    )
    best: Certified | None = None
    for _ in range(_MOST_ROUNDS):
        small, _ = solve_on_all_rows(on_rows(problem, np.sort(chosen)), norm, 0.3 * tol)
        weights = np.zeros(n)
        weights[np.sort(chosen)] = small.weights
        whole = certify_direction(problem, norm, small.coef, replace(small, weights=weights))
        best = whole.merged(best)
        if best.gap <= tol or small.margin <= 0:
            break
        margins = problem.margins(small.coef[None], np.array([small.intercept]))[0]
        level = small.margin * norm.value(small.coef)
        below = np.setdiff1d(np.flatnonzero(margins < level), chosen)
        if not len(below):
            break
        order = np.argsort(margins[below])[: max(_ADDED_ROWS * d, 1)]
        chosen = np.concatenate([chosen, below[order]])
    assert best is not None  # there is a round
    return best


def solve_on_all_rows(
    problem: RobustProblem, norm: LpNorm, tol: float
) -> tuple[Certified, list[Perturbation]]:
    """The answer of the cone program of slots, refined until its certified gap is at most tol, and
    the perturbations of the best bound.
    """
    if problem.n_features == 0:  # boxes without end leave no coefficient: any weights prove it
        shares = problem.class_shares()[0]
        return Certified(np.zeros(0), shares, 0.0, margin=-math.inf, bound=0.0), []
    program = _SlotProgram(problem, norm)
    try:
        x, z = program.conic.solve()
    except SolverFailure as failure:
        raise RuntimeError(
            f"The cone program of the separator ended without an answer ({failure}). Rescale the "
            f"features of X."
        ) from failure
    best, points = program.certified(x, z)
    for _ in range(_REFINEMENTS):
        if best.gap - best.rounding <= tol or not serves(program.conic):
            break
        step = newton_step(program.conic, x, z)
        if step is None:
            break
        x, z = step
        refined, of_refined = program.certified(x, z)
        points = of_refined if refined.bound <= best.bound else points
        best = refined.merged(best)
    return best, points


class _SlotProgram:
    """The cone program of one problem with slots, in units of the rows' root mean square."""

    def __init__(self, problem: RobustProblem, norm: LpNorm) -> None:
        self.problem, self.norm = problem, norm
        centred, self.unit = problem.standardised()
        self.slots = slots_of(centred)
        X, y = centred.X, centred.y[0]
        n, d = X.shape
        Z = sparse.diags_array(y) @ X if sparse.issparse(X) else y[:, None] * X
        conic = self.conic = ConicProgram()
        self.w, gamma = conic.columns.take(d), conic.columns.take(1)
        terms: list[tuple[slice, Any]] = [(self.w, Z), (gamma, -np.ones((n, 1)))]
        if problem.fit_intercept:
            terms.append((conic.columns.take(1), y[:, None]))
        reach = [float(slot.radius.max()) for slot in self.slots]
        levels = [conic.columns.take(1) for _ in self.slots]
        terms += [
            (t, -slot.radius[:, None] / size)
            for t, slot, size in zip(levels, self.slots, reach, strict=True)
        ]
        self.margins = conic.add_rows([("nonnegative", n)], terms, np.zeros(n))
        self._bound_norm(gamma)
        self._of_slots = [
            self._add_slot(slot, t, size)
            for slot, t, size in zip(self.slots, levels, reach, strict=True)
        ]

    def _bound_norm(self, gamma: slice) -> None:
        """The objective gamma, and ||w||_p <= 1."""
        conic, d = self.conic, self.problem.n_features
        conic.linear[gamma.start] = -1.0
        unit = conic.columns.take(1)
        conic.add_rows([("zero", 1)], [(unit, np.ones((1, 1)))], -np.ones(1))
        conic.add_norms(self.w, sparse.eye_array(d, format="csr"), unit, self.norm.p)

    def _add_slot(self, slot: ConicSlot, t: slice, size: float) -> tuple[slice, slice, slice]:
        """t >= size sigma(g w); the places of its rows of E, of F and of h."""
        conic, rows = self.conic, slot.rows
        d = self.problem.n_features
        dual = conic.columns.take(len(rows.h))
        of_w = -size * slot.sign * sparse.eye_array(d)
        of_E = conic.add_rows([("zero", d)], [(dual, rows.E.T), (self.w, of_w)], np.zeros(d))
        n_s = rows.F.shape[1]
        of_F = conic.add_rows([("zero", n_s)], [(dual, rows.F.T)], np.zeros(n_s))
        of_h = conic.add_rows(
            [("nonnegative", 1)], [(t, np.ones((1, 1))), (dual, -rows.h[None])], np.zeros(1)
        )
        for kind, at in rows.blocks:
            if kind == "zero":  # whose multipliers are free
                continue
            places = np.arange(at.start, at.stop)
            m = len(places)
            pick = sparse.csr_array((np.ones(m), (np.arange(m), places)), shape=(m, len(rows.h)))
            conic.add_rows([(kind, m)], [(dual, pick)], np.zeros(m))
        return of_E, of_F, of_h

    def certified(self, x: Vector, z: Vector) -> tuple[Certified, list[Perturbation]]:
        """The certificate of a solution x and multipliers z, and its perturbations."""
        coef = x[self.w]
        for slot in self.slots:
            coef = slot.in_domain(coef)
        points = []
        for slot, (of_E, of_F, of_h) in zip(self.slots, self._of_slots, strict=True):
            tau = float(z[of_h][0])
            if tau <= 0:
                points.append(_inner(slot))
                continue
            points.append(Perturbation(*slot.set.moved_inside(z[of_E] / tau, z[of_F] / tau)))
        weights = self.problem.balanced(np.maximum(z[self.margins], 0)[None])[0]
        slots = [slot.times(self.unit) for slot in self.slots]
        bound = margin_bound_at(self.problem, self.norm, slots, weights, points)
        found = Certified(
            coef, weights, 0.0, margin=-math.inf, bound=bound, solver="cone program of the threat"
        )
        return certify_direction(self.problem, self.norm, coef, found), points


def _inner(slot: ConicSlot) -> Perturbation:
    """A point of the interior of the set."""
    d = slot.rows.E.shape[1]
    return Perturbation(slot.set.point[:d], slot.set.point[d:])


def margin_bound_at(
    problem: RobustProblem,
    norm: LpNorm,
    slots: Sequence[ConicSlot],
    weights: Vector,
    points: Sequence[Perturbation],
) -> float:
    """D(a, u) plus its rounding, of feasible weights and points of the sets."""
    left = problem.weighted_sum(weights[None])[0]
    rounding = sum_rounding(len(weights), weights.dtype) * problem.sizes(weights[None])[0]
    for slot, point in zip(slots, points, strict=True):
        share = float(slot.radius @ weights)
        left = left - share * slot.sign * point.u
        size = float(np.max(np.abs(point.u), initial=0.0))
        rounding = rounding + 2 * TERM_ROUNDING * share * np.maximum(np.abs(point.u), size)
    dual = norm.dual
    of_norm = sum_rounding(len(left), left.dtype)
    return float((dual.value(left) + dual.value(rounding)) * (1 + of_norm))


def certify_direction(
    problem: RobustProblem, norm: LpNorm, coef: Vector, found: Certified
) -> Certified:
    """A direction with its best intercept and a smallest robust margin of 1, where it is positive,
    and the margin less its rounding.
    """
    direction = coef[None]
    margins = problem.signed_scores(direction) - problem.penalties(direction)
    used = problem.log_weight > -math.inf
    margins = np.where(used, margins, math.inf)
    intercept, smallest = best_intercept(margins, problem.classes)
    unit = float(smallest[0]) if 0 < smallest[0] < math.inf else 1.0
    direction, intercept = direction / unit, intercept / unit
    margin = float(robust_margin(problem, norm, direction, intercept)[0])
    return replace(found, coef=direction[0], intercept=float(intercept[0]), margin=margin)
