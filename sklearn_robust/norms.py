"""The l_p norms and the operations on them that robust training is made of.

Everything works on the last axis, for NumPy arrays and torch tensors alike; leading axes are a
batch of independent problems. `LpNorm` is used in two roles: as the geometry `p` of an algorithm
and as the ball `q` of a perturbation. `SchattenNorm` is the geometry of the coefficient matrix of
several classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from typing import Any, Protocol

import numpy as np
from scipy import sparse

from sklearn_robust._array_api import Array, as_float, at_least_tiny, namespace

# every scalar equation below is convex or bracketed: convergence takes far fewer steps
_MAX_NEWTON = 100


class Norm(Protocol):
    r"""A norm that serves as the geometry of steepest descent and of margins.

    A norm of one's own has these four members and depends on the sizes of the entries alone,
    :math:`\|x\| = \|\,|x|\,\|`; of the norms here `SchattenNorm` alone does not. Arrays are (...,
    d), and every leading index is a problem.
    """

    @property
    def dual(self) -> Norm:
        r"""The dual norm :math:`\|g\|_* = \max_{\|u\| \le 1} \langle u, g \rangle`."""
        ...

    def value(self, x: Array, /) -> Array:
        """The norm along the last axis: (..., d) -> (...)."""
        ...

    def steepest_direction(self, g: Array, /) -> Array:
        r"""A point of :math:`\arg\max_{\|u\| \le 1} \langle u, g \rangle`, zero where g is:
        (..., d) -> (..., d).
        """
        ...

    def project(self, x: Array, radius: Array | float = 1.0, /) -> Array:
        """The Euclidean projection on the ball of this radius, a number or (...): (..., d) -> (...,
        d).
        """
        ...


@dataclass(frozen=True)
class LpNorm:
    r"""The norm :math:`\|x\|_p = (\sum_j |x_j|^p)^{1/p}`, for any real p in [1, inf].

    Parameters
    ----------
    p : float
        Exponent, in [1, inf]; `numpy.inf` is the maximum norm.

    Raises
    ------
    ValueError
        If p is not a real number in [1, inf].

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_robust.norms import LpNorm
    >>> LpNorm(2).value(np.array([3.0, 4.0]))
    np.float64(5.0)
    >>> LpNorm(1).dual
    LpNorm(p=inf)
    """

    p: float

    def __post_init__(self) -> None:
        p = as_float(self.p)
        if not p >= 1:
            raise ValueError(
                f"A norm's exponent must be a real number in [1, inf], got {self.p!r}. Use "
                f"numpy.inf for the maximum norm."
            )
        object.__setattr__(self, "p", p)

    @cached_property
    def dual(self) -> LpNorm:
        """The dual norm, with exponent p* = p / (p - 1); 1 and inf are dual."""
        if self.p == 1:
            return LpNorm(math.inf)
        return LpNorm(1.0) if self.p == math.inf else LpNorm(self.p / (self.p - 1))

    def at(self, columns: Any) -> LpNorm:
        """The norm of vectors that have only these features."""
        return self

    def value(self, x: Array) -> Array:
        """The norm of x along its last axis.

        Parameters
        ----------
        x : array of shape (..., d)

        Returns
        -------
        array of shape (...)
        """
        xp = namespace(x)
        if self.p == 1:
            return xp.sum(xp.abs(x), axis=-1)
        if self.p == 2 and isinstance(x, np.ndarray) and x.dtype.kind == "f":
            with np.errstate(over="ignore"):
                square = np.vecdot(x, x)
            safe = np.finfo(x.dtype).tiny ** 0.5
            if np.all((square > safe) & (square < 1 / safe)):
                return np.sqrt(square)
        largest = xp.max(xp.abs(x), axis=-1)
        if self.p == math.inf:
            return largest
        # no power overflows or underflows
        scale = xp.where(largest > 0, largest, xp.ones_like(largest))
        x = x / scale[..., None]
        if self.p == 2:
            return scale * xp.sqrt(xp.sum(x * x, axis=-1))
        return scale * xp.sum(xp.abs(x) ** self.p, axis=-1) ** (1 / self.p)

    def steepest_direction(self, g: Array) -> Array:
        r"""A point of :math:`\arg\max_{\|u\|_p \le 1} \langle u, g \rangle`; it is also a
        subgradient of the dual norm at g.

        p = 2 gives the normalised gradient, p = inf its signs, p = 1 the largest coordinate. Where
        the maximiser is not unique the symmetric one is taken: 0 for zero entries (p = inf), equal
        shares on tied coordinates (p = 1).

        Parameters
        ----------
        g : array of shape (..., d)

        Returns
        -------
        array of shape (..., d)
            Zero where g is zero.
        """
        xp = namespace(g)
        if self.p == math.inf:
            return xp.sign(g)
        a = xp.abs(g)
        largest = xp.max(a, axis=-1, keepdims=True)
        a = a / xp.where(largest > 0, largest, xp.ones_like(largest))
        if self.p == 1:
            a = xp.astype(a > 1 - 16 * xp.finfo(a.dtype).eps, a.dtype)
        elif self.p != 2:
            a = a ** (self.dual.p - 1)
        size = self.value(a)[..., None]
        return xp.sign(g) * a / xp.where(size > 0, size, xp.ones_like(size))

    def project(self, x: Array, radius: Array | float = 1.0) -> Array:
        """The Euclidean projection of x on the ball of the given radius.

        Parameters
        ----------
        x : array of shape (..., d)
        radius : float or array of shape (...), >= 0

        Returns
        -------
        array of shape (..., d)
        """
        if self.p == math.inf:
            xp, radius = namespace(x), column(radius, x)
            return xp.minimum(xp.maximum(x, -radius), radius)
        return x - self.residual(x, radius, LpNorm(2))

    def prox(self, x: Array, scale: Array | float = 1.0) -> Array:
        r"""The proximal point :math:`\arg\min_u \tfrac12 \|u - x\|_2^2 + \text{scale} \|u\|_p`.

        By Moreau's identity it is x minus its Euclidean projection on the dual ball of that radius.

        Parameters
        ----------
        x : array of shape (..., d)
        scale : float or array of shape (...), >= 0

        Returns
        -------
        array of shape (..., d)
        """
        return self.dual.residual(x, scale, LpNorm(2))

    def residual(self, g: Array, radius: Array | float, norm: LpNorm) -> Array:
        r"""g minus the nearest point of the ball, :math:`g - \delta` with
        :math:`\delta \in \arg\min_{\|\delta\|_p \le \text{radius}} \|g - \delta\|_{\text{norm}}`.

        Its norm is the distance of g to the ball: g minus the residual lies in the ball up to the
        rounding of its norm, so that the distance is never understated. With a = \|g\| the residual
        is, coordinate by coordinate (q the exponent of this ball, r that of `norm`),

        ==================  ====================================================================
        q = inf             (a - radius)_+
        q = r               a (1 - radius / \|\|a\|\|_q)_+
        q = 1 or r = inf    min(a, t) with \|\|(a - t)_+\|\|_q = radius
        r = 1               a - min(a, t) with \|\|min(a, t)\|\|_q = radius
        otherwise           a - b with (a - b)^(r-1) = mu b^(q-1), \|\|b\|\|_q = radius
        ==================  ====================================================================

        Parameters
        ----------
        g : array of shape (..., d)
        radius : float or array of shape (...), >= 0
        norm : LpNorm
            The norm that measures the distance.

        Returns
        -------
        array of shape (..., d)
        """
        xp = namespace(g)
        a = xp.abs(g)
        radius = column(radius, a)
        q, r = self.p, norm.p
        if q == math.inf:
            left = _positive(xp, a - radius)
        elif q == r:
            size = self.value(a)[..., None]
            left = a * _positive(xp, 1 - radius / xp.where(size > 0, size, xp.ones_like(size)))
        elif q == 1 or r == math.inf:
            left = xp.minimum(a, _positive(xp, shave_level(a, radius, q)))
        elif r == 1:
            left = a - xp.minimum(a, cap_level(a, radius, q))
        else:
            left = power_split(a, radius, q, r)
        return xp.sign(g) * enough_left(self, a, left, radius)

    def face(self, x: np.ndarray, radius: float, near: float) -> tuple[Any, np.ndarray]:
        """Linear functions of one x (d,), as rows, that hold its norm at the radius while its
        pattern stays, and the change each needs; entries within `near` of the face are on it.

        NumPy only. Returns rows (m, d), sparse or not, and changes (m,).
        """
        sizes, signs = np.abs(x), np.sign(x)
        if self.p == math.inf:  # the largest entries, each at the bound
            at = np.flatnonzero(sizes > radius - near)
            return unit_rows(at, signs[at], len(x)), np.minimum(radius - sizes[at], 0)
        if self.p > 1:  # smooth: its gradient
            gradient = self.dual.steepest_direction(x)
            return gradient[None], np.array([min(radius - self.value(x), 0.0)])
        # p = 1: the entries near zero go there, the others keep their signs
        small = sizes <= near
        at, signs = np.flatnonzero(small), np.where(small, 0.0, signs)
        rows = [sparse.csr_array(signs[None]), unit_rows(at, np.ones(len(at)), len(x))]
        return sparse.vstack(rows, format="csr"), np.append(min(radius - signs @ x, 0), -x[at])

    def min_norm_subgradient(self, w: Array, g: Array, scale: Array | float, norm: LpNorm) -> Array:
        r"""The element of :math:`g + \text{scale}\,\partial\|w\|_p` that is least in `norm`.

        This is the subgradient that a gradient flow follows where the penalty has a kink: at w = 0,
        at zero entries (p = 1) and at tied largest entries (p = inf). Any other element, such as
        the one that automatic differentiation picks, can stall there.

        Parameters
        ----------
        w : array of shape (..., d)
            The point at which the penalty is differentiated.
        g : array of shape (..., d)
            Gradient of the smooth part at w.
        scale : float or array of shape (...), >= 0
        norm : LpNorm
            The norm to be least: the dual of the algorithm's geometry.

        Returns
        -------
        array of shape (..., d)
        """
        xp = namespace(w, g)
        scale = column(scale, g)
        if self.p == 1:
            soft = xp.sign(g) * _positive(xp, xp.abs(g) - scale)
            return xp.where(w == 0, soft, g + scale * xp.sign(w))
        size = xp.max(xp.abs(w), axis=-1, keepdims=True)
        if self.p == math.inf:
            # the subdifferential spreads the scale over the tied coordinates: the least element
            # levels those along which a descent step would grow w most
            tied = xp.abs(w) >= size * (1 - 16 * xp.finfo(w.dtype).eps)
            growth = xp.where(tied, -g * xp.sign(w), xp.full_like(g, -math.inf))
            levelled = xp.minimum(growth, shave_level(growth, scale, 1.0))
            smooth = xp.where(tied, -xp.sign(w) * xp.where(tied, levelled, xp.zeros_like(g)), g)
        else:
            smooth = g + scale * self.dual.steepest_direction(w)
        if bool(xp.all(size > 0)):
            return smooth
        return xp.where(size > 0, smooth, self.dual.residual(g, scale[..., 0], norm))


@dataclass(frozen=True)
class SchattenNorm:
    r"""The norm of a matrix that is the l_p norm of its singular values, :math:`\|W\|_{S_p} =
    (\sum_r \sigma_r^p)^{1/p}`, on flat vectors.

    p = inf is the spectral norm :math:`\max_r \sigma_r`, p = 1 the nuclear norm :math:`\sum_r
    \sigma_r`; each is the other's dual. p = 2 has the values of `LpNorm(2)`.

    Parameters
    ----------
    p : float
        Exponent, in [1, inf].
    n_rows : int
        Rows K of the matrix: a vector (..., K d) holds the rows of a (K, d) matrix, one after the
        other.

    Raises
    ------
    ValueError
        If p is not a real number in [1, inf], or n_rows not an integer >= 1.

    Notes
    -----
    With :math:`G = U \operatorname{diag}(\sigma) V^\top` the steepest direction of the spectral
    norm is :math:`U V^\top` over the nonzero singular values, the orthogonalised step of Muon (K.
    Jordan et al., Muon: an optimizer for hidden layers in neural networks, 2024), and that of the
    nuclear norm the leading pair :math:`u_1 v_1^\top`. Steepest descent of several classes in these
    norms: C. Fan, M. Schmidt and C. Thrampoulidis, arXiv 2502.04664. A zero singular value is one
    below :math:`\max(K, d)` machine epsilons of the largest.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_robust.norms import SchattenNorm
    >>> spectral = SchattenNorm(np.inf, n_rows=2)
    >>> G = np.array([[3.0, 0.0, 0.0], [0.0, 4.0, 0.0]]).ravel()
    >>> spectral.value(G), spectral.dual.value(G)
    (np.float64(4.0), np.float64(7.0))
    >>> spectral.steepest_direction(G).reshape(2, 3)
    array([[1., 0., 0.],
           [0., 1., 0.]])
    >>> spectral.dual
    SchattenNorm(p=1.0, n_rows=2)
    """

    p: float
    n_rows: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "p", LpNorm(self.p).p)
        is_integer = isinstance(self.n_rows, Integral) and not isinstance(self.n_rows, bool)
        if not is_integer or self.n_rows < 1:
            raise ValueError(f"n_rows must be an integer >= 1, got {self.n_rows!r}.")
        object.__setattr__(self, "n_rows", int(self.n_rows))

    @cached_property
    def dual(self) -> SchattenNorm:
        """The dual norm, with exponent p* = p / (p - 1); 1 and inf are dual."""
        return SchattenNorm(self._of_values.dual.p, self.n_rows)

    def value(self, x: Array) -> Array:
        """The norm of the matrices: (..., K d) -> (...)."""
        scaled, scale = self._scaled(x)
        return scale * self._of_values.value(namespace(x).linalg.svdvals(scaled))

    def steepest_direction(self, g: Array) -> Array:
        r"""A point of :math:`\arg\max_{\|U\|_{S_p} \le 1} \langle U, G \rangle`, zero where G is:
        (..., K d) -> (..., K d).

        Its singular values are the steepest direction of those of G in the l_p norm; tied ones get
        equal shares.
        """
        return self._of_singular_values(g, self._of_values.steepest_direction)

    def project(self, x: Array, radius: Array | float = 1.0) -> Array:
        """The Euclidean projection on the ball of this radius, a number or (...): (..., K d) ->
        (..., K d).
        """
        scale = self._scaled(x)[1]
        return scale[..., None] * self._of_singular_values(
            x, lambda values: self._of_values.project(values, radius / scale)
        )

    def largest(self, sizes: Array) -> Array:
        r"""A bound on the norm of all matrices whose entries are at most of these sizes: (..., K d)
        -> (...).

        With m = min(K, d) it is :math:`m^{\max(1/p - 1/2, 0)}` times the 2-norm of the sizes.
        """
        rank = min(self.n_rows, sizes.shape[-1] // self.n_rows)
        return rank ** max(1 / self.p - 0.5, 0.0) * LpNorm(2).value(sizes)

    @cached_property
    def _of_values(self) -> LpNorm:
        """The norm of the singular values."""
        return LpNorm(self.p)

    def _scaled(self, x: Array) -> tuple[Array, Array]:
        """The matrices (..., K, d) over their largest entries, and these, 1 where all are 0."""
        n_columns, rest = divmod(x.shape[-1], self.n_rows)
        if rest:
            raise ValueError(
                f"The vectors must hold matrices of {self.n_rows} rows, got {x.shape[-1]} entries. "
                f"Set n_rows to the rows of the matrix."
            )
        xp = namespace(x)
        scale = LpNorm(math.inf).value(x)
        scale = xp.where(scale > 0, scale, xp.ones_like(scale))
        shape = (*x.shape[:-1], self.n_rows, n_columns)
        return xp.reshape(x / scale[..., None], shape), scale

    def _of_singular_values(self, x: Array, function: Callable[[Array], Array]) -> Array:
        """The matrices, over their largest entries, with the function of their singular values, of
        which those that are rounding are 0.
        """
        xp, scaled = namespace(x), self._scaled(x)[0]
        left, values, right = xp.linalg.svd(scaled, full_matrices=False)
        rounding = max(scaled.shape[-2:]) * xp.finfo(x.dtype).eps * values[..., :1]
        values = function(xp.where(values > rounding, values, xp.zeros_like(values)))
        return xp.reshape((left * values[..., None, :]) @ right, x.shape)


def enough_left(norm: Any, a: Array, left: Array, radius: Array) -> Array:
    """What is left of a >= 0, and more of it where rounding, or a root that was not found, puts a -
    left outside of the ball.

    Parameters
    ----------
    norm : LpNorm or ScaledNorm
        The norm of the ball.
    a, left : array of shape (..., d)
        With 0 <= left <= a.
    radius : array of shape (..., 1), >= 0

    Returns
    -------
    array of shape (..., d)
    """
    xp = namespace(a)
    taken = a - left
    size = norm.value(taken)[..., None]
    outside = size > radius
    if not bool(xp.any(outside)):
        return left
    eps = xp.finfo(a.dtype).eps
    # where most of a is left the difference is rounded relative to a, not to what is taken
    left = xp.where(outside & (taken < left), xp.minimum(a, left * (1 + 2 * eps)), left)
    taken = a - left
    size = norm.value(taken)[..., None]
    share = (1 - 4 * eps) * radius / xp.where(size > 0, size, xp.ones_like(size))
    return xp.where(size > radius * (1 + 64 * eps), a - taken * share, left)


def shave_level(a: Array, radius: Array, q: float, rate: Array | None = None) -> Array:
    r"""The level t with :math:`\|(a - t\,\text{rate})_+\|_q` = radius, per row.

    With rate = 1, the default, and q = 1 this is the projection on a simplex. Newton's method on a
    convex decreasing function, from the left: it never overshoots and, for q = 1, ends.

    Parameters
    ----------
    a : array of shape (..., d)
        Any sign; entries of -inf are left out.
    radius : array of shape (..., 1), >= 0
    q : float in [1, inf]
    rate : array that broadcasts to a, optional
        Positive.

    Returns
    -------
    array of shape (..., 1)
    """
    xp = namespace(a)
    reach = a - radius
    t = xp.max(reach if rate is None else reach / rate, axis=-1, keepdims=True)
    if q == math.inf:
        return t
    for _ in range(_MAX_NEWTON):
        above = _positive(xp, a - (t if rate is None else t * rate))
        if q == 1:
            size, part = xp.sum(above, axis=-1, keepdims=True), xp.sign(above)
        else:
            size = LpNorm(q).value(above)[..., None]
            part = (above / xp.where(size > 0, size, xp.ones_like(size))) ** (q - 1)
        slope = xp.sum(part if rate is None else part * rate, axis=-1, keepdims=True)
        # At radius = 0 nothing lies above t: the slope is then zero and so is the step.
        step = (size - radius) / xp.where(slope > 0, slope, xp.ones_like(slope))
        moved = t + _positive(xp, step)
        if bool(xp.all(moved <= t)):
            break
        t = moved
    return t


def cap_level(a: Array, radius: Array, q: float, rate: Array | None = None) -> Array:
    """The level t with ||min(a, t rate)||_q = radius, per row; inf where radius >= ||a||_q. Exact,
    from the sorted entries.

    Parameters
    ----------
    a : array of shape (..., d), >= 0
    radius : array of shape (..., 1), >= 0
    q : float in [1, inf)
    rate : array that broadcasts to a, optional
        Positive; 1 by default.

    Returns
    -------
    array of shape (..., 1)
    """
    xp = namespace(a)
    # No entry of the result exceeds the radius: with it as the unit no power overflows, and what
    # underflows is nothing beside 1
    unit = xp.where(radius > 0, radius, xp.ones_like(radius))
    sizes = xp.minimum(a, unit) / unit
    if rate is None:
        sizes, rates = xp.sort(sizes, axis=-1), xp.ones_like(a)
    else:
        order = xp.argsort(sizes / rate, axis=-1)
        sizes, rates = (
            xp.take_along_axis(x, order, axis=-1) for x in (sizes, xp.broadcast_to(rate, a.shape))
        )
    powers, weights = sizes**q, rates**q
    # sums of the entries before each one: no large power is added that is then subtracted
    below = xp.cumulative_sum(powers, axis=-1)
    below = xp.concat([xp.zeros_like(below[..., :1]), below[..., :-1]], axis=-1)
    # sums of the entries that are capped where this one is
    capped = xp.flip(xp.cumulative_sum(xp.flip(weights, axis=-1), axis=-1), axis=-1)
    # below + capped t^q = ||min(a, t rate)||_q^q; the first entry that its own level does not reach
    # is capped
    levels = (_positive(xp, 1 - below) / at_least_tiny(capped)) ** (xp.ones_like(radius) / q)
    # an entry as large as the radius may reach it alone
    reaches = levels * rates <= sizes * (1 + 8 * xp.finfo(a.dtype).eps)
    first = xp.argmax(xp.astype(reaches, xp.int8), axis=-1)[..., None]
    t = xp.where(radius > 0, unit * xp.take_along_axis(levels, first, axis=-1), xp.zeros_like(unit))
    return xp.where(
        xp.any(reaches, axis=-1, keepdims=True) | (radius <= 0), t, xp.full_like(t, math.inf)
    )


def power_split(a: Array, radius: Array, q: float, r: float, scale: Array | None = None) -> Array:
    """a - b for a >= 0 and the point b of the ball ||b / scale||_q <= radius that is nearest in the
    r-norm, 1 < q, r < inf.

    With b = a sigmoid(s), stationarity (a - b)^(r-1) = mu b^(q-1) / scale^q is one monotone
    equation a coordinate, -(r-1) softplus(s) + (q-1) softplus(-s) = log mu + (q-r) log a - q log
    scale, whose left side is convex or concave: Newton converges from anywhere. The norm of b
    decreases in log mu: Newton again, inside a bracket.

    Parameters
    ----------
    a : array of shape (..., d), >= 0
    radius : array of shape (..., 1), >= 0
    q, r : float in (1, inf)
    scale : array of shape (d,), optional
        Positive; 1 by default, where q and r must differ.

    Returns
    -------
    array of shape (..., d)
    """
    xp = namespace(a)
    unit = 1.0 if scale is None else scale
    size = LpNorm(q).value(a / unit)[..., None]
    inside = radius >= size
    if bool(xp.all(inside | (radius <= 0))):
        return xp.where(inside, xp.zeros_like(a), a)
    # a harmless goal where the answer is known
    goal = xp.where(inside | (radius <= 0), 0.5 * size, radius)
    goal = xp.where(size > 0, goal, xp.ones_like(goal))
    zero = a == 0
    offset = (q - r) * xp.log(xp.where(zero, xp.ones_like(a), a))
    if scale is not None:
        offset = offset - q * xp.log(scale)

    def split(level: Array, s: Array | None) -> tuple[Array, Array, Array, Array]:
        """Return b, a - b, d log b / d level, and s, where the search of the next level starts."""
        target = level + offset
        if s is None:
            s = -target / xp.where(
                target > 0, xp.full_like(target, q - 1), xp.full_like(target, r - 1)
            )
        for _ in range(_MAX_NEWTON):
            share = _sigmoid(xp, s)
            slope = -(r - 1) * share - (q - 1) * (1 - share)
            value = -(r - 1) * _softplus(xp, s) + (q - 1) * _softplus(xp, -s)
            step = (value - target) / slope
            s = s - step
            if bool(xp.all(xp.abs(step) <= 4 * xp.finfo(a.dtype).eps * (1 + xp.abs(s)))):
                break
        return a * _sigmoid(xp, s), a * _sigmoid(xp, -s), _sigmoid(xp, -s) / slope, s

    start: Array | None = None
    # the level at which the largest entry is halved, more or less
    leading = xp.argmax(a / unit, axis=-1)[..., None]
    level = -xp.take_along_axis(offset, leading, axis=-1)
    low, high = xp.full_like(level, -math.inf), xp.full_like(level, math.inf)
    to_cut = at_least_tiny(xp.log(xp.where(size > 0, size, 2 * goal)) - xp.log(goal))
    width = max(1.0, q - 1, r - 1)  # the change of the level that changes log b by about 1
    for _ in range(2 * _MAX_NEWTON):
        b, left, log_slope, start = split(level, start)
        norm_b = LpNorm(q).value(b / unit)[..., None]
        # a row of zeros is solved
        error = xp.log(xp.where(size > 0, at_least_tiny(norm_b), goal)) - xp.log(goal)
        if bool(xp.all(xp.abs(error) <= 8 * xp.finfo(a.dtype).eps)):
            break
        low, high = xp.where(error > 0, level, low), xp.where(error < 0, level, high)
        share = (b / unit / xp.where(norm_b > 0, norm_b, xp.ones_like(norm_b))) ** q
        slope = xp.sum(share * log_slope, axis=-1, keepdims=True)
        # Newton's method on the logarithm of the decrease of log norm, nearly linear in the level
        # where little is cut off
        ratio = 1 - error / to_cut
        reached = xp.where(ratio > 0, to_cut * ratio * xp.log(at_least_tiny(ratio)), -error)
        moved = level + reached / xp.where(slope < 0, slope, xp.full_like(slope, -1.0))
        # outside the bracket: halve it, or reach further where one end is still open
        closed = xp.isfinite(low) & xp.isfinite(high)
        middle = 0.5 * (xp.where(closed, low, level) + xp.where(closed, high, level))
        width *= 2
        middle = xp.where(closed, middle, xp.where(error > 0, level + width, level - width))
        # where the slope underflows nothing is known but the bracket
        # a level that rounding alone would move stays
        inner = (moved > low) & (moved < high) | (moved == level)
        usable = (slope < -1e-10) & inner & (xp.abs(moved - level) <= width)
        moved = xp.where(usable, moved, middle)
        if bool(xp.all((moved == level) | (error == 0))):
            break
        level = moved
    return xp.where(inside, xp.zeros_like(a), xp.where(radius <= 0, a, left))


def unit_rows(at: np.ndarray, values: np.ndarray, d: int) -> sparse.csr_array:
    """A row of length d for each of these columns, with its value there."""
    return sparse.csr_array((values, (np.arange(len(at)), at)), shape=(len(at), d))


def _positive(xp: Any, x: Array) -> Array:
    return xp.maximum(x, xp.zeros_like(x))


def _sigmoid(xp: Any, s: Array) -> Array:
    e = xp.exp(-xp.abs(s))
    return xp.where(s >= 0, 1 / (1 + e), e / (1 + e))


def _softplus(xp: Any, s: Array) -> Array:
    return _positive(xp, s) + xp.log1p(xp.exp(-xp.abs(s)))


def column(radius: Any, like: Array) -> Array:
    """A radius per problem, (...) or a number, as (..., 1) of the dtype and device of `like`."""
    xp = namespace(like)
    if not hasattr(radius, "shape") or radius.shape == ():
        return xp.full_like(like[..., :1], float(radius))
    return xp.broadcast_to(radius[..., None], like[..., :1].shape)


# exponents on the singular values
MATRIX_NORMS = {"spectral": math.inf, "nuclear": 1.0}


def norm_of(geometry: Norm | str, n_classes: int) -> Norm:
    """The norm of a geometry on the coefficients (K, d) of so many classes, in one row.

    A matrix norm is the 2-norm on the one row of two classes.
    """
    if not isinstance(geometry, str):
        return geometry
    if n_classes == 2:
        return LpNorm(2)
    return SchattenNorm(MATRIX_NORMS[geometry], n_classes)
