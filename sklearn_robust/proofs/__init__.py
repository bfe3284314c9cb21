"""Certificates that anyone can check: a claim about data, with the numbers that prove it.

`certificates` judges predictors and weights in floating point, with its rounding charged. Here the
same proofs become files that hold in exact arithmetic: weights are integers over a power of two
that balance the classes exactly, perturbations integers that lie exactly in the threat's balls, and
claims are rounded outwards. `sklearn_robust.check`, one file on Python's standard library, decides
whether such a file is true.
"""

from sklearn_robust.proofs.certificate import Certificate, CertificateError
from sklearn_robust.proofs.data import LabelledData, in_memory
from sklearn_robust.proofs.making import (
    Claim,
    certify_accuracy,
    certify_factor,
    certify_margin,
    certify_non_separability,
    certify_risk,
)

__all__ = [
    "Certificate",
    "CertificateError",
    "Claim",
    "LabelledData",
    "certify_accuracy",
    "certify_factor",
    "certify_margin",
    "certify_non_separability",
    "certify_risk",
    "in_memory",
]
