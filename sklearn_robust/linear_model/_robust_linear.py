"""The robust linear classifier: one threat, one loss, one geometry, one solver."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from numbers import Real
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
from sklearn_robust.linear_model.base import ProbabilityMixin, RobustLinearMixin, dense
from sklearn_robust.linear_model.fitting import Batch, Fit, convert_margins
from sklearn_robust.linear_model.joint_fitting import JointFit
from sklearn_robust.linear_model.lifecycle import AnyFit, begin_fit, begin_summed_fit, end_fit
from sklearn_robust.linear_model.reading import (
    check_radius_or_radii,
    read_problem,
    weights_of_blocks,
)
from sklearn_robust.linear_model.summed_fitting import SummedFit, read_by_sums
from sklearn_robust.linear_model.summed_joint_fitting import SummedJointFit
from sklearn_robust.losses import MarginLoss, check_loss
from sklearn_robust.norms import LpNorm, Norm, SchattenNorm, norm_of
from sklearn_robust.problems import RobustProblem
from sklearn_robust.rows import BlockRows
from sklearn_robust.separators.separator import check_geometry, geometry_of
from sklearn_robust.solvers import Solution, TooManyColumnsError
from sklearn_robust.summed import SummedJointProblem, SummedProblem, SummedSamples
from sklearn_robust.threats import (
    ConicThreat,
    KinkedThreat,
    Threat,
    is_ball,
    offers,
    require,
    require_ball,
)

# entries of the constraints up to which solver="auto" computes the limit
_AUTO_ENTRIES = 10_000_000


def _read_geometry(p_algo: Any) -> Norm | str:
    """The norm of an exponent in [1, inf] or that is given as an object; a matrix norm by name."""
    if all(hasattr(p_algo, member) for member in ("value", "dual", "steepest_direction")):
        norm: Norm = p_algo
        return norm
    geometry = check_geometry(p_algo, "p_algo")
    return geometry if isinstance(geometry, str) else LpNorm(geometry)


def _check_step_size(value: Any, name: str) -> None:
    if isinstance(value, Real):
        check_number(value, name, low=0, strict=True)
    else:
        check_choice(value, name, ("adaptive", "paper"))


_PARAMETERS: dict[str, Check] = {
    "q_pert": check_exponent,
    "eps": check_radius_or_radii,
    "loss": check_loss,
    "solver": partial(check_choice, choices=("auto", "steepest_descent", "accelerated", "exact")),
    "fit_intercept": partial(check_choice, choices=(True, False)),
    "warm_start": partial(check_choice, choices=(True, False)),
    "step_size": _check_step_size,
    "max_iter": partial(check_number, low=1, integer=True),
    "loss_tol": partial(check_number, low=0),
    "tol": partial(check_number, low=0),
    "verbose": partial(check_number, low=0, integer=True),
}


class RobustLinearClassifier(ProbabilityMixin, RobustLinearMixin, BaseEstimator):
    r"""Linear classifier trained against the worst perturbation of each sample.

    Minimises the robust risk
    :math:`L(w, b) = \tfrac1n \sum_i \ell\big(y_i (\langle w, x_i\rangle + b) - \epsilon
    \|w\|_{q^*}\big)`, the risk at the worst point of the l_q ball of radius eps around each sample,
    by steepest descent in the geometry of the p-norm. Where the data are robustly separable the
    path tends in direction to the robust separator of least p-norm; where they are not, the risk
    has a minimiser, the same for every p. Either way the fit carries a certificate, `dual_gap_`.

    Several classes are one problem, of coefficients :math:`w_1 .. w_K`: the adversary picks the
    rival class k of each sample, against which its robust margin is :math:`m_{ik} = \langle w_{y_i}
    - w_k, x_i\rangle + b_{y_i} - b_k - \epsilon \|w_{y_i} - w_k\|_{q^*}`, and the loss is that of
    :math:`-\log \sum_{k \ne y_i} e^{-m_{ik}}`. With the logistic loss and eps = 0 that is
    multinomial logistic regression.

    Parameters
    ----------
    p_algo : float, "spectral", "nuclear" or Norm, default=2
        Geometry of the algorithm, in [1, inf]: 1 coordinate descent, 2 gradient descent,
        `numpy.inf` sign descent, over all coefficients. Of several classes, "spectral" (Muon's
        geometry) and "nuclear" are the norms of the singular values of the (n_classes, n_features)
        coefficients, their largest and their sum; of two classes both are 2. It decides to which of
        the separating directions the path tends, and with it how well the classifier generalises.
        An object is a norm of one's own for steepest descent, with the members of `norms.Norm`.
    q_pert : float, default=inf
        Exponent of the norm that bounds the perturbation, in [1, inf].
    eps : float or dict {label: float}, default=0.1
        Radius of the perturbation, in the units of the features that the classifier sees; or one
        for each class, 0 for a class that does not attack.
    loss : {"exponential", "logistic"} or MarginLoss, default="exponential"
        Loss of the margin. Both names have the same limit on separable data. An object is a loss of
        one's own, with the members of `losses.MarginLoss`.
    solver : {"auto", "steepest_descent", "accelerated", "exact"}, default="auto"
        "steepest_descent" follows the path and stops on `loss_tol` or `tol`. "accelerated" goes to
        the same limit: for 1 < p_algo <= 2 by Nesterov's method on the dual, for other p_algo by
        primal-dual steps; of several classes, for p_algo = 2, by quasi-Newton steps on a risk with
        a falling ridge. "exact" returns the limit itself, from linear, quadratic or cone programs.
        "auto" is "exact" for `BlockRows`, which a path would read twice a step. Otherwise it is
        steepest descent, and "exact" where the path does not stop within 2000 iterations or is too
        slow to, of several classes within 300, and the data have up to 10 million entries (times
        n_classes, of several): data so close to inseparable that the path is slow and its limit
        hardly depends on p. "accelerated" takes its place on larger data of two classes, where the
        path will not stop within max_iter. On larger data of several, "auto" and "exact" follow the
        path for at most as many iterations as take some minutes, and warn with the gap where it
        ends short of tol; where these are few, and p_algo = 2, they are "accelerated". All return
        the minimiser of the robust risk for data that are not robustly separable.
    scale : array-like of shape (n_features,) or dict {feature name: float}, optional
        How far the adversary can move each feature, relative to the others: the threat is
        :math:`\|\delta / s\|_q \le \epsilon`, and s takes the place of 1 in the penalty
        :math:`\epsilon \|s w\|_{q^*}`. A feature of scale 0 is out of its reach. Features that a
        dict does not name have 1, as all have by default.
    clip : pair (low, high) of numbers or arrays of shape (n_features,), optional
        Limits of the data: no perturbation leads out of them. X must lie inside. With q_pert = inf;
        other q have a set for each sample, of which a fit holds some thousands.
    threat : Threat, optional
        The set of perturbations as an object, one of `sklearn_robust.threats` or of one's own; it
        takes the place of q_pert, eps, scale and clip, of which scale and clip must not be given
        beside it. Several classes need one symmetric set for all samples. "steepest_descent" and
        "accelerated" serve one symmetric set with a projection: `LpBall`, `FeatureBudget`,
        `Ellipsoid`. Against sets in cones other than an l_q ball "auto" computes the limit of the
        path at once, as "exact" does; data that are not separable have the minimiser of the risk. A
        set of one's own that has no cones is for "auto" and "steepest_descent".
    fit_intercept : bool, default=True
        The intercept is not penalised, and minimised over exactly at every step.
    step_size : {"adaptive", "paper"} or float, default="adaptive"
        Step of steepest descent on the logarithm of the risk: backtracking, the constant of the
        paper, or a number.
    max_iter : int, default=50000
        Iterations of the solver at most.
    loss_tol : float, default=1e-3
        Steepest descent on separable data stops when the sum of the robust losses falls below this,
        as in the paper, unless the certified gap is below `tol` before; the other solvers scale
        their separator to this sum. 0 trains on until the certified gap is below `tol`, and scales
        separators to a smallest robust margin of 1.
    tol : float, default=1e-3
        Certified relative gap to reach: of the margin on separable data, of the risk otherwise.
    class_weight : dict, "balanced" or None, default=None
        Weights of the classes, multiplied with the sample weights; "balanced" gives all classes the
        same sum of them.
    warm_start : bool, default=False
        Start from the coefficients of the last fit (steepest descent only).
    n_jobs : int or None, default=None
        Not used: every fit is one problem. It stays for programs that pass it.
    device : str or None, default=None
        None computes with NumPy; "cpu", "cuda" or "mps" with torch on that device (dense X; not for
        solver="exact"). The minimiser of the risk of data that are not separable is computed with
        NumPy always, and so are the certificates of several classes.
    verbose : int, default=0
        0 prints nothing. 1 prints a line where a stage of the fit begins and ends, and loss,
        margin, bound and gap of an iterative solver where it certifies of its own accord, each time
        after twice as many iterations, and at its end. More than 1 prints them at every iteration,
        which takes longer. Printing changes no digit of the fit.

    Attributes
    ----------
    coef_ : ndarray of shape (1, n_features) or (n_classes, n_features)
        Several classes have a row each, defined up to a common shift of all rows.
    intercept_ : ndarray of shape (1,) or (n_classes,)
    scale_ : ndarray of shape (n_features,) or None
        The scale of each feature of a ball.
    threat_ : LpBall or Threat
        The threat of the fit, a ball with `q`, `eps` and `scale` or the object given.
        `robust_score` and the like assume this threat, whatever `set_params` has changed since.
    classes_ : ndarray of shape (n_classes,)
    separable_ : bool or None
        Whether the training data are robustly separable, proven by the certificate; None is
        undecided.
    margin_ : float
        Smallest robust margin of the training samples over the p-norm of the coefficients; positive
        if they are robustly separated.
    margin_bound_ : float
        No linear classifier has a larger one.
    dual_gap_ : float
        Separable: `1 - margin_ / margin_bound_`, how far the path stopped from its limit. Not
        separable: certified relative gap of the risk, 1 - (lower bound) / risk.
    log_risk_ : float
        Logarithm of the mean robust loss of the training samples.
    certificate_ : Certificate
        What the fit proves, in exact arithmetic, made when first read: until then the estimator
        refers to its training data.
    n_iter_ : int
        Iterations of the solver that gave the answer: the path, the minimiser of the risk, or 1 for
        an exact separator.
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Defined only where X has feature names that are all strings.

    See Also
    --------
    MinNormRobustClassifier : The limit itself.
    sklearn_robust.make_robust_scorer : Scores by one threat while a search varies the training eps.

    Notes
    -----
    In a pipeline eps lives in the space of the last step: after a StandardScaler it counts standard
    deviations. See `sklearn_robust.robust_accuracy_score` for the exact score in the space of the
    raw input.

    One class against the rest, a problem each, is scikit-learn's
    ``OneVsRestClassifier(RobustLinearClassifier(...))``, whose robust scores are exact too.

    References
    ----------
    Tsilivis, Frank, Srebro, Kempe, "The Price of Implicit Bias in Adversarially Robust
    Generalization", NeurIPS 2024, equations 3 and 25, Theorem 4.3.

    Examples
    --------
    >>> from sklearn.datasets import load_breast_cancer
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from sklearn_robust import RobustLinearClassifier
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> model = make_pipeline(StandardScaler(), RobustLinearClassifier(p_algo=1, eps=0.2)).fit(X, y)
    >>> round(model.score(X, y), 3)
    0.975
    >>> classifier = model[-1]
    >>> classifier.separable_, classifier.dual_gap_ < 1e-3
    (False, True)
    >>> round(classifier.robust_score(model[:-1].transform(X), y), 3)
    0.889
    """

    _reads_blocks = True

    def __init__(
        self,
        p_algo: float | str | Norm = 2,
        q_pert: float = math.inf,
        eps: float | dict[Any, float] = 0.1,
        *,
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
        warm_start: bool = False,
        n_jobs: int | None = None,
        device: str | None = None,
        verbose: int = 0,
    ) -> None:
        self.p_algo = p_algo
        self.q_pert = q_pert
        self.eps = eps
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
        self.warm_start = warm_start
        self.n_jobs = n_jobs
        self.device = device
        self.verbose = verbose

    @all_or_nothing
    @with_callbacks  # type: ignore[untyped-decorator]
    def fit(
        self, X: Any, y: Any = None, sample_weight: Any = None, sample_radius: Any = None
    ) -> Self:
        """Fit on training data.

        Parameters
        ----------
        X : array-like or sparse array of shape (n_samples, n_features), or BlockRows
            Rows that are never whole in memory, such as `sklearn_robust.rows.NpyRows`, need
            device=None, and with solver="exact" an l_q ball.
        y : array-like of shape (n_samples,)
            Labels of two or more classes, of any type. None for BlockRows, which hold labels and
            weights.
        sample_weight : array-like of shape (n_samples,), optional
            Non-negative; a sample of weight zero is left out.
        sample_radius : array-like of shape (n_samples,), optional
            A factor >= 0 on the set of perturbations of each sample: a known measurement error.

        Returns
        -------
        self

        Warns
        -----
        ConvergenceWarning
            If a solver stopped before its criterion, with the certified gap that it reached.
        ConstantClassifierWarning
            If eps is so large that nothing is learnt, with the radius from which on that is so.
        """
        geometry = read_settings(self)
        warm = self.warm_start and hasattr(self, "coef_")
        last = (dense(self.coef_), self.intercept_, self.classes_) if warm else None
        problem = self._read_problem(X, y, sample_weight, sample_radius)
        norm = norm_of(geometry, len(self.classes_))
        self._p = geometry_of(norm)
        callbacks = FitCallbacks(self, X, y, sample_weight)
        fit: AnyFit
        solution = None
        if isinstance(problem, SummedSamples):
            self._remember(X, None, partial(weights_of_blocks, X, self.class_weight), None)
            fit = begin_summed_fit(
                self,
                problem,
                callbacks,
                loss=self.loss,
                tol=self.tol,
                verbose=self.verbose,
                last=last,
            )
            solution = self._solve_by_sums(fit, norm)
            if solution is None:
                problem = read_problem(self, X, y, sample_weight, self.class_weight)
        if solution is None:
            assert not isinstance(problem, SummedSamples)
            fit = begin_fit(
                self,
                problem,
                callbacks,
                loss=self.loss,
                tol=self.tol,
                device=self.device,
                verbose=self.verbose,
                last=None if last is None else (last[0], last[2]),
            )
            (solution,) = solve(self, fit, [norm])
        self._loss = fit.loss
        end_fit(self, fit, solution)
        return self

    def _read_problem(
        self, X: Any, y: Any, sample_weight: Any, sample_radius: Any
    ) -> RobustProblem | JointProblem | SummedProblem | SummedJointProblem:
        """The problem of the training data; of rows in blocks by sums over them, if these do."""
        problem = read_by_sums(self, X, y, sample_weight, sample_radius)
        if problem is not None:
            return problem
        return read_problem(self, X, y, sample_weight, self.class_weight, sample_radius)

    def _solve_by_sums(self, fit: SummedFit | SummedJointFit, norm: Norm) -> Solution | None:
        """The solution of samples known by sums; None where another method takes over."""
        try:
            return fit.solve(norm, loss_tol=self.loss_tol)
        except TooManyColumnsError:
            return None  # for L-BFGS-B


def read_settings(model: RobustLinearClassifier) -> Norm | str:
    """The geometry of a classifier, whose parameters are in their range and go together.

    A matrix norm is named only: `norm_of` makes it for a number of classes.
    """
    geometry = _read_geometry(model.p_algo)
    check_parameters(model, _PARAMETERS)
    if model.solver == "exact" and model.device is not None:
        raise ValueError(
            f"device={model.device!r} is not for solver='exact', whose programs run on the CPU. "
            "Use device=None."
        )
    if model.solver == "exact" and not isinstance(geometry, LpNorm | str):
        raise ValueError(
            "solver='exact' needs p_algo in [1, inf], 'spectral' or 'nuclear', got "
            f"p_algo={geometry!r}. Use solver='steepest_descent' for the path in this norm."
            f" {see('guide/solvers')}"
        )
    if model.solver == "accelerated" and not isinstance(geometry, LpNorm):
        raise ValueError(
            f"solver='accelerated' needs p_algo in [1, inf], got p_algo={model.p_algo!r}. Use "
            "solver='steepest_descent' for the path of this geometry or solver='exact' for its "
            "limit."
            f" {see('guide/solvers')}"
        )
    return geometry


def _solves_exactly(
    model: RobustLinearClassifier, fit: Fit | JointFit, norms: Sequence[Norm], *, small: bool
) -> bool:
    """Whether the exact separator is computed; an error where the solver does not serve the set."""
    threat = fit.problem.threat
    if fit.in_cones:
        _require_path_of_sets(model, fit, norms)
    if model.solver == "exact":
        if isinstance(fit, JointFit) and fit.problem.in_cones() is None:
            require_ball(threat, "the exact solver of several classes")
        elif isinstance(fit, Fit) and fit.problem.adversary is None and not is_ball(threat):
            require(threat, ConicThreat, "the exact solver")
        # larger programs of several classes take hours
        return small or isinstance(fit, Fit) or not fit.has_path
    known = is_ball(threat) or fit.in_cones
    norms_known = all(isinstance(norm, LpNorm | SchattenNorm) for norm in norms)
    quick = isinstance(fit, Fit) or fit.has_quick_separator
    return model.solver == "auto" and small and known and norms_known and quick


def _require_path_of_sets(
    model: RobustLinearClassifier, fit: Fit | JointFit, norms: Sequence[Norm]
) -> None:
    """Refuse a solver that does not serve the sets: paths in other norms than the 2-norm, of which
    most stall at kinks, and of several classes whose samples have sets of their own.
    """
    of_two = isinstance(fit, Fit)
    stalls = of_two and not offers(fit.problem.threat, KinkedThreat)
    others = any(norm != LpNorm(2) for norm in norms)
    if model.solver == "steepest_descent" and of_two and others and (stalls or not fit.has_path):
        raise ValueError(
            f"solver='steepest_descent' with another p_algo than 2 needs an l_q ball without clip, "
            f"or one symmetric set for all samples with project, min_norm_subgradient and "
            f"stop_at_kinks, got threat={type(model.threat_).__name__}. Use p_algo=2, or "
            f"solver='auto' or 'exact', which compute the limit of the path."
            f" {see('guide/solvers')}"
        )
    by_worst_points = model.solver == "steepest_descent" and of_two
    if not (fit.has_path or by_worst_points or model.solver in ("auto", "exact")):
        raise ValueError(
            f"solver={model.solver!r} needs one symmetric set for all samples, with a projection, "
            f"got threat={type(model.threat_).__name__}. Use solver='auto' or 'exact', which "
            f"compute the limit of the path."
            f" {see('guide/solvers')}"
        )


def solve(
    model: RobustLinearClassifier,
    fit: Fit | JointFit,
    norms: Sequence[Norm],
    batches: Sequence[Batch] | None = None,
) -> list[Solution]:
    """The solution in each geometry: by the chosen solver, or the minimiser of the risk.

    The chosen solver serves the separable problems.

    The geometries share the decision whether problems are separable and the minimisers of the risk,
    which do not depend on the geometry. The paths of all problems in all geometries are one batch
    by default, certified together. A path in a batch of its own is that of a single fit, to the
    last digit.
    """
    in_memory = not isinstance(fit.problem.rows, BlockRows)
    small = in_memory and fit.n_entries <= _AUTO_ENTRIES
    exact = _solves_exactly(model, fit, norms, small=small)
    loss_tol = model.loss_tol
    if model.solver == "accelerated":
        solutions = [
            fit.ascend_dual(norm, max_iter=model.max_iter, loss_tol=loss_tol) for norm in norms
        ]
    else:
        shared = fit.decide_separability(norms[0])
        shared = fit.minimise_risk(norms[0], shared, False)
        others = [convert_margins(shared, norm, measured_in=norms[0]) for norm in norms[1:]]
        solutions = [shared, *others]
    # data too large for programs
    accelerates = (
        model.solver == "auto"
        and not small
        and in_memory
        and isinstance(fit, Fit)
        and fit.has_path
        and fit.has_minimiser
        and all(isinstance(norm, LpNorm) for norm in norms)
    )
    # programs over cones find the limit sooner than a path of projections
    at_once = exact and (model.solver == "exact" or fit.in_cones)
    long_path = (
        model.solver in ("auto", "exact")
        and not exact
        and isinstance(fit, JointFit)
        and fit.has_long_path(norms)
    )
    if long_path:
        assert isinstance(fit, JointFit)
        solutions = [
            fit.approach_limit(norm, solution, max_iter=model.max_iter, loss_tol=loss_tol)
            for norm, solution in zip(norms, solutions, strict=True)
        ]
    elif model.solver != "accelerated" and not at_once:
        batches = batches or [(range(len(norms)), np.arange(fit.n_problems))]
        max_iter = model.max_iter
        options = {"gives_up": True} if accelerates or (exact and isinstance(fit, Fit)) else {}
        if exact:
            max_iter = min(max_iter, fit.auto_iterations)
        elif model.solver != "steepest_descent" and isinstance(fit, JointFit):
            max_iter = min(max_iter, fit.affordable_iterations)
        solutions = fit.follow_paths(
            norms,
            solutions,
            batches,
            step_size=model.step_size,
            max_iter=max_iter,
            loss_tol=loss_tol,
            **options,
        )
    if accelerates:
        assert isinstance(fit, Fit)
        solutions = [
            fit.approach_limit(norm, solution, max_iter=model.max_iter, loss_tol=loss_tol)
            for norm, solution in zip(norms, solutions, strict=True)
        ]
    if exact:
        solutions = [
            fit.separate(norm, solution, loss_tol=loss_tol, n_jobs=model.n_jobs)
            for norm, solution in zip(norms, solutions, strict=True)
        ]
    return [
        fit.minimise_risk(norm, solution, False, None, accept=exact)
        for norm, solution in zip(norms, solutions, strict=True)
    ]
