"""Exact separators of two classes on a cluster; the threat is an l_q ball."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sklearn_robust._parameters import (
    check_choice,
    check_exponent,
    check_number,
    read_scale,
)
from sklearn_robust.distributed.chunks import read_chunks
from sklearn_robust.distributed.reduction import DaskReduction, current_client
from sklearn_robust.norms import LpNorm
from sklearn_robust.rows import Survey
from sklearn_robust.separators import Separator
from sklearn_robust.separators import max_margin as max_margin_in_memory
from sklearn_robust.separators.separator import warn_of_gap
from sklearn_robust.separators.summed import (
    SummedSeparator,
    largest_summed_distance,
    problem_of_rows,
    separate_sums,
)
from sklearn_robust.separators.working_sets import RowSet
from sklearn_robust.summed import SummedProblem, positive_classes
from sklearn_robust.threats import LpBall, check_radius


@dataclass(frozen=True, repr=False)
class SeparatorOnRows(Separator):
    """A separator with the few samples on which its `dual_coef` is; these prove the bound.

    Attributes
    ----------
    X : ndarray of shape (m, d)
    y : ndarray of shape (m,)
        -1 and +1; of the two classes the greater label is the positive one.
    """

    X: Any = None
    y: Any = None


def min_norm_separator(
    X: Any,
    y: Any = None,
    *,
    p: float,
    q: float,
    eps: float,
    fit_intercept: bool = False,
    tol: float = 1e-8,
    scale: Any = None,
    client: Any = None,
) -> SeparatorOnRows:
    r"""The robust separator of least p-norm, as `sklearn_robust.min_norm_separator` finds it.

    A set of samples is solved in this process. Each chunk then answers with its least score and at
    most 2 d of the samples that violate the set's margin, for some ten rounds: no other data move.

    Parameters
    ----------
    X : dask array or frame of shape (n, d), or list of row sources
        A row source has a method blocks() that yields (X, y) or (X, y, sample_weight).
    y : dask array or series of shape (n,)
        Two classes, of which the greater label is the positive one. None for row sources.
    p, q, eps, fit_intercept, tol, scale
        As there; p is a number.
    client : distributed.Client, optional
        The current one by default.

    Returns
    -------
    SeparatorOnRows
        With the m samples that its `dual_coef` weighs.

    Raises
    ------
    NotSeparableError
        If no robust separator exists; `weights` of a few samples prove it.
    ValueError
        If a parameter is out of its range, or the data do not hold two classes.

    Warns
    -----
    ConvergenceWarning
        If the certified gap is above tol.

    Examples
    --------
    >>> import dask.array as da
    >>> import numpy as np
    >>> from distributed import Client
    >>> from sklearn_robust import distributed
    >>> X = da.from_array(np.array([[3.0, 1.0], [-3.0, 1.0]]), chunks=(1, 2))
    >>> y = da.from_array(np.array([1, -1]), chunks=1)
    >>> with Client(processes=False, n_workers=1, dashboard_address=":0") as client:
    ...     separator = distributed.min_norm_separator(X, y, p=2, q=np.inf, eps=1.0)
    >>> separator.coef.round(6) + 0.0
    array([0.5, 0. ])
    """
    norm = LpNorm(check_exponent(p, "p"))
    problem = _read(X, y, q, check_radius(eps, "eps"), fit_intercept, scale, client)
    check_number(tol, "tol", low=0, strict=True)
    return _answer(problem, norm, separate_sums(problem, norm, tol), tol)


def max_margin(
    X: Any,
    y: Any = None,
    *,
    q: float,
    fit_intercept: bool = False,
    tol: float = 1e-8,
    scale: Any = None,
    client: Any = None,
) -> SeparatorOnRows:
    r"""The separator of largest l_q distance to its closest sample, as `sklearn_robust.max_margin`
    finds it; its margin is eps*.

    Parameters
    ----------
    X, y, client
        As in `sklearn_robust.distributed.min_norm_separator`.
    q, fit_intercept, tol, scale
        As in `sklearn_robust.max_margin`; scales are positive.

    Returns
    -------
    SeparatorOnRows
        Where nothing separates the samples its coefficients and its margin are zero.

    Raises
    ------
    ValueError
        If a parameter is out of its range, or the data do not hold two classes.

    Warns
    -----
    ConvergenceWarning
        If the certified gap is above tol.
    """
    problem = _read(X, y, q, 0.0, fit_intercept, scale, client)
    check_number(tol, "tol", low=0, strict=True)
    found = largest_summed_distance(problem, tol)
    norm = LpNorm(problem.threat.q).dual
    if found.certified.margin > 0:
        return _answer(problem, norm, found, tol)
    rows, scale = found.rows, problem.threat.scale
    nothing = max_margin_in_memory(
        rows.X, rows.y, q=q, fit_intercept=fit_intercept, tol=tol, scale=scale
    )
    if nothing.margin > 0:  # these few samples prove nothing for all
        warn_of_gap(1.0, tol)
        zero = np.zeros_like(nothing.coef)
        nothing = replace(nothing, coef=zero, intercept=0.0, margin=0.0, relative_gap=1.0)
    return _on_rows(nothing, rows)


def _read(
    X: Any, y: Any, q: float, eps: float, fit_intercept: bool, scale: Any, client: Any
) -> SummedProblem:
    """The problem that a user's data and parameters state."""
    q = check_exponent(q, "q")
    check_choice(fit_intercept, "fit_intercept", (True, False))
    reduction = DaskReduction(current_client(client), read_chunks(X, y))
    survey = reduction.total(Survey.of)
    classes = positive_classes(survey, 1.0)
    if len(classes) != 2:
        raise ValueError(
            f"y must hold two classes with samples of positive weight, got {classes.tolist()}. "
            f"The separators of other data need them in memory: sklearn_robust.min_norm_separator."
        )
    scale = read_scale(scale, survey.n_features, survey.feature_names)
    return SummedProblem.of(
        reduction,
        survey,
        LpBall(q, eps, scale),
        classes=classes,
        factors=np.ones(2),
        fit_intercept=fit_intercept,
    )


def _answer(
    problem: SummedProblem, norm: LpNorm, found: SummedSeparator, tol: float
) -> SeparatorOnRows:
    """The separator, after a warning where its gap is above tol."""
    certified, rows = found.certified, found.rows
    warn_of_gap(certified.gap, tol, stacklevel=4)
    part = problem_of_rows(problem, rows)
    return _on_rows(Separator.of(part, norm, certified, certified.gap), rows)


def _on_rows(separator: Separator, rows: RowSet) -> SeparatorOnRows:
    """The separator with the samples of its weights."""
    return SeparatorOnRows(**{**vars(separator), "X": rows.X, "y": rows.y})
