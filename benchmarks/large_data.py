"""Claims: two large fits of RobustLinearClassifier take at most 1.2 times the data in extra memory.

1 000 000 x 100 dense in single precision, and 200 000 x 50 000 sparse at density 1e-4, each in a
fresh process with one thread. Memory is the peak resident size during the fit less the resident
size before it, when the memory that the making of the data has freed is given back: the data
themselves are not in it.

    python benchmarks/large_data.py

writes benchmarks/results/large_data.md.
"""

import ctypes
import subprocess
import sys
import time

import _harness as harness  # first: it sets one thread
import numpy as np
from scipy import sparse

from sklearn_robust import RobustLinearClassifier

HEADER = [
    "data",
    "eps",
    "loss",
    "wall, s",
    "CPU, s",
    "certified gap",
    "nonzero",
    "data, MB",
    "extra peak, MB",
    "extra / data",
]
CASES = [
    ("dense", 0.02, "exponential"),
    ("dense", 0.02, "logistic"),
    ("sparse", 5e-4, "exponential"),
    ("sparse", 5e-5, "exponential"),
    ("sparse", 5e-5, "logistic"),
]


def resident(key):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(key))


def dense(rng, n=1_000_000, d=100, block=10_000):
    X, y, teacher = (
        np.empty((n, d), np.float32),
        np.empty(n, int),
        rng.standard_normal(d) / np.sqrt(d),
    )
    for start in range(0, n, block):
        at = slice(start, start + block)
        X[at] = rng.standard_normal((block, d))
        y[at] = X[at] @ teacher + rng.standard_normal(block) > 0
    return X, y, X.nbytes


def thin(rng, n=200_000, d=50_000):
    X = sparse.random_array(
        (n, d), density=1e-4, rng=rng, format="csr", data_sampler=rng.standard_normal
    )
    y = (X @ rng.standard_normal(d) + rng.standard_normal(n) > 0).astype(int)
    return X, y, X.data.nbytes + X.indices.nbytes + X.indptr.nbytes


def fit(kind, eps, loss):
    rng = np.random.default_rng(0)
    # all imports are done
    RobustLinearClassifier().fit(rng.standard_normal((30, 3)), np.arange(30) % 2)
    X, y, size = dense(rng) if kind == "dense" else thin(rng)
    ctypes.CDLL(None).malloc_trim(0)  # of glibc
    with open("/proc/self/clear_refs", "w") as marks:
        marks.write("5")  # the peak from here on
    before, start, cpu = resident("VmRSS"), time.perf_counter(), time.process_time()
    model = RobustLinearClassifier(eps=eps, loss=loss).fit(X, y)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    extra = resident("VmHWM") - before
    print(
        f"{kind} {X.shape[0]} x {X.shape[1]} | {eps:g} | {loss} | {seconds:.1f} | {cpu:.1f} | "
        f"{model.dual_gap_:.0e} "
        f"| {np.count_nonzero(model.coef_)} | {size / 1e6:.0f} | {extra / 1e6:.0f} | "
        f"{extra / size:.2f}"
    )


def main():
    rows = []
    for case in CASES:
        run = subprocess.run(
            [sys.executable, __file__, *map(str, case)], check=True, capture_output=True, text=True
        )
        print(run.stdout, end="", flush=True)
        rows.append(run.stdout.strip().split(" | "))
    text = [
        "# Two large fits\n",
        harness.machine(("numpy", "scipy", "scikit-learn")) + "\n",
        "By `benchmarks/large_data.py`, single runs. Memory: peak in the fit less resident size "
        "before it, data excluded.\n",
        harness.table(HEADER, rows),
    ]
    harness.write("large_data.md", "\n".join(text))


if __name__ == "__main__":
    if len(sys.argv) == 4:
        fit(sys.argv[1], float(sys.argv[2]), sys.argv[3])
    else:
        main()
