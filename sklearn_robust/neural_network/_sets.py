r"""The sets of perturbations that networks serve, as attacks and certificates take them.

.. math:: \|\delta / s\|_q \le \epsilon_y, \qquad l \le \delta \le u, \qquad \text{low} \le x +
   \delta \le \text{high}:

an l_q ball of a radius for each class, cut by bounds of the perturbation and by limits of the data.
A box is such a set, with q = inf and the larger of its two bounds as the scale of a feature.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sklearn_robust._documentation import see
from sklearn_robust.threats import Box, LpBall, Nothing, is_by_class, of_class


@dataclass(frozen=True)
class CutBalls:
    """The sets of the samples of each class.

    Attributes
    ----------
    q : float
    radii : ndarray of shape (n_classes,)
    scale : ndarray of shape (d,) or None
    bounds : pair of ndarrays (d,) or None
        l <= 0 and u >= 0.
    clip : pair of numbers or ndarrays (d,), or None
    """

    q: float
    radii: np.ndarray
    scale: np.ndarray | None = None
    bounds: tuple[np.ndarray, np.ndarray] | None = None
    clip: Any = None

    @classmethod
    def of(cls, threat: Any, classes: Sequence[Any]) -> CutBalls:
        """Those of a threat that is bound to the features.

        Raises
        ------
        ValueError
            If it is no l_q ball and no box, of some classes or of all.
        """
        by_class = is_by_class(threat)
        sets = [of_class(threat, label) if by_class else threat for label in classes]
        found = [None if isinstance(one, Nothing) else _cut_ball(one, threat) for one in sets]
        known = [one for one in found if one is not None]
        if not known:
            return cls(math.inf, np.zeros(len(classes)))
        radii = [0.0 if one is None else float(one.radii[0]) for one in found]
        return replace(known[0], radii=np.array(radii))

    def of_samples(self, inputs: np.ndarray, index: np.ndarray) -> dict[str, Any]:
        """eps, q, clip and scale of samples (n, ...) with classes (n,), as attacks take them."""
        same = bool((self.radii == self.radii[0]).all())
        eps = float(self.radii[0]) if same else self.radii[index]
        limits = self._limits(inputs.reshape(len(inputs), -1))
        if limits is not None:
            shapes = {1: inputs.shape[1:], 2: inputs.shape}
            limits = tuple(
                np.reshape(end, shapes[np.ndim(end)]) if np.ndim(end) else end for end in limits
            )
        return {"eps": eps, "q": self.q, "clip": limits, "scale": self.scale}

    def _limits(self, rows: np.ndarray) -> Any:
        """The box of the perturbed samples; where the perturbation has bounds, one for each."""
        if self.bounds is None:
            return self.clip
        ends = []
        for side, bound, inward in zip((0, 1), self.bounds, (np.inf, -np.inf), strict=True):
            end = (rows + bound).astype(rows.dtype)
            # rounded towards the sample, as all perturbations are
            beyond = np.abs(end.astype(np.float64) - rows) > np.abs(bound)
            end = np.where(beyond, np.nextafter(end, rows.dtype.type(inward)), end)
            if self.clip is not None:
                end = (np.maximum, np.minimum)[side](end, self.clip[side])
            ends.append(end.astype(rows.dtype))
        return tuple(ends)

    def times(self, factor: float) -> CutBalls:
        """The sets times a factor; limits of the data stay."""
        bounds = self.bounds
        if bounds is not None:
            bounds = factor * bounds[0], factor * bounds[1]
        return replace(self, radii=factor * self.radii, bounds=bounds)

    def of_any_factor(self) -> CutBalls:
        """Balls without a radius, whose bounds are those that no factor moves.

        Raises
        ------
        ValueError
            If a feature moves further in one direction than in the other, and in both.
        """
        if self.bounds is None:
            return self
        lower, upper = self.bounds
        if ((lower < 0) & (upper > 0) & (lower != -upper)).any():
            raise ValueError(
                "certified_radius of a network is for sets that reach alike in both directions of "
                "a feature, or in one: give q, the exponent of an l_q ball, or use certified_score."
            )
        ends = np.where(lower == 0, 0.0, -np.inf), np.where(upper == 0, 0.0, np.inf)
        return replace(self, bounds=ends)

    def reach(self, n_features: int) -> Any:
        """The size of each feature's part in a perturbation of the ball that moves all alike."""
        scale = 1.0 if self.scale is None else self.scale
        return float(self.radii.max()) * n_features ** (-1 / self.q) * scale


def _cut_ball(one: Any, threat: Any) -> CutBalls:
    """The set of one class."""
    if isinstance(one, LpBall):
        return CutBalls(one.q, np.array([one.eps]), one.scale, None, one.clip)
    if not isinstance(one, Box):
        raise ValueError(
            f"Networks serve l_q balls and boxes, with limits and of some classes, got "
            f"threat={threat!r}: use LpBall or Box, or a linear classifier for other sets."
            f" {see('guide/networks')}"
        )
    lower, upper = (np.asarray(end, dtype=np.float64) for end in (one.lower, one.upper))
    scale = np.maximum(-lower, upper)
    if np.isinf(scale).any():
        width = math.inf if one.clip is None else np.subtract(one.clip[1], one.clip[0])
        scale = np.where(np.isinf(scale), width, scale)
        if np.isinf(scale).any():
            raise ValueError(
                f"Networks serve boxes of finite bounds, got threat={threat!r}: give the range of "
                f"the features as clip of the Box."
            )
        lower, upper = np.maximum(lower, -scale), np.minimum(upper, scale)
    bounds = None if (lower == -upper).all() else (lower, upper)
    return CutBalls(math.inf, np.array([1.0]), scale, bounds, one.clip)
