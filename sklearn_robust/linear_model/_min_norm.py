"""The minimum-norm robust separator as an estimator.

A warning names the exponent of an l_q ball.
"""

from __future__ import annotations

import math
import warnings
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator

from sklearn_robust._documentation import see
from sklearn_robust._fits import all_or_nothing
from sklearn_robust._parameters import (
    Check,
    check_choice,
    check_exponent,
    check_number,
    check_parameters,
)
from sklearn_robust.callbacks import FitCallbacks, with_callbacks
from sklearn_robust.joint import JointProblem
from sklearn_robust.linear_model.base import RobustLinearMixin
from sklearn_robust.linear_model.fitting import Fit, in_float64
from sklearn_robust.linear_model.joint_fitting import JointFit
from sklearn_robust.linear_model.lifecycle import AnyFit, begin_fit, begin_summed_fit, end_fit
from sklearn_robust.linear_model.reading import (
    check_radius_or_radii,
    read_problem,
    weights_of_blocks,
)
from sklearn_robust.linear_model.summed_fitting import read_by_sums
from sklearn_robust.norms import Norm
from sklearn_robust.problems import RobustProblem
from sklearn_robust.separators.joint import reachable_tol, solve_joint_separator
from sklearn_robust.separators.min_norm import solve_separator
from sklearn_robust.separators.separator import check_geometry, geometry_of, read_norm
from sklearn_robust.separators.summed import separate_sums
from sklearn_robust.separators.summed_joint import separate_joint_sums
from sklearn_robust.solvers import TooManyColumnsError
from sklearn_robust.summed import SummedJointProblem, SummedProblem, SummedSamples
from sklearn_robust.threats import ConicThreat, Threat, is_ball, require, require_ball

# Certified relative gaps to reach by default
_FLOAT64_TOL = 1e-8  # the margin's gap, as in min_norm_separator
_FLOAT32_TOL = 1e-3  # the margin's gap where the coefficients are rounded to float32
_INSEPARABLE_TOL = 1e-6  # the risk's gap, where there is no separator


def _check_tol(value: Any, name: str) -> None:
    if value is not None:
        check_number(value, name, low=0, strict=True)


_PARAMETERS: dict[str, Check] = {
    "p": check_geometry,
    "q_pert": check_exponent,
    "eps": check_radius_or_radii,
    "fit_intercept": partial(check_choice, choices=(True, False)),
    "tol": _check_tol,
    "not_separable": partial(check_choice, choices=("warn", "raise")),
}


class NotSeparableWarning(UserWarning):
    """The training data are not robustly separable at this eps: no separator was fitted."""


