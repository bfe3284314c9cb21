r"""Convex sets of a few dimensions, whose support functions are found by enumeration.

A piece is :math:`\{x : l \le x \le u,\ A x \le b,\ \|L_k x\|_2 \le r_k\}` with at most two balls.
At a point where <v, .> is largest some rows hold with equality, and none, one or both of the balls:
each choice of rows and balls leaves one candidate in closed form, or at the root of a monotone
function. The largest value of the candidates that are in the piece is the support function. No
solver is used.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cache

import numpy as np

_INSIDE = 1e-9  # distance to a row, or share of a radius, that rounding may take
_FLAT = 1e-9  # determinant of unit rows below which they count as dependent
_BISECTIONS = 60
_SOMEWHERE = np.random.default_rng(0).normal(size=16)  # a direction along no face


@dataclass
class Piece:
    """The points with lower <= x <= upper, A x <= b and ||L x|| <= r for each (L, r).

    A variable whose bounds are equal is fixed; it is 0 where there are balls, or all are fixed.
    """

    lower: np.ndarray
    upper: np.ndarray
    A: np.ndarray
    b: np.ndarray
    balls: list[tuple[np.ndarray, float]]

    def __and__(self, other: Piece) -> Piece:
        return Piece(
            np.maximum(self.lower, other.lower),
            np.minimum(self.upper, other.upper),
            np.vstack([self.A, other.A]),
            np.append(self.b, other.b),
            self.balls + other.balls,
        )

    def holds(self, x: np.ndarray, tol: float = 1e-8) -> bool:
        """Whether a point is in the piece, up to a distance."""
        sizes = np.linalg.norm(self.A, axis=1)
        return (
            bool((x >= self.lower - tol).all() and (x <= self.upper + tol).all())
            and bool((self.A @ x <= self.b + tol * sizes).all())
            and all(np.linalg.norm(L @ x) <= r + tol for L, r in self.balls)
        )

    def supports(self, V: np.ndarray) -> np.ndarray:
        """The largest <v, x> of each row of V; -inf where the piece is empty."""
        if (self.lower > self.upper).any():
            return np.full(len(V), -np.inf)
        free = self.lower < self.upper
        if not free.any():
            return V @ self.lower if self.holds(self.lower) else np.full(len(V), -np.inf)
        fixed = np.where(free, 0.0, self.lower)
        rows, sides = self._rows(free, fixed)
        if ((sides < -_INSIDE) & ~rows.any(axis=1)).any():  # a row that no variable can mend
            return np.full(len(V), -np.inf)
        balls = [(L[:, free], r) for L, r in self.balls]
        found = _largest(rows, sides, balls, V[:, free])
        return found + V @ fixed

    def _rows(self, free: np.ndarray, fixed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The rows of the free variables, of unit length, with finite sides."""
        unit = np.eye(len(free))[free][:, free]
        rows = np.vstack([unit, -unit, self.A[:, free]])
        sides = np.concatenate([self.upper[free], -self.lower[free], self.b - self.A @ fixed])
        size = np.linalg.norm(rows, axis=1)
        size = np.where(size > 0, size, 1.0)
        some = np.isfinite(sides)
        return (rows / size[:, None])[some], (sides / size)[some]


def box(lower: np.ndarray, upper: np.ndarray) -> Piece:
    """lower <= x <= upper."""
    return Piece(lower, upper, np.empty((0, len(lower))), np.empty(0), [])


def half_spaces(A: np.ndarray, b: np.ndarray) -> Piece:
    """A x <= b."""
    everywhere = np.full(A.shape[1], np.inf)
    return Piece(-everywhere, everywhere, A, b, [])


def ellipsoid(L: np.ndarray, r: float) -> Piece:
    """||L x|| <= r."""
    everywhere = np.full(L.shape[1], np.inf)
    return Piece(-everywhere, everywhere, np.empty((0, L.shape[1])), np.empty(0), [(L, r)])


@cache
def _choices(m: int, k: int) -> np.ndarray:
    """The choices of k of m rows, (number, k)."""
    found = list(itertools.combinations(range(m), k))
    return np.array(found, dtype=np.intp).reshape(len(found), k)


