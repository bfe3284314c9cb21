r"""Prediction sets of linear classifiers that hold the true class in spite of an adversary.

For scores :math:`f_k(x) = \langle w_k, x\rangle + b_k` the nonconformity of class y is :math:`s(x,
y) = \max_{k \ne y} f_k(x) - f_y(x)`. Of n clean samples that the classifier was not fitted on, let
:math:`\hat q` be the :math:`\lceil (n + 1)(1 - \alpha) \rceil`-th smallest :math:`s(x_i, y_i)`. The
robust set of an input x is

.. math:: \{ y : f_k(x) - f_y(x) - \epsilon \|s (w_k - w_y)\|_{q^*} \le \hat q \text{ for all } k
   \ne y \}.

**Coverage.** For an exchangeable sample :math:`(x_0, y)` the inequality :math:`s(x_0, y) \le \hat
q` holds with probability :math:`1 - \alpha` at least. Each difference :math:`f_k - f_y` moves by
:math:`\epsilon \|s (w_k - w_y)\|_{q^*}` at most between :math:`x_0` and any x of its ball: y is in
the set of every such x. For two classes the set is the smallest with this property.

The threat is an l_q ball.
"""

from __future__ import annotations

import math
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator

from sklearn_robust._documentation import see
from sklearn_robust._parameters import check_exponent, check_number
from sklearn_robust.attacks.linear import class_scores, rival_norms
from sklearn_robust.metrics.linear_view import linear_view
from sklearn_robust.threats import LpBall, check_radius


class RobustConformalSets:
    r"""Prediction sets of a fitted linear classifier, by split conformal prediction.

    Parameters
    ----------
    estimator : fitted linear classifier
        As in `robust_accuracy_score`. In a pipeline the adversary moves what the last step sees.
    confidence_level : float, default=0.9
        The probability :math:`1 - \alpha`, in (0, 1), with which the sets hold the true class.
    eps : float
        Radius of the perturbation.
    q : float, default=inf
        Exponent of the norm that bounds the perturbation, in [1, inf].
    scale : array-like of shape (n_features,) or dict {feature name: float}, optional
        As in `robust_accuracy_score`.

    Attributes
    ----------
    threshold_ : float
        The :math:`\hat q` of `conformalize`; inf where there are too few samples for the level.
    classes_ : ndarray of shape (n_classes,)

    Notes
    -----
    Clean calibration and sets widened by the exact shift of linear scores: nothing is sampled, as
    randomised smoothing does it for other scores. The set may be empty, where no class conforms.

    Examples
    --------
    >>> from sklearn.datasets import load_breast_cancer
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.preprocessing import scale
    >>> from sklearn_robust.conformal import RobustConformalSets
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> X = scale(X)
    >>> model = LogisticRegression().fit(X[:200], y[:200])
    >>> sets = RobustConformalSets(model, eps=0.3).conformalize(X[200:400], y[200:400])
    >>> sets.predict_set(X[400:403])
    array([[ True, False],
           [False,  True],
           [False,  True]])
    """

    def __init__(
        self,
        estimator: BaseEstimator,
        *,
        confidence_level: float = 0.9,
        eps: float,
        q: float = math.inf,
        scale: Any = None,
    ) -> None:
        check_number(confidence_level, "confidence_level", low=0, strict=True)
        if confidence_level >= 1:
            raise ValueError(
                f"confidence_level must be below 1, got {confidence_level!r}: only the set of all "
                "classes is certain. Use 0.9."
            )
        self.estimator = estimator
        self.confidence_level = confidence_level
        self.eps = check_radius(eps, "eps")
        self.q = check_exponent(q, "q")
        LpBall(self.q, self.eps, scale)  # which refuses what is no scale
        self.scale = scale

    def __repr__(self) -> str:
        name, threat = type(self.estimator).__name__, LpBall(self.q, self.eps, self.scale)
        level = f"confidence_level={self.confidence_level:g}"
        known = f", threshold_={self.threshold_:.4g}" if hasattr(self, "threshold_") else ""
        return f"RobustConformalSets({name}, {level}, threat={threat!r}{known})"

    def conformalize(self, X: Any, y: Any) -> Self:
        """Set the threshold from clean samples that the classifier was not fitted on.

        Parameters
        ----------
        X : array-like or sparse array of shape (n_samples, n_features)
        y : array-like of shape (n_samples,)
            Labels, each one of the classifier's.

        Returns
        -------
        self
        """
        view = linear_view(self.estimator, X, "model")
        index = view.seen_class_index(y)
        own = self._nonconformity(view, 0.0)[np.arange(len(index)), index]
        rank = math.ceil((len(own) + 1) * self.confidence_level)
        self.threshold_ = math.inf if rank > len(own) else float(np.sort(own)[rank - 1])
        self.classes_ = view.classes
        return self

    def predict_set(self, X: Any) -> np.ndarray:
        """The robust sets of inputs that an adversary may have moved.

        Parameters
        ----------
        X : array-like or sparse array of shape (n_samples, n_features)

        Returns
        -------
        bool array of shape (n_samples, n_classes)
            Which classes are in the set, in the order of `classes_`.
        """
        if not hasattr(self, "threshold_"):
            raise ValueError(
                "There is no threshold yet: call conformalize first, with samples that the "
                "classifier was not fitted on. "
                f"{see('guide/proofs', 'sets-that-hold-the-true-class')}"
            )
        view = linear_view(self.estimator, X, "model")
        return self._nonconformity(view, self.eps) <= self.threshold_

    def _nonconformity(self, view: Any, eps: float) -> np.ndarray:
        """The least nonconformity of each class in the ball of this radius, (n, K)."""
        scores = class_scores(view.X, view.coef, view.intercept)
        norms = rival_norms(view.coef, view.ball(self.q, 1.0, self.scale))
        found = np.empty_like(scores)
        for k in range(scores.shape[1]):
            leads = scores - scores[:, [k]] - eps * norms[k]
            leads[:, k] = -math.inf
            found[:, k] = leads.max(axis=1)
        return found
