r"""The separator of least 2-norm of many classes, by a falling ridge.

The minimiser of the smooth convex function

.. math:: \log L(W, b) + \tfrac{\lambda}{2} \|W\|_2^2

under the exponential loss L tends in direction to the separator of least 2-norm as :math:`\lambda
\to 0`. L-BFGS follows it for smaller and smaller :math:`\lambda`, with smoothed pair penalties
(`_joint_start`), on the risk of the nearest rivals of each sample, to which each stage adds those
that came near (`_joint_rivals`). At the minimiser :math:`\lambda W` is what the flow of the
perturbations leaves of the weighted sum G: the weights prove the bound :math:`\lambda \|W\|_2` on
the margin. The margin of W lacks at most this share of it:

.. math:: \frac{-\sum_{ik} a_{ik} \log(a_{ik} / s_i) - \log \min_i s_i}{\lambda \|W\|_2^2}.

It costs the products of some hundred gradients where a program has a row for each pair of classes
and feature, half a million times d for a thousand classes.

References
----------
S. Rosset, J. Zhu and T. Hastie, Boosting as a regularized path to a maximum margin classifier,
Journal of Machine Learning Research 5 (2004).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sklearn_robust.certificates import Certified
from sklearn_robust.joint import JointProblem
from sklearn_robust.joint_certificates import certify
from sklearn_robust.losses import Exponential
from sklearn_robust.norms import LpNorm
from sklearn_robust.solvers._joint_model import JointModel, RiskPoint
from sklearn_robust.solvers._joint_rivals import RivalModel, nearest_rivals
from sklearn_robust.solvers._joint_start import (
    PairDifferences,
    SmoothedRisk,
    descend,
    with_reachable,
)
from sklearn_robust.solvers.solution import Monitor, Monitoring
from sklearn_robust.threats import ProximalThreat, require

_NORM = LpNorm(2)
_FIRST_RIDGE = 0.06  # in units of the data
_LEAST_RIDGE = 1e-12  # the last one: rounding hides smaller ones
_FALL = 0.4  # factor of the ridge from one stage to the next
# iterations of the first stage, which starts at 0, and of one that lacks rivals
_FIRST_ITERATIONS = 20
# largest entry of the gradient at the end of a stage, relative to the mean size of the ridge's
_ACCURACY = 0.15
_MEMORY = 50  # pairs of differences that L-BFGS keeps: small ridges are ill-conditioned
_SMOOTHING = 0.01  # smoothing of the penalties, relative to the mean size of the coefficients
# entries of arrays over classes and samples, and over pairs and features, that all iterations may
# compute: about a minute for a thousand classes
_MOST_ENTRIES = 1_500_000_000


@dataclass(frozen=True)
class JointLimit:
    """The end of the search for the separator of least 2-norm.

    Attributes
    ----------
    certified : Certified
        The predictor, with arrays (K, d), (K, 0) and (K,), a smallest robust margin of 1 where it
        separates, and the margin and its bound as floats.
    n_iter : int
        Iterations of L-BFGS.
    """

    certified: Certified
    n_iter: int


def joint_limit(
    problem: JointProblem,
    *,
    tol: float = 1e-3,
    max_iter: int = 10_000,
    monitors: Sequence[Monitor] = (),
) -> JointLimit:
    """The robust separator of least 2-norm of several classes, to a certified gap.

    Parameters
    ----------
    problem : JointProblem
        On NumPy or scipy.sparse data or rows of one's own, with a threat that has a projection.
    tol : float, default=1e-3
        Certified relative gap of the margin to reach.
    max_iter : int, default=10_000
        Iterations of L-BFGS at most; fewer where classes times samples, or pairs of classes times
        features, are many millions.
    monitors : sequence of Monitor, optional
        Shown coef (1, K, d), intercept (1, K) and log_risk (1,) at iterations of their choice, as
        one problem. They change no iteration; each may stop the solver.

    Returns
    -------
    JointLimit
        Its gap may exceed tol where the iterations ended first. Without a robust separator the
        margin is not positive.

    Raises
    ------
    ValueError
        If the threat has no projection.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_robust.joint import JointProblem
    >>> from sklearn_robust.solvers import joint_limit
    >>> X, y = 2 * np.eye(3), np.arange(3)
    >>> problem = JointProblem.from_data(X, y, q=np.inf, eps=0.5, fit_intercept=False)
    >>> found = joint_limit(problem, tol=1e-3).certified
    >>> print(round(float(found.margin), 2), found.gap <= 1e-3)
    0.71 True
    """
    require(problem.threat, ProximalThreat, "the separator of many classes")
    problem = with_reachable(problem.in_double_arithmetic())
    return _Limit(problem, tol, Monitoring(0, monitors)).run(max_iter)


class _Limit:
    """One run.

    Attributes
    ----------
    coef : ndarray of shape (K, d + 1)
        The current predictor, in units of the model.
    near : ndarray of bool of shape (K, n)
        The pairs of a sample and a rival that are judged.
    lacking : bool
        Whether others have a smaller margin.
    best : tuple of float, ndarray of shape (K, d + 1), SmoothedRisk and RivalModel
        The least estimate of the gap at the end of a stage, and the predictor and the risk there.
    """

    best: tuple[float, np.ndarray, SmoothedRisk, RivalModel]

    def __init__(self, problem: JointProblem, tol: float, monitoring: Monitoring) -> None:
        self.problem = problem
        self.tol = tol
        self.monitoring = monitoring
        self.whole = JointModel(problem, Exponential())
        self.coef = np.zeros((problem.n_classes, problem.n_features + 1))
        means = np.asarray(problem.at_class_means().X)
        self._judge(nearest_rivals(problem, means, -0.5 * np.square(means).sum(axis=1)))
        self.n_iter = 0
        self.stopped = False
        self.lacking = True

    def _judge(self, near: np.ndarray) -> None:
        """Take the risk of pairs of a sample and a rival, (K, n)."""
        self.near = near
        self.model = RivalModel(self.whole, near)
        self.differences = PairDifferences(self.model)

    def run(self, max_iter: int) -> JointLimit:
        """Stages of smaller and smaller ridges, until the certified gap is tol."""
        entries = self.coef.shape[0] * len(self.problem.y)
        entries += len(self.model.low) * len(self.differences.columns)
        max_iter = min(max_iter, max(_FIRST_ITERATIONS, _MOST_ENTRIES // entries))
        ridge = _FIRST_RIDGE
        while True:
            end = self._stage(ridge, max_iter)
            gap = self._estimated_gap(end)
            if ridge == _FIRST_RIDGE or gap <= self.best[0]:
                self.best = gap, self.coef, end, self.model
            last = self.stopped or self.n_iter >= max_iter or not self.coef[:, :-1].any()
            last |= ridge <= _LEAST_RIDGE
            if last or gap <= self.tol:
                found = self._certified()
                if last or found.gap <= self.tol:
                    return JointLimit(found, self.n_iter)
            self._add_rivals(end)
            if not self.lacking:
                ridge *= _FALL
                # the norm of the minimiser grows like this
                self.coef = self.coef / math.sqrt(_FALL)

    def _stage(self, ridge: float, max_iter: int) -> SmoothedRisk:
        """L-BFGS for one ridge."""
        size = math.sqrt(float(np.mean(self.coef[:, :-1] ** 2)))
        of_stage = max_iter - self.n_iter
        if self.lacking:
            of_stage = min(of_stage, _FIRST_ITERATIONS)
        before = self.n_iter
        self.coef, end = descend(
            self.model,
            self.differences,
            self.coef,
            smoothing=_SMOOTHING * (size if size > 0 else 1.0),
            max_iter=of_stage,
            stop=self._after_iteration,
            ridge=ridge,
            gradient_tol=_ACCURACY * ridge * size,
            memory=_MEMORY,
        )
        self.n_iter = max(self.n_iter, before + 1)  # so that the stages come to an end
        return end

    def _add_rivals(self, end: SmoothedRisk) -> None:
        """Judge the pairs that came near as well."""
        W, b = self.model.predictor(self.coef)
        near = nearest_rivals(self.problem, W, b)
        self.lacking = False
        if np.any(near & ~self.near):
            smallest = float(self.problem.robust_margins(W, b).min())
            self.lacking = smallest < end.point.smallest_margin
            self._judge(near | self.near)

    def _after_iteration(self, coef: np.ndarray, point: RiskPoint) -> bool:
        """Count and show an iteration; whether a monitor stops the run."""
        self.n_iter += 1
        if self.monitoring.due(self.n_iter):
            W, b = self.model.predictor(coef)
            self.stopped = self.monitoring(
                self.n_iter,
                np.zeros(1, dtype=int),
                W[None],
                b[None],
                log_risk=np.full(1, point.log_risk),
            )
        return self.stopped

    def _estimated_gap(self, end: SmoothedRisk) -> float:
        """The gap of the margin, but for the balance of the classes and rounding."""
        W, b = self.model.predictor(self.coef)
        margin = float(self.problem.robust_margins(W, b).min()) / float(np.linalg.norm(W))
        bound = self.model.unit * float(np.linalg.norm(end.gradient[:, :-1]))
        return 1 - margin / bound if bound > 0 else math.inf

    def _certified(self) -> Certified:
        """The certificate of the best predictor."""
        _, coef, end, model = self.best

        def weights() -> np.ndarray:
            array = np.zeros((self.problem.n_classes, len(self.problem.y)))
            for at, block in model.weight_blocks(end.point):
                array[:, at] = block
            return array

        W, _ = self.model.predictor(coef)
        return certify(self.problem, _NORM, W, weights, keep_weights=False)
