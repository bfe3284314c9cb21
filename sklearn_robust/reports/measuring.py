"""What a report measures of a classifier under one threat.

Two classes have a score f. The adversary lowers the score of a positive sample by what its set
takes, and raises that of a negative one: that is the worst case of every figure of two lists of
scores at once, as each sample is attacked alone.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
from sklearn.metrics import confusion_matrix

from sklearn_robust.attacks.linear import boundary_distances, least_margins, unbroken, worst_moves
from sklearn_robust.attacks.rivals import Rivals, class_coef
from sklearn_robust.metrics.linear_view import LinearView
from sklearn_robust.reports.intervals import (
    Interval,
    area_under_curve,
    clopper_pearson,
    largest_difference,
    mean,
    mean_of_classes,
    proportion,
)


@dataclass(frozen=True)
class LinearMeasurement:
    """A linear classifier on labelled samples, under one threat.

    Attributes
    ----------
    view : LinearView
    y : int array of shape (n,)
        Index of each sample's class.
    weight : ndarray of shape (n,)
    threat : Threat
        Bound to the view.
    probabilities : callable or None
        From rows to class probabilities, of two classes.
    """

    view: LinearView
    y: np.ndarray
    weight: np.ndarray
    threat: Any
    probabilities: Callable[[Any], np.ndarray] | None = None

    @cached_property
    def rivals(self) -> Rivals:
        """What the threat takes from the leads of the samples."""
        return self.view.rivals(self.threat)

    @cached_property
    def coef(self) -> np.ndarray:
        """Coefficients of every class, (K, d); of two the first are 0."""
        return class_coef(self.view.coef)

    @cached_property
    def right(self) -> np.ndarray:
        """Which samples no perturbation leads out of their class."""

        def figure(scores: np.ndarray, y: np.ndarray, rows: slice) -> np.ndarray:
            return (scores.argmax(axis=1) == y) & unbroken(scores, y, rows, self.rivals)

        return self.view.figures(figure, self.y)

    @cached_property
    def rival(self) -> np.ndarray:
        """The class with the least robust margin of each sample, (n,)."""

        def figure(scores: np.ndarray, y: np.ndarray, rows: slice) -> np.ndarray:
            own = np.arange(len(y)), y
            taken = self.rivals.taken(rows, y, self.rivals.radius(rows, y))
            margins = scores[own][:, None] - scores - taken
            margins[own] = math.inf
            found: np.ndarray = margins.argmin(axis=1)
            return found

        return self.view.figures(figure, self.y)

    @cached_property
    def lowered(self) -> np.ndarray:
        """The scores of two classes in the worst case, (n,)."""
        margins = self.view.figures(partial(least_margins, rivals=self.rivals), self.y)
        return np.where(self.y == 1, margins, -margins)

    @cached_property
    def moves(self) -> np.ndarray:
        """The perturbation of each sample against its rival, (n, d)."""
        return self.view.figures(partial(worst_moves, rivals=self.rivals), self.y)

    def confusion(self, members: np.ndarray) -> list[list[float]]:
        """Weights by true class and class under attack: the own class where no perturbation leads
        out of it, else the rival.
        """
        under = np.where(self.right, self.y, self.rival)
        labels, weight = range(len(self.view.classes)), self.weight[members]
        matrix = confusion_matrix(
            self.y[members], under[members], labels=labels, sample_weight=weight
        )
        return matrix.tolist()

    def figures(self, members: np.ndarray) -> dict[str, Interval]:
        """Each figure of some samples, with its interval."""
        y, right = self.y[members], self.right[members]
        weight = self.weight[members]
        found = {
            "robust accuracy": proportion(right, weight),
            "balanced robust accuracy": mean_of_classes(right, y, weight),
        }
        if len(self.view.classes) > 2 or len(np.unique(y)) < 2:
            return found
        lowered = self.lowered[members]
        area = area_under_curve(lowered, y == 1, weight)
        found["AUC"] = area
        found["Gini"] = Interval(2 * area.value - 1, 2 * area.low - 1, 2 * area.high - 1, area.name)
        found["KS"] = largest_difference(lowered, y == 1, weight)
        if self.probabilities is not None:
            miss, log_loss = self._losses
            found["Brier score"] = mean(miss[members] ** 2, weight)
            found["log loss"] = mean(log_loss[members], weight)
        return found

    @cached_property
    def _losses(self) -> tuple[np.ndarray, np.ndarray]:
        """The probability that the true class lacks, and its negative logarithm, after attack."""
        assert self.probabilities is not None
        X = self.view.X.toarray() if hasattr(self.view.X, "toarray") else self.view.X
        with warnings.catch_warnings():  # the columns are in the order of the fit
            warnings.filterwarnings("ignore", "X does not have valid feature names")
            own = self.probabilities(X + self.moves)[np.arange(len(self.y)), self.y]
        return 1 - own, -np.log(np.maximum(own, np.finfo(np.float64).tiny))

    @cached_property
    def distances(self) -> np.ndarray:
        """The least radius, (n,), at which each sample is misclassified."""
        figure = partial(boundary_distances, rivals=self.rivals)
        return np.maximum(self.view.figures(figure, self.y), 0.0)

    def radii(self, members: np.ndarray) -> dict[str, str]:
        """The least radii at which a tenth and half of the samples are misclassified, as text: of
        an l_q ball in the units of the features, else multiples of the set.
        """
        distances = self.distances[members]
        order = np.argsort(distances)
        fallen = np.cumsum(self.weight[members][order]) / self.weight[members].sum()
        found = {}
        for name, level in (("a tenth", 0.1), ("half", 0.5)):
            at = int(np.searchsorted(fallen, level * (1 - 1e-12)))
            found[name] = f"{distances[order][min(at, len(order) - 1)]:.6g}"
        return found

    def features(self, members: np.ndarray, most: int) -> list[tuple[str, float]]:
        """The features through which the adversary moves the scores most, with their share."""
        moved = self.moves * (self.coef[self.rival] - self.coef[self.y])
        shares = self.weight[members] @ moved[members]
        total = shares.sum()
        shares = shares / total if total > 0 else shares
        names = self.view.names
        order = np.argsort(-shares, kind="stable")[:most]
        return [
            (f"x{j}" if names is None else str(names[j]), float(shares[j]))
            for j in order
            if shares[j] > 0
        ]


def network_accuracy(certified: float, attacked: float, n: int) -> Interval:
    """The accuracy of a network between its certified and its attacked one: the interval begins
    below the first and ends above the second.
    """
    low = clopper_pearson(certified, n)[0]
    high = clopper_pearson(attacked, n)[1]
    name = f"Clopper-Pearson around certified and attacked ({attacked:.4f})"
    return Interval(certified, low, high, name)
