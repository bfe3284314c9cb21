r"""The exact attack on a linear classifier, for two and for several classes.

Scores are :math:`f_k(x) = \langle w_k, x\rangle + b_k`. The adversary picks one rival class, so the
robust margin of (x, y) is

.. math:: \min_{k \ne y}\; f_y(x) - f_k(x) - \epsilon \|w_y - w_k\|_{q^*},

exactly, with :math:`\|s (w_y - w_k)\|_{q^*}` where features have scales s, and with the support
function :math:`\sigma(w_k - w_y)` of the sample's set in place of the penalty against another
threat. (x, y) is robustly classified if and only if the margin is positive. Two classes are scored
by one function f, as in scikit-learn: f > 0 is the second class, and the scores are (0, f).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.utils.extmath import safe_sparse_dot

from sklearn_robust.attacks.rivals import Rivals, least_broken, slices
from sklearn_robust.threats import LpBall, Threat

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
    yield from slices(max(n_rows, 1), max(1, _BLOCK_SCORES // n_classes))


def by_blocks(
    figure: Callable[[np.ndarray, np.ndarray, slice], np.ndarray],
    X: Any,
    y: np.ndarray | None,
    coef: np.ndarray,
    intercept: np.ndarray,
) -> np.ndarray:
    """A figure of each sample, or a row of figures, from the scores of a block of rows at a time.

    Parameters
    ----------
    figure : callable
        From scores (m, K), classes (m,) and the rows to m figures.
    X : array or sparse array of shape (n, d)
    y : int array of shape (n,) or None
        Index of the class; the predicted one if None.
    coef : array of shape (K, d), or (1, d) for two classes
    intercept : array of shape (K,) or (1,)

    Returns
    -------
    array of shape (n,)
    """
    if sparse.issparse(X):
        X = X.tocsr()
    figures = []
    for rows in row_blocks(X.shape[0], max(len(coef), 2)):
        scores = class_scores(X[rows], coef, intercept)
        classes = scores.argmax(axis=1) if y is None else y[rows]
        figures.append(figure(scores, classes, rows))
    return np.concatenate(figures)


def rival_norms(coef: np.ndarray, threat: Threat) -> np.ndarray:
    r"""||s (w_j - w_k)||_q* of each pair of classes, whatever the radius of the ball; of another
    threat, which is one set for all samples, its support function :math:`\sigma(w_k - w_j)`.

    Parameters
    ----------
    coef : array of shape (K, d), or (1, d) for two classes
    threat : Threat

    Returns
    -------
    array of shape (K, K)
    """
    return Rivals(coef, threat).norms


def _leads(scores: np.ndarray, y: np.ndarray) -> np.ndarray:
    """f_y - f_k of each sample and class."""
    with np.errstate(invalid="ignore"):  # a threshold that is never reached is an infinite score
        return scores[np.arange(len(scores)), y][:, None] - scores


def _left(leads: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """The leads less what is taken of them; of infinite ones no set takes any."""
    with np.errstate(invalid="ignore"):
        return np.where(leads < math.inf, leads - taken, leads)


def least_margins(scores: np.ndarray, y: np.ndarray, rows: slice, rivals: Rivals) -> np.ndarray:
    """Robust margin of each sample, from its scores.

    Parameters
    ----------
    scores : array of shape (n, K)
    y : int array of shape (n,)
        Index of the true class.
    rows : slice
        The rows that these samples are among those of the rivals.
    rivals : Rivals
        What the threat takes from the leads.

    Returns
    -------
    array of shape (n,)
    """
    return _rival_margins(scores, y, rows, rivals).min(axis=1)


def _rival_margins(scores: np.ndarray, y: np.ndarray, rows: slice, rivals: Rivals) -> np.ndarray:
    """Robust margin of each sample over each rival class, of shape (n, K); inf for its own."""
    margins = _left(_leads(scores, y), rivals.taken(rows, y, rivals.radius(rows, y)))
    margins[np.arange(len(scores)), y] = math.inf
    return margins


def unbroken(scores: np.ndarray, y: np.ndarray, rows: slice, rivals: Rivals) -> np.ndarray:
    """Which samples, if they are predicted right, no perturbation moves out of their class.

    Parameters
    ----------
    scores, y, rows, rivals
        As in `least_margins`.

    Returns
    -------
    bool array of shape (n,)
        Whether the robust margin is positive; at radius 0 a tie is not broken.
    """
    radius = rivals.radius(rows, y)
    if rivals.outer is None:
        return (least_margins(scores, y, rows, rivals) > 0) | (radius == 0)
    # what sets without limits take decides most samples, and the nearest rival most of the others
    leads = _leads(scores, y)
    leads[np.arange(len(scores)), y] = math.inf
    margins = _left(leads, rivals.outer.taken(rows, y, radius))
    open_ = (margins <= 0) & np.all(leads > 0, axis=1, keepdims=True)
    nearest = np.zeros_like(open_)
    nearest[np.arange(len(scores)), margins.argmin(axis=1)] = True
    lost = ~(leads > 0) | rivals.lost(rows, y, radius, leads, open_ & nearest)
    open_ &= ~nearest & ~np.any(lost, axis=1, keepdims=True)
    lost |= rivals.lost(rows, y, radius, leads, open_)
    return ~lost.any(axis=1) | (radius == 0)


def worst_moves(scores: np.ndarray, y: np.ndarray, rows: slice, rivals: Rivals) -> np.ndarray:
    """The perturbation that makes each sample's margin least, in the space of the threat.

    Parameters
    ----------
    scores, y, rows, rivals
        As in `least_margins`.

    Returns
    -------
    array of shape (n, d)
        In the set of each sample: categories, numbers of changes and limits are kept. Where the
        set has no bound and the margin no least value, a point far along the ray, at which the
        margin has turned into twice its negative.
    """
    rival = _rival_margins(scores, y, rows, rivals).argmin(axis=1)
    leads = _leads(scores, y)[np.arange(len(y)), rival]
    return rivals.worst(rows, y, rival, leads)


def boundary_distances(
    scores: np.ndarray, y: np.ndarray, rows: slice, rivals: Rivals
) -> np.ndarray:
    """Distance of each sample to the boundary of the region of class y, from its scores: the factor
    on the set.

    Parameters
    ----------
    scores, y, rows, rivals
        As in `least_margins`.

    Returns
    -------
    array of shape (n,)
        Negative outside of the region; inf where no rival can ever win, -inf where y never can, 0
        at a tie.
    """
    leads = _leads(scores, y)
    if rivals.per_sample:
        return _factors(leads, y, rows, rivals)
    norms = rivals.unit_taken(rows, y)
    if (leads < 0).any():
        norms = np.where(leads < 0, rivals.unit_taken(rows, y, back=True), norms)
    with np.errstate(divide="ignore", invalid="ignore"):
        where_none = np.where(leads == 0, 0, np.copysign(math.inf, leads))
        distances = np.where((norms > 0) & np.isfinite(leads), leads / norms, where_none)
    distances[np.arange(len(scores)), y] = math.inf
    return distances.min(axis=1)


def _factors(leads: np.ndarray, y: np.ndarray, rows: slice, rivals: Rivals) -> np.ndarray:
    """The distances where the sets depend on the sample, and not linearly on their radius."""
    own = np.arange(len(y)), y
    outside = (np.where(np.isnan(leads), 0, leads) < 0).any(axis=1)

    def reached(radius: np.ndarray) -> np.ndarray:
        taken = rivals.taken(rows, y, radius)
        lost = leads - taken <= 0
        lost[own] = False
        if not outside.any():
            return lost.any(axis=1)
        won = leads + rivals.taken(rows, y, radius, back=True) >= 0
        won[own] = True
        return np.where(outside, won.all(axis=1), lost.any(axis=1))

    factors = least_broken(reached, len(y))
    return np.where(outside, -factors, factors)


def robust_margins(
    X: Any,
    y: np.ndarray,
    coef: np.ndarray,
    intercept: np.ndarray,
    threat: Threat,
    *,
    classes: Any = None,
    sample_radius: np.ndarray | None = None,
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
        Bound to the d features.
    classes : sequence of K labels, optional
        Those that a threat of some classes names; by default their indices.
    sample_radius : array of shape (n,), optional
        The factor on the set of each sample.

    Returns
    -------
    array of shape (n,)
        Positive exactly where no perturbation of the threat changes the decision away from y. A tie
        counts as broken.
    """
    rivals = Rivals(coef, threat, classes, X, sample_radius)
    return by_blocks(partial(least_margins, rivals=rivals), X, y, coef, intercept)


