r"""The minimiser of the robust risk on few of many columns, against an l_q ball, q = inf.

The penalty is an l1 norm, under which a coefficient leaves zero only where :math:`|Z^T a|_j >
\epsilon s_j \sum_i a_i`, s the scale of the ball. Minimised over the columns in use and those near
leaving zero, the risk is the least over all columns once no other leaves zero, and the weights that
certify it there certify it: the other columns are read once in a round.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from sklearn_robust.certificates import proves_not_separable
from sklearn_robust.losses import MarginLoss
from sklearn_robust.problems import RobustProblem
from sklearn_robust.rows import DenseRows
from sklearn_robust.solvers.solution import Solution

_LEAST_ENTRIES = 2**18  # entries of the data from which products with all columns cost more
_MANY_COLUMNS = 150  # columns above which some are left out
_NEAR_BOUND = 0.8  # share of its bound from which |Z^T a|_j takes column j in
_MOST = 0.25  # share of the columns that are few
_ROUNDS = 5

# the solution of a problem from a start (1, d) after so many iterations, as a solver returns it
Solve = Callable[
    [RobustProblem, np.ndarray, np.ndarray, int], tuple[Solution | None, np.ndarray, int]
]


def uses_few_columns(problem: RobustProblem) -> bool:
    """Whether the minimiser may use few of the columns, and it pays to look at these alone."""
    rows, threat = problem.rows, problem.threat
    penalised = threat.q == math.inf and problem.radius[0] > 0
    large = math.prod(rows.shape) >= _LEAST_ENTRIES and rows.shape[1] > _MANY_COLUMNS
    return isinstance(rows, DenseRows) and penalised and large


def minimise_on_columns(
    problem: RobustProblem,
    loss: MarginLoss,
    start: np.ndarray,
    *,
    max_iter: int,
    solve: Solve,
    certify: Callable[[np.ndarray, np.ndarray], Solution],
) -> tuple[Solution | None, np.ndarray, int]:
    """Minimise the log-risk of one problem in rounds, each on some of the columns.

    Parameters
    ----------
    problem : RobustProblem
        One problem, in double arithmetic, that `uses_few_columns`.
    loss : MarginLoss
    start : ndarray of shape (1, d)
    max_iter : int
    solve : callable
        The minimiser of a problem on these columns, from a start, after so many iterations.
    certify : callable
        The solution of coefficients (1, d) with the gap that weights (1, n) prove.

    Returns
    -------
    solution : Solution or None
        Proven for all columns; None where many columns are in use, or a round proves nothing.
    coef : ndarray of shape (1, d)
    n_iter : int
    """
    coef, n_iter = start, 0
    at_zero = not start.any()
    weights = problem.class_shares() if at_zero else problem.evaluate(loss, start).weights
    weighted_sum = problem.weighted_sum(weights)
    taken = np.zeros(problem.n_features, dtype=bool)
    scale = np.ones(problem.n_features) if problem.threat.scale is None else problem.threat.scale
    for _ in range(_ROUNDS):
        bound = problem.radius * problem.attacked_weight(weights) * scale
        before = taken
        taken = taken | (coef[0] != 0) | (np.abs(weighted_sum[0]) > _NEAR_BOUND * bound)
        columns = np.flatnonzero(taken)
        if not len(columns):  # at zero, against a large radius
            return certify(coef, problem.balanced(weights)), coef, n_iter
        few = len(columns) <= _MOST * problem.n_features
        if not few or np.array_equal(taken, before) or n_iter >= max_iter:
            break
        solution, found, more = solve(_on(problem, columns), coef[:, columns], columns, n_iter)
        n_iter += more
        coef = spread(found, columns, problem.n_features)
        if solution is None or solution.separable[0] is not False:
            break
        weights = solution.weights
        weighted_sum = problem.weighted_sum(weights)
        if proves_not_separable(problem, weights, weighted_sum=weighted_sum)[0]:
            whole = spread(solution.coef, columns, problem.n_features)
            return replace(solution, coef=whole), coef, n_iter
    return None, coef, n_iter


def spread(coef: np.ndarray, columns: np.ndarray, n_features: int) -> np.ndarray:
    """Coefficients (1, d) of all features from those of some columns: zero elsewhere."""
    whole = np.zeros((len(coef), n_features), coef.dtype)
    whole[:, columns] = coef
    return whole


def _on(problem: RobustProblem, columns: np.ndarray) -> RobustProblem:
    """The same problem on a copy of these columns."""
    threat = problem.threat
    if threat.scale is not None:
        threat = replace(threat, scale=threat.scale[columns])
    return replace(problem, X=np.take(problem.X, columns, axis=1), threat=threat)
