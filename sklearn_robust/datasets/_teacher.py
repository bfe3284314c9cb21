"""Data labelled by a linear teacher, as in the experiments of the paper."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils import check_array, check_random_state

from sklearn_robust._parameters import check_choice, check_number


def make_teacher_classification(
    n_samples: int = 100,
    n_features: int = 512,
    *,
    teacher_sparsity: int | None = None,
    data_sparsity: int | None = None,
    teacher: np.ndarray | None = None,
    ties: str = "redraw",
    return_teacher: bool = False,
    random_state: Any = None,
) -> tuple[np.ndarray, ...]:
    """Samples labelled by the sign of <w*, x>, for dense or sparse teachers w* and samples x.

    A dense vector has independent N(0, 1) entries. A k-sparse one has independent entries in {-1,
    0, 1} with probabilities k/2d, 1 - k/d, k/2d, so k non-zero entries on average; all-zero vectors
    are redrawn. Teacher and samples come from independent random streams.

    Parameters
    ----------
    n_samples : int, default=100
    n_features : int, default=512
        d above.
    teacher_sparsity : int, optional
        k of the teacher; None is dense.
    data_sparsity : int, optional
        k of the samples; None is dense.
    teacher : array of shape (n_features,), optional
        Label by this teacher instead of drawing one. Draw a test set with the teacher of the
        training set and another random_state.
    ties : {"redraw", "negative"}, default="redraw"
        What to do with samples on the teacher's hyperplane, <w*, x> = 0: draw them again, or label
        them -1.
    return_teacher : bool, default=False
    random_state : int, RandomState instance or None, default=None

    Returns
    -------
    X : ndarray of shape (n_samples, n_features)
    y : ndarray of shape (n_samples,)
        Labels in {-1, 1}.
    teacher : ndarray of shape (n_features,)
        Only with return_teacher=True.

    Notes
    -----
    The four distributions of Tsilivis et al. 2024, section 5.1 and appendix F.1. With sparse
    teacher and sparse data most samples are ties, so the rule for them decides what the task is.

    Examples
    --------
    >>> from sklearn_robust.datasets import make_teacher_classification
    >>> X, y, teacher = make_teacher_classification(
    ...     64, 512, teacher_sparsity=4, return_teacher=True, random_state=0
    ... )
    >>> X_test, y_test = make_teacher_classification(1000, 512, teacher=teacher, random_state=1)
    >>> X.shape, X_test.shape
    ((64, 512), (1000, 512))
    """
    check_number(n_samples, "n_samples", low=1, integer=True)
    check_number(n_features, "n_features", low=1, integer=True)
    check_choice(ties, "ties", ("redraw", "negative"))
    for name, sparsity in (
        ("teacher_sparsity", teacher_sparsity),
        ("data_sparsity", data_sparsity),
    ):
        if sparsity is not None:
            check_number(sparsity, name, low=1, integer=True)
            if sparsity > n_features:
                raise ValueError(
                    f"{name} must be at most n_features={n_features}, got {sparsity}. Use None for "
                    f"dense vectors."
                )
    if teacher is not None and teacher_sparsity is not None:
        raise ValueError(
            f"teacher_sparsity={teacher_sparsity} is for a teacher that is drawn. Use None where "
            f"teacher is given."
        )
    seeds = check_random_state(random_state).randint(np.iinfo(np.int32).max, size=2)
    teacher_stream, data_stream = (
        np.random.default_rng(seed) for seed in np.random.SeedSequence(seeds.tolist()).spawn(2)
    )
    if teacher is None:
        teacher = _without_zero_rows(teacher_stream, 1, n_features, teacher_sparsity)[0]
    teacher = check_array(
        teacher,
        dtype=float,
        ensure_2d=False,
        allow_nd=True,
        ensure_min_samples=0,
        input_name="teacher",
    )
    if teacher.shape != (n_features,) or not teacher.any():
        raise ValueError(
            f"teacher must be a non-zero vector of shape ({n_features},), got shape "
            f"{teacher.shape}."
        )

    if ties == "redraw":
        X = _without_ties(data_stream, n_samples, teacher, data_sparsity)
    else:
        X = _without_zero_rows(data_stream, n_samples, n_features, data_sparsity)
    y = np.where(X @ teacher > 0, 1, -1)
    return (X, y, teacher) if return_teacher else (X, y)


def _without_ties(
    stream: np.random.Generator, n: int, teacher: np.ndarray, sparsity: int | None
) -> np.ndarray:
    """n vectors, none of them on the teacher's hyperplane."""
    X = _entries(stream, n, len(teacher), sparsity)
    # ties depend on these entries alone, and only they are drawn again
    support = np.flatnonzero(teacher)
    tied = np.arange(n)
    while (tied := tied[X[tied[:, None], support] @ teacher[support] == 0]).size:
        X[tied[:, None], support] = _entries(
            stream, tied.size, support.size, sparsity, share_of=len(teacher)
        )
    return X


def _without_zero_rows(
    stream: np.random.Generator, n: int, d: int, sparsity: int | None
) -> np.ndarray:
    """n vectors, dense or sparse, none of them zero."""
    X = _entries(stream, n, d, sparsity)
    while (empty := np.flatnonzero(~X.any(axis=1))).size:
        X[empty] = _entries(stream, empty.size, d, sparsity)
    return X


def _entries(
    stream: np.random.Generator, n: int, d: int, sparsity: int | None, share_of: int | None = None
) -> np.ndarray:
    """Independent entries: normal, or non-zero signs with probability sparsity / share_of (d by
    default).
    """
    if sparsity is None:
        return stream.standard_normal((n, d))
    share = sparsity / (share_of or d)
    uniform = stream.random((n, d))
    return (uniform >= 1 - share / 2).astype(float) - (uniform < share / 2)
