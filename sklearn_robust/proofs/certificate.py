"""A certificate as an object and as a file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from sklearn_robust.check import Proof
from sklearn_robust.proofs.data import LabelledData

# what a claim says between its two figures
_MEANING = {
    "margin": "largest robust margin",
    "log_risk": "least log of the robust risk",
    "factor": "largest multiple of the sets",
    "accuracy": "robust accuracy",
}


class CertificateError(ValueError):
    """The answer cannot be written as a certificate: the message says why, and what to do."""


@dataclass(frozen=True)
class Certificate:
    """A claim about data and a threat, with the numbers that prove it in exact arithmetic.

    `separator.certificate`, `estimator.certificate_` and `robust_accuracy_certificate` make one;
    `python -m sklearn_robust.check certificate.json data.csv` decides whether it is true.

    Attributes
    ----------
    content : dict
        What the file holds; docs/guide/proofs.md describes it. Numbers are hexadecimal texts.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_robust.separators import min_norm_separator
    >>> X, y = np.array([[3.0, 1.0], [-3.0, 1.0]]), np.array([1, -1])
    >>> certificate = min_norm_separator(X, y, p=2, q=np.inf, eps=1.0).certificate
    >>> certificate
    Certificate(2 <= largest robust margin <= 2)
    >>> certificate.check(X, y)
    'VALID 2.0 <= margin <= 2.0'
    """

    content: dict[str, Any]

    @property
    def kind(self) -> str:
        """What is claimed: "margin", "log_risk", "factor" or "accuracy"."""
        return str(self.content["claim"]["kind"])

    @property
    def lower(self) -> float:
        """The lower figure of the claim."""
        return float.fromhex(self.content["claim"]["lower"])

    @property
    def upper(self) -> float:
        """The upper figure of the claim."""
        return float.fromhex(self.content["claim"]["upper"])

    def __repr__(self) -> str:
        if self.kind == "margin" and self.upper <= 0:
            return "Certificate(no predictor separates robustly)"
        return f"Certificate({self.lower:.10g} <= {_MEANING[self.kind]} <= {self.upper:.10g})"

    def check(self, X: Any, y: Any) -> str:
        """Decide whether the certificate is true of these data, by `sklearn_robust.check`.

        Parameters
        ----------
        X : array-like or sparse array of shape (n_samples, n_features)
        y : array-like of shape (n_samples,)

        Returns
        -------
        str
            VALID and the claim.

        Raises
        ------
        CertificateError
            INVALID, with the first line that fails.
        """
        data = LabelledData.of(X, y)
        valid, line = Proof().check(self.content, data.rows, data.labels)
        if not valid:
            raise CertificateError(line)
        return line

    def to_json(self) -> str:
        """The certificate as JSON.

        Returns
        -------
        str
            The same bytes for the same certificate.
        """
        return json.dumps(self.content, indent=1) + "\n"

    def save(self, path: str | PathLike[str]) -> None:
        """Write the certificate as JSON.

        Parameters
        ----------
        path : str or path-like
        """
        Path(path).write_text(self.to_json(), encoding="utf-8")

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Certificate:
        """Read a certificate from JSON; only `check` tells whether it is true.

        Parameters
        ----------
        path : str or path-like

        Returns
        -------
        Certificate
        """
        return cls(json.loads(Path(path).read_text(encoding="utf-8")))
