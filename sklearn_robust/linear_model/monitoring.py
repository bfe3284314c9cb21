"""The monitor of a linear fit: it passes the solvers' reports to callbacks and console.

A fit has one `FitMonitor` for all its stages. `FitMonitor.stage` and `FitMonitor.solver` are the
contexts in which a stage runs; the second yields the monitors that its solver is given.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from sklearn_robust._array_api import Array, to_numpy
from sklearn_robust.callbacks import FitCallbacks
from sklearn_robust.solvers.solution import Monitor


class FitMonitor:
    """Passes the solvers' reports on the k problems of a fit to its callbacks and the console.

    Callbacks receive them as the attributes of a fitted estimator.

    Parameters
    ----------
    estimator : RobustLinearMixin
    callbacks : FitCallbacks or None
        None for a fit without callbacks.
    coef : ndarray of shape (k, d), or (1, K, d) for several classes
        Coefficients before the first report.
    verbose : int
        0 prints nothing; 1 a line where a stage begins and ends, and the figures of its solver
        each time after twice as many iterations, and at its end; more than 1 those of each
        iteration.

    Attributes
    ----------
    stopped : bool
        Whether a callback has stopped the fit.
    """

    def __init__(
        self,
        estimator: Any,
        callbacks: FitCallbacks | None,
        coef: np.ndarray,
        *,
        verbose: int = 0,
    ) -> None:
        self.estimator = estimator
        self.callbacks = callbacks
        self.stopped = False
        self.verbose = verbose
        k = len(coef)
        self.known = {
            "coef": coef,
            "intercept": np.zeros(coef.shape[:-1], coef.dtype),
            "n_iter": np.zeros(k, dtype=int),
        }
        self.known |= {
            name: np.full(k, np.nan) for name in ("log_risk", "margin", "margin_bound", "gap")
        }

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Print, with verbose > 0, where a stage of the fit begins and ends."""
        if not self.verbose:
            yield
            return
        start = time.perf_counter()
        self.print(f"{name} begins")
        yield
        self.print(f"{name} ends after {time.perf_counter() - start:.2f} s")

    @contextmanager
    def solver(self, name: str, rows: np.ndarray) -> Iterator[list[Monitor]]:
        """The stage of a solver of the problems at these indices; yields its monitors."""
        printers = [_Printer(self, rows)] if self.verbose else []
        with self.stage(name):
            if self.callbacks is None or not self.callbacks.monitored:
                yield [*printers]
            else:
                task = self.callbacks.begin_solver(name)
                yield [*printers, _SolverMonitor(self, self.callbacks, task, rows)]
                self.callbacks.end(task)
            for printer in printers:
                printer.finish()

    def print(self, line: str) -> None:
        """Print a line of this fit."""
        print(f"{type(self.estimator).__name__}: {line}", flush=True)

    def fitted(self) -> dict[str, Any]:
        """The estimator's attributes as if the fit had stopped here."""
        return self.estimator._fitted(**{name: value.copy() for name, value in self.known.items()})


class _Printer:
    """Prints the figures of a solver: with verbose=1 those of ever rarer iterations and of the last
    one, else of all.
    """

    def __init__(self, fit: FitMonitor, rows: np.ndarray) -> None:
        self.fit = fit
        self.rows = rows
        self.every = 0 if fit.verbose == 1 else 1
        self.rarer = 2 if fit.verbose == 1 else 1
        self.printed: dict[int, int] = {}  # the last iteration of each problem
        self.kept: dict[int, str] = {}  # a later line of it, printed if it stays the last

    def __call__(self, iteration: int, ids: np.ndarray, figures: dict[str, Array]) -> bool:
        for i, row in enumerate(self.rows[ids].tolist()):
            last = self.printed.get(row)
            if last == iteration:
                continue
            shown = ", ".join(
                f"{n} {float(v[i]):.6g}"
                for n, v in figures.items()
                if n not in ("coef", "intercept")
            )
            self.kept[row] = f"iteration {iteration}: {shown}"
            if last is None or iteration >= self.rarer * last:
                self.fit.print(self.kept.pop(row))
                self.printed[row] = iteration
        return False

    def finish(self) -> None:
        """Print the last figures where they are not printed yet."""
        for line in self.kept.values():
            self.fit.print(line)


class _SolverMonitor:
    """Shows the figures of a solver to the callbacks."""

    def __init__(
        self, fit: FitMonitor, callbacks: FitCallbacks, task: Any, rows: np.ndarray
    ) -> None:
        self.fit = fit
        self.callbacks = callbacks
        self.task = task
        self.rows = rows
        self.every = callbacks.every

    def __call__(self, iteration: int, ids: np.ndarray, figures: dict[str, Array]) -> bool:
        at = self.rows[ids]
        self.fit.known["n_iter"][at] = iteration
        for name, value in figures.items():
            known = self.fit.known[name]
            known[at] = to_numpy(value).reshape(-1, *known.shape[1:])
        self.fit.stopped |= self.callbacks.report(self.task, self.fit.fitted)
        return self.fit.stopped
