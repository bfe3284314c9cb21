r"""Where an adversary may move each sample: an l_q ball, cut by the box that the perturbed sample
must stay in.

Attacks ask for the allowed perturbation that raises a linear function most, and for the one that is
nearest to a given one. Certificates ask for the least value of a linear function. All have exact
answers, the nearest one for q in {1, 2, inf}, or without a box.

Where features have scales, a perturbation is kept in units of them: :math:`\delta = (x' - x) / s`.
The ball is then an l_q ball as ever, the box is another box, and nothing else changes; a feature of
scale 0 does not move.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from sklearn_robust._extras import missing

try:
    import torch
    from torch import Tensor
except ImportError as error:  # pragma: no cover
    raise missing("sklearn_robust.regions", "torch") from error

from sklearn_robust._parameters import check_exponent
from sklearn_robust._rays import ray_length
from sklearn_robust.norms import LpNorm
from sklearn_robust.threats import check_radius, check_scale

_MAX_PIECES = 100  # Newton steps at most on a piecewise linear scalar equation; it takes a few
_LEVEL_TOL = 1e-9  # error of the radius in `support`, whose value changes by its square
_MINIMUM_ENTRIES = 2**16  # entries at a time in `minimum`: its many passes stay in the cache


class Region:
    r"""The perturbations of each row of x with :math:`\|\delta\|_q \le \epsilon` and :math:`low \le
    x + s \delta \le high`.

    Parameters
    ----------
    x : Tensor of shape (n, ...)
        Samples of any shape; perturbations are rows, of shape (n, d).
    q : float
        Exponent in [1, inf].
    eps : float, or Tensor of shape (n,)
        Radius, >= 0, or that of each sample.
    clip : pair (low, high) of numbers or arrays that broadcast to x, or None
        The box. It must hold x.
    scale : array-like of shape (d,), or of the shape of a sample, or None
        The unit of each feature's perturbation; 1 by default.
    """

    def __init__(
        self,
        x: Tensor,
        q: float,
        eps: float | Tensor,
        clip: tuple[Any, Any] | None = None,
        scale: Any | None = None,
    ) -> None:
        check_clip(clip)
        self.shape = x.shape[1:]
        self.x = x.flatten(1)
        self.norm = LpNorm(check_exponent(q, "q"))
        self.eps: Any = eps.reshape(-1, 1) if isinstance(eps, Tensor) else check_radius(eps, "eps")
        self.scale = None if scale is None else _scales(scale, self.x)
        self.box: tuple[Tensor, Tensor] | None = None
        unlimited = self.x.new_full((len(x), 1), math.inf)
        self.low, self.high = -unlimited, unlimited  # the room below and above each coordinate
        if clip is not None:
            low, high = clip
            self.box = _bound(low, x), _bound(high, x)
            self.low, self.high = (self.in_units(bound - self.x) for bound in self.box)
            if bool((self.box[0] > self.x).any()) or bool((self.box[1] < self.x).any()):
                raise ValueError(
                    f"clip must hold every sample before it is perturbed, but X spans "
                    f"[{float(x.min()):g}, "
                    f"{float(x.max()):g}]. Widen clip={clip!r}, or scale X."
                )
        if self.norm.p == math.inf:
            self.low, self.high = self.low.clamp(min=-self.eps), self.high.clamp(max=self.eps)

    @property
    def is_still(self) -> bool:
        """Whether nothing moves."""
        return bool((self.eps == 0).all()) if isinstance(self.eps, Tensor) else self.eps == 0

    def rows(self, rows: Tensor | slice) -> Region:
        """The perturbations of some of the samples."""
        if rows == slice(None):
            return self
        part = copy.copy(self)
        part.__dict__.pop("corners", None)
        part.x = self.x[rows]
        part.box = None if self.box is None else (self.box[0][rows], self.box[1][rows])
        part.low, part.high = self.low[rows], self.high[rows]
        part.eps = self.eps[rows] if isinstance(self.eps, Tensor) else self.eps
        return part

    def grown(self, factor: float) -> Region:
        """The ball, q < inf, of a larger radius, in the same box."""
        wide = copy.copy(self)
        wide.eps = factor * self.eps
        return wide

    def farthest(self, gradient: Tensor) -> Tensor:
        r"""The allowed perturbation that raises a linear function most: the worst case of a linear
        classifier.

        A coordinate that meets the box leaves what it cannot use to the others.
        """
        if self.norm.p == math.inf:
            return torch.where(gradient > 0, self.high, self.low) * (gradient != 0)
        if self.box is None:
            return self.norm.steepest_direction(gradient) * self.eps
        size, room = gradient.abs(), self.room(gradient)
        if self.norm.p == 1:
            return gradient.sign() * _best_coordinates(size, room, self.eps)
        size = (size / _at_least_tiny(size.amax(1, keepdim=True), size)) ** (1 / (self.norm.p - 1))
        return gradient.sign() * _capped_ray(size, room, self.eps, self.norm.p)

    def support(self, gradient: Tensor) -> Tensor:
        r"""How far a linear function rises at most, of shape (n,): exact up to rounding, and never
        below for another reason.

        By weak duality, with the room r_j of each coordinate in the direction of g_j, for every v

        .. math:: \max_\delta \langle g, \delta\rangle \;\le\; \epsilon \|v\|_{q^*} + \sum_j r_j
           |\,|g_j| - v_j|.

        Equality holds at :math:`v_j = \min(|g_j|, \tau r_j^{q-1})` with the level :math:`\tau` at
        which `farthest` stops.
        """
        if self.norm.p == math.inf:
            return (gradient * self.farthest(gradient)).sum(1)
        if self.box is None:
            return self._radius_times(self.norm.dual.value(gradient))
        size, room = gradient.abs(), self.room(gradient).clamp(max=self.eps)
        largest = _at_least_tiny(size.amax(1, keepdim=True), size)
        size = size / largest
        if self.norm.p == 1:
            filled = _best_coordinates(size, room, self.eps)
            level = torch.where(filled > 0, size, math.inf).amin(1, keepdim=True)
            # the box alone stops every coordinate
            spared = torch.where(size > 0, room, 0).sum(1, keepdim=True) <= self.eps
            kept = torch.minimum(size, torch.where(spared, 0, level))
        else:
            q, share = self.norm.p, room / _at_least_tiny(self.eps, room)
            slopes, caps = size**self.norm.dual.p, share**q
            t = ray_length(slopes, caps, tol=_LEVEL_TOL)
            moving = (slopes * t < caps) & (size > 0)
            level = torch.where(
                moving.any(1, keepdim=True), _at_least_tiny(t, t) ** (-1 / self.norm.dual.p), 0
            )
            kept = torch.minimum(size, share ** (q - 1) * level)
        return largest[:, 0] * (
            self._radius_times(self.norm.dual.value(kept)) + (room * (size - kept)).sum(1)
        )

    def _radii(self) -> Any:
        """The radius, or those of the samples, of shape (n,)."""
        return self.eps[:, 0] if isinstance(self.eps, Tensor) else self.eps

    def _radius_times(self, values: Tensor) -> Tensor:
        """The radii times values of shape (n,)."""
        return (self.eps * values[:, None])[:, 0]

    def minimum(self, coef: Tensor) -> Tensor:
        """The least <c, x'> over the perturbed samples x': exact up to rounding, and never above
        for another reason.

        Parameters
        ----------
        coef : Tensor of shape (n, s, ...), or (1, s, ...) for the same s functions on all samples

        Returns
        -------
        Tensor of shape (n, s)
        """
        if self.norm.p == math.inf:
            return box_minimum(coef, *self.ends)
        coef = coef.flatten(2)
        centre = products(coef, self.x)
        coef = self.gradient_in_units(coef)
        if self.box is None:
            return centre - self.eps * self.norm.dual.value(coef)
        n, d = self.x.shape
        s = coef.shape[1]
        taken = []
        for pairs in torch.arange(n * s, device=coef.device).split(max(1, _MINIMUM_ENTRIES // d)):
            rows, functions = pairs // s, pairs % s
            taken.append(self.rows(rows).support(-coef[rows if len(coef) > 1 else 0, functions]))
        return centre - torch.cat(taken).view(n, s)

    @property
    def ends(self) -> tuple[Tensor, Tensor]:
        """The smallest box around the perturbed samples: its ends, in the shape of the samples."""
        reach = self.eps if self.scale is None else self.scale * self.eps
        ends = self.x - reach, self.x + reach
        if self.box is not None:
            ends = torch.maximum(ends[0], self.box[0]), torch.minimum(ends[1], self.box[1])
        return ends[0].view(-1, *self.shape), ends[1].view(-1, *self.shape)

    def step(self, delta: Tensor, gradient: Tensor, length: float | Tensor) -> Tensor:
        """delta after a steepest step of this q-norm, not yet projected.

        For q = 1 it moves the coordinate of the largest derivative, and the next best where the box
        stops that one. For other q, where every coordinate moves, meeting the box is left to the
        projection.
        """
        if self.norm.p == math.inf:
            return delta + gradient.sign() * length
        if self.norm.p == 1 and self.box is not None:
            return delta + gradient.sign() * _best_coordinates(
                gradient.abs(), self.room(gradient, delta), length
            )
        # as steepest_direction does, in fewer passes: this is the inner loop of training
        if self.norm.p == 2:
            gradient = gradient / gradient.abs().amax(1, keepdim=True).clamp(
                min=torch.finfo(gradient.dtype).tiny
            )
            return delta + gradient * (length / _sizes(gradient).clamp(min=1))
        return delta + self.norm.steepest_direction(gradient) * length

    def project(self, delta: Tensor) -> Tensor:
        """The allowed perturbation that is nearest to delta in the Euclidean norm."""
        if self.box is not None and self.norm.p not in (1, 2, math.inf):
            raise ValueError(
                f"clip goes with q = 1, 2 or inf, got q={self.norm.p:g}. Use one of these, or "
                f"clip=None."
            )
        if self.norm.p == math.inf:
            return delta.clamp(self.low, self.high)
        if self.box is None and self.norm.p == 2:
            return delta * (
                self.eps / _sizes(delta).clamp(min=torch.finfo(delta.dtype).tiny)
            ).clamp(max=1)
        if self.box is None and self.norm.p != 1:
            return self.norm.project(delta, self._radii())
        size, room = delta.abs(), self.room(delta)
        # a ray that leaves the origin along delta and slides along the box passes through the
        # projection
        size = (
            torch.minimum(size, _capped_ray(size, room, self.eps))
            if self.norm.p == 2
            else _shaved(size, room, self.eps)
        )
        return delta.sign() * size

    def climb(self, points: Tensor, gradient: Tensor, length: float | Tensor) -> Tensor:
        """Rows of points after a steepest step and the projection. Overwrites what it is given:
        inner loops live here.
        """
        if self.norm.p == math.inf:
            step = gradient.sign_()
            if isinstance(length, Tensor):
                step, length = step.mul_(length), 1.0
            if self.scale is None:
                points.add_(step, alpha=length)
            else:
                points.addcmul_(step, self.scale, value=length)
            return torch.clamp(points, *self.corners, out=points)
        delta = self.project(
            self.step(self.in_units(points - self.x), self.gradient_in_units(gradient), length)
        )
        return self.x + (delta if self.scale is None else self.scale * delta)

    def ascend(
        self,
        evaluate: Callable[[Tensor], tuple[Any, Tensor]],
        points: Tensor,
        *,
        n_steps: int,
        length: float | Tensor,
    ) -> tuple[Tensor, Any]:
        r"""Projected steepest ascent, :math:`x \leftarrow \Pi(x + \eta \arg\max_{\|u\|_q \le 1}
        \langle u, \nabla f(x) \rangle)`.

        Parameters
        ----------
        evaluate : callable
            From points in the shape of the samples to what is to be known of them, such as the
            values of f, and the gradient of f.
        points : Tensor of shape (n, d)
            Rows of the region; they are overwritten, and the gradients too.
        n_steps : int
            At least 1.
        length : float, or Tensor of shape (n, 1)
            The q-norm of a step, :math:`\eta`.

        Returns
        -------
        points : Tensor of shape (n, d)
            The last rows, in the region.
        known : Any
            What `evaluate` said of the first points.
        """
        shape = (len(points), *self.shape)
        seen = []
        for _ in range(n_steps):
            known, gradient = evaluate(points.view(shape))
            seen.append(known)
            points = self.climb(points, gradient.flatten(1), length)
        # a climb rounds towards x for q = inf only
        last = points if self.norm.p == math.inf else self.settled(points - self.x)
        return last, seen[0]

    def in_units(self, move: Tensor) -> Tensor:
        """A move of x in units of the scales; 0 where nothing can move."""
        return move if self.scale is None else torch.where(self.scale > 0, move / self.scale, 0)

    def gradient_in_units(self, gradient: Tensor) -> Tensor:
        """The gradient in the perturbation in units of the scales, from that in x."""
        return gradient if self.scale is None else self.scale * gradient

    @functools.cached_property
    def corners(self) -> tuple[Tensor, Tensor]:
        """For q = inf: the least and the largest value of each coordinate of the perturbed rows,
        rounded inwards.
        """
        return self.place(self.low), self.place(self.high)

    def place(self, delta: Tensor) -> Tensor:
        """The perturbed rows x + s delta, rounded towards x, so that rounding leaves neither the
        ball nor the box.
        """
        return self.settled(delta if self.scale is None else self.scale * delta)

    def settled(self, move: Tensor) -> Tensor:
        """The rows x + move, rounded towards x."""
        point = self.x + move
        if self.box is not None:
            point = point.clamp(*self.box)
        beyond = (point - self.x).abs() > move.abs()
        return torch.where(beyond, torch.nextafter(point, self.x), point)

    def random(self, generator: torch.Generator | None) -> Tensor:
        """A point of each row's ball, uniform for q in {1, 2, inf}, then clipped to the box."""
        n, d = self.x.shape
        device = self.x.device if generator is None else generator.device

        def uniform(*shape: int) -> Tensor:
            return torch.rand(shape, generator=generator, dtype=self.x.dtype, device=device)

        if self.norm.p == math.inf:
            delta = 2 * uniform(n, d) - 1
        else:  # normalised Gaussian (q = 2) or Laplace (q = 1) vectors are uniform on the sphere
            if self.norm.p == 2:
                delta = torch.randn((n, d), generator=generator, dtype=self.x.dtype, device=device)
            else:
                delta = -torch.log1p(-uniform(n, d)) * (2 * uniform(n, d) - 1).sign()
            delta = self.movable(delta)
            size = self.norm.value(delta)[:, None].clamp(min=torch.finfo(delta.dtype).tiny)
            dimension = d if self.scale is None else max(int((self.scale > 0).sum()), 1)
            delta = delta / size * uniform(n, 1) ** (1 / dimension)
        delta = self.eps * delta.to(self.x.device)
        return delta.clamp(self.low, self.high)

    def movable(self, delta: Tensor) -> Tensor:
        """The perturbation without the features that cannot move."""
        return delta if self.scale is None else delta * (self.scale > 0).to(delta)

    def room(self, direction: Tensor, start: Tensor | None = None) -> Tensor:
        """How far each coordinate may go in the direction's sign, from `start`."""
        low, high = (
            (self.low, self.high) if start is None else (self.low - start, self.high - start)
        )
        return torch.where(direction > 0, high, -low).clamp(min=0)


