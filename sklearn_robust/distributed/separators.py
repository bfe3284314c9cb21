"""Exact separators on a cluster; the threat is an l_q ball."""

from __future__ import annotations

from typing import Any

from sklearn_robust._parameters import check_exponent, check_number
from sklearn_robust.distributed.chunks import read_chunks
from sklearn_robust.distributed.reduction import DaskReduction, current_client
from sklearn_robust.rows import Survey
from sklearn_robust.separators.on_rows import (
    SeparatorOnRows,
    largest_distance_on_rows,
    least_norm_on_rows,
    read_summed_problem,
)
from sklearn_robust.separators.separator import check_geometry, warn_of_gap
from sklearn_robust.summed import SummedJointProblem, SummedProblem
from sklearn_robust.threats import check_radius


def min_norm_separator(
    X: Any,
    y: Any = None,
    *,
    p: float | str,
    q: float,
    eps: float,
    fit_intercept: bool = False,
    tol: float = 1e-8,
    scale: Any = None,
    client: Any = None,
) -> SeparatorOnRows:
    r"""The robust separator of least p-norm, as `sklearn_robust.min_norm_separator` finds it.

    A set of samples is solved in this process. Each chunk then answers with its least margin and at
    most 2 d (K - 1) of the samples that violate the set's margin, for some ten rounds: no other
    data move.

    Parameters
    ----------
    X : dask array or frame of shape (n, d), or list of row sources
        A row source has a method blocks() that yields (X, y) or (X, y, sample_weight).
    y : dask array or series of shape (n,)
        Two or more classes; of two the greater label is the positive one. None for row sources.
    p, q, eps, fit_intercept, tol, scale
        As there.
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
        If a parameter is out of its range, or the data hold one class.

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
    check_geometry(p)
    problem = _read(X, y, q, check_radius(eps, "eps"), fit_intercept, scale, client)
    check_number(tol, "tol", low=0, strict=True)
    separator, tol = least_norm_on_rows(problem, p, tol)
    warn_of_gap(separator.relative_gap, tol)
    return separator


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
        As in `sklearn_robust.max_margin`.

    Returns
    -------
    SeparatorOnRows
        Where nothing separates the samples its coefficients and its margin are zero; where features
        of scale 0 alone separate them, its margin is inf.

    Raises
    ------
    ValueError
        If a parameter is out of its range, or the data hold one class.

    Warns
    -----
    ConvergenceWarning
        If the certified gap is above tol.
    """
    problem = _read(X, y, q, 0.0, fit_intercept, scale, client)
    check_number(tol, "tol", low=0, strict=True)
    separator = largest_distance_on_rows(problem, tol)
    warn_of_gap(separator.relative_gap, tol)
    return separator


def _read(
    X: Any, y: Any, q: float, eps: float, fit_intercept: bool, scale: Any, client: Any
) -> SummedProblem | SummedJointProblem:
    """The problem that a user's data and parameters state."""
    q = check_exponent(q, "q")
    reduction = DaskReduction(current_client(client), read_chunks(X, y))
    survey = reduction.total(Survey.of)
    return read_summed_problem(
        reduction, survey, q=q, eps=eps, fit_intercept=fit_intercept, scale=scale
    )
