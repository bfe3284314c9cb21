"""Robust separation as ordinary separation in a mixed norm."""

from __future__ import annotations

from typing import Any

import numpy as np

from sklearn_robust._parameters import refuse_lazy
from sklearn_robust.separators import min_norm_separator


def mixed_norm_weight(
    X: Any,
    y: Any,
    *,
    p: float,
    q: float,
    eps: float,
    fit_intercept: bool = False,
    tol: float = 1e-8,
) -> float:
    r"""The weight of the penalty that an adversary of radius eps stands for.

    The robust separator of least p-norm has the direction of

    .. math:: \min_{w, b} \|w\|_p + \lambda \|w\|_{q^*} \quad \text{subject to} \quad y_i (\langle
       w, x_i\rangle + b) \ge 1,
        \qquad \lambda(\epsilon) = \frac{\epsilon}{\gamma_p(\epsilon)},

    with :math:`\gamma_p(\epsilon)` the largest robust margin over the p-norm of w.

    Parameters
    ----------
    X, y, p, q, eps, fit_intercept, tol
        As in `sklearn_robust.min_norm_separator`, for two classes.

    Returns
    -------
    float
        lambda: 0 at eps = 0, increasing, unbounded as eps tends to the largest separable radius.
        Known up to the certified relative gap `tol` of the margin.

    Raises
    ------
    NotSeparableError
        If no robust separator exists.
    ValueError
        For several classes: every pair has a penalty of its own there, and no norm of W holds them.

    Notes
    -----
    The paper proves that some weight exists [1]_, Remark 4.4 and eq. 13. Why it is this one: let w
    have least p-norm among the robust separators, :math:`\|w\|_p = 1/\gamma`, and let a be its dual
    weights, of sum 1, so that :math:`Z^T a` lies in the p*-norm at distance :math:`\gamma` from the
    q-ball of radius eps, Z the signed rows. Then :math:`a / \gamma` is feasible in the dual of the
    mixed problem and proves the value :math:`1/\gamma`, which :math:`w / (1 + \epsilon
    \|w\|_{q^*})` attains.

    References
    ----------
    .. [1] N. Tsilivis, N. Frank, N. Srebro, J. Kempe. The price of implicit bias in adversarially
       robust generalization.
       NeurIPS 2024.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_robust.theory import mixed_norm_weight
    >>> X, y = np.array([[3.0, 1.0], [-3.0, 1.0]]), np.array([1, -1])
    >>> [round(mixed_norm_weight(X, y, p=2, q=np.inf, eps=eps), 3) for eps in (0.0, 1.0, 2.0, 2.9)]
    [0.0, 0.5, 2.0, 29.0]
    """
    refuse_lazy(y=y)
    n_classes = len(np.unique(np.asarray(y)))
    if n_classes > 2:
        raise ValueError(
            f"y must hold two classes, got {n_classes}: no mixed norm stands for the adversary of "
            "several classes. Take the samples of two of them."
        )
    return float(
        eps
        / min_norm_separator(X, y, p=p, q=q, eps=eps, fit_intercept=fit_intercept, tol=tol).margin
    )
