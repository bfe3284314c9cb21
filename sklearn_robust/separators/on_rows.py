"""Exact separators of data in blocks, in files or on a cluster: from the problem to the answer.

The threat is an l_q ball.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sklearn_robust._parameters import check_choice, check_number, read_scale
from sklearn_robust.joint import JointProblem
from sklearn_robust.norms import LpNorm
from sklearn_robust.problems import RobustProblem
from sklearn_robust.rows import BlockRows, LocalReduction, Reduction, Survey
from sklearn_robust.separators.critical_radius import farthest_joint_separator, farthest_separator
from sklearn_robust.separators.joint import reachable_tol
from sklearn_robust.separators.separator import Separator, read_norm
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
    problem = kind.of(
        reduction,
        survey,
        LpBall(q, eps, scale),
        classes=classes,
        factors=np.ones(len(classes)),
        fit_intercept=fit_intercept,
    )
    if scale is not None and not scale.any():  # eps* is inf, not that of equal scales
        return replace(problem, threat=LpBall(q, 1.0, scale))
    return problem


def least_norm_of_blocks(
    rows: BlockRows, y: Any, p: Any, *, tol: float, **problem: Any
) -> tuple[SeparatorOnRows, float]:
    """`min_norm_separator` of rows in blocks, and the gap that it had to reach."""
    rows.refuse_beside(y=y)
    check_number(tol, "tol", low=0, strict=True)
    summed = read_summed_problem(LocalReduction(rows.source), rows.survey, **problem)
    return least_norm_on_rows(summed, p, tol)


def largest_distance_of_blocks(
    rows: BlockRows, y: Any, *, tol: float, **problem: Any
) -> SeparatorOnRows:
    """`max_margin` of rows in blocks."""
    rows.refuse_beside(y=y)
    summed = read_summed_problem(LocalReduction(rows.source), rows.survey, eps=0.0, **problem)
    return largest_distance_on_rows(summed, tol)


def least_norm_on_rows(
    problem: SummedProblem | SummedJointProblem, p: Any, tol: float
) -> tuple[SeparatorOnRows, float]:
    """`min_norm_separator` of samples known by sums, and the gap that it had to reach."""
    norm = read_norm(p, len(problem.classes))
    part: RobustProblem | JointProblem
    if isinstance(problem, SummedJointProblem):
        tol = reachable_tol(norm, tol)
        found = separate_joint_sums(problem, norm, tol)
        part = problem_of_joint_rows(problem, found.rows)
    else:
        assert isinstance(norm, LpNorm)
        found = separate_sums(problem, norm, tol)
        part = problem_of_rows(problem, found.rows)
    return _on_rows(Separator.of(part, norm, found.certified, found.certified.gap), found), tol


def largest_distance_on_rows(
    problem: SummedProblem | SummedJointProblem, tol: float
) -> SeparatorOnRows:
    """`max_margin` of samples known by sums."""
    if isinstance(problem, SummedJointProblem):
        of_classes = largest_joint_summed_distance(problem, tol)
        joint = problem_of_joint_rows(replace(problem, radius=0.0), of_classes.rows)
        return _on_rows(farthest_joint_separator(joint, of_classes.certified), of_classes)
    found = largest_summed_distance(problem, tol)
    part = problem_of_rows(replace(problem, radius=0.0), found.rows)
    return _on_rows(farthest_separator(part, found.certified), found)


def _on_rows(separator: Separator, found: SummedSeparator) -> SeparatorOnRows:
    """The separator with the samples of its weights."""
    return SeparatorOnRows(**{**vars(separator), "X": found.rows.X, "y": found.rows.y})
