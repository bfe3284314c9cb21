r"""The classes that decide eps*, and a predictor of these extended to the other classes.

eps* of some of the classes is at least that of all, and the weights that prove it prove it for all.
It is that of all where a predictor V of these classes S, of that ratio, has coefficients of the
other classes beside it. The threat is an l_q ball:

.. math:: w_l - w_k = t (v_l - v_k) \text{ for } l, k \in S, \quad t > 0, \qquad
    m_{ik} > \epsilon^* \|s (w_{y_i} - w_k)\|_{q^*} \text{ for } \{y_i, k\} \not\subset S.

Often S are two classes. No program has to be solved near eps* then, where all margins are zero.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from sklearn_robust.joint import JointProblem
from sklearn_robust.norms import LpNorm
from sklearn_robust.problems import RobustProblem
from sklearn_robust.separators._engine_choice import maximise_margin
from sklearn_robust.separators._joint_margin_form import (
    GivenClasses,
    Indices,
    JointMarginForm,
    on_all_samples,
)
from sklearn_robust.separators._joint_program import JointProgram
from sklearn_robust.separators._joint_working_sets import points_on_sets, suits_sets
from sklearn_robust.separators._max_margin_form import SolverFailure, Vector, over_columns
from sklearn_robust.threats import LpBall

# pairs of classes at most that are solved as two classes: those whose class means lie closest
_MAX_PAIRS = 66
_SMALL_SHARE = 1e-3  # share of all weights that the weights of a class must exceed to count
_LARGE = 1e4  # bound on the coefficients in linear programs near eps*, whose margins are small
SMALL = 1000  # pairs of classes times features up to which linear programs go to HiGHS
_NOTHING = 1e-9  # margin, in units of the rows, that is rounding of a solver


@dataclass(frozen=True)
class Bottleneck:
    """Some of the classes, and what is known of their eps*.

    Attributes
    ----------
    classes : ndarray of int of shape (m,)
        In increasing order.
    coef : ndarray of shape (m, d)
        The best known predictor of these classes.
    bound : float
        A bound on eps*.
    weights : ndarray of shape (K, n)
        Those of all classes and samples; they prove the bound.
    perturbations : ndarray of shape (K(K-1)/2, d) or None
        Those of all pairs.
    """

    classes: Indices
    coef: Vector
    bound: float
    weights: Vector
    perturbations: Vector | None


def closest_pair(problem: JointProblem, tol: float) -> Bottleneck | None:
    """The two classes of least eps*, by the engines of two classes; None where a feature has scale
    0, or where two classes were not separated.
    """
    scale, q = problem.threat.scale, problem.threat.q
    if scale is None:
        scale = np.ones(problem.n_features)
    if not scale.all():
        return None
    in_scales = replace(problem, X=over_columns(problem.X, scale), threat=LpBall(q, 1.0))
    closest: Bottleneck | None = None
    for pair in _pairs_by_means(in_scales)[:_MAX_PAIRS]:
        used, part = of_classes(in_scales, pair)
        two = RobustProblem.from_data(
            part.X, 2 * part.y - 1, q=q, eps=0.0, fit_intercept=problem.fit_intercept
        )
        try:
            found = maximise_margin(two, LpNorm(q).dual, tol)
        except RuntimeError:
            return None
        if not found.margin > 0:
            return None
        if closest is None or found.bound < closest.bound:
            coef = np.array([[-0.5], [0.5]]) * found.coef / scale
            weights = np.zeros((problem.n_classes, len(problem.y)))
            weights[pair[1 - part.y], used] = found.weights
            closest = Bottleneck(pair, coef, found.bound, weights, None)
    return closest


def _pairs_by_means(problem: JointProblem) -> list[Indices]:
    """The pairs of classes, those of the closest means in the norm of the threat first."""
    means = problem.at_class_means().X
    sizes = LpNorm(problem.threat.q).value(problem.pair_differences(means))
    pairs = np.stack(problem.pairs, axis=1)
    return list(pairs[np.argsort(sizes, kind="stable")])


def of_classes(problem: JointProblem, classes: Indices) -> tuple[Indices, JointProblem]:
    """The samples of some classes, by their places, and the problem of these classes alone."""
    used = np.flatnonzero(np.isin(problem.y, classes) & (problem.log_weight > -math.inf))
    part = replace(
        problem,
        X=problem.X[used],
        y=np.searchsorted(classes, problem.y[used]),
        n_classes=len(classes),
        log_weight=problem.log_weight[used],
    )
    return used, part


def classes_with_weight(pair_weights: Vector) -> Indices:
    """The classes that carry more than a small share of the weights (K, K)."""
    of_class = pair_weights.sum(axis=1)
    return np.flatnonzero(of_class > _SMALL_SHARE * of_class.sum())


def coef_size(dual_q: float) -> float:
    """The bound on the coefficients in programs for eps*."""
    return _LARGE if dual_q in (1, math.inf) else 1.0


class Extension(NamedTuple):
    """A predictor of some classes with coefficients of the others.

    Attributes
    ----------
    coef : ndarray of shape (K, d) or None
        None where none were found.
    in_the_way : ndarray of int
        The classes of both, where weights prove that there are none; otherwise empty.
    """

    coef: Vector | None
    in_the_way: Indices


def extended(problem: JointProblem, part: Bottleneck, radius: float) -> Extension:
    """Coefficients (K, d), those of the part up to a factor, under which all other pairs of classes
    have a ratio above the radius.
    """
    form = JointMarginForm.of(problem.at_radius(radius), LpNorm(math.inf))
    given = GivenClasses(part.classes, part.coef / np.abs(part.coef).max())
    small = problem.n_features * len(form.pairs[0]) <= SMALL
    form = replace(form, given=given, size=coef_size(form.dual_q), at_vertex=small)
    nobody = np.empty(0, dtype=np.intp)
    try:
        point = next(points_on_sets(form) if suits_sets(form) else JointProgram.of(form).points())
    except SolverFailure:
        return Extension(None, nobody)
    if point.gamma <= _NOTHING:
        weights = problem.pair_weights(on_all_samples(problem, point.weights))
        return Extension(None, np.union1d(part.classes, classes_with_weight(weights)))
    V = given.coef - given.coef[0]
    coef = point.coef.copy()
    # the equations hold up to the solver's precision; the ratio of the part is to be kept
    t = np.vdot(V, coef[part.classes] - coef[part.classes[0]]) / np.vdot(V, V)
    coef[part.classes] = coef[part.classes[0]] + t * V
    return Extension(coef if t > 0 else None, nobody)
