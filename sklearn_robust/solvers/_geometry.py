"""The norm of each of k problems: a batch may hold several geometries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

import numpy as np

from sklearn_robust._array_api import Array, namespace
from sklearn_robust.norms import Norm
from sklearn_robust.problems import RobustProblem
from sklearn_robust.threats import residual


@dataclass(frozen=True)
class Geometry:
    """The norms of k problems, best in the order of `neighbours`: equal ones are computed together.

    Attributes
    ----------
    norms : tuple of k Norm
    """

    norms: tuple[Norm, ...]

    @cached_property
    def groups(self) -> list[tuple[Norm, slice]]:
        """Each run of equal norms, and its rows."""
        groups, start = [], 0
        for norm, run in groupby(self.norms):
            stop = start + len(list(run))
            groups.append((norm, slice(start, stop)))
            start = stop
        return groups

    def select(self, rows: np.ndarray) -> Geometry:
        """The norms of the problems at these indices."""
        return Geometry(tuple(self.norms[i] for i in rows))

    def size(self, coef: Array) -> Array:
        """||w|| of each row: (k, d) -> (k,)."""
        return self._rowwise(lambda norm, rows: norm.value(coef[rows]))

    def subgradient_norm(self, subgradient: Array) -> Array:
        """||v||_* of each row, in the dual norm: (k, d) -> (k,)."""
        return self._rowwise(lambda norm, rows: norm.dual.value(subgradient[rows]))

    def distance(self, problem: RobustProblem, weighted_sum: Array) -> Array:
        """The distance of each row to the threat's set in the dual norm: (k, d) -> (k,)."""
        return self._rowwise(
            lambda norm, rows: norm.dual.value(
                residual(problem.threat, weighted_sum[rows], problem.radius[rows], norm.dual)
            )
        )

    def _rowwise(self, function: Callable[[Norm, slice], Array]) -> Array:
        parts = [function(norm, rows) for norm, rows in self.groups]
        return parts[0] if len(parts) == 1 else namespace(parts[0]).concat(parts, axis=0)


def neighbours(norms: Sequence[Norm]) -> np.ndarray:
    """The order of these norms in which equal ones are neighbours."""
    kinds: list[Norm] = []
    for norm in norms:
        if norm not in kinds:
            kinds.append(norm)
    return np.argsort([kinds.index(norm) for norm in norms], kind="stable")