def check_clip(clip: Any, name: str = "clip", *, numbers: bool = False) -> None:
    """None, or the pair of lower and upper ends of a box; `numbers` allows no arrays."""
    if clip is None:
        return
    try:
        low, high = (
            np.asarray(end.detach().cpu() if isinstance(end, Tensor) else end) for end in clip
        )
        real = low.dtype.kind in "iuf" and high.dtype.kind in "iuf"
        valid = real and (bool(low < high) if numbers else bool((low <= high).all()))
    except (TypeError, ValueError):
        valid = False
    if not valid:
        kind = "numbers" if numbers else "numbers or arrays"
        raise ValueError(
            f"{name} must be None or a pair (low, high) of {kind} with low < high, got {clip!r}."
        )


def _bound(bound: Any, x: Tensor) -> Tensor:
    """One side of the box, of shape (n, d)."""
    try:
        return (
            torch.as_tensor(bound, dtype=x.dtype, device=x.device).broadcast_to(x.shape).flatten(1)
        )
    except RuntimeError as error:
        shape = tuple(np.shape(bound))
        message = (
            f"clip must hold numbers, or arrays that broadcast to X of shape {tuple(x.shape)}, got "
            f"shape {shape}."
        )
        raise ValueError(message) from error


def _scales(scale: Any, x: Tensor) -> Tensor:
    """Scales of shape (d,), from those of the features or of a sample of any shape."""
    values = scale.detach().cpu().numpy() if isinstance(scale, Tensor) else np.asarray(scale)
    values = check_scale(values.reshape(-1), "scale")
    if len(values) != x.shape[1]:
        raise ValueError(
            f"scale must hold a number for each of the {x.shape[1]} features, got {len(values)}."
        )
    return torch.as_tensor(values, dtype=x.dtype, device=x.device)


