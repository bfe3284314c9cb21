"""Robust linear problems: signed data, the threat and the sample weights, for k problems that share
X.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from sklearn_robust._adversaries import Adversary, as_ball, is_shared, resolve
from sklearn_robust._array_api import Array, namespace, to_numpy
from sklearn_robust._parameters import refuse_lazy
from sklearn_robust.losses import MarginLoss, log_risk_and_derivatives
from sklearn_robust.rows import Rows, Survey, as_rows, largest_entry, require_array
from sklearn_robust.threats import (
    LpBall,
    Threat,
    bind,
    bound_threat,
    check_is_threat,
    check_radius,
    check_sample_radius,
    is_ball,
    mapped,
    support,
    support_sizes,
    unit_threat,
)

_CLOSE_STEPS = 3  # steps of Newton's method to the best intercept from a close one


@dataclass(frozen=True)
class Evaluation:
    """The robust loss at k predictors.

    Attributes
    ----------
    intercept : array of shape (k,)
        The best intercept for these coefficients.
    margins : array of shape (k, n)
    log_risk : array of shape (k,)
    weights : array of shape (k, n)
        Derivatives of -log_risk by the margins.
    """

    intercept: Array
    margins: Array
    log_risk: Array
    weights: Array


class OnRows:
    """What a problem reads off its X, an array, a scipy.sparse array or `Rows` of shape (n, d)."""

    X: Any

    @cached_property
    def rows(self) -> Rows:
        """The products with X, whatever holds it."""
        return as_rows(self.X)

    @property
    def n_features(self) -> int:
        """The number of features, d."""
        return int(self.X.shape[1])

    @property
    def n_terms(self) -> int:
        """The most products that a score sums."""
        return self.rows.n_terms


@dataclass(frozen=True)
class RobustProblem(OnRows):
    r"""k binary problems on the same rows X: labels, weights and radii differ, one matrix product
    serves them all.

    The signed rows :math:`z_i = y_i x_i` are never formed.

    Attributes
    ----------
    X : array or scipy.sparse array of shape (n, d), or Rows
        Rows of a kind of your own offer the products of `sklearn_robust.rows.Rows`.
    y : array of shape (k, n)
        Labels in {-1, +1}, of X's dtype.
    threat : Threat
        The set of perturbations for radius 1; of an l_q ball the unit ball.
    radius : array of shape (k,)
        The radius of each problem: its set is radius times the threat.
    log_weight : array of shape (k, n)
        Logarithm of the sample weights, which sum to 1; -inf leaves a sample out.
    log_total_weight : array of shape (k,)
        Logarithm of the sum of the sample weights before they were scaled: of the number of samples
        where all weigh 1.
    fit_intercept : bool
        Whether predictors are <w, x> + b with a free, unpenalised b; otherwise b = 0.
    adversary : Slots, Boxes or OwnSets, optional
        The sets of the samples where they do not share a symmetric one, for radius 1; of problems
        that share y. `threat` then is what a user calls it, and a single symmetric set with a
        radius for each sample. None where all samples share radius times the threat.
    """

    X: Any
    y: Array
    threat: Any  # Threat
    radius: Array
    log_weight: Array
    log_total_weight: Array
    fit_intercept: bool
    adversary: Adversary | None = None

    def __repr__(self) -> str:
        sizes = f"n_problems={self.n_problems}, X of shape {self.rows.shape}"
        return f"RobustProblem({sizes}, threat={self.threat!r}, radius={self.radius})"

    @classmethod
    def from_data(
        cls,
        X: Any,
        y: Array,
        *,
        threat: Threat | None = None,
        q: float | None = None,
        eps: float | None = None,
        scale: Any = None,
        fit_intercept: bool,
        sample_weight: Array | None = None,
        sample_radius: Array | None = None,
        classes: Sequence[Any] | None = None,
    ) -> RobustProblem:
        r"""Labelled rows and what the adversary may do to them.

        Parameters
        ----------
        X : array or scipy.sparse array of shape (n, d), or Rows
        y : array of shape (n,) or (k, n)
            Labels in {-1, +1}.
        threat : Threat, optional
            The set of perturbations, in the units of X. An `LpBall` is split into its unit ball and
            its radius; any other set has radius 1 as it stands. A set that is not symmetric, or
            differs from sample to sample, is for one problem on an array.
        q, eps, scale : float, float and array of shape (d,), optional
            In place of a threat: those of `LpBall(q, eps, scale)`.
        fit_intercept : bool
        sample_weight : array of shape (n,) or (k, n), optional
            Finite numbers >= 0, not all zero; 1 by default.
        sample_radius : array of shape (n,), optional
            A factor >= 0 on the set of each sample; 1 by default.
        classes : sequence of two labels, optional
            What a threat by class calls the labels -1 and +1.

        Returns
        -------
        RobustProblem

        Raises
        ------
        ValueError
            Where labels, weights, threat or the sizes of the entries of X are unfit.
        """
        refuse_lazy(y=y, sample_weight=sample_weight)
        rows = as_rows(X)
        xp = namespace(y)
        y = xp.astype(y if y.ndim == 2 else y[None, :], X.dtype)
        if y.shape[1] != X.shape[0] or not bool(xp.all(xp.abs(y) == 1)):
            raise ValueError(
                f"y must hold {X.shape[0]} labels in {{-1, +1}} for each problem, got {y!r}."
            )
        weight = xp.ones_like(y) if sample_weight is None else sample_weight
        weight = xp.broadcast_to(weight, y.shape)
        largest = xp.max(weight, axis=-1, keepdims=True)
        if not bool(xp.all(weight >= 0) & xp.all(largest > 0) & xp.all(largest < math.inf)):
            raise ValueError(
                f"sample_weight must hold finite numbers >= 0, not all zero, got {sample_weight!r}."
            )
        log_total = xp.log(largest) + xp.log(xp.sum(weight / largest, axis=-1, keepdims=True))
        if bool(xp.all(weight == largest)):
            weight = largest  # one number in memory for all samples
        # in the log domain: weights of any orders side by side
        used = weight > 0
        logs = xp.log(xp.where(used, weight, xp.ones_like(weight)))
        log_weight = xp.where(used, logs, xp.full_like(logs, -math.inf))
        log_weight = xp.broadcast_to(xp.astype(log_weight - log_total, y.dtype), y.shape)
        log_total = xp.astype(log_total[:, 0], y.dtype)
        check_range(rows, xp)
        one = xp.ones((1, X.shape[1]), dtype=y.dtype, device=y.device)
        threat, adversary = _chosen_threat(threat, q, eps, scale), None
        check_is_threat(threat)
        if sample_radius is not None or not (is_ball(threat) or is_shared(threat)):
            threat = bound_threat(threat, X.shape[1], None, classes)
            held = require_array(rows, "A set for each sample or class").X
            factors = check_sample_radius(sample_radius, X.shape[0])
            threat, adversary = resolve(threat, held, to_numpy(y[0]), classes, factors)
        elif not is_ball(threat):
            threat = as_ball(bind(threat, X.shape[1], None, classes))
        radius = 1.0
        if adversary is None or is_ball(threat):
            threat, radius = unit_threat(threat, one)
        radii = xp.full_like(y[:, 0], radius)
        return cls(X, y, threat, radii, log_weight, log_total, fit_intercept, adversary)

    @property
    def n_problems(self) -> int:
        return int(self.y.shape[0])

    def select(self, rows: Array) -> RobustProblem:
        """The problems at these indices."""
        radius = self.radius[rows]
        # at radius 0 the sets are {0}, those without end too
        idle = self.adversary is not None and not bool(namespace(radius).any(radius > 0))
        return replace(
            self,
            y=self.y[rows],
            radius=radius,
            log_weight=self.log_weight[rows],
            log_total_weight=self.log_total_weight[rows],
            threat=LpBall(math.inf, 1.0) if idle else self.threat,
            adversary=None if idle else self.adversary,
        )

    def at_radii(self, eps: Sequence[float]) -> RobustProblem:
        """Each problem at each of these radii, radius by radius: len(eps) * k problems.

        A radius multiplies the set: the unit ball, or another threat as it stands.
        """
        xp, k = namespace(self.y), self.n_problems
        rows = np.tile(np.arange(k), len(eps))
        problem = self.select(rows)
        radii = xp.concat(
            [xp.full_like(self.radius, check_radius(radius, "eps")) for radius in eps]
        )
        return replace(problem, radius=radii)

    def mapped(self, function: Callable[[Array], Array], X: Any = None) -> RobustProblem:
        """The same problem with the function of its arrays: on another device, or of another type.

        X is replaced by the one that is given, if any, and else stays as it is.
        """
        return replace(
            self,
            X=self.X if X is None else X,
            y=function(self.y),
            threat=mapped(self.threat, function),
            radius=function(self.radius),
            log_weight=function(self.log_weight),
            log_total_weight=function(self.log_total_weight),
        )

    def simplified(self) -> RobustProblem:
        """The same problem without a scale where all features have the same."""
        if not is_ball(self.threat) or self.adversary is not None:
            return self
        threat, factor = self.threat.simplified()
        if threat is self.threat:
            return self
        return replace(self, threat=threat, radius=factor * self.radius)

    def as_float64(self) -> RobustProblem:
        """The same problem, on NumPy or scipy.sparse data, in double precision."""
        X = require_array(self.rows, "A problem in float64").X.astype(np.float64, copy=False)
        return replace(self.in_double_arithmetic(), X=X)

    def in_double_arithmetic(self) -> RobustProblem:
        """The same problem on the same X, of which nothing is copied, with all that is computed
        from it in double precision.
        """
        if self.y.dtype == np.float64:
            return self
        return self.mapped(lambda array: array.astype(np.float64))

    def in_extended_arithmetic(self) -> RobustProblem:
        """The same problem, on a dense copy of X, in the longest floating point of the machine."""
        X = require_array(self.rows, "Extended arithmetic").extended()
        return self.mapped(lambda array: array.astype(np.longdouble), X)

    def standardised(self) -> tuple[RobustProblem, float]:
        """The same problem in units of the rows' root mean square, centred where an intercept
        absorbs it; and that unit.

        A predictor w of it stands for w / unit here. On NumPy or scipy.sparse data; sparse data are
        not centred.
        """
        rows = require_array(self.rows, "A standardised problem")
        X, unit = rows.standardised(centred=self.fit_intercept)
        return replace(self, X=X, radius=self.radius / unit), unit

    def signed_scores(self, coef: Array) -> Array:
        """Z w, the margins without adversary and intercept: (k, d) -> (k, n)."""
        return self.y * self.rows.scores(coef)

    def weighted_sum(self, weights: Array) -> Array:
        """Z^T a, the weighted sum of the signed rows: (k, n) -> (k, d)."""
        return self.rows.weighted_sum(self.y * weights)

    def sizes(self, weights: Array) -> Array:
        """The sums of the sizes of the terms of `weighted_sum`, `a |X|`, (k, n) -> (k, d): their
        rounding scales with them.
        """
        return self.rows.sum_sizes(weights)

    def score_sizes(self, coef: Array) -> Array:
        """The sums of the sizes of the terms of `signed_scores`, `|X| |w|`, (k, d) -> (k, n)."""
        return self.rows.score_sizes(coef)

    def penalty(self, coef: Array) -> Array:
        r"""The margin that the adversary takes, :math:`\text{radius}\,\sigma(w)`, for a ball radius
        ||w||_q*: (k, d) -> (k,).
        """
        return self.radius * support(self.threat, coef)

    def penalties(self, coef: Array) -> Array:
        """The margin that the adversary takes from each sample, (k, n), or (k, 1) where it is the
        same for all: (k, d) -> (k, n) or (k, 1).
        """
        if self.adversary is None:
            return self.penalty(coef)[:, None]
        return self.radius[:, None] * self.adversary.penalties(coef)

    def penalty_sizes(self, coef: Array) -> Array:
        """The sums of the sizes of the terms of `penalties`: (k, d) -> (k, n) or (k, 1)."""
        if self.adversary is None:
            return (self.radius * support_sizes(self.threat, coef))[:, None]
        return self.radius[:, None] * self.adversary.sizes(coef)

    @property
    def shares_set(self) -> bool:
        """Whether all samples have multiples of radius times the threat, which is symmetric."""
        return self.adversary is None or self.adversary.factors is not None

    @property
    def factors(self) -> Array:
        """The factors r_i on the radius, (n,), where the samples share the threat."""
        if self.adversary is None:
            return namespace(self.y).ones_like(self.y[0])
        return self.adversary.factors

    def spread(self, penalty: Array) -> Array:
        """A penalty (k,) at the factors of the samples: (k, n), or (k, 1) where all are 1."""
        return penalty[:, None] if self.adversary is None else penalty[:, None] * self.factors

    def attacked_weight(self, weights: Array) -> Array:
        r"""The weighted sum of the samples' factors on the radius, :math:`\sum_i a_i r_i`, for one
        set: the sum of the weights where all factors are 1: (k, n) -> (k,).
        """
        attacked = weights if self.adversary is None else weights * self.factors
        return namespace(weights).sum(attacked, axis=-1)

    def attacked_radius(self, weights: Array) -> Array:
        """The radius of the multiple of the threat in which weights of sum 1 must put Z^T a to
        prove that no robust separator exists: (k, n) -> (k,).
        """
        if self.adversary is None:
            return self.radius
        self.require_one_set("A certificate by the distance to the set")
        return self.radius * self.attacked_weight(weights)

    def require_one_set(self, user: str, *, one_radius: bool = False) -> None:
        """Refuse sets that differ from sample to sample, or radii that do, for a user that serves
        one symmetric set: the subject of a sentence.
        """
        if self.adversary is not None and (one_radius or not self.shares_set):
            raise ValueError(
                f"{user} needs one symmetric set for all samples, got sets that differ for "
                f"threat={type(self.threat).__name__}: use minimise_robust_risk, or "
                f"min_norm_separator with the threat."
            )

    def perturbation(self, coef: Array) -> Array:
        """The perturbation of each problem's set that raises <w, x> most: (k, d) -> (k, d)."""
        return self.radius[:, None] * self.threat.worst(coef)

    def margins(self, coef: Array, intercept: Array) -> Array:
        """Robust margins y (<w, x> + b) - penalties(w): (k, d), (k,) -> (k, n); inf for samples of
        weight zero.
        """
        xp = namespace(coef)
        m = self.signed_scores(coef) + self.y * intercept[:, None] - self.penalties(coef)
        return xp.where(self.log_weight > -math.inf, m, xp.full_like(m, math.inf))

    def evaluate(
        self,
        loss: MarginLoss,
        coef: Array,
        *,
        near: Array | None = None,
        penalty: Array | None = None,
    ) -> Evaluation:
        """The robust loss at (k, d) coefficients, minimised exactly over the intercept.

        `near` (k,) is a guess of the intercept; `penalty` (k,), which the samples' factors
        multiply, replaces `penalties(coef)` where a solver keeps its own.
        """
        penalties = self.penalties(coef) if penalty is None else self.spread(penalty)
        return self.evaluate_margins(loss, self.signed_scores(coef) - penalties, near=near)

    def evaluate_scores(
        self, loss: MarginLoss, scores: Array, penalty: Array, *, near: Array | None = None
    ) -> Evaluation:
        """The robust loss from Z w (k, n) and the penalty (k,), which the factors of the samples
        multiply, minimised exactly over the intercept.
        """
        return self.evaluate_margins(loss, scores - self.spread(penalty), near=near)

    def evaluate_margins(
        self, loss: MarginLoss, margins: Array, *, near: Array | None = None
    ) -> Evaluation:
        """The robust loss at margins without intercept, (k, n), minimised over the intercept."""
        if self.fit_intercept and near is not None and isinstance(margins, np.ndarray):
            found = self._evaluated_near(loss, margins, near) if len(margins) == 1 else None
            if found is not None:
                return found
        if self.fit_intercept:
            intercept = loss.intercept(margins, self.y, self.log_weight, near)
            margins = margins + self.y * intercept[:, None]
        else:
            intercept = namespace(margins).zeros_like(margins[:, 0])
        return Evaluation(intercept, margins, *loss.log_risk_and_weights(margins, self.log_weight))

    def _evaluated_near(
        self, loss: MarginLoss, margins: np.ndarray, intercept: np.ndarray
    ) -> Evaluation | None:
        """The loss of one problem at its best intercept, by Newton's method from a close one; None
        where it is not close.
        """
        room = float(np.finfo(margins.dtype).eps) ** 0.5
        for _ in range(_CLOSE_STEPS):
            moved = margins + self.y * intercept[:, None]
            log_risk, weights, c = log_risk_and_derivatives(loss, moved, self.log_weight)
            excess, curvature = float(self.y[0] @ weights[0]), float(c.sum())
            if not abs(excess) < curvature:
                return None
            step = excess / curvature
            intercept = intercept + step
            if abs(step) <= room:  # the risk does not change by it in any digit, the weights do
                change = step * self.y
                return Evaluation(intercept, moved + change, log_risk, weights - c * change)
        return None

    @cached_property
    def classes(self) -> tuple[Array, ...]:
        """Masks (k, n) of samples whose dual weights have one sum: each class where the intercept
        is free, otherwise all.
        """
        used = self.log_weight > -math.inf
        return (used & (self.y > 0), used & (self.y < 0)) if self.fit_intercept else (used,)

    def balanced(self, weights: Array) -> Array:
        """Weights scaled to dual feasibility: >= 0, of sum 1, and with an intercept of sum 1/2 in
        each class.
        """
        return feasible_weights(weights, self.classes)

    def class_shares(self) -> Array:
        """The sample weights, scaled to dual feasibility (k, n): those of the loss at w = 0 with
        the best intercept.
        """
        xp = namespace(self.log_weight)
        log_weight, never = self.log_weight, xp.full_like(self.log_weight, -math.inf)
        for members in self.classes:
            largest = xp.max(xp.where(members, log_weight, never), axis=-1, keepdims=True)
            log_weight = xp.where(members, log_weight - largest, log_weight)
        return self.balanced(xp.exp(log_weight))


