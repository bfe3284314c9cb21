"""Claims: two large fits of RobustLinearClassifier take at most 1.2 times the data in extra memory,
and ten million samples are scored in 100 MB, of two classes and of a hundred.

1 000 000 x 100 dense in single precision, and 200 000 x 50 000 sparse at density 1e-4, each in a
fresh process with one thread. Memory is the peak resident size during the fit less the resident
size before it, when the memory that the making of the data has freed is given back: the data
themselves are not in it. The samples that are scored are 1e7 x 20 in single precision.

    python benchmarks/large_data.py

writes benchmarks/results/large_data.md.
"""

import ctypes
import subprocess
import sys
import time
from itertools import product

import _harness as harness  # first: it sets one thread
import numpy as np
from scipy import sparse
from sklearn.linear_model import LogisticRegression

from sklearn_robust import RobustLinearClassifier, robust_accuracy_score

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


SCORES_HEADER = ["classes", "q", "CPU, s", "robust accuracy", "data, MB", "extra peak, MB"]
SCORES = list(product((2, 100), (2, np.inf)))


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


def many(rng, n_classes, n=10_000_000, d=20, block=100_000):
    """Samples labelled by linear teachers, and a classifier that was fitted to a few of them."""
    X, y = np.empty((n, d), np.float32), np.empty(n, int)
    teachers = rng.standard_normal((n_classes, d))
    for start in range(0, n, block):
        at = slice(start, start + block)
        X[at] = rng.standard_normal((block, d))
        y[at] = np.argmax(X[at] @ teachers.T, axis=1)
    few = slice(20 * n_classes + 200)
    return X, y, LogisticRegression(max_iter=1000).fit(X[few], y[few])


def memory_from_here():
    """The resident size now; the peak counts from here on."""
    ctypes.CDLL(None).malloc_trim(0)  # of glibc
    with open("/proc/self/clear_refs", "w") as marks:
        marks.write("5")
    return resident("VmRSS")


def fit(kind, eps, loss):
    rng = np.random.default_rng(0)
    # all imports are done
    RobustLinearClassifier().fit(rng.standard_normal((30, 3)), np.arange(30) % 2)
    X, y, size = dense(rng) if kind == "dense" else thin(rng)
    before, start, cpu = memory_from_here(), time.perf_counter(), time.process_time()
    model = RobustLinearClassifier(eps=eps, loss=loss).fit(X, y)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    extra = resident("VmHWM") - before
    print(
        f"{kind} {X.shape[0]} x {X.shape[1]} | {eps:g} | {loss} | {seconds:.1f} | {cpu:.1f} | "
        f"{model.dual_gap_:.0e} "
        f"| {np.count_nonzero(model.coef_)} | {size / 1e6:.0f} | {extra / 1e6:.0f} | "
        f"{extra / size:.2f}"
    )


def score(n_classes, q):
    X, y, model = many(np.random.default_rng(0), n_classes)
    robust_accuracy_score(model, X[:100], y[:100], eps=0.1, q=q)  # all imports are done
    before, cpu = memory_from_here(), time.process_time()
    found = robust_accuracy_score(model, X, y, eps=0.1, q=q)
    cpu, extra = time.process_time() - cpu, resident("VmHWM") - before
    print(
        f"{n_classes} | {q:g} | {cpu:.1f} | {found:.3f} | {X.nbytes / 1e6:.0f} | {extra / 1e6:.0f}"
    )


def run(*arguments):
    """The cells that a process of its own prints."""
    command = [sys.executable, __file__, *map(str, arguments)]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    print(text, end="", flush=True)
    return text.strip().split(" | ")


def main():
    fits = harness.table(HEADER, [run("fit", *case) for case in CASES])
    scores = harness.table(SCORES_HEADER, [run("score", *case) for case in SCORES])
    text = [
        "# Two large fits, and scores of many samples\n",
        harness.machine(("numpy", "scipy", "scikit-learn")) + "\n",
        "By `benchmarks/large_data.py`, single runs. Memory: peak in the fit less resident size "
        "before it, data excluded.\n",
        fits,
        "`robust_accuracy_score` of 1e7 x 20, float32, at eps = 0.1; the data are not in the "
        "extra memory:\n",
        scores,
    ]
    harness.write("large_data.md", "\n".join(text))


if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    elif sys.argv[1] == "fit":
        fit(sys.argv[2], float(sys.argv[3]), sys.argv[4])
    else:
        score(int(sys.argv[2]), float(sys.argv[3]))
