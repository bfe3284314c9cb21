"""Exact separators of data in blocks, in files or on a cluster: from the problem to the answer.

The threat is an l_q ball.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sklearn_robust._parameters import check_choice, check_number, read_scale
from sklearn_robust.norms import LpNorm
from sklearn_robust.rows import BlockRows, LocalReduction, Reduction, Survey
from sklearn_robust.separators.critical_radius import max_margin
from sklearn_robust.separators.joint import reachable_tol
from sklearn_robust.separators.separator import Separator, read_norm, warn_of_gap
from sklearn_robust.separators.summed import (
    SummedSeparator,
    largest_summed_distance,
    problem_of_rows,
    separate_sums,
)
from sklearn_robust.separators.summed_joint import (
    largest_joint_summed_distance,
    problem_of_joint_rows,
    separate_joint_sums,
)
from sklearn_robust.separators.working_sets import RowSet
from sklearn_robust.summed import SummedJointProblem, SummedProblem, positive_classes
from sklearn_robust.threats import LpBall


@dataclass(frozen=True, repr=False)
class SeparatorOnRows(Separator):
    """A separator with the few samples on which its `dual_coef` is; these prove the bound.

    Attributes
    ----------
    X : ndarray of shape (m, d)
    y : ndarray of shape (m,)
        -1 and +1 of two classes, of which the greater label is the positive one; 0..K-1 of several,
        in the order of their labels.
    """

    X: Any = None
    y: Any = None


def read_summed_problem(
    reduction: Reduction, survey: Survey, *, q: float, eps: float, fit_intercept: bool, scale: Any
) -> SummedProblem | SummedJointProblem:
    """The problem that a user's parameters state of the data of a survey.

    Raises
    ------
    ValueError
        If the data do not hold two classes at least.
    """
    check_choice(fit_intercept, "fit_intercept", (True, False))
    classes = positive_classes(survey, 1.0)
    if len(classes) < 2:
        raise ValueError(
            f"y must hold two classes or more with samples of positive weight, got "
            f"{classes.tolist()}. A separator of one class needs the data in memory: "
            f"sklearn_robust.min_norm_separator."
        )
    scale = read_scale(scale, survey.n_features, survey.feature_names)
    kind = SummedProblem if len(classes) == 2 else SummedJointProblem
    return kind.of(
        reduction,
        survey,
        LpBall(q, eps, scale),
        classes=classes,
        factors=np.ones(len(classes)),
        fit_intercept=fit_intercept,
    )


def least_norm_of_blocks(
    rows: BlockRows, y: Any, p: Any, *, tol: float, **problem: Any
) -> SeparatorOnRows:
    """`min_norm_separator` of rows in blocks."""
    rows.refuse_beside(y=y)
    check_number(tol, "tol", low=0, strict=True)
    summed = read_summed_problem(LocalReduction(rows.source), rows.survey, **problem)
    return least_norm_on_rows(summed, p, tol, stacklevel=4)


def largest_distance_of_blocks(
    rows: BlockRows, y: Any, *, tol: float, **problem: Any
) -> SeparatorOnRows:
    """`max_margin` of rows in blocks."""
    rows.refuse_beside(y=y)
    summed = read_summed_problem(LocalReduction(rows.source), rows.survey, eps=0.0, **problem)
    return largest_distance_on_rows(summed, tol, stacklevel=4)


def least_norm_on_rows(
    problem: SummedProblem | SummedJointProblem, p: Any, tol: float, *, stacklevel: int = 3
) -> SeparatorOnRows:
    """`min_norm_separator` of samples known by sums."""
    norm = read_norm(p, len(problem.classes))
    if isinstance(problem, SummedJointProblem):
        tol = reachable_tol(norm, tol)
        found = separate_joint_sums(problem, norm, tol)
    else:
        assert isinstance(norm, LpNorm)
        found = separate_sums(problem, norm, tol)
    return _answer(problem, norm, found, tol, stacklevel + 1)


def largest_distance_on_rows(
    problem: SummedProblem | SummedJointProblem, tol: float, *, stacklevel: int = 3
) -> SeparatorOnRows:
    """`max_margin` of samples known by sums."""
    norm = LpNorm(problem.threat.q).dual
    if isinstance(problem, SummedJointProblem):
        found = largest_joint_summed_distance(problem, tol)
        return _answer(replace(problem, radius=0.0), norm, found, tol, stacklevel + 1)
    found = largest_summed_distance(problem, tol)
    if found.certified.margin > 0:
        return _answer(problem, norm, found, tol, stacklevel + 1)
    rows = found.rows
    nothing = max_margin(
        rows.X,
        rows.y,
        q=problem.threat.q,
        fit_intercept=problem.fit_intercept,
        tol=tol,
        scale=problem.threat.scale,
    )
    if nothing.margin > 0:  # these few samples prove nothing for all
        warn_of_gap(1.0, tol, stacklevel=stacklevel)
        zero = np.zeros_like(nothing.coef)
        nothing = replace(nothing, coef=zero, intercept=0.0, margin=0.0, relative_gap=1.0)
    return _on_rows(nothing, rows)


def _answer(
    problem: SummedProblem | SummedJointProblem,
    norm: Any,
    found: SummedSeparator,
    tol: float,
    stacklevel: int,
) -> SeparatorOnRows:
    """The separator, after a warning where its gap is above tol."""
    certified, rows = found.certified, found.rows
    gap = certified.gap
    if certified.margin == 0:  # nothing separates, which is proven where the bound is zero
        gap = 0.0 if certified.bound == 0 else 1.0
    warn_of_gap(gap, tol, stacklevel=stacklevel)
    part: Any
    if isinstance(problem, SummedJointProblem):
        part = problem_of_joint_rows(problem, rows)
    else:
        part = problem_of_rows(problem, rows)
    return _on_rows(Separator.of(part, norm, certified, gap), rows)


def _on_rows(separator: Separator, rows: RowSet) -> SeparatorOnRows:
    """The separator with the samples of its weights."""
    return SeparatorOnRows(**{**vars(separator), "X": rows.X, "y": rows.y})
