"""The fit of a linear classifier of two classes against an l_q ball, from sums over its samples.

The samples lie in blocks, in files or on a cluster, and none of their numbers is kept. The
minimiser of the risk is sought first; where a predictor separates the classes robustly on the way,
the exact separator takes its place.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from sklearn.utils import compute_class_weight, compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets

from sklearn_robust._documentation import see
from sklearn_robust._parameters import check_number
from sklearn_robust.certificates import Certified, relative_gap
from sklearn_robust.linear_model.block_rows import check_settings_of_blocks
from sklearn_robust.linear_model.fitting import RISK_TOL, find_scale
from sklearn_robust.linear_model.monitoring import FitMonitor
from sklearn_robust.linear_model.reading import read_threat, require_two_classes
from sklearn_robust.losses import SummableLoss, check_loss, is_summable, takes_entropy
from sklearn_robust.norms import LpNorm, Norm
from sklearn_robust.problems import check_range
from sklearn_robust.rows import BlockRows, LocalReduction, Reduction, Survey
from sklearn_robust.separators import NotSeparableError
from sklearn_robust.separators.summed import separate_sums, summed_margin
from sklearn_robust.solvers import (
    Solution,
    SummedSolution,
    log_risks_along,
    minimise_summed_risk,
    most_hessian_columns,
)
from sklearn_robust.solvers.solution import Monitoring
from sklearn_robust.summed import SummedJointProblem, SummedProblem, positive_classes
from sklearn_robust.threats import bound_threat, is_ball


def class_factors(class_weight: dict[Any, float] | str | None, survey: Survey) -> np.ndarray:
    """The factor on the sample weights of each label of a survey, as scikit-learn has them."""
    labels, used = survey.labels, survey.weights > 0
    factors = np.ones(len(labels))
    if isinstance(class_weight, dict):
        for label, value in class_weight.items():
            check_number(value, f"class_weight[{label!r}]", low=0)
        return factors * compute_sample_weight(class_weight, labels)
    if class_weight is not None:
        weights = survey.weights[used]
        factors[used] = compute_class_weight(
            class_weight, classes=labels[used], y=labels[used], sample_weight=weights
        )
    return factors


_WHOLE = np.ones(1)  # a predictor as it is, among its multiples


class NotBySumsError(ValueError):
    """A fit that needs more of the data than sums over them."""


def read_summed_problem(
    model: Any, reduction: Reduction, survey: Survey
) -> SummedProblem | SummedJointProblem:
    """The problem of a survey, for the settings of a classifier; a joint one for several classes.

    `classes_`, `scale_`, `threat_`, the number of features and their names are stored in the
    classifier.

    Raises
    ------
    ValueError
        If the data are unfit.
    NotBySumsError
        If the classifier has a setting, or the data a form, that sums over the samples do not
        serve.
    """
    check_classification_targets(survey.labels)
    model.n_features_in_ = survey.n_features
    vars(model).pop("feature_names_in_", None)
    if survey.feature_names is not None:
        model.feature_names_in_ = survey.feature_names
    if not survey.weights.any():
        raise ValueError(
            "sample_weight of X must not be all zero: give at least one sample a positive weight."
        )
    factors = class_factors(getattr(model, "class_weight", None), survey)
    classes = positive_classes(survey, factors)
    require_two_classes(model, classes)
    names = getattr(model, "feature_names_in_", None)
    threat = bound_threat(read_threat(model), survey.n_features, names, classes.tolist())
    _require_sums(model, survey, classes, threat)
    check_range(survey)
    model.classes_ = classes
    model.threat_, model.scale_ = threat, threat.scale
    model._fit_intercept = model.fit_intercept
    kind = SummedProblem if len(classes) == 2 else SummedJointProblem
    return kind.of(
        reduction,
        survey,
        threat,
        classes=classes,
        factors=factors[np.isin(survey.labels, classes)],
        fit_intercept=bool(model.fit_intercept),
    )


def _require_sums(model: Any, survey: Survey, classes: np.ndarray, threat: Any) -> None:
    """Refuse what needs more than sums over the samples."""
    # the estimator of the exact separator has none of these parameters
    loss, solver = getattr(model, "loss", "exponential"), getattr(model, "solver", "exact")
    p_algo = getattr(model, "p_algo", 2)
    d, of_risk = survey.n_features, check_loss(loss, "loss")
    most, joint = most_hessian_columns(survey), len(classes) > 2
    needs = ""
    if not is_ball(threat):
        needs = f"threat={type(threat).__name__}, no l_q ball, needs"
    elif not is_summable(of_risk) or (joint and not takes_entropy(of_risk)):
        needs = f"loss={loss!r} needs"
    elif solver not in ("auto", "exact"):
        needs = f"solver={solver!r} needs"
    elif not (isinstance(p_algo, str) or np.isscalar(p_algo)):
        needs = f"p_algo={p_algo!r} needs"
    elif not joint and d > most and (threat.q < math.inf or threat.eps == 0):
        needs = f"{d} features, more than {most}, with q_pert={threat.q} need"
    if needs:
        raise NotBySumsError(
            f"{needs} all samples in the memory of one machine, and X is read in blocks. Use "
            f"sklearn_robust.RobustLinearClassifier on an array, or the default settings."
            f" {see('guide/larger_than_memory')}"
        )


def read_by_sums(
    model: Any, X: Any, y: Any, sample_weight: Any, sample_radius: Any
) -> SummedProblem | SummedJointProblem | None:
    """The problem of rows in blocks by sums over them; None where these do not serve, or X are
    other data.
    """
    if not isinstance(X, BlockRows) or sample_radius is not None:
        return None
    check_settings_of_blocks(model, X, y, sample_weight)
    try:
        return read_summed_problem(model, LocalReduction(X), X.survey)
    except NotBySumsError:
        return None


@dataclass
class SummedFit:
    """The fit of one problem of two classes.

    Attributes
    ----------
    problem : SummedProblem
    loss : SummableLoss
    tol : float
        Certified relative gap to reach.
    monitor : FitMonitor
        Shown the iterations; once it is stopped, no stage begins.
    start : tuple of ndarray of shape (d,) and float, or None
        Coefficients and intercept at which the search for a minimiser of the risk starts.
    last : SummedSolution or None
        The last predictor of the search.
    """

    problem: SummedProblem
    loss: SummableLoss
    tol: float
    monitor: FitMonitor
    start: tuple[np.ndarray, float] | None = None
    last: SummedSolution | None = None

    def solve(self, norm: Norm, *, loss_tol: float, tol: float | None = None) -> Solution:
        """The minimiser of the risk, or the exact separator where the samples are separable, to a
        gap of `tol`, by default that of the fit.
        """
        solution = self.minimise_risk(norm)
        if solution.separable[0] is False or self.monitor.stopped:
            return solution
        assert isinstance(norm, LpNorm)
        fit = replace(self, tol=self.tol if tol is None else tol)
        return fit.separate(norm, solution, loss_tol=loss_tol)

    def minimise_risk(self, norm: Norm) -> Solution:
        """The minimiser of the risk, or a predictor that separates the samples robustly."""
        rows = np.arange(1)
        with self.monitor.solver("robust_risk", rows) as monitors:
            monitoring = Monitoring(0, monitors)

            def record(found: SummedSolution, *, last: bool = False) -> bool:
                self.last = found
                return self._show(monitoring, found, last=last)

            found = minimise_summed_risk(
                self.problem,
                self.loss,
                norm,
                tol=min(self.tol, RISK_TOL),
                start=self.start,
                record=record,
            )
            record(found, last=True)
        return self.solution(found)

    def separate(self, norm: LpNorm, solution: Solution, *, loss_tol: float) -> Solution:
        """The exact separator, scaled so that the sum of its robust losses is loss_tol.

        Samples of which no separator is found keep their solution; without a separator, proven,
        they are not separable.
        """
        problem, dtype = self.problem, self.problem.survey.dtype
        with self.monitor.stage("exact separator"):
            try:
                found = separate_sums(problem, norm)
            except NotSeparableError:
                return solution.not_separable(math.inf, converged=False)
            except RuntimeError:
                return solution
            scale = self._scale(found.certified, norm, loss_tol)
            # the certificate is that of the coefficients as the user sees them
            coef = (scale * found.certified.coef).astype(dtype)
            intercept = dtype.type(scale * found.certified.intercept)
            seen = problem.predictor(coef.astype(np.float64), float(intercept))
            margin = summed_margin(problem, found.rows, norm, seen.coef, seen.intercept)
            (log_risk,) = log_risks_along(problem, self.loss, seen.coef, seen.intercept, _WHOLE)
        bound = np.array([found.certified.bound], dtype)
        gap = relative_gap(np.array([margin]), np.array([found.certified.bound]))
        return replace(
            solution,
            coef=coef[None],
            intercept=np.array([intercept]),
            log_risk=np.array([log_risk], dtype),
            margin=np.array([margin], dtype),
            margin_bound=bound,
            gap=gap,
            separable=[True],
            converged=gap <= self.tol,
            n_iter=np.array([1]),
        )

    def _scale(self, found: Certified, norm: LpNorm, loss_tol: float) -> float:
        """The factor at which the sum of the robust losses of a separator is loss_tol; 1 for 0."""
        if loss_tol == 0:
            return 1.0
        goal = math.log(loss_tol) - math.log(self.problem.total_weight)

        def excess(scale: float) -> float:
            log_risks = log_risks_along(
                self.problem, self.loss, found.coef, found.intercept, np.array([scale])
            )
            return float(log_risks[0]) - goal

        return find_scale(excess, -goal, found.margin * float(norm.value(found.coef)))

    def _show(self, monitoring: Monitoring, found: SummedSolution, *, last: bool) -> bool:
        """Show the figures of an iteration; whether a monitor stops the fit."""
        state = self.solution(found)
        return monitoring(
            found.n_iter,
            np.arange(1),
            state.coef,
            state.intercept,
            last=last,
            log_risk=state.log_risk,
            margin=state.margin,
            margin_bound=state.margin_bound,
            gap=state.gap,
        )

    def last_solution(self) -> Solution:
        """The last predictor of the search."""
        assert self.last is not None
        return self.solution(self.last)

    def solution(self, found: SummedSolution) -> Solution:
        """The same, of the dtype of the data, without weights."""
        dtype = self.problem.survey.dtype
        bound = 0.0 if found.separable is False else math.inf
        return Solution(
            coef=found.coef[None].astype(dtype),
            intercept=np.array([found.intercept], dtype),
            weights=np.empty((1, 0)),
            log_risk=np.array([found.log_risk], dtype),
            margin=np.array([found.margin], dtype),
            margin_bound=np.array([bound], dtype),
            gap=np.array([found.gap]),
            separable=[found.separable],
            converged=np.array([found.gap <= self.tol]),
            n_iter=np.array([found.n_iter]),
        )
