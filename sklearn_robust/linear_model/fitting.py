"""The fit of a linear classifier, stage by stage, for the estimators that compose it.

A `Fit` holds the problem, its loss, its tolerance and its monitor. Each of its methods is a stage:
the decision which problems are robustly separable, the paths of steepest descent, the accelerated
ascent to their limit, the exact separators, and the minimisers of the risk where there is no
separator. A stage takes a `Solution` and returns one in which the problems that it solved are new.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Generic, Self, TypeVar

import numpy as np
from joblib import Parallel, delayed
from scipy import sparse
from scipy.optimize import brentq

from sklearn_robust._adversaries import Slots
from sklearn_robust._array_api import like
from sklearn_robust._parameters import check_device
from sklearn_robust.certificates import proves_not_separable, relative_gap, robust_margin
from sklearn_robust.joint import JointProblem
from sklearn_robust.linear_model.monitoring import FitMonitor
from sklearn_robust.losses import MarginLoss, check_loss
from sklearn_robust.norms import LpNorm
from sklearn_robust.problems import RobustProblem
from sklearn_robust.rows import BlockRows
from sklearn_robust.separators import NotSeparableError
from sklearn_robust.separators.min_norm import solve_separator
from sklearn_robust.solvers import (
    Solution,
    accelerated_margin,
    follow_worst_points,
    minimise_robust_risk,
    steepest_descent,
)
from sklearn_robust.solvers.solution import solution_to_numpy
from sklearn_robust.threats import (
    ConicThreat,
    ProximalThreat,
    check_threat,
    is_ball,
    offers,
    require,
)

# Certified relative gap of every minimiser of the risk of two classes, unless tol is smaller. So
# small that the start of the search does not show in the minimiser; from a larger gap it is a
# Newton step or two. With several classes a search ends at tol, and this is the least gap it seeks.
RISK_TOL = 1e-9
_LARGEST_MARGIN = 1e9  # least robust margin of a sample to which a separator is scaled, at most

# The search for a proof of separability, or of its opposite
_SEARCH_NORM = LpNorm(2)  # the geometry in which the accelerated ascent is fastest
_SEARCH_ITERATIONS = 500  # iterations at most
_SIGN_TOL = 1 - 1e-9  # relative gap at which it stops: only the margin's sign matters

# one problem of several classes, or k of two
P = TypeVar("P", RobustProblem, JointProblem)
Geometry = Any  # a Norm; exact separators need an LpNorm
# the paths that are followed together: of the geometries at these indices, and of these problems
Batch = tuple[Sequence[int], np.ndarray]


@dataclass
class BaseFit(Generic[P]):
    """The data and settings that the stages of a fit share.

    Attributes
    ----------
    problem : RobustProblem or JointProblem
        k problems of two classes, or one of several, on NumPy or scipy.sparse data.
    tensors : RobustProblem or JointProblem
        The same on the device of the iterative solvers.
    loss : MarginLoss
    tol : float
        Certified relative gap to reach.
    monitor : FitMonitor
        Shown the iterations; once it is stopped, no stage begins.
    start : array of shape (k, d) or (K, d) or None
        Coefficients at which the paths, and the searches for a minimiser of the risk, start.
    """

    problem: P
    tensors: P
    loss: MarginLoss
    tol: float
    monitor: FitMonitor
    start: np.ndarray | None = None

    @classmethod
    def of(
        cls,
        problem: P,
        monitor: FitMonitor,
        *,
        loss: str | MarginLoss,
        tol: float,
        device: str | None = None,
        start: np.ndarray | None = None,
    ) -> Self:
        """The fit of a problem under a loss, by name or an object, on a device."""
        tensors = on_device(problem, device)
        loss = check_loss(loss, "loss", like=tensors.log_weight)
        return cls(problem, tensors, loss, tol, monitor, start)


@dataclass
class Fit(BaseFit[RobustProblem]):
    """The fit of k problems of two classes."""

    # iterations of the path, after which solver="auto" computes its limit
    auto_iterations: ClassVar[int] = 2000

    @property
    def n_problems(self) -> int:
        """The number of problems, k."""
        return self.problem.n_problems

    @property
    def n_entries(self) -> int:
        """Entries of the margins' constraints."""
        return int(self.problem.X.shape[0] * self.problem.n_features)

    @property
    def has_minimiser(self) -> bool:
        """Whether `minimise_robust_risk` serves this threat; otherwise the path goes on instead."""
        problem, threat = self.problem, self.problem.threat
        return problem.adversary is not None or is_ball(threat) or offers(threat, ConicThreat)

    @property
    def in_cones(self) -> bool:
        """Whether cone programs serve the threat: sets of samples, or a set that is no ball."""
        problem, threat = self.problem, self.problem.threat
        return problem.adversary is not None or (
            not is_ball(threat) and offers(threat, ConicThreat)
        )

    @property
    def has_path(self) -> bool:
        """Whether steepest descent serves this threat: one symmetric set with a projection."""
        return self.problem.adversary is None and offers(self.problem.threat, ProximalThreat)

    def decide_separability(self, norm: Geometry) -> Solution:
        """Which problems are robustly separable, by the first proof.

        With more rows than twice the columns the problems are unlikely to be separable: the
        minimisers of the risk, which prove it, are computed at once. For open problems a separator
        is sought, in the geometry that decides fastest.
        """
        problem = self.problem
        rows = np.arange(problem.n_problems)
        projects = self.has_path
        in_memory = self.tensors is problem
        tall = in_memory and problem.X.shape[0] > 2 * problem.n_features
        if not self.has_minimiser or (projects and not tall and not self.in_cones):
            return self._seek_separators(norm, rows)
        with self.monitor.solver("robust_risk", rows) as monitors:
            solution = minimise_robust_risk(
                problem, self.loss, norm, tol=min(self.tol, RISK_TOL), monitors=monitors
            )
        solution = replace(solution, converged=solution.gap <= self.tol)
        undecided = np.flatnonzero([separable is None for separable in solution.separable])
        if not len(undecided) or self.monitor.stopped or not projects:
            return solution
        return update_problems(solution, undecided, self._seek_separators(norm, undecided))

    def _seek_separators(self, norm: Geometry, rows: np.ndarray) -> Solution:
        """A first separator of each of these problems, or a proof that there is none."""
        require(self.problem.threat, ProximalThreat, "the search for a separator")
        with self.monitor.stage("search for a separator"):
            found = accelerated_margin(
                self.tensors.select(rows),
                self.loss,
                _SEARCH_NORM,
                max_iter=_SEARCH_ITERATIONS,
                tol=_SIGN_TOL,
            )
        solution = convert_margins(solution_to_numpy(found), norm, measured_in=_SEARCH_NORM)
        solution.converged[:] = False  # only the sign of the margin is known
        return solution

    def follow_paths(
        self,
        norms: Sequence[Geometry],
        solutions: Sequence[Solution],
        batches: Sequence[Batch],
        *,
        step_size: float | str,
        max_iter: int,
        loss_tol: float,
        gives_up: bool = False,
    ) -> list[Solution]:
        """The solution in each geometry, with the paths of steepest descent of the open problems.

        The paths are followed batch by batch. Problems that are proven not to be separable are left
        out, unless there is no other solver for the minimiser of their risk. Where samples have
        sets of their own, or the set has no projection, the path of the 2-norm is followed by worst
        points, and certified by its limit. With `gives_up` a path ends that is too slow to end
        within max_iter.
        """
        solutions = list(solutions)
        if self.has_minimiser and not self.has_path:
            return [
                self._follow_worst_points(norm, solution, step_size, max_iter, loss_tol)
                for norm, solution in zip(norms, solutions, strict=True)
            ]
        followed = (True, None) if self.has_minimiser else (True, None, False)
        for geometries, members in batches:
            still_open = find_open_problems(solutions[geometries[0]], *followed)
            rows = np.intersect1d(members, still_open)
            if not len(rows) or self.monitor.stopped:
                continue
            repeated = np.tile(rows, len(geometries))
            start = None if self.start is None else like(self.tensors.y, self.start[repeated])
            with self.monitor.solver("steepest_descent", repeated) as monitors:
                paths = steepest_descent(
                    self.tensors.select(repeated),
                    self.loss,
                    [norms[i] for i in geometries for _ in rows],
                    step_size=step_size,
                    max_iter=max_iter,
                    loss_tol=loss_tol,
                    tol=self.tol,
                    stop_if_not_separable=self.has_minimiser,
                    gives_up=gives_up,
                    coef_init=start,
                    monitors=monitors,
                )
            paths = solution_to_numpy(paths)
            parts = np.arange(len(repeated)).reshape(len(geometries), -1)
            for i, part in zip(geometries, parts, strict=True):
                solutions[i] = update_problems(solutions[i], rows, paths.rows(part))
        return solutions

    def _follow_worst_points(
        self,
        norm: Geometry,
        solution: Solution,
        step_size: float | str,
        max_iter: int,
        loss_tol: float,
    ) -> Solution:
        """The solution with the paths of open problems whose samples have sets of their own."""
        for i in find_open_problems(solution, True, None).tolist():
            if self.monitor.stopped:
                break
            row = np.array([i])
            one = in_float64(self.problem.select(row))
            if one.adversary is None:
                everyone = np.ones(one.y.shape[1])
                one = replace(one, adversary=Slots.by_sample(one.threat, everyone))
            with self.monitor.stage("exact separator"):
                limit = _find_separator(one, self.loss, norm, self.tol, False)
            if limit is None or limit.separable[0] is False:
                solution = solution if limit is None else update_problems(solution, row, limit)
                continue
            with self.monitor.solver("steepest_descent", row) as monitors:
                path = follow_worst_points(
                    one,
                    self.loss,
                    limit,
                    step_size=step_size,
                    max_iter=max_iter,
                    loss_tol=loss_tol,
                    tol=self.tol,
                    coef_init=None if self.start is None else self.start[row],
                    monitors=monitors,
                )
            solution = update_problems(solution, row, path)
        return solution

    def ascend_dual(self, norm: Geometry, *, max_iter: int, loss_tol: float) -> Solution:
        """The limit of the path of every problem, by the accelerated method."""
        with self.monitor.solver("accelerated", np.arange(self.problem.n_problems)) as monitors:
            limit = accelerated_margin(
                self.tensors, self.loss, norm, max_iter=max_iter, tol=self.tol, monitors=monitors
            )
        return scale_to_loss(self.problem, self.loss, solution_to_numpy(limit), loss_tol)

    def approach_limit(
        self, norm: Geometry, solution: Solution, *, max_iter: int, loss_tol: float
    ) -> Solution:
        """The solution with the limits of the paths of open problems, where the accelerated method
        proves more than the paths did.
        """
        rows = find_open_problems(solution, True, None)
        if not len(rows) or self.monitor.stopped:
            return solution
        with self.monitor.solver("accelerated", rows) as monitors:
            limit = accelerated_margin(
                self.tensors.select(rows),
                self.loss,
                norm,
                max_iter=max_iter,
                tol=self.tol,
                monitors=monitors,
            )
        limit = solution_to_numpy(limit)
        limit = scale_to_loss(self.problem.select(rows), self.loss, limit, loss_tol)
        not_separable = np.array([separable is False for separable in limit.separable])
        better = np.flatnonzero(not_separable | (limit.gap < solution.gap[rows]))
        return update_problems(solution, rows[better], limit.rows(better))

    def separate(
        self,
        norm: Geometry,
        solution: Solution,
        *,
        loss_tol: float,
        n_jobs: int | None = None,
        raises: bool = False,
    ) -> Solution:
        """The solution with exact separators of open problems, or proofs of non-separability.

        Problems that are already proven not to be separable stay as they are, as do those whose
        program fails or ends at a larger gap. With `raises` a new proof is a NotSeparableError.
        """
        rows = find_open_problems(solution, True, None)
        if not len(rows) or self.monitor.stopped:
            return solution
        ones = [self.problem.select(slice(i, i + 1)) for i in rows]
        with self.monitor.stage("exact separator"):
            answers = Parallel(n_jobs=n_jobs)(
                delayed(_find_separator)(one, self.loss, norm, self.tol, raises) for one in ones
            )
            for i, one, answer in zip(rows.tolist(), ones, answers, strict=True):
                if answer is None or (
                    answer.separable[0]
                    and solution.separable[i]
                    and solution.gap[i] < answer.gap[0]
                ):
                    continue
                scaled = scale_to_loss(one, self.loss, answer, loss_tol)
                solution = update_problems(solution, np.array([i]), scaled)
        return solution

    def minimise_risk(
        self, norm: Geometry, solution: Solution, *separable: bool | None, accept: bool = False
    ) -> Solution:
        """The solution with the minimisers of the risk of open problems of this separability.

        They are used where the problems are then found not to be separable.

        With `accept` the predictors at which the search for a minimiser ended are used as well, if
        their risk is lower, where separability stays open or is only then found.
        """
        rows = find_open_problems(solution, *separable)
        if not len(rows) or self.monitor.stopped or not self.has_minimiser:
            return solution
        proof = solution.weights[rows]
        with self.monitor.solver("robust_risk", rows) as monitors:
            minimiser = minimise_robust_risk(
                self.problem.select(rows),
                self.loss,
                norm,
                tol=min(self.tol, RISK_TOL),
                coef_init=None if self.start is None else self.start[rows],
                proof=proof,
                monitors=monitors,
            )
        minimiser = replace(minimiser, converged=minimiser.gap <= self.tol)
        proven = np.array([solution.separable[i] is False for i in rows])
        # proven not to be separable before, if not again: the proof stays
        for j in np.flatnonzero(proven & ~np.isfinite(minimiser.gap)):
            minimiser.separable[j] = False
            minimiser.margin_bound[j] = 0.0
            minimiser.weights[j] = proof[j]
        better = np.array([flag is False for flag in minimiser.separable])
        if accept:
            was_open = np.array([solution.separable[i] is None for i in rows])
            better |= was_open & (minimiser.log_risk < solution.log_risk[rows])
        better = np.flatnonzero(better)
        return update_problems(solution, rows[better], minimiser.rows(better))


