"""Random sets of perturbations, and each pair of them under `|`, `+` and `&`, against enumeration.

Run it with

    python benchmarks/threat_soak.py [--cases 1000] [--only budget,box]

A set is compared with pieces that are written down here independently: a piece is a polytope, whose
vertices are enumerated, or has second-order cones, and is then given to cvxpy. For each case it
checks the support function, that the worst point is in the set and attains it, and that the cones
describe the hull. A line for each family of sets has the largest errors, relative to the sizes.
"""

from __future__ import annotations

import argparse
import itertools
import time
import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sklearn_robust import threats
from sklearn_robust.threats import (
    Box,
    Ellipsoid,
    FeatureBudget,
    LinearImage,
    LpBall,
    OneHot,
    Relations,
)
from sklearn_robust.threats._programs import worst_point

D = 4
UNIT = np.eye(D)
SIGNS = np.array(list(itertools.product([-1.0, 1.0], repeat=D)))


@dataclass
class Piece:
    """The points with A x <= b and ||L x|| <= r for each (L, r)."""

    A: np.ndarray
    b: np.ndarray
    balls: list[tuple[np.ndarray, float]] = field(default_factory=list)

    def __and__(self, other: Piece) -> Piece:
        return Piece(
            np.vstack([self.A, other.A]), np.append(self.b, other.b), self.balls + other.balls
        )

    def holds(self, x: np.ndarray, tol: float = 1e-8) -> bool:
        """Whether a point is in the piece."""
        return bool((self.A @ x <= self.b + tol).all()) and all(
            np.linalg.norm(L @ x) <= r + tol for L, r in self.balls
        )

    def supports(self, V: np.ndarray) -> np.ndarray:
        """The largest <v, x> of each row of V; -inf where the piece is empty."""
        if self.balls:
            return np.array([self._solved(v) for v in V])
        # rows that are met with equality, four at a time
        places = np.array(list(itertools.combinations(range(len(self.b)), D)))
        systems, sides = self.A[places], self.b[places]
        regular = np.abs(np.linalg.det(systems)) > 1e-9
        corners = np.linalg.solve(systems[regular], sides[regular][..., None])[..., 0]
        inside = (corners @ self.A.T <= self.b + 1e-9).all(axis=1)
        if not inside.any():
            return np.full(len(V), -np.inf)
        return (V @ corners[inside].T).max(axis=1)

    def _solved(self, v: np.ndarray) -> float:
        import cvxpy as cp

        x = cp.Variable(D)
        held = [self.A @ x <= self.b] if len(self.b) else []
        program = cp.Problem(
            cp.Maximize(v @ x), held + [cp.norm(L @ x) <= r for L, r in self.balls]
        )
        options = {"tol_gap_abs": 1e-11, "tol_gap_rel": 1e-11, "tol_feas": 1e-11}
        with warnings.catch_warnings():  # where it ends before such tolerances
            warnings.simplefilter("ignore")
            program.solve(solver=cp.CLARABEL, **options)
        return float(program.value)


@dataclass
class Case:
    """A set, and its pieces for each sample."""

    threat: Any
    pieces: list[list[Piece]]  # of each sample


def box(lower: Any, upper: Any) -> Piece:
    """lower <= x <= upper."""
    lower, upper = np.broadcast_to(lower, D), np.broadcast_to(upper, D)
    finite = np.append(np.isfinite(upper), np.isfinite(lower))
    return Piece(np.vstack([UNIT, -UNIT])[finite], np.append(upper, -lower)[finite])


def point(x: np.ndarray) -> Piece:
    """One point."""
    return box(x, x)


NOTHING = Piece(np.empty((0, D)), np.empty(0))


def ball(q: float, eps: float, scale: np.ndarray) -> Piece:
    """||x / scale||_q <= eps."""
    if q == np.inf:
        return box(-eps * scale, eps * scale)
    if q == 1:
        return Piece(SIGNS / scale, np.full(len(SIGNS), eps))
    return Piece(NOTHING.A, NOTHING.b, [(np.diag(1 / scale), eps)])


