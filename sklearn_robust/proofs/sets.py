r"""The sets of samples as a certificate writes them: l_q balls, boxes and budgets.

Sample i of class j moves by :math:`\delta` with :math:`\|\delta / b_i\|_q \le 1`, where
:math:`b_i = \epsilon_j r_i u` has a bound for what a feature can gain and one for what it can lose,
each cut off where limits ask for it. For a number q the norm is :math:`\max(\|x\|_\infty, \|x\|_1 /
q)`: at most q features change.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from sklearn_robust.proofs.certificate import CertificateError
from sklearn_robust.threats import Box, FeatureBudget, LpBall, Nothing, is_by_class, of_class

_NAMES = {1.0: "1", 2.0: "2", math.inf: "inf"}


@dataclass(frozen=True)
class SampleSets:
    """The sets of n samples of K classes.

    Attributes
    ----------
    q : str or int
        "1", "2", "inf", or the number of features that change at most.
    eps : ndarray of shape (K,)
    sides : list of ndarray of shape (d,)
        What a feature can gain and lose, >= 0, and with limits the largest and the smallest value
        of the data.
    radius : ndarray of shape (n,)
        The factor on the set of each sample.
    """

    q: Any
    eps: np.ndarray
    sides: list[np.ndarray]
    radius: np.ndarray

    @classmethod
    def of(
        cls, threat: Any, X: np.ndarray, classes: np.ndarray, sample_radius: Any = None
    ) -> SampleSets:
        """Those of a threat that is bound to the d features.

        Parameters
        ----------
        threat : Threat
        X : ndarray of shape (n, d)
        classes : array of shape (K,)
            The labels that a threat by class names.
        sample_radius : array of shape (n,), optional

        Returns
        -------
        SampleSets

        Raises
        ------
        CertificateError
            If the set is of another kind, or differs in shape from class to class.
        """
        sets = [of_class(threat, label) if is_by_class(threat) else threat for label in classes]
        found = [_parts(one, X, alike=sample_radius is None) for one in sets]
        eps = np.array([0.0 if one is None else one[1] for one in found])
        shapes = [one for one in found if one is not None] or [
            ("inf", 0.0, [np.zeros(X.shape[1])] * 2)
        ]
        q, _, sides = shapes[0]
        for other in shapes[1:]:
            alike = other[0] == q and len(other[2]) == len(sides)
            if not (alike and all(map(np.array_equal, sides, other[2]))):
                raise _refusal(threat, "sets of classes that differ by more than a factor")
        radius = np.ones(len(X)) if sample_radius is None else np.asarray(sample_radius, float)
        return cls(q, eps, sides, radius)

    @property
    def has_limits(self) -> bool:
        """Whether the data have limits."""
        return len(self.sides) > 2

    @property
    def fixed(self) -> np.ndarray:
        """The indices of the features that no sample can move."""
        return np.flatnonzero(
            (self.sides[0] + self.sides[1] == 0) | (not (self.eps.any() and self.radius.any()))
        )


def _parts(threat: Any, X: np.ndarray, *, alike: bool) -> Any:
    """q, eps and sides of one set; None of the set {0}."""
    d = X.shape[1]
    if isinstance(threat, Nothing) or (isinstance(threat, LpBall) and threat.eps == 0):
        return None
    if isinstance(threat, LpBall) and threat.q in _NAMES:
        if threat.clip is not None and threat.q != math.inf:
            raise _refusal(threat, "limits of balls other than q=inf")
        scale = np.ones(d) if threat.scale is None else _numbers(threat.scale, d)
        return _NAMES[threat.q], float(threat.eps), [scale, scale, *_limits(threat.clip, d)]
    if isinstance(threat, Box):
        sides = [_numbers(threat.upper, d), 0.0 - _numbers(threat.lower, d)]
        if not np.isfinite(sides).all():
            raise _refusal(threat, "bounds that are infinite")
        return "inf", 1.0, [*sides, *_limits(threat.clip, d)]
    if isinstance(threat, FeatureBudget):
        eps = _numbers(threat.eps, d)
        number = max(int(threat.n_features), 1)
        factor = 1.0 if threat.n_features else 0.0
        if not threat.binary:
            return number, factor, [eps, eps]
        if not alike:
            raise _refusal(threat, "flips with sample_radius")
        able = (eps > 0).astype(np.float64)
        # where a feature does not flip any value is within its limits
        high = np.where(able, 1.0, X.max(axis=0))
        return number, factor, [able, able, high, np.where(able, 0.0, X.min(axis=0))]
    raise _refusal(threat, f"q={threat.q:g}" if isinstance(threat, LpBall) else "this set")


def _numbers(values: Any, d: int) -> np.ndarray:
    return np.broadcast_to(np.asarray(values, dtype=np.float64), (d,))


def _limits(clip: Any, d: int) -> list[np.ndarray]:
    """The largest and the smallest values of the data, if they have limits."""
    return [] if clip is None else [_numbers(end, d) for end in reversed(clip)]


def _refusal(threat: Any, what: str) -> CertificateError:
    name = repr(threat) if isinstance(threat, LpBall) else type(threat).__name__
    return CertificateError(
        f"A certificate is about balls of q in {{1, 2, inf}}, boxes and budgets of features, for "
        f"each class at a radius of its own, got threat={name}: {what} cannot be written. "
        "Certify against a set of these that holds yours."
    )
