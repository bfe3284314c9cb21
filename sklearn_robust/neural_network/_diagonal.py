"""The diagonal network as an estimator."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, Self

from sklearn.base import BaseEstimator

from sklearn_robust._fits import all_or_nothing
from sklearn_robust._parameters import (
    Check,
    check_choice,
    check_exponent,
    check_number,
    check_parameters,
)
from sklearn_robust.callbacks import FitCallbacks, with_callbacks
from sklearn_robust.linear_model.base import ProbabilityMixin, RobustLinearMixin
from sklearn_robust.linear_model.fitting import Fit, find_open_problems, update_problems
from sklearn_robust.linear_model.joint_fitting import JointFit
from sklearn_robust.linear_model.lifecycle import begin_fit, end_fit
from sklearn_robust.linear_model.reading import read_problem
from sklearn_robust.losses import MarginLoss, check_loss
from sklearn_robust.norms import LpNorm
from sklearn_robust.solvers import Solution, diagonal_descent, joint_diagonal_descent
from sklearn_robust.solvers.solution import solution_to_numpy
from sklearn_robust.threats import check_radius

_PARAMETERS: dict[str, Check] = {
    "q_pert": check_exponent,
    "eps": check_radius,
    "depth": partial(check_number, low=2, integer=True),
    "init_scale": partial(check_number, low=0, strict=True),
    "loss": check_loss,
    "fit_intercept": partial(check_choice, choices=(True, False)),
    "max_iter": partial(check_number, low=1, integer=True),
    "loss_tol": partial(check_number, low=0),
    "tol": partial(check_number, low=0),
    "verbose": partial(check_number, low=0, integer=True),
}


class RobustDiagonalNet(ProbabilityMixin, RobustLinearMixin, BaseEstimator):
    r"""Diagonal linear network trained against the worst perturbation of each sample.

    The network :math:`f(x) = \langle u_+^L - u_-^L, x\rangle + b` is linear in x, but gradient
    descent on its parameters u is not gradient descent on :math:`w = u_+^L - u_-^L`: for depth L =
    2 it tends to the robust separator of least 1-norm, as coordinate descent does, in far fewer
    iterations. It minimises the robust risk :math:`\tfrac1n \sum_i \ell\big(y_i f(x_i) - \epsilon
    \|w\|_{q^*}\big)`; for K > 2 classes, with U of K rows and :math:`W = U_+^L - U_-^L`, the joint
    robust risk of RobustLinearClassifier.

    Parameters
    ----------
    q_pert : float, default=inf
        Exponent of the norm that bounds the perturbation, in [1, inf].
    eps : float, default=0.1
        Radius of the perturbation, in the units of the features.
    depth : int, default=2
        L above, >= 2.
    init_scale : float, default=1e-3
        Every parameter starts at init_scale over the square root of the number of parameters, 2
        n_features for two classes and 2 K n_features for K > 2.
    scale : array-like of shape (n_features,) or dict {feature name: float}, optional
        How far the adversary can move each feature, as in RobustLinearClassifier.
    loss : {"exponential", "logistic"} or MarginLoss, default="exponential"
    fit_intercept : bool, default=True
        The intercept is not part of the network, and minimised over exactly at every step.
    max_iter : int, default=50000
        Iterations at most.
    loss_tol : float, default=1e-3
        Training on separable data stops when the sum of the robust losses falls below this; 0
        trains on to `tol`.
    tol : float, default=1e-3
        Certified relative gap to reach: of the l1 margin on separable data, of the risk otherwise.
    class_weight : dict, "balanced" or None, default=None
    device : str or None, default=None
        None computes with NumPy; "cpu", "cuda" or "mps" with torch on that device (dense X, two
        classes; more are computed with NumPy).
    verbose : int, default=0
        As in RobustLinearClassifier.

    Attributes
    ----------
    coef_ : ndarray of shape (1, n_features) or (n_classes, n_features)
        The effective w, or W for several classes, which are trained jointly.
    intercept_ : ndarray of shape (1,) or (n_classes,)
    scale_ : ndarray of shape (n_features,) or None
        The scale of each feature.
    threat_ : LpBall
        The threat of the fit, as in RobustLinearClassifier.
    classes_ : ndarray of shape (n_classes,)
    separable_ : bool or None
        Whether the training data are robustly separable, proven; None is undecided.
    margin_, margin_bound_ : float
        Smallest robust margin over the 1-norm of w, for several classes over the sum of the sizes
        of all entries of W, and what no predictor exceeds.
    dual_gap_ : float
        Separable: `1 - margin_ / margin_bound_`. Not separable: certified relative gap of the risk.
    log_risk_ : float
        Logarithm of the mean robust loss of the training samples.
    certificate_ : Certificate
        What the fit proves, in exact arithmetic, made when first read: until then the estimator
        refers to its training data.
    n_iter_ : int
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (`n_features_in_`,)

    See Also
    --------
    RobustLinearClassifier : With p_algo=1 it has the same limit.

    Notes
    -----
    Judge the limit by the margin ratio, not by the cosine, which stays lower. For depth > 2 the
    flow prefers sparser solutions than the 1-norm does, and the certificate stays one against the
    largest l1 margin; from a small start it may not leave the neighbourhood of zero when eps is
    close to the largest that can be separated; such a fit warns. Where the data are not robustly
    separable the risk has one minimiser, whatever the parametrisation: it is computed directly.

    References
    ----------
    Tsilivis, Frank, Srebro, Kempe, "The Price of Implicit Bias in Adversarially Robust
    Generalization", NeurIPS 2024, section 4.2 and Proposition 4.8.

    Examples
    --------
    >>> from sklearn_robust import RobustDiagonalNet, make_teacher_classification
    >>> X, y, teacher = make_teacher_classification(
    ...     64, 256, teacher_sparsity=4, return_teacher=True, random_state=0)
    >>> X_test, y_test = make_teacher_classification(5000, 256, teacher=teacher, random_state=1)
    >>> network = RobustDiagonalNet(eps=0.1, fit_intercept=False).fit(X, y)
    >>> network.robust_score(X, y)
    1.0
    >>> network.robust_score(X_test, y_test) > 0.5
    True
    """

    def __init__(
        self,
        q_pert: float = math.inf,
        eps: float = 0.1,
        *,
        depth: int = 2,
        init_scale: float = 1e-3,
        scale: Any = None,
        loss: str | MarginLoss = "exponential",
        fit_intercept: bool = True,
        max_iter: int = 50_000,
        loss_tol: float = 1e-3,
        tol: float = 1e-3,
        class_weight: dict[Any, float] | str | None = None,
        device: str | None = None,
        verbose: int = 0,
    ) -> None:
        self.q_pert = q_pert
        self.eps = eps
        self.depth = depth
        self.init_scale = init_scale
        self.scale = scale
        self.loss = loss
        self.fit_intercept = fit_intercept
        self.max_iter = max_iter
        self.loss_tol = loss_tol
        self.tol = tol
        self.class_weight = class_weight
        self.device = device
        self.verbose = verbose

    @all_or_nothing
    @with_callbacks  # type: ignore[untyped-decorator]
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit on training data.

        Parameters
        ----------
        X : array-like or sparse array of shape (n_samples, n_features)
        y : array-like of shape (n_samples,)
            Labels of two or more classes, of any type.
        sample_weight : array-like of shape (n_samples,), optional
            Non-negative; a sample of weight zero is left out.

        Returns
        -------
        self

        Warns
        -----
        ConvergenceWarning
            If training stopped before its criterion, with the certified gap that it reached.
        ConstantClassifierWarning
            If eps is so large that nothing is learnt, with the radius from which on that is so.
        """
        check_parameters(self, _PARAMETERS)
        problem = read_problem(self, X, y, sample_weight, self.class_weight)
        norm = LpNorm(1)
        self._p = norm.p
        fit = begin_fit(
            self,
            problem,
            FitCallbacks(self, X, y, sample_weight),
            loss=self.loss,
            tol=self.tol,
            device=self.device,
            verbose=self.verbose,
        )
        self._loss = fit.loss
        solution = self._descend(fit, fit.decide_separability(norm))
        end_fit(self, fit, fit.minimise_risk(norm, solution, False, None))
        return self

    def _descend(self, fit: Fit | JointFit, solution: Solution) -> Solution:
        """The solution with the descent of the open problems that are not proven to be
        inseparable.
        """
        rows = find_open_problems(solution, True, None)
        if not len(rows) or fit.monitor.stopped:
            return solution
        options: dict[str, Any] = {
            name: getattr(self, name)
            for name in ("depth", "init_scale", "max_iter", "loss_tol", "tol")
        }
        options["stop_if_not_separable"] = True
        with fit.monitor.solver("diagonal_descent", rows) as monitors:
            if isinstance(fit, JointFit):
                path = joint_diagonal_descent(fit.problem, fit.loss, **options, monitors=monitors)
            else:
                problems = fit.tensors.select(rows)
                path = diagonal_descent(problems, fit.loss, **options, monitors=monitors)
        return update_problems(solution, rows, solution_to_numpy(path))
