"""A sample of the rows, whose minimiser of the risk is a start for that of all."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.special import logsumexp

from sklearn_robust.problems import RobustProblem
from sklearn_robust.rows import DenseRows, SparseRows

EVERY = 16  # one of so many rows is in the sample
_LEAST_ENTRIES = 200_000  # entries of the data from which a sample pays
_LEAST_ROWS = 100  # rows of a sample at least, for each column
_TOL = 0.1  # gap of the sample's risk, as a share of its columns over its rows


def sample_of_rows(rows: DenseRows | SparseRows) -> DenseRows | SparseRows | None:
    """One of some rows; None where these are few for each column, or have few entries."""
    n, d = rows.shape
    if n * d < _LEAST_ENTRIES or n < EVERY * _LEAST_ROWS * d:
        return None
    return type(rows)(in_sample(rows.X))


def in_sample(values: Any) -> Any:
    """The rows of an array, or its entries, that are in the sample."""
    return values[::EVERY]


def sample_of(problem: RobustProblem) -> RobustProblem | None:
    """The same problem on one of some rows; None where that is no help.

    The minimum of the risk of m of the rows is that of all up to about d / m.
    """
    rows = problem.rows
    if not isinstance(rows, DenseRows | SparseRows) or problem.adversary is not None:
        return None
    sample = sample_of_rows(rows)
    if sample is None:
        return None
    y, log_weight = (in_sample(values.T).T for values in (problem.y, problem.log_weight))
    used = log_weight > -math.inf
    if not (np.any(used & (y > 0)) and np.any(used & (y < 0))):
        return None
    if log_weight.strides[-1]:
        log_weight = log_weight - logsumexp(log_weight, axis=1, keepdims=True)
    else:  # one number in memory for all samples
        log_weight = np.broadcast_to(-np.log(float(y.shape[1])), y.shape)
    return replace(problem, X=sample.X, y=y, log_weight=log_weight)


def sample_tol(sample: RobustProblem, tol: float) -> float:
    """The gap of the risk of a sample that tells as much as the sample does of all rows."""
    n, d = sample.rows.shape
    return max(_TOL * d / n, tol)
