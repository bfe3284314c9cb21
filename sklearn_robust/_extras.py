"""Packages that an extra of this library installs."""

from __future__ import annotations

_PACKAGES = {
    "dask": "dask and distributed",
    "interop": "skl2onnx and onnx",
    "parquet": "pyarrow",
    "table": "pandas",
    "torch": "PyTorch",
}


def missing(name: str, extra: str) -> ImportError:
    """The error where what an extra installs is missing: it says what needs it, and the remedy.

    Parameters
    ----------
    name : str
        What was used.
    extra : {"dask", "interop", "parquet", "table", "torch"}

    Returns
    -------
    ImportError

    Examples
    --------
    >>> from sklearn_robust._extras import missing
    >>> missing("pgd", "torch")
    ImportError('pgd needs PyTorch: pip install "sklearn-robust[torch]".')
    """
    return ImportError(f'{name} needs {_PACKAGES[extra]}: pip install "sklearn-robust[{extra}]".')
