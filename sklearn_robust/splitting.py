"""The point of a convex set that is nearest in a norm, from Euclidean projections alone."""

from __future__ import annotations

from collections.abc import Callable

from sklearn_robust._array_api import Array, namespace
from sklearn_robust.norms import Norm

_MAX_SPLIT = 2000  # iterations; polyhedral sets and norms take tens
# relative gap, proven by the dual point, at which a row is done; in machine epsilons where that is
# coarser
_SPLIT_TOL = 1e-11
_SPLIT_EPS = 64


def split(project: Callable[[Array], Array], g: Array, norm: Norm) -> tuple[Array, Array]:
    r"""The point of a convex set C that is nearest to g in a norm N, and the direction that proves
    it, by Douglas-Rachford splitting.

    With x = g - delta the problem is :math:`\min_x N(x) + \iota(g - x \in C)`. One iteration takes
    the proximal point of N, by Moreau's identity a projection on the dual unit ball B*, and the
    projection on C:

    .. math:: x = z - P_{t B^*}(z), \quad y = g - P_C(g - 2 x + z), \quad z \leftarrow z + y - x.

    The vector v = y - 2 x + z is normal to C at g - y, which bounds the distance from below by
    :math:`\langle v, y \rangle / N^*(v)`: the iteration stops where N(y) meets that bound. Where g
    - C holds the subgradients of a function, v points where the function rises fastest.

    Parameters
    ----------
    project : callable
        The Euclidean projection on C of the k rows, (k, d) -> (k, d).
    g : array of shape (k, d)
    norm : Norm
        The norm N that measures the distance.

    Returns
    -------
    residual : array of shape (k, d)
        The residual y of smallest norm that was met; g - y is a point that `project` returned.
    direction : array of shape (k, d)
        v / N*(v) of the largest bound that was met; zero where y is.
    """
    xp, dual = namespace(g), norm.dual
    y = g - project(g)
    best, least = y, norm.value(y)
    direction, largest = xp.zeros_like(g), xp.zeros_like(least)
    if not bool(xp.any(least > 0)):
        return best, direction
    # the proximal parameter that makes both parts of z = x + t u, u in B*, of one size
    start = dual.steepest_direction(y)
    t = _length(y) / xp.where(_length(start) > 0, _length(start), 1.0)
    t = xp.where(t > 0, t, xp.ones_like(t))
    z = y + t[..., None] * start
    tol = max(_SPLIT_TOL, _SPLIT_EPS * xp.finfo(g.dtype).eps)
    for _ in range(_MAX_SPLIT):
        x = z - dual.project(z, t)
        y = g - project(g - 2 * x + z)
        normal = y - 2 * x + z
        z = z + y - x
        size = norm.value(y)
        closer = (size < least)[..., None]
        best, least = xp.where(closer, y, best), xp.minimum(size, least)
        scale = dual.value(normal)
        normal = normal / xp.where(scale > 0, scale, xp.ones_like(scale))[..., None]
        bound = xp.sum(normal * y, axis=-1)
        higher = (bound > largest)[..., None]
        direction, largest = xp.where(higher, normal, direction), xp.maximum(bound, largest)
        if bool(xp.all(least - largest <= tol * least)):
            break
    return best, direction


def _length(x: Array) -> Array:
    """The 2-norm of each row."""
    xp = namespace(x)
    return xp.sqrt(xp.sum(x * x, axis=-1))
