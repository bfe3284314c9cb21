r"""eps* of several classes against l_q balls: the radius below which a robust separator exists.

It is the largest ratio of plain margin and norm of the difference of two classes,

.. math:: \epsilon^* = \max_{W, b} \min_{i, k \ne y_i} \frac{\langle w_{y_i} - w_k, x_i \rangle +
    b_{y_i} - b_k}{\|s (w_{y_i} - w_k)\|_{q^*}},

or a supremum that predictors approach under which two classes become alike. Often few of the
classes decide it: their own eps* bounds it, and their predictor is extended to the others
(`_joint_bottleneck`). They are sought from the two closest classes on, and among those that carry
weight in the programs below.

Otherwise it is found by Crouzeix's method: with :math:`N_{lk}` the norms of the last predictor and
:math:`\epsilon` its ratio, the next one maximises the smallest :math:`(m_{ik} - \epsilon \|s
(w_{y_i} - w_k)\|_{q^*}) / N_{y_i k}` in a norm. The weights of each program bound eps* from above:
it is at most the radius at which G is a flow of the pairs (`joint_certificates`).

Where the two do not meet the mean margin of the samples, which is linear, is held at 1 in place of
the norm. Where the largest margin :math:`\gamma` is then negative, the weights plus
:math:`-\gamma` times those of the mean prove that the radius is too large.

Notes
-----
J.-P. Crouzeix, J. Ferland and S. Schaible, An algorithm for generalized fractional programs,
Journal of Optimization Theory and Applications 47 (1985).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import islice, product
from typing import NamedTuple

import numpy as np

from sklearn_robust.certificates import Certified
from sklearn_robust.joint import JointProblem
from sklearn_robust.joint_certificates import feasibility
from sklearn_robust.norms import LpNorm
from sklearn_robust.separators._joint_bottleneck import (
    SMALL,
    Bottleneck,
    classes_with_weight,
    closest_pair,
    coef_size,
    extended,
    of_classes,
)
from sklearn_robust.separators._joint_margin_form import (
    Indices,
    JointMarginForm,
    in_float64,
    on_all_samples,
)
from sklearn_robust.separators._joint_program import JointPoint, JointProgram
from sklearn_robust.separators._joint_ratio import certified_ratio, ratio_intercept
from sklearn_robust.separators._joint_working_sets import points_on_sets, suits_sets
from sklearn_robust.separators._max_margin_form import (
    SolverFailure,
    Vector,
    column_sizes,
    over_columns,
)
from sklearn_robust.threats import LpBall

_MAX_RATIOS = 20  # programs at most of each kind; the ratio converges superlinearly
_MAX_MISSED = 3  # consecutive programs that do not narrow the bounds, after which a kind ends
_SLOW_RATIO = 0.01  # relative growth of the ratio, in units of tol, below which it is at rest
_NARROWED = 0.9  # least ratio of the bounds' distance that counts as no progress
_STEPS = 2  # Newton steps of the refinement of programs that are not linear
# relative excess over the best ratio of the radii at which a proof is sought, in units of tol
_BEYOND = (0.5, 0.9, 10, 100, 1e4)
_LEAST_NORM = 1e-6  # norm of a difference of classes, relative to the largest, that counts at least
_ROUNDING = 8 * float(np.finfo(np.float64).eps)
# entries of the programs that a search may solve: some minutes
_MOST_ENTRIES = 20_000_000
# share by which the radius of a proof is raised, so that rounding does not undo it
_SAFE = 1e-13
# share, in units of tol, by which an extension may stay below eps* of its classes: that of all may
# be a supremum only, which predictors approach under which two classes become alike
_BELOW = 0.25


class Proof(NamedTuple):
    """Weights that may prove that no robust separator exists from some radius on.

    Attributes
    ----------
    weights : ndarray of shape (K, n)
    perturbations : ndarray of shape (K(K-1)/2, d) or None
        Points of the unit ball for the pairs.
    """

    weights: Vector
    perturbations: Vector | None


def enclose_radius(problem: JointProblem, tol: float) -> tuple[Certified, Proof]:
    """eps* of several classes, at whatever radius the problem stands.

    Returns
    -------
    Certified
        margin and bound enclose eps*; coef and intercept have a smallest plain margin of 1 where
        eps* > 0. Both are inf where features of scale 0 alone separate the data.
    Proof
        The proof of the bound, where it is finite.

    Raises
    ------
    RuntimeError
        If every solver failed.
    """
    problem = in_float64(problem).at_radius(0.0)
    # products of rows and coefficients of any unit may leave float64; a power of 2 does not round
    unit = 2.0 ** math.floor(math.log2(abs(problem.X).max() or 1.0))
    found, proof = _enclose(replace(problem, X=problem.X * (1 / unit)), tol)
    margin, bound = unit * found.margin, unit * found.bound
    return replace(found, coef=found.coef / unit, margin=margin, bound=bound), proof


def _enclose(problem: JointProblem, tol: float) -> tuple[Certified, Proof]:
    """The same for rows whose largest entry is about 1."""
    search = _Search(problem)
    scale = problem.threat.scale
    if scale is not None and not scale.all():
        fixed = np.flatnonzero(scale == 0)
        threat = LpBall(problem.threat.q, 1.0)
        alone = _Search(replace(problem, X=problem.X[:, fixed], threat=threat))
        if alone.start() > 0:
            coef = np.zeros((problem.n_classes, problem.n_features))
            coef[:, fixed] = alone.coef
            return replace(
                alone.certified(), coef=coef, margin=math.inf, bound=math.inf
            ), alone.proof
    search.grow_from_pair(tol)
    search.solve(tol)
    return search.certified(), search.proof


@dataclass
class _Allowance:
    """What a search, and those for some of its classes, may still solve.

    Attributes
    ----------
    entries : int
        Entries of programs.
    """

    entries: int

    def pay_for(self, form: JointMarginForm) -> None:
        """Take off the entries of a program."""
        self.entries -= form.n_entries

    @property
    def is_spent(self) -> bool:
        return self.entries <= 0


class _Search:
    """The state of the search for eps*: the best predictor, and the best proof of a bound.

    Every feature is in its own unit: features of scale 0, and of sizes far apart, are as well
    behaved as others.

    Parameters
    ----------
    problem : JointProblem
    allowance : _Allowance, optional
        That of the search of which these classes are a part; they have no parts themselves.
    """

    def __init__(self, problem: JointProblem, allowance: _Allowance | None = None) -> None:
        self.problem, self.parts = problem, allowance is None
        self.allowance = _Allowance(_MOST_ENTRIES) if allowance is None else allowance
        self.units = column_sizes(problem.X, centred=problem.fit_intercept)
        scale = problem.threat.scale
        scale = np.ones_like(self.units) if scale is None else scale
        ball = LpBall(problem.threat.q, 1.0, scale / self.units)
        self.in_units = replace(problem, X=over_columns(problem.X, self.units), threat=ball)
        self.uniform = problem.balanced(np.zeros((problem.n_classes, len(problem.y))))
        self.coef = np.zeros((problem.n_classes, problem.n_features))
        self.intercept = np.zeros(problem.n_classes)
        self.ratio, self.bound = 0.0, math.inf
        self.proof = Proof(self.uniform, None)
        self.carrying = np.arange(problem.n_classes)  # classes with weight in the last program
        self.tried: set[tuple[int, ...]] = set()  # classes that were solved alone

    def start(self) -> float:
        """The ratio of a separator without adversary, or a proof that there is none: 0."""
        self._look_at(0.0, LpNorm(2))
        if self.ratio == 0:
            self._look_at(0.0, LpNorm(math.inf))
        return self.ratio

    def grow_from_pair(self, tol: float) -> None:
        """Look for the classes that decide eps*: the closest two, which those join that leave no
        room for an extension.
        """
        part = closest_pair(self.problem, tol)
        while part is not None:
            part = self._of_classes(self._take_part(part, tol), tol)

    def _take_part(self, part: Bottleneck, tol: float) -> Indices:
        """Keep the bound of some of the classes, and their predictor where it extends to all; the
        classes that leave no room for that, with these.
        """
        radius = part.bound * (1 + _SAFE)
        self._keep_proof(part.weights, part.perturbations, radius)
        below = radius * (1 - _BELOW * tol)
        found = extended(self.in_units, replace(part, coef=part.coef * self.units), below)
        if found.coef is not None:
            self._take_predictor(found.coef / self.units)
        return found.in_the_way

    def _of_classes(self, classes: Indices, tol: float) -> Bottleneck | None:
        """The bottleneck that these classes are; None for all classes, for those that were tried,
        where features of scale 0 separate them, and at the end of the allowance.
        """
        some = 1 < len(classes) < self.problem.n_classes
        known = tuple(classes) in self.tried
        if not (self.parts and some) or known or self.allowance.is_spent:
            return None
        self.tried.add(tuple(classes))
        used, part = of_classes(self.problem, classes)
        alone = _Search(part, self.allowance)
        alone.solve(tol)
        if alone.bound == math.inf:
            return None
        proof = alone.proof
        weights = np.zeros_like(self.uniform)
        weights[np.ix_(classes, used)] = proof.weights
        perturbations = None
        if proof.perturbations is not None:
            low, high = self.problem.pairs
            perturbations = np.zeros((len(low), self.problem.n_features))
            inside = np.isin(low, classes) & np.isin(high, classes)
            perturbations[inside] = proof.perturbations
        return Bottleneck(classes, alone.coef, alone.bound, weights, perturbations)

    def solve(self, tol: float) -> None:
        """Narrow the bounds where they are not narrow yet."""
        if self.gap() > tol and self.start() > 0:
            self.narrow(tol)

    def narrow(self, tol: float) -> None:
        """Narrow the bounds of eps* down to a relative gap of tol, if that is possible."""
        d, (low, _) = self.problem.n_features, self.problem.pairs
        small = d * len(low) <= SMALL
        linear = small and self.problem.threat.q in (1, math.inf)
        norms = [LpNorm(math.inf if linear else 2), *([None] if small else [])]
        for norm in norms:
            self._approach(tol, norm)
        for beyond, norm in product(_BEYOND, norms):
            if self.gap() > max(tol, 2 * beyond * tol) and not self.allowance.is_spent:
                self._look_at(self.ratio * (1 + beyond * tol), norm)

    def _approach(self, tol: float, norm: LpNorm | None) -> None:
        """Narrow the bounds by programs in a norm, or at mean margin 1."""
        misses, at_rest = 0, False
        for _ in range(_MAX_RATIOS):
            gap, last = self.gap(), self.ratio
            if gap <= tol or misses == _MAX_MISSED or (at_rest and self.bound == math.inf):
                break
            if self.allowance.is_spent:
                break
            # the middle, where the ratio is at rest below its bound
            self._look_at(0.5 * (last + self.bound) if at_rest else last, norm)
            at_rest = not self.ratio > last * (1 + _SLOW_RATIO * tol)
            if at_rest and self.gap() > tol:
                part = self._of_classes(self.carrying, tol)
                if part is not None:
                    self._take_part(part, tol)
            misses = misses + 1 if at_rest and self.gap() > _NARROWED * gap else 0

    def gap(self) -> float:
        """The relative gap; a bound of 0 is reached by the constant predictor."""
        return 1 - self.ratio / self.bound if self.bound > 0 else 0.0

    def certified(self) -> Certified:
        return Certified(
            self.coef,
            self.proof.weights,
            self.intercept,
            margin=self.ratio,
            bound=self.bound,
            rounding=_ROUNDING,
            solver="largest ratio",
        )

    def _look_at(self, radius: float, norm: LpNorm | None) -> None:
        """Solve the program at a radius, in a norm or at mean margin 1: it may raise the ratio and
        lower the bound.
        """
        form = JointMarginForm.of(self.in_units.at_radius(radius), norm)
        if norm is None:
            form = form.at_mean_margin()
        form = replace(form, pair_units=self._pair_norms(), size=coef_size(form.dual_q))
        self.allowance.pay_for(form)
        on_sets = norm is not None and suits_sets(form)
        try:
            for point in islice(
                points_on_sets(form) if on_sets else JointProgram.of(form).points(), 1 + _STEPS
            ):
                self._take_predictor(point.coef / self.units)
                self._take_proof(point, radius, mean=norm is None)
                if point.solver == "linear program":
                    break
        except SolverFailure:
            return

    def _pair_norms(self) -> Vector:
        norms = self.problem.at_radius(1.0).penalties(self.coef)
        largest = norms.max()
        if not largest > 0:
            return np.ones_like(norms)
        return np.maximum(norms / largest, _LEAST_NORM)

    def _take_predictor(self, coef: Vector) -> None:
        """Keep the predictor if its certified ratio is larger than the best."""
        if not np.isfinite(coef).all() or not coef.any():
            return
        problem = self.problem
        nothing = np.zeros((problem.n_classes, problem.n_classes))
        margins = problem.pair_margins(coef, nothing)
        norms = problem.at_radius(1.0).penalties(coef)
        intercept = ratio_intercept(margins, norms) if problem.fit_intercept else nothing[0]
        off = ~np.eye(len(norms), dtype=bool)
        smallest = (margins + intercept[:, None] - intercept)[off].min()
        if not smallest > 0:
            return
        coef, intercept = coef / smallest, intercept / smallest
        ratio = certified_ratio(problem, coef, intercept)
        if ratio > self.ratio:
            self.coef, self.intercept = coef, intercept
            self.ratio = ratio

    def _take_proof(self, point: JointPoint, radius: float, *, mean: bool) -> None:
        """Keep the point's weights if they prove a lower bound on eps* than is known."""
        problem = self.problem
        own = on_all_samples(problem, point.weights)
        self.carrying = classes_with_weight(problem.pair_weights(own))
        if not np.isfinite(own).all():
            return
        perturbations = point.perturbations
        weights = own
        if mean and point.gamma < 0:
            weights = own - point.gamma * self.uniform
        if perturbations is not None:
            low, high = problem.pairs
            before, after = (problem.pair_weights(a)[low, high] for a in (own, weights))
            share = np.where(after > 0, before, 0) / np.where(after > 0, after, 1)
            perturbations = share[:, None] * perturbations * self.units
        balanced = problem.balanced(weights)
        found = feasibility(problem.at_radius(radius), balanced, perturbations)
        bound = radius * (min(found.ratio, 1.0) if found.proven else found.ratio * (1 + _SAFE))
        perturbations = found.perturbations
        if perturbations is not None and bound > 0:
            perturbations = perturbations * (radius / bound)
        self._keep_proof(balanced, perturbations, bound)

    def _keep_proof(self, weights: Vector, perturbations: Vector | None, bound: float) -> None:
        """Keep the bound if it is lower than what is known, and the weights prove it."""
        if not bound < self.bound:
            return
        balanced = self.problem.balanced(weights)
        if feasibility(self.problem.at_radius(bound), balanced, perturbations).proven:
            self.bound, self.proof = bound, Proof(balanced, perturbations)
