"""How far a ray goes that slides along the sides of a box."""

from __future__ import annotations

from sklearn_robust._array_api import Array, namespace


def ray_length(slopes: Array, caps: Array, tol: float = 0.0) -> Array:
    r"""The t >= 0 at which :math:`\sum_j \min(t a_j, c_j) = 1` in each row, with slopes
    :math:`0 \le a_j \le 1` and caps :math:`c_j`; one that reaches all caps if they are less.

    The sum is concave and piecewise linear in t: Newton's method from t = 0 stays left of the root,
    and ends on its piece. Slopes below the smallest normal number count as zero.

    Parameters
    ----------
    slopes, caps : arrays that broadcast to (..., d)
    tol : float, default=0.0
        What the sum may lack.

    Returns
    -------
    array of shape (..., 1)
    """
    xp, d = namespace(slopes), slopes.shape[-1]
    least = d * xp.finfo(slopes.dtype).tiny  # t stays finite
    t = xp.zeros_like(slopes[..., :1])
    for _ in range(d + 1):  # each step ends on a later piece
        reached = slopes * t
        slope = xp.sum(slopes * (reached < caps), axis=-1, keepdims=True)
        left = 1 - xp.sum(xp.minimum(reached, caps), axis=-1, keepdims=True)
        moves = (slope > least) & (left > tol)
        moved = xp.where(moves, t + left / xp.where(moves, slope, xp.ones_like(slope)), t)
        if not bool(xp.any(moved > t)):
            break
        t = moved
    return t