class MinNormRobustClassifier(RobustLinearMixin, BaseEstimator):
    r"""The robust separator of least p-norm, the limit of steepest descent in the p-norm.

    Solves :math:`\min \|w\|_p` subject to :math:`y_i (\langle w, x_i\rangle + b) - \epsilon
    \|w\|_{q^*} \ge 1` for every sample, exactly. Several classes are one problem: :math:`\min
    \|W\|_p` subject to :math:`\langle w_{y_i} - w_k, x_i\rangle + b_{y_i} - b_k - \epsilon
    \|w_{y_i} - w_k\|_{q^*} \ge 1` for every sample and every other class k. Both are those of
    `min_norm_separator`.

    Parameters
    ----------
    p : float, "spectral" or "nuclear", default=2
        Exponent of the norm that is least, in [1, inf], or a norm of the coefficient matrix of
        several classes, which is the 2-norm with two.
    q_pert : float, default=inf
        Exponent of the norm that bounds the perturbation, in [1, inf].
    eps : float, default=0.1
        Radius of the perturbation, in the units of the features, or a dict {label: radius}.
    scale : array-like of shape (n_features,) or dict {feature name: float}, optional
        How far the adversary can move each feature, relative to the others: the threat is
        :math:`\|\delta / s\|_q \le \epsilon`, and s takes the place of 1 in the penalty
        :math:`\epsilon \|s w\|_{q^*}`. A feature of scale 0 is out of its reach. Features that a
        dict does not name have 1, as all have by default.
    clip : pair (low, high) of numbers or arrays of shape (n_features,), optional
        Limits of the data, as in `RobustLinearClassifier`.
    threat : Threat, optional
        A set of `sklearn_robust.threats` in cones, in place of q_pert, eps, scale and clip.
    fit_intercept : bool, default=True
    tol : float, default=None
        Certified relative gap of the margin to reach. None is 1e-8, as in `min_norm_separator`,
        1e-6 for a matrix norm of several classes, and 1e-3 for float32 data, to which the
        coefficients are rounded.
    not_separable : {"warn", "raise"}, default="warn"
        What to do where no robust separator exists: "warn" with NotSeparableWarning and fit the
        minimiser of the exponential robust risk, the limit of steepest descent then, or "raise"
        NotSeparableError, which carries the proof.

    Attributes
    ----------
    coef_ : ndarray of shape (1, n_features) or (n_classes, n_features)
        Scaled to a smallest robust margin of 1.
    intercept_ : ndarray of shape (1,) or (n_classes,)
    scale_ : ndarray of shape (n_features,) or None
        The scale of each feature.
    threat_ : LpBall
        The threat of the fit, as in RobustLinearClassifier.
    classes_ : ndarray of shape (n_classes,)
    separable_ : bool or None
        Proven either way; None is undecided.
    margin_, margin_bound_, dual_gap_ : float
        The largest robust margin in the p-norm, its certified bound, and their relative gap.
    log_risk_ : float
        Logarithm of the mean exponential robust loss of the training samples.
    certificate_ : Certificate
        What the fit proves, in exact arithmetic, made when first read: until then the estimator
        refers to its training data.
    n_iter_ : int
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (`n_features_in_`,)

    See Also
    --------
    RobustLinearClassifier : The path to this limit; the estimator to choose where data are not
        separable.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_robust import MinNormRobustClassifier
    >>> X, y = np.array([[2.0, 1.0], [-2.0, 1.0]]), ["up", "down"]
    >>> model = MinNormRobustClassifier(p=1, eps=0.5).fit(X, y)
    >>> model.classes_, model.coef_.round(3) + 0.0, round(model.margin_, 3)
    (array(['down', 'up'], dtype='<U4'), array([[0.667, 0.   ]]), 1.5)
    """

    _reads_blocks = True

    def __init__(
        self,
        p: float | str = 2,
        q_pert: float = math.inf,
        eps: float | dict[Any, float] = 0.1,
        *,
        scale: Any = None,
        clip: Any = None,
        threat: Threat | None = None,
        fit_intercept: bool = True,
        tol: float | None = None,
        not_separable: str = "warn",
    ) -> None:
        self.p = p
        self.q_pert = q_pert
        self.eps = eps
        self.scale = scale
        self.clip = clip
        self.threat = threat
        self.fit_intercept = fit_intercept
        self.tol = tol
        self.not_separable = not_separable

    @all_or_nothing
    @with_callbacks  # type: ignore[untyped-decorator]
    def fit(
        self, X: Any, y: Any = None, sample_weight: Any = None, sample_radius: Any = None
    ) -> Self:
        """Fit on training data.

        Parameters
        ----------
        X : array-like or sparse array of shape (n_samples, n_features), or BlockRows
            Rows that are never whole in memory, such as `sklearn_robust.rows.NpyRows`, need an l_q
            ball.
        y : array-like of shape (n_samples,)
            Labels of two or more classes, of any type. None for BlockRows, which hold labels and
            weights.
        sample_weight : array-like of shape (n_samples,), optional
            Non-negative; a sample of weight zero is left out. The other weights matter only where
            there is no separator.
        sample_radius : array-like of shape (n_samples,), optional
            A factor >= 0 on the set of perturbations of each sample.

        Returns
        -------
        self

        Raises
        ------
        NotSeparableError
            With not_separable="raise", if no robust separator exists.

        Warns
        -----
        NotSeparableWarning
            With not_separable="warn", if no robust separator exists.
        ConvergenceWarning
            If the certified gap is above tol, or separability could not be decided.
        ConstantClassifierWarning
            If eps is so large that the minimiser of the risk is constant, with the radius from
            which on that is so.
        """
        check_parameters(self, _PARAMETERS)
        problem: RobustProblem | JointProblem | SummedProblem | SummedJointProblem | None
        problem = read_by_sums(self, X, y, sample_weight, sample_radius)
        if problem is None:
            problem = self._read_held(X, y, sample_weight, sample_radius)
        callbacks = FitCallbacks(self, X, y, sample_weight)
        fit: AnyFit
        solution = None
        if isinstance(problem, SummedSamples):
            self._remember(X, None, partial(weights_of_blocks, X, None), None)
            norm, tol = self._norm_and_tol(problem.survey.dtype)
            risk_tol = max(tol, _INSEPARABLE_TOL)
            fit = begin_summed_fit(self, problem, callbacks, loss="exponential", tol=risk_tol)
            with suppress(TooManyColumnsError):  # then L-BFGS-B
                solution = fit.solve(norm, loss_tol=0, tol=tol)
            if solution is None:
                problem = self._read_held(X, y, sample_weight, sample_radius)
        if solution is None:
            assert not isinstance(problem, SummedSamples)
            norm, tol = self._norm_and_tol(problem.log_weight.dtype)
            risk_tol = max(tol, _INSEPARABLE_TOL)
            fit = begin_fit(self, problem, callbacks, loss="exponential", tol=risk_tol)
            solution = fit.decide_separability(norm)
            raises = self.not_separable == "raise"
            solution = replace(fit, tol=tol).separate(norm, solution, loss_tol=0, raises=raises)
            solution = fit.minimise_risk(norm, solution, None, accept=True)
        if solution.separable[0] is False:
            if self.not_separable == "raise":  # proven by the risk, before a separator was sought
                _raise_not_separable(fit.problem, norm)
            self._warn_not_separable()
            if isinstance(fit, Fit | JointFit):
                solution = fit.minimise_risk(norm, solution, False, None)
        end_fit(self, fit, solution)
        return self

    def _read_held(
        self, X: Any, y: Any, sample_weight: Any, sample_radius: Any
    ) -> RobustProblem | JointProblem:
        """The problem of the training data, with their margins; an error where its sets are not
        given by cones.
        """
        problem = read_problem(self, X, y, sample_weight, sample_radius=sample_radius)
        if isinstance(problem, JointProblem):
            if problem.in_cones() is None:
                require_ball(problem.threat, "MinNormRobustClassifier of several classes")
        elif problem.adversary is None and not is_ball(problem.threat):
            require(problem.threat, ConicThreat, "MinNormRobustClassifier")
        return problem

    def _norm_and_tol(self, dtype: Any) -> tuple[Norm, float]:
        """The norm for the classes of the fit, and the gap of the margin to reach."""
        norm = read_norm(self.p, len(self.classes_))
        self._p = geometry_of(norm)
        if self.tol is not None:
            return norm, self.tol
        return norm, reachable_tol(norm, _FLOAT32_TOL if dtype == np.float32 else _FLOAT64_TOL)

    def _warn_not_separable(self) -> None:
        ball = is_ball(self.threat_)
        where = f"eps={self.threat_.eps:g}, q_pert={self.threat_.q:g}" if ball else "this threat"
        warnings.warn(
            f"The data are not robustly separable at {where}: "
            "fitted the minimiser of the exponential robust risk instead. Use "
            "RobustLinearClassifier, whose job this is, or an eps below the margin of max_margin."
            f" {see('guide/separators')}",
            NotSeparableWarning,
            stacklevel=5,
        )


def _raise_not_separable(problem: Any, norm: Any) -> None:
    """Raise the NotSeparableError of data that have no separator, with eps* and the proof."""
    if isinstance(problem, JointProblem):
        solve_joint_separator(problem, norm)
    elif isinstance(problem, SummedJointProblem):
        separate_joint_sums(problem, norm)
    elif isinstance(problem, SummedProblem):
        separate_sums(problem, norm)
    else:
        solve_separator(in_float64(problem), norm)
