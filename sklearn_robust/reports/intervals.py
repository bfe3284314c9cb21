r"""Confidence intervals of figures of weighted samples, each with its name.

Weights count as :math:`(\sum_i w_i)^2 / \sum_i w_i^2` samples of equal weight, the effective number
of them: n where all are equal.

Sources: C. Clopper, E. Pearson, The use of confidence or fiducial limits, Biometrika 26, 1934; E.
Korn, B. Graubard, Confidence intervals for proportions with small expected number of positive
counts estimated from survey data, Survey Methodology 24, 1998; P. Massart, The tight constant in
the Dvoretzky-Kiefer-Wolfowitz inequality, Annals of Probability 18, 1990; E. DeLong, D. DeLong, D.
Clarke-Pearson, Comparing the areas under two or more correlated ROC curves, Biometrics 44, 1988; B.
Efron, R. Tibshirani, An Introduction to the Bootstrap, 1993, chapter 12.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.stats import beta, norm, t
from sklearn.metrics import roc_auc_score, roc_curve
from sklearn.utils import check_random_state

LEVEL = 0.95
RESAMPLES = 1000
_ENTRIES = 2**22  # resampled weights that exist at a time
_LEAST_SHARE = 1e-9  # up to which a share of successes, or of the variance, is rounding
# levels at which the approximate intervals cover 95 % in simulations of 30 to 300 samples, which
# benchmarks/report_intervals.py repeats
_AREA_LEVEL, _MEAN_LEVEL = 0.97, 0.98


@dataclass(frozen=True)
class Interval:
    """A figure with an interval that covers that of the population.

    Attributes
    ----------
    value, low, high : float
    name : str
        The kind of the interval.
    """

    value: float
    low: float
    high: float
    name: str


def effective_number(weight: np.ndarray) -> float:
    """The number of samples of equal weight that weights are worth."""
    return float(weight.sum() ** 2 / (weight**2).sum())


def clopper_pearson(share: float, n: float, level: float = LEVEL) -> tuple[float, float]:
    """The interval of a proportion that covers it at least as often as its level, for every n.

    Parameters
    ----------
    share : float
        Successes over n.
    n : float
        The number of trials, or an effective one.
    level : float

    Returns
    -------
    low, high : float
    """
    outside, successes = (1 - level) / 2, share * n
    failures = n - successes
    rounding = _LEAST_SHARE * n
    low = 0.0 if successes <= rounding else beta.ppf(outside, successes, failures + 1)
    high = 1.0 if failures <= rounding else beta.ppf(1 - outside, successes + 1, failures)
    return float(low), float(high)


def proportion(holds: np.ndarray, weight: np.ndarray) -> Interval:
    """The share of the samples, with the interval of Clopper and Pearson."""
    share = float(np.average(holds, weights=weight))
    return Interval(share, *clopper_pearson(share, effective_number(weight)), _exact_name(weight))


def mean_of_classes(right: np.ndarray, y: np.ndarray, weight: np.ndarray) -> Interval:
    """The balanced accuracy: the mean of the classes' intervals, each of the level that Bonferroni
    asks for.
    """
    classes = np.unique(y)
    level = 1 - (1 - LEVEL) / len(classes)
    ends = []
    for k in classes:
        members = weight[y == k]
        share = float(np.average(right[y == k], weights=members))
        ends.append((share, *clopper_pearson(share, effective_number(members), level)))
    share, low, high = np.mean(ends, axis=0).tolist()
    return Interval(share, low, high, f"{_exact_name(weight)} of each class, Bonferroni")


def largest_difference(scores: np.ndarray, positive: np.ndarray, weight: np.ndarray) -> Interval:
    r"""The largest difference of the distribution functions of two classes, that of Kolmogorov and
    Smirnov.

    Each of the functions is known up to :math:`\sqrt{\log(2 / \alpha) / 2 n}`. A bootstrap
    would centre its interval too high, as a maximum of noisy numbers is too high.
    """
    false, true, _ = roc_curve(positive, scores, sample_weight=weight)
    value = max(float(np.max(true - false)), 0.0)
    numbers = [effective_number(weight[members]) for members in (positive, ~positive)]
    room = sum(math.sqrt(math.log(4 / (1 - LEVEL)) / (2 * n)) for n in numbers)
    name = "Dvoretzky-Kiefer-Wolfowitz of each class, Bonferroni" + _of_effective(weight)
    return Interval(value, max(value - room, 0.0), min(value + room, 1.0), name)


def area_under_curve(scores: np.ndarray, positive: np.ndarray, weight: np.ndarray) -> Interval:
    """The area A under the ROC curve: how often a positive sample scores above a negative one, ties
    counted as half.

    With DeLong's variance V it is as uncertain as a proportion of A (1 - A) / V samples, and is
    given the interval of that; where V is 0, as of classes that do not overlap, that of the smaller
    class.
    """
    area = float(roc_auc_score(positive, scores, sample_weight=weight))
    above = _shares_below(scores[positive], scores[~positive], weight[~positive])
    below = 1 - _shares_below(scores[~positive], scores[positive], weight[positive])
    parts, numbers = [], []
    for places, members in ((above, weight[positive]), (below, weight[~positive])):
        n = effective_number(members)
        spread = np.average((places - area) ** 2, weights=members)
        parts.append(float(spread / max(n - 1, 1)))
        numbers.append(n)
    variance, n = sum(parts), min(numbers)
    if variance > _LEAST_SHARE * area * (1 - area):
        # Welch's degrees of freedom: the variance is an estimate, too
        of = sum(part**2 / max(m - 1, 1) for part, m in zip(parts, numbers, strict=True))
        outside = (1 - _AREA_LEVEL) / 2
        estimated = (norm.isf(outside) / t.isf(outside, max(variance**2 / of, 1.0))) ** 2
        n = min(area * (1 - area) / variance * estimated, sum(numbers))
    name = f"Clopper-Pearson at DeLong's variance, level {_AREA_LEVEL:.0%}"
    return Interval(area, *clopper_pearson(area, n, _AREA_LEVEL), name)


def _shares_below(scores: np.ndarray, others: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The weighted share of the others below each score, ties as half."""
    order = np.argsort(others, kind="stable")
    sums = np.append(0.0, np.cumsum(weight[order])) / weight.sum()
    ends = [sums[np.searchsorted(others[order], scores, side)] for side in ("left", "right")]
    found: np.ndarray = 0.5 * (ends[0] + ends[1])
    return found


