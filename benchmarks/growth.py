"""No race: how time, memory and readings grow with samples, features and classes.

Gaussian samples in single precision, a linear teacher; "correlated": 200 Gaussian factors and noise
in each feature, and a radius of .6 times that at which nothing is learnt. Each line is a process of
its own with one thread: CPU time of the call, and the peak of resident memory during it less that
before, in units of X. "Readings" are those of the blocks, 50 000 rows each, where there are blocks.

    python benchmarks/growth.py

writes benchmarks/results/growth.md.
"""

import time
from multiprocessing import get_context

import _harness as harness  # first: it sets one thread
import numpy as np
from large_data import resident
from sklearn.linear_model import LogisticRegression
from sklearn.utils._testing import ignore_warnings

from sklearn_robust import RobustLinearClassifier, min_norm_separator, robust_accuracy_score
from sklearn_robust.rows import BlockRows

LENGTH = 50_000
HEADER = ["what", "n", "d", "classes", "CPU, s", "extra memory / X", "readings", "certified gap"]
CASES = [
    *(("risk, q = inf", n, 20, 2) for n in (100_000, 300_000, 1_000_000)),
    *(("risk, q = inf", 20_000, d, 2) for d in (100, 300, 1000)),
    *(("risk, q = 2", 20_000, d, 2) for d in (100, 300, 1000)),
    ("risk, q = inf", 1_000_000, 1000, 2),
    *(
        (f"risk, correlated, q = {q}", 2000, d, 2)
        for q in (1, 2, "inf")
        for d in (1000, 3000, 10_000, 50_000)
    ),
    *(("risk, q = inf", 20_000, 50, classes) for classes in (3, 10)),
    *(("risk in blocks, q = inf", n, 20, 2) for n in (100_000, 300_000, 1_000_000)),
    *(("separator, p = 2, q = inf", n, 20, 2) for n in (100_000, 1_000_000)),
    ("separator, p = 2, q = inf", 100_000, 100, 2),
    *(("score", 1_000_000, 20, classes) for classes in (2, 10, 100)),
]


class Blocks:
    """An array as blocks, whose readings are counted."""

    readings = 0

    def __init__(self, X, y):
        self.X, self.y = X, y

    def blocks(self):
        self.readings += 1
        for start in range(0, len(self.y), LENGTH):
            yield self.X[start : start + LENGTH], self.y[start : start + LENGTH]


def draw(what, n, d, classes):
    """Samples and labels: noisy ones, or, for separators, with a margin."""
    rng = np.random.default_rng(0)
    teacher = rng.standard_normal((d, classes)).astype(np.float32) / np.sqrt(d)
    X, y = np.empty((n, d), np.float32), np.empty(n, np.int64)
    for start in range(0, n, LENGTH):
        at = slice(start, min(start + LENGTH, n))
        X[at] = rng.standard_normal((at.stop - start, d), dtype=np.float32)
        scores = X[at] @ teacher
        if not what.startswith("separator"):
            scores += 0.7 * rng.standard_normal(scores.shape, dtype=np.float32)
        y[at] = scores.argmax(axis=1)
    if what.startswith("separator"):
        side = teacher[:, 1] - teacher[:, 0]
        X += 0.5 * np.outer(2 * y - 1, side / (side @ side)).astype(np.float32)
    if "correlated" in what:
        factors = rng.standard_normal((n, 200), dtype=np.float32)
        y = (factors[:, :20].sum(axis=1) + 4 * rng.standard_normal(n) > 0).astype(np.int64)
        X *= 0.5
        X += factors @ (rng.standard_normal((200, d), dtype=np.float32) / 14)
    return X, y


def radius_of_nothing(X, y, q):
    """The least radius at which the constant predictor is the best one."""
    share = np.where(y == 1, 0.5 / (y == 1).sum(), -0.5 / (y == 0).sum()).astype(np.float32)
    return float(np.linalg.norm(share @ X, ord=q))


@ignore_warnings(category=UserWarning)
def measure(what, n, d, classes):
    """One line of the table."""
    rng = np.random.default_rng(1)
    few = rng.standard_normal((60, d)).astype(np.float32), np.arange(60) % classes
    RobustLinearClassifier(loss="logistic").fit(few[0], few[1] % 2)  # all imports are done
    X, y = draw(what, n, d, classes)
    blocks, gap = None, None
    if "blocks" in what:
        source = blocks = Blocks(X, y)
    scored = LogisticRegression(max_iter=3).fit(X[:1000], np.arange(1000) % classes)
    with open("/proc/self/clear_refs", "w") as marks:
        marks.write("5")  # the peak from here on
    before, cpu = resident("VmRSS"), time.process_time()
    if what.startswith("risk"):
        q, eps = (2, 0.1) if "q = 2" in what else (np.inf, 0.02)
        if "correlated" in what:
            q = float(what.split(" = ")[1])
            eps = 0.6 * radius_of_nothing(X, y, q)
        model = RobustLinearClassifier(q_pert=q, eps=eps, loss="logistic")
        gap = (model.fit(BlockRows(source)) if blocks else model.fit(X, y)).dual_gap_
    elif what.startswith("separator"):
        gap = min_norm_separator(X, y, p=2, q=np.inf, eps=0.01, fit_intercept=True).relative_gap
    else:
        robust_accuracy_score(scored, X, y, eps=0.02)
    cpu = time.process_time() - cpu
    extra = (resident("VmHWM") - before) / X.nbytes
    readings = "" if blocks is None else f"{blocks.readings}"
    line = [what, f"{n}", f"{d}", f"{classes}", f"{cpu:.2f}", f"{extra:.2f}", readings]
    return [*line, "" if gap is None else f"{gap:.0e}"]


def main():
    """Run every case, and write the table."""
    table = []
    with get_context("fork").Pool(1, maxtasksperchild=1) as process:
        for case in CASES:
            table.append(process.apply(measure, case))
            print(*table[-1], flush=True)
    lines = [
        "# What grows how\n",
        harness.machine(("numpy", "scipy", "scikit-learn")) + "\n",
        "By `benchmarks/growth.py`, single runs in float32.\n",
        harness.table(HEADER, table),
    ]
    harness.write("growth.md", "\n".join(lines))


if __name__ == "__main__":
    main()
