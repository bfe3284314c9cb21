"""Packages that an extra of this library installs."""

from __future__ import annotations

from sklearn_robust._documentation import see

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
    ImportError('pgd needs PyTorch: pip install "sklearn-robust[torch]". See ...')
    """
    line = f'pip install "sklearn-robust[{extra}]"'
    return ImportError(f"{name} needs {_PACKAGES[extra]}: {line}. {see('install')}")
