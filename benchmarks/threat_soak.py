"""Random sets of perturbations, and each pair of them under `|`, `+` and `&`, against enumeration.

A thousand draws of each set and each pair, each at a sample of random radius, some at two: the
worst point in one direction, and the support function in another. What the library says is compared
with pieces that are written down here independently, and whose support functions are found by
enumeration (`_pieces.py`): no solver takes part in the reference.

    python benchmarks/threat_soak.py [--cases 1000] [--only budget,box] [--jobs 2] [--minutes 5]

writes threat_soak.md and threat_soak.csv to --out, benchmarks/results by default, while it runs.
With --resume it goes on from the draws that threat_soak.csv there has. It takes one set or pair
after the other. A draw that raises an error counts as one, and a RuntimeWarning is an error. All
draws of a chunk have one seed.
"""

from __future__ import annotations

import argparse
import csv
import io
import itertools
import os
import time
import traceback
import warnings
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import _harness as harness  # first: it sets one thread
import numpy as np
from _pieces import Piece, box, ellipsoid, half_spaces

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
from sklearn_robust.threats._programs import Program

CHUNK = 50  # draws with one seed
TOL = 1e-8
_CONES = 0.2  # draws in which the cones are asked, too
CHECKS = {
    "support": "the support function, relative to 1 + its size",
    "attained": "<v, worst point> against it",
    "exceeded": "<v, .> of the worst point of another direction above it",
    "outside": "the number of worst points further than 1e-8 from the set",
    "cones": "the support function of `conic`, the hull of the set",
    "projection": "what the rest of a projection lacks to be normal to the set",
    "errors": "draws that raised an error",
}


@dataclass
class Case:
    """A set, and its pieces for each sample."""

    threat: Any
    pieces: list[list[Piece]]  # of each sample


def point(x: np.ndarray) -> Piece:
    """One point."""
    return box(x, x)


def ball(q: float, eps: float, scale: np.ndarray) -> Piece:
    """||x / scale||_q <= eps."""
    if q == np.inf:
        return box(-eps * scale, eps * scale)
    if q == 1:
        signs = np.array(list(itertools.product([-1.0, 1.0], repeat=len(scale))))
        return half_spaces(signs / scale, np.full(len(signs), eps))
    return ellipsoid(np.diag(1 / scale), eps)


def make(name: str, rng: np.random.Generator, X: np.ndarray, radii: Any = None) -> Case:
    """A random set of a family, and its pieces for the samples at their radii, 1 by default."""
    d = X.shape[1]
    radii = np.ones(len(X)) if radii is None else radii
    eps = rng.uniform(0.1, 0.8)
    scale = rng.uniform(0.5, 2.0, d)
    clip = (0.0, 1.0) if rng.random() < 0.5 else (np.zeros(d), np.ones(d))
    limits = [box(-x, 1 - x) for x in X]
    exponent = {"1": 1.0, "2": 2.0, "inf": np.inf}.get(name.split("_")[-1], 0.0)
    if name.startswith("ball"):
        pieces = [[ball(exponent, eps * r, scale)] for r in radii]
        return Case(LpBall(exponent, eps, scale), pieces)
    if name.startswith("clipped"):
        within = [
            [ball(exponent, eps * r, scale) & limit] for r, limit in zip(radii, limits, strict=True)
        ]
        return Case(LpBall(exponent, eps, scale, clip=clip), within)
    if name.startswith("box"):
        lower, upper = -rng.uniform(0, 0.8, d), rng.uniform(0, 0.8, d)
        lower[rng.random(d) < 0.3] = 0
        upper[rng.random(d) < 0.2] = 0
        boxes = [box(r * lower, r * upper) for r in radii]
        if name == "box":
            return Case(Box(lower, upper), [[one] for one in boxes])
        within = [[one & limit] for one, limit in zip(boxes, limits, strict=True)]
        return Case(Box(lower, upper, clip=clip), within)
    if name == "budget":
        count = int(rng.integers(0, d + 1))
        reach = eps * scale * (rng.random(d) < 0.8)
        chosen = [np.isin(range(d), some) for some in itertools.combinations(range(d), count)]
        pieces = [[box(-r * reach * some, r * reach * some) for some in chosen] for r in radii]
        return Case(FeatureBudget(count, reach), pieces)
    if name == "binary":
        count = int(rng.integers(0, d + 1))
        able = (rng.random(d) < 0.8).astype(float)
        flips = np.array(list(itertools.product([0, 1], repeat=d)))
        pieces = [
            [point((1 - 2 * x) * f * able) for f in flips if sum(f) <= np.floor(r * count)]
            for r, x in zip(radii, X, strict=True)
        ]
        return Case(FeatureBudget(count, able, binary=True), pieces)
    if name == "onehot":
        return _one_hot(rng, X, radii)
    matrix = rng.normal(size=(d, d)) / 2 + np.eye(d)
    while np.linalg.cond(matrix) > 100:  # rows that enumeration would take for parallel
        matrix = rng.normal(size=(d, d)) / 2 + np.eye(d)
    if name == "image":
        inverse = np.linalg.inv(matrix)
        rows = np.vstack([inverse, -inverse])
        pieces = [[half_spaces(rows, np.full(2 * d, eps * r))] for r in radii]
        return Case(LinearImage(LpBall(np.inf, eps), matrix), pieces)
    if name == "ellipsoid":
        whiten = np.linalg.inv(np.linalg.cholesky(matrix @ matrix.T))
        pieces = [[ellipsoid(whiten, eps * r)] for r in radii]
        return Case(Ellipsoid(matrix @ matrix.T, eps), pieces)
    if name == "relations":
        rows, b = rng.normal(size=(2, d)), rng.uniform(0, 0.5, 2)
        reach = np.full(d, eps)
        pieces = [[box(-r * reach, r * reach) & half_spaces(rows, r * b)] for r in radii]
        return Case(Relations(LpBall(np.inf, eps), rows, b), pieces)
    raise ValueError(f"name must be one of {FAMILIES}, got {name!r}.")