def _sizes(rows: Tensor) -> Tensor:
    """Euclidean norms, of shape (n, 1)."""
    return torch.linalg.vector_norm(rows, dim=1, keepdim=True)


def box_minimum(coef: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """The least <c, h> over lower <= h <= upper, of shape (n, s), for coef of shape (n, s, ...) or
    (1, s, ...).
    """
    c = coef.flatten(2)
    return products(c, ((lower + upper) / 2).flatten(1)) - products(
        c.abs(), ((upper - lower) / 2).flatten(1)
    )


def products(coef: Tensor, x: Tensor) -> Tensor:
    """<c, x> of each sample and function, (n, s), for coef (n or 1, s, d) and x (n, d)."""
    return x @ coef[0].T if len(coef) == 1 else torch.einsum("nsd,nd->ns", coef, x)


def _at_least_tiny(x: Any, like: Tensor) -> Any:
    """x, and the smallest normal number of the type of `like` where that is larger."""
    tiny = torch.finfo(like.dtype).tiny
    return x.clamp(min=tiny) if isinstance(x, Tensor) else max(x, tiny)


def _capped_ray(size: Tensor, room: Tensor, radius: float, q: float = 2) -> Tensor:
    """min(s size, room) with the s >= 0 that makes its q-norm the radius; all the room if that is
    less.
    """
    size = size / _at_least_tiny(size.amax(1, keepdim=True), size)
    t = ray_length(size**q, (room / _at_least_tiny(radius, room)) ** q)
    return torch.minimum(radius * t ** (1 / q) * size, room)


def _best_coordinates(size: Tensor, room: Tensor, radius: float | Tensor) -> Tensor:
    """Spend the radius on the largest entries, each up to its room."""
    d, k = size.shape[1], 16
    room = torch.where(size > 0, room.clamp(max=radius), 0)
    # a few entries nearly always suffice, and a full sort costs more than a small network's
    # gradient
    while True:
        top, index = torch.where(room > 0, size, 0).topk(min(k, d), dim=1)
        caps = room.gather(1, index)
        spent = caps.cumsum(1)
        if k >= d or bool(((spent[:, -1:] >= radius) | (top[:, -1:] == 0)).all()):
            break
        k *= 4
    return torch.zeros_like(size).scatter(
        1, index, torch.minimum(caps, (radius - spent + caps).clamp(min=0))
    )


def _shaved(size: Tensor, room: Tensor, radius: float) -> Tensor:
    """min((size - t)_+, room) with the t >= 0 that makes its 1-norm at most the radius.

    Newton's method on a decreasing piecewise linear function, inside a bracket.
    """
    low, high = torch.zeros_like(size[:, :1]), size.amax(1, keepdim=True)
    t, tol = low, 4 * torch.finfo(size.dtype).eps * radius
    for _ in range(_MAX_PIECES):
        above = size - t
        shaved = torch.minimum(above.clamp(min=0), room)
        excess = shaved.sum(1, keepdim=True) - radius
        low, high = torch.where(excess > 0, t, low), torch.where(excess > 0, high, t)
        free = ((above > 0) & (above < room)).sum(1, keepdim=True)
        moved = t + excess / free
        moved = torch.where((moved > low) & (moved < high), moved, 0.5 * (low + high))
        moved = torch.where(excess.abs() <= tol, t, moved)
        if bool((moved == t).all()):
            break
        t = moved
    total = shaved.sum(1, keepdim=True)
    return shaved * (radius / total.clamp(min=torch.finfo(size.dtype).tiny)).clamp(max=1)
