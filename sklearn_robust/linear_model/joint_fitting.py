"""The fit of a linear classifier of several classes, stage by stage.

A `JointFit` has the stages of `Fit` for one problem of K > 2 classes, with the same arguments. Its
solutions have k = 1 and arrays (1, K, d) and (1, K) as coefficients and intercepts. Their weights
are empty, (1, K, 0): a proof is judged where it is found, and an array (K, n) may be as large as X.

The minimiser of the risk also decides whether the data are robustly separable: it ends at the
first predictor that separates the classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import numpy as np

from sklearn_robust._documentation import see
from sklearn_robust._pair_programs import n_pair_entries
from sklearn_robust.certificates import Certified
from sklearn_robust.joint import JointEvaluation, JointProblem
from sklearn_robust.joint_certificates import (
    entropy_bound,
    feasibility,
    robust_margin,
)
from sklearn_robust.linear_model.fitting import (
    RISK_TOL,
    BaseFit,
    Batch,
    Geometry,
    find_open_problems,
    find_scale,
)
from sklearn_robust.losses import MarginLoss
from sklearn_robust.norms import LpNorm
from sklearn_robust.separators import NotSeparableError
from sklearn_robust.separators.joint import solve_joint_separator
from sklearn_robust.solvers import (
    JointSolution,
    Solution,
    joint_limit,
    joint_steepest_descent,
    minimise_joint_risk,
)
from sklearn_robust.solvers.solution import risk_gap, solution_to_numpy
from sklearn_robust.threats import ProximalThreat, offers

# share of its capacity that a pair must carry for a proof, up to which another flow is sought
_NEAR_PROOF = 2.0
# Certified relative gap that exact separators aim at: so small that repeated samples do not show in
# the separator. It costs a Newton step more, and a larger gap is not refused.
_SEPARATOR_TOL = 1e-12

# entries of arrays over classes and samples, and over pairs and features, that a path of
# solver="auto" may compute: some minutes
_MOST_ENTRIES = 4_000_000_000
_STEP_SEARCH = 20  # passes of the search for a step over the second, about
_FEWEST_ITERATIONS = 10  # iterations of the path in any case

_LIMIT_NORM = LpNorm(2)  # the geometry of `joint_limit`
# entries of the margins' constraints up to which programs decide separability where the minimiser
# of the risk does not: so near to eps* they may take an hour on more
_MOST_UNDECIDED = 500_000

# entries of the margins of all pairs of a sample and a rival against sets of samples, and of the
# differences of all pairs of classes, up to either of which solver="auto" computes the separator:
# some minutes
_MOST_PAIR_ENTRIES = 40_000
_MOST_DIFFERENCES = 2_000

_ONE = np.zeros(1, dtype=int)  # the index of the one problem


@dataclass
class JointFit(BaseFit[JointProblem]):
    """The fit of one problem of several classes.

    Attributes
    ----------
    minimised : JointSolution or None
        Where the last search for a minimiser of the risk ended.
    """

    minimised: JointSolution | None = None

    n_problems: ClassVar[int] = 1
    auto_iterations: ClassVar[int] = 300  # an iteration is slow beside an exact separator

    @property
    def affordable_iterations(self) -> int:
        """Iterations of the path that take some minutes at most."""
        problem = self.problem
        entries = problem.n_classes * len(problem.y)
        entries += _STEP_SEARCH * len(problem.pairs[0]) * problem.n_features
        return max(_FEWEST_ITERATIONS, _MOST_ENTRIES // entries)

    @cached_property
    def double(self) -> JointProblem:
        """The problem in double arithmetic."""
        return self.problem.in_double_arithmetic()

    @property
    def n_entries(self) -> int:
        """Entries of the margins' constraints, without zeros."""
        return int(self.problem.X.shape[0] * self.problem.n_features * self.problem.n_classes)

    @property
    def has_minimiser(self) -> bool:
        """Whether `minimise_joint_risk` serves this threat; otherwise the path goes on instead."""
        return self.in_cones or offers(self.problem.threat, ProximalThreat)

    @property
    def in_cones(self) -> bool:
        """Whether cone programs serve the threat: sets of samples, or a set that is no ball."""
        return self.problem.in_cones() is not None

    @property
    def has_path(self) -> bool:
        """Whether steepest descent serves this threat: one symmetric set, with a projection; a set
        without cones is judged where the path begins.
        """
        projects = offers(self.problem.threat, ProximalThreat)
        return self.problem.adversary is None and (projects or not self.in_cones)

    @property
    def has_quick_separator(self) -> bool:
        """Whether the program of the separator takes some minutes at most."""
        problem = self.problem
        differences = problem.n_classes * (problem.n_classes - 1) * problem.n_features
        few = n_pair_entries(problem) <= _MOST_PAIR_ENTRIES or differences <= _MOST_DIFFERENCES
        return self.has_path or few

    def decide_separability(self, norm: Geometry) -> Solution:
        """The minimiser of the risk, or a first predictor that separates the classes.

        The coefficients 0 come first: they are the minimiser for a large radius.
        """
        constant = self._constant(norm)
        if constant.converged[0] or not self.has_minimiser or self.monitor.stopped:
            return constant
        return self.minimise_risk(norm, constant, None, accept=True)

    def follow_paths(
        self,
        norms: Sequence[Geometry],
        solutions: Sequence[Solution],
        batches: Sequence[Batch],
        *,
        step_size: float | str,
        max_iter: int,
        loss_tol: float,
    ) -> list[Solution]:
        """The solution in each geometry, with the path of steepest descent where it is open.

        A path is not followed where the data are proven not to be separable, unless there is no
        other solver for the minimiser of the risk.
        """
        solutions = list(solutions)
        if not self.has_path:
            return solutions
        followed = (True, None) if self.has_minimiser else (True, None, False)
        for i in [geometry for geometries, _ in batches for geometry in geometries]:
            rows = find_open_problems(solutions[i], *followed)
            if not len(rows) or self.monitor.stopped:
                continue
            with self.monitor.solver("steepest_descent", rows) as monitors:
                path = joint_steepest_descent(
                    self.tensors,
                    self.loss,
                    norms[i],
                    step_size=step_size,
                    max_iter=max_iter,
                    loss_tol=loss_tol,
                    tol=self.tol,
                    stop_if_not_separable=self.has_minimiser,
                    coef_init=self.start,
                    monitors=monitors,
                    keep_weights=False,
                )
            solutions[i] = _updated(solutions[i], solution_to_numpy(path))
        return solutions

    def ascend_dual(self, norm: Geometry, *, max_iter: int, loss_tol: float) -> Solution:
        """The limit of the path in the 2-norm, without the path."""
        if norm != _LIMIT_NORM:
            raise ValueError(
                f"solver='accelerated' of {self.problem.n_classes} classes needs p_algo=2, got "
                f"p_algo={getattr(norm, 'p', norm)!r}. Use solver='steepest_descent' for the path "
                "of this geometry or solver='exact' for its limit."
                f" {see('guide/solvers')}"
            )
        solution = self.decide_separability(norm)
        return self.approach_limit(norm, solution, max_iter=max_iter, loss_tol=loss_tol)

    def has_long_path(self, norms: Sequence[Geometry]) -> bool:
        """Whether the limit of the path is found sooner than the path can be followed."""
        few = self.affordable_iterations < self.auto_iterations
        return few and self.has_minimiser and all(norm == _LIMIT_NORM for norm in norms)

    def approach_limit(
        self, norm: Geometry, solution: Solution, *, max_iter: int, loss_tol: float
    ) -> Solution:
        """The solution with the separator of least 2-norm where it is open, certified to tol if
        the iterations suffice.
        """
        rows = find_open_problems(solution, True, None)
        if not len(rows) or self.monitor.stopped:
            return solution
        with self.monitor.solver("accelerated", rows) as monitors:
            limit = joint_limit(self.problem, tol=self.tol, max_iter=max_iter, monitors=monitors)
        found = limit.certified
        if not found.margin > 0:
            return solution
        answer = self._separator(norm, found, limit.n_iter)
        return _updated(solution, scale_to_loss(self.problem, self.loss, answer, loss_tol))

    def separate(
        self,
        norm: Geometry,
        solution: Solution,
        *,
        loss_tol: float,
        n_jobs: int | None = None,
        raises: bool = False,
    ) -> Solution:
        """The solution with the exact separator of an open problem, or the proof that there is
        none.

        It stays as it is where its data are already proven not to be separable, and where the
        program fails or ends at a larger gap, and where it is left open whether large data are
        separable. With `raises` a new proof is a NotSeparableError.
        """
        rows = find_open_problems(solution, True, None)
        if not len(rows) or self.monitor.stopped:
            return solution
        if solution.separable[0] is None and self.has_path and self.n_entries > _MOST_UNDECIDED:
            return solution
        with self.monitor.stage("exact separator"):
            answer = self._find_separator(norm, raises)
            if answer is None or (
                answer.separable[0] and solution.separable[0] and solution.gap[0] < answer.gap[0]
            ):
                return solution
            scaled = scale_to_loss(self.problem, self.loss, answer, loss_tol)
            return _updated(solution, scaled)

    def minimise_risk(
        self, norm: Geometry, solution: Solution, *separable: bool | None, accept: bool = False
    ) -> Solution:
        """The solution with the minimiser of the risk where it is open and of this separability.

        It is used where the data are then found not to be separable. With `accept` the predictor at
        which the search ended is used as well, if its risk is lower, where separability was open.
        A search is not repeated, unless the solution has a lower risk than where the last one
        ended.
        """
        rows = find_open_problems(solution, *separable)
        if not len(rows) or self.monitor.stopped or not self.has_minimiser:
            return solution
        if self.minimised is None or solution.log_risk[0] < self.minimised.log_risk:
            self.minimised = self._search(solution)
        found = self._of_minimiser(norm, self.minimised)
        if found.separable[0] is None and solution.separable[0] is False:
            # proven before, if not again: the proof stays
            found = found.not_separable(math.inf, converged=False)
        lower = solution.separable[0] is None and found.log_risk[0] < solution.log_risk[0]
        if found.separable[0] is False or (accept and lower):
            return _updated(solution, found)
        return solution

    # -- the parts of the stages

    def _search(self, solution: Solution) -> JointSolution:
        """The end of a search for the minimiser of the risk."""
        coef = solution.coef[0]
        if self.start is not None and not coef.any():
            coef = self.start
        start = None
        if coef.any() and self.has_path:  # a program has no start
            coef = coef.astype(np.float64)
            start = coef, self.double.evaluate(self.loss, coef).intercept
        with self.monitor.solver("robust_risk", _ONE) as monitors:
            end = minimise_joint_risk(
                self.problem,
                self.loss,
                tol=max(self.tol, RISK_TOL),
                start=start,
                monitors=monitors,
            )
        return _without_weights(end)

    def _constant(self, norm: Geometry) -> Solution:
        """The coefficients 0 with the best intercepts, which may minimise the risk."""
        coef = np.zeros((self.problem.n_classes, self.problem.n_features))
        if self.has_path:
            now, bound = constant_predictor(self.double.at_class_means(), self.loss)
        else:
            now, bound = self.double.evaluate(self.loss, coef), -math.inf
        return self._solution(norm, coef, now.intercept, bound, log_risk=float(now.log_risk))

    def _of_minimiser(self, norm: Geometry, end: JointSolution) -> Solution:
        """The solution at which a search for the minimiser of the risk ended."""
        solution = self._solution(norm, end.coef, end.intercept, end.bound)
        return replace(solution, n_iter=np.array([end.n_iter]))

    def _solution(
        self,
        norm: Geometry,
        coef: np.ndarray,
        intercept: np.ndarray,
        log_bound: float = -math.inf,
        log_risk: float | None = None,
    ) -> Solution:
        """A predictor, rounded to the type of the data, with its margin and the gap of its risk.

        `log_bound` is a proven lower bound on the log-risk; -inf without one.
        """
        problem = self.double
        dtype = self.problem.log_weight.dtype
        coef, intercept = (array.astype(dtype).astype(np.float64) for array in (coef, intercept))
        if log_risk is None:
            log_risk = float(problem.evaluate(self.loss, coef, intercept).log_risk)
        margin = robust_margin(problem, norm, coef, intercept)
        separable = True if margin > 0 else None
        gap = math.inf
        if separable is None and log_bound > -math.inf:
            separable, gap = False, risk_gap(log_bound, log_risk)
        return Solution(
            coef=coef[None].astype(dtype),
            intercept=intercept[None].astype(dtype),
            weights=np.zeros((1, len(coef), 0)),
            log_risk=np.array([log_risk], dtype=dtype),
            margin=np.array([margin], dtype=dtype),
            margin_bound=np.array([0.0 if separable is False else math.inf], dtype=dtype),
            gap=np.array([gap]),
            separable=[separable],
            converged=np.array([gap <= self.tol]),
            n_iter=np.array([0]),
        )

    def _find_separator(self, norm: Geometry, raises: bool) -> Solution | None:
        """The exact separator, or the proof that there is none, as an error if `raises`; None where
        the programs fail to decide.
        """
        problem = self.double
        try:
            found = solve_joint_separator(problem, norm, _SEPARATOR_TOL)
        except NotSeparableError as error:
            if not self._is_proof(error):
                return None  # eps is eps* to the last digits
            if raises:
                raise
            constant = self._constant(norm)
            return constant.not_separable(math.inf, converged=False)
        except RuntimeError:
            return None
        return self._separator(norm, found, 1)

    def _separator(self, norm: Geometry, found: Certified, n_iter: int) -> Solution:
        """A separator, certified as the user sees its coefficients."""
        answer = self._solution(norm, found.coef, found.intercept)
        rounded = not (answer.coef[0] == found.coef).all()
        margin = answer.margin[0] if rounded else found.margin
        gap = 1 - margin / found.bound
        return replace(
            answer,
            margin=np.full_like(answer.margin, margin),
            margin_bound=np.full_like(answer.margin, found.bound),
            gap=np.array([gap]),
            separable=[True],
            converged=np.array([gap <= self.tol]),
            n_iter=np.array([n_iter]),
        )

    def _is_proof(self, error: NotSeparableError) -> bool:
        """Whether the weights of an error prove it; those against a threat were judged before."""
        if error.threat is not None:
            return True
        proof = feasibility(self.double, error.weights, error.perturbations, search=True)
        return proof.proven


