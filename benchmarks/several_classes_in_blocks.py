"""Claims: several classes in blocks, by sums over the samples, have the risk and the separator of
the array within their gaps: the minimiser in at most 15 sweeps, the separator in at most 25.

Gaussian samples of a linear teacher of K classes, with noise (minimiser) or with a margin
(separator), in blocks of 50 000; one thread a process, CPU time. "Largest sum" is the largest
result that one sweep brings to the driver, the rows that it draws included.

    python benchmarks/several_classes_in_blocks.py [--samples 1e6] [--jobs 4] [--out FILE]

writes results/several_classes_in_blocks.md, after each line anew.
"""

import argparse
import multiprocessing
import pickle
import time
from contextlib import ExitStack
from pathlib import Path

import _harness as harness  # first: it sets one thread
import numpy as np

from sklearn_robust.joint import JointProblem
from sklearn_robust.losses import LOSSES
from sklearn_robust.norms import LpNorm
from sklearn_robust.rows import LocalReduction, Survey
from sklearn_robust.separators.joint import solve_joint_separator
from sklearn_robust.separators.summed_joint import separate_joint_sums
from sklearn_robust.solvers import minimise_joint_risk, minimise_summed_joint_risk
from sklearn_robust.summed import SummedJointProblem
from sklearn_robust.threats import LpBall

LENGTH, TOL = 50_000, 1e-6
EPS = {"risk": 0.05, "separator": 0.02}
RISKS = [
    ("risk", loss, q, K, d)
    for K, d in [(3, 20), (5, 20), (10, 20), (5, 100)]
    for q in (1, 2, np.inf)
    for loss in ("logistic", "exponential")
]
SEPARATORS = [
    ("separator", p, q, K, d)
    for K, d in [(5, 20), (3, 20)]
    for p, q in [(2, np.inf), (2, 2), (1, np.inf), (np.inf, 1)]
]
HEADER = [
    "what", "loss or p", "q", "K", "d", "sweeps", "largest sum, kB", "MB in all", "gap",
    "difference", "by sums, s", "array, s",
]  # fmt: skip


class Blocks:
    """An array as blocks."""

    def __init__(self, X, y):
        self.X, self.y = X, y

    def blocks(self):
        for start in range(0, len(self.y), LENGTH):
            yield self.X[start : start + LENGTH], self.y[start : start + LENGTH]


class Counted:
    """A reduction whose sweeps are counted and weighed."""

    def __init__(self, reduction):
        self.reduction, self.sizes = reduction, []

    def total(self, function):
        found = self.reduction.total(function)
        self.sizes.append(len(pickle.dumps(found)))
        return found


def draw(n, d, K, *, margin):
    """Samples of a linear teacher, with this margin, or with noise for 0."""
    rng = np.random.default_rng(0)
    X, W = rng.standard_normal((n, d)), rng.standard_normal((K, d))
    W -= W.mean(axis=0)
    scores = X @ W.T
    if not margin:
        scores += np.sqrt(d) * rng.standard_normal(scores.shape)
    y = scores.argmax(axis=1)
    return X + margin * (W / np.linalg.norm(W, axis=1, keepdims=True))[y], y


def timed(function, *args, **options):
    began = time.process_time()
    answer = function(*args, **options)
    return time.process_time() - began, answer


def line(job):
    """The line of the table of a setting."""
    (what, kind, q, K, d), n = job
    X, y = draw(n, d, K, margin=0.8 if what == "separator" else 0.0)
    counted = Counted(LocalReduction(Blocks(X, y)))
    survey = counted.total(Survey.of)
    counted.sizes.clear()
    problem = SummedJointProblem.of(
        counted, survey, LpBall(q, EPS[what]), classes=np.arange(K), factors=np.ones(K),
        fit_intercept=True,
    )  # fmt: skip
    whole = JointProblem.from_data(X, y, q=q, eps=EPS[what], fit_intercept=True)
    if what == "risk":
        by_sums, found = timed(minimise_summed_joint_risk, problem, LOSSES[kind], tol=TOL)
        of_array, expected = timed(minimise_joint_risk, whole, LOSSES[kind], tol=TOL)
        difference = found.log_risk - expected.log_risk
        gap = f"{found.gap:.0e} ({expected.gap:.0e})"
    else:
        norm = LpNorm(kind)
        by_sums, found = timed(separate_joint_sums, problem, norm)
        of_array, expected = timed(solve_joint_separator, whole, norm)
        found = found.certified
        difference = found.margin / expected.margin - 1
        gap = f"{found.gap:.0e} ({expected.gap:.0e})"
    sizes = counted.sizes
    counts = [f"{len(sizes)}", f"{max(sizes) / 1e3:.0f}", f"{sum(sizes) / 1e6:.1f}"]
    name = kind if isinstance(kind, str) else f"{kind:g}"
    return [
        what, name, f"{q:g}", f"{K}", f"{d}", *counts, gap, f"{difference:.0e}",
        f"{by_sums:.1f}", f"{of_array:.1f}",
    ]  # fmt: skip


def main():
    """Solve each setting both ways; the table is whole after each line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=float, default=1e6)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument(
        "--out", type=Path, default=harness.RESULTS / "several_classes_in_blocks.md"
    )
    given = parser.parse_args()
    n = int(given.samples)
    lines = [
        "# Several classes in blocks\n",
        harness.machine(("numpy", "scipy", "scikit-learn")) + "\n",
        f"By `benchmarks/several_classes_in_blocks.py`: {n} samples, eps = {EPS['risk']} (risk, "
        f"tol {TOL:g}) and {EPS['separator']} (separator), with intercepts; the gap of the array "
        f"in brackets; the difference is that of the log-risks, and of the margins relative to "
        f"them.\n",
    ]
    jobs = [(setting, n) for setting in [*RISKS, *SEPARATORS]]
    table = []
    given.out.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        rows = map(line, jobs)
        if given.jobs > 1:
            pool = multiprocessing.get_context("spawn").Pool(given.jobs, maxtasksperchild=1)
            rows = stack.enter_context(pool).imap_unordered(line, jobs)
        for row in rows:
            table.append(row)
            print(*row, flush=True)
            text = "\n".join([*lines, harness.table(HEADER, sorted(table))])
            whole = given.out.with_suffix(".tmp")
            whole.write_text(text)
            whole.replace(given.out)


if __name__ == "__main__":
    main()
