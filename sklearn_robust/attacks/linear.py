r"""The exact attack on a linear classifier, for two and for several classes.

Scores are :math:`f_k(x) = \langle w_k, x\rangle + b_k`. The adversary picks one rival class, so the
robust margin of (x, y) is

.. math:: \min_{k \ne y}\; f_y(x) - f_k(x) - \epsilon \|w_y - w_k\|_{q^*},

exactly, with :math:`\|s (w_y - w_k)\|_{q^*}` where features have scales s, and with the support
function :math:`\sigma(w_y - w_k)` in place of the penalty against another threat. (x, y) is
robustly classified if and only if the margin is positive. Two classes are scored by one function f,
as in scikit-learn: f > 0 is the second class, and the scores are (0, f).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.utils import gen_batches
from sklearn.utils.extmath import safe_sparse_dot

from sklearn_robust.threats import LpBall, Threat, is_ball, radius_of, support

_BLOCK_SCORES = 2**17  # scores that exist at a time: a megabyte in float64


def has_coef(classifier: Any) -> bool:
    """Whether a fitted classifier has linear coefficients.

    Parameters
    ----------
    classifier : estimator

    Returns
    -------
    bool
        Whether it has `coef_`, `intercept_` and `classes_`.
    """
    return all(hasattr(classifier, name) for name in ("coef_", "intercept_", "classes_"))


def class_scores(X: Any, coef: np.ndarray, intercept: np.ndarray) -> np.ndarray:
    """Scores of every class.

    Parameters
    ----------
    X : array or sparse array of shape (n, d)
    coef : array of shape (K, d), or (1, d) for two classes
    intercept : array of shape (K,) or (1,)

    Returns
    -------
    array of shape (n, K)
        Those of two classes are (0, f).
    """
    scores = safe_sparse_dot(X, coef.T, dense_output=True) + intercept
    return np.column_stack([np.zeros_like(scores), scores]) if scores.shape[1] == 1 else scores


def row_blocks(n_rows: int, n_classes: int) -> Iterator[slice]:
    """The rows, as many at a time as have scores of moderate size; one block of none for no rows.

    Parameters
    ----------
    n_rows, n_classes : int

    Yields
    ------
    slice
    """
    yield from gen_batches(max(n_rows, 1), max(1, _BLOCK_SCORES // n_classes))


def by_blocks(
    figure: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray],
    X: Any,
    y: np.ndarray | None,
    coef: np.ndarray,
    intercept: np.ndarray,
    norms: np.ndarray,
    pattern: np.ndarray | None = None,
) -> np.ndarray:
    """A figure of each sample, from the scores of a block of rows at a time.

    Parameters
    ----------
    figure : callable
        From scores (m, K), classes (m,) and norms of the rivals (m, K) to m figures.
    X : array or sparse array of shape (n, d)
    y : int array of shape (n,) or None
        Index of the class; the predicted one if None.
    coef : array of shape (K, d), or (1, d) for two classes
    intercept : array of shape (K,) or (1,)
    norms : array of shape (K, K), or (m, K, K) with a pattern
        Those of `rival_norms`.
    pattern : int array of shape (n,), optional
        The place of each sample's norms among m.

    Returns
    -------
    array of shape (n,)
    """
    if sparse.issparse(X):
        X = X.tocsr()
    figures = []
    for rows in row_blocks(X.shape[0], norms.shape[-1]):
        scores = class_scores(X[rows], coef, intercept)
        classes = scores.argmax(axis=1) if y is None else y[rows]
        of_rivals = norms[classes] if pattern is None else norms[pattern[rows], classes]
        figures.append(figure(scores, classes, of_rivals))
    return np.concatenate(figures)


def _class_coef(coef: np.ndarray) -> np.ndarray:
    """Coefficients of shape (K, d), for two classes too."""
    return np.concatenate([np.zeros_like(coef), coef]) if len(coef) == 1 else coef


def rival_norms(coef: np.ndarray, threat: Threat) -> np.ndarray:
    r"""||s (w_j - w_k)||_q* of each pair of classes, whatever the radius of the ball; of another
    threat its support function :math:`\sigma(w_j - w_k)`.

    Parameters
    ----------
    coef : array of shape (K, d), or (1, d) for two classes
    threat : Threat

    Returns
    -------
    array of shape (K, K)
    """
    coef = _class_coef(coef)
    if is_ball(threat):
        return np.stack([threat.dual_norm.value(w - coef) for w in coef])
    return np.stack([support(threat, w - coef) for w in coef])


def _rival_margins(scores: np.ndarray, y: np.ndarray, norms: np.ndarray, eps: float) -> np.ndarray:
    """Robust margin of each sample over each rival class, of shape (n, K); inf for its own."""
    margins = _leads(scores, y) - eps * norms
    margins[np.arange(len(scores)), y] = math.inf
    return margins


def _leads(scores: np.ndarray, y: np.ndarray) -> np.ndarray:
    """f_y - f_k of each sample and class."""
    with np.errstate(invalid="ignore"):  # a threshold that is never reached is an infinite score
        return scores[np.arange(len(scores)), y][:, None] - scores


def least_margins(scores: np.ndarray, y: np.ndarray, norms: np.ndarray, eps: float) -> np.ndarray:
    """Robust margin of each sample, from its scores.

    Parameters
    ----------
    scores : array of shape (n, K)
    y : int array of shape (n,)
        Index of the true class.
    norms : array of shape (n, K)
        ||s (w_y - w_k)||_q* of each sample, as `rival_norms` returns them.
    eps : float
        The radius of the threat.

    Returns
    -------
    array of shape (n,)
    """
    return _rival_margins(scores, y, norms, eps).min(axis=1)


def boundary_distances(scores: np.ndarray, y: np.ndarray, norms: np.ndarray) -> np.ndarray:
    """Distance of each sample to the boundary of the region of class y, from its scores.

    Parameters
    ----------
    scores, y, norms
        As in `least_margins`.

    Returns
    -------
    array of shape (n,)
        Negative outside of the region; inf where no rival can ever win, -inf where y never can, 0
        at a tie.
    """
    leads = _leads(scores, y)
    with np.errstate(divide="ignore", invalid="ignore"):
        where_none = np.where(leads == 0, 0, np.copysign(math.inf, leads))
        distances = np.where(norms > 0, leads / norms, where_none)
    distances[np.arange(len(scores)), y] = math.inf
    return distances.min(axis=1)


def robust_margins(
    X: Any, y: np.ndarray, coef: np.ndarray, intercept: np.ndarray, threat: Threat
) -> np.ndarray:
    """Robust margin of each sample, in units of the scores.

    Parameters
    ----------
    X : array or sparse array of shape (n, d)
    y : int array of shape (n,)
        Index of the true class of each sample.
    coef : array of shape (K, d), or (1, d) for two classes
    intercept : array of shape (K,) or (1,)
    threat : Threat

    Returns
    -------
    array of shape (n,)
        Positive exactly where no perturbation of the threat changes the decision away from y. A tie
        counts as broken.
    """
    figure = partial(least_margins, eps=radius_of(threat))
    return by_blocks(figure, X, y, coef, intercept, rival_norms(coef, threat))


def robustly_correct(
    X: Any, y: np.ndarray, coef: np.ndarray, intercept: np.ndarray, threat: Threat
) -> np.ndarray:
    """Which samples no perturbation of the threat moves out of their class.

    Parameters
    ----------
    X, coef, intercept, threat
        As in `robust_margins`.
    y : int array of shape (n,)
        Index of the true class of each sample; -1 for a class that is none of the classifier's.

    Returns
    -------
    bool array of shape (n,)
        At eps = 0 a tie is what predict makes of it, the first of the classes with the largest
        score; at eps > 0 it counts as broken.
    """
    radius = radius_of(threat)

    def figure(scores: np.ndarray, y: np.ndarray, norms: np.ndarray) -> np.ndarray:
        right = scores.argmax(axis=1) == y
        return right if radius == 0 else right & (least_margins(scores, y, norms, radius) > 0)

    return by_blocks(figure, X, y, coef, intercept, rival_norms(coef, threat))


def signed_distances(
    X: Any,
    y: np.ndarray | None,
    coef: np.ndarray,
    intercept: np.ndarray,
    q: float,
    scale: np.ndarray | None = None,
) -> np.ndarray:
    """Distance of each sample to the boundary of the region of class y (negative outside it),
    ||delta / scale||_q.

    Parameters
    ----------
    X : array or sparse array of shape (n, d)
    y : int array of shape (n,) or None
        Index of the class; the predicted one if None.
    coef, intercept : arrays
        As in `robust_margins`.
    q : float
        Exponent of the perturbation's norm.
    scale : array of shape (d,), optional
        The scale of each feature.

    Returns
    -------
    array of shape (n,)
        inf where no rival can ever win: its coefficients are equal where the adversary reaches, and
        its score is lower.
    """
    norms = rival_norms(coef, LpBall(q, 1.0, scale))
    return by_blocks(boundary_distances, X, y, coef, intercept, norms)


def worst_case_perturbations(
    X: Any, y: np.ndarray, coef: np.ndarray, intercept: np.ndarray, threat: Threat
) -> np.ndarray:
    """The perturbation of the threat that makes each sample's margin least.

    Parameters
    ----------
    X, y, coef, intercept, threat
        As in `robust_margins`.

    Returns
    -------
    array of shape (n, d)
    """
    radius = radius_of(threat)

    def worst_rival(scores: np.ndarray, y: np.ndarray, norms: np.ndarray) -> np.ndarray:
        return _rival_margins(scores, y, norms, radius).argmin(axis=1)

    rival = by_blocks(worst_rival, X, y, coef, intercept, rival_norms(coef, threat))
    coef = _class_coef(coef)
    return -threat.worst(coef[y] - coef[rival])
