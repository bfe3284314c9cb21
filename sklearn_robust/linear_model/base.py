"""The parts that linear robust classifiers share: solution, prediction, exact robustness.

A linear estimator derives from `RobustLinearMixin`, and from `ProbabilityMixin` where its loss has
probabilities. `scale_` is that of an l_q ball, and None for another threat.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.sparse import issparse
from sklearn.base import ClassifierMixin
from sklearn.linear_model._base import SparseCoefMixin
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted, validate_data

from sklearn_robust._glance import DiagramMixin
from sklearn_robust._parameters import (
    check_exponent,
    is_training,
    read_scale,
    refuse_lazy,
)
from sklearn_robust.attacks.linear import class_scores, row_blocks
from sklearn_robust.callbacks import CallbackSupportMixin
from sklearn_robust.linear_model.certificate import CertificateMixin
from sklearn_robust.losses import MarginLoss, class_log_probabilities, has_probabilities, log_odds
from sklearn_robust.metrics import (
    certified_radius,
    robust_accuracy_score,
    worst_case_samples,
)
from sklearn_robust.rows import BlockRows
from sklearn_robust.solvers import Solution
from sklearn_robust.threats import LpBall, Threat


def dense(coef: Any) -> np.ndarray:
    """Coefficients as a dense array, after `sparsify` too."""
    return coef.toarray() if issparse(coef) else coef


def store_solution(estimator: RobustLinearMixin, solution: Solution) -> None:
    """The attributes of a fitted estimator, from the solution of its problem."""
    names = ("coef", "intercept", "n_iter", "log_risk", "margin", "margin_bound", "gap")
    fitted = estimator._fitted(**{name: getattr(solution, name) for name in names})
    for name, value in fitted.items():
        setattr(estimator, name, value)
    (estimator.separable_,) = solution.separable


class RobustLinearMixin(
    CertificateMixin, DiagramMixin, CallbackSupportMixin, SparseCoefMixin, ClassifierMixin
):
    """Prediction, exact robustness and worst-case points, from the fitted coefficients."""

    _reports_its_path = True  # to a PathRecorder
    _reads_blocks = False  # whether fit takes BlockRows, and samples of weight zero in its problem

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        # torch computes on dense data
        tags.input_tags.sparse = getattr(self, "device", None) is None
        return tags

    def _fitted(
        self,
        *,
        coef: np.ndarray,
        intercept: np.ndarray,
        n_iter: np.ndarray,
        gap: np.ndarray,
        **figures: Any,
    ) -> dict[str, Any]:
        """Attributes by name, from the coefficients (1, d) of two classes or (1, K, d), and figures
        (1,).
        """
        joint = coef.ndim == 3
        return {
            "coef_": coef[0] if joint else coef,
            "intercept_": intercept[0] if joint else intercept,
            "n_iter_": np.maximum(n_iter, 1).item(),
            "dual_gap_": np.maximum(gap, 0).item(),  # below zero only by rounding
            **{f"{name}_": value.item() for name, value in figures.items()},
        }

    def decision_function(self, X: Any) -> np.ndarray:
        """Scores <w, x> + b.

        Parameters
        ----------
        X : array-like or sparse array of shape (n_samples, n_features), or BlockRows

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_classes)
            Two classes: positive means the second class of `classes_`.
        """
        if isinstance(X, BlockRows):
            return X.map_blocks(self.decision_function)
        scores = class_scores(self._validated(X), self.coef_, self.intercept_)
        return scores[:, 1] if self.coef_.shape[0] == 1 else scores

    def _validated(self, X: Any) -> Any:
        """Samples like those of the fit, as an array or a sparse array by rows."""
        check_is_fitted(self)
        refuse_lazy(X=X)
        return validate_data(
            self, X, accept_sparse="csr", dtype=(np.float64, np.float32), reset=False
        )

    def predict(self, X: Any) -> np.ndarray:
        """Predict class labels.

        Parameters
        ----------
        X : array-like or sparse array of shape (n_samples, n_features), or BlockRows

        Returns
        -------
        ndarray of shape (n_samples,)
        """
        if isinstance(X, BlockRows):
            return X.map_blocks(self.predict)
        X = self._validated(X)
        labels = np.empty(X.shape[0], self.classes_.dtype)
        for rows in row_blocks(X.shape[0], len(self.classes_)):
            scores = class_scores(X[rows], self.coef_, self.intercept_)
            labels[rows] = self.classes_[scores.argmax(axis=1)]
        return labels

    def robust_score(
        self,
        X: Any,
        y: Any = None,
        sample_weight: Any = None,
        *,
        eps: float | None = None,
        q: float | None = None,
        scale: Any = "training",
        threat: Threat | None = None,
        clip: Any = "training",
        sample_radius: Any = None,
    ) -> float:
        """Exact robust accuracy: the fraction of samples right under every perturbation.

        Parameters
        ----------
        X : array-like or sparse array of shape (n_samples, n_features), or BlockRows
        y : array-like of shape (n_samples,)
            None for BlockRows, which hold labels and weights.
        sample_weight : array-like of shape (n_samples,), optional
        eps, q : float, optional
            The threat; that of training by default.
        scale : "training", None, array-like of shape (n_features,) or dict, default="training"
            How far the adversary can move each feature, as in training by default; None moves all
            alike.
        threat : Threat, optional
            An object in place of eps, q, scale and clip.
        clip : "training", None or pair (low, high), default="training"
            Limits of the data, as in training by default; None has no limits.
        sample_radius : array-like of shape (n_samples,), optional
            Factors >= 0 on the set of each sample.

        Returns
        -------
        float
        """
        check_is_fitted(self)
        threat = self._threat(threat, eps, q, scale, clip)
        return robust_accuracy_score(
            self, X, y, threat=threat, sample_weight=sample_weight, sample_radius=sample_radius
        )

    def certified_radius(
        self,
        X: Any,
        y: Any = None,
        *,
        q: float | None = None,
        scale: Any = "training",
        threat: Threat | None = None,
        clip: Any = "training",
    ) -> np.ndarray:
        """l_q distance of each sample to the decision boundary.

        With y it is negative where the prediction is wrong. Against a threat that is no l_q ball it
        is the factor by which the set can grow before it changes the decision.

        Parameters
        ----------
        X : array-like or sparse array of shape (n_samples, n_features)
        y : array-like of shape (n_samples,), optional
        q : float, optional
            Exponent of the norm; that of training by default.
        scale : "training", None, array-like of shape (n_features,) or dict, default="training"
            How far the adversary can move each feature, as in training by default; None moves all
            alike.
        threat : Threat, optional
            An object in place of q, scale and clip.
        clip : "training", None or pair (low, high), default="training"
            Limits of the data, as in training by default; None has no limits.

        Returns
        -------
        ndarray of shape (n_samples,)
            inf where only features that the adversary cannot touch have coefficients.
        """
        check_is_fitted(self)
        threat = self._threat(threat, None, q, scale, clip, radius=1.0)
        return certified_radius(self, X, y, threat=threat)

    def perturb(
        self,
        X: Any,
        y: Any,
        *,
        eps: float | None = None,
        q: float | None = None,
        scale: Any = "training",
        threat: Threat | None = None,
        clip: Any = "training",
        sample_radius: Any = None,
    ) -> np.ndarray:
        """The worst-case points: each sample moved by the perturbation that makes its margin least.

        Parameters
        ----------
        X : array-like or sparse array of shape (n_samples, n_features)
        y : array-like of shape (n_samples,)
            True labels, each one of `classes_`.
        eps, q : float, optional
            The threat; that of training by default.
        scale : "training", None, array-like of shape (n_features,) or dict, default="training"
            How far the adversary can move each feature, as in training by default; None moves all
            alike.
        threat : Threat, optional
            An object in place of eps, q, scale and clip.
        clip : "training", None or pair (low, high), default="training"
            Limits of the data, as in training by default; None has no limits.
        sample_radius : array-like of shape (n_samples,), optional
            Factors >= 0 on the set of each sample.

        Returns
        -------
        ndarray of shape (n_samples, n_features)
            Dense, whatever X is. They are in the set of each sample: categories, limits and
            relations are kept. Without a bound on the set they lie far along its ray.
        """
        check_is_fitted(self)
        threat = self._threat(threat, eps, q, scale, clip)
        return worst_case_samples(self, X, y, threat=threat, sample_radius=sample_radius)

    def _threat(
        self,
        threat: Threat | None,
        eps: float | None,
        q: float | None,
        scale: Any,
        clip: Any,
        radius: float | None = None,
    ) -> Threat:
        """The threat given, as an object or as a ball; by default that of training.

        `radius` is that of a ball where neither eps nor the threat of training has one.
        """
        as_trained = is_training(scale) and is_training(clip)
        given = eps is not None or q is not None or not as_trained
        if threat is not None:
            if given:
                raise ValueError(
                    f"threat takes the place of eps, q and scale, and of clip, got "
                    f"threat={threat!r} beside eps={eps!r}, q={q!r}, scale={scale!r} and "
                    f"clip={clip!r}. Leave out one or the others."
                )
            return threat
        trained = self.threat_
        if not given:
            return trained
        ball = trained if isinstance(trained, LpBall) else None
        if ball is not None:
            eps = ball.eps if eps is None else eps
            q = ball.q if q is None else q
        else:
            eps = radius if eps is None else eps
        missing = [name for name, value in (("eps", eps), ("q", q)) if value is None]
        if missing:
            raise ValueError(
                f"{' and '.join(missing)} must be given for an l_q ball, which the threat of "
                f"training, {type(trained).__name__}, is not."
            )
        if is_training(scale):
            scale = None if ball is None else ball.scale
        else:
            scale = self._read_scale(scale)
        if is_training(clip):
            clip = None if ball is None else ball.clip
        return LpBall(check_exponent(q, "q"), eps, scale, clip)

    def _read_scale(self, scale: Any) -> np.ndarray | None:
        """The scale of each feature of the fit."""
        return read_scale(scale, self.n_features_in_, getattr(self, "feature_names_in_", None))


def loss_has_probabilities(estimator: Any) -> bool:
    """Whether the loss of the fit, or before a fit that of the parameter, has probabilities."""
    loss = getattr(estimator, "_loss", estimator.loss)
    return isinstance(loss, str) or has_probabilities(loss)


class ProbabilityMixin:
    """Class probabilities under the loss of the fit, from the decision function."""

    _loss: MarginLoss
    decision_function: Callable[[Any], np.ndarray]

    @available_if(loss_has_probabilities)  # type: ignore[untyped-decorator]
    def predict_proba(self, X: Any) -> np.ndarray:
        """Class probabilities under the loss.

        Those of the second of two classes are sigmoid(f) for the logistic loss and sigmoid(2 f) for
        the exponential, those of several classes softmax(f) and softmax(2 f). There is no such
        method with a loss that has no probabilities.

        Parameters
        ----------
        X : array-like or sparse array of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
        """
        return np.exp(self.predict_log_proba(X))

    @available_if(loss_has_probabilities)  # type: ignore[untyped-decorator]
    def predict_log_proba(self, X: Any) -> np.ndarray:
        r"""Logarithms of the class probabilities.

        They are finite even where a probability is 0 or 1 in floating point. With r(f) the log-odds
        under the loss, f for the logistic and 2 f for the exponential, two classes have :math:`\log
        \sigma(\mp r) = -\log(1 + e^{\pm r})`. Several classes have the probabilities under which
        their scores minimise the risk of a sample, proportional to :math:`\pi_k (1 - \pi_k) /
        (-\ell'(\operatorname{logit} \pi_k))` with :math:`\pi = \operatorname{softmax}(f)`.

        Parameters
        ----------
        X : array-like or sparse array of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
        """
        scores = self.decision_function(X)
        if scores.ndim == 1:
            odds = log_odds(self._loss, scores)
            return -np.logaddexp(0, np.column_stack([odds, -odds]))
        return class_log_probabilities(self._loss, scores)