def feasible_weights(weights: Array, classes: Sequence[Array]) -> Array:
    """Weights (..., n), negative ones cut off, scaled to equal sums over these classes, of total 1;
    uniform where all are 0.
    """
    xp = namespace(weights)
    nothing = xp.zeros_like(weights[..., :1])
    positive = xp.maximum(weights, nothing)
    feasible = xp.zeros_like(weights)
    safe = xp.finfo(weights.dtype).tiny ** 0.5
    for members in classes:
        part = positive * members
        total = xp.sum(part, axis=-1, keepdims=True)
        if not bool(xp.all((total > safe) & (total < 1 / safe))):
            largest = xp.max(part, axis=-1, keepdims=True)
            # in units of a power of two, which rounds nothing, no sum under- or overflows
            part /= 2.0 ** xp.floor(xp.log2(xp.where(largest > 0, largest, nothing + 1)))
            part = xp.where(largest == 0, xp.astype(members, part.dtype), part)
            total = xp.sum(part, axis=-1, keepdims=True)
        part /= len(classes) * total
        feasible += part
    return feasible


def _chosen_threat(threat: Any, q: Any, eps: Any, scale: Any) -> Any:
    """The threat, or the ball of q, eps and scale: one of the two is given."""
    if threat is None and q is not None and eps is not None:
        return LpBall(q, eps, scale)
    if threat is None or not (q is None and eps is None and scale is None):
        raise ValueError(
            f"A problem needs either threat, or q and eps with or without scale, got "
            f"threat={threat!r}, q={q!r}, eps={eps!r}, scale={scale!r}: leave out one or the other."
        )
    return threat


def check_range(rows: Rows | Survey, xp: Any = np) -> None:
    """Raise where squares of the entries of X, and sums of them, leave the range of its type."""
    largest = largest_entry(rows)
    limit = 1e-4 * math.sqrt(xp.finfo(rows.dtype).max)
    if largest > limit or 0 < largest < 1 / limit:
        raise ValueError(
            f"X must hold numbers whose squares {rows.dtype} can hold: the largest of them in size "
            f"must lie between {1 / limit:.2g} and {limit:.2g}, got {largest:.4g}. Scale the "
            f"features, for instance by a StandardScaler; where numpy.nan_to_num put such a number "
            f"for a missing one, impute another."
        )
