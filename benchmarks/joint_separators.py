"""Exact separators of several classes beside an independent solver: certified gaps, differences of
the least norms, and CPU times.

Run as `python benchmarks/joint_separators.py --jobs 8`; it writes
benchmarks/results/joint_separators.md, or another file that `--out` names, as the lines end.
Gaussian classes of K = 3, 5 and 10, all pairs of p and q in {1, 2, inf}, with and without
intercept, radii of 0, a half and .95 eps*. The other solver is clarabel through cvxpy at its usual
tolerance, on other programs: its own error shows in the differences. Gaps above 1e-8 are bold.
"""

import argparse
import math
import time
import warnings
from itertools import product
from pathlib import Path

import _harness as harness  # first: it sets one thread
import cvxpy as cp
import numpy as np
from joblib import Parallel, delayed

from sklearn_robust import max_margin, min_norm_separator
from sklearn_robust.norms import LpNorm

SIZES = {3: (30, 8), 5: (60, 12), 10: (150, 20)}  # rows and features of K classes
SHARES = (0, 0.5, 0.95)  # of eps*
GOAL = 1e-8
HEADER = ["K", "q", "intercept", "eps*", "gap of eps*", "s", "eps / eps*"]
HEADER += [
    f"{column}, p = {p:g}" for p in (1, 2, math.inf) for column in ("gap", "difference", "s")
]


def draw(n_classes):
    n, d = SIZES[n_classes]
    rng = np.random.default_rng(n_classes)
    y = np.arange(n) % n_classes
    return 0.5 * rng.standard_normal((n, d)) + 2 * rng.standard_normal((n_classes, d))[y], y


def independent_norm(X, y, p, q, eps, fit_intercept):
    n_classes = y.max() + 1
    W, b = cp.Variable((n_classes, X.shape[1])), cp.Variable(n_classes)
    dual = {1: "inf", 2: 2, math.inf: 1}[q]
    rules = [] if fit_intercept else [b == 0]
    for c, k in product(range(n_classes), repeat=2):
        if c != k:
            taken = eps * cp.norm(W[c] - W[k], dual)
            rules.append(X[y == c] @ (W[c] - W[k]) + b[c] - b[k] - taken >= 1)
    norm = cp.sum_squares(W) if p == 2 else cp.pnorm(cp.vec(W, order="C"), p)
    program = cp.Problem(cp.Minimize(norm), rules)
    try:
        program.solve(solver="CLARABEL")
    except cp.SolverError:
        return math.nan
    return math.sqrt(program.value) if p == 2 else program.value


def timed(function, *args, **options):
    start = time.process_time()
    found = function(*args, **options)
    return found, time.process_time() - start


def gap_entry(gap):
    return f"{gap:.1e}" if gap <= GOAL else harness.bold(f"{gap:.1e}")


def rows_of(n_classes, q, fit_intercept):
    """The lines of a case: one for each radius."""
    warnings.simplefilter("ignore")
    X, y = draw(n_classes)
    rows = []
    star, seconds = timed(max_margin, X, y, q=q, fit_intercept=fit_intercept)
    head = [f"{n_classes}", f"{q:g}", "yes" if fit_intercept else "no", f"{star.margin:.6f}"]
    head += [gap_entry(star.relative_gap), f"{seconds:.2f}"]
    for share in SHARES:
        row = [*head, f"{share:g}"]
        given = {"q": q, "eps": share * star.margin, "fit_intercept": fit_intercept}
        for p in (1, 2, math.inf):
            found, seconds = timed(min_norm_separator, X, y, p=p, **given)
            norm = LpNorm(p).value(found.coef.ravel())
            difference = independent_norm(X, y, p, **given) / norm - 1
            row += [gap_entry(found.relative_gap), f"{difference:.0e}", f"{seconds:.2f}"]
        rows.append(row)
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--classes", nargs="*", type=int, default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--out", type=Path, default=harness.RESULTS / "joint_separators.md")
    given = parser.parse_args()
    machine = harness.machine(["numpy", "scipy", "clarabel", "cvxpy"])
    run = ", ".join(str(n_classes) for n_classes in given.classes)
    head = f"# Exact separators of several classes\n\n{__doc__}\nThis run: K = {run}. {machine}\n\n"
    cases = list(product(given.classes, (1, 2, math.inf), (False, True)))
    found = {}
    # the longest first
    longest = sorted(range(len(cases)), key=lambda i: -cases[i][0])
    results = Parallel(n_jobs=given.jobs, return_as="generator_unordered", batch_size=1)(
        delayed(numbered)(i, cases[i]) for i in longest
    )
    for i, rows in results:
        found[i] = rows
        lines = [row for place in sorted(found) for row in found[place]]
        print(*rows[0], flush=True)
        given.out.parent.mkdir(parents=True, exist_ok=True)
        unfinished = given.out.with_suffix(".part")
        unfinished.write_text(head + harness.table(HEADER, lines))
        unfinished.replace(given.out)


def numbered(i, case):
    """A case of this number, and its lines."""
    return i, rows_of(*case)


if __name__ == "__main__":
    main()
