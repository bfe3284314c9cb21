"""A check for what became slower, in less than three minutes on an idle machine.

Every cell is timed in turns with one yardstick, fixed work of NumPy and SciPy alone, and the median
of the ratios within a round is compared with the committed one: so it matters
little how fast the machine is, and what else it does. A cell that looks slower is measured a second
time before it is named.

    env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE python benchmarks/quick.py

`--write` commits the ratios of this run to `results/quick.csv` in place of the old ones.
"""

import argparse
import csv
import math
import sys
import time
import warnings
from collections.abc import Callable
from statistics import median

import _harness as harness  # first: it sets one thread
import model_selection
import numpy as np
import separators
from scipy.linalg import cho_factor
from sklearn.exceptions import ConvergenceWarning

from sklearn_robust import RobustLinearClassifier, RobustLinearClassifierCV
from sklearn_robust.separators import max_margin, min_norm_separator, separator_path

SLOWER = 1.5  # a cell has become slower where its ratio has grown by this factor, twice
ROUNDS = 5
PAIRS = ((1, math.inf), (1, 1), (2, 2), (2, math.inf), (2, 1), (math.inf, math.inf), (1, 2))
Run = Callable[[], object]


def yardstick() -> None:
    """Small calls as in an interior-point step, and the products and factors of a larger one."""
    small, rows = np.linspace(1, 2, 700), np.ones((400, 150))
    for _ in range(600):
        (small * small + small).max()
    for _ in range(4):
        cho_factor(rows.T @ rows + 1e3 * np.eye(150))


def separable(name: str) -> tuple[np.ndarray, np.ndarray]:
    Z = separators.signed_rows(name)
    y = np.where(np.arange(len(Z)) % 2, 1.0, -1.0)
    return y[:, None] * Z, y


def overlapping(n: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    """Coin labels, and features of unlike sizes."""
    rng = np.random.default_rng(0)
    return rng.standard_normal((n, d)) * np.geomspace(0.1, 1000, d), rng.integers(2, size=n)


def cells() -> dict[str, Run]:
    """What is timed, by name: each with its data."""
    runs: dict[str, Run] = {}
    for data in ("s40x30", "digits38", "g100x512"):
        X, y = separable(data)
        for p, q in PAIRS:
            dual = math.isclose(1 / p + 1 / q, 1)
            eps = 0.0 if dual else max_margin(X, y, q=q).margin / 4
            runs[f"separator, ({p:g}, {q:g}), {data}"] = lambda X=X, y=y, p=p, q=q, eps=eps: (
                min_norm_separator(X, y, p=p, q=q, eps=eps)
            )
    X, y = separable("s1000x200")
    runs["separator, (2, 2), s1000x200"] = lambda X=X, y=y: min_norm_separator(
        X, y, p=2, q=2, eps=0.0
    )
    X, y = separable("g100x512")
    radii = np.linspace(0, 0.9, 20) * max_margin(X, y, q=math.inf).margin
    runs["twenty radii, (2, inf), g100x512"] = lambda X=X, y=y: separator_path(
        X, y, p=2, q=math.inf, eps=radii
    )
    for n, d in ((4600, 57), (1000, 200)):
        X, y = overlapping(n, d)
        runs[f"not separable, {n} x {d}"] = lambda X=X, y=y: max_margin(X, y, q=2)
    for name, (X, y) in (
        ("breast_cancer", model_selection.breast_cancer()),
        ("2 000 x 200", model_selection.noisy_teacher()),
    ):
        for q, eps in ((1, 0.3), (2, 0.1), (math.inf, 0.05)):
            for loss in ("exponential", "logistic"):
                model = RobustLinearClassifier(q_pert=q, eps=eps, loss=loss)
                runs[f"fit, q = {q:g}, {loss}, {name}"] = lambda X=X, y=y, model=model: model.fit(
                    X, y
                )
    X, y = model_selection.breast_cancer()
    choice = RobustLinearClassifierCV(eps=[0.0, 0.1], threat_eps=0.1, cv=3)
    runs["choice, breast_cancer"] = lambda: choice.fit(X, y)
    path = RobustLinearClassifier(
        1, math.inf, 0.05, solver="steepest_descent", max_iter=500, loss_tol=0, tol=1e-12
    )
    wide = separable("g100x512")
    runs["path of 500 steps, p = 1, g100x512"] = lambda: path.fit(*wide)
    return runs


def seconds(run: Run) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def ratio(run: Run) -> float:
    """The median over rounds of the run's time over the yardstick's."""
    run()
    return median(seconds(run) / seconds(yardstick) for _ in range(ROUNDS))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="write the ratios of this run")
    write = parser.parse_args().write
    warnings.simplefilter("ignore", ConvergenceWarning)
    yardstick()
    ratios = {name: (run, ratio(run)) for name, run in cells().items()}
    if write:
        lines = [[name, f"{found:.3g}"] for name, (_, found) in ratios.items()]
        harness.write_csv("quick.csv", ["cell", "ratio"], lines)
        return
    with (harness.RESULTS / "quick.csv").open() as file:
        committed = {row["cell"]: float(row["ratio"]) for row in csv.DictReader(file)}
    slower = 0
    for name, (run, found) in ratios.items():
        before = committed.get(name)
        if before is None:
            print(f"{name}: not among the committed ratios; run with --write.")
        elif found > SLOWER * before and (again := ratio(run)) > SLOWER * before:
            slower += 1
            print(f"{name}: {min(found, again) / before:.2f} times slower")
    print(f"{slower} of {len(ratios)} cells have become slower.")
    sys.exit(1 if slower else 0)


if __name__ == "__main__":
    main()
