"""What callbacks see of a linear fit while its solvers iterate."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from sklearn_robust._array_api import Array, to_numpy
from sklearn_robust.callbacks import FitCallbacks
from sklearn_robust.problems import RobustProblem
from sklearn_robust.solvers._solution import Watch


class FitWatch:
    """Passes what solvers report of the k problems of a fit on to its callbacks, as the attributes of a fitted estimator.

    Parameters
    ----------
    estimator : RobustLinearMixin
    callbacks : FitCallbacks or None
        None where nobody is to look on.
    problem : RobustProblem
        All k of them.

    Attributes
    ----------
    stopped : bool
        Whether a callback has asked to stop.
    """

    def __init__(self, estimator: Any, callbacks: FitCallbacks | None, problem: RobustProblem) -> None:
        k, d, dtype = problem.n_problems, problem.n_features, problem.y.dtype
        self.estimator, self.callbacks, self.stopped = estimator, callbacks, False
        self.known = {"coef": np.zeros((k, d), dtype), "intercept": np.zeros(k, dtype), "n_iter": np.zeros(k, dtype=int)}
        self.known |= {name: np.full(k, np.nan) for name in ("log_risk", "margin", "margin_bound", "gap")}

    @contextmanager
    def solver(self, name: str, rows: np.ndarray) -> Iterator[Watch | None]:
        """The watch of a solver of the problems at these indices; None where nobody looks on."""
        if self.callbacks is None or not self.callbacks.watched:
            yield None
            return
        task = self.callbacks.begin_solver(name)
        yield _SolverWatch(self, self.callbacks, task, rows)
        self.callbacks.end(task)

    def fitted(self) -> dict[str, Any]:
        """The estimator's attributes as if the fit had stopped here."""
        return self.estimator._fitted(**{name: value.copy() for name, value in self.known.items()})


class _SolverWatch:
    def __init__(self, fit: FitWatch, callbacks: FitCallbacks, task: Any, rows: np.ndarray) -> None:
        self.fit, self.callbacks, self.task, self.rows, self.every = fit, callbacks, task, rows, callbacks.every

    def __call__(self, iteration: int, ids: np.ndarray, figures: dict[str, Array]) -> bool:
        at = self.rows[ids]
        self.fit.known["n_iter"][at] = iteration
        for name, value in figures.items():
            self.fit.known[name][at] = to_numpy(value)
        self.fit.stopped |= self.callbacks.report(self.task, self.fit.fitted)
        return self.fit.stopped
