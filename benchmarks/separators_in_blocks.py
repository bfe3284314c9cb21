"""Claims: the exact separator of a million samples, of which only a few ever leave their block, in
at most 15 rounds, with at most 25 d samples moved and a certified gap of 1e-8; by sums it
takes at most twice the time that it takes on an array.

Gaussian samples that a linear teacher separates with a margin, in blocks of 50 000; one thread, CPU
time. "Rows moved" are those that all sweeps returned, those of the first set included.

    python benchmarks/separators_in_blocks.py [samples]

writes benchmarks/results/separators_in_blocks.md.
"""

import sys
import time

import _harness as harness  # first: it sets one thread
import numpy as np

from sklearn_robust import min_norm_separator
from sklearn_robust.norms import LpNorm
from sklearn_robust.rows import LocalReduction, Survey
from sklearn_robust.separators import summed
from sklearn_robust.summed import SummedProblem
from sklearn_robust.threats import LpBall

D, LENGTH, EPS = 20, 50_000, 0.02
SETTINGS = [(2, np.inf), (2, 2), (1, np.inf), (np.inf, np.inf), (1, 2)]
HEADER = ["p", "q", "rounds", "rows moved", "in units of d", "gap", "by sums, s", "array, s"]


def draw(n):
    """Samples with a margin of 0.5 around a hyperplane, and their labels."""
    rng = np.random.default_rng(0)
    teacher = np.zeros(D)
    teacher[:5] = 1
    X = rng.standard_normal((n, D))
    y = np.where(X @ teacher > 0, 1, -1)
    X += 0.5 * np.outer(y, teacher) / (teacher @ teacher)
    return X, y


class Blocks:
    """An array as blocks."""

    def __init__(self, X, y):
        self.X, self.y = X, y

    def blocks(self):
        for start in range(0, len(self.y), LENGTH):
            yield self.X[start : start + LENGTH], self.y[start : start + LENGTH]


class CountedRows(summed._RowsOfSums):
    """Counts the sweeps and the rows that they return."""

    rounds = rows = 0

    def first(self, count):
        found = super().first(count)
        CountedRows.rounds, CountedRows.rows = 0, len(found.key)
        return found

    def sweep(self, part, answer, count):
        margin, found = super().sweep(part, answer, count)
        CountedRows.rounds += 1
        CountedRows.rows += len(found.key)
        return margin, found


def main():
    """Solve each setting both ways, and write the table."""
    n = int(float(sys.argv[1])) if len(sys.argv) > 1 else 1_000_000
    X, y = draw(n)
    summed._RowsOfSums = CountedRows
    reduction = LocalReduction(Blocks(X, y))
    survey = reduction.total(Survey.of)
    table = []
    for p, q in SETTINGS:
        problem = SummedProblem.of(
            reduction,
            survey,
            LpBall(q, EPS),
            classes=np.array([-1, 1]),
            factors=np.ones(2),
            fit_intercept=True,
        )
        began = time.process_time()
        found = summed.separate_sums(problem, LpNorm(p)).certified
        by_sums = time.process_time() - began
        began = time.process_time()
        whole = min_norm_separator(X, y, p=p, q=q, eps=EPS, fit_intercept=True)
        of_array = time.process_time() - began
        assert abs(found.margin / whole.margin - 1) < 1e-7
        moved = CountedRows.rows
        counts = [f"{p:g}", f"{q:g}", f"{CountedRows.rounds}", f"{moved}", f"{moved / D:.0f}"]
        table.append([*counts, f"{found.gap:.0e}", f"{by_sums:.1f}", f"{of_array:.1f}"])
        print(*table[-1], flush=True)
    lines = [
        "# Exact separators in blocks\n",
        harness.machine(("numpy", "scipy", "scikit-learn")) + "\n",
        f"By `benchmarks/separators_in_blocks.py`: {n} x {D}, eps = {EPS}, with an intercept.\n",
        harness.table(HEADER, table),
    ]
    harness.write("separators_in_blocks.md", "\n".join(lines))


if __name__ == "__main__":
    main()
