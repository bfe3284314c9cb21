r"""Several classes as one problem: the robust margins between all pairs of classes, and their risk.

For classes :math:`1..K`, coefficients :math:`W \in \mathbb{R}^{K \times d}` with rows :math:`w_k`
and intercepts b, the robust margin of sample i against the rival class :math:`k \ne y_i` is

.. math:: m_{ik} = \langle w_{y_i} - w_k, x_i \rangle + b_{y_i} - b_k - \sigma(w_{y_i} - w_k),

with :math:`\sigma` the support function of the threat, for a ball :math:`\epsilon \|\cdot\|_{q^*}`.
The robust margin of the sample is :math:`\min_k m_{ik}`, exactly: the adversary picks one rival.

**Loss.** A margin loss l judges the soft minimum :math:`\mu_i = -\log \sum_{k \ne y_i} e^{-m_{ik}}`
of the margins: the risk is :math:`L = \sum_i s_i\, l(\mu_i)`, convex in (W, b) and in the scores
and pair penalties :math:`t_{lk} = \sigma(w_l - w_k)`, in which it increases.

=============  ============================================================================
exponential    :math:`\sum_i s_i \sum_{k \ne y_i} e^{-m_{ik}}`
logistic       :math:`\sum_i s_i \log(1 + \sum_{k \ne y_i} e^{-m_{ik}})`: without adversary the
               cross-entropy of multinomial logistic regression, with one an upper bound of the
               worst-case cross-entropy
=============  ============================================================================

With two classes this is the binary risk of :math:`w = w_1 - w_0`. W and b are defined up to a
common shift of all rows; here :math:`\sum_k b_k = 0`.

**Layout.** Arrays over classes and samples are (K, n), as the products of `sklearn_robust.rows`
are. An evaluation holds one of them: what else is needed exists for a block of samples at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sklearn_robust._adversaries import Slots, as_ball, is_shared
from sklearn_robust._array_api import Array, like, namespace, to_numpy
from sklearn_robust._joint_intercepts import least_risk_intercept
from sklearn_robust._joint_rows import LabelledRows, soft_minimum
from sklearn_robust._joint_sets import GivenPerturbations, JointSets
from sklearn_robust._own_sets import OwnSets
from sklearn_robust.balancing import balancing_factors
from sklearn_robust.losses import MarginLoss
from sklearn_robust.problems import RobustProblem
from sklearn_robust.rows import ArrayRows, as_rows, require_array
from sklearn_robust.threats import (
    ConicThreat,
    Threat,
    bound_threat,
    check_is_threat,
    check_sample_radius,
    is_ball,
    mapped,
    offers,
    support,
    support_sizes,
)

# difference of the row and column sum of a class, relative to all, that is rounding
_IMBALANCE = 1e-12


@dataclass(frozen=True)
class JointEvaluation:
    r"""The joint robust loss at one predictor.

    Attributes
    ----------
    intercept : array of shape (K,)
        Intercepts of sum 0.
    margins : array of shape (n,)
        Robust margins :math:`\min_k m_{ik}`; inf for samples of weight zero.
    soft_margins : array of shape (n,)
        :math:`\mu_i = -\log \sum_{k \ne y_i} e^{-m_{ik}}`, within log(K - 1) below the robust
        margin.
    log_risk : array of shape ()
    weights : array of shape (K, n)
        :math:`a_{ik} = -\partial \log L / \partial m_{ik} \ge 0`, zero at the true class. Of sum 1
        for the exponential loss.
    """

    intercept: Array
    margins: Array
    soft_margins: Array
    log_risk: Array
    weights: Array


@dataclass(frozen=True)
class JointProblem(LabelledRows):
    r"""One problem of K classes: rows, labels, weights and what the adversary may do.

    Attributes
    ----------
    X : array or scipy.sparse array of shape (n, d), or Rows
    y : array of int of shape (n,)
        Classes 0..K-1.
    n_classes : int
        K >= 2.
    threat : Threat
        The set of perturbations for radius 1; of an l_q ball the unit ball.
    radius : float
    log_weight : array of shape (n,)
        Logarithm of the sample weights, which sum to 1; -inf leaves a sample out. Its type is that
        of all that is computed.
    log_total_weight : float
        Logarithm of the sum of the sample weights before they were scaled.
    fit_intercept : bool
        Whether b is free and unpenalised; otherwise b = 0.
    adversary : JointSets or GivenPerturbations, optional
        The sets of the samples where they do not share a symmetric one, for radius 1. `threat` then
        is what a user calls it.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_robust.joint import JointProblem
    >>> from sklearn_robust.losses import LOSSES
    >>> X = np.array([[2.0, 0.0], [0.0, 2.0], [-2.0, -2.0]])
    >>> problem = JointProblem.from_data(
    ...     X, np.array([0, 1, 2]), q=np.inf, eps=0.5, fit_intercept=False)
    >>> problem.robust_margins(np.eye(3)[:, :2], np.zeros(3))
    array([1. , 1. , 1.5])
    >>> log_risk = problem.evaluate(LOSSES["logistic"], np.zeros((3, 2))).log_risk
    >>> print(np.exp(log_risk).round(6), np.log(3).round(6))
    1.098612 1.098612
    """

    threat: Any  # Threat
    radius: float
    log_weight: Array
    log_total_weight: float
    fit_intercept: bool
    adversary: JointSets | GivenPerturbations | None = None

    def __repr__(self) -> str:
        sizes = f"n_classes={self.n_classes}, X of shape {self.X.shape}"
        return f"JointProblem({sizes}, threat={self.threat!r}, radius={self.radius})"

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
        labels: Sequence[Any] | None = None,
    ) -> JointProblem:
        r"""Labelled rows and what the adversary may do to them.

        Parameters
        ----------
        X : array or scipy.sparse array of shape (n, d), or Rows
        y : array of int of shape (n,)
            Classes 0..K-1, of which each has a sample of positive weight.
        threat : Threat, optional
            The set of perturbations, in the units of X. An `LpBall` is split into its unit ball and
            its radius; any other set has radius 1 as it stands. A set that is not symmetric, or
            differs from sample to sample, is for an array.
        q, eps, scale : float, float and array of shape (d,), optional
            In place of a threat: those of `LpBall(q, eps, scale)`.
        fit_intercept : bool
        sample_weight : array of shape (n,), optional
            Finite numbers >= 0, not all zero; 1 by default.
        sample_radius : array of shape (n,), optional
            A factor >= 0 on the set of each sample; 1 by default.
        labels : sequence, optional
            What a threat by class calls the classes; 0..K-1 by default.

        Returns
        -------
        JointProblem

        Raises
        ------
        ValueError
            Where labels, weights, threat or the sizes of the entries of X are unfit.
        """
        xp, n = namespace(y), as_rows(X).shape[0]
        if y.ndim != 1 or y.shape[0] != n or not xp.isdtype(y.dtype, "integral"):
            raise ValueError(
                f"y must hold {n} classes as integers from 0 on, got {y!r}. Encode labels by "
                f"numpy.unique(y, return_inverse=True)."
            )
        ball: dict[str, Any] = {"q": q, "eps": eps, "scale": scale}
        adversary = None
        if threat is not None:
            check_is_threat(threat)
            names = list(range(int(xp.max(y)) + 1)) if labels is None else list(labels)
            if not is_ball(threat):
                threat = as_ball(bound_threat(threat, X.shape[1], None, names))
            if sample_radius is not None or not (is_ball(threat) or is_shared(threat)):
                held = require_array(as_rows(X), "A set for each sample or class").X
                factors = check_sample_radius(sample_radius, n)
                adversary = JointSets.of(threat, held, to_numpy(y), names, factors)
            ball = {"threat": threat} if adversary is None else {"q": math.inf, "eps": 1.0}
        # class 0 against the rest: the checks, weights and the unit set are those of two classes
        signs = xp.where(y == 0, 1, -1)
        binary = RobustProblem.from_data(
            X, signs, fit_intercept=fit_intercept, sample_weight=sample_weight, **ball
        )
        log_weight = binary.log_weight[0]
        classes = np.unique(to_numpy(y[log_weight > -math.inf]))
        if classes[0] != 0 or len(classes) < 2 or classes[-1] != len(classes) - 1:
            raise ValueError(
                f"y must hold at least two classes 0..K-1, each with a sample of positive weight, "
                f"got {classes.tolist()}. Encode labels by numpy.unique(y, return_inverse=True)."
            )
        return cls(
            X,
            y,
            len(classes),
            binary.threat if adversary is None else threat,
            float(binary.radius[0]),
            log_weight,
            float(binary.log_total_weight[0]),
            fit_intercept,
            adversary,
        )

    def in_cones(self) -> JointProblem | None:
        """The same problem with the sets of its samples in cones; None for an l_q ball, which has
        closed forms, a set without cones, or rows that are not in an array.
        """
        if self.adversary is not None:
            return self
        if is_ball(self.threat) or not offers(self.threat, ConicThreat):
            return None
        if not isinstance(self.rows, ArrayRows):
            return None
        radius, K = np.ones(len(self.y)), self.n_classes
        sets = JointSets.of(self.threat, self.X, self.y, list(range(K)), radius)
        return replace(self, adversary=sets)

    @classmethod
    def of_two_classes(cls, problem: RobustProblem) -> JointProblem:
        """The same problem, one with `Slots` or `OwnSets`, as one of several classes: :math:`w_1 -
        w_0` is its w.
        """
        assert isinstance(problem.adversary, Slots | OwnSets)
        y = (problem.y[0] > 0).astype(np.int64)
        sets = JointSets.of_two_classes(y, problem.adversary)
        return cls(
            problem.X,
            y,
            2,
            problem.threat,
            float(problem.radius[0]),
            problem.log_weight[0],
            float(problem.log_total_weight[0]),
            problem.fit_intercept,
            sets,
        )

    def require_one_set(self, user: str) -> None:
        """Refuse sets that differ from sample to sample, for a user that serves one symmetric set:
        the subject of a sentence.
        """
        if self.adversary is not None:
            raise ValueError(
                f"{user} needs one symmetric set for all samples, got "
                f"threat={type(self.threat).__name__} or sample_radius: use the minimiser of the "
                f"risk or the exact separator, solver='auto' or 'exact' of an estimator."
            )

    def at_radius(self, radius: float) -> JointProblem:
        """The same problem at another radius."""
        return replace(self, radius=float(radius))

    def at_class_means(self) -> JointProblem:
        """The problem of K samples, the weighted mean of each class: at W = 0, where the samples of
        a class are alike, its risk, intercepts and weighted sums are those of this problem. On
        NumPy or scipy.sparse data or rows of one's own.
        """
        n_classes = self.n_classes
        # each class relative to its largest weight: they may lie any orders apart
        largest = np.full(n_classes, -math.inf)
        np.maximum.at(largest, self.y, self.log_weight)
        shares = np.exp(self.log_weight - largest[self.y])
        totals = np.bincount(self.y, weights=shares, minlength=n_classes)
        members = np.zeros((n_classes, len(shares)))
        members[self.y, np.arange(len(shares))] = shares / totals[self.y]
        means = self.rows.weighted_sum(members)
        return replace(self, X=means, y=np.arange(n_classes), log_weight=largest + np.log(totals))

    def mapped(self, function: Callable[[Array], Array], X: Any = None) -> JointProblem:
        """The same problem with the function of its arrays: on another device, or of another type.

        X is replaced by the one that is given, if any, and else stays as it is.
        """
        return replace(
            self,
            X=self.X if X is None else X,
            y=function(self.y),
            threat=mapped(self.threat, function),
            log_weight=function(self.log_weight),
        )

    def in_double_arithmetic(self) -> JointProblem:
        """The same problem on the same X, of which nothing is copied, with all that is computed
        from it in double precision. On NumPy or scipy.sparse data.
        """
        if self.log_weight.dtype == np.float64:
            return self

        def double(array: np.ndarray) -> np.ndarray:
            return array.astype(np.float64)

        return replace(self, threat=mapped(self.threat, double), log_weight=double(self.log_weight))

    def penalties(self, coef: Array) -> Array:
        r"""The pair penalties :math:`\text{radius}\,\sigma(w_l - w_k)`, symmetric, (K, K), or those
        of the samples, (K, n), where their sets differ: (K, d) -> (K, K) or (K, n).
        """
        if self.adversary is not None:
            return self.radius * self.adversary.penalties(coef)
        return self._pair_penalties(coef, support)

    def penalty_sizes(self, coef: Array) -> Array:
        """The sums of the sizes of the terms of `penalties`: (K, d) -> (K, K) or (K, n)."""
        if self.adversary is not None:
            return self.radius * self.adversary.sizes(coef)
        return self._pair_penalties(coef, support_sizes)

    def _pair_penalties(self, coef: Array, function: Callable[[Any, Array], Array]) -> Array:
        parts = [
            function(self.threat, self.pair_differences(coef, at)) for at in self.pair_blocks()
        ]
        return self.symmetric(self.radius * namespace(coef).concat(parts))

    def of_samples(self, penalties: Array, at: slice) -> Array:
        """What is taken from the margins of a block of samples, (K, m)."""
        if self.adversary is not None:
            return penalties[:, at]
        return super().of_samples(penalties, at)

    def robust_margins(
        self, coef: Array, intercept: Array, penalties: Array | None = None
    ) -> Array:
        r"""The robust margins :math:`\min_k m_{ik}`: (K, d), (K,) -> (n,); inf for samples of
        weight zero. Penalties, (K, K) or (K, n), may be others than those of the coefficients.
        """
        xp = namespace(coef)
        penalties = self.penalties(coef) if penalties is None else penalties
        smallest = xp.full_like(self.log_weight, math.inf)
        for at, losses in self._loss_blocks(coef, penalties, intercept):
            smallest[at] = -xp.max(losses, axis=0)
        return xp.where(self.log_weight > -math.inf, smallest, xp.full_like(smallest, math.inf))

    def pair_margins(self, coef: Array, penalties: Array) -> np.ndarray:
        """The smallest margin of each class against each rival, without intercepts: (K, d), (K, K)
        -> (K, K); inf on the diagonal.
        """
        K = self.n_classes
        smallest = np.full((K, K), math.inf)
        for at, losses in self._loss_blocks(
            coef, penalties, namespace(coef).zeros_like(coef[:, 0])
        ):
            losses[:, self.log_weight[at] == -math.inf] = -math.inf
            order, classes, starts = self.by_class(at)
            largest = np.maximum.reduceat(to_numpy(losses)[:, order], starts, axis=1).T
            smallest[classes] = np.minimum(smallest[classes], -largest)
        return smallest

    def _loss_blocks(
        self, coef: Array, penalties: Array, intercept: Array
    ) -> Iterator[tuple[slice, Array]]:
        """-m_ik, (K, m), a block of samples at a time."""
        places = namespace(self.y).arange(self.y.shape[0], device=self.y.device)
        for at, rows in self.row_blocks():
            scores = rows.scores(coef)
            yield at, self.losses(scores, penalties, intercept, at, places[: scores.shape[1]])

    def evaluate(
        self,
        loss: MarginLoss,
        coef: Array,
        intercept: Array | None = None,
        *,
        near: Array | None = None,
    ) -> JointEvaluation:
        """The joint robust loss at coefficients (K, d).

        Parameters
        ----------
        loss : MarginLoss
        coef : array of shape (K, d)
        intercept : array of shape (K,), optional
            Without it the best one.
        near : array of shape (K,), optional
            A guess of the best intercept.

        Returns
        -------
        JointEvaluation
        """
        scores, penalties = self.scores(coef), self.penalties(coef)
        xp = namespace(scores)
        if intercept is None:
            intercept = xp.zeros_like(scores[:, 0])
            if self.fit_intercept:
                intercept = least_risk_intercept(
                    self, self.log_weight, loss, scores, penalties, near
                )
        weights = scores  # they take its place in memory, a block at a time
        margins = xp.full_like(self.log_weight, math.inf)
        soft_margins = xp.empty_like(self.log_weight)
        for at, places in self.blocks():
            losses = self.losses(scores[:, at], penalties, intercept, at, places)
            margins[at] = -xp.max(losses, axis=0)
            soft_margins[at], weights[:, at] = soft_minimum(losses)
        margins[self.log_weight == -math.inf] = math.inf
        log_risk, of_sample = loss.log_risk_and_weights(soft_margins, self.log_weight)
        weights *= of_sample
        return JointEvaluation(intercept, margins, soft_margins, log_risk, weights)

    def balanced(self, weights: Array, *, overwrite: bool = False) -> Array:
        r"""Weights (K, n) scaled to dual feasibility: >= 0, zero at the true class, of sum 1, and
        with an intercept :math:`\sum_{i: y_i = l, k} a_{ik} = \sum_{i: y_i \ne l} a_{il}` for each
        class l.

        The balance is that of the matrix :math:`C_{lk} = \sum_{i: y_i = l} a_{ik}`: weights are
        multiplied by :math:`e^{g_l - g_k}`. Pairs of classes that no cycle joins are set to 0.
        Where nothing is left, or balancing ends short of rounding, the weights are uniform within
        each class. With `overwrite` they may take the place of the others in memory.
        """
        xp = namespace(weights)
        positive = weights if overwrite else xp.empty_like(weights)
        used = self.log_weight > -math.inf
        for at, places in self.blocks():
            block = xp.where(used[at], weights[:, at], 0.0)
            block[self.y[at], places] = 0.0
            positive[:, at] = xp.maximum(block, xp.zeros_like(block))
        largest = float(xp.max(positive))
        if not largest > 0:
            return self._uniform_weights()
        positive /= largest
        if self.fit_intercept:
            factors = self.balancing(to_numpy(self.class_sums(positive)))
            if factors is None:
                return self._uniform_weights()
            scaled = like(positive, factors / factors.max())
            for at, _ in self.blocks():
                positive[:, at] *= scaled[self.y[at]].T
        positive /= xp.sum(positive)
        return positive

    def balancing(self, class_sums: np.ndarray) -> np.ndarray | None:
        """The factors of the weights of each pair of classes that make weights with these class
        sums feasible, of sum 1: (K, K) -> (K, K). None where there are none.
        """
        largest = float(class_sums.max())
        if not 0 < largest < math.inf:
            return None
        sums = class_sums.astype(np.float64) / largest
        factors = np.ones_like(sums)
        if self.fit_intercept:
            factors = balancing_factors(sums)
            with np.errstate(over="ignore", invalid="ignore"):
                sums = sums * factors
                lack = np.abs(sums.sum(axis=1) - sums.sum(axis=0))
            # weights that are not balanced up to rounding prove nothing
            if not factors.any() or not lack.max() <= _IMBALANCE * sums.sum():
                return None
        balanced: np.ndarray = factors / (largest * sums.sum())
        return balanced

    def _uniform_weights(self) -> Array:
        """Feasible weights (K, n): alike for all pairs of classes and all samples of a class."""
        xp, K = namespace(self.log_weight), self.n_classes
        classes = xp.arange(K, device=self.y.device)[:, None]
        members = xp.astype(
            (self.y == classes) & (self.log_weight > -math.inf), self.log_weight.dtype
        )
        share = (1 / xp.sum(members, axis=1))[self.y] * xp.sum(members, axis=0) / (K * (K - 1))
        return xp.where(self.y == classes, xp.zeros_like(members), share)