def _one_hot(rng: np.random.Generator, X: np.ndarray, radii: np.ndarray) -> Case:
    """Two features of two categories, of the second of which a change may be one way only."""
    count = int(rng.integers(0, 3))
    one_way = rng.random() < 0.3
    threat = OneHot([[0, 1], [3, 2]], count, {1: [(0, 1)]} if one_way else None)
    pieces = []
    for r, x in zip(radii, X, strict=True):
        first = [x[[0, 1]], x[[1, 0]]]
        second = [x[[2, 3]]] + ([x[[3, 2]]] if not one_way or x[3] == 1 else [])
        ends = [np.concatenate(parts) for parts in itertools.product(first, second)]
        changes = [(end[:2] != x[:2]).any() + int((end[2:] != x[2:]).any()) for end in ends]
        reached = zip(ends, changes, strict=True)
        pieces.append([point(end - x) for end, m in reached if m <= np.floor(r * count)])
    return Case(threat, pieces)


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
    """Samples of three features in [0, 1]; or of four that are 0 or 1, where a set asks for it."""
    if {"binary", "onehot"} & set(names):
        place = rng.integers(0, 2, (n, 2))
        return np.stack([place[:, 0], 1 - place[:, 0], place[:, 1], 1 - place[:, 1]], 1).astype(
            float
        )
    return rng.random((n, 3))


def supports_of(pieces: list[list[Piece]], V: np.ndarray) -> np.ndarray:
    """The supports of the pieces of each sample, (n, m)."""
    return np.array([np.max([piece.supports(V) for piece in of_one], axis=0) for of_one in pieces])


def combined(operation: str, cases: list[Case], V: np.ndarray) -> tuple[Any, np.ndarray, Any]:
    """The combination of sets, its supports (n, m), and its pieces, which a sum has not."""
    if len(cases) == 1:
        return cases[0].threat, supports_of(cases[0].pieces, V), cases[0].pieces
    first, second = cases
    of_samples = list(zip(first.pieces, second.pieces, strict=True))
    if operation == "&":
        pieces = [[a & b for a in some for b in others] for some, others in of_samples]
        return first.threat & second.threat, supports_of(pieces, V), pieces
    supports = [supports_of(case.pieces, V) for case in cases]
    if operation == "|":
        either = [some + others for some, others in of_samples]
        return first.threat | second.threat, np.maximum(*supports), either
    return first.threat + second.threat, supports[0] + supports[1], None


