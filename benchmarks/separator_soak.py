"""Random separators, each margin and bound of which is recomputed in exact arithmetic: nothing
called proven is false.

Twenty thousand problems: columns of sizes from 1e-8 to 1e8, exponents p and q from 1 to inf, radii
from 1e-6 eps* to (1 - 1e-9) eps* and beyond it, scales with zeros, repeated rows, rows of zeros,
integer grids, with and without intercept. The data, coefficients and weights of an answer are
rational numbers: sums are computed with fractions, norms with 200 bits.

    python benchmarks/separator_soak.py [--cases 20000] [--first 0] [--jobs 2]

writes benchmarks/results/separator_soak.md. What is done is kept in `--store`, a line for every
hundred problems: a run that was interrupted goes on from there. Delete the file when the library
changes.
"""

import argparse
import json
import time
import warnings
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction
from pathlib import Path

import _harness as harness  # first: it sets one thread
import mpmath
import numpy as np
from sklearn.exceptions import ConvergenceWarning

from sklearn_robust.norms import LpNorm
from sklearn_robust.scaled_norms import ScaledNorm
from sklearn_robust.separators import NotSeparableError, max_margin, min_norm_separator

CHUNK = 100
EXPONENTS = [1, 1.2, 1.5, 2, 3, 4, 10, np.inf]
BELOW = [0, 1e-6, 1e-3, 0.3, 0.7, 0.9, 0.99, 1 - 1e-4, 1 - 1e-6, 1 - 1e-9]  # of eps*
BEYOND = [1 + 1e-6, 1.01, 2]
TOL = 1e-8
SLOW = 20.0  # seconds
# rounding of a coordinate of Z^T a that proves non-separability, relative to the terms that it sums
PROOF = 1e-12
FAULTS = {
    "wrong margin": "a margin above that of the predictor",
    "wrong bound": "a bound below D(a), or below a margin",
    "wrong proof": "NotSeparableError without proof, or where a robust separator is known",
    "silent gap": "a gap above tol without a warning, or one that is not 1 - margin / bound",
    "RuntimeWarning": "any warning but ConvergenceWarning",
    "exception": (
        "any exception but NotSeparableError, and RuntimeError where eps lies between the bounds "
        "of eps*"
    ),
    "slow": "a call that took more than 20 s",
}
UNDECIDED = "undecided, and said so: eps between the bounds of eps*"
mpmath.mp.prec = 200


# --- problems


def draw(case):
    """A problem: X, y, scale, p, q, whether there is an intercept, and the radius as a share of
    eps*."""
    rng = np.random.default_rng([20, case])
    n, d = rng.integers(2, 13), rng.integers(1, 11)
    if rng.random() < 0.3:
        X = rng.integers(-2, 3, size=(n, d)).astype(float)
        y = np.where(X @ rng.integers(-2, 3, size=d) + 0.5 > 0, 1.0, -1.0)
    else:
        X, w = rng.normal(size=(n, d)), rng.normal(size=d)
        y = np.where(rng.random(n) > 0.5, 1.0, -1.0)
        X += np.outer(y * (rng.random(n) + 0.1) * rng.choice([0, 1, 2, 4]), w / np.linalg.norm(w))
    if rng.random() < 0.25:
        half = n // 2
        X[:half], y[:half] = X[half : 2 * half], y[half : 2 * half]
    if rng.random() < 0.1:
        X[rng.integers(n)] = 0
    if rng.random() < 0.5:
        X *= 10.0 ** rng.uniform(-8, 8, size=d)
    y[:2] = 1, -1
    scale = None
    if rng.random() < 0.35:
        scale = 10.0 ** rng.uniform(-2, 2, size=d)
        if rng.random() < 0.6:
            scale[rng.random(d) < 0.3] = 0
    p, q = (EXPONENTS[i] for i in rng.integers(len(EXPONENTS), size=2))
    share = float(rng.choice(BEYOND if rng.random() < 0.15 else BELOW))
    return X, y, scale, p, q, bool(rng.integers(2)), share


# --- exact arithmetic


def real(fraction):
    return mpmath.mpf(fraction.numerator) / fraction.denominator


