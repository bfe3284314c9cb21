"""Aim: a whole fit takes at most 1.5 times that of scikit-learn's LogisticRegression (lbfgs,
defaults), on data that are not separable at the radius.

RobustLinearClassifier at its default tolerances, both losses, q in (1, 2, inf), validation and
certificate included, and LogisticRegression in turns in one process: CPU time of one thread, and
medians of the paired ratios. The data of the aim come first; the others differ in size, condition,
mean, type and zeros.

    env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE python benchmarks/whole_fits.py [--rounds 7]

With `--check` (under three minutes on an idle machine) nothing is written: the ratios are compared
with those of the committed table, and cells that have become slower by a third are printed.
"""

import argparse
import csv
import math
import sys
import time
import warnings
from collections.abc import Callable
from statistics import median

import _harness as harness
import numpy as np
from scipy import sparse
from sklearn.datasets import load_breast_cancer
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from sklearn_robust import RobustLinearClassifier

AIM = 1.5
SLOWER = 4 / 3  # a cell has become slower where its ratio has grown by this factor
RADII = {1.0: 0.3, 2.0: 0.1, math.inf: 0.05}
HEADER = ["data", "q", "loss", "ours, ms", "LogisticRegression, ms", "ratio", "certified gap"]
Data = tuple[np.ndarray, np.ndarray]


def breast_cancer() -> Data:
    X, y = load_breast_cancer(return_X_y=True)
    return StandardScaler().fit_transform(X), y


def gaussian(n: int, d: int, dtype: type = np.float64) -> Data:
    """Gaussian rows; the labels of a Gaussian teacher with noise of its scores' deviation."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n, d))
    noise = rng.standard_normal(n)
    return X.astype(dtype), (X @ rng.standard_normal(d) / math.sqrt(d) + noise > 0).astype(int)


def correlated(n: int, d: int, condition: float, mean: float = 0.0) -> Data:
    """Standardised columns whose covariance has about this condition, and this mean."""
    rng = np.random.default_rng(1)
    X = rng.standard_normal((n, d)) * np.geomspace(1, condition**-0.5, d)
    X = StandardScaler().fit_transform(X @ np.linalg.qr(rng.standard_normal((d, d)))[0])
    scores = StandardScaler().fit_transform(X @ rng.standard_normal((d, 1)))[:, 0]
    return X + mean, (scores + rng.standard_normal(n) > 0).astype(int)


def with_zeros(n: int, d: int, density: float) -> tuple[sparse.csr_array, np.ndarray]:
    """Sparse rows with Gaussian entries; the labels of a noisy teacher."""
    rng = np.random.default_rng(2)
    X = sparse.random_array(
        (n, d), density=density, format="csr", rng=rng, data_sampler=rng.standard_normal
    )
    scores = X @ rng.standard_normal(d)
    return X, (scores + scores.std() * rng.standard_normal(n) > 0).astype(int)


DATA: dict[str, Callable[[], Data]] = {
    "breast_cancer": breast_cancer,
    "15 000 x 120": lambda: gaussian(15_000, 120),
    "150 000 x 40": lambda: gaussian(150_000, 40),
    "300 x 10": lambda: gaussian(300, 10),
    "5 000 x 200": lambda: gaussian(5000, 200),
    "15 000 x 120, float32": lambda: gaussian(15_000, 120, np.float32),
    "5 000 x 100, condition 1e4": lambda: correlated(5000, 100, 1e4),
    "2 000 x 50, condition 1e2, mean 10": lambda: correlated(2000, 50, 1e2, 10.0),
    "20 000 x 500, 2 % nonzero": lambda: with_zeros(20_000, 500, 0.02),
}


def cpu_time(fit: Callable[[], object]) -> float:
    start = time.process_time()
    fit()
    return time.process_time() - start


def cells(name: str, rounds: int) -> list[list[str]]:
    """The rows of the table for data of this name."""
    X, y = DATA[name]()
    peer = LogisticRegression()
    ours = {
        (q, loss): RobustLinearClassifier(q_pert=q, eps=eps, loss=loss)
        for q, eps in RADII.items()
        for loss in ("exponential", "logistic")
    }
    times = [
        [cpu_time(lambda model=model: model.fit(X, y)) for model in (peer, *ours.values())]
        for _ in range(rounds + 1)
    ][1:]  # the first round warms up
    rows = []
    for i, ((q, loss), model) in enumerate(ours.items(), start=1):
        ratio = median(row[i] / row[0] for row in times)
        shown = f"{ratio:.2f}"
        rows.append(
            [
                name,
                f"{q:g}",
                loss,
                f"{1e3 * median(row[i] for row in times):.1f}",
                f"{1e3 * median(row[0] for row in times):.1f}",
                shown if ratio <= AIM else harness.bold(shown),
                f"{max(float(model.dual_gap_), 0):.0e}",
            ]
        )
    return rows


def check(rows: list[list[str]]) -> None:
    """Print the cells that have become slower than in the committed table; exit with 1 if any."""
    with (harness.RESULTS / "whole_fits.csv").open() as file:
        committed = {tuple(row[:3]): float(row[5]) for row in list(csv.reader(file))[1:]}
    slower = 0
    for row in rows:
        before, now = committed[tuple(row[:3])], float(row[5].strip("*"))
        if now > SLOWER * before:
            slower += 1
            print(f"{', '.join(row[:3])}: {now:.2f} times LogisticRegression, was {before:.2f}")
    print(f"{slower} of {len(rows)} cells have become slower.")
    sys.exit(1 if slower else 0)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--check", action="store_true", help="compare with the committed table")
    options = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)  # LogisticRegression's, at its defaults
    machine = harness.machine(("numpy", "scipy", "scikit-learn"))
    rows = []
    for name in DATA:
        for row in cells(name, options.rounds):
            rows.append(row)
            print(" | ".join(row), flush=True)
    if options.check:
        check(rows)
    text = [
        "# Whole fits beside LogisticRegression\n",
        machine + "\n",
        f"By `benchmarks/whole_fits.py`: CPU time, medians of {options.rounds} rounds, and of "
        f"the ratios within a round. Bold where a fit takes more than {AIM} times as long as "
        "LogisticRegression.\n",
        harness.table(HEADER, rows),
    ]
    harness.write("whole_fits.md", "\n".join(text))
    plain = [[*row[:5], row[5].strip("*"), row[6]] for row in rows]
    harness.write_csv(
        "whole_fits.csv", ["data", "q", "loss", "ours", "peer", "ratio", "gap"], plain
    )


if __name__ == "__main__":
    main()
