r"""Steps of the coefficients and perturbations of all pairs of classes that prove each other best.

At fixed weights the change of the joint log-risk around W is modelled by the linear term and the
pair penalties, which have kinks. With G the weighted sum, capacities :math:`c_{lk}`, the radius
times the weight between two classes, and the flow :math:`\Phi(\delta) = \sum_{l<k} (e_l - e_k)
\delta_{lk}^T`,

.. math:: M(D) = -\langle G, D \rangle + \sum_{l<k} c_{lk} \big( \sigma(w_l - w_k + d_l - d_k) -
    \sigma(w_l - w_k) \big).

L(W) M(D) is at most L(W + D) - L(W), as the risk is convex in scores and penalties. The best step
of a length :math:`\rho` in a norm is a saddle point,

.. math:: \min_{\|D\| \le \rho} M(D) = \max_{\delta_{lk} \in c_{lk} U} \langle \Phi(\delta), W
    \rangle - \sum_{l<k} c_{lk}\,\sigma(w_l - w_k) - \rho\,\|G - \Phi(\delta)\|_*.

At W = 0 and :math:`\rho = 1` the right side is minus the bound D(a) on the margin
(`sklearn_robust.joint_certificates`): one method serves steps and bounds, for every norm and every
threat that have projections.

References
----------
A. Chambolle and T. Pock, A first-order primal-dual algorithm for convex problems, Journal of
Mathematical Imaging and Vision 40 (2011). D. Applegate et al., Practical large-scale linear
programming using primal-dual hybrid gradient, arXiv 2106.04756, has the restarts and the step
ratio.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sklearn_robust.joint import JointProblem
from sklearn_robust.norms import LpNorm, Norm
from sklearn_robust.threats import support

_CHECK_EVERY = 5  # iterations between measurements of the duality gap
_RESTART = 0.5  # factor on the duality gap at which the iteration starts anew
_LONGEST = 0.4  # share of the iterations so far after which it starts anew in any case
# entries of perturbations that a search passes at most, some seconds, and its fewest iterations: a
# thousand classes have half a million pairs
_MOST_ENTRIES, _FEWEST = 10**8, 20
# decrease, relative to that of the linear term alone, below which a model has none
_NOTHING = 1e-10


def flow(perturbations: np.ndarray, n_classes: int) -> np.ndarray:
    r""":math:`\sum_{l<k} (e_l - e_k) \delta_{lk}^T`: (K(K-1)/2, d) -> (K, d)."""
    total = np.zeros((n_classes, perturbations.shape[1]))
    start = 0
    for c in range(n_classes - 1):
        stop = start + n_classes - 1 - c
        total[c] += perturbations[start:stop].sum(axis=0)
        total[c + 1 :] -= perturbations[start:stop]
        start = stop
    return total


def affordable(max_iter: int, perturbations: np.ndarray) -> int:
    """Iterations over perturbations of so many pairs and features that are worth their time."""
    return min(max_iter, max(_FEWEST, _MOST_ENTRIES // max(perturbations.size, 1)))


@dataclass(frozen=True)
class Saddle:
    r"""A step and perturbations.

    Attributes
    ----------
    step : ndarray of shape (K, d)
        D.
    perturbations : ndarray of shape (K(K-1)/2, d)
        :math:`\delta`.
    value : float
        M(D).
    bound : float
        The value below which the perturbations prove that no step brings M.
    """

    step: np.ndarray
    perturbations: np.ndarray
    value: float
    bound: float

    @property
    def gap(self) -> float:
        """The decrease that the step may lack."""
        return self.value - self.bound

    def or_better(self, other: Saddle) -> Saddle:
        """The step of the lower value with the perturbations of the higher bound."""
        low = other if other.value < self.value else self
        high = other if other.bound > self.bound else self
        return Saddle(low.step, high.perturbations, low.value, high.bound)


@dataclass(frozen=True)
class StepModel:
    r"""The model M of the log-risk around W, on the steps :math:`\|D\| \le \rho`.

    Attributes
    ----------
    problem : JointProblem
        With a threat that has a projection.
    norm : Norm
    coef : ndarray of shape (K, d)
        W.
    weighted_sum : ndarray of shape (K, d)
        G, of column sums 0.
    capacities : ndarray of shape (K(K-1)/2,)
        c.
    length : float
        :math:`\rho`.
    slack : float, default=0
        Share of the largest decrease that the steepest directions may lack.
    """

    problem: JointProblem
    norm: Norm
    coef: np.ndarray
    weighted_sum: np.ndarray
    capacities: np.ndarray
    length: float
    slack: float = 0.0

    def left(self, perturbations: np.ndarray) -> np.ndarray:
        """What the flow of perturbations leaves of G, (K, d)."""
        return self.weighted_sum - flow(perturbations, self.problem.n_classes)

    def longest(self, left: np.ndarray) -> np.ndarray:
        """The step of the full length in the steepest direction of (K, d), up to the slack."""
        return self.length * nearly_steepest(self.norm, left, self.slack)

    def inside(self, step: np.ndarray) -> np.ndarray:
        """The nearest step of at most the full length."""
        nearest: np.ndarray = self.norm.project(step.ravel(), self.length).reshape(step.shape)
        return nearest

    def penalty(self, coef: np.ndarray) -> float:
        r""":math:`\sum_{l<k} c_{lk}\,\sigma(w_l - w_k)`."""
        sizes = support(self.problem.threat, self.problem.pair_differences(coef))
        return float(self.capacities @ sizes)

    @cached_property
    def nothing(self) -> float:
        """A decrease that is none."""
        return _NOTHING * self.length * float(self.norm.dual.value(self.weighted_sum.ravel()))

    def is_flat(self, saddle: Saddle) -> bool:
        """Whether the perturbations prove that no step brings a decrease."""
        return saddle.bound >= -self.nothing

    def saddle(self, step: np.ndarray, perturbations: np.ndarray) -> Saddle:
        """The step and the perturbations with what they prove."""
        left, penalty = self.left(perturbations), self.penalty(self.coef)
        value = self.penalty(self.coef + step) - penalty - np.vdot(self.weighted_sum, step)
        bound = np.vdot(self.weighted_sum - left, self.coef) - penalty
        bound -= self.length * float(self.norm.dual.value(left.ravel()))
        return Saddle(step, perturbations, float(value), float(bound))

    def best(
        self,
        perturbations: np.ndarray,
        step: np.ndarray | None = None,
        *,
        tol: float,
        max_iter: int,
    ) -> Saddle:
        """A step that lacks at most this share of the largest decrease, by the restarted
        primal-dual hybrid gradient method.

        Parameters
        ----------
        perturbations : ndarray of shape (K(K-1)/2, d)
            Where to start, within the capacities: where they are right no iteration is needed.
        step : ndarray of shape (K, d), optional
            A first step, of at most the full length.
        tol : float
        max_iter : int
            Fewer where the pairs of classes and the features are many.

        Returns
        -------
        Saddle
            The best that was met.
        """
        steepest = self.longest(self.left(perturbations))
        best = self.saddle(steepest, perturbations)
        if step is not None:
            best = best.or_better(self.saddle(step, perturbations))
        search = _Search(self, best)
        for _ in range(0, affordable(max_iter, perturbations), _CHECK_EVERY):
            if best.gap <= max(tol * abs(best.value), self.nothing) or self.is_flat(best):
                break
            best = search.advance().or_better(best)
        return best


def nearly_steepest(norm: Norm, g: np.ndarray, slack: float) -> np.ndarray:
    r"""A direction u (K, d) of norm 1 with :math:`\langle u, g \rangle \ge (1 - \text{slack})
    \|g\|_*`.

    For p = 1, where one coordinate is steepest, those that are nearly as large move with it:

    .. math:: u_j \propto \operatorname{sign}(g_j) \, (|g_j| - (1 - \text{slack})
        \|g\|_\infty)_+.

    In other norms u is the steepest direction.
    """
    if slack > 0 and norm == LpNorm(1):
        sizes = np.abs(g)
        excess = np.maximum(sizes - (1 - slack) * sizes.max(), 0.0)
        if excess.any():
            return np.sign(g) * (excess / excess.sum())
    direction: np.ndarray = norm.steepest_direction(g.ravel()).reshape(g.shape)
    return direction


class _Search:
    r"""The iterates of the primal-dual hybrid gradient method.

    Steps of :math:`1 / (\omega \sqrt K)` for D follow those of :math:`\omega / \sqrt K` for the
    perturbations: the Laplacian of the complete graph has norm K. The ratio :math:`\omega` of the
    sizes of both is estimated at each start.
    """

    def __init__(self, model: StepModel, start: Saddle) -> None:
        self.model = model
        self.n_iter = 0
        differences = model.problem.pair_differences(start.step)
        taken = model.capacities[:, None] * model.problem.threat.worst(differences)
        length = float(np.linalg.norm(start.step))
        self.ratio = float(np.linalg.norm(taken)) / length if length > 0 else 1.0
        self.ratio = self.ratio if self.ratio > 0 else 1.0
        self._start_at(start)

    def _start_at(self, saddle: Saddle) -> None:
        self.start, self.count = saddle, 0
        self.step = self.ahead = saddle.step
        self.perturbations = saddle.perturbations

    def advance(self) -> Saddle:
        """Where some more iterations lead."""
        for _ in range(_CHECK_EVERY):
            self._iterate()
        self.count += _CHECK_EVERY
        self.n_iter += _CHECK_EVERY
        now = self.model.saddle(self.step, self.perturbations)
        if now.gap <= _RESTART * self.start.gap or self.count >= _LONGEST * self.n_iter:
            self._adapt(now)
            self._start_at(now)
        return now

    def _iterate(self) -> None:
        model, root = self.model, math.sqrt(self.model.problem.n_classes)
        moved = model.problem.pair_differences(model.coef + self.ahead)
        moved *= self.ratio / root
        moved += self.perturbations
        self.perturbations = model.problem.threat.project(moved, model.capacities)
        left = model.left(self.perturbations)
        step = model.inside(self.step + left / (self.ratio * root))
        self.ahead, self.step = 2 * step - self.step, step

    def _adapt(self, end: Saddle) -> None:
        """Move the ratio half way, on a logarithmic scale, to that of the ways since the start."""
        of_step = float(np.linalg.norm(end.step - self.start.step))
        taken = float(np.linalg.norm(end.perturbations - self.start.perturbations))
        if of_step > 0 and taken > 0:
            self.ratio = math.sqrt(self.ratio * taken / of_step)