def dual(r):
    """The dual exponent of a float, exactly."""
    if r == 1 or r == np.inf:
        return np.inf if r == 1 else 1
    return Fraction(r) / (Fraction(r) - 1)


def norm(x, r):
    """The norm of fractions, or of 200-bit numbers, with an exponent that is inf or a rational
    number."""
    x = [real(abs(v)) if isinstance(v, Fraction) else abs(v) for v in x]
    largest = max(x, default=mpmath.mpf(0))
    if largest == 0 or r == np.inf:
        return largest
    r = real(Fraction(r))
    return largest * mpmath.fsum((v / largest) ** r for v in x if v) ** (1 / r)


def exact(x):
    return [Fraction(v) for v in np.asarray(x, float).tolist()]


class Exact:
    """The signed rows of a problem as fractions, and what predictors and weights prove about it."""

    def __init__(self, X, y, scale, q, fit_intercept):
        self.y = [int(v) for v in y]
        self.rows = [[label * v for v in exact(x)] for x, label in zip(X, self.y, strict=True)]
        self.scale = [Fraction(1)] * X.shape[1] if scale is None else exact(scale)
        self.q, self.fit_intercept = q, fit_intercept

    def margin(self, coef, intercept, eps):
        """The smallest robust margin of a predictor."""
        w, b = exact(coef), Fraction(float(intercept))
        scores = (
            sum(z * v for z, v in zip(row, w, strict=True)) + label * b
            for row, label in zip(self.rows, self.y, strict=True)
        )
        return real(min(scores)) - mpmath.mpf(float(eps)) * self.damage(w)

    def damage(self, w):
        """||s w||_q*."""
        return norm([s * v for s, v in zip(self.scale, w, strict=True)], dual(self.q))

    def feasible(self, weights):
        """The weights scaled to the simplex, per class with an intercept."""
        a = exact(weights)
        classes = [1, -1] if self.fit_intercept else [None]
        sums = {
            side: sum(v for v, label in zip(a, self.y, strict=True) if side in (None, label))
            for side in classes
        }
        return [
            v / (len(classes) * sums[label if self.fit_intercept else None])
            for v, label in zip(a, self.y, strict=True)
        ]

    def weighted_sum(self, a):
        return [
            sum(v * row[j] for v, row in zip(a, self.rows, strict=True))
            for j in range(len(self.scale))
        ]

    def terms(self, a):
        return [
            sum(v * abs(row[j]) for v, row in zip(a, self.rows, strict=True))
            for j in range(len(self.scale))
        ]

    def distance_bound(self, g, p, eps):
        """The distance in the norm p* from g to a point of the threat's ball that is all but the
        nearest: no less than D(a)."""
        unit = max(abs(v) for v in g)
        if unit == 0:
            return mpmath.mpf(0)
        scaled = np.array([mpmath_to_long(real(v / unit)) for v in g])
        radius = np.array([mpmath_to_long(mpmath.mpf(float(eps)) / real(unit))])
        scale = np.array([float(s) for s in self.scale], np.longdouble)
        ball = LpNorm(self.q) if (scale == 1).all() else ScaledNorm(self.q, scale)
        left = ball.residual(scaled[None], radius, LpNorm(p).dual)[0]
        a = [abs(real(v)) for v in g]
        left = [
            abs(long_to_mpmath(v)) * real(unit) if s > 0 else x
            for v, s, x in zip(left, self.scale, a, strict=True)
        ]
        eps = mpmath.mpf(float(eps))
        if (
            norm([x / real(s) for x, s in zip(a, self.scale, strict=True) if s > 0], self.q) <= eps
        ):  # all that can move is taken
            return norm(
                [mpmath.mpf(0) if s > 0 else x for x, s in zip(a, self.scale, strict=True)], dual(p)
            )

        def outside(share):
            """What the point that leaves (1 + share) times as much lacks to the sphere."""
            taken = [
                max(x - (1 + share) * v, 0) / real(s)
                for x, v, s in zip(a, left, self.scale, strict=True)
                if s > 0
            ]
            return norm(taken, self.q) - eps

        share, step = mpmath.mpf(0), mpmath.mpf(2) ** -60
        for _ in range(6):  # Newton's method: rounding put the point a little beside the sphere
            lack = outside(share)
            slope = (outside(share + step) - lack) / step
            if lack == 0 or slope == 0:
                break
            share = max(share - lack / slope, mpmath.mpf(-1))
        return min(self.distance(a, left, dual(p), eps, moved) for moved in (mpmath.mpf(0), share))

    def distance(self, a, left, r, eps, share):
        """The r-norm of what a point of the ball leaves of a, (1 + share) times `left`; the point
        shrinks to the sphere."""
        left = [(1 + share) * v if s > 0 else v for v, s in zip(left, self.scale, strict=True)]
        taken = [max(x - v, 0) for x, v in zip(a, left, strict=True)]
        size = norm([t / real(s) for t, s in zip(taken, self.scale, strict=True) if s > 0], self.q)
        inside = min(mpmath.mpf(1), eps / size) if size > 0 else mpmath.mpf(0)
        return norm([x - inside * t for x, t in zip(a, taken, strict=True)], r)

    def moved_to_zero(self, a, coordinates):
        """Weights near a for which these coordinates of Z^T a are zero, exactly; None where they
        are not all >= 0."""
        support = [i for i, v in enumerate(a) if v > 0]
        conditions = [[self.rows[i][j] for i in support] for j in coordinates]
        goals = [Fraction(0) for _ in coordinates]
        for side in (1, -1) if self.fit_intercept else (None,):
            conditions.append([Fraction(int(side in (None, self.y[i]))) for i in support])
            goals.append(Fraction(1, 2) if self.fit_intercept else Fraction(1))
        weights = [a[i] for i in support]
        lacks = [
            goal - sum(c * v for c, v in zip(row, weights, strict=True))
            for row, goal in zip(conditions, goals, strict=True)
        ]
        gram = [
            [
                sum(r * c * v for r, c, v in zip(one, other, weights, strict=True))
                for other in conditions
            ]
            for one in conditions
        ]
        multipliers = solve(gram, lacks)
        if multipliers is None:
            return None
        moved = [Fraction(0)] * len(a)
        for k, i in enumerate(support):
            moved[i] = weights[k] * (
                1 + sum(m * row[k] for m, row in zip(multipliers, conditions, strict=True))
            )
        return moved if min(moved) >= 0 else None