def on_device(problem: P, device: str | None) -> P:
    """The problem as torch tensors, where a device is given."""
    if device is None:
        return problem
    if problem.adversary is not None:
        raise ValueError(
            f"device={device!r} needs one symmetric set for all samples, got "
            f"threat={type(problem.threat).__name__}. Use device=None."
        )
    check_device(device)
    if sparse.issparse(problem.X):
        raise ValueError(
            f"device={device!r} needs dense data, got a sparse X. Use device=None, or X.toarray()."
        )
    import torch

    def tensor(x: np.ndarray) -> torch.Tensor:
        x = x if x.flags.writeable else x.copy()  # torch has no read-only tensors
        single = device == "mps" and x.dtype.kind == "f"
        return torch.as_tensor(x, dtype=torch.float32 if single else None, device=device)

    tensors = problem.mapped(tensor, tensor(problem.X))
    if not is_ball(problem.threat):
        try:
            check_threat(tensors.threat, tensors.X[:1])
        except (TypeError, AttributeError, RuntimeError) as error:
            raise ValueError(
                f"threat={type(problem.threat).__name__} must compute on torch tensors for "
                f"device={device!r}, and raises {type(error).__name__} on them. Give it a method "
                "mapped(function), or use device=None."
            ) from error
    return tensors


