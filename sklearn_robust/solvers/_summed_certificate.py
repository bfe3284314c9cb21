r"""The certificate of a risk that is known by sums: what the weights of a model prove.

Weights a of the samples that are dual feasible, :math:`\|Z^T a\|_q \le \epsilon` and :math:`y \cdot
a = 0` at :math:`\sum_i a_i = 1`, bound the risk of every predictor from below, against
an l_q ball.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from sklearn_robust.certificates import inside_up_to_rounding
from sklearn_robust.losses import SummableLoss
from sklearn_robust.solvers._risk_sums import ModelWeights, Proof, ProofSums, WeightSums
from sklearn_robust.solvers.solution import risk_gap
from sklearn_robust.summed import Predictor, SummedProblem


@dataclass(frozen=True)
class Proven:
    """A predictor in the precision of the data, its figures, and its certified relative gap."""

    at: Predictor
    sums: ProofSums
    gap: float


@dataclass(frozen=True)
class SummedCertificate:
    """What weights prove of a problem."""

    problem: SummedProblem
    loss: SummableLoss

    def balancing(self, sums: WeightSums) -> np.ndarray | None:
        """Factors of the classes that balance the weights, of sum 1; None without weights."""
        if self.problem.fit_intercept:
            return 0.5 / sums.total if np.all(sums.total > 0) else None
        total = sums.total.sum()
        return np.full(2, 1 / total) if total > 0 else None

    def is_feasible(self, sums: WeightSums, factors: np.ndarray) -> bool:
        """Whether Z^T a is in the ball, up to the rounding of each of its coordinates."""
        threat, radius = self.problem.threat, self.problem.radius
        weighted_sum, sizes = factors @ sums.weighted_sum, factors @ sums.sizes
        return bool(inside_up_to_rounding(threat, weighted_sum, radius, sizes))

    def prove(self, model: ModelWeights, sums: WeightSums, factors: np.ndarray) -> Proven:
        """The last target of a model as the user sees it, and the gap that feasible weights prove;
        `sums` are those of the weights without the factors of the classes.
        """
        dtype = self.problem.survey.dtype
        target = model.targets[-1]
        seen = self.problem.predictor(
            target.coef.astype(dtype).astype(np.float64), dtype.type(target.intercept)
        )
        # c a_i = s_i sigma(-m_i) at the minimiser, and never more than s_i
        ratios = sums.log_ratio + np.log(factors)
        log_scale = min(model.log_risk + math.log(sums.total.sum()), -float(ratios.max()))
        found = self.problem.total(Proof(seen, model.scaled(factors), log_scale))
        bound = self.loss.dual_bound(found.dual_sum, log_scale)
        return Proven(seen, found, risk_gap(bound, found.log_risk))
