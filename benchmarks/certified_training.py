"""Claim: a small network trained on certified margins proves more than the best linear classifier.

Digits in [0, 1], three quarters for training, an adversary who moves every pixel by up to 0.1. The
network has one hidden layer of 100 ReLUs and the default training of `RobustMLPClassifier`, with
`certified_weight` of several sizes. In the same run the linear classifier of all classes jointly,
whose robust accuracy is exact. Shares of the test samples: right, left right by an attack, proved.
Seconds are CPU seconds of the fit.

    python benchmarks/certified_training.py 0 1 2 > benchmarks/results/certified_training.md

The numbers are the seeds, of the split and of the network.
"""

import sys
import time
import warnings

import numpy as np
from _harness import machine, table
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split

from sklearn_robust import RobustLinearClassifier, RobustMLPClassifier, robust_accuracy_score
from sklearn_robust.threats import LpBall

EPS = 0.1
WEIGHTS = (0.0, 0.1, 0.3, 0.5)
METHODS = ("interval", "crown", "alpha-crown")


def timed(model, X, y):
    start = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(X, y)
    return time.process_time() - start


def figures(seed):
    """Rows (name, figures): right, attacked, proved by each method, CPU seconds."""
    X, y = load_digits(return_X_y=True)
    X = (X / 16).astype(np.float32)
    train, test = train_test_split(np.arange(len(y)), test_size=0.25, random_state=seed)
    threat = LpBall(np.inf, EPS, clip=(0, 1))
    linear = RobustLinearClassifier(p_algo=2, eps=EPS)
    seconds = timed(linear, X[train], y[train])
    exact = robust_accuracy_score(linear, X[test], y[test], threat=threat)
    right = linear.score(X[test], y[test])
    yield "linear, jointly", [right, exact, np.nan, exact, exact, seconds]
    for weight in WEIGHTS:
        network = RobustMLPClassifier(
            eps=EPS, clip=(0, 1), certified_weight=weight, random_state=seed
        )
        seconds = timed(network, X[train], y[train])
        proved = [network.certified_score(X[test], y[test], method=m) for m in METHODS]
        scores = network.score(X[test], y[test]), network.robust_score(X[test], y[test])
        yield f"certified_weight={weight:g}", [*scores, *proved, seconds]


def main(seeds):
    rows = {}
    for seed in seeds:
        for name, found in figures(seed):
            rows.setdefault(name, []).append(found)
            print(seed, name, np.round(found, 3), file=sys.stderr, flush=True)
    print("# Training on certified margins\n")
    print(f"`benchmarks/certified_training.py`, {machine(['torch'])}\n")
    lines = []
    for name, found in rows.items():
        *shares, seconds = np.mean(found, axis=0)
        shown = ["-" if np.isnan(share) else f"{100 * share:.1f}" for share in shares]
        lines.append([name, *shown, f"{seconds:.1f}"])
    header = ["classifier", "right %", "attacked %", *(f"{m} %" for m in METHODS), "CPU s"]
    print(table(header, lines))


if __name__ == "__main__":
    main([int(seed) for seed in sys.argv[1:]] or [0, 1, 2])