def in_float64(problem: RobustProblem) -> RobustProblem:
    """The problem for exact separators: rows in blocks become float64 a few at a time."""
    in_blocks = isinstance(problem.rows, BlockRows)
    return problem.in_double_arithmetic() if in_blocks else problem.as_float64()


def _find_separator(
    problem: RobustProblem, loss: MarginLoss, norm: Geometry, tol: float, raises: bool = False
) -> Solution | None:
    """The exact separator of one problem, or the proof that there is none, as an error if `raises`.

    The answer is None where the programs fail to decide.
    """
    double = in_float64(problem)
    dtype = problem.y.dtype
    coef = np.zeros((1, problem.n_features))
    intercept = np.zeros(1)
    margin = np.zeros(1)
    margin_bound = np.zeros(1)
    separable = True
    try:
        found = solve_separator(double, norm)
    except NotSeparableError as error:
        separable = False
        weights = error.weights[None]
        proven = error.threat is not None or proves_not_separable(double, weights)[0]
        if not proven:
            return None  # eps is eps* to the last digits
        if raises:
            raise
    except RuntimeError:
        return None
    else:
        # the certificate is that of the coefficients as the user sees them
        coef[0] = found.coef.astype(dtype)
        intercept[0] = dtype.type(found.intercept)
        weights = found.dual_coef[None]
        margin_bound[0] = found.margin_bound
        rounded = not (coef[0] == found.coef).all() or intercept[0] != found.intercept
        margin[0] = robust_margin(double, norm, coef, intercept)[0] if rounded else found.margin
    gap = relative_gap(margin, margin_bound)
    log_risk, _ = loss.log_risk_and_weights(double.margins(coef, intercept), double.log_weight)
    return Solution(
        coef=coef.astype(dtype),
        intercept=intercept.astype(dtype),
        weights=weights,
        log_risk=log_risk.astype(dtype),
        margin=margin.astype(dtype),
        margin_bound=margin_bound.astype(dtype),
        gap=gap,
        separable=[separable],
        converged=gap <= tol,
        n_iter=np.array([1]),
    )


