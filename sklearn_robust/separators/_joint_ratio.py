"""The smallest ratio of margin and norm of the differences of several classes, and the intercepts
that make it largest.
"""

from __future__ import annotations

import math

import numpy as np

from sklearn_robust.certificates import sum_rounding
from sklearn_robust.joint import JointProblem
from sklearn_robust.joint_certificates import best_intercept
from sklearn_robust.separators._max_margin_form import Vector
from sklearn_robust.threats import support

_BISECTIONS = 60  # halvings of the interval of a ratio at most: down to rounding
_ROUNDING = 8 * float(np.finfo(np.float64).eps)


def ratio_intercept(margins: Vector, norms: Vector) -> Vector:
    """The b of sum 0 with the largest smallest ratio of margins (K, K) plus b_l - b_k, and norms
    (K, K).

    By bisection between 0 and the ratio of the closest two classes, from there on: b has a ratio
    where it leaves no margin less this ratio times its norm negative.
    """
    off = ~np.eye(len(norms), dtype=bool)
    both = _ratios(margins + margins.T, norms + norms.T)[off]
    low, high = 0.0, max(float(both.min()), 0.0)
    ratio = high if math.isfinite(high) else 0.0
    best = best_intercept(margins)[0]
    for _ in range(_BISECTIONS):
        intercept, smallest = best_intercept(margins - ratio * norms)
        if smallest >= 0:
            low, best = ratio, intercept
        else:
            high = ratio
        if high - low <= _ROUNDING * high:
            break
        ratio = 0.5 * (low + high)
    return best


def _ratios(margins: Vector | float, norms: Vector | float) -> Vector:
    """Margins over norms, which are 0 where only features of scale 0 differ; inf beyond float64."""
    with np.errstate(over="ignore"):
        return np.divide(margins, np.maximum(norms, np.finfo(np.float64).tiny))


def certified_ratio(problem: JointProblem, coef: Vector, intercept: Vector) -> float:
    r"""The smallest ratio less its rounding; 0 where a margin is not positive.

    Margins are those of the differences of two classes, whose rounding is relative to the
    difference: near eps* classes may be nearly alike.
    """
    smallest = math.inf
    of_sum = sum_rounding(problem.n_terms + 2, np.float64)
    used = problem.log_weight > -math.inf
    for low, high in zip(*problem.pairs, strict=True):
        difference = coef[low] - coef[high]
        norm = float(support(problem.threat, difference[None])[0])
        for sign, c in [(1.0, low), (-1.0, high)]:
            X = problem.X[used & (problem.y == c)]
            moved = intercept[low] - intercept[high]
            sizes = abs(X) @ np.abs(difference) + abs(moved)
            margins = sign * (X @ difference + moved)
            margin = float(np.min(margins - of_sum * sizes, initial=math.inf))
            if not margin > 0:
                return 0.0
            smallest = min(smallest, float(_ratios(margin, norm)))
    return smallest * (1 - sum_rounding(problem.n_features + 2, np.float64))
