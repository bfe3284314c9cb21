"""The folds of a cross-validation of linear classifiers: their candidates, scores and data.

The scoring threat is an l_q ball, or a set.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import rankdata
from sklearn.model_selection import ParameterGrid
from sklearn.utils import _safe_indexing, check_array

from sklearn_robust.attacks.linear import robustly_correct
from sklearn_robust.linear_model._path import solve_grid, to_array
from sklearn_robust.linear_model._robust_linear import RobustLinearClassifier
from sklearn_robust.metrics.linear_view import LinearView
from sklearn_robust.rows import Block, BlockRows
from sklearn_robust.threats import is_ball


def check_folds(splits: Sequence[tuple[np.ndarray, np.ndarray]], sample_weight: Any) -> None:
    """Refuse folds whose test samples all have weight zero."""
    for i, (_, test) in enumerate(splits):
        if sample_weight is not None and not sample_weight[test].any():
            raise ValueError(
                f"sample_weight must be positive for a test sample of every fold, got zeros alone "
                f"in fold {i} (of cv). Leave these samples out, or give a splitter whose folds mix "
                "them with others."
            )


def cross_validate(
    model: RobustLinearClassifier,
    X: Any,
    y: Any,
    sample_weight: Any,
    sample_radius: np.ndarray | None,
    split: tuple[np.ndarray, np.ndarray],
    p_algo: list[float | str],
    eps: list[float],
    threat: Any,
    fold: str,
) -> tuple[np.ndarray, ...]:
    """One fold: robust accuracies, times of each fit and score, convergence, and gaps.

    Arrays are (n_p, n_eps), the times without axes.
    """
    train, test = split
    start = time.perf_counter()
    # a batch of paths may differ from single paths by rounding, which the scores of some samples
    # would show
    path = solve_grid(
        model,
        *_part(X, y, sample_weight, train),
        p_algo,
        eps,
        sample_radius=None if sample_radius is None else sample_radius[train],
        batched=False,
    )
    fitted = time.perf_counter()
    radius = None if sample_radius is None else sample_radius[test]
    scores = _robust_accuracies(path, threat, *_part(X, y, sample_weight, test), radius)
    scored_at = time.perf_counter()
    fit_time, score_time = (
        np.array(seconds / scores.size) for seconds in (fitted - start, scored_at - fitted)
    )
    if model.verbose:
        print(
            f"RobustLinearClassifierCV: fold {fold}, {scores.size} candidates, best robust "
            f"accuracy {scores.max():.3f}, {scored_at - start:.2f} s",
            flush=True,
        )
    return scores, fit_time, score_time, path.converged, path.dual_gap


def _robust_accuracies(
    path: Any, threat: Any, X: Any, y: Any, weight: Any, sample_radius: np.ndarray | None
) -> np.ndarray:
    """The robust accuracy of each candidate of a path, (n_p, n_eps)."""
    blocks = X.blocks() if isinstance(X, BlockRows) else [Block(X, y, weight)]
    right, total = np.zeros(path.coef.shape[:2]), 0.0
    known: dict[str, Any] = {"sample_radius": sample_radius}
    if not is_ball(threat):
        known["classes"] = path.classes.tolist()
    for block in blocks:
        scored = check_array(block.X, accept_sparse="csr", dtype=(np.float64, np.float32))
        view = LinearView(scored, path.coef[0, 0], path.intercept[0, 0], path.classes)
        index = view.class_index(block.y)
        weight = np.ones(len(index)) if block.sample_weight is None else block.sample_weight
        total += float(np.sum(weight))
        for cell in np.ndindex(right.shape):
            robust = robustly_correct(
                scored, index, path.coef[cell], path.intercept[cell], threat, **known
            )
            right[cell] += np.sum(weight * robust)
    return right / total


def results_of(
    p_algo: list[float | str],
    eps: list[float],
    scores: np.ndarray,
    fit_times: np.ndarray,
    score_times: np.ndarray,
) -> dict[str, Any]:
    """`cv_results_` in the form of GridSearchCV.

    Scores have the shape (n_p, n_eps, n_splits), times (n_splits,).
    """
    params = list(ParameterGrid({"p_algo": p_algo, "eps": eps}))  # eps varies slowest
    scores = scores.swapaxes(0, 1).reshape(len(params), -1)
    results: dict[str, Any] = {}
    for name, seconds in (("fit_time", fit_times), ("score_time", score_times)):
        results[f"mean_{name}"] = np.full(len(params), seconds.mean())
        results[f"std_{name}"] = np.full(len(params), seconds.std())
    for name in ("eps", "p_algo"):
        results[f"param_{name}"] = np.ma.array(
            to_array([candidate[name] for candidate in params]),
            mask=np.zeros(len(params), dtype=bool),
        )
    results["params"] = params
    results |= {f"split{i}_test_score": scores[:, i] for i in range(scores.shape[1])}
    results["mean_test_score"] = np.average(scores, axis=1)
    results["std_test_score"] = np.sqrt(
        np.average((scores - results["mean_test_score"][:, None]) ** 2, axis=1)
    )
    results["rank_test_score"] = rankdata(-results["mean_test_score"], method="min").astype(
        np.int32
    )
    return results


# -- rows in blocks hold labels and weights themselves


def for_splitter(X: Any) -> Any:
    """What a splitter takes for X, of which it may ask for the number of samples."""
    return np.zeros((X.shape[0], 1)) if isinstance(X, BlockRows) else X


def data_of(X: Any, y: Any, weight: Any) -> tuple[Any, Any, Any]:
    """The data as an estimator takes them."""
    return (X, None, None) if isinstance(X, BlockRows) else (X, y, weight)


def _part(X: Any, y: Any, weight: Any, index: np.ndarray) -> tuple[Any, Any, Any]:
    """Some of the data as an estimator takes them."""
    if isinstance(X, BlockRows):
        return X.selected(index), None, None
    weight = None if weight is None else weight[index]
    return _safe_indexing(X, index), _safe_indexing(y, index), weight