def mpmath_to_long(x):
    high = float(x)
    return np.longdouble(high) + np.longdouble(float(x - high))


def long_to_mpmath(x):
    high = float(x)
    return mpmath.mpf(high) + mpmath.mpf(float(x - np.longdouble(high)))


def solve(matrix, goal):
    """A solution of a system of fractions, whatever its rank; None where it has none."""
    rows = [[*row, v] for row, v in zip(matrix, goal, strict=True)]
    m = len(rows)
    pivots = {}  # the row of each column that has one
    for column in range(m):
        row = next((i for i in range(m) if i not in pivots.values() and rows[i][column] != 0), None)
        if row is None:
            continue
        pivots[column] = row
        rows[row] = [v / rows[row][column] for v in rows[row]]
        for i in range(m):
            if i != row and rows[i][column] != 0:
                rows[i] = [v - rows[i][column] * u for v, u in zip(rows[i], rows[row], strict=True)]
    if any(rows[i][-1] != 0 for i in range(m) if i not in pivots.values()):
        return None
    return [rows[pivots[column]][-1] if column in pivots else Fraction(0) for column in range(m)]


# --- verdicts


def called(found, function, *arguments, **options):
    """The result of a call, or its NotSeparableError, and whether it warned of its gap; faults are
    added to `found`."""
    start = time.perf_counter()
    answer = None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            answer = function(*arguments, **options)
        except NotSeparableError as error:
            answer = error
        except RuntimeError as error:
            if "nor proved that there is none" not in str(error):
                found.append(("exception", f"{function.__name__}: {error!r:.200}"))
            answer = error
        except Exception as error:
            found.append(("exception", f"{function.__name__}: {error!r:.200}"))
    if time.perf_counter() - start > SLOW:
        found.append(("slow", f"{function.__name__}: {time.perf_counter() - start:.0f} s"))
    strange = [w for w in caught if w.category is not ConvergenceWarning]
    if strange:
        found.append(
            (
                "RuntimeWarning",
                f"{function.__name__}: {strange[0].message} "
                f"{strange[0].filename}:{strange[0].lineno}",
            )
        )
    return answer, len(strange) < len(caught)


