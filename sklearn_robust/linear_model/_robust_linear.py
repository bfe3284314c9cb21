"""The robust linear classifier: one loss, one threat, one geometry, one solver."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from numbers import Real
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator

from sklearn_robust._array_api import like
from sklearn_robust._fits import all_or_nothing
from sklearn_robust._parameters import check_choice, check_exponent, check_number
from sklearn_robust.callbacks import FitCallbacks, with_callbacks
from sklearn_robust.linear_model.base import (
    ProbabilityMixin,
    RobustLinearMixin,
    dense,
    positive_classes,
)
from sklearn_robust.linear_model.fitting import (
    decide_separability,
    on_device,
    open_problems,
    remeasured,
    replace_rows,
    scale_to_loss,
    warn_if_constant,
    warn_unless_converged,
    with_exact_separators,
    with_risk_minimisers,
)
from sklearn_robust.linear_model.monitoring import FitMonitor
from sklearn_robust.losses import MarginLoss, check_loss
from sklearn_robust.norms import LpNorm
from sklearn_robust.problems import RobustProblem
from sklearn_robust.solvers import Solution, accelerated_margin, steepest_descent
from sklearn_robust.solvers.solution import solution_to_numpy
from sklearn_robust.threats import check_radius

_SOLVERS = ("auto", "steepest_descent", "accelerated", "exact")
_AUTO_ITERATIONS = 2000  # of the path, before solver="auto" computes its limit
_AUTO_ENTRIES = 10_000_000  # n * d up to which it does


class RobustLinearClassifier(ProbabilityMixin, RobustLinearMixin, BaseEstimator):
    r"""Linear classifier trained against the worst perturbation of each sample.

    Minimises the robust risk
    :math:`L(w, b) = \tfrac1n \sum_i \ell\big(y_i (\langle w, x_i\rangle + b) - \epsilon
    \|w\|_{q^*}\big)`, the risk at the worst point of the l_q ball of radius eps around each sample,
    by steepest descent in the geometry of the p-norm. Where the data are robustly separable the
    path tends in direction to the robust separator of least p-norm; where they are not, the risk
    has a minimiser, the same for every p. Either way the fit carries a certificate, `dual_gap_`.

    Parameters
    ----------
    p_algo : float, default=2
        Geometry of the algorithm, in [1, inf]: 1 coordinate descent, 2 gradient descent,
        `numpy.inf` sign descent. It decides which of the separating directions the path tends to,
        and with it how well the classifier generalises.
    q_pert : float, default=inf
        Exponent of the norm that bounds the perturbation, in [1, inf].
    eps : float, default=0.1
        Radius of the perturbation, in the units of the features that the classifier sees.
    loss : {"exponential", "logistic"} or MarginLoss, default="exponential"
        Loss of the margin. Both names have the same limit on separable data. An object is a loss of
        one's own, of which `losses.MarginLoss` says what it needs.
    solver : {"auto", "steepest_descent", "accelerated", "exact"}, default="auto"
        "steepest_descent" follows the path and stops on `loss_tol` or `tol`. "accelerated" (1 <
        p_algo <= 2) goes to the same limit by Nesterov's method on the dual. "exact" returns the
        limit itself, from linear, quadratic or cone programs. "auto" is steepest descent, and
        "exact" for data of up to 10 million entries whose path has not stopped after 2000
        iterations: data so close to inseparable that the path is slow and its limit hardly depends
        on p. All return the minimiser of the robust risk for data that are not robustly separable.
    scale : array-like of shape (n_features,) or dict {feature name: float}, optional
        How far the adversary can move each feature, relative to the others: the threat is
        :math:`\|\delta / s\|_q \le \epsilon`, and s takes the place of 1 in the penalty
        :math:`\epsilon \|s w\|_{q^*}`. A feature of scale 0 is out of its reach. Features that a
        dict does not name have 1, as all have by default.
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
        Parallel jobs over the classes for the exact solver.
    device : str or None, default=None
        None computes with NumPy; "cpu", "cuda" or "mps" with torch on that device (dense X; not for
        solver="exact"). The minimiser of the risk of data that are not separable is computed with
        NumPy always.
    verbose : int, default=0
        0 prints nothing. 1 prints a line where a stage of the fit begins and ends, and loss,
        margin, bound and gap of an iterative solver where it certifies by itself: every 10
        iterations at first, later every tenth of those so far. More than 1 prints them at every
        iteration, which takes longer. What is printed changes no digit of the fit.

    Attributes
    ----------
    coef_ : ndarray of shape (1, n_features) or (n_classes, n_features)
        Several classes are trained one against the rest.
    intercept_ : ndarray of shape (1,) or (n_classes,)
    scale_ : ndarray of shape (n_features,) or None
        The scale of each feature.
    threat_ : LpBall
        The threat of the fit, with `q`, `eps` and `scale`: what `robust_score` and the like assume,
        whatever `set_params` has changed since.
    classes_ : ndarray of shape (n_classes,)
    separable_ : bool or None
        Whether the training data are robustly separable, proven by the certificate; None is
        undecided. This and the next figures are arrays with one entry a class where there are
        several.
    margin_ : float
        Smallest robust margin of the training samples over the p-norm of w; positive if they are
        robustly separated.
    margin_bound_ : float
        No linear classifier has a larger one.
    dual_gap_ : float
        Separable: `1 - margin_ / margin_bound_`, how far the path stopped from its limit. Not
        separable: certified relative gap of the risk, 1 - (lower bound) / risk.
    log_risk_ : float
        Logarithm of the mean robust loss of the training samples.
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

    For several classes the robust decision (`robust_score`, `perturb`, `certified_radius`) is
    exact, by pairs of classes, while training is one-vs-rest.

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

    def __init__(
        self,
        p_algo: float = 2,
        q_pert: float = math.inf,
        eps: float = 0.1,
        *,
        loss: str | MarginLoss = "exponential",
        solver: str = "auto",
        scale: Any = None,
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
            If a solver stopped before its criterion, with the certified gap that it reached.
        ConstantClassifierWarning
            If eps is so large that nothing is learnt, with the radius from which on that is so.
        """
        self._check_parameters()
        last_coef = dense(self.coef_) if self.warm_start and hasattr(self, "coef_") else None
        last_classes: Any = getattr(self, "classes_", ())
        problem = self._read(X, y, sample_weight, self.class_weight)
        self._p = self.p_algo
        if last_coef is not None:
            needed, classes = (problem.n_problems, problem.n_features), self.classes_
            if last_coef.shape != needed or not np.array_equal(last_classes, classes):
                raise ValueError(
                    f"warm_start=True needs data like those of the last fit, whose coef_ has shape "
                    f"{last_coef.shape} and whose "
                    f"classes were {last_classes.tolist()}: these need {needed} and "
                    f"{classes.tolist()}. Fit with "
                    "warm_start=False."
                )
            last_coef = last_coef.astype(problem.y.dtype)
        callbacks = FitCallbacks(self, X, y, sample_weight)
        monitor = FitMonitor(
            self, callbacks, problem, verbose=self.verbose, classes=positive_classes(self.classes_)
        )
        (solution,) = self._solve(problem, [LpNorm(self.p_algo)], monitor, last_coef)
        if not monitor.stopped:
            warn_unless_converged(self, solution)
            warn_if_constant(self, problem, solution)
        self._keep(solution)
        callbacks.end_fit()
        return self

    def _check_parameters(self) -> None:
        check_exponent(self.p_algo, "p_algo")
        check_exponent(self.q_pert, "q_pert")
        check_radius(self.eps, "eps")
        check_loss(self.loss, "loss")
        check_choice(self.solver, "solver", _SOLVERS)
        check_choice(self.fit_intercept, "fit_intercept", (True, False))
        check_choice(self.warm_start, "warm_start", (True, False))
        if isinstance(self.step_size, Real):
            check_number(self.step_size, "step_size", low=0, strict=True)
        else:
            check_choice(self.step_size, "step_size", ("adaptive", "paper"))
        check_number(self.max_iter, "max_iter", low=1, integer=True)
        check_number(self.loss_tol, "loss_tol", low=0)
        check_number(self.tol, "tol", low=0)
        check_number(self.verbose, "verbose", low=0, integer=True)
        if self.solver == "exact" and self.device is not None:
            raise ValueError(
                f"device={self.device!r} is not for solver='exact', whose programs run on the CPU. "
                f"Use device=None."
            )
        if self.solver == "accelerated" and not 1 < self.p_algo <= 2:
            raise ValueError(
                f"solver='accelerated' needs p_algo in (1, 2], got p_algo={self.p_algo!r}. Use "
                f"solver='steepest_descent' for "
                "the path of this geometry or solver='exact' for its limit."
            )

    def _solve(
        self,
        problem: RobustProblem,
        norms: Sequence[LpNorm],
        monitor: FitMonitor,
        last_coef: np.ndarray | None = None,
        *,
        radius_by_radius: bool = False,
    ) -> list[Solution]:
        """The solution in each geometry: separable problems by the solver chosen, others by the
        minimiser of the risk.

        The geometries share what does not depend on them: the decision whether problems are
        separable, the minimisers of the risk, and the products with X along their paths. Paths that
        are followed radius by radius, and geometry by geometry, are those of fits of their own, to
        the last digit.
        """
        tensors = on_device(problem, self.device)
        self._loss = check_loss(self.loss, "loss", like=tensors.y)
        minimised = partial(
            with_risk_minimisers,
            problem,
            self._loss,
            monitor=monitor,
            tol=self.tol,
            start=last_coef,
        )
        if self.solver == "accelerated":
            solutions = [self._accelerated(problem, tensors, norm, monitor) for norm in norms]
            exact = False
        else:
            shared = decide_separability(tensors, self._loss, norms[0], monitor, tol=self.tol)
            shared = minimised(norms[0], shared, open_problems(shared, False))
            solutions = [
                shared,
                *(remeasured(shared, norm, measured_in=norms[0]) for norm in norms[1:]),
            ]
            small = problem.X.shape[0] * problem.n_features <= _AUTO_ENTRIES
            exact = self.solver == "exact" or (self.solver == "auto" and small)
            rows = open_problems(shared, True, None)
            if len(rows) and self.solver != "exact" and not monitor.stopped:
                max_iter = min(self.max_iter, _AUTO_ITERATIONS) if exact else self.max_iter
                batches = [(list(range(len(norms))), rows)]
                if radius_by_radius:
                    of_radius = np.split(rows, np.flatnonzero(np.diff(problem.radius[rows])) + 1)
                    batches = [([i], part) for i in range(len(norms)) for part in of_radius]
                solutions = self._with_paths(
                    tensors, norms, monitor, solutions, batches, max_iter, last_coef
                )
            if exact and not monitor.stopped:
                solutions = [
                    self._with_exact(problem, norm, solution, monitor)
                    for norm, solution in zip(norms, solutions, strict=True)
                ]
        return [
            minimised(norm, solution, open_problems(solution, False, None), undecided=exact)
            for norm, solution in zip(norms, solutions, strict=True)
        ]

    def _with_exact(
        self, problem: RobustProblem, norm: LpNorm, solution: Solution, monitor: FitMonitor
    ) -> Solution:
        rows = open_problems(solution, True, None)
        if not len(rows):
            return solution
        loss, loss_tol, tol = self._loss, self.loss_tol, self.tol
        with monitor.stage("exact separator", rows):
            return with_exact_separators(
                problem, loss, norm, solution, rows, loss_tol=loss_tol, tol=tol, n_jobs=self.n_jobs
            )

    def _accelerated(
        self, problem: RobustProblem, tensors: RobustProblem, norm: LpNorm, monitor: FitMonitor
    ) -> Solution:
        loss = self._loss
        with monitor.solver("accelerated", np.arange(problem.n_problems)) as monitors:
            limit = accelerated_margin(
                tensors, loss, norm, max_iter=self.max_iter, tol=self.tol, monitors=monitors
            )
        return scale_to_loss(problem, loss, solution_to_numpy(limit), self.loss_tol)

    def _with_paths(
        self,
        tensors: RobustProblem,
        norms: Sequence[LpNorm],
        monitor: FitMonitor,
        solutions: list[Solution],
        batches: list[tuple[list[int], np.ndarray]],
        max_iter: int,
        last_coef: np.ndarray | None,
    ) -> list[Solution]:
        """The solutions with the paths of each batch: of some geometries, by their index, and
        problems.
        """
        solutions = list(solutions)
        for geometries, rows in batches:
            of_all = np.tile(rows, len(geometries))
            with monitor.solver("steepest_descent", of_all) as monitors:
                paths = steepest_descent(
                    tensors.select(of_all),
                    self._loss,
                    [norms[i] for i in geometries for _ in rows],
                    step_size=self.step_size,
                    max_iter=max_iter,
                    loss_tol=self.loss_tol,
                    tol=self.tol,
                    stop_if_not_separable=True,
                    coef_init=None if last_coef is None else like(tensors.y, last_coef[of_all]),
                    monitors=monitors,
                )
            paths = solution_to_numpy(paths)
            for i, part in zip(
                geometries, np.arange(len(of_all)).reshape(len(geometries), -1), strict=True
            ):
                solutions[i] = replace_rows(solutions[i], rows, paths.rows(part))
        return solutions