def one_case(
    names: tuple[str, ...], operation: str, rng: np.random.Generator, n: int = 1, m: int = 1
) -> dict[str, float]:
    """The errors of a random set, or pair of sets, at n samples: those of the worst points in m
    directions, and of the support function in m others.
    """
    X = samples(rng, names, n)
    d = X.shape[1]
    V = rng.normal(size=(2 * m, d)) * (rng.random((2 * m, d)) < 0.9)
    radii = rng.choice([0.0, 0.5, 1.0, 1.7], n, p=[0.1, 0.2, 0.5, 0.2])
    cases = [make(name, rng, X, radii) for name in names]
    threat, expected, pieces = combined(operation, cases, V)
    threat = threats.bind(threat, d)
    sets = threats.at(threat, X, radii)
    worst = np.stack([np.broadcast_to(sets.worst(v), X.shape) for v in V[:m]], axis=1)  # (n, m, d)
    values = worst @ V.T
    size = 1 + np.abs(expected)
    found = {
        "support": np.abs(threats.supports(sets, V[m:]) - expected[:, m:]) / size[:, m:],
        "attained": np.abs(np.einsum("nkk->nk", values[..., :m]) - expected[:, :m]) / size[:, :m],
        "exceeded": np.maximum(values - expected[:, None], 0) / size[:, None],
    }
    if pieces is not None:
        pairs = zip(pieces, worst, strict=True)
        outside = [not any(one.holds(x) for one in own) for own, points in pairs for x in points]
        found["outside"] = np.sum(outside)
    if rng.random() < _CONES and radii[0] == 1:
        one = threats.at(threat, X[0])
        if hasattr(one, "conic"):
            hull = Program(one.conic()).worst(V[0])[1]
            found["cones"] = np.abs(hull - expected[0, 0]) / size[0, 0]
    if hasattr(threat, "project") and not threats.is_per_sample(threat):
        radius = np.linspace(0, 1, 2 * m)
        moved = threat.project(V, radius)
        rest = V - moved
        found["projection"] = np.abs(
            np.sum(rest * moved, axis=-1) - radius * threats.support(threat, rest)
        )
    largest = {name: float(np.max(value)) for name, value in found.items()}
    unknown = [name for name, value in largest.items() if np.isnan(value)]
    if unknown:  # a maximum would lose it
        raise FloatingPointError(f"not a number: {unknown}")
    return largest


def families(only: set[str] | None = None) -> list[tuple[tuple[str, ...], str]]:
    """Each set, and each pair under each operation."""
    pairs = itertools.combinations_with_replacement(FAMILIES, 2)
    found = [((name,), "") for name in FAMILIES]
    found += [(pair, operation) for pair in pairs for operation in "|+&"]
    return [one for one in found if only is None or only & set(one[0])]


@dataclass
class Tally:
    """What is known of a set or pair: draws, largest errors, and the first error that was raised.

    A line of the table; those of several chunks add up.
    """

    draws: int = 0
    largest: dict[str, float] | None = None
    errors: int = 0
    message: str = ""

    def add(self, other: Tally) -> None:
        self.draws += other.draws
        self.errors += other.errors
        self.message = self.message or other.message
        largest = self.largest or {}
        for name, value in (other.largest or {}).items():
            largest[name] = max(largest.get(name, 0.0), value)
        self.largest = largest


def chunk(names: tuple[str, ...], operation: str, draws: int, seed: list[int]) -> Tally:
    """So many draws of a family; in a thread, from which solvers start none of their own."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(_draws, names, operation, draws, seed).result()


def _draws(names: tuple[str, ...], operation: str, draws: int, seed: list[int]) -> Tally:
    warnings.simplefilter("error", RuntimeWarning)
    rng = np.random.default_rng(seed)
    total = Tally()
    for draw in range(draws):
        try:
            total.add(Tally(1, one_case(names, operation, rng, n=1 + (draw % 10 == 0))))
        except Exception:
            last = traceback.format_exc().strip().splitlines()[-1]
            total.add(Tally(1, None, 1, f"seed {seed}: {last}"))
    return total


def main() -> None:
    """Run the draws and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=1000, help="draws of each set and pair")
    parser.add_argument("--only", default="", help="families of sets, by commas")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=np.inf, help="ends after as many")
    parser.add_argument("--resume", action="store_true", help="adds to the draws in --out")
    parser.add_argument("--out", type=Path, default=harness.RESULTS)
    options = parser.parse_args()
    end = time.monotonic() + 60 * options.minutes
    chosen = families(set(options.only.split(",")) if options.only else None)
    known = read(options.out) if options.resume else {}
    seeds = {family: k for k, family in enumerate(families())}
    tallies = {one: known.get(one, Tally()) for one in seeds if one in known or one in chosen}
    options.out.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(options.jobs) as pool:
        waiting = {
            pool.submit(
                chunk,
                *family,
                min(CHUNK, options.cases - first),
                [options.seed, seeds[family], first],
            ): family
            for family in chosen
            for first in range(tallies[family].draws, options.cases, CHUNK)
        }
        written = time.monotonic()
        for done in as_completed(waiting):
            tallies[waiting[done]].add(done.result())
            if time.monotonic() > end:
                pool.shutdown(wait=False, cancel_futures=True)
                break
            if time.monotonic() > written + 5:
                write(options.out, tallies)
                written = time.monotonic()
    write(options.out, tallies)
    print((options.out / "threat_soak.md").read_text())


