"""Aim: RobustLinearClassifierCV makes GridSearchCV's choice, with its scores, at least five times
sooner.

The same candidates, p in (1, 2, inf) and a grid of radii against q = inf, the same five folds,
refit included. Both in turns in one process; medians of the rounds. The grids: "auto", which is
eight radii from the data, and five round numbers with 0, at which breast_cancer is separable. There
most of the time goes into what each candidate has to itself, the path and the exact separator of
its p, and there is less to share.

    env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE python benchmarks/model_selection.py [--rounds 3]
"""

import argparse
import time
from statistics import median

import _harness as harness
import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import GridSearchCV
from sklearn.preprocessing import StandardScaler

from sklearn_robust import (
    RobustLinearClassifier,
    RobustLinearClassifierCV,
    make_robust_scorer,
    training_radii,
)

P = (1.0, 2.0, np.inf)
ROUND_RADII = [0.0, 0.05, 0.1, 0.2, 0.3]


def breast_cancer() -> tuple[np.ndarray, np.ndarray]:
    X, y = load_breast_cancer(return_X_y=True)
    return StandardScaler().fit_transform(X), y


def noisy_teacher(n: int = 2000, d: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian rows; the labels of a Gaussian teacher whose scores, of deviation 1, have noise of
    deviation 1/2."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n, d))
    scores = X @ rng.standard_normal(d) / np.sqrt(d) + 0.5 * rng.standard_normal(n)
    return X, (scores > 0).astype(int)


CASES = {  # data, grids, and the radius of the adversary that scores
    "breast_cancer, 569 x 30": (breast_cancer, {"auto": None, "with 0": ROUND_RADII}, 0.2),
    "noisy teacher, 2 000 x 200": (noisy_teacher, {"auto": None, "with 0": ROUND_RADII}, 0.05),
}


def timed(search: GridSearchCV | RobustLinearClassifierCV, X: np.ndarray, y: np.ndarray) -> float:
    start = time.process_time()
    search.fit(X, y)
    return time.process_time() - start


def chosen(search: GridSearchCV | RobustLinearClassifierCV) -> str:
    p, eps = search.best_params_["p_algo"], search.best_params_["eps"]
    return f"p = {p:g}, eps = {eps:.3g}: {search.best_score_:.4f}"


def line(
    name: str, grid: str, eps: list[float] | None, threat: float, loss: str, rounds: int
) -> list[str]:
    X, y = CASES[name][0]()
    theirs = GridSearchCV(
        RobustLinearClassifier(loss=loss),
        {"p_algo": P, "eps": training_radii(X, y).tolist() if eps is None else eps},
        scoring=make_robust_scorer(eps=threat),
        cv=5,
    )
    ours = RobustLinearClassifierCV(
        P, eps="auto" if eps is None else eps, threat_eps=threat, loss=loss
    )
    times = np.array([[timed(theirs, X, y), timed(ours, X, y)] for _ in range(rounds)])
    names = [f"split{i}_test_score" for i in range(ours.n_splits_)]
    apart = [ours.cv_results_[split] - theirs.cv_results_[split] for split in names]
    ratio = median(times[:, 0] / times[:, 1])
    return [
        name,
        grid,
        loss,
        *(harness.seconds(median(column)) for column in times.T),
        f"{ratio:.1f}" if ratio >= 1 else f"**{ratio:.1f}**",
        chosen(theirs),
        chosen(ours),
        f"{np.count_nonzero(np.abs(apart) > 1e-12)} of {np.size(apart)}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    machine = harness.machine(["numpy", "scipy", "scikit-learn"])
    lines = []
    for name, (_, grids, threat) in CASES.items():
        for grid, eps in grids.items():
            for loss in ("exponential", "logistic"):
                lines.append(line(name, grid, eps, threat, loss, rounds))
                print(lines[-1], flush=True)
    text = "\n".join(
        [
            "# Model selection\n",
            machine + "\n",
            f"Five folds, p in (1, 2, inf), q = inf; CPU seconds, medians of {rounds} rounds in "
            f"turns, and the median of the "
            'ratios. "auto": eight radii; "with 0": 0, .05, .1, .2, .3. The last column '
            "counts the scores, of a candidate "
            "and a fold each, that differ.\n",
            harness.table(
                [
                    "data",
                    "radii",
                    "loss",
                    "GridSearchCV",
                    "ours",
                    "ratio",
                    "its choice",
                    "ours",
                    "scores apart",
                ],
                lines,
            ),
        ]
    )
    print(text)
    harness.write("model_selection.md", text)


if __name__ == "__main__":
    main()
