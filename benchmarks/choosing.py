"""Which geometry and which training radius: the tables behind the guide "Which p, q, eps?".

Not a race: robust test accuracy of the exact separators for every p and q, and of minimisers of the
robust risk trained at multiples of the radius that judges them. Writes `results/choosing.md`.
Minutes on one core.

    python benchmarks/choosing.py
"""

import warnings

import _harness as harness
import numpy as np
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from sklearn_robust import (
    RobustLinearClassifier,
    make_robust_scorer,
    make_teacher_classification,
    max_margin,
    min_norm_separator,
    robust_accuracy_score,
)
from sklearn_robust.threats import LpBall

EXPONENTS = (1, 2, np.inf)
N_SAMPLES, N_FEATURES, N_DRAWS, N_TEST = 64, 256, 5, 20_000
SPARSITIES = {"sparse, dense": (4, None), "dense, dense": (None, None), "dense, sparse": (None, 4)}
RATIOS = (0.0, 0.5, 1.0, 1.5, 2.0)  # training eps over the threat's
PENALTIES = [1e-4, 1e-3, 1e-2, 1e-1, 1.0]


def geometries() -> str:
    """Robust test accuracy at eps*/2 of the separators of least p-norm, by distribution, q and
    p."""
    rows = []
    for name, (teacher_sparsity, data_sparsity) in SPARSITIES.items():
        for q in EXPONENTS:
            kept = np.array(
                [separators(teacher_sparsity, data_sparsity, q, draw) for draw in range(N_DRAWS)]
            )
            means = kept.mean(axis=0)
            cells = [
                f"{m:.1f} ({low:.1f} to {high:.1f})"
                for m, low, high in zip(means, kept.min(0), kept.max(0), strict=True)
            ]
            best = means.argmax()
            cells[best] = f"**{cells[best]}**"
            rows.append([name, f"{q:g}", *cells])
    return harness.table(["teacher, data", "q", "p = 1", "p = 2", "p = inf"], rows)


def separators(
    teacher_sparsity: int | None, data_sparsity: int | None, q: float, draw: int
) -> list[float]:
    """Robust test accuracy in % of the separators of one draw, for each p."""
    sizes = {"teacher_sparsity": teacher_sparsity, "data_sparsity": data_sparsity}
    X, y, teacher = make_teacher_classification(
        N_SAMPLES, N_FEATURES, **sizes, return_teacher=True, random_state=draw
    )
    X_test, y_test = make_teacher_classification(
        N_TEST, N_FEATURES, teacher=teacher, data_sparsity=data_sparsity, random_state=1000 + draw
    )
    eps = max_margin(X, y, q=q).margin / 2
    accuracy = []
    for p in EXPONENTS:
        coef = min_norm_separator(X, y, p=p, q=q, eps=eps).coef
        accuracy.append(
            100 * float(np.mean(y_test * (X_test @ coef) > LpBall(q, eps).penalty(coef)))
        )
    return accuracy


def radii() -> str:
    """Robust test accuracy under a threat, by the radius of training; and of a tuned logistic
    regression."""
    digits, labels = load_digits(return_X_y=True)
    pair = np.isin(labels, (3, 8))
    data = {
        "breast_cancer, standardised": (StandardScaler(), *load_breast_cancer(return_X_y=True)),
        "wine, standardised": (StandardScaler(), *load_wine(return_X_y=True)),
        "digits 3, 8, pixels in [0, 1]": (FunctionTransformer(), digits[pair] / 16, labels[pair]),
    }
    threats = ((np.inf, (0.05, 0.1, 0.2)), (2, (0.25, 0.5, 1.0)))
    rows = []
    for name, (scaler, X, y) in data.items():
        for q, sizes in threats:
            for eps in sizes:
                kept = np.array([fold(scaler, X, y, q, eps, *split) for split in folds(X, y)]).mean(
                    axis=0
                )
                cells = [f"{100 * value:.1f}" for value in kept]
                best = kept[:-1].argmax()
                cells[best] = f"**{cells[best]}**"
                rows.append([name, f"{q:g}", f"{eps:g}", *cells])
    return harness.table(
        ["data", "q", "threat", *[f"{ratio:g}x" for ratio in RATIOS], "logistic, C tuned"], rows
    )


def folds(X: np.ndarray, y: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Twice five folds."""
    return [
        split
        for seed in range(2)
        for split in StratifiedKFold(5, shuffle=True, random_state=seed).split(X, y)
    ]


def fold(scaler, X, y, q: float, eps: float, train: np.ndarray, test: np.ndarray) -> list[float]:
    """Robust accuracy on the test fold for each training radius, and of the logistic regression."""
    accuracy = []
    for ratio in RATIOS:
        model = make_pipeline(
            scaler, RobustLinearClassifier(q_pert=q, eps=ratio * eps, loss="logistic")
        )
        with warnings.catch_warnings():
            # a fit near eps* that misses its tolerance is still judged
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(X[train], y[train])
        accuracy.append(robust_accuracy_score(model, X[test], y[test], eps=eps, q=q))
    logistic = make_pipeline(scaler, LogisticRegression(max_iter=1000))
    grid = {"logisticregression__C": PENALTIES}
    search = GridSearchCV(logistic, grid, scoring=make_robust_scorer(eps=eps, q=q)).fit(
        X[train], y[train]
    )
    return [*accuracy, robust_accuracy_score(search, X[test], y[test], eps=eps, q=q)]


def main() -> None:
    text = [
        "# Which geometry, which training radius\n",
        "`benchmarks/choosing.py`. Robust test accuracy in %, exact; the best of a row is bold.\n",
        "## Geometry, where the data are robustly separable\n",
        f"Exact separators of least p-norm, trained and judged at eps*/2; n = {N_SAMPLES}, d = "
        f"{N_FEATURES}, sparse: 4 entries "
        f"that are not zero; mean and range of {N_DRAWS} draws, {N_TEST} test points.\n",
        geometries(),
        "## Training radius, for a given threat\n",
        "Robust logistic risk, trained at a multiple of the radius of the threat; twice five "
        "folds. Last column: logistic "
        "regression, C tuned on the training folds by the same threat.\n",
        radii(),
    ]
    harness.write("choosing.md", "\n".join(text))


if __name__ == "__main__":
    main()