def judge_gap(found, s, warned):
    if s.margin in (0, np.inf):
        return
    if abs(s.relative_gap - (1 - s.margin / s.margin_bound)) > 1e-12 or (
        s.relative_gap > TOL and not warned
    ):
        found.append(
            ("silent gap", f"gap {s.relative_gap}, margin {s.margin!r}, bound {s.margin_bound!r}")
        )


def judge_largest(found, problem, s, warned):
    """Judge an answer of max_margin; returns what is counted."""
    judge_gap(found, s, warned)
    if s.margin == 0:
        a = problem.feasible(s.dual_coef)
        proven = problem.moved_to_zero(a, range(len(problem.scale))) is not None
        small = all(
            abs(g) <= Fraction(PROOF) * t
            for g, t in zip(problem.weighted_sum(a), problem.terms(a), strict=True)
        )
        if not (proven or small or warned):
            found.append(("wrong proof", "max_margin: zero without proof"))
        return "not separable, exact proof" if proven else "not separable, proof up to rounding"
    w = exact(s.coef)
    margin, damage = problem.margin(s.coef, s.intercept, 0.0), problem.damage(w)
    if s.margin == np.inf:
        if not (margin > 0 and damage == 0):
            found.append(("wrong margin", "infinite eps*"))
        return "infinite eps*"
    if s.margin > margin / damage:
        found.append(("wrong margin", f"max_margin: {s.margin!r} above {margin / damage}"))
    a = problem.feasible(s.dual_coef)
    fixed = [j for j, v in enumerate(problem.scale) if v == 0]
    moved = problem.moved_to_zero(a, fixed) if fixed and s.margin_bound < np.inf else a
    if s.margin_bound == np.inf:
        pass
    elif moved is None:
        found.append(("wrong bound", "max_margin: weights that are not near a proof"))
    else:
        g = problem.weighted_sum(moved)
        bound = norm([v / s for v, s in zip(g, problem.scale, strict=True) if s > 0], problem.q)
        if s.margin_bound < bound:
            found.append(("wrong bound", f"max_margin: {s.margin_bound!r} below {bound}"))
    if s.margin_bound < margin / damage:
        found.append(
            ("wrong bound", f"max_margin: {s.margin_bound!r} below the margin {margin / damage}")
        )
    return "eps* to tol" if s.relative_gap <= TOL else "eps* with a warning"


def judge_separator(found, problem, s, warned):
    """Judge an answer of min_norm_separator."""
    judge_gap(found, s, warned)
    margin = problem.margin(s.coef, s.intercept, s.eps) / norm(exact(s.coef), s.p)
    if s.margin > margin:
        found.append(("wrong margin", f"{s.margin!r} above {mpmath.nstr(margin, 25)}"))
    bound = problem.distance_bound(problem.weighted_sum(problem.feasible(s.dual_coef)), s.p, s.eps)
    if s.margin_bound < bound or s.margin_bound < margin:
        found.append(
            (
                "wrong bound",
                f"{s.margin_bound!r} below {mpmath.nstr(bound, 25)} or the margin "
                f"{mpmath.nstr(margin, 25)}",
            )
        )
    return "separator to tol" if s.relative_gap <= TOL else "separator with a warning"


def judge_proof(found, problem, error, star):
    """Judge a NotSeparableError."""
    a = problem.feasible(error.weights)
    slack = [
        max(abs(g) - Fraction(PROOF) * t, 0)
        for g, t in zip(problem.weighted_sum(a), problem.terms(a), strict=True)
    ]
    inside = all(v == 0 for v, s in zip(slack, problem.scale, strict=True) if s == 0)
    size = norm([v / s for v, s in zip(slack, problem.scale, strict=True) if s > 0], problem.q)
    if not inside or size > mpmath.mpf(error.eps) * (1 + mpmath.mpf(1e-9)):
        found.append(("wrong proof", f"||Z^T a|| = {mpmath.nstr(size, 15)} for eps {error.eps!r}"))
    if star.margin > 0 and problem.margin(star.coef, star.intercept, error.eps) > 0:
        found.append(("wrong proof", f"the separator of eps* withstands eps={error.eps!r}"))
    return "beyond eps*"