def make(name: str, rng: np.random.Generator, X: np.ndarray) -> Case:
    """A random set of a family, and its pieces for the samples."""
    n = len(X)
    eps = rng.uniform(0.1, 0.8)
    scale = rng.uniform(0.5, 2.0, D)
    low, high = (0.0, 1.0) if rng.random() < 0.5 else (np.zeros(D), np.ones(D))
    limits = [box(-x, 1 - x) for x in X]
    exponent = {"1": 1.0, "2": 2.0, "inf": np.inf}.get(name.split("_")[-1])
    if name.startswith("ball"):
        pieces = [[ball(exponent, eps, scale)]] * n
        return Case(LpBall(exponent, eps, scale), pieces)
    if name.startswith("clipped"):
        piece = ball(exponent, eps, scale)
        threat = LpBall(exponent, eps, scale, clip=(low, high))
        return Case(threat, [[piece & limit] for limit in limits])
    lower, upper = -rng.uniform(0, 0.8, D), rng.uniform(0, 0.8, D)
    lower[rng.random(D) < 0.3] = 0
    upper[rng.random(D) < 0.2] = 0
    if name == "box":
        return Case(Box(lower, upper), [[box(lower, upper)]] * n)
    if name == "box_clipped":
        piece = box(lower, upper)
        return Case(Box(lower, upper, clip=(low, high)), [[piece & limit] for limit in limits])
    count = int(rng.integers(0, D + 1))
    if name == "budget":
        radii = eps * scale * (rng.random(D) < 0.8)
        chosen = [np.isin(range(D), some) for some in itertools.combinations(range(D), count)]
        pieces = [box(-radii * some, radii * some) for some in chosen]
        return Case(FeatureBudget(count, radii), [pieces] * n)
    if name == "binary":
        able = (rng.random(D) < 0.8).astype(float)
        flips = [f for f in itertools.product([0, 1], repeat=D) if sum(f) <= count]
        pieces = [[point((1 - 2 * x) * f * able) for f in flips] for x in X]
        return Case(FeatureBudget(count, able, binary=True), pieces)
    if name == "onehot":
        m = int(rng.integers(0, 3))
        groups = [[0, 1], [3, 2]]
        pairs = [(0, 1)] if rng.random() < 0.3 else None
        threat = OneHot(groups, m, None if pairs is None else {1: pairs})
        reached = []
        for x in X:
            first = [x[[0, 1]], x[[1, 0]]]
            second = [x[[2, 3]]] + ([x[[3, 2]]] if pairs is None or x[3] == 1 else [])
            ends = [
                end
                for end in (np.concatenate(parts) for parts in itertools.product(first, second))
                if (end[:2] != x[:2]).any() + int((end[2:] != x[2:]).any()) <= m
            ]
            reached.append([point(end - x) for end in ends])
        return Case(threat, reached)
    matrix = rng.normal(size=(D, D)) / 2 + UNIT
    if name == "image":
        inverse = np.linalg.inv(matrix)
        piece = Piece(np.vstack([inverse, -inverse]), np.full(2 * D, eps))
        return Case(LinearImage(LpBall(np.inf, eps), matrix), [[piece]] * n)
    if name == "ellipsoid":
        covariance = matrix @ matrix.T
        whiten = np.linalg.inv(np.linalg.cholesky(covariance))
        return Case(
            Ellipsoid(covariance, eps), [[Piece(NOTHING.A, NOTHING.b, [(whiten, eps)])]] * n
        )
    if name == "relations":
        rows, b = rng.normal(size=(2, D)), rng.uniform(0, 0.5, 2)
        piece = box(-eps, eps) & Piece(rows, b)
        return Case(Relations(LpBall(np.inf, eps), rows, b), [[piece]] * n)
    raise ValueError(f"name must be one of {FAMILIES}, got {name!r}.")


FAMILIES = [
    "ball_1",
    "ball_2",
    "ball_inf",
    "clipped_1",
    "clipped_2",
    "clipped_inf",
    "box",
    "box_clipped",
    "budget",
    "binary",
    "onehot",
    "image",
    "ellipsoid",
    "relations",
]


def samples(rng: np.random.Generator, names: tuple[str, ...], n: int) -> np.ndarray:
    """Samples in [0, 1], which are 0 or 1 where a set asks for it."""
    if {"binary", "onehot"} & set(names):
        place = rng.integers(0, 2, (n, 2))
        return np.stack([place[:, 0], 1 - place[:, 0], place[:, 1], 1 - place[:, 1]], 1).astype(
            float
        )
    return rng.random((n, D))


def of_samples(pieces: list[list[Piece]], V: np.ndarray) -> np.ndarray:
    """The supports of the pieces of each sample, (n, m)."""
    known: dict[int, np.ndarray] = {}  # samples may share their pieces
    for of_one in pieces:
        if id(of_one) not in known:
            known[id(of_one)] = np.max([piece.supports(V) for piece in of_one], axis=0)
    return np.array([known[id(of_one)] for of_one in pieces])


