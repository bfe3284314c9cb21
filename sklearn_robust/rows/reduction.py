"""Sums over blocks of rows: all that a method needs to know of data that nobody has whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any, Protocol, Self, TypeVar

from sklearn_robust.rows.sources import Block, RowSource, named_blocks


class Summand(Protocol):
    """What can be added, in any order and grouping up to rounding: a number, an array, a record."""

    def __add__(self, other: Any) -> Self: ...


S = TypeVar("S", bound=Summand)


class Reduction(Protocol):
    """Blocks of rows, of which only sums become known."""

    def total(self, function: Callable[[Block], S]) -> S:
        """f(block 1) + f(block 2) + ... over the blocks that have samples.

        Parameters
        ----------
        function : callable
            It takes a `Block`, without side effects: it may be computed on another machine, and
            again where that is lost. It can be pickled, as a frozen dataclass with a method
            `__call__` can.
        """
        ...


@dataclass(frozen=True)
class LocalReduction:
    """The blocks of a source on this machine, of which one at a time is in memory."""

    source: RowSource

    def total(self, function: Callable[[Block], S]) -> S:
        """The sum of a function of each block, in their order."""
        parts = map(function, named_blocks(self.source))
        first = next(parts, None)
        if first is None:
            raise ValueError(f"{self.source!r} must hold at least one sample.")
        return reduce(add, parts, first)
