"""The point of a convex set that is nearest in a norm, from Euclidean projections alone."""

from __future__ import annotations

from collections.abc import Callable

from sklearn_robust._array_api import Array, namespace
from sklearn_robust.norms import Norm

_MAX_SPLIT = 2000  # iterations; polyhedral sets and norms take tens
_SPLIT_TOL = 1e-11  # relative gap, proven by the dual point, at which a row is done


def nearest_residual(project: Callable[[Array], Array], g: Array, norm: Norm) -> Array:
    r"""g minus the point of a convex set C that is nearest to g in a norm N, by Douglas-Rachford
    splitting.

    With x = g - delta the problem is :math:`\min_x N(x) + \iota(g - x \in C)`. One iteration takes
    the proximal point of N, by Moreau's identity a projection on the dual unit ball B*, and the
    projection on C:

    .. math:: x = z - P_{t B^*}(z), \quad y = g - P_C(g - 2 x + z), \quad z \leftarrow z + y - x.

    The vector v = y - 2 x + z is normal to C at g - y, which bounds the distance from below by
    :math:`\langle v, y \rangle / N^*(v)`: the iteration stops where N(y) meets that bound.

    Parameters
    ----------
    project : callable
        The Euclidean projection on C of the k rows, (k, d) -> (k, d).
    g : array of shape (k, d)
    norm : Norm
        The norm N that measures the distance.

    Returns
    -------
    array of shape (k, d)
        The residual y of smallest norm that was met; g - y is a point that `project` returned.
    """
    xp, dual = namespace(g), norm.dual
    y = g - project(g)
    best, least = y, norm.value(y)
    if not bool(xp.any(least > 0)):
        return best
    # the proximal parameter that makes both parts of z = x + t u, u in B*, of one size
    start = dual.steepest_direction(y)
    t = _length(y) / xp.where(_length(start) > 0, _length(start), 1.0)
    t = xp.where(t > 0, t, xp.ones_like(t))
    z = y + t[..., None] * start
    for _ in range(_MAX_SPLIT):
        x = z - dual.project(z, t)
        y = g - project(g - 2 * x + z)
        normal = y - 2 * x + z
        z = z + y - x
        size = norm.value(y)
        closer = size < least
        best, least = xp.where(closer[..., None], y, best), xp.where(closer, size, least)
        scale = dual.value(normal)
        bound = xp.sum(normal * y, axis=-1) / xp.where(scale > 0, scale, xp.ones_like(scale))
        if bool(xp.all(least - bound <= _SPLIT_TOL * least)):
            break
    return best


def _length(x: Array) -> Array:
    """The 2-norm of each row."""
    xp = namespace(x)
    return xp.sqrt(xp.sum(x * x, axis=-1))
