r"""The largest margin as a linear program: p in {1, inf}, and q in {1, inf} or no adversary.

The norms are linear in :math:`w = u - v` with :math:`u, v \ge 0`, for at a solution no coordinate
has both.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy import sparse

from sklearn_robust._highs import run_highs
from sklearn_robust.certificates import Point
from sklearn_robust.separators._max_margin_form import MaxMarginForm


def suits(program: MaxMarginForm) -> bool:
    """Whether p is in {1, inf}, and q in {1, inf} or without adversary."""
    return program.p in (1, math.inf) and (program.eps == 0 or program.dual_q in (1, math.inf))


def solve_linear_program(program: MaxMarginForm) -> Point:
    """Solve with HiGHS.

    Parameters
    ----------
    program : MaxMarginForm
        With p in {1, inf}, and dual_q in {1, inf} or eps = 0.

    Returns
    -------
    Point

    Raises
    ------
    SolverFailure
        If HiGHS ends without a solution, or reaches its limit of iterations.
    """
    n, d = program.rows.shape
    attacked = program.eps > 0
    labels = np.empty((n, 0)) if program.labels is None else program.labels[:, None]
    split = sparse.hstack([sparse.csr_array(-program.rows), sparse.csr_array(program.rows)])
    total = np.ones((1, 2 * d))

    # columns u (d), v (d), b if it is free, gamma, and s >= ||w||_q* under attack; rows A x <= b
    blocks: list[list[Any]] = [
        [split, -labels, np.ones((n, 1)), np.full((n, int(attacked)), program.eps)]
    ]
    limits = [np.zeros(n)]
    if program.p == 1:
        blocks.append([total, None, None, None])
        limits.append(np.ones(1))
    if attacked:
        scale = sparse.diags_array(np.ones(d) if program.scale is None else program.scale)
        each = sparse.hstack([scale, scale])
        bounded = np.asarray(each.sum(axis=0))[None] if program.dual_q == 1 else each
        blocks.append([bounded, None, None, -np.ones((bounded.shape[0], 1))])
        limits.append(np.zeros(bounded.shape[0]))

    A = sparse.block_array(
        [[block if block is None else sparse.csr_array(block) for block in row] for row in blocks]
    )
    n_free = labels.shape[1] + 1
    cost = np.zeros(A.shape[1])
    cost[2 * d + n_free - 1] = -1
    lower = np.concatenate([np.zeros(2 * d), np.full(n_free, -math.inf), np.zeros(int(attacked))])
    upper = np.full(A.shape[1], math.inf)
    if program.p == math.inf:
        upper[: 2 * d] = 1
    arguments = {
        "c": cost,
        "A_ub": A,
        "b_ub": np.concatenate(limits),
        "bounds": np.stack([lower, upper], axis=1),
    }
    result = run_highs(arguments)
    return Point(result.x[:d] - result.x[d : 2 * d], -result.ineqlin.marginals[:n])
