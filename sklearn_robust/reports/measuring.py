"""What a report measures of a classifier under one threat; the threat is an l_q ball."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np

from sklearn_robust.attacks.linear import (
    class_scores,
    rival_norms,
    robustly_correct,
    signed_distances,
)
from sklearn_robust.metrics.linear_view import LinearView
from sklearn_robust.reports import figures
from sklearn_robust.reports.intervals import (
    Interval,
    bootstrap,
    clopper_pearson,
    largest_difference,
    mean_of_classes,
    proportion,
)
from sklearn_robust.threats import LpBall


@dataclass(frozen=True)
class LinearMeasurement:
    """A linear classifier on labelled samples, under one ball.

    Attributes
    ----------
    view : LinearView
    y : int array of shape (n,)
        Index of each sample's class.
    weight : ndarray of shape (n,)
    ball : LpBall
    probabilities : callable or None
        From rows to class probabilities, of two classes.
    """

    view: LinearView
    y: np.ndarray
    weight: np.ndarray
    ball: LpBall
    probabilities: Callable[[Any], np.ndarray] | None = None

    @cached_property
    def coef(self) -> np.ndarray:
        """Coefficients of every class, (K, d); of two the first are 0."""
        coef = self.view.coef
        return np.concatenate([np.zeros_like(coef), coef]) if len(coef) == 1 else coef

    @cached_property
    def right(self) -> np.ndarray:
        """Which samples no perturbation leads out of their class."""
        view = self.view
        return robustly_correct(view.X, self.y, view.coef, view.intercept, self.ball)

    @cached_property
    def rival(self) -> np.ndarray:
        """The class with the least robust margin of each sample, (n,)."""
        scores = class_scores(self.view.X, self.view.coef, self.view.intercept)
        norms = rival_norms(self.view.coef, self.ball)[self.y]
        own = np.arange(len(self.y)), self.y
        margins = scores[own][:, None] - scores - self.ball.eps * norms
        margins[own] = math.inf
        return margins.argmin(axis=1)

    @cached_property
    def lowered(self) -> np.ndarray:
        """The scores of two classes in the worst case, (n,)."""
        scores = class_scores(self.view.X, self.view.coef, self.view.intercept)[:, 1]
        cost = self.ball.eps * float(rival_norms(self.view.coef, self.ball)[0, 1])
        return np.where(self.y == 1, scores - cost, scores + cost)

    @cached_property
    def moves(self) -> np.ndarray:
        """The perturbation of each sample against its rival, (n, d)."""
        return -self.ball.worst(self.coef[self.y] - self.coef[self.rival])

    def confusion(self, members: np.ndarray) -> list[list[float]]:
        """Weights by true class and class under attack: the own class where no perturbation leads
        out of it, else the rival.
        """
        K = len(self.view.classes)
        matrix = np.zeros((K, K))
        under = np.where(self.right, self.y, self.rival)
        np.add.at(matrix, (self.y[members], under[members]), self.weight[members])
        return matrix.tolist()

    def figures(self, members: np.ndarray) -> dict[str, Interval]:
        """Each figure of some samples, with its interval."""
        y, right = self.y[members], self.right[members]
        weight = self.weight[members]
        alike = bool(np.all(weight == weight[0]))
        found = {
            "robust accuracy": proportion(right)
            if alike
            else bootstrap(partial(figures.share, right), y, weight),
            "balanced robust accuracy": mean_of_classes(right, y)
            if alike
            else bootstrap(partial(figures.balanced_accuracy, right, y), y, weight),
        }
        if len(self.view.classes) > 2 or len(np.unique(y)) < 2:
            return found
        lowered, positive = self.lowered[members], y == 1
        area = bootstrap(partial(figures.area_under_curve, lowered, positive), y, weight)
        found["AUC"] = area
        low, high = 2 * area.low - 1, 2 * area.high - 1
        found["Gini"] = Interval(2 * area.value - 1, low, high, area.name)
        largest = partial(figures.kolmogorov_smirnov, lowered, positive)
        value = float(largest(weight))
        found["KS"] = largest_difference(value, y) if alike else bootstrap(largest, y, weight)
        if self.probabilities is not None:
            miss, log_loss = self._losses
            for name, loss in (("Brier score", miss**2), ("log loss", log_loss)):
                found[name] = bootstrap(partial(figures.mean, loss[members]), y, weight)
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

    def radii(self, members: np.ndarray) -> dict[str, str]:
        """The least radii at which a tenth and half of the samples are misclassified, as text."""
        view = self.view
        distances = signed_distances(
            view.X, self.y, view.coef, view.intercept, self.ball.q, self.ball.scale
        )[members]
        distances = np.maximum(distances, 0.0)
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
    low = clopper_pearson(round(certified * n), n)[0]
    high = clopper_pearson(round(attacked * n), n)[1]
    name = f"Clopper-Pearson around certified and attacked ({attacked:.4f})"
    return Interval(certified, low, high, name)