def read(out: Path) -> dict[Any, Tally]:
    """What an earlier run wrote; its draws of each set are whole chunks."""
    found = {}
    with (out / "threat_soak.csv").open(newline="") as file:
        lines = csv.reader(file)
        next(lines)  # the names of the columns
        for first, operation, second, draws, errors, *figures, message in lines:
            named = zip(list(CHECKS)[:-1], figures, strict=True)
            largest = {name: float(x) for name, x in named if x}
            names = (first, second) if operation else (first,)
            found[names, operation] = Tally(int(draws), largest, int(errors), message)
    return found


def write(out: Path, tallies: dict[Any, Tally]) -> None:
    """The tables of what was found, each file whole at every moment."""
    lines = [(names[0], op, "".join(names[1:]), one) for (names, op), one in tallies.items()]
    rows = [
        [first, op, second, tally.draws, tally.errors]
        + [_figure(tally, name) for name in list(CHECKS)[:-1]]
        + [tally.message]
        for first, op, second, tally in lines
    ]
    table = io.StringIO(newline="")
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["set", "operation", "other", "draws", "errors", *list(CHECKS)[:-1], ""])
    writer.writerows(rows)
    _replace(out / "threat_soak.csv", table.getvalue())
    _replace(out / "threat_soak.md", _summary(tallies))


def _figure(tally: Tally, name: str) -> str:
    """The largest error of a check; blank where the check was not made."""
    found = tally.largest or {}
    return f"{found[name]:.1e}" if name in found else ""


def _replace(path: Path, text: str) -> None:
    """The text as the file, whole at every moment."""
    new = path.with_name(path.name + ".new")
    new.write_text(text)
    os.replace(new, path)


def _summary(tallies: dict[Any, Tally]) -> str:
    """The largest errors under each operation, and what is above the tolerance."""
    kinds = {"": "one set", "|": r"a \| b", "+": "a + b", "&": "a & b"}
    text = [
        "# Sets of perturbations, and their pairs, against enumeration",
        "",
        "`python benchmarks/threat_soak.py`; threat_soak.csv has a line for each set and pair.",
        "",
        "| | sets | draws, least | most | " + " | ".join(CHECKS) + " |",
        "|---" * (4 + len(CHECKS)) + "|",
    ]
    for operation, title in kinds.items():
        of_kind = [tally for (_, op), tally in tallies.items() if op == operation]
        if not of_kind:
            continue
        largest = {
            name: max(((one.largest or {}).get(name, 0.0) for one in of_kind), default=0.0)
            for name in list(CHECKS)[:-1]
        }
        cells = [f"{value:.0e}" for value in largest.values()]
        cells.append(str(sum(one.errors for one in of_kind)))
        draws = sorted(one.draws for one in of_kind)
        counts = f"{len(of_kind)} | {draws[0]} | {draws[-1]}, of {draws.count(draws[-1])} sets"
        text.append(f"| {title} | {counts} | " + " | ".join(cells) + " |")
    text += ["", "| column | what it holds, the largest |", "|---|---|"]
    text += [f"| {name} | {meaning} |" for name, meaning in CHECKS.items()]
    beyond = Counter()
    for (names, op), tally in tallies.items():
        for name, value in (tally.largest or {}).items():
            if value > TOL:
                beyond[f"{f' {op} '.join(names)}: {name} {value:.1e}"] += 1
        if tally.errors:
            beyond[f"{f' {op} '.join(names)}: {tally.errors} errors, {tally.message}"] += 1
    text += ["", f"Above {TOL:.0e}: {len(beyond)}.", *(f"- {line}" for line in beyond), ""]
    return "\n".join(text)


if __name__ == "__main__":
    main()