def convert_margins(solution: Solution, norm: Geometry, *, measured_in: Geometry) -> Solution:
    """The same predictors with margins over this norm of w instead of that one.

    Bounds on margins over the other norm no longer hold.
    """
    flat = solution.coef.reshape(len(solution.coef), -1)
    size, new_size = measured_in.value(flat), norm.value(flat)
    ratio = np.divide(size, new_size, out=np.ones_like(size), where=new_size > 0)
    unbounded = np.array([separable is not False for separable in solution.separable])
    return replace(
        solution,
        separable=list(solution.separable),
        margin=solution.margin * ratio,
        margin_bound=np.where(unbounded, math.inf, solution.margin_bound),
        gap=np.where(unbounded, math.inf, solution.gap),
    )


def find_open_problems(solution: Solution, *separable: bool | None) -> np.ndarray:
    """The problems that have not converged, and whose separability is one of these."""
    return np.flatnonzero([flag in separable for flag in solution.separable] & ~solution.converged)


def scale_to_loss(
    problem: RobustProblem, loss: MarginLoss, solution: Solution, loss_tol: float
) -> Solution:
    """Separators scaled so that the sum of their robust losses is loss_tol.

    At this sum steepest descent stops.
    """
    if loss_tol == 0:
        return solution
    goal = math.log(loss_tol)
    for i in np.flatnonzero(solution.margin > 0):
        row = slice(i, i + 1)
        one = problem.select(row)
        margins = one.margins(solution.coef[row], solution.intercept[row])
        smallest = margins.min()
        margins = np.where(margins < math.inf, margins, 0.0)  # inf for samples of weight zero

        def excess(scale: float, one: RobustProblem = one, margins: np.ndarray = margins) -> float:
            log_risk = loss.log_risk_and_weights(scale * margins, one.log_weight)[0][0]
            return float(log_risk + one.log_total_weight[0] - goal)

        # exp(-scale * smallest margin) bounds the loss
        scale = find_scale(excess, float(one.log_total_weight[0] - goal), smallest)
        solution.coef[row] *= scale
        solution.intercept[row] *= scale
        solution.log_risk[row] = excess(scale) + goal - one.log_total_weight
    return solution


def find_scale(excess: Callable[[float], float], goal: float, smallest: float) -> float:
    """The scale of a separator at which the excess of its log-risk is zero.

    The bound on the loss reaches zero excess where the smallest margin times the scale is `goal`:
    this scale is past the root, or at it up to rounding. It is doubled for a loss without the
    bound, up to the largest margin.
    """
    upper = max(1.0, goal / smallest)
    while excess(upper) > 1e-5 and upper * smallest < _LARGEST_MARGIN:
        upper *= 2
    return brentq(excess, 0.0, upper) if excess(0.0) > 0 > excess(upper) else upper


def update_problems(solution: Solution, rows: np.ndarray, part: Solution) -> Solution:
    """The solution with the entries of these problems replaced; proofs of separability stay."""
    merged: dict[str, Any] = {}
    for f in fields(Solution):
        if f.name == "history":
            continue
        values: list[Any] = list(getattr(solution, f.name))
        for i, value in zip(rows.tolist(), getattr(part, f.name), strict=True):
            values[i] = values[i] if value is None else value
        merged[f.name] = values if f.name == "separable" else np.array(values)
    return replace(solution, **merged)
