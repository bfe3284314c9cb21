r"""Matrix balancing: scaling a non-negative matrix until each row sum equals its column sum."""

from __future__ import annotations

import math

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components

_MAX_STEPS = 200
# largest |log of row sum over column sum| that is rounding, in machine epsilons
_BALANCED = 8.0
# the same logarithm, below which rounding is why a step does not halve it
_STALLED = 1e-12


def balancing_potentials(log_entries: np.ndarray) -> np.ndarray:
    r"""The g of sum 0 that balances a matrix: :math:`C_{lk} e^{g_l - g_k}` has the row sums of its
    columns.

    g minimises the convex :math:`\sum_{l \ne k} C_{lk} e^{g_l - g_k}`. Newton's method solves for
    equal logarithms of row and column sums; where a step of it does not halve the largest
    difference, a cycle of Osborne's takes its place, which minimises over one g_l after the other.
    All is in the log domain: the entries may lie any orders apart.

    Parameters
    ----------
    log_entries : ndarray of shape (K, K)
        :math:`\log C`; -inf for zero entries. The diagonal is ignored. The graph of the positive
        entries must be strongly connected; otherwise no balanced matrix exists.

    Returns
    -------
    ndarray of shape (K,)

    Notes
    -----
    B. Kalantari, L. Khachiyan and A. Shokoufandeh, On the complexity of matrix balancing, SIAM
    Journal on Matrix Analysis and Applications 18 (1997).

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_robust.balancing import balancing_potentials
    >>> balancing_potentials(np.log([[1.0, 1.0], [np.e**2, 1.0]]))
    array([ 0.5, -0.5])
    """
    log_entries = np.array(log_entries, dtype=np.float64)
    np.fill_diagonal(log_entries, -math.inf)
    g = np.zeros(len(log_entries))
    imbalance, jacobian = _imbalance(log_entries, g)
    for _ in range(_MAX_STEPS):
        worst = np.max(np.abs(imbalance))
        if worst <= _BALANCED * np.finfo(np.float64).eps:
            break
        moved = g - np.linalg.solve(jacobian, imbalance)
        new, new_jacobian = _imbalance(log_entries, moved)
        if not np.max(np.abs(new)) <= 0.5 * worst:
            if worst <= _STALLED:
                break
            moved = _cycle(log_entries, g)
            new, new_jacobian = _imbalance(log_entries, moved)
        g = moved - moved.mean()
        imbalance, jacobian = new, new_jacobian
    return g


def balancing_factors(entries: np.ndarray) -> np.ndarray:
    r"""The factors :math:`e^{g_l - g_k}` that balance a matrix, and zero for entries that no
    balanced matrix keeps.

    An entry is kept iff a cycle of positive entries leads through it: within each strongly
    connected part of the graph the matrix is balanced on its own.

    Parameters
    ----------
    entries : ndarray of shape (K, K)
        >= 0; the diagonal is ignored.

    Returns
    -------
    ndarray of shape (K, K)
        Zero on the diagonal.
    """
    entries = np.where(np.eye(len(entries), dtype=bool), 0.0, entries)
    parts = connected_components(sparse.csr_array(entries > 0), connection="strong")[1]
    factors = np.zeros_like(entries)
    for part in range(parts.max() + 1):
        members = np.flatnonzero(parts == part)
        if len(members) == 1:
            continue
        block = entries[np.ix_(members, members)]
        log_block = np.where(block > 0, np.log(np.where(block > 0, block, 1.0)), -math.inf)
        g = balancing_potentials(log_block)
        factors[np.ix_(members, members)] = np.where(block > 0, np.exp(g[:, None] - g), 0.0)
    return factors


def _imbalance(log_entries: np.ndarray, g: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """log of row sum over column sum of the scaled matrix, (K,), and its Jacobian, (K, K), made
    regular along the null vector 1.
    """
    logs = log_entries + g[:, None] - g
    rows, columns = _logsumexp(logs, axis=1), _logsumexp(logs, axis=0)
    of_row, of_column = np.exp(logs - rows[:, None]), np.exp(logs - columns)
    jacobian = 2 * np.eye(len(g)) - of_row - of_column.T + 1 / len(g)
    return rows - columns, jacobian


def _cycle(log_entries: np.ndarray, g: np.ndarray) -> np.ndarray:
    """Each g_l in turn set to where row and column l have equal sums."""
    g = g.copy()
    for c in range(len(g)):
        row = _logsumexp(log_entries[c] - g, axis=0)
        column = _logsumexp(log_entries[:, c] + g, axis=0)
        g[c] = 0.5 * (column - row)
    return g


def _logsumexp(values: np.ndarray, axis: int) -> np.ndarray:
    """log of the sum of exp along an axis that has a finite entry everywhere."""
    largest = values.max(axis=axis, keepdims=True)
    total = np.exp(values - largest).sum(axis=axis)
    result: np.ndarray = largest.squeeze(axis) + np.log(total)
    return result
