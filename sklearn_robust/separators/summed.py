"""The exact separator of two classes that are known by sums: a place holder."""

from __future__ import annotations

import numpy as np

from sklearn_robust.certificates import Certified
from sklearn_robust.norms import LpNorm
from sklearn_robust.separators._engine_choice import DEFAULT_TOL
from sklearn_robust.summed import SummedProblem


def separate_summed(
    problem: SummedProblem,
    norm: LpNorm,
    tol: float = DEFAULT_TOL,
    start: tuple[np.ndarray, float] | None = None,
) -> Certified:
    """The exact separator."""
    raise RuntimeError("place holder")
