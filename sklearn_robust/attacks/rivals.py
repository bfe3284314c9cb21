r"""What a threat takes from the lead of a class over its rivals, for linear scores.

The scores are :math:`f_k(x) = \langle w_k, x \rangle + b_k`. Against the rival k a sample of class
y loses

.. math:: \sigma(w_k - w_y) = \max_{\delta \in U} \langle w_k - w_y, \delta \rangle

of its lead :math:`f_y - f_k`, where U may differ from class to class and from sample to sample.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from scipy import sparse

from sklearn_robust.threats import (
    Box,
    Intersection,
    LpBall,
    Threat,
    at,
    is_by_class,
    is_per_sample,
    of_class,
    radius_of,
    reaches,
    support,
    supports,
    times,
    without_limits,
)

_BLOCK_ENTRIES = 2**17  # entries of sets of samples that exist at a time, in the processor's cache
_SHARED = 2**14  # entries of samples from which one direction is cheaper than one for each sample
_FARTHEST = 60  # logarithm to base 2 of the bounds that cut off a ray, at most
_LARGEST_FACTOR = 1e12  # the largest factor on a set that is looked for
_GROWTH = 1000.0  # from one factor to the next, until the set is large enough


class Rivals:
    """What the threat takes from each sample's lead over each class.

    Parameters
    ----------
    coef : array of shape (K, d), or (1, d) for two classes
        Coefficients in the space of the threat.
    threat : Threat
        Bound to the d features.
    classes : sequence of K labels, optional
        Their places by default.
    points : array or sparse array of shape (n, d), optional
        The samples in the space of the threat, for a threat that depends on them; NaN where no
        perturbation changes an entry.
    sample_radius : array of shape (n,), optional
        The factor on the set of each sample.
    missing : bool array of shape (n, d), optional
        Entries that no perturbation changes.
    """

    def __init__(
        self,
        coef: np.ndarray,
        threat: Threat,
        classes: Sequence[Any] | None = None,
        points: Any = None,
        sample_radius: np.ndarray | None = None,
        missing: np.ndarray | None = None,
    ) -> None:
        self.coef = class_coef(coef)
        n_classes = len(self.coef)
        if is_by_class(threat):
            labels = range(n_classes) if classes is None else classes
            self.units = [of_class(threat, label) for label in labels]
            # factors on the radii of the classes; 0 for a class that does not attack
            self.radii = np.array([float(radius_of(one) > 0) for one in self.units])
        else:
            self.radii = np.full(n_classes, radius_of(threat))
            self.units = [_unit(threat)] * n_classes
        self.per_sample = is_per_sample(threat)
        self.points = points.tocsr() if sparse.issparse(points) else points
        self.sample_radius = sample_radius
        self.patterns, self.pattern = None, None
        if missing is not None and not self.per_sample:
            self.patterns, self.pattern = np.unique(missing, axis=0, return_inverse=True)

    def radius(self, rows: slice, y: np.ndarray) -> np.ndarray:
        """The radius of each sample's set, (m,)."""
        radii = self.radii[y]
        return radii if self.sample_radius is None else radii * self.sample_radius[rows]

    @cached_property
    def outer(self) -> Rivals | None:
        """The same of sets that hold those of the samples and do not depend on them: without
        limits. None where there are no such sets.
        """
        if not self.per_sample:
            return None
        owners = self._first_class.tolist()
        wider = {k: self.units[k] for k in set(owners)}
        for k, unit in wider.items():
            if isinstance(unit, LpBall | Box):
                wider[k] = without_limits(unit, self.points)
        if any(is_per_sample(one) for one in wider.values()):
            return None
        found = copy.copy(self)
        found.units, found.per_sample = [wider[k] for k in owners], False
        return found

    def taken(
        self, rows: slice, y: np.ndarray, radius: np.ndarray, *, back: bool = False
    ) -> np.ndarray:
        """What the sets of these radii (m,) take from the leads of class y, (m, K); `back` what
        they can add to them.
        """
        if not self.per_sample:
            return times(radius[:, None], self.unit_taken(rows, y, back=back))
        taken = np.zeros((len(y), len(self.coef)))
        for part, c in self._parts(y):
            sets = at(self.units[c], self._points(rows, part), radius[part])
            others = np.arange(len(self.coef)) != c % len(self.coef)
            directions = (self.coef[others] - self.coef[c]) * (-1 if back else 1)
            taken[np.ix_(part, others)] = supports(sets, directions)
        return taken

    def lost(
        self, rows: slice, y: np.ndarray, radius: np.ndarray, leads: np.ndarray, asked: np.ndarray
    ) -> np.ndarray:
        """Which of the pairs of a sample and a rival that are asked for the adversary turns,
        (m, K): its set takes the lead (m, K), or more. For sets that depend on the sample.
        """
        lost = np.zeros(asked.shape, dtype=bool)
        samples, others = np.nonzero(asked)
        n_classes, d = self.coef.shape
        pair = y[samples] * n_classes + others
        alone = np.bincount(pair, minlength=n_classes**2) * d >= _SHARED
        for one in np.flatnonzero(alone):
            c, k = divmod(int(one), n_classes)
            v, of_pair = self.coef[k] - self.coef[c], np.flatnonzero(pair == one)
            for block in slices(len(of_pair), max(1, _BLOCK_ENTRIES // d)):
                i = samples[of_pair[block]]
                sets = at(self.units[c], self._points(rows, i), _one_or_all(radius[i]))
                lost[i, k] = reaches(sets, v, leads[i, k])
        rest = np.flatnonzero(~alone[pair])
        owners = self._first_class[y[samples[rest]]]
        for unit in np.unique(owners):
            of_unit = rest[owners == unit]
            for block in slices(len(of_unit), max(1, _BLOCK_ENTRIES // d)):
                i, k = samples[of_unit[block]], others[of_unit[block]]
                sets = at(self.units[unit], self._points(rows, i), _one_or_all(radius[i]))
                met, which = np.unique(pair[of_unit[block]], return_inverse=True)
                v = self.coef[met % n_classes] - self.coef[met // n_classes]
                lost[i, k] = reaches(sets, v, leads[i, k], which)
        return lost

    @cached_property
    def _first_class(self) -> np.ndarray:
        """The first class that has the set of each class, (K,)."""
        first = {id(one): k for k, one in reversed(list(enumerate(self.units)))}
        return np.array([first[id(one)] for one in self.units])

    def unit_taken(self, rows: slice, y: np.ndarray, *, back: bool = False) -> np.ndarray:
        """The same for radius 1, where the sets do not depend on the sample."""
        norms = self._back if back else self.norms
        return norms[y] if self.pattern is None else norms[self.pattern[rows], y]

    def worst(self, rows: slice, y: np.ndarray, rival: np.ndarray, leads: np.ndarray) -> np.ndarray:
        """The perturbations that take most from the leads (m,) over these rivals, (m, d); where
        there is no bound, those that turn the lead into twice its negative.
        """
        moves = np.zeros((len(y), self.coef.shape[1]))
        radius = self.radius(rows, y)
        for part, c in self._parts(y):
            points = self._points(rows, part)
            for k in np.unique(rival[part]):
                those = part[rival[part] == k]
                v = self.coef[k] - self.coef[c]
                of_those = points[rival[part] == k]
                sets = at(self.units[c], of_those, radius[those])
                worst = sets.worst(v)
                if not np.isfinite(worst).all():
                    needed = 3 * np.abs(leads[those]) + 1
                    worst = _cut_off(self.units[c], of_those, radius[those], v, needed)
                moves[those] = worst
        return moves

    def _parts(self, y: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
        """The samples of each class, some of them at a time, and the class."""
        for c in np.unique(y):
            members = np.flatnonzero(y == c)
            for block in slices(len(members), max(1, _BLOCK_ENTRIES // self.coef.shape[1])):
                yield members[block], int(c)

    def _points(self, rows: slice, part: np.ndarray) -> Any:
        """The samples in the space of the threat; nothing but their number where it is enough."""
        if self.points is None:
            return np.empty((len(part), 0))
        return self.points[rows.start + part]

    @cached_property
    def norms(self) -> np.ndarray:
        """What a set for all samples takes at radius 1 from class c over rival k, (K, K)."""
        return self._support_of_pairs(1.0)

    @cached_property
    def _back(self) -> np.ndarray:
        symmetric = all(one.symmetric for one in self.units)
        return self.norms if symmetric else self._support_of_pairs(-1.0)

    def _support_of_pairs(self, sign: float) -> np.ndarray:
        """sigma(w_k - w_c) of each pair (c, k), or of its negative: (K, K), or (m, K, K) for m
        patterns of entries that do not move.
        """
        if self.patterns is None:
            return self._pairs(self.coef, sign)
        return np.stack([self._pairs(np.where(one, 0, self.coef), sign) for one in self.patterns])

    def _pairs(self, coef: np.ndarray, sign: float) -> np.ndarray:
        return np.stack(
            [support(one, sign * (coef - w)) for one, w in zip(self.units, coef, strict=True)]
        )


def slices(n: int, size: int) -> Iterator[slice]:
    """The places of n samples, so many at a time."""
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))


def _one_or_all(radius: np.ndarray) -> Any:
    """The radius of all samples, or those of each."""
    return float(radius[0]) if (radius == radius[0]).all() else radius


def _unit(threat: Any) -> Any:
    """The set of which the radius is a factor: of an l_q ball, that of radius 1."""
    return replace(threat, eps=1.0) if isinstance(threat, LpBall) else threat


def class_coef(coef: np.ndarray) -> np.ndarray:
    """Coefficients of shape (K, d), for two classes too."""
    return np.concatenate([np.zeros_like(coef), coef]) if len(coef) == 1 else coef


def _cut_off(
    threat: Any, points: Any, radius: np.ndarray, v: np.ndarray, needed: np.ndarray
) -> np.ndarray:
    """Points of sets without bound, as far along their rays as takes what is needed, (m,)."""
    for far in 2.0 ** np.arange(0, _FARTHEST, 4):
        bounds = np.full(len(v), far)
        sets = at(Intersection([threat, Box(-bounds, bounds)]), points, radius)
        if (support(sets, v) >= needed).all():
            break
    found: np.ndarray = np.broadcast_to(sets.worst(v), (len(needed), len(v)))
    return found


def least_broken(broken: Callable[[np.ndarray], np.ndarray], n: int) -> np.ndarray:
    """The least number r >= 0 of each of n samples at which `broken` holds; inf where it does not
    hold at 1e12.

    Parameters
    ----------
    broken : callable
        From numbers (n,) to bool (n,); once it holds, it holds for larger numbers.
    n : int

    Notes
    -----
    Numbers >= 0 are ordered as their bits are: bisections of these end at the number itself.
    """
    low, high = np.zeros(n, dtype=np.int64), np.ones(n).view(np.int64)
    beyond = ~broken(high.view(np.float64))
    # vast sets come last: programs of them lose the limits
    while beyond.any() and (high.view(np.float64)[beyond] < _LARGEST_FACTOR).all():
        further = np.minimum(_GROWTH * high.view(np.float64), _LARGEST_FACTOR).view(np.int64)
        low, high = np.where(beyond, high + 1, low), np.where(beyond, further, high)
        beyond &= ~broken(high.view(np.float64))
    low = np.where(beyond, high, low)
    while (low < high).any():  # 64 times at most
        middle = low + (high - low) // 2
        holds = broken(middle.view(np.float64))
        low, high = np.where(holds | (low == high), low, middle + 1), np.where(holds, middle, high)
    return np.where(beyond, math.inf, high.view(np.float64))
