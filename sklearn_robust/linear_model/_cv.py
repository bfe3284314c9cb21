"""The robust linear classifier with its geometry and training radius chosen by cross-validation.

The scoring threat is an l_q ball, or a set whose multiples train.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from joblib import Parallel, delayed
from sklearn.base import BaseEstimator, clone
from sklearn.model_selection import check_cv
from sklearn.utils import indexable
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import validate_data

from sklearn_robust._documentation import see
from sklearn_robust._fits import all_or_nothing
from sklearn_robust._parameters import (
    check_choice,
    check_exponent,
    check_number,
    check_radii,
    check_sample_weight,
    refuse_lazy,
)
from sklearn_robust.callbacks import FitCallbacks, with_callbacks
from sklearn_robust.linear_model._folds import (
    check_folds,
    cross_validate,
    data_of,
    for_splitter,
    results_of,
)
from sklearn_robust.linear_model._path import check_geometries, warn_of_cells
from sklearn_robust.linear_model._radii import choose_radii
from sklearn_robust.linear_model._robust_linear import RobustLinearClassifier
from sklearn_robust.linear_model.base import ProbabilityMixin, RobustLinearMixin
from sklearn_robust.linear_model.block_rows import read_block_rows
from sklearn_robust.linear_model.reading import read_problem
from sklearn_robust.losses import MarginLoss
from sklearn_robust.metrics import make_robust_scorer
from sklearn_robust.rows import BlockRows
from sklearn_robust.threats import (
    LpBall,
    Threat,
    bound_threat,
    check_is_threat,
    check_radius,
    check_sample_radius,
)

_AUTO_RADII = 8
_AUTO_FACTORS = 0.25, 2.0  # the least and the largest factor on a threat
_FITTED = (
    "_loss",
    "coef_",
    "intercept_",
    "classes_",
    "n_iter_",
    "separable_",
    "log_risk_",
    "margin_",
    "margin_bound_",
    "dual_gap_",
)


class RobustLinearClassifierCV(ProbabilityMixin, RobustLinearMixin, BaseEstimator):
    """`RobustLinearClassifier` with p_algo and eps chosen by cross-validation.

    The choice, and the scores, are those of `GridSearchCV` over p_algo and eps with
    ``make_robust_scorer(eps=threat_eps, q=threat_q)``, in a fraction of the time: all candidates of
    a fold are solved together.

    Parameters
    ----------
    p_algo : float, {"spectral", "nuclear"} or sequence of these, default=(1, 2, inf)
        Geometries to choose from.
    q_pert : float, default=inf
        Exponent of the norm that bounds the perturbation in training, in [1, inf].
    eps : "auto", float or sequence of float, default="auto"
        Training radii to choose from. "auto" takes eight from the data: `training_radii`.
    threat_eps : float
        Radius of the adversary that scores the candidates; must be given. The classifier has to
        withstand it; it is no hyper-parameter, and the best training radius often differs from it.
    threat_q : float, default=None
        Exponent of the scoring adversary's norm; q_pert by default.
    cv : int, splitter or iterable of (train, test), default=5
        As in `GridSearchCV`: an integer counts stratified folds.
    refit : bool, default=True
        Whether to fit the chosen candidate on all data. With False there are scores, but no
        classifier.
    loss : {"exponential", "logistic"} or MarginLoss, default="exponential"
    solver : {"auto", "steepest_descent", "accelerated", "exact"}, default="auto"
    scale : array-like of shape (n_features,) or dict {feature name: float}, optional
        How far the adversary can move each feature, in training and in scoring alike; as in
        `RobustLinearClassifier`.
    clip : pair (low, high) of numbers or arrays of shape (n_features,), optional
        Limits of the data, in training and in scoring alike.
    threat : Threat, optional
        The set that scores, in place of threat_eps, threat_q, q_pert, scale and clip. Candidates
        train against eps times it, where "auto" is eight factors from 1/4 to 2: the classifier
        that is fitted at the end has the factor as its sample_radius.
    fit_intercept : bool, default=True
    step_size : {"adaptive", "paper"} or float, default="adaptive"
    max_iter : int, default=50000
    loss_tol : float, default=1e-3
    tol : float, default=1e-3
    class_weight : dict, "balanced" or None, default=None
        See `RobustLinearClassifier` for these parameters.
    n_jobs : int or None, default=None
        Parallel jobs over the folds.
    verbose : int, default=0
        0 prints nothing; otherwise a line for each fold, and the lines of `RobustLinearClassifier`
        for the refit.

    Attributes
    ----------
    cv_results_ : dict of str to array
        As in `GridSearchCV`: params, param_eps, param_p_algo, split0_test_score and so on,
        mean_test_score, std_test_score, rank_test_score, and the times of fits and scores.
        Candidates of a fold are solved together: each is given an equal part of that time.
    best_params_ : dict
    best_score_ : float
        Mean robust accuracy of the best candidate on the left-out folds.
    best_index_ : int
        The first of the best in the order of `cv_results_`, in which eps varies slowest.
    best_estimator_ : RobustLinearClassifier
        Fitted on all data; this and what follows only with refit=True.
    refit_time_ : float
        Seconds.
    scorer_ : callable
        `make_robust_scorer` with the threat.
    n_splits_ : int
    coef_, intercept_, classes_, n_iter_, separable_, log_risk_, margin_, margin_bound_, dual_gap_
        Those of `best_estimator_`.
    scale_ : ndarray of shape (n_features,) or None
        The scale of each feature.
    threat_ : LpBall
        The threat that scored the candidates, for a ball with `q`, `eps` and `scale`; that of
        training is `best_estimator_.threat_`.
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Defined only where X has feature names that are all strings.

    See Also
    --------
    RobustLinearClassifier : One candidate.
    robust_linear_path : All candidates on the same data.

    Notes
    -----
    `score` is the accuracy without an adversary; `robust_score`, without arguments, that under the
    scoring threat.

    Where the data of two classes are not separable, each minimiser of the risk starts from that at
    the next larger radius. It is certified to 1e-9 of the risk, as in a single fit: only a sample
    that close to the boundary may be scored differently. Several classes have one minimiser of the
    risk for all geometries, that of a single fit to the last digit.

    Time is saved at radii at which the data are not separable. At the others each candidate has its
    own path and separator, and takes the time of a single fit.

    In a pipeline, put the scaler before: it is then fitted once on the data of all folds. Where the
    folds must not share it, search over the pipeline with `GridSearchCV`.

    Examples
    --------
    >>> from sklearn.datasets import load_breast_cancer
    >>> from sklearn.preprocessing import StandardScaler
    >>> from sklearn_robust import RobustLinearClassifierCV
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> model = RobustLinearClassifierCV(
    ...     threat_eps=0.2, loss="logistic").fit(StandardScaler().fit_transform(X), y)
    >>> {name: round(value, 3) for name, value in model.best_params_.items()}
    {'eps': 0.309, 'p_algo': 1.0}
    >>> round(model.best_score_, 3)
    0.9
    """

    def __init__(
        self,
        p_algo: float | str | Sequence[float | str] = (1, 2, math.inf),
        q_pert: float = math.inf,
        eps: float | Sequence[float] | str = "auto",
        *,
        threat_eps: float | None = None,
        threat_q: float | None = None,
        cv: Any = 5,
        refit: bool = True,
        loss: str | MarginLoss = "exponential",
        solver: str = "auto",
        scale: Any = None,
        clip: Any = None,
        threat: Threat | None = None,
        fit_intercept: bool = True,
        step_size: float | str = "adaptive",
        max_iter: int = 50_000,
        loss_tol: float = 1e-3,
        tol: float = 1e-3,
        class_weight: dict[Any, float] | str | None = None,
        n_jobs: int | None = None,
        verbose: int = 0,
    ) -> None:
        self.p_algo = p_algo
        self.q_pert = q_pert
        self.eps = eps
        self.threat_eps = threat_eps
        self.threat_q = threat_q
        self.cv = cv
        self.refit = refit
        self.loss = loss
        self.solver = solver
        self.scale = scale
        self.clip = clip
        self.threat = threat
        self.fit_intercept = fit_intercept
        self.step_size = step_size
        self.max_iter = max_iter
        self.loss_tol = loss_tol
        self.tol = tol
        self.class_weight = class_weight
        self.n_jobs = n_jobs
        self.verbose = verbose

    _reports_its_path = False  # candidates are solved together

    @all_or_nothing
    @with_callbacks  # type: ignore[untyped-decorator]
    def fit(
        self,
        X: Any,
        y: Any = None,
        sample_weight: Any = None,
        *,
        groups: Any = None,
        sample_radius: Any = None,
    ) -> Self:
        """Choose p_algo and eps, and fit the classifier with them.

        Parameters
        ----------
        X : array-like or sparse array of shape (n_samples, n_features), or BlockRows
            The folds of BlockRows are picked out of each block as it is read; labels and weights,
            and some numbers for each sample, are in memory.
        y : array-like of shape (n_samples,)
            Labels of two or more classes, of any type. None for BlockRows, which hold labels and
            weights.
        sample_weight : array-like of shape (n_samples,), optional
            Non-negative. They weigh the training samples, and the scored ones too, as in
            `GridSearchCV`.
        groups : array-like of shape (n_samples,), optional
            For splitters that keep groups together.
        sample_radius : array-like of shape (n_samples,), optional
            A factor >= 0 on the set of each sample, in training and in scoring alike: a known
            measurement error. eps="auto" takes the radii of the data over their mean. Not for
            BlockRows.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If threat_eps is missing, a parameter is out of its range, or a fold has training
            samples of one class only, or test samples of weight zero only.

        Warns
        -----
        ConvergenceWarning
            If some fits stopped before their criterion.
        ConstantClassifierWarning
            If the chosen eps is so large that nothing is learnt, with the radius from which on that
            is so.
        """
        threat = self._scoring_threat()
        check_number(self.verbose, "verbose", low=0, integer=True)
        check_choice(self.refit, "refit", (True, False))
        p_algo = check_geometries(self.p_algo, "p_algo")
        model = self._candidate()
        if isinstance(X, BlockRows):
            y, sample_weight = read_block_rows(model, X, y, sample_weight)
            self._take_features_of(model)
            sample_weight = None if X.sample_weight is None else sample_weight
        else:
            refuse_lazy(X=X, y=y, sample_weight=sample_weight)
            checked, y = validate_data(
                self, X, y, accept_sparse="csr", dtype=(np.float64, np.float32)
            )
            if sample_weight is not None:
                sample_weight = check_sample_weight(sample_weight, checked)
            X, y, sample_weight, groups = indexable(X, y, sample_weight, groups)
        sample_radius = check_sample_radius(sample_radius, len(y))
        check_classification_targets(y)
        self.scale_ = self._read_scale(self.scale)
        if self.threat is None:
            threat = LpBall(threat.q, threat.eps, self.scale_, self.clip)
        names = getattr(self, "feature_names_in_", None)
        self.threat_ = bound_threat(threat, self.n_features_in_, names, np.unique(y).tolist())
        eps = self._radii(model, X, y, sample_weight, sample_radius)
        callbacks = FitCallbacks(self, X, y, sample_weight)
        splits = list(check_cv(self.cv, y, classifier=True).split(for_splitter(X), y, groups))
        check_folds(splits, sample_weight)
        folds = Parallel(n_jobs=self.n_jobs)(
            delayed(cross_validate)(
                clone(model),
                X,
                y,
                sample_weight,
                sample_radius,
                split,
                p_algo,
                eps,
                self.threat_,
                f"{i} of {len(splits)}",
            )
            for i, split in enumerate(splits, start=1)
        )
        scores, fit_times, score_times, converged, gaps = (
            np.stack(part, axis=-1) for part in zip(*folds, strict=True)
        )
        self.n_splits_ = len(splits)
        self.cv_results_ = results_of(p_algo, eps, scores, fit_times, score_times)
        self.best_index_ = int(self.cv_results_["rank_test_score"].argmin())
        self.best_score_ = float(self.cv_results_["mean_test_score"][self.best_index_])
        self.best_params_ = self.cv_results_["params"][self.best_index_]
        self.scorer_ = self._scorer()
        if not converged.all():
            warn_of_cells(converged, gaps, "RobustLinearClassifierCV", model, stacklevel=5)
        self._refit(model, X, y, sample_weight, sample_radius)
        callbacks.end_fit(predicts=self.refit)
        return self

    def _take_features_of(self, model: RobustLinearClassifier) -> None:
        """The number of features and their names, which a candidate has read of rows in blocks."""
        self.n_features_in_ = model.n_features_in_
        self.__dict__.pop("feature_names_in_", None)
        if hasattr(model, "feature_names_in_"):
            self.feature_names_in_ = model.feature_names_in_

    def _radii(
        self, model: RobustLinearClassifier, X: Any, y: Any, weight: Any, factors: Any
    ) -> list[float]:
        """The training radii to choose from."""
        if not (isinstance(self.eps, str) and self.eps == "auto"):
            return check_radii(self.eps, "eps")
        if self.threat is not None:
            return np.geomspace(*_AUTO_FACTORS, _AUTO_RADII).tolist()
        without_limits = clone(model).set_params(clip=None)
        problem = read_problem(without_limits, *data_of(X, y, weight), self.class_weight)
        radii = choose_radii(problem, _AUTO_RADII)
        mean = 1.0 if factors is None else float(np.average(factors, weights=weight))
        return list((radii / mean if mean > 0 else radii).tolist())

    def _refit(
        self, model: RobustLinearClassifier, X: Any, y: Any, weight: Any, sample_radius: Any
    ) -> None:
        """Fit the chosen candidate on all data, or forget that of the last fit."""
        for name in ("best_estimator_", "refit_time_", *_FITTED):
            self.__dict__.pop(name, None)
        if not self.refit:
            return
        start = time.perf_counter()
        self.best_estimator_ = model.set_params(p_algo=self.best_params_["p_algo"])
        factor = self.best_params_["eps"]
        if self.threat is None:
            model.set_params(eps=factor)
        elif factor != 1:
            sample_radius = factor * (np.ones(len(y)) if sample_radius is None else sample_radius)
        model.fit(*data_of(X, y, weight), sample_radius)
        self.refit_time_ = time.perf_counter() - start
        for name in _FITTED:
            setattr(self, name, getattr(self.best_estimator_, name))

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "coef_")  # with refit=False there is nothing to predict with

    def _candidate(self) -> RobustLinearClassifier:
        """A candidate with the parameters that all candidates share."""
        chosen = {"p_algo", "eps", "n_jobs"}
        shared = (
            RobustLinearClassifier().get_params().keys()
            & self.get_params(deep=False).keys() - chosen
        )
        return RobustLinearClassifier(**{name: getattr(self, name) for name in shared})

    def _scorer(self) -> Any:
        """The scorer that a search would take."""
        if self.threat is not None or self.clip is not None:
            return make_robust_scorer(threat=self.threat_)
        return make_robust_scorer(eps=self.threat_.eps, q=self.threat_.q, scale=self.scale)

    def _scoring_threat(self) -> Any:
        """The threat that scores; a ball without scales and limits."""
        if self.threat is not None:
            for name in ("threat_eps", "threat_q", "scale", "clip"):
                if getattr(self, name) is not None:
                    raise ValueError(
                        f"threat takes the place of threat_eps, threat_q, scale and clip, got "
                        f"{name}={getattr(self, name)!r} beside it: leave out one or the other."
                    )
            check_is_threat(self.threat)
            return self.threat
        if self.threat_eps is None:
            raise ValueError(
                "threat_eps must be given: the radius of the adversary that the classifier has to "
                "withstand, a finite number >= 0, got None. It scores every candidate; the "
                "training radii to choose from are eps."
                f" {see('guide/model_selection')}"
            )
        q = check_exponent(self.q_pert if self.threat_q is None else self.threat_q, "threat_q")
        return LpBall(q, check_radius(self.threat_eps, "threat_eps"))
