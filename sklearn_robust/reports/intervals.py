"""Confidence intervals of figures, each with its name."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest
from sklearn.utils import check_random_state

LEVEL = 0.95
RESAMPLES = 1000
_ENTRIES = 2**22  # resampled weights that exist at a time
# two-sided share outside the percentiles: in simulations of 30 to 300 samples it covers 95 %
_OUTSIDE = 0.02

Figure = Callable[[np.ndarray], np.ndarray]


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


def clopper_pearson(successes: int, n: int, level: float = LEVEL) -> tuple[float, float]:
    """The interval of a proportion that covers it at least as often as its level, for every n.

    Source: C. Clopper, E. Pearson, The use of confidence or fiducial limits, Biometrika 26, 1934.
    """
    ends = binomtest(successes, n).proportion_ci(level, method="exact")
    return float(ends.low), float(ends.high)


def proportion(holds: np.ndarray) -> Interval:
    """The share of samples of equal weight, with the interval of Clopper and Pearson."""
    n, successes = len(holds), int(np.count_nonzero(holds))
    return Interval(successes / n, *clopper_pearson(successes, n), "Clopper-Pearson")


def mean_of_classes(right: np.ndarray, y: np.ndarray) -> Interval:
    """The balanced accuracy of samples of equal weight: the mean of the classes' intervals, each
    of the level that Bonferroni asks for.
    """
    classes = np.unique(y)
    level = 1 - (1 - LEVEL) / len(classes)
    shares: list[float] = []
    lows: list[float] = []
    highs: list[float] = []
    for k in classes:
        members = right[y == k]
        shares.append(float(members.mean()))
        low, high = clopper_pearson(int(members.sum()), len(members), level)
        lows.append(low)
        highs.append(high)
    name = "Clopper-Pearson of each class, Bonferroni"
    return Interval(float(np.mean(shares)), float(np.mean(lows)), float(np.mean(highs)), name)


def largest_difference(value: float, y: np.ndarray) -> Interval:
    r"""The largest difference of the distribution functions of two classes, of samples of equal
    weight.

    Each of the functions is known up to :math:`\sqrt{\log(2 / \alpha) / 2 n}`. A bootstrap
    would centre its interval too high, as a maximum of noisy numbers is too high.

    Source: P. Massart, The tight constant in the Dvoretzky-Kiefer-Wolfowitz inequality, Annals of
    Probability 18, 1990.
    """
    outside = (1 - LEVEL) / 2
    room = sum(math.sqrt(math.log(2 / outside) / (2 * np.sum(y == k))) for k in np.unique(y))
    name = "Dvoretzky-Kiefer-Wolfowitz of each class, Bonferroni"
    return Interval(value, max(value - room, 0.0), min(value + room, 1.0), name)


def bootstrap(figure: Figure, y: np.ndarray, weight: np.ndarray) -> Interval:
    """A figure of weights (..., n), with percentiles over resamples that keep the class sizes.

    The percentiles are those of 98 %: at a few dozen samples those of 95 % cover too seldom.
    """
    rng = check_random_state(0)  # the same report for the same data
    classes = [np.flatnonzero(y == k) for k in np.unique(y)]
    found = []
    step = max(1, _ENTRIES // len(y))
    for start in range(0, RESAMPLES, step):
        counts = np.zeros((min(step, RESAMPLES - start), len(y)))
        for members in classes:
            even = np.full(len(members), 1 / len(members))
            counts[:, members] = rng.multinomial(len(members), even, size=len(counts))
        drawn = counts * weight
        full = np.all([drawn[:, members].sum(axis=1) > 0 for members in classes], axis=0)
        found.append(figure(drawn[full]))
    low, high = np.quantile(np.concatenate(found), [_OUTSIDE / 2, 1 - _OUTSIDE / 2])
    name = f"bootstrap, {RESAMPLES} resamples by class, percentiles of 98 %"
    return Interval(float(figure(weight)), float(low), float(high), name)