def robustly_correct(
    X: Any,
    y: np.ndarray,
    coef: np.ndarray,
    intercept: np.ndarray,
    threat: Threat,
    *,
    classes: Any = None,
    sample_radius: np.ndarray | None = None,
) -> np.ndarray:
    """Which samples no perturbation of the threat moves out of their class.

    Parameters
    ----------
    X, coef, intercept, threat, classes, sample_radius
        As in `robust_margins`.
    y : int array of shape (n,)
        Index of the true class of each sample; -1 for a class that is none of the classifier's.

    Returns
    -------
    bool array of shape (n,)
        At radius 0 a tie is what predict makes of it, the first of the classes with the largest
        score; at a larger one it counts as broken.
    """
    rivals = Rivals(coef, threat, classes, X, sample_radius)

    def figure(scores: np.ndarray, y: np.ndarray, rows: slice) -> np.ndarray:
        return (scores.argmax(axis=1) == y) & unbroken(scores, y, rows, rivals)

    return by_blocks(figure, X, y, coef, intercept)


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
    rivals = Rivals(coef, LpBall(q, 1.0, scale))
    return by_blocks(partial(boundary_distances, rivals=rivals), X, y, coef, intercept)


def worst_case_perturbations(
    X: Any,
    y: np.ndarray,
    coef: np.ndarray,
    intercept: np.ndarray,
    threat: Threat,
    *,
    classes: Any = None,
    sample_radius: np.ndarray | None = None,
) -> np.ndarray:
    """The perturbation of the threat that makes each sample's margin least.

    Parameters
    ----------
    X, y, coef, intercept, threat, classes, sample_radius
        As in `robust_margins`.

    Returns
    -------
    array of shape (n, d)
        As of `worst_moves`.
    """
    rivals = Rivals(coef, threat, classes, X, sample_radius)
    return by_blocks(partial(worst_moves, rivals=rivals), X, y, coef, intercept)
