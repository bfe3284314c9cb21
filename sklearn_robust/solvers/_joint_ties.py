r"""Ties of classes at the end of the minimiser of the joint risk.

Against an l_q ball with q = inf the penalty of two classes has a kink where they agree on a
feature, and the minimiser lies on many of them. An interior point ends next to the kinks. A
proximal step on the log-risk ends on them,

.. math:: W \leftarrow \operatorname{prox}\Big(W + \eta G;\; \eta \sum_{l<k} c_{lk} \|w_l - w_k\|_1
    \Big), \qquad c_{lk} = \text{radius}\,A_{lk},

with G the weighted sum and A the weights between two classes.
"""

from __future__ import annotations

import numpy as np

from sklearn_robust._joint_flows import by_cuts, feature_capacities, pair_capacities
from sklearn_robust.joint import JointEvaluation, JointProblem
from sklearn_robust.losses import MarginLoss
from sklearn_robust.total_variation import total_variation_prox

_FIRST_STEP = 10.0  # times the inverse of the mean square of an entry
_SHORTEN = 0.25  # factor of a step that raises the risk
_MOST_STEPS = 12  # steps that are tried at most


def on_kinks(
    problem: JointProblem, loss: MarginLoss, coef: np.ndarray, now: JointEvaluation, unit: float
) -> tuple[np.ndarray, JointEvaluation]:
    """The coefficients (K, d) after a proximal step and their evaluation; as they are where the
    step raises the risk, and where it has no closed form.

    Parameters
    ----------
    problem : JointProblem
    loss : MarginLoss
    coef : ndarray of shape (K, d)
    now : JointEvaluation
        The loss at these coefficients.
    unit : float
        The root mean square of an entry of the rows, less their mean.
    """
    if not by_cuts(problem) or problem.radius == 0:
        return coef, now
    weighted_sum = problem.weighted_sum(now.weights)
    capacities = pair_capacities(problem, now.weights)
    step = _FIRST_STEP / unit**2
    for _ in range(_MOST_STEPS):
        ahead = coef + step * weighted_sum
        moved = total_variation_prox(ahead, feature_capacities(problem, step * capacities))
        new = problem.evaluate(loss, moved, near=now.intercept)
        if float(new.log_risk) <= float(now.log_risk):
            return moved, new
        step *= _SHORTEN
    return coef, now
