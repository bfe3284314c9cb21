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
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from sklearn_robust._adversaries import require_one_set
from sklearn_robust._array_api import Array, like, namespace, to_numpy
from sklearn_robust.balancing import balancing_factors, balancing_potentials
from sklearn_robust.losses import MarginLoss, is_exponential
from sklearn_robust.problems import OnRows, RobustProblem
from sklearn_robust.rows import ArrayRows, BlockRows, Rows, TensorRows, as_rows
from sklearn_robust.threats import Threat, check_is_threat, is_ball, mapped, support

# entries of an array over classes and samples, or pairs and features, that exist at a time: a
# quarter of a megabyte in float64, about a processor's cache
_JOINT_BLOCK_ENTRIES = 2**15
_ALL = slice(None)
_INTERCEPT_STEPS = 100  # Newton steps at most
_FIRST_REACH = 4.0  # size to which the first step of the intercepts is held, about; it doubles
# machine epsilons added to a Hessian of unit diagonal: classes far below the risk do not move
_INTERCEPT_RIDGE = 16
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
class JointProblem(OnRows):
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

    X: Any
    y: Array
    n_classes: int
    threat: Any  # Threat
    radius: float
    log_weight: Array
    log_total_weight: float
    fit_intercept: bool

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
    ) -> JointProblem:
        r"""Labelled rows and what the adversary may do to them.

        Parameters
        ----------
        X : array or scipy.sparse array of shape (n, d), or Rows
        y : array of int of shape (n,)
            Classes 0..K-1, of which each has a sample of positive weight.
        threat : Threat, optional
            The set of perturbations, in the units of X. An `LpBall` is split into its unit ball and
            its radius; any other set must be symmetric, and has radius 1 as it stands.
        q, eps, scale : float, float and array of shape (d,), optional
            In place of a threat: those of `LpBall(q, eps, scale)`.
        fit_intercept : bool
        sample_weight : array of shape (n,), optional
            Finite numbers >= 0, not all zero; 1 by default.

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
        if threat is not None and not is_ball(threat):
            check_is_threat(threat)
            require_one_set(threat)
        # class 0 against the rest: the checks, weights and the unit set are those of two classes
        signs = xp.where(y == 0, 1, -1)
        binary = RobustProblem.from_data(
            X,
            signs,
            threat=threat,
            q=q,
            eps=eps,
            scale=scale,
            fit_intercept=fit_intercept,
            sample_weight=sample_weight,
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
            binary.threat,
            float(binary.radius[0]),
            log_weight,
            float(binary.log_total_weight[0]),
            fit_intercept,
        )

    @cached_property
    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """The classes l < k of the K(K-1)/2 pairs."""
        low, high = np.triu_indices(self.n_classes, 1)
        return low, high

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

    def blocks(self) -> Iterator[tuple[slice, Array]]:
        """The samples, a block at a time: their places, and 0, 1, .. for the entries of a block."""
        xp, n = namespace(self.y), self.y.shape[0]
        length = max(1, _JOINT_BLOCK_ENTRIES // self.n_classes)
        for start in range(0, n, length):
            stop = min(start + length, n)
            yield slice(start, stop), xp.arange(stop - start, device=self.y.device)

    def row_blocks(self) -> Iterator[tuple[slice, Rows]]:
        """The samples, and their rows, a block at a time; rows that offer products only in one."""
        rows = self.rows
        if isinstance(rows, BlockRows):
            yield from rows.row_blocks()
        elif isinstance(rows, ArrayRows | TensorRows):
            for at, _ in self.blocks():
                yield at, as_rows(self.X[at])
        else:
            yield slice(0, rows.shape[0]), rows

    def scores(self, coef: Array) -> Array:
        """W X^T without the intercepts: (K, d) -> (K, n)."""
        return self.rows.scores(coef)

    def pair_blocks(self) -> Iterator[slice]:
        """The pairs, as many at a time as have an array over the features of moderate size."""
        length = max(1, _JOINT_BLOCK_ENTRIES // self.n_features)
        for start in range(0, len(self.pairs[0]), length):
            yield slice(start, start + length)

    def pair_differences(self, coef: Array, at: slice = _ALL) -> Array:
        """w_l - w_k for the pairs l < k, or a block of them: (K, d) -> (K(K-1)/2, d)."""
        low, high = self.pairs
        differences = coef[low[at]]
        differences -= coef[high[at]]
        return differences

    def penalties(self, coef: Array, of: Callable[[Any, Array], Array] = support) -> Array:
        r"""The pair penalties :math:`\text{radius}\,\sigma(w_l - w_k)`, symmetric: (K, d) -> (K,
        K). Another function `of` threat and differences takes the place of the support function.
        """
        parts = [of(self.threat, self.pair_differences(coef, at)) for at in self.pair_blocks()]
        return self.symmetric(self.radius * namespace(coef).concat(parts))

    def symmetric(self, values: Array) -> Array:
        """The symmetric matrix, zero on its diagonal, of a value for each pair l < k: -> (K, K)."""
        xp, (low, high) = namespace(values), self.pairs
        K = self.n_classes
        matrix = xp.zeros((K, K), dtype=values.dtype, device=values.device)
        matrix[low, high] = values
        matrix[high, low] = values
        return matrix

    def robust_margins(
        self, coef: Array, intercept: Array, penalties: Array | None = None
    ) -> Array:
        r"""The robust margins :math:`\min_k m_{ik}`: (K, d), (K,) -> (n,); inf for samples of
        weight zero. Penalties (K, K) may be others than those of the coefficients.
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
            order, classes, starts = self._by_class(at)
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
            yield at, self._losses(scores, penalties, intercept, at, places[: scores.shape[1]])

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
                intercept = self.best_intercept(loss, scores, penalties, near)
        weights = scores  # they take its place in memory, a block at a time
        margins = xp.full_like(self.log_weight, math.inf)
        soft_margins = xp.empty_like(self.log_weight)
        for at, places in self.blocks():
            losses = self._losses(scores[:, at], penalties, intercept, at, places)
            margins[at] = -xp.max(losses, axis=0)
            soft_margins[at], weights[:, at] = _soft_minimum(losses)
        margins[self.log_weight == -math.inf] = math.inf
        log_risk, of_sample = loss.log_risk_and_weights(soft_margins, self.log_weight)
        weights *= of_sample
        return JointEvaluation(intercept, margins, soft_margins, log_risk, weights)

    def best_intercept(
        self, loss: MarginLoss, scores: Array, penalties: Array, near: Array | None = None
    ) -> Array:
        r"""The intercepts (K,) of sum 0 that minimise the risk of scores (K, n) and pair penalties
        (K, K).

        The exponential risk is :math:`\sum_{l \ne k} C_{lk} e^{b_k - b_l}` with :math:`C_{lk}` the
        risk of class l against k: matrix balancing gives b. For another loss Newton's method starts
        from there or from 0, whichever has the lower risk, or from `near`. It ends where the
        classes balance, :math:`\sum_{i: y_i = l, k} a_{ik} = \sum_{i: y_i \ne l} a_{il}`.
        """
        xp = namespace(scores)
        starts = [xp.zeros_like(scores[:, 0]) if near is None else near - near.mean()]
        if near is None or is_exponential(loss):
            log_risks = self._pair_log_risks(scores, penalties)
            starts.append(like(scores, -balancing_potentials(log_risks)))
            if is_exponential(loss):
                return starts[-1]
        models = [self._intercept_model(loss, scores, penalties, b) for b in starts]
        least = int(np.argmin([float(model[0]) for model in models]))
        b, (log_risk, gradient, hessian) = starts[least], models[least]
        reach, tiny = _FIRST_REACH, float(xp.finfo(b.dtype).eps)
        for _ in range(_INTERCEPT_STEPS):
            step = like(b, _newton_step(to_numpy(gradient), to_numpy(hessian), reach))
            change = float(xp.max(xp.abs(step)))
            new = self._intercept_model(loss, scores, penalties, b + step)
            lower = float(new[0]) <= float(log_risk) + 4 * tiny * max(1.0, abs(float(log_risk)))
            if lower:
                b, (log_risk, gradient, hessian) = b + step, new
            # Newton's method squares the error
            if change <= tiny**0.5 + 4 * tiny * float(xp.max(xp.abs(b))):
                break
            reach = 2 * max(reach, change) if lower else change / 4
        return b - b.mean()

    def weighted_sum(self, weights: Array) -> Array:
        r"""The weighted sum :math:`G = \sum_{ik} a_{ik} (e_{y_i} - e_k) x_i^T`, minus the gradient
        of the log-risk at fixed penalties: (K, n) -> (K, d).

        The entries of the weights at the true class are written to for the product, and put back.
        """
        xp = namespace(weights)
        places = xp.arange(self.y.shape[0], device=self.y.device)
        weights[self.y, places] = -xp.sum(weights, axis=0)
        try:
            return -self.rows.weighted_sum(weights)
        finally:
            weights[self.y, places] = xp.zeros_like(weights[0])

    def sizes(self, weights: Array) -> Array:
        """The sums of the sizes of the terms of `weighted_sum`, (K, n) -> (K, d): their rounding
        scales with them.
        """
        xp = namespace(weights)
        total = 0.0
        for at, rows in self.row_blocks():
            block = xp.asarray(weights[:, at], copy=True)
            places = xp.arange(block.shape[1], device=self.y.device)
            block[self.y[at], places] = xp.sum(block, axis=0)
            total = total + rows.sum_sizes(block)
        return total

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

    def class_sums(self, values: Array) -> Array:
        r""":math:`C_{lk} = \sum_{i: y_i = l} v_{ik}`, the sums over the samples of each class:
        (K, n) -> (K, K).
        """
        xp, K = namespace(values), self.n_classes
        sums = xp.zeros((K, K), dtype=values.dtype, device=values.device)
        for at, _ in self.blocks():
            self.add_class_sums(sums, values[:, at], at)
        return sums

    def add_class_sums(self, sums: Array, values: Array, at: slice) -> None:
        """Add the class sums of a block of samples (K, m) to others (K, K)."""
        xp = namespace(values)
        if xp is np:
            order, classes, starts = self._by_class(at)
            sums[classes] += np.add.reduceat(values[:, order], starts, axis=1).T
        else:
            members = self.y[at] == xp.arange(self.n_classes, device=self.y.device)[:, None]
            sums += xp.astype(members, values.dtype) @ values.T

    def pair_weights(self, weights: Array) -> Array:
        r""":math:`A_{lk} = C_{lk} + C_{kl}`, the weight between two classes, symmetric: (K, n) ->
        (K, K). The derivative of the log-risk by the penalty of a pair is :math:`A_{lk}`.
        """
        sums = self.class_sums(weights)
        return sums + sums.T

    def _uniform_weights(self) -> Array:
        """Feasible weights (K, n): alike for all pairs of classes and all samples of a class."""
        xp, K = namespace(self.log_weight), self.n_classes
        classes = xp.arange(K, device=self.y.device)[:, None]
        members = xp.astype(
            (self.y == classes) & (self.log_weight > -math.inf), self.log_weight.dtype
        )
        share = (1 / xp.sum(members, axis=1))[self.y] * xp.sum(members, axis=0) / (K * (K - 1))
        return xp.where(self.y == classes, xp.zeros_like(members), share)

    def _by_class(self, at: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The order that sorts a block of samples by class, the classes that there are, and where
        each begins.
        """
        key = at.start, at.stop
        if key not in self._orders:
            y = to_numpy(self.y[at])
            order = np.argsort(y, kind="stable")
            classes, starts = np.unique(y[order], return_index=True)
            self._orders[key] = order, classes, starts
        return self._orders[key]

    @cached_property
    def _orders(self) -> dict[tuple[int, int], tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """The orders of the blocks that were asked for."""
        return {}

    def _losses(
        self, scores: Array, penalties: Array, intercept: Array, at: slice, places: Array
    ) -> Array:
        """-m_ik on a block of samples, from their scores (K, m); -inf at the true class."""
        y = self.y[at]
        losses = scores + intercept[:, None]
        losses -= losses[y, places]
        losses += penalties[:, y]
        losses[y, places] = -math.inf
        return losses

    def _intercept_model(
        self, loss: MarginLoss, scores: Array, penalties: Array, b: Array
    ) -> tuple[Array, Array, Array]:
        r"""The log-risk at intercepts b, and its gradient (K,) and Hessian (K, K) over the risk.

        With shares :math:`\pi_i` of the rivals, weights :math:`a_i` of the samples, curvatures
        :math:`c_i` of the loss and :math:`r_i = e_{y_i} - \pi_i` they are :math:`-\sum_i a_i r_i`
        and :math:`\sum_i c_i r_i r_i^T + a_i (\operatorname{diag} \pi_i - \pi_i \pi_i^T)`.
        """
        xp = namespace(scores)
        soft_margins = xp.empty_like(self.log_weight)
        for at, places in self.blocks():
            losses = self._losses(scores[:, at], penalties, b, at, places)
            soft_margins[at] = _soft_minimum(losses)[0]
        log_risk, weights = loss.log_risk_and_weights(soft_margins, self.log_weight)
        curvatures = loss.curvature(soft_margins, weights)
        gradient, hessian = xp.zeros_like(b), xp.zeros_like(penalties)
        for at, places in self.blocks():
            shares = _soft_minimum(self._losses(scores[:, at], penalties, b, at, places))[1]
            weighted = weights[at] * shares
            hessian -= weighted @ shares.T
            of_rival = xp.sum(weighted, axis=1)
            hessian += of_rival * xp.eye(len(b), dtype=b.dtype, device=b.device)
            shares = -shares
            shares[self.y[at], places] = 1.0
            gradient -= shares @ weights[at]
            hessian += (curvatures[at] * shares) @ shares.T
        return log_risk, gradient, hessian

    def _pair_log_risks(self, scores: Array, penalties: Array) -> np.ndarray:
        r""":math:`\log C_{lk}`, :math:`C_{lk} = \sum_{i: y_i = l} s_i e^{-m_{ik}}` at b = 0, of
        shape (K, K); -inf on the diagonal.
        """
        xp, K = namespace(scores), self.n_classes
        zero = xp.zeros_like(scores[:, 0])
        tops = np.full((K, K), -math.inf)
        sums = np.zeros((K, K))
        for at, places in self.blocks():
            logs = self._losses(scores[:, at], penalties, zero, at, places) + self.log_weight[at]
            order, classes, starts = self._by_class(at)
            block = to_numpy(logs)[:, order]
            top = np.maximum(np.maximum.reduceat(block, starts, axis=1).T, tops[classes])
            unit = np.where(top > -math.inf, top, 0.0)
            block = np.exp(block - np.repeat(unit, np.diff(starts, append=len(order)), axis=0).T)
            old = sums[classes] * np.exp(tops[classes] - unit)
            sums[classes] = old + np.add.reduceat(block, starts, axis=1).T
            tops[classes] = top
        known = sums > 0
        return np.where(
            known, np.log(np.where(known, sums, 1.0)) + np.where(known, tops, 0), -np.inf
        )


def _soft_minimum(losses: Array) -> tuple[Array, Array]:
    """The soft minimum of the margins -losses (K, m), of shape (m,), and its gradient (K, m), the
    shares of the rivals. The losses are written to.
    """
    xp = namespace(losses)
    largest = xp.max(losses, axis=0)
    losses -= largest
    shares = xp.exp(losses)
    total = xp.sum(shares, axis=0)
    shares /= total
    return -(largest + xp.log(total)), shares


def _newton_step(gradient: np.ndarray, hessian: np.ndarray, reach: float) -> np.ndarray:
    """The Newton step of sum 0; where the slope of a class would lead farther than `reach` its
    curvature is raised. The null vector 1 is made regular.
    """
    gradient, hessian = gradient.astype(np.float64), hessian.astype(np.float64)
    limits = np.finfo(np.float64)
    diagonal = np.diag(hessian)
    raised = np.maximum(np.abs(gradient) / reach - diagonal, 0)
    size = np.sqrt(np.maximum(diagonal + raised, limits.tiny))
    unit = size / np.linalg.norm(size)
    # in units of the diagonal
    matrix = hessian / np.outer(size, size) + np.outer(unit, unit)
    matrix += np.diag(raised / size**2 + _INTERCEPT_RIDGE * limits.eps)
    step: np.ndarray = -np.linalg.solve(matrix, gradient / size) / size
    return step - step.mean()
