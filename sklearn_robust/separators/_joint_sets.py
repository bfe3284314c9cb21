r"""Separators of several classes against sets that differ from sample to sample: a cone program of
all pairs of a sample and a rival, and the certificate of its answer.

With the margins :math:`m_{ik}` of `_pair_programs` it is :math:`\max \gamma` subject to
:math:`m_{ik} \ge \gamma` and :math:`\|W\|_p \le 1`. Its multipliers are weights :math:`a_{ik}`, and
name a perturbation :math:`\delta_{ik}` of each sample for each rival, in its set. These make one
data set that the adversary may choose, and so

.. math:: \gamma \le D(a, \delta) = \Big\| \sum_{ik} a_{ik} (e_{y_i} - e_k) (x_i +
   \delta_{ik})^T \Big\|_* .

With very many pairs the program takes minutes. Cuts (`_joint_cuts`) then find the pairs near the
least margin, and the program is that of these alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from scipy import sparse

from sklearn_robust._clarabel import SolverFailure
from sklearn_robust._conic_programs import Vector
from sklearn_robust._conic_sets import TERM_ROUNDING
from sklearn_robust._pair_programs import PairProgram
from sklearn_robust.certificates import Certified, sum_rounding
from sklearn_robust.joint import JointProblem
from sklearn_robust.joint_certificates import predictor, robust_margin
from sklearn_robust.norms import LpNorm, Norm, SchattenNorm
from sklearn_robust.separators import _conic_refinement as refinement
from sklearn_robust.separators import _joint_cuts

# settings of clarabel, tried in turn until the gap is small: where multipliers are not unique the
# smaller ridge of the first ends early
TRIES: tuple[dict[str, float], ...] = (
    {},
    {"static_regularization_constant": 1e-9, "max_step_fraction": 0.99},
    {"static_regularization_constant": 1e-8, "max_step_fraction": 0.9},
)
_SMALL_GAP = 1e-9  # gap of the margin at which no other setting is tried
# gap of the margin at which cuts have found the pairs near the least one; the relative fall of the
# gap that is no miss, and the misses at which cuts end
_CUT_GAP = 1e-2
_LEAST_FALL, _MOST_MISSES = 0.1, 3
_MOST_ROUNDS = 10  # programs of some of the pairs at most
_REFINEMENTS = 3  # Newton steps on the optimality conditions, at most

Callback = Callable[[PairProgram, Vector, Vector], None]


def maximise_margin(
    problem: JointProblem,
    norm: Norm,
    tol: float,
    *,
    tries: Sequence[dict[str, float]] = TRIES,
    callback: Callback | None = None,
) -> Certified:
    """The predictor of largest robust margin in a norm; its margin may be negative or 0.

    `callback` is shown each program of all pairs, with the weights (K, n) and the multipliers of
    its answers.
    """
    if _joint_cuts.serves(problem, norm):
        best = _by_cuts(problem, norm, tol)
        if best is not None and best.gap <= _CUT_GAP:
            return _on_active_pairs(problem, norm, tol, best)
    return _by_program(problem, norm, tol, tries=tries, callback=callback)


def _on_active_pairs(problem: JointProblem, norm: Norm, tol: float, best: Certified) -> Certified:
    """The answer refined by cone programs of the pairs near the least margin, to which those are
    added that the answer of the last one violates.
    """
    chosen = np.zeros((problem.n_classes, len(problem.y)), dtype=bool)
    found, level = best, (1 + best.gap) * best.bound
    for _ in range(_MOST_ROUNDS):
        if best.gap - best.rounding <= tol:
            break
        new = ~chosen & (_joint_cuts.margins_of(problem, found.coef) < level)
        if not new.any():
            break
        chosen |= new
        try:
            found = _by_program(problem, norm, tol, chosen)
        except RuntimeError:  # the answer so far has its certified gap
            break
        best, level = found.merged(best), found.bound
    return best


def _by_program(
    problem: JointProblem,
    norm: Norm,
    tol: float,
    chosen: np.ndarray | None = None,
    *,
    tries: Sequence[dict[str, float]] = TRIES,
    callback: Callback | None = None,
) -> Certified:
    """The answer of one cone program, of all pairs of a sample and a rival or of those chosen."""
    program = PairProgram(problem, chosen)
    conic, N = program.conic, program.n_pairs
    gamma = conic.columns.take(1)
    margins = conic.add_rows(
        [("nonnegative", N)], [*program.terms, (gamma, -np.ones((N, 1)))], np.zeros(N)
    )
    conic.linear[gamma.start] = -1.0
    _bound_norm(program, norm)

    def judged(x: Vector, z: Vector) -> Certified:
        weights = program.problem.balanced(program.weights(z[margins]))
        if callback is not None:
            callback(program, weights, z)
        delta = program.perturbations(z, weights)
        bound = _margin_bound(program.problem, norm, weights, delta)
        whole = np.zeros((problem.n_classes, len(problem.y)))
        whole[:, problem.log_weight > -math.inf] = weights
        found = Certified(
            np.zeros((problem.n_classes, problem.n_features)),
            whole,
            np.zeros(problem.n_classes),
            margin=-math.inf,
            bound=bound,
            solver="cone program of the threat",
        )
        return certified(problem, norm, program.coef(x), found)

    best: Certified | None = None
    failure: SolverFailure | None = None
    for settings in tries:
        try:
            x, z = conic.solve(**settings)
        except SolverFailure as error:
            failure = error
            continue
        found = judged(x, z)
        best = found if best is None else found.merged(best)
        for _ in range(_REFINEMENTS):
            if best.gap - best.rounding <= tol or not refinement.serves(conic):
                break
            step = refinement.newton_step(conic, x, z)
            if step is None:
                break
            x, z = step
            best = judged(x, z).merged(best)
        if best.gap - best.rounding <= max(tol, _SMALL_GAP):
            return best
    if best is None:
        raise RuntimeError(
            f"The cone program of the separator ended without an answer ({failure}). Rescale the "
            f"features of X."
        ) from failure
    return best


def _by_cuts(problem: JointProblem, norm: Norm, tol: float) -> Certified | None:
    """The best predictor and bound of cuts, until the gap is small or no longer falls."""
    best: Certified | None = None
    misses = 0
    for coef, weights, delta in _joint_cuts.points_by_cuts(problem):
        weights = problem.balanced(weights)
        bound = _margin_bound(problem, norm, weights, delta)
        found = Certified(
            coef, weights, np.zeros(len(coef)), margin=-math.inf, bound=bound, solver="cuts"
        )
        last, best = best, certified(problem, norm, coef, found).merged(best)
        falls = last is None or not best.gap > (1 - _LEAST_FALL) * last.gap
        misses = 0 if falls else misses + 1
        if best.gap <= max(_CUT_GAP, tol) or misses == _MOST_MISSES:
            break
    return best


def _bound_norm(program: PairProgram, norm: Norm) -> None:
    """||W|| <= 1."""
    conic, K = program.conic, program.problem.n_classes
    w = program.w
    unit = conic.columns.take(1)
    conic.add_rows([("zero", 1)], [(unit, np.ones((1, 1)))], -np.ones(1))
    if isinstance(norm, LpNorm):
        conic.add_norms(w, sparse.eye_array(w.stop - w.start, format="csr"), unit, norm.p)
    elif isinstance(norm, SchattenNorm) and norm.p == math.inf:
        conic.add_spectral_norm(w, K, unit)
    elif isinstance(norm, SchattenNorm) and norm.p == 1:
        conic.add_nuclear_norm(w, K, unit)
    else:
        raise RuntimeError(f"exact separators have l_p, spectral and nuclear norms, got {norm!r}")


def _margin_bound(problem: JointProblem, norm: Norm, weights: Vector, delta: Vector) -> float:
    """D(a, delta) plus its rounding, of feasible weights (K, n)."""
    of_classes = problem.weighted_sum(weights)
    sizes = problem.sizes(weights)
    for k, part in enumerate(delta):
        moved = weights[k][:, None] * part
        for low in range(problem.n_classes):
            at = problem.y == low
            total, size = moved[at].sum(axis=0), np.abs(moved[at]).sum(axis=0)
            of_classes[low] += total
            of_classes[k] -= total
            sizes[low] += size
            sizes[k] += size
    rounding = (sum_rounding(len(problem.y), np.float64) + 2 * TERM_ROUNDING) * sizes
    dual, of_norm = norm.dual, sum_rounding(of_classes.size, np.float64)
    value = float(dual.value(of_classes.ravel())) + float(dual.value(rounding.ravel()))
    return value * (1 + of_norm)


def certified(problem: JointProblem, norm: Norm, coef: Vector, found: Certified) -> Certified:
    """A direction with its best intercepts and a smallest robust margin of 1, where it is positive,
    and its margin less its rounding, beside the bound that is known.
    """
    coef, intercept = predictor(problem, coef)
    margin = robust_margin(problem, norm, coef, intercept)
    return replace(found, coef=coef, intercept=intercept, margin=margin)
