"""Rows in files: NumPy's .npy and Parquet, read a block at a time.

A block is read where a product needs it and forgotten afterwards. Files are not mapped into memory:
the pages of a map count as memory of the process.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from sklearn.utils import gen_batches

from sklearn_robust._extras import missing
from sklearn_robust.rows.blocks import BlockRows
from sklearn_robust.rows.sources import Block

FilePath = str | os.PathLike[str]

# entries of X in a block, 8 megabytes in float32: reading them takes much longer than to begin, and
# while a block is read the last one is still in memory
_READ_ENTRIES = 2**21


class NpyRows(BlockRows):
    """Rows, labels and weights in .npy files, as `numpy.save` writes them.

    Parameters
    ----------
    X_path : path
        Numbers of shape (n, d), in the order of C or Fortran. Those that are not float64 are read
        as float32 where float32 holds them exactly, and else as float64.
    y_path : path
        Labels of shape (n,): numbers or texts.
    sample_weight_path : path, optional
        Non-negative numbers of shape (n,).

    Attributes
    ----------
    shape, dtype, n_terms, y, sample_weight, largest
        As of `BlockRows`.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If a file is no .npy file of this shape, is shorter than its header says, holds numbers that
        are not finite, or has changed since the rows were made.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> from sklearn_robust import RobustLinearClassifier
    >>> from sklearn_robust.rows import NpyRows
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((1000, 5)).astype(np.float32)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     X_path, y_path = Path(folder, "X.npy"), Path(folder, "y.npy")
    ...     np.save(X_path, X)
    ...     np.save(y_path, np.where(X[:, 0] + rng.standard_normal(1000) > 0, "up", "down"))
    ...     rows = NpyRows(X_path, y_path)
    ...     model = RobustLinearClassifier(eps=0.1, loss="logistic").fit(rows)
    >>> rows.shape, model.classes_.tolist(), model.separable_
    ((1000, 5), ['down', 'up'], False)
    """

    def __init__(
        self, X_path: FilePath, y_path: FilePath, sample_weight_path: FilePath | None = None
    ) -> None:
        super().__init__(NpySource(X_path, y_path, sample_weight_path))

    def __repr__(self) -> str:
        paths = ", ".join(repr(str(file.path)) for file in self.source.files if file is not None)
        return f"NpyRows({paths})"


@dataclass(frozen=True)
class _NpyFile:
    """An array in a .npy file, of which rows can be read."""

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype
    in_fortran_order: bool
    offset: int  # bytes before the first entry
    stamp: tuple[int, int]

    @classmethod
    def open(cls, path: FilePath, ndim: int) -> _NpyFile:
        """The file, of which the header is read, where it holds an array of so many axes."""
        path = Path(path)
        stamp = _stamp(path)
        with path.open("rb") as file:
            try:
                version = npy.read_magic(file)
                read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
                shape, in_fortran_order, dtype = read(file)
            except ValueError as error:
                raise ValueError(
                    f"{path} must be a .npy file as numpy.save writes it, and its header cannot be "
                    f"read: {error}."
                ) from error
            offset = file.tell()
        if len(shape) != ndim or dtype.hasobject:
            kind = "a table of numbers" if ndim == 2 else "one number or text for each row"
            raise ValueError(
                f"{path} must hold {kind}, got shape {shape} and dtype {dtype}. Save it again in "
                f"{ndim} dimension{'s' if ndim > 1 else ''}, as numbers or texts."
            )
        if stamp[0] < offset + math.prod(shape) * dtype.itemsize:
            raise ValueError(
                f"{path} has {stamp[0]} bytes, fewer than its header says for shape {shape} and "
                f"dtype {dtype}: it was not written to its end."
            )
        return cls(path, shape, dtype, in_fortran_order, offset, stamp)

    def check_unchanged(self) -> None:
        _check_stamp(self.path, self.stamp)

    def read(self, at: slice) -> np.ndarray:
        """The rows from its start to its stop."""
        start, stop = at.start, at.stop
        with self.path.open("rb", buffering=0) as file:
            if not self.in_fortran_order or len(self.shape) == 1:
                width = math.prod(self.shape[1:])
                file.seek(self.offset + start * width * self.dtype.itemsize)
                entries = np.fromfile(file, self.dtype, (stop - start) * width)
                return entries.reshape(stop - start, *self.shape[1:])
            n, d = self.shape
            columns = np.empty((d, stop - start), self.dtype)
            for j in range(d):
                file.seek(self.offset + (j * n + start) * self.dtype.itemsize)
                columns[j] = np.fromfile(file, self.dtype, stop - start)
            return columns.T


@dataclass(frozen=True)
class NpySource:
    """The samples in .npy files as a row source, which opens the files when it is first read.

    A list of sources is what `sklearn_robust.distributed` reads on the workers of a cluster, to
    which the paths must lead; on one machine `NpyRows` takes the same paths.

    Parameters
    ----------
    X_path, y_path : path
    sample_weight_path : path, optional
        As of `NpyRows`.

    Examples
    --------
    >>> from sklearn_robust.rows import NpySource
    >>> parts = [NpySource(f"X{part}.npy", f"y{part}.npy") for part in range(8)]
    >>> parts[0]
    NpySource(X_path='X0.npy', y_path='y0.npy', sample_weight_path=None)
    """

    X_path: FilePath
    y_path: FilePath
    sample_weight_path: FilePath | None = None

    @cached_property
    def files(self) -> tuple[_NpyFile, _NpyFile, _NpyFile | None]:
        """The files of X, labels and weights, of one length; opened once, with their stamps."""
        X, y = _NpyFile.open(self.X_path, 2), _NpyFile.open(self.y_path, 1)
        path = self.sample_weight_path
        weight = None if path is None else _NpyFile.open(path, 1)
        for other in (y, weight):
            if other is not None and other.shape[0] != X.shape[0]:
                raise ValueError(
                    f"{other.path} must have one entry for each of the {X.shape[0]} rows of "
                    f"{X.path}, got {other.shape[0]}."
                )
        return X, y, weight

    def blocks(self) -> Iterator[Block]:
        """The samples, some megabytes at a time."""
        for file in self.files:
            if file is not None:
                file.check_unchanged()
        X, y, weight = self.files
        n, d = X.shape
        length = max(1, _READ_ENTRIES // max(1, d))
        for at in gen_batches(n, length):
            weights = None if weight is None else weight.read(at)
            name = f"{X.path} (rows {at.start} to {at.stop - 1})"
            yield Block(X.read(at), y.read(at), weights, name)


class ParquetRows(BlockRows):
    """Rows in Parquet files: one column of labels, perhaps one of weights, and features.

    It needs pyarrow: ``pip install "sklearn-robust[parquet]"``.

    Parameters
    ----------
    path : path or sequence of paths
        A file, a folder, whose files that end in ".parquet" are read in the order of their names,
        or files in the order given. All have the same columns.
    label : str
        The column of labels: numbers or texts.
    sample_weight : str, optional
        The column of weights. All other columns are features, which are numbers.

    Attributes
    ----------
    shape, dtype, n_terms, y, sample_weight, largest
        As of `BlockRows`.
    feature_names : ndarray of shape (d,)

    Raises
    ------
    ImportError
        If pyarrow is not installed.
    FileNotFoundError
        If there is no such file, or none in the folder.
    ValueError
        If a column is missing or holds no numbers, files have other columns than the first, entries
        are missing or not finite, or a file has changed since the rows were made.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np, pyarrow, pyarrow.parquet
    >>> from sklearn_robust import RobustLinearClassifier
    >>> from sklearn_robust.rows import ParquetRows
    >>> rng = np.random.default_rng(0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for part in range(3):
    ...         height, weight = rng.standard_normal((2, 500))
    ...         tall = np.where(height + rng.standard_normal(500) > 0, "yes", "no")
    ...         table = pyarrow.table({"height": height, "weight": weight, "tall": tall})
    ...         pyarrow.parquet.write_table(table, Path(folder, f"{part}.parquet"))
    ...     rows = ParquetRows(folder, label="tall")
    ...     model = RobustLinearClassifier(eps=0.1, loss="logistic").fit(rows)
    ...     accuracy = model.robust_score(rows)
    >>> rows.shape, model.feature_names_in_.tolist(), model.classes_.tolist()
    ((1500, 2), ['height', 'weight'], ['no', 'yes'])
    """

    def __init__(
        self,
        path: FilePath | Sequence[FilePath],
        *,
        label: str,
        sample_weight: str | None = None,
    ) -> None:
        super().__init__(ParquetSource(path, label, sample_weight))

    def __repr__(self) -> str:
        files = self.source.table.files
        more = f" and {len(files) - 1} more" if len(files) > 1 else ""
        return f"ParquetRows({str(files[0][0])!r}{more}, label={self.source.label!r})"


@dataclass(frozen=True)
class ParquetSource:
    """The samples in Parquet files as a row source, which opens them when it is first read.

    See `NpySource`. It needs pyarrow: ``pip install "sklearn-robust[parquet]"``.

    Parameters
    ----------
    path : path or sequence of paths
    label : str
    sample_weight : str, optional
        As of `ParquetRows`.
    """

    path: FilePath | Sequence[FilePath]
    label: str
    sample_weight: str | None = None

    @cached_property
    def table(self) -> _ParquetTable:
        """The files, whose columns are checked; opened once, with their stamps."""
        return _ParquetTable.of(self.path, self.label, self.sample_weight)

    def blocks(self) -> Iterator[Block]:
        """The samples, some megabytes at a time."""
        return self.table.blocks()


@dataclass(frozen=True)
class _ParquetTable:
    """The blocks of Parquet files, as tables of pyarrow."""

    files: tuple[tuple[Path, tuple[int, int]], ...]  # with their stamps
    label: str
    sample_weight: str | None
    features: tuple[str, ...]

    @classmethod
    def of(
        cls, path: FilePath | Sequence[FilePath], label: str, sample_weight: str | None
    ) -> _ParquetTable:
        """The files, of which the columns are checked."""
        parquet = _pyarrow_parquet()
        paths = _parquet_paths(path)
        files = tuple((each, _stamp(each)) for each in paths)
        schemas = [_read_schema(parquet, each) for each in paths]
        names = schemas[0].names
        for role, name in (("label", label), ("sample_weight", sample_weight)):
            if name is not None and name not in names:
                raise ValueError(
                    f"{role} must name a column of {paths[0]}, got {name!r}. Its columns are "
                    f"{names}."
                )
        for each, schema in zip(paths, schemas, strict=True):
            if not schema.equals(schemas[0]):
                raise ValueError(
                    f"{each} must have the columns and types of {paths[0]}. It has "
                    f"{_columns(schema)}, not {_columns(schemas[0])}."
                )
        features = tuple(name for name in names if name not in (label, sample_weight))
        for name in features:
            kind = schemas[0].field(name).type
            if not _is_number(kind):
                raise ValueError(
                    f"Column {name!r} of {paths[0]} must hold numbers, got {kind}. Encode it as "
                    f"numbers, or write files without it."
                )
        if not features:
            raise ValueError(f"{paths[0]} must have columns of features beside {names}.")
        return cls(files, label, sample_weight, features)

    def blocks(self) -> Iterator[Block]:
        parquet = _pyarrow_parquet()
        for path, stamp in self.files:
            _check_stamp(path, stamp)
        length = max(1, _READ_ENTRIES // len(self.features))
        others = [name for name in (self.label, self.sample_weight) if name is not None]
        for path, _ in self.files:
            stop = 0
            with parquet.ParquetFile(path, pre_buffer=False) as file:
                for batch in file.iter_batches(length, columns=[*self.features, *others]):
                    start, stop = stop, stop + batch.num_rows
                    if stop > start:
                        yield self._block(batch, f"{path} (rows {start} to {stop - 1})")

    def _block(self, batch: Any, name: str) -> Block:
        import pyarrow

        X = pyarrow.Table.from_batches([batch]).select(list(self.features))
        weight = None
        if self.sample_weight is not None:
            weight = batch.column(self.sample_weight).to_numpy(zero_copy_only=False)
        return Block(X, _labels(batch.column(self.label)), weight, name)


def _labels(column: Any) -> np.ndarray:
    """A column of labels, of texts as objects of which equal ones are one."""
    import pyarrow

    kind = column.type
    if _is_number(kind):
        return column.to_numpy(zero_copy_only=False)
    if not pyarrow.types.is_dictionary(kind):
        column = column.dictionary_encode()
    if column.null_count:
        return np.full(len(column), None)
    texts = column.dictionary.to_numpy(zero_copy_only=False)
    return texts[column.indices.to_numpy(zero_copy_only=False)]


def _is_number(kind: Any) -> bool:
    import pyarrow

    is_kind = pyarrow.types
    return is_kind.is_integer(kind) or is_kind.is_floating(kind) or is_kind.is_boolean(kind)


def _columns(schema: Any) -> dict[str, str]:
    return {field.name: str(field.type) for field in schema}


def _parquet_paths(path: FilePath | Sequence[FilePath]) -> list[Path]:
    """The files that a path or a sequence of paths names."""
    if not isinstance(path, str | os.PathLike):
        paths: Iterable[Path] = map(Path, path)
    elif Path(path).is_dir():
        paths = sorted(Path(path).glob("*.parquet"))
    else:
        paths = [Path(path)]
    paths = list(paths)
    if not paths:
        raise FileNotFoundError(f"path must name Parquet files, got {path!r} without any.")
    return paths


def _read_schema(parquet: Any, path: Path) -> Any:
    import pyarrow

    try:
        return parquet.read_schema(path).remove_metadata()
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{path} must be a Parquet file: {error}.") from error


def _pyarrow_parquet() -> Any:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise missing("ParquetRows", "parquet") from error
    return parquet


def _stamp(path: Path) -> tuple[int, int]:
    """Size and time of the last change, by which another content is noticed."""
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def _check_stamp(path: Path, stamp: tuple[int, int]) -> None:
    """Refuse a file that has changed since its stamp was taken."""
    if _stamp(path) != stamp:
        raise ValueError(
            f"{path} has changed since its rows were first read. Make the rows anew for other data."
        )