def mean(values: np.ndarray, weight: np.ndarray) -> Interval:
    """The weighted mean, with the bootstrap-t interval.

    The errors of resamples over their standard errors stand for that of the sample over its own.
    """
    rng = check_random_state(0)  # the same report for the same data
    n = len(values)
    w = weight / weight.sum()
    value = float(w @ values)
    x = values - value
    columns = np.column_stack([w, w * x, w**2, w**2 * x, w**2 * x**2])
    error = math.sqrt(float(np.sum(columns[:, 4])))
    ratios = []
    step = max(1, _ENTRIES // n)
    for start in range(0, RESAMPLES, step):
        counts = rng.multinomial(n, np.full(n, 1 / n), size=min(step, RESAMPLES - start))
        total, first, squares, cross, second = (counts @ columns).T
        found = first / np.where(total > 0, total, 1.0)
        spread = np.maximum(second - 2 * found * cross + found**2 * squares, 0.0)
        known = (total > 0) & (spread > _LEAST_SHARE * error**2 * total**2)
        ratios.append(found[known] * total[known] / np.sqrt(spread[known]))
    name = f"bootstrap-t, {RESAMPLES} resamples, level {_MEAN_LEVEL:.0%}"
    every = np.concatenate(ratios)
    if len(every) == 0:  # all values are the same
        return Interval(value, value, value, name)
    outside = (1 - _MEAN_LEVEL) / 2
    low, high = np.quantile(every, [outside, 1 - outside])
    return Interval(value, value - error * float(high), value - error * float(low), name)


def _of_effective(weight: np.ndarray) -> str:
    alike = bool(np.all(weight == weight[0]))
    return "" if alike else ", effective number of samples"


def _exact_name(weight: np.ndarray) -> str:
    alike = bool(np.all(weight == weight[0]))
    return "Clopper-Pearson" if alike else "Korn-Graubard"