def combined(operation: str, first: Case, second: Case, V: np.ndarray) -> tuple[Any, Any, Any]:
    """The combination, its support at the samples, and whether it holds a point of a sample."""
    tops = [] if operation == "&" else [of_samples(case.pieces, V) for case in (first, second)]

    def held(case: Case, i: int, x: np.ndarray) -> bool:
        return any(piece.holds(x) for piece in case.pieces[i])

    if operation == "|":
        return (
            first.threat | second.threat,
            np.maximum(*tops),
            lambda i, x: held(first, i, x) or held(second, i, x),
        )
    if operation == "+":
        return first.threat + second.threat, tops[0] + tops[1], None
    both = [
        [a & b for a in ones for b in others]
        for ones, others in zip(first.pieces, second.pieces, strict=True)
    ]
    supports = of_samples(both, V)
    return (
        first.threat & second.threat,
        supports,
        lambda i, x: held(first, i, x) and held(second, i, x),
    )


def errors(threat: Any, X: np.ndarray, V: np.ndarray, supports: Any, held: Any) -> dict[str, float]:
    """The largest errors of a set against its supports (n, m), and of its worst points."""
    threat = threats.bind(threat, D)
    sets = threats.at(threat, X)
    found = np.array([sets.support(v) for v in V]).T
    worst = np.stack([np.broadcast_to(sets.worst(v), X.shape) for v in V], axis=1)  # (n, m, d)
    size = 1 + np.abs(supports)
    result = {
        "support": float(np.max(np.abs(found - supports) / size)),
        "attained": float(np.max(np.abs(np.sum(worst * V, axis=-1) - supports) / size)),
        "batched": float(np.max(np.abs(sets.support(np.repeat(V[:, None], len(X), 1)).T - found))),
    }
    if held is not None:
        result["outside"] = float(
            sum(not held(i, worst[i, k]) for i in range(len(X)) for k in range(len(V)))
        )
    one = threats.at(threat, X[0])
    if hasattr(one, "conic"):
        rows = one.conic()
        hull = [worst_point(rows, np.zeros(rows.F.shape[1], bool), v)[1] for v in V[:2]]
        result["cones"] = float(np.max(np.abs(np.array(hull) - supports[0, :2]) / size[0, :2]))
    if hasattr(threat, "project") and not threats.is_per_sample(threat):
        radius = np.linspace(0, 1, len(V))
        moved = threat.project(V, radius)
        rest = V - moved
        normal = np.sum(rest * moved, axis=-1) - radius * threats.support(threat, rest)
        result["projection"] = float(np.max(np.abs(normal)))
    return result


def one_case(
    names: tuple[str, ...], operation: str, rng: np.random.Generator, n: int, m: int
) -> dict[str, float]:
    """The errors of a random set, or pair of sets, at n samples in m directions."""
    X = samples(rng, names, n)
    V = rng.normal(size=(m, D)) * (rng.random((m, D)) < 0.9)
    first = make(names[0], rng, X)
    if len(names) == 1:
        supports = of_samples(first.pieces, V)
        return errors(
            first.threat,
            X,
            V,
            supports,
            lambda i, x: any(piece.holds(x) for piece in first.pieces[i]),
        )
    return errors(
        X=X,
        V=V,
        **dict(
            zip(
                ("threat", "supports", "held"),
                combined(operation, first, make(names[1], rng, X), V),
                strict=True,
            )
        ),
    )


def families(only: set[str] | None = None) -> list[tuple[tuple[str, ...], str]]:
    """Each set, and each pair under each operation."""
    pairs = itertools.combinations_with_replacement(FAMILIES, 2)
    found = [((name,), "") for name in FAMILIES]
    found += [(pair, operation) for pair in pairs for operation in "|+&"]
    return [one for one in found if only is None or only & set(one[0])]


def main() -> None:
    """Run the cases and print the largest errors."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=1000, help="for each set and pair")
    parser.add_argument("--only", default="", help="families of sets, by commas")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    only = set(arguments.only.split(",")) if arguments.only else None
    n, m = 4, 10
    worst: dict[str, float] = {}
    for names, operation in families(only):
        start = time.process_time()
        rng = np.random.default_rng(arguments.seed)
        of_family: dict[str, float] = {}
        for _ in range(-(-arguments.cases // (n * m))):
            for key, value in one_case(names, operation, rng, n, m).items():
                of_family[key] = max(of_family.get(key, 0.0), value)
        figures = "  ".join(f"{key} {value:.0e}" for key, value in of_family.items())
        print(
            f"{f' {operation} '.join(names):28} {time.process_time() - start:6.1f} s  {figures}",
            flush=True,
        )
        for key, value in of_family.items():
            worst[key] = max(worst.get(key, 0.0), value)
    print("all  " + "  ".join(f"{key} {value:.1e}" for key, value in worst.items()))


if __name__ == "__main__":
    main()