def run_case(case):
    """The faults of one problem, as pairs of a kind and a description, and what its answers are
    counted as."""
    X, y, scale, p, q, fit_intercept, share = draw(case)
    problem, found, counted = Exact(X, y, scale, q, fit_intercept), [], []
    options = {"q": q, "fit_intercept": fit_intercept, "scale": scale, "tol": TOL}
    star, warned = called(found, max_margin, X, y, **options)
    if star is None:
        return found, ["failed"]
    counted.append(judge_largest(found, problem, star, warned))
    size = float(np.abs(X).max()) if star.margin in (0, np.inf) else star.margin
    eps = share * size
    answer, warned = called(found, min_norm_separator, X, y, p=p, eps=eps, **options)
    if isinstance(answer, NotSeparableError):
        counted.append(judge_proof(found, problem, answer, star))
    elif isinstance(answer, RuntimeError):
        counted.append(UNDECIDED)
        if not star.margin <= eps <= star.margin_bound:
            found.append(
                (
                    "exception",
                    f"eps={eps!r} is decided by {star.margin!r} <= eps* <= {star.margin_bound!r}",
                )
            )
    elif answer is not None:
        counted.append(judge_separator(found, problem, answer, warned))
        if answer.eps >= star.margin_bound or star.margin == 0:
            found.append(("wrong bound", f"a separator beyond eps* <= {star.margin_bound!r}"))
    return found, counted


# --- the run


def run_chunk(first):
    faults, counts, times = [], Counter(), []
    for case in range(first, first + CHUNK):
        start = time.process_time()
        found, counted = run_case(case)
        times.append(time.process_time() - start)
        faults += [(case, *fault) for fault in found]
        counts.update(counted)
    return {
        "first": first,
        "faults": faults,
        "counts": counts,
        "seconds": sum(times),
        "longest": max(times),
    }


def table(chunks):
    cases = CHUNK * len(chunks)
    faults = Counter(kind for chunk in chunks for _, kind, _ in chunk["faults"])
    counts = sum((Counter(chunk["counts"]) for chunk in chunks), Counter())
    lines = [
        "# Separators recomputed in exact arithmetic",
        "",
        (__doc__ or "").split("\n\n")[1],
        "",
    ]
    lines += [
        f"{cases} problems, two calls each, {sum(c['seconds'] for c in chunks):.0f} s of CPU in "
        f"all.",
        "",
    ]
    lines += ["| fault | what counts | number |", "|---|---|---|"]
    lines += [f"| {kind} | {meaning} | {faults[kind]} |" for kind, meaning in FAULTS.items()]
    lines += [
        "",
        "| answer | number |",
        "|---|---|",
        *(f"| {name} | {counts[name]} |" for name in sorted(counts)),
    ]
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--store", type=Path, default=harness.RESULTS / "separator_soak.jsonl")
    parser.add_argument("--table", type=Path, default=harness.RESULTS / "separator_soak.md")
    arguments = parser.parse_args()
    wanted = range(arguments.first, arguments.first + arguments.cases, CHUNK)
    done = {}
    if arguments.store.exists():
        done = {
            chunk["first"]: chunk
            for chunk in map(json.loads, arguments.store.read_text().splitlines())
        }
    left = [first for first in wanted if first not in done]
    with ProcessPoolExecutor(arguments.jobs) as pool, arguments.store.open("a") as store:
        for chunk in pool.map(run_chunk, left):
            done[chunk["first"]] = chunk
            print(json.dumps(chunk), file=store, flush=True)
            for fault in chunk["faults"]:
                print(*fault, flush=True)
    text = table([done[first] for first in wanted])
    arguments.table.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