def _without_weights(solution: JointSolution) -> JointSolution:
    """The solution with weights of no sample. A slice would keep those of all in memory."""
    return replace(solution, weights=np.zeros((*solution.weights.shape[:-1], 0)))


def _updated(solution: Solution, new: Solution) -> Solution:
    """The new solution; a proof of separability or of its opposite stays."""
    separable = new.separable if new.separable[0] is not None else solution.separable
    return replace(new, separable=separable)


def constant_predictor(problem: JointProblem, loss: MarginLoss) -> tuple[JointEvaluation, float]:
    """The coefficients 0 with their best intercepts, of the class means, and the lower bound on the
    log-risk of every predictor that their weights prove; -inf where they prove none.
    """
    now = problem.evaluate(loss, np.zeros((problem.n_classes, problem.n_features)))
    if not (offers(problem.threat, ProximalThreat) and problem.radius > 0):
        return now, -math.inf
    weights = problem.balanced(now.weights)
    near = feasibility(problem, weights).ratio <= _NEAR_PROOF
    if near and feasibility(problem, weights, search=True).proven:
        return now, entropy_bound(problem, loss, weights)
    return now, -math.inf


def scale_to_loss(
    problem: JointProblem, loss: MarginLoss, solution: Solution, loss_tol: float
) -> Solution:
    """A separator scaled so that the sum of its robust losses is loss_tol.

    At this sum steepest descent stops.
    """
    if loss_tol == 0 or not solution.margin[0] > 0:
        return solution
    problem = problem.in_double_arithmetic()
    coef, intercept = (x[0].astype(np.float64) for x in (solution.coef, solution.intercept))
    smallest = float(problem.robust_margins(coef, intercept).min())
    goal = math.log(loss_tol) - problem.log_total_weight

    def excess(scale: float) -> float:
        return float(problem.evaluate(loss, scale * coef, scale * intercept).log_risk) - goal

    # (K - 1) exp(-scale * smallest margin) bounds the loss
    scale = find_scale(excess, math.log(problem.n_classes - 1) - goal, smallest)
    return replace(
        solution,
        coef=solution.coef * solution.coef.dtype.type(scale),
        intercept=solution.intercept * solution.intercept.dtype.type(scale),
        log_risk=np.full_like(solution.log_risk, excess(scale) + goal),
    )
