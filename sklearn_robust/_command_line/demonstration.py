"""What robust training buys on real data, and the price of implicit bias, at a glance."""

from __future__ import annotations

import argparse
import math
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import LinearSVC

from sklearn_robust import (
    RobustLinearClassifier,
    implicit_bias_report,
    make_robust_scorer,
    make_teacher_classification,
    max_margin,
)
from sklearn_robust._command_line.terminal import Progress, print_table

GEOMETRIES = (1.0, 2.0, math.inf)


def run(arguments: argparse.Namespace, progress: Progress) -> None:
    """Print both tables."""
    _real_data(arguments, progress)
    _implicit_bias(arguments, progress)


def _load(name: str) -> tuple[np.ndarray, np.ndarray, Any, str]:
    """Data, labels, the transformer that brings them to the scale of eps, and a line about them."""
    if name == "breast_cancer":
        X, y = load_breast_cancer(return_X_y=True)
        return (
            X,
            y,
            StandardScaler(),
            "breast_cancer, 569 x 30; eps in standard deviations of each feature",
        )
    X, y = load_digits(return_X_y=True)
    chosen = np.isin(y, (3, 8))
    return (
        X[chosen] / 16,
        y[chosen],
        FunctionTransformer(),
        "digits 3 against 8, 357 x 64; eps in the pixels' range [0, 1]",
    )


def _candidates(
    scaler: Any, arguments: argparse.Namespace, eps: float
) -> list[tuple[str, Any, dict[str, list[float]]]]:
    """Name, pipeline and grid of every classifier of the table."""
    grid = arguments.grid or sorted(
        {round(share * eps, 10) for share in (0.25, 0.5, 0.75, 1.0, 1.25)}
    )
    penalties = [1e-4, 1e-3, 1e-2, 1e-1, 1.0]
    logistic = LogisticRegression(max_iter=5000)
    svc = LinearSVC(dual=True, max_iter=50_000)
    candidates: list[tuple[str, Any, dict[str, list[float]]]] = [
        ("LogisticRegression", make_pipeline(scaler, logistic), {}),
        (
            "LogisticRegression, C tuned",
            make_pipeline(scaler, logistic),
            {"logisticregression__C": penalties},
        ),
        ("LinearSVC, C tuned", make_pipeline(scaler, svc), {"linearsvc__C": penalties}),
    ]
    for p in GEOMETRIES:
        robust = RobustLinearClassifier(p_algo=p, q_pert=arguments.q, loss="logistic")
        candidates.append(
            (
                f"RobustLinearClassifier, p={p:g}",
                make_pipeline(scaler, robust),
                {"robustlinearclassifier__eps": grid},
            )
        )
    return candidates


def _real_data(arguments: argparse.Namespace, progress: Progress) -> None:
    X, y, scaler, about = _load(arguments.dataset)
    radii = arguments.eps or ([0.2, 0.4] if arguments.dataset == "breast_cancer" else [0.1, 0.2])
    inner = StratifiedKFold(3, shuffle=True, random_state=arguments.seed)
    outer = StratifiedKFold(5, shuffle=True, random_state=arguments.seed + 1)
    steps = [
        (eps, *candidate) for eps in radii for candidate in _candidates(scaler, arguments, eps)
    ]
    rows = []
    for eps, name, model, grid in progress(steps, f"grid searches on {arguments.dataset}"):
        scorer = make_robust_scorer(eps=eps, q=arguments.q)
        search = (
            GridSearchCV(model, grid, scoring=scorer, cv=inner, n_jobs=-1) if grid else clone(model)
        )
        scores = cross_validate(
            search, X, y, cv=outer, scoring={"clean": "accuracy", "robust": scorer}
        )
        clean, robust = (100 * scores[f"test_{kind}"].mean() for kind in ("clean", "robust"))
        rows.append((f"{eps:g}", name, f"{clean:.1f}", f"{robust:.1f}"))
    print(f"Robust accuracy on {about}; q={arguments.q:g}.")
    print(
        "Test folds of 5; hyper-parameters by GridSearchCV on the training folds, scored by the "
        "same threat."
    )
    print(
        "Where no robust separator exists, as mostly here, the robust risk has one minimiser, the "
        "same for every p.\n"
    )
    print_table(("eps", "classifier", "clean %", "robust %"), rows)


def _implicit_bias(arguments: argparse.Namespace, progress: Progress) -> None:
    n, d = 64, 512
    sparsity = 4
    X, y, teacher = make_teacher_classification(
        n, d, teacher_sparsity=sparsity, return_teacher=True, random_state=arguments.seed
    )
    X_test, y_test = make_teacher_classification(
        20_000, d, teacher=teacher, random_state=arguments.seed + 1
    )
    eps = max_margin(X, y, q=arguments.q).margin / 4
    rows = []
    for p in progress(list(GEOMETRIES), "steepest descent and exact separators"):
        path = RobustLinearClassifier(
            p_algo=p, q_pert=arguments.q, eps=eps, fit_intercept=False
        ).fit(X, y)
        report = implicit_bias_report(path, X, y)
        limit = clone(path).set_params(solver="exact").fit(X, y)
        rows.append(
            (
                f"{p:g}",
                f"{report.cosine:.3f}",
                f"{report.margin_ratio:.3f}",
                f"{path.dual_gap_:.3f}",
                f"{100 * path.robust_score(X, y):.1f}",
                f"{100 * path.robust_score(X_test, y_test):.1f}",
                f"{100 * limit.robust_score(X_test, y_test):.1f}",
            )
        )
    print(
        f"\nThe price of implicit bias: Gaussian data, n={n}, d={d}, teacher with about {sparsity} "
        f"non-zero weights,"
    )
    print(
        f"q={arguments.q:g}, eps = eps*/4 = {eps:.3g}. All geometries fit the training data "
        f"robustly; "
        "they do not generalise alike.\n"
    )
    head = (
        "p",
        "cosine",
        "margin ratio",
        "certified gap",
        "robust train %",
        "robust test %",
        "of the exact limit",
    )
    print_table(head, rows)
