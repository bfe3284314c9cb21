r"""The total variation on the complete graph of a few classes: cuts, proximal point, distance.

For capacities :math:`c_{lk} \ge 0` of the pairs of K classes the total variation is :math:`T(u) =
\sum_{l < k} c_{lk} |u_l - u_k|`. It is the support function of the flows

.. math:: F = \{ \textstyle\sum_{l < k} (e_l - e_k) \delta_{lk} : |\delta_{lk}| \le c_{lk} \},

and by max-flow and min-cut z lies in F iff :math:`\sum_l z_l = 0` and :math:`z(S) = \sum_{l \in S}
z_l \le c(S)` for every set S of classes, with the cut :math:`c(S) = \sum_{l \in S, k \notin S}
c_{lk}`.

The distance of g to F is attained at :math:`g - z = \operatorname{prox}_T(g)`, by Moreau's
identity. Cuts are submodular, so F is a base polytope, and the nearest point in the 2-norm leaves a
least majorised residual: it is nearest in every l_p norm at once (A. Tamir, Least majorized
elements and generalized polymatroids, Mathematics of Operations Research 20, 1995).

All sets are enumerated: there are 2^K. Arrays are (K, d), and every column, a feature, is a problem
of its own.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

__all__ = ["cut_excess", "total_variation_prox"]

# most classes whose sets are enumerated: 4096 sets of 66 pairs
MAX_CLASSES = 12
# entries of the table of sets and features that exist at a time
_BLOCK_ENTRIES = 2**18
# machine epsilons, relative to the sizes of the terms, by which a set must gain to split a group
_GAIN = 16.0


@lru_cache(maxsize=MAX_CLASSES)
def class_sets(n_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """All sets S of the classes, and the pairs of classes l < k that each of them separates.

    Parameters
    ----------
    n_classes : int
        K, at most 12.

    Returns
    -------
    members : ndarray of shape (2^K, K)
        Numbers 0 and 1.
    cuts : ndarray of shape (2^K, K(K-1)/2)
        Numbers 0 and 1.

    Raises
    ------
    ValueError
        If there are more than 12 classes.
    """
    if n_classes > MAX_CLASSES:
        raise ValueError(
            f"n_classes must be at most {MAX_CLASSES} where all sets of classes are enumerated, "
            f"got {n_classes}: use the pairs of classes."
        )
    members = (np.arange(2**n_classes)[:, None] >> np.arange(n_classes)) & 1
    low, high = np.triu_indices(n_classes, 1)
    cuts = members[:, low] != members[:, high]
    return members.astype(np.float64), cuts.astype(np.float64)


def cut_excess(flow: np.ndarray, capacities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    r"""How far columns are from the flows: the largest :math:`z(S) - c(S)`, and the largest ratio
    :math:`z(S) / c(S)`.

    Parameters
    ----------
    flow : ndarray of shape (K, d)
        z, of column sums 0.
    capacities : ndarray of shape (K(K-1)/2, d) or (K(K-1)/2, 1)
        c of the pairs l < k.

    Returns
    -------
    excess : ndarray of shape (d,)
        <= 0 iff the column is a flow.
    ratio : ndarray of shape (d,)
        <= 1 iff the column is a flow; inf where a set of capacity 0 sends anything.
    """
    members, cuts = class_sets(len(flow))
    members, cuts = members[1:-1], cuts[1:-1]
    excess = np.empty(flow.shape[1])
    ratio = np.empty(flow.shape[1])
    for at in _columns(flow, members):
        sent, capacity = members @ flow[:, at], cuts @ _part(capacities, at)
        excess[at] = np.max(sent - capacity, axis=0)
        open_sets = capacity > 0
        ratios = np.where(open_sets, sent, 0) / np.where(open_sets, capacity, 1)
        ratio[at] = np.max(np.where(~open_sets & (sent > 0), np.inf, ratios), axis=0)
    return excess, ratio


def total_variation_prox(
    g: np.ndarray,
    capacities: np.ndarray,
    tied: np.ndarray | None = None,
    rates: np.ndarray | None = None,
) -> np.ndarray:
    r"""The proximal point of the total variation, :math:`\arg\min_u \tfrac12 \sum_l (u_l -
    g_l)^2 / r_l + T(u)`, of each column.

    With rates r of 1 it is what the nearest flow leaves of g, in every l_p norm. By divide and
    conquer: a group of classes is at its mean :math:`\mu`, with weights 1 / r, unless a set S of it
    has :math:`\sum_{l \in S} (g_l - \mu) / r_l > c(S)`; then the set of the largest excess is above
    the rest of the group, which adds :math:`\mp c` to both sides of the cut, and each side is a
    group of its own.

    Parameters
    ----------
    g : ndarray of shape (K, d)
    capacities : ndarray of shape (K(K-1)/2, d) or (K(K-1)/2, 1)
        c >= 0 of the pairs l < k.
    tied : ndarray of bool of shape (K(K-1)/2, d), optional
        The pairs that count, an equivalence relation in each column; all by default. The others are
        not joined at all.
    rates : ndarray of shape (K, d), optional
        r > 0; 1 by default.

    Returns
    -------
    ndarray of shape (K, d)

    Examples
    --------
    With two classes it is the soft threshold of half the difference:

    >>> import numpy as np
    >>> from sklearn_robust.total_variation import total_variation_prox
    >>> total_variation_prox(np.array([[3.0, 0.4], [-3.0, -0.4]]), np.ones((1, 1)))
    array([[ 2.,  0.],
           [-2.,  0.]])
    """
    members = class_sets(len(g))[0]
    u = np.empty_like(g, dtype=np.float64)
    for at in _columns(g, members):
        joined = None if tied is None else tied[:, at]
        part = g[:, at].astype(np.float64)
        weights = np.ones_like(part) if rates is None else 1 / rates[:, at]
        u[:, at] = _prox(weights * part, weights, _part(capacities, at), joined)
    return u


def _prox(
    g: np.ndarray, weights: np.ndarray, capacities: np.ndarray, tied: np.ndarray | None
) -> np.ndarray:
    """`total_variation_prox` of some columns, from g / r and 1 / r."""
    n_classes, d = g.shape
    members, cuts = class_sets(n_classes)
    low, high = np.triu_indices(n_classes, 1)
    ends = (np.arange(n_classes)[:, None] == low) * 1.0 - (np.arange(n_classes)[:, None] == high)
    tied = np.ones((len(low), d), dtype=bool) if tied is None else tied.copy()
    capacities = np.broadcast_to(capacities, tied.shape)
    g, mean = g.copy(), np.empty_like(g)
    open_columns = np.arange(d)
    for _ in range(n_classes):
        joined = tied[:, open_columns]
        mean[:, open_columns] = _group_means(g[:, open_columns], weights[:, open_columns], joined)
        height = g[:, open_columns] - weights[:, open_columns] * mean[:, open_columns]
        within = np.where(joined, capacities[:, open_columns], 0)
        gain = members @ height - cuts @ within
        best = np.argmax(gain, axis=0)
        places = np.arange(len(open_columns))
        room = np.sum(np.abs(g[:, open_columns]), axis=0) + np.sum(within, axis=0)
        split = gain[best, places] > _GAIN * np.finfo(np.float64).eps * room
        if not split.any():
            break
        open_columns, best = open_columns[split], best[split]
        joined, within = joined[:, split], within[:, split]
        above = members[best].T > 0
        # pairs that the set separates within a group: the upper side pays c, the lower receives it
        sign = above[low].astype(np.float64) - above[high]
        moved = sign * within
        g[:, open_columns] -= ends @ moved
        tied[:, open_columns] = joined & (sign == 0)
    return mean


def _group_means(g: np.ndarray, weights: np.ndarray, tied: np.ndarray) -> np.ndarray:
    """The sum of g (K, m) over that of the weights, of the classes tied to each: (K, m); to the
    last digit one number for a group, as all sum in one order.
    """
    n_classes = len(g)
    low, high = np.triu_indices(n_classes, 1)
    joined = np.zeros((n_classes, *g.shape))
    joined[low, high] = joined[high, low] = tied
    joined[np.arange(n_classes), np.arange(n_classes)] = 1
    means: np.ndarray = (joined * g).sum(axis=1) / (joined * weights).sum(axis=1)
    return means


def _columns(g: np.ndarray, members: np.ndarray) -> list[slice]:
    """Blocks of columns whose table with the sets is of moderate size."""
    length = max(1, _BLOCK_ENTRIES // len(members))
    return [slice(start, start + length) for start in range(0, g.shape[1], length)]


def _part(capacities: np.ndarray, at: slice) -> np.ndarray:
    """The capacities of a block of columns."""
    return capacities if capacities.shape[1] == 1 else capacities[:, at]
