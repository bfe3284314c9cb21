r"""Rows: the data :math:`X` of n samples and d features, behind the products that solvers take.

A solver touches the data through :math:`W X^T` (scores) and :math:`A X` (weighted sums); a
certificate also through the same two with :math:`|X|`, which bound the rounding of the others.
`Rows` asks for these four, so X may be a product that is never formed, or lie in a file.

==================  ===========================================================================
what is offered     what takes it
==================  ===========================================================================
`Rows`              every path, the accelerated method, L-BFGS-B on the risk, all certificates
`GramRows`          Newton's method on the risk as well
`BlockRows`         the same, exact separators, and `RobustLinearClassifier`
                    and its scores: rows and labels that are read a block at a time, as
                    `NpyRows` and `ParquetRows` read files
an array            all exact separators and the fast path as well
==================  ===========================================================================
"""

from sklearn_robust.rows.arrays import (
    ArrayRows,
    DenseRows,
    SparseRows,
    TensorRows,
    as_rows,
    largest_entry,
    mean_square,
    on_columns,
    require_array,
    squared_norm_bound,
)
from sklearn_robust.rows.blocks import BlockRows
from sklearn_robust.rows.files import NpyRows, NpySource, ParquetRows, ParquetSource
from sklearn_robust.rows.protocols import GramRows, Rows
from sklearn_robust.rows.reduction import LocalReduction, Reduction
from sklearn_robust.rows.sources import Block, RowSource, named_blocks
from sklearn_robust.rows.survey import Survey

__all__ = [
    "ArrayRows",
    "Block",
    "BlockRows",
    "DenseRows",
    "GramRows",
    "LocalReduction",
    "NpyRows",
    "NpySource",
    "ParquetRows",
    "ParquetSource",
    "Reduction",
    "RowSource",
    "Rows",
    "SparseRows",
    "Survey",
    "TensorRows",
    "as_rows",
    "largest_entry",
    "mean_square",
    "named_blocks",
    "on_columns",
    "require_array",
    "squared_norm_bound",
]
