"""Rows that are read a block at a time: data that are never whole in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property, reduce
from typing import Any

import numpy as np

from sklearn_robust._documentation import see
from sklearn_robust.rows.arrays import ArrayRows
from sklearn_robust.rows.reduction import LocalReduction
from sklearn_robust.rows.sources import Block, named_blocks
from sklearn_robust.rows.survey import Survey


class BlockRows:
    r"""The rows of a source, of which one block is in memory at a time.

    The source is read once when the rows are made, for their form and their sums, and again for
    every product that a solver takes. `RobustLinearClassifier` minimises the risk by sums over the
    blocks, without a number for each sample in memory.

    Parameters
    ----------
    source : RowSource
        An object whose method `blocks()` yields (X, y) or (X, y, sample_weight), blocks of samples
        in the same order each time. All X are arrays, or all are scipy.sparse arrays, of the same
        d columns and of one type; those of frames have their columns' names. Integers become
        floating-point numbers.

    Attributes
    ----------
    shape : tuple of int
        (n, d), the numbers of samples and of features.
    dtype : dtype
        float32 or float64.
    n_terms : int
        The most entries of a row.
    survey : Survey
        What the first reading found.
    y : ndarray of shape (n,)
        The labels. They and the weights are read when they are first asked for, and then stay in
        memory.
    sample_weight : ndarray of shape (n,) or None
    feature_names : ndarray of shape (d,) or None
        The names of the columns, where the blocks are frames with names.
    largest : float
        The largest entry in size.

    Raises
    ------
    TypeError
        If the source has no method `blocks`.
    ValueError
        If a block does not fit the ones before it, or has entries, labels or weights that are not
        finite, when the rows are made; if the data have changed, when they are read again.

    See Also
    --------
    NpyRows : Rows in .npy files.
    ParquetRows : Rows in Parquet files.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_robust import RobustLinearClassifier
    >>> from sklearn_robust.rows import BlockRows
    >>> class Simulated:
    ...     def blocks(self):
    ...         for seed in range(10):
    ...             rng = np.random.default_rng(seed)
    ...             X = rng.standard_normal((1000, 5))
    ...             yield X, X[:, 0] + rng.standard_normal(1000) > 0
    >>> rows = BlockRows(Simulated())
    >>> rows.shape
    (10000, 5)
    >>> model = RobustLinearClassifier(eps=0.1, loss="logistic").fit(rows)
    >>> model.separable_, round(model.robust_score(rows), 2)
    (False, 0.72)
    """

    def __init__(self, source: Any) -> None:
        if not callable(getattr(source, "blocks", None)):
            raise TypeError(
                f"source must have a method blocks() that yields (X, y) or (X, y, sample_weight), "
                f"got {type(source).__name__}. An array in memory is passed to fit as it is."
                f" {see('guide/larger_than_memory')}"
            )
        self.source = source
        self.survey: Survey = LocalReduction(source).total(Survey.of)
        self.shape: tuple[int, int] = (self.survey.n, self.survey.n_features)
        self.dtype: Any = self.survey.dtype
        self.n_terms = self.survey.n_terms
        self.feature_names: np.ndarray | None = self.survey.feature_names
        self.largest = self.survey.largest

    @cached_property
    def y(self) -> np.ndarray:
        """The labels, which are read when they are first asked for."""
        return np.concatenate([block.labels for block in self.blocks()])

    @cached_property
    def sample_weight(self) -> np.ndarray | None:
        """The weights, which are read when they are first asked for."""
        if not self.survey.is_weighted:
            return None
        weights = (block.weights for block in self.blocks())
        return np.concatenate([weight for weight in weights if weight is not None])

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.source!r})"

    def blocks(self) -> Iterator[Block]:
        """The blocks of the source that have samples, each with a name."""
        return named_blocks(self.source)

    def selected(self, index: np.ndarray) -> BlockRows:
        """The rows at these places, in blocks too: they are picked out of each block as it is read,
        in the order of all rows.
        """
        return BlockRows(_Selected(self, np.sort(index)))

    def map_blocks(self, function: Callable[[Any], np.ndarray]) -> np.ndarray:
        """The arrays that a function makes of the X of each block, one after the other."""
        return np.concatenate([function(block.X) for block in self.blocks()])

    def average(self, score: Callable[..., float]) -> float:
        """The average of a score of the blocks, by their weights: `score(X, y, sample_weight=)`."""
        total = total_weight = 0.0
        for block in self.blocks():
            weight = block.sample_weight
            share = float(block.X.shape[0] if weight is None else np.sum(weight))
            if share > 0:
                total += share * score(block.X, block.y, sample_weight=weight)
                total_weight += share
        if total_weight == 0:
            raise ValueError(f"sample_weight of {self!r} must not be all zero.")
        return total / total_weight

    def refuse_beside(self, **given: Any) -> None:
        """Refuse labels or weights in an argument, of those that the rows hold themselves."""
        for name, value in given.items():
            if value is not None:
                raise ValueError(
                    f"{name} must be left out where X holds labels and weights, as "
                    f"{type(self).__name__} does, got a {type(value).__name__}."
                )

    # -- the products

    def scores(self, coef: np.ndarray) -> np.ndarray:
        """W X^T."""
        return self._gathered(lambda rows: rows.scores(coef))

    def weighted_sum(self, weights: np.ndarray) -> np.ndarray:
        """A X."""
        return self._summed(lambda at, rows: rows.weighted_sum(weights[:, at]))

    def score_sizes(self, coef: np.ndarray) -> np.ndarray:
        """``|W| |X|^T``."""
        return self._gathered(lambda rows: rows.score_sizes(coef))

    def sum_sizes(self, weights: np.ndarray) -> np.ndarray:
        """``|A| |X|``."""
        return self._summed(lambda at, rows: rows.sum_sizes(weights[:, at]))

    def square_sum(self) -> float:
        """The sum of ||x_i||^2."""
        return self.survey.square_sum

    def mean(self) -> np.ndarray:
        """The mean of the rows; zero for sparse rows, which are not centred."""
        return self.survey.mean

    def take(self, index: np.ndarray) -> np.ndarray:
        """A dense copy of the rows at these places, which ascend."""
        cuts = (
            (at, rows, np.searchsorted(index, [at.start, at.stop]))
            for at, rows in self.row_blocks()
        )
        return np.concatenate([rows.take(index[slice(*cut)] - at.start) for at, rows, cut in cuts])

    def most_gram_columns(self) -> int | None:
        """Any number of dense rows; of sparse ones as many as their entries afford."""
        return self.survey.most_gram_columns

    def scores_on(self, columns: np.ndarray | slice, coef: np.ndarray) -> np.ndarray:
        """X w, for w that is zero but on these columns."""
        return self._gathered(lambda rows: rows.scores_on(columns, coef)[None])[0]

    def weighted_gram(
        self,
        columns: np.ndarray | slice,
        centre: np.ndarray,
        weights: np.ndarray,
        labels: np.ndarray,
        *,
        exact: bool,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The moments, summed over the blocks."""
        f = len(centre)
        gram = np.zeros((f, f))
        by_weight = np.zeros(f)
        by_label = np.zeros(f)
        for at, rows in self.row_blocks():
            part = rows.weighted_gram(columns, centre, weights[at], labels[at], exact=exact)
            gram += part[0]
            by_weight += part[1]
            by_label += part[2]
        return gram, by_weight, by_label

    def _summed(self, product: Callable[[slice, ArrayRows], np.ndarray]) -> np.ndarray:
        """The sum of a product of shape (k, d) of each block."""
        return reduce(np.add, (product(at, rows) for at, rows in self.row_blocks()))

    def _gathered(self, product: Callable[[ArrayRows], np.ndarray]) -> np.ndarray:
        """A product of shape (k, m) of each block, side by side: (k, n)."""
        out: np.ndarray | None = None
        for at, rows in self.row_blocks():
            part = product(rows)
            if out is None:
                out = np.empty((len(part), self.shape[0]), part.dtype)
            out[:, at] = part
        assert out is not None  # there is a block of at least one sample
        return out

    def row_blocks(self) -> Iterator[tuple[slice, ArrayRows]]:
        """The rows of each block, and where they lie, checked against the first reading."""
        n, d = self.shape
        stop = 0
        for block in self.blocks():
            rows = block.rows
            start, stop = stop, stop + rows.shape[0]
            if stop > n or rows.shape[1] != d or rows.dtype != self.dtype:
                raise self._changed(
                    f"{block.name} brings {stop} rows of {rows.shape[1]} features in {rows.dtype}"
                )
            yield slice(start, stop), rows
        if stop != n:
            raise self._changed(f"it ends after {stop} rows")

    def _changed(self, now: str) -> ValueError:
        n, d = self.shape
        return ValueError(
            f"{self!r} has changed: it held {n} rows of {d} features in {self.dtype}, and now "
            f"{now}. The blocks must be the same each time they are read; for other data make "
            f"{type(self).__name__} anew."
        )


class _Selected:
    """A source of some of the rows of another, at places that ascend."""

    def __init__(self, rows: BlockRows, index: np.ndarray) -> None:
        self.rows, self.index = rows, index

    def __repr__(self) -> str:
        return f"{len(self.index)} rows of {self.rows!r}"

    def blocks(self) -> Iterator[Block]:
        """The blocks of the rows, without the others."""
        from sklearn.utils import _safe_indexing  # workers of a cluster spare its memory

        stop = 0
        for block in self.rows.blocks():
            start, stop = stop, stop + block.X.shape[0]
            first, last = np.searchsorted(self.index, [start, stop])
            at = self.index[first:last] - start
            X, y, weight = (
                None if part is None else _safe_indexing(part, at) for part in block[:3]
            )
            yield Block(X, y, weight, block.name)
