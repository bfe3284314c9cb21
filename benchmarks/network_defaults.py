"""Claim: `RobustMLPClassifier()` learns as it comes, on features as they come.

1. Digits in [0, 1], a quarter for testing, eps = 0: at least 96 % right, within 3 times the time of
   scikit-learn's `MLPClassifier()`.
2. The same at eps = 0.1: no more than 2 points behind the best of 24 settings, in accuracy and in
   robust accuracy under the default attack. The best is chosen on the test samples, for each of
   both figures alone, so it is an optimistic one.
3. Small tables at eps = 0 and 0.05, raw, between 0 and 1, and standardised: a fit does not end with
   one class for all test samples, or it warns.

Seconds are CPU seconds of fits, after one of each kind that loads what it needs (the first
optimiser of torch takes 2 s).

    python benchmarks/network_defaults.py 0 1 2 --tables FOLDER
        > benchmarks/results/network_defaults.md

The numbers are the seeds, of the split and of the network. The folder has files of the UCI
repository: sonar.all-data, ionosphere.data and processed.cleveland.data (heart disease; samples
with missing entries are left out). Without it the tables are scikit-learn's breast cancer and wine.
`--parts 1 3` runs some parts only.
"""

import argparse
import itertools
import math
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from _harness import machine, table
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import FunctionTransformer, MinMaxScaler, StandardScaler

from sklearn_robust import RobustMLPClassifier

GRID = {
    "p_algo": (2, math.inf),
    "learning_rate": (5e-4, 1e-3, 2e-3),
    "batch_size": (64, 256),
    "max_iter": (50, 100),
}
SCALINGS = {
    "raw": FunctionTransformer,
    "min-max": MinMaxScaler,
    "standardised": StandardScaler,
}
FILES = {
    "sonar": "sonar.all-data",
    "ionosphere": "ionosphere.data",
    "heart": "processed.cleveland.data",
}


def fitted(model, X, y):
    """CPU seconds, and whether the fit warned."""
    start = time.process_time()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(X, y)
    seconds = time.process_time() - start
    return seconds, any(issubclass(one.category, ConvergenceWarning) for one in caught)


def digits(seed):
    X, y = load_digits(return_X_y=True)
    X = (X / 16).astype(np.float32)
    return train_test_split(X, y, test_size=0.25, random_state=seed)


def say(*what):
    print(*what, file=sys.stderr, flush=True)


def without_adversary(seeds):
    X, _, y, _ = digits(0)
    for model in (MLPClassifier(max_iter=1), RobustMLPClassifier(max_iter=1)):
        fitted(model, X, y)
    rows = []
    for seed in seeds:
        X, X_test, y, y_test = digits(seed)
        theirs = MLPClassifier(random_state=seed)
        ours = RobustMLPClassifier(eps=0, random_state=seed)
        seconds = [fitted(model, X, y)[0] for model in (theirs, ours)]
        right = [100 * model.score(X_test, y_test) for model in (theirs, ours)]
        rows.append(
            [
                str(seed),
                *(f"{share:.1f}" for share in right),
                *(f"{s:.2f}" for s in seconds),
                f"{seconds[1] / seconds[0]:.2f}",
            ]
        )
        say(rows[-1])
    header = ["seed", "MLPClassifier %", "ours %", "CPU s", "CPU s, ours", "ratio"]
    print("## Digits, eps = 0\n")
    print(table(header, rows), flush=True)


def judged(seed, setting):
    """Right and robust test samples in %, and CPU seconds of the fit."""
    X, X_test, y, y_test = digits(seed)
    model = RobustMLPClassifier(random_state=seed, **setting)
    seconds, _ = fitted(model, X, y)
    shares = 100 * model.score(X_test, y_test), 100 * model.robust_score(X_test, y_test)
    say(seed, setting, *(f"{value:.1f}" for value in (*shares, seconds)))
    return *shares, seconds


def against_a_search(seeds):
    points = [dict(zip(GRID, values, strict=True)) for values in itertools.product(*GRID.values())]
    rows = []
    for seed in seeds:
        default = judged(seed, {})
        searched = [judged(seed, point) for point in points]
        clean, robust, seconds = zip(*searched, strict=True)
        best = points[int(np.argmax(robust))]
        rows.append(
            [
                str(seed),
                f"{default[0]:.1f}, {default[1]:.1f}",
                f"{max(clean):.1f}, {max(robust):.1f}",
                f"{default[0] - max(clean):.1f}, {default[1] - max(robust):.1f}",
                ", ".join(f"{name}={value:g}" for name, value in best.items()),
                f"{default[2]:.1f}",
                f"{sum(seconds):.0f}",
            ]
        )
    header = ["seed", "default: right, robust %", f"best of {len(points)}", "difference"]
    header += ["most robust", "CPU s, default", "CPU s, search"]
    print("## Digits, eps = 0.1\n")
    print(table(header, rows), flush=True)


def tables(folder):
    """Name, features and labels of each table."""
    if folder is None:
        yield "breast cancer", *load_breast_cancer(return_X_y=True)
        yield "wine", *load_wine(return_X_y=True)
        return
    for name, file in FILES.items():
        read = pd.read_csv(folder / file, header=None, na_values="?").dropna()
        y = read.iloc[:, -1].to_numpy()
        yield name, read.iloc[:, :-1].to_numpy(float), y > 0 if name == "heart" else y


def on_tables(seeds, folder):
    rows = []
    for name, X, y in tables(folder):
        for scaling, eps in itertools.product(SCALINGS, (0.0, 0.05)):
            found = []
            for seed in seeds:
                train, test = train_test_split(
                    np.arange(len(y)), test_size=0.25, random_state=seed, stratify=y
                )
                scaler = SCALINGS[scaling]().fit(X[train])
                Z = scaler.transform(X)
                model = RobustMLPClassifier(eps=eps, random_state=seed)
                seconds, warned = fitted(model, Z[train], y[train])
                share = np.unique(y[test], return_counts=True)[1].max() / len(test)
                right, robust = (
                    score(Z[test], y[test]) for score in (model.score, model.robust_score)
                )
                constant = len(set(model.predict(Z[test]))) == 1
                found.append([share, right, robust, constant, warned, constant and not warned])
                say(name, scaling, eps, seed, *np.round(found[-1], 3), f"{seconds:.1f}")
            share, right, robust = 100 * np.mean(found, axis=0)[:3]
            constant, warned, silent = np.sum(found, axis=0)[3:].astype(int)
            figures = [f"{share:.1f}", f"{right:.1f}", f"{robust:.1f}"]
            counts = [str(constant), str(warned), str(silent)]
            rows.append([name, scaling, f"{eps:g}", *figures, *counts])
    header = ["table", "features", "eps", "largest class %", "right %", "robust %"]
    header += ["one class", "warned", "one class, in silence"]
    print(f"## Small tables, counts of {len(seeds)} fits\n")
    print(table(header, rows), flush=True)


def main(seeds, parts, folder):
    print("# Networks with default parameters\n")
    print(f"`benchmarks/network_defaults.py`, {machine(['torch', 'scikit-learn'])}\n", flush=True)
    if 1 in parts:
        without_adversary(seeds)
    if 2 in parts:
        against_a_search(seeds)
    if 3 in parts:
        on_tables(seeds, folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--parts", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--tables", type=Path, help="folder of tables")
    arguments = parser.parse_args()
    main(arguments.seeds, arguments.parts, arguments.tables)