def _largest(rows: np.ndarray, sides: np.ndarray, balls: list, V: np.ndarray) -> np.ndarray:
    """The largest <v, x> over rows x <= sides and the balls, for each row of V."""
    k = rows.shape[1]
    best = np.full(len(V), -np.inf)

    def take(points: np.ndarray, values: np.ndarray) -> None:
        """Points (c, m, k) or (c, 1, k) with their values (c, m), where they are in the piece."""
        with np.errstate(invalid="ignore"):  # NaN where a choice has no candidate
            inside = (points @ rows.T <= sides + _INSIDE).all(axis=-1)
            for L, r in balls:
                inside &= np.linalg.norm(points @ L.T, axis=-1) <= r * (1 + _INSIDE) + 1e-12
            np.maximum(
                best, np.where(inside, values, -np.inf).max(axis=0, initial=-np.inf), out=best
            )

    chosen = _choices(len(rows), k)
    systems = rows[chosen]
    regular = np.abs(np.linalg.det(systems)) > _FLAT
    corners = np.linalg.solve(systems[regular], sides[chosen][regular][..., None])[:, None, :, 0]
    take(corners, corners[:, 0] @ V.T)
    for i, (L, r) in enumerate(balls):
        # in coordinates in which the ball is ||u|| <= r
        turn = np.linalg.inv(np.linalg.qr(L)[1])
        turned = rows @ turn
        length = np.linalg.norm(turned, axis=1, keepdims=True)
        others = [(M @ turn, s) for M, s in balls[i + 1 :]]
        for size in range(k):
            for points in _on_sphere(
                turned / length, sides / length[:, 0], r, others, V @ turn, size
            ):
                at = points @ turn.T
                take(at, np.einsum("cmk,mk->cm", np.broadcast_to(at, (len(at), *V.shape)), V))
    return best


def _on_sphere(
    rows: np.ndarray, sides: np.ndarray, r: float, others: list, V: np.ndarray, size: int
) -> list[np.ndarray]:
    """Candidates at which so many rows and ||u|| = r hold, and those at which another ball does;
    and the least points of the rows. Each is (c, m, k) or (c, 1, k).
    """
    chosen = _choices(len(rows), size)
    A = rows[chosen]  # (c, size, k)
    gram = A @ A.swapaxes(-1, -2)
    regular = np.linalg.det(gram) > _FLAT**2
    chosen, A, gram = chosen[regular], A[regular], gram[regular]
    inverse = np.linalg.inv(gram)
    least = (A.swapaxes(-1, -2) @ inverse @ sides[chosen][..., None])[..., 0]  # of the face
    rest = r**2 - (least**2).sum(-1)
    along = np.eye(rows.shape[1]) - A.swapaxes(-1, -2) @ inverse @ A  # projector on the face
    keep = rest >= 0
    least, rest, along = least[keep], rest[keep], along[keep]
    if not len(least):
        return []
    g = np.einsum("ckj,mj->cmk", along, V)
    # where all points of a face have one value, a point of it in any direction will do
    level = np.linalg.norm(g, axis=-1) <= _FLAT * np.linalg.norm(V, axis=-1)
    g = np.where(level[..., None], (along @ _SOMEWHERE[: V.shape[1]])[:, None], g)
    length = np.linalg.norm(g, axis=-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = [least[:, None], least[:, None] + np.sqrt(rest)[:, None, None] * g / length]
    for M, s in others:
        found.append(_on_both(least, rest, along, g, M.T @ M, s**2))
    return found


def _on_both(
    least: np.ndarray,
    rest: np.ndarray,
    along: np.ndarray,
    g: np.ndarray,
    Q: np.ndarray,
    side: float,
) -> np.ndarray:
    r"""Candidates u = least + t on faces at which also u' Q u = side.

    Each combination of the two balls, :math:`(1 - \theta) |t|^2 + \theta (u' Q u)`, is a ball, on
    which the point that is largest along g has a closed form. As theta grows the second ball is
    held more tightly: theta is bisected for both to hold alike.
    """
    H = along @ Q @ along  # on the face
    unit = np.eye(len(Q)) - along  # keeps the combination regular off the face
    linear = np.einsum("ckj,jl,cl->ck", along, Q, least)
    left = side - np.einsum("ck,kj,cj->c", least, Q, least)

    def at(theta: np.ndarray) -> np.ndarray:
        weight = theta[..., None, None]
        combined = (1 - weight) * along[:, None] + weight * H[:, None] + unit[:, None]
        step = np.linalg.solve(combined, np.stack(np.broadcast_arrays(g, linear[:, None]), -1))
        toward, shift = step[..., 0], -theta[..., None] * step[..., 1]
        room = (1 - theta) * rest[:, None] + theta * left[:, None]
        room = room - theta * np.einsum("cmk,ck->cm", shift, linear)
        return shift + toward * np.sqrt(room / np.sum(g * toward, -1))[..., None]

    low, high = np.zeros(g.shape[:2]), np.ones(g.shape[:2])
    with np.errstate(divide="ignore", invalid="ignore"):
        for _ in range(_BISECTIONS):
            theta = (low + high) / 2
            t = at(theta)
            first = (t**2).sum(-1) - rest[:, None]
            second = np.einsum("cmk,ckj,cmj->cm", t, H, t) - left[:, None]
            second = second + 2 * np.einsum("cmk,ck->cm", t, linear)
            low, high = np.where(first < second, theta, low), np.where(first < second, high, theta)
        return least[:, None] + at((low + high) / 2)
