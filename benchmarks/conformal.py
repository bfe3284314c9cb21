"""Robust conformal sets hold the true class under the exact attack; MAPIE's clean sets do not.

Run it with

    python -m pip install mapie && python benchmarks/conformal.py [--splits 200]

A split draws the samples for training, calibration and test at random and fits a
LogisticRegression. Every test sample then moves where it conforms least with its own class, within
its l_inf ball. The table has the share of the samples whose class is in the set, averaged over the
splits, with the standard error, and the mean size of the sets: of `RobustConformalSets`, and of
MAPIE's `SplitConformalClassifier` (score "lac") on the same classifier and samples.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from _harness import machine, table, write
from mapie.classification import SplitConformalClassifier
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import scale

from sklearn_robust.attacks.linear import worst_case_perturbations
from sklearn_robust.conformal import RobustConformalSets
from sklearn_robust.threats import LpBall

LEVEL = 0.9
DATA: dict[str, tuple[Callable[..., Any], tuple[float, ...]]] = {
    "breast_cancer": (load_breast_cancer, (0.1, 0.3)),
    "wine": (load_wine, (0.1, 0.3)),
    "digits": (load_digits, (0.02, 0.05)),
}


def one_split(X: np.ndarray, y: np.ndarray, eps: float, seed: int) -> list[float]:
    """Coverage and size of robust sets under attack, and of MAPIE's under attack and without."""
    order = np.random.default_rng(seed).permutation(len(y))
    train, calibrate, test = np.array_split(order, 3)
    model = LogisticRegression(max_iter=2000).fit(X[train], y[train])
    index = np.searchsorted(model.classes_, y[test])
    ball = LpBall(np.inf, eps)
    moves = worst_case_perturbations(X[test], index, model.coef_, model.intercept_, ball)
    robust = RobustConformalSets(model, confidence_level=LEVEL, eps=eps)
    sets = robust.conformalize(X[calibrate], y[calibrate]).predict_set(X[test] + moves)
    clean = SplitConformalClassifier(
        model, confidence_level=LEVEL, conformity_score="lac", prefit=True
    ).conformalize(X[calibrate], y[calibrate])
    own = np.arange(len(test)), index
    found = [sets[own].mean(), sets.sum(axis=1).mean()]
    for inputs in (X[test] + moves, X[test]):
        peer = clean.predict_set(inputs)[1][:, :, 0]
        found += [peer[own].mean(), peer.sum(axis=1).mean()]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--splits", type=int, default=200)
    splits = parser.parse_args().splits
    rows = []
    for name, (load, radii) in DATA.items():
        X, y = load(return_X_y=True)
        X = X / 16 if name == "digits" else scale(X)
        for eps in radii:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = np.array([one_split(X, y, eps, seed) for seed in range(splits)])
            cells = []
            for at in range(0, 6, 2):
                error = found[:, at].std() / np.sqrt(splits)
                cells += [
                    f"{found[:, at].mean():.4f} ± {error:.4f}",
                    f"{found[:, at + 1].mean():.2f}",
                ]
            rows.append([name, f"{eps:g}", *cells])
            print(rows[-1], flush=True)
    header = ["data", "eps"]
    for of in ("robust sets, attacked", "MAPIE, attacked", "MAPIE, clean"):
        header += [of, "size"]
    text = (
        f"# Conformal sets under attack\n\n{machine(['scikit-learn', 'mapie'])}\n\n"
        f"`python benchmarks/conformal.py --splits {splits}`: coverage (aim {LEVEL}) and size of "
        f"the sets, means over {splits} random splits.\n\n{table(header, rows)}\n"
    )
    write("conformal.md", text)


if __name__ == "__main__":
    main()
